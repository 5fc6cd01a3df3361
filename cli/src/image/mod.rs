//! The image of a machine's memory, looked at without being read.
//!
//! ```text
//!  file      | header | piece         | piece   |
//!                 \        \               \
//!  memory          . . [ window: pieces that touch ] . . . [ window ] . .
//! ```
//!
//! A *piece* is a stretch of the file that is a stretch of physical memory. Pieces that touch in
//! memory form a *window*, one stretch of this process's addresses, so that a table across their
//! border is one slice. A page of the file comes into this process when it is looked at.
//!
//! Frames that the file has in part only are not memory here, nor is what a core only declares:
//! dumps that filter pages out declare them so.

mod elf;
mod window;

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, bail, ensure};
use heirloom::arena::{Arena, ArenaRange};
use heirloom_folio::{PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom_restore::Entry;
use rustix::fs::{FileType, SeekFrom};

use window::Window;

const PAGE: u64 = PAGE_SIZE as u64;

/// A stretch of a file that is a stretch of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    /// Its physical address.
    start: u64,
    bytes: u64,
    /// Where it is in the file.
    offset: u64,
}

impl Piece {
    /// The address behind it. Whoever makes a piece sees that there is one.
    const fn end(self) -> u64 {
        self.start + self.bytes
    }
}

/// The format of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// An ELF core.
    Elf,
    /// Nothing but memory.
    Raw,
    /// The file of an arena: a page that says what follows, then memory.
    Arena,
}

impl Format {
    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Elf => "ELF core",
            Self::Raw => "raw memory",
            Self::Arena => "heirloom arena",
        }
    }
}

/// The image of a machine's memory.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    format: Format,
    /// Where the handover starts, if the file says so.
    entry: Option<Entry>,
    /// By address.
    pieces: Vec<Piece>,
    /// By address, apart from each other.
    windows: Vec<Window>,
}

