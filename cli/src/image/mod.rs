//! The image of a machine's memory, looked at without being read.
//!
//! ```text
//!  file      | header | piece         | piece   |
//!                 \        \               \
//!  memory          . . [ run: pieces that touch    ] . . . [ run ] . .
//! ```
//!
//! A *piece* is a stretch of the file that is a stretch of physical memory. Pieces that touch in
//! memory form a *run*; a table may lie across their border. A page of the file comes into this
//! process when it is looked at.
//!
//! Frames that the file has in part only are not memory here, nor is what a core only declares, as
//! dumps that filter pages out do; unless the user knows that those were zeroes.
//!
//! What cannot be looked into anywhere, as it comes out of a pipe or is packed as a whole, is unpacked to a file
//! without a name first (`spool`). Dumps that pack each page are read as they are (`kdump`).

mod copies;
mod elf;
mod files;
mod foreign;
mod holes;
mod kdump;
mod lime;
mod piece;
mod spool;
mod twins;

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use anyhow::{Context, Result, bail, ensure};
use copies::Copies;
use files::{Files, identity, length};
use heirloom::arena::{Arena, ArenaRange};
use heirloom_kho::PageSize;
use heirloom_kho::{Pfn, PhysAddr, Run};
use heirloom_restore::Entry;
use holes::extent;
use piece::{Bytes, Piece};
use rustix::fs::FileType;
pub(crate) use spool::Packed;

/// The format of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// An ELF core.
    Elf,
    /// Nothing but memory.
    Raw,
    /// The file of an arena: a page that says what follows, then memory.
    Arena,
    /// A `LiME` image.
    Lime,
    /// A kdump file, of pages that are packed one by one.
    Kdump,
}

impl Format {
    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Elf => "ELF core",
            Self::Raw => "raw memory",
            Self::Arena => "heirloom arena",
            Self::Lime => "LiME image",
            Self::Kdump => "kdump file",
        }
    }
}

/// The image of a machine's memory.
#[derive(Debug)]
pub(crate) struct Image {
    files: Rc<Files>,
    format: Format,
    /// What it was packed with, from outside.
    packed: Vec<Packed>,
    /// Where the handover starts, if the file says so.
    entry: Option<Entry>,
    /// The size of the machine's pages, and whether it is known.
    page: (PageSize, bool),
    /// By address.
    pieces: Rc<[Piece]>,
    /// By address, apart from each other, of whole pages.
    runs: Vec<Run>,
    copies: Copies,
    passed: Passed,
    /// How often words were asked for.
    looks: Cell<u64>,
}

/// What a file should have and the image does not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Passed {
    /// Segments without a physical address.
    pub(crate) unaddressed: u64,
    /// Bytes that are declared and not in the file.
    pub(crate) declared: u64,
    /// Whether those are taken for zeroes, and so are there.
    pub(crate) zeroes: bool,
    /// Bytes that should be in the file, which ends before.
    pub(crate) cut: u64,
    /// Why the file is not whole, if that is known.
    pub(crate) broken: Option<String>,
}

/// How a file is to be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The physical address of its first byte, if it is raw memory.
    pub(crate) base: Option<u64>,
    /// More files of raw memory, with the addresses of their first bytes.
    pub(crate) more: Vec<(PathBuf, u64)>,
    /// What a core declares and has not is zeroes.
    pub(crate) zero_excluded: bool,
    /// The size of the machine's pages, if the user knows it.
    pub(crate) page_size: Option<PageSize>,
}