impl Image {
    /// Opens the image at `path`: an ELF core, an arena, or, with `base`, the physical address of
    /// its first byte, raw memory.
    ///
    /// The file must not become shorter while it is in use: the process would be killed where it
    /// looks at what is gone.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub(crate) fn open(path: &Path, base: Option<u64>) -> Result<Self> {
        Self::open_file(path, base).with_context(|| path.display().to_string())
    }

    fn open_file(path: &Path, base: Option<u64>) -> Result<Self> {
        let file = File::open(path).context("cannot open it")?;
        let stat = rustix::fs::fstat(&file).context("cannot stat it")?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        ensure!(kind == FileType::RegularFile, "an image is a regular file; this is {kind:?}");
        let length = file.metadata().context("cannot stat it")?.len();
        ensure!(length > 0, "the file is empty");
        let mut head = [0; 16];
        let known = head.len().min(usize::try_from(length).unwrap_or(head.len()));
        file.read_exact_at(&mut head[..known], 0).context("cannot read it")?;
        let is_elf = head.starts_with(elf::MAGIC);
        let mut entry = None;
        let (format, pieces) = match base {
            None if is_elf => (Format::Elf, elf::pieces(&file, length)?),
            None if head.starts_with(ARENA) => {
                let (ranges, left) = Arena::describe(file.as_fd()).context("a broken arena")?;
                entry = left;
                (Format::Arena, arena(&ranges))
            }
            None if head.starts_with(b"KDUMP   ") || head.starts_with(b"makedumpfile") => bail!(
                "a compressed kdump file; `makedumpfile -E FILE CORE` makes an ELF core of it"
            ),
            None => bail!(
                "no ELF core; if it is raw memory, give the address of its first byte with --base"
            ),
            Some(_) if is_elf => bail!("an ELF core says itself where it lies: leave out --base"),
            Some(base) => (Format::Raw, vec![raw(base, length)?]),
        };
        let mut windows = Vec::new();
        for touching in pieces.chunk_by(|a, b| a.end() == b.start) {
            windows.extend(Window::new(&file, touching)?);
        }
        ensure!(!windows.is_empty(), "the file has not one whole page of {PAGE} bytes");
        Ok(Self { file, format, entry, pieces, windows })
    }

    /// Whether `other` is of the image's own file, under whatever name.
    pub(crate) fn is(&self, other: &Metadata) -> bool {
        let own = self.file.metadata();
        own.is_ok_and(|own| (own.dev(), own.ino()) == (other.dev(), other.ino()))
    }

    /// Its format.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// Where the handover starts, if the file says so.
    pub(crate) const fn entry(&self) -> Option<Entry> {
        self.entry
    }

    /// The frames that it has, by address, as runs that do not touch.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.windows.iter().map(Window::run)
    }

    /// How many frames it has.
    pub(crate) fn frames(&self) -> u64 {
        self.runs().map(Run::frames).sum()
    }

    /// Whether it has all of `run`.
    pub(crate) fn contains(&self, run: Run) -> bool {
        self.window(run.addr()).is_some_and(|window| window.run().covers(run))
    }

    /// `bytes` bytes at `addr`, a multiple of 8, as words, a last half one whole; `None` if the
    /// image has not all of them.
    pub(crate) fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        self.window(addr)?.words(&self.file, addr, bytes)
    }

    /// The same in halves.
    pub(crate) fn halves(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU32]> {
        let words = self.words(addr, bytes)?;
        // SAFETY: the same memory, less strictly aligned. Nothing in this process stores to it
        // (`Window::words`), so loads of two sizes do not race.
        Some(unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) })
    }

    /// The word at `addr`, a multiple of 8. Cheaper than [`Image::words`] for a look at each page.
    pub(crate) fn peek(&self, addr: PhysAddr) -> Option<u64> {
        self.window(addr)?.peek(&self.file, addr)
    }

    /// A copy of the frame at `addr`.
    pub(crate) fn frame(&self, addr: PhysAddr) -> Option<Box<[u8; PAGE_SIZE]>> {
        let words = self.words(addr, PAGE_SIZE)?;
        let mut copy = Box::new([0; PAGE_SIZE]);
        for (bytes, word) in copy.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        Some(copy)
    }

    /// The frames that the file has more of than a hole, by address: the only ones with anything
    /// but zeroes.
    pub(crate) fn written(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for piece in &self.pieces {
            let end = piece.offset + piece.bytes;
            let mut at = piece.offset;
            while at < end {
                // Where the file system cannot tell, everything is data.
                let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                    Ok(data) => data.max(at),
                    Err(rustix::io::Errno::NXIO) => break,
                    Err(_) => at,
                };
                if data >= end {
                    break;
                }
                let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data)).unwrap_or(end);
                let hole = hole.clamp(data + 1, end);
                let (first, last) = (data - piece.offset, hole - piece.offset);
                let addr = PhysAddr::new(piece.start + first);
                if let Some(run) = Run::covering(addr, last - first) {
                    runs.push(run);
                }
                at = hole;
            }
        }
        // A frame can lie in two pieces, and extents need not end with a page.
        let mut merged: Vec<Run> = Vec::new();
        for run in runs {
            match merged.last_mut() {
                Some(last) if run.start() <= last.end() => {
                    let end = last.end().max(run.end());
                    *last = Run::between(last.start(), end).unwrap_or(*last);
                }
                _ => merged.push(run),
            }
        }
        merged
    }

    fn window(&self, addr: PhysAddr) -> Option<&Window> {
        let after = self.windows.partition_point(|window| window.run().start() <= addr.pfn());
        let window = self.windows.get(after.checked_sub(1)?)?;
        window.run().contains(addr.pfn()).then_some(window)
    }
}

impl heirloom_restore::Image for Image {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        Self::words(self, addr, bytes)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.contains(run)
    }
}

/// What the file of an arena starts with.
const ARENA: &[u8] = b"hl-arena";

/// The pieces of an arena, whose ranges were found apart.
fn arena(ranges: &[ArenaRange]) -> Vec<Piece> {
    let piece = |range: &ArenaRange| Piece {
        start: range.run().addr().get(),
        bytes: range.run().bytes(),
        offset: range.offset(),
    };
    let mut pieces: Vec<_> = ranges.iter().map(piece).collect();
    pieces.sort_unstable_by_key(|piece| piece.start);
    pieces
}

/// The one piece of raw memory.
fn raw(base: u64, length: u64) -> Result<Piece> {
    ensure!(base.is_multiple_of(PAGE), "--base {base:#x} is no multiple of the page size, {PAGE}");
    ensure!(
        length.is_multiple_of(PAGE),
        "{length} bytes are no whole pages of {PAGE} bytes: the file is cut off, or not raw memory",
    );
    let end = base.checked_add(length);
    ensure!(end.is_some(), "{length:#x} bytes from {base:#x} on leave the address space");
    Ok(Piece { start: base, bytes: length, offset: 0 })
}

/// The frames that lie wholly in bytes `start..end`.
fn whole_frames(start: u64, end: u64) -> Option<Run> {
    let first = start.checked_next_multiple_of(PAGE)?;
    Run::between(Pfn::new(first / PAGE), Pfn::new(end / PAGE)).filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests;