impl Image {
    /// Opens the image at `path`: an ELF core, an arena, a dump, or, if `reading` has the physical address of its
    /// first byte, raw memory.
    ///
    /// The file should not change while it is in use. Each page is read once, but for long tables,
    /// which are mapped: if the file becomes shorter under one, the process is killed.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub(crate) fn open(path: &Path, reading: &Reading) -> Result<Self> {
        Self::open_file(path, reading).with_context(|| path.display().to_string())
    }

    fn open_file(path: &Path, reading: &Reading) -> Result<Self> {
        let Opened { file, named, packed, broken, head } = Opened::new(path)?;
        let length = length(&file).context("cannot stat it")?;
        let zeroes = reading.zero_excluded;
        let mut files = Files { read: vec![file], named: vec![named], kdump: None };
        let file = &files.read[0];
        let mut passed = Passed { zeroes, broken, ..Passed::default() };
        let (mut entry, mut said) = (None, None);
        let (format, pieces) = match reading.base {
            Some(base) => {
                ensure!(!head.starts_with(elf::MAGIC), "an ELF core {ITSELF}: leave out --base");
                ensure!(!head.starts_with(kdump::MAGIC), "a kdump file {ITSELF}: leave out --base");
                ensure!(!head.starts_with(lime::MAGIC), "a LiME image {ITSELF}: leave out --base");
                foreign::refuse(&head)?;
                (Format::Raw, raw(base, &mut files, reading, &mut passed)?)
            }
            None if !reading.more.is_empty() => {
                bail!(
                    "--raw adds files to raw memory: give the address of this one's first byte with --base"
                )
            }
            None if head.starts_with(elf::MAGIC) => {
                let core = elf::read(file, length, zeroes)?;
                let elf::Core { pieces, declared, cut, unaddressed, page_size } = core;
                said = page_size;
                passed = Passed { unaddressed, declared, cut, ..passed };
                (Format::Elf, pieces)
            }
            None if head.starts_with(ARENA) => {
                let arena = Arena::describe(file.as_fd()).context("a broken arena")?;
                let (page, ranges, left) = arena;
                (entry, said) = (left, Some(page));
                (Format::Arena, pieces_of(&ranges))
            }
            None if head.starts_with(lime::MAGIC) => {
                let (pieces, cut) = lime::read(file, length)?;
                passed.cut = cut;
                (Format::Lime, twins::apart(&files.read, pieces, "ranges")?)
            }
            None if head.starts_with(kdump::MAGIC) => {
                let dump = kdump::read(file, length, zeroes)?;
                let kdump::Dump { kdump, page_size, pieces, declared, cut, incomplete } = dump;
                let why = || "it says itself that it is not complete".to_owned();
                let broken = passed.broken.or_else(|| incomplete.then(why));
                passed = Passed { declared, cut, broken, ..passed };
                (files.kdump, said) = (Some(kdump), Some(page_size));
                (Format::Kdump, pieces)
            }
            None => {
                foreign::refuse(&head)?;
                bail!(
                    "no ELF core; if it is raw memory, give the address of its first byte with \
                     --base",
                )
            }
        };
        if let (Some(said), Some(asked)) = (said, reading.page_size) {
            ensure!(
                said == asked,
                "it is of a machine with pages of {said}: leave out --page-size"
            );
        }
        let page = said.or(reading.page_size);
        let known = page.is_some();
        let page = page.unwrap_or(PageSize::BUILD);
        Ok(Self {
            files: Rc::new(files),
            format,
            packed,
            entry,
            runs: runs(&pieces, page)?,
            pieces: pieces.into(),
            page: (page, known),
            copies: Copies::new(page),
            passed,
            looks: Cell::new(0),
        })
    }

    /// A part of it as an image of its own: `runs`, which are by address and do not touch, of what it has. `entry`
    /// says where the handover there starts.
    pub(crate) fn part(&self, runs: Vec<Run>, entry: Entry) -> Self {
        Self {
            files: Rc::clone(&self.files),
            format: self.format,
            packed: self.packed.clone(),
            entry: Some(entry),
            page: self.page,
            pieces: Rc::clone(&self.pieces),
            runs,
            copies: Copies::new(self.page.0),
            passed: self.passed.clone(),
            looks: Cell::new(0),
        }
    }

    /// The size of the machine's pages.
    pub(crate) const fn page_size(&self) -> PageSize {
        self.page.0
    }

    /// Whether that is known, as the file or the user says it.
    pub(crate) const fn is_sized(&self) -> bool {
        self.page.1
    }

    /// Takes it for the image of a machine with pages of this size, which is a guess.
    ///
    /// # Errors
    /// There is not one of them.
    pub(crate) fn set_page_size(&mut self, page: PageSize) -> Result<()> {
        self.runs = runs(&self.pieces, page)?;
        self.page = (page, false);
        self.copies = Copies::new(page);
        Ok(())
    }

    /// Whether `other` is of the image's own file, under whatever name.
    pub(crate) fn is(&self, other: &Metadata) -> bool {
        self.files.are(other)
    }

    /// Its format.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// What it was packed with, from outside.
    pub(crate) fn packed(&self) -> &[Packed] {
        &self.packed
    }

    /// Where the handover starts, if the file says so.
    pub(crate) const fn entry(&self) -> Option<Entry> {
        self.entry
    }

    /// How often words of it were asked for.
    pub(crate) const fn looks(&self) -> u64 {
        self.looks.get()
    }

    /// What the file should have and the image does not.
    pub(crate) const fn passed(&self) -> &Passed {
        &self.passed
    }

    /// The frames that it has, by address, as runs that do not touch.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().copied()
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u64 {
        self.page_size().pages(self.runs().map(Run::frames).sum())
    }

    /// Whether it has all of `run`.
    pub(crate) fn contains(&self, run: Run) -> bool {
        let after = self.runs.partition_point(|own| own.start() <= run.start());
        let before = after.checked_sub(1).and_then(|last| self.runs.get(last));
        before.is_some_and(|own| own.covers(run))
    }

    /// `bytes` bytes at `addr`, a multiple of 8, as words, a last half one whole; `None` if the
    /// image has not all of them.
    pub(crate) fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        self.looks.set(self.looks.get() + 1);
        let count = bytes.div_ceil(8);
        let length = u64::try_from(count.checked_mul(8)?).ok()?;
        let page = self.page_size();
        let run = page.covering(addr, length)?;
        if !addr.get().is_multiple_of(8) || !self.contains(run) {
            return None;
        }
        let read = |addr, into: &mut [u8]| self.read(addr, into);
        let words = match page.pages(run.frames()) {
            0 | 1 => self.copies.page(page.page_of(addr.pfn()).pfn(), read)?,
            pages => {
                let pages = usize::try_from(pages).ok()?;
                let place = self.place(run);
                self.copies.stretch(run.start(), pages, place, read)?
            }
        };
        let offset = addr.get() as usize & (page.bytes() - 1);
        words.get(offset / 8..)?.get(..count)
    }

    /// The same in halves.
    pub(crate) fn halves(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU32]> {
        let words = self.words(addr, bytes)?;
        // SAFETY: the same memory, less strictly aligned. Nothing in this process stores to it
        // (`Copies`), so loads of two sizes do not race.
        Some(unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) })
    }

    /// The word at `addr`, a multiple of 8. Cheaper than [`Image::words`] for a look at each page.
    pub(crate) fn peek(&self, addr: PhysAddr) -> Option<u64> {
        let mut word = [0; 8];
        let aligned = addr.get().is_multiple_of(8);
        Run::covering(addr, 8).filter(|run| aligned && self.contains(*run))?;
        self.read(addr, &mut word)?;
        Some(u64::from_ne_bytes(word))
    }

    /// Reads bytes of memory as they are now; `None` if the image has not all of them, or the file
    /// cannot be read.
    pub(crate) fn read(&self, addr: PhysAddr, mut into: &mut [u8]) -> Option<()> {
        let mut at = addr.get();
        let after = self.pieces.partition_point(|piece| piece.end() <= at);
        for piece in self.pieces.get(after..)? {
            if into.is_empty() || piece.start > at {
                break;
            }
            let here = (piece.end() - at).min(into.len() as u64);
            let (now, rest) = into.split_at_mut(usize::try_from(here).ok()?);
            self.files.read(piece, at - piece.start, now)?;
            (into, at) = (rest, at + here);
        }
        into.is_empty().then_some(())
    }

    /// In which file `run` is, and where, if it lies there in one piece.
    fn place(&self, run: Run) -> Option<(&File, u64)> {
        let start = run.addr().get();
        let after = self.pieces.partition_point(|piece| piece.end() <= start);
        let piece = self.pieces.get(after).filter(|piece| piece.start <= start)?;
        match piece.from {
            Bytes::At { file, offset } if piece.end() - start >= run.bytes() => {
                Some((self.files.read.get(file)?, offset + (start - piece.start)))
            }
            _ => None,
        }
    }

    /// A copy of the page at `addr`.
    pub(crate) fn page(&self, addr: PhysAddr) -> Option<Vec<u8>> {
        let words = self.words(addr, self.page_size().bytes())?;
        Some(words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect())
    }

    /// The frames that the file has more of than a hole, by address: the only ones with anything
    /// but zeroes.
    pub(crate) fn written(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for piece in &*self.pieces {
            let (file, offset) = match piece.from {
                Bytes::At { file, offset } => (file, offset),
                Bytes::Packed { .. } => {
                    runs.extend(Run::covering(PhysAddr::new(piece.start), piece.bytes));
                    continue;
                }
                Bytes::Zero => continue,
            };
            let Some(file) = self.files.read.get(file) else { continue };
            let mut at = offset;
            while let Some((data, hole)) = extent(file, at, offset + piece.bytes) {
                let addr = PhysAddr::new(piece.start + (data - offset));
                runs.extend(Run::covering(addr, hole - data));
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
}

impl heirloom_kho::Image for Image {
    fn page_size(&self) -> PageSize {
        Self::page_size(self)
    }

    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        Self::words(self, addr, bytes)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.contains(run)
    }
}

/// Of what is no raw memory.
const ITSELF: &str = "says itself where it lies";

/// A file, unpacked as far as it is one.
struct Opened {
    file: File,
    /// What the user named, by device and number.
    named: (u64, u64),
    packed: Vec<Packed>,
    broken: Option<String>,
    /// Its first bytes.
    head: Vec<u8>,
}

/// How often what is unpacked can be packed itself.
const NESTED: usize = 4;

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let mut file = foreign::open(path)?;
        let stat = rustix::fs::fstat(&file).context("cannot stat it")?;
        let stream = foreign::is_stream(FileType::from_raw_mode(stat.st_mode))?;
        let named = identity(&file.metadata().context("cannot stat it")?);
        let (mut packed, mut broken) = (Vec::new(), None);
        if stream {
            let spooled = spool::spool(file)?;
            (file, broken) = (spooled.file, spooled.cut);
        }
        loop {
            let length = length(&file).context("cannot stat it")?;
            ensure!(length > 0, "the file is empty");
            let mut head = vec![0; 16.min(usize::try_from(length).unwrap_or(16))];
            file.read_exact_at(&mut head, 0).context("cannot read it")?;
            let Some(next) = Packed::of(&head) else {
                return Ok(Self { file, named, packed, broken, head });
            };
            ensure!(packed.len() < NESTED, "packed {NESTED} times, and then again");
            let spooled = next.unpack(file)?;
            packed.push(next);
            (file, broken) = (spooled.file, broken.or(spooled.cut));
        }
    }
}

/// What the file of an arena starts with.
const ARENA: &[u8] = b"hl-arena";

/// The pieces of an arena, whose ranges were found apart.
fn pieces_of(ranges: &[ArenaRange]) -> Vec<Piece> {
    let piece = |range: &ArenaRange| Piece {
        start: range.run().addr().get(),
        bytes: range.run().bytes(),
        from: Bytes::At { file: 0, offset: range.offset() },
    };
    let mut pieces: Vec<_> = ranges.iter().map(piece).collect();
    pieces.sort_unstable_by_key(|piece| piece.start);
    pieces
}

/// The pieces of raw memory: the image's own file, and more of them, each from its address on.
fn raw(base: u64, files: &mut Files, reading: &Reading, passed: &mut Passed) -> Result<Vec<Piece>> {
    let page = reading.page_size.unwrap_or(PageSize::BUILD).bytes() as u64;
    let mut pieces = Vec::new();
    let mut piece = |file: &File, start: u64, option: &str| {
        ensure!(
            start.is_multiple_of(page),
            "{option} {start:#x} is no multiple of the page size, {page}"
        );
        let bytes = length(file).context("cannot stat it")?;
        let end = start.checked_add(bytes);
        ensure!(end.is_some(), "{bytes:#x} bytes from {start:#x} on leave the address space");
        // The last page, of which the file has a part only.
        passed.cut += bytes.next_multiple_of(page) - bytes;
        let from = Bytes::At { file: pieces.len(), offset: 0 };
        pieces.push((pieces.len(), Piece { start, bytes, from }));
        Ok(())
    };
    piece(&files.read[0], base, "--base")?;
    let mut opened = Vec::new();
    for (path, start) in &reading.more {
        let said = || path.display().to_string();
        let Opened { file, named, broken, head, .. } = Opened::new(path).with_context(said)?;
        foreign::refuse(&head).and_then(|()| piece(&file, *start, "--raw")).with_context(said)?;
        opened.push((file, named, broken));
    }
    for (file, named, broken) in opened {
        files.read.push(file);
        files.named.push(named);
        passed.broken = passed.broken.take().or(broken);
    }
    twins::apart(&files.read, pieces, "files")
}

/// The runs of whole pages in pieces, by address.
fn runs(pieces: &[Piece], page: PageSize) -> Result<Vec<Run>> {
    let touching = pieces.chunk_by(|a, b| a.end() == b.start);
    let run = |pieces: &[Piece]| whole_pages(pieces.first()?.start, pieces.last()?.end(), page);
    let runs: Vec<_> = touching.filter_map(run).collect();
    ensure!(!runs.is_empty(), "the file has not one whole page of {} bytes", page.bytes());
    Ok(runs)
}

/// The frames of the pages that lie wholly in bytes `start..end`.
fn whole_pages(start: u64, end: u64, page: PageSize) -> Option<Run> {
    let bytes = page.bytes() as u64;
    let first = PhysAddr::new(start.checked_next_multiple_of(bytes)?).pfn();
    let last: Pfn = PhysAddr::new(end - end % bytes).pfn();
    Run::between(first, last).filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests;
