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
mod open;
mod piece;
mod spool;
mod twins;
mod xz;

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use anyhow::{Context, Result, anyhow, ensure};
use copies::Copies;
use files::Files;
pub(crate) use files::identity;
pub(crate) use foreign::open;
use heirloom_kho::PageSize;
use heirloom_kho::{Pfn, PhysAddr, Run};
use heirloom_restore::Entry;
use holes::extent;
use open::Parts;
pub(crate) use open::{Format, Passed, Reading, is_arena, is_memory};
use piece::{Bytes, Piece};
pub(crate) use spool::Packed;
pub(crate) use xz::{DICTIONARY, XZ_KIB, xz_dictionary};

use crate::machine::Machine;

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
    /// Which machine it is of, if the file says it.
    machine: Option<Machine>,
    /// By address.
    pieces: Rc<[Piece]>,
    /// By address, apart from each other, of whole pages.
    runs: Vec<Run>,
    copies: Copies,
    passed: Passed,
    /// How often words were asked for.
    looks: Cell<u64>,
}

impl Image {
    /// Opens the image at `path`: an ELF core, an arena, a dump, or, if `reading` has the physical address of its
    /// first byte, raw memory.
    ///
    /// The file should not change while it is in use. Each page is read once. Mapped is only what nothing else can
    /// make shorter: what was unpacked.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub(crate) fn open(path: &Path, reading: &Reading) -> Result<Self> {
        Self::open_file(path, reading).with_context(|| path.display().to_string())
    }

    fn open_file(path: &Path, reading: &Reading) -> Result<Self> {
        let Parts { files, format, packed, entry, page, machine, pieces, passed } =
            Parts::read(path, reading)?;
        let (page, known) = (page.unwrap_or(PageSize::BUILD), page.is_some());
        Ok(Self {
            files: Rc::new(files),
            format,
            packed,
            entry,
            runs: runs(&pieces, page).map_err(|error| {
                let way = match &passed {
                    Passed { declared: 1.., zeroes: false, .. } => {
                        "; --zero-excluded takes what it declares and has not for zeroes"
                    }
                    _ => "",
                };
                anyhow!("{error}{way}")
            })?,
            pieces: pieces.into(),
            page: (page, known),
            machine,
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
            machine: self.machine.clone(),
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

    /// Which machine it is of, if the file says it.
    pub(crate) const fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
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

    /// The first page of `run` that the file has packed in a way that cannot be unpacked, and how many are so.
    pub(crate) fn unreadable(&self, run: Run) -> Option<(PhysAddr, u64)> {
        let (start, end) = (run.addr().get(), run.addr().get().saturating_add(run.bytes()));
        let after = self.pieces.partition_point(|piece| piece.end() <= start);
        let (mut found, mut count) = (None, 0);
        for piece in self.pieces.get(after..)?.iter().take_while(|piece| piece.start < end) {
            let skip = start.saturating_sub(piece.start);
            let bytes = piece.end().min(end) - (piece.start + skip);
            if let Some((at, more)) = self.files.unreadable(piece, skip, bytes) {
                found = found.or(Some(PhysAddr::new(piece.start + at)));
                count += more;
            }
        }
        Some((found?, count))
    }

    /// In which file `run` is, and where, if it lies there in one piece and the file can be mapped.
    fn place(&self, run: Run) -> Option<(&File, u64)> {
        let start = run.addr().get();
        let after = self.pieces.partition_point(|piece| piece.end() <= start);
        let piece = self.pieces.get(after).filter(|piece| piece.start <= start)?;
        match piece.from {
            Bytes::At { file, offset } if piece.end() - start >= run.bytes() => {
                Some((self.files.mappable(file)?, offset + (start - piece.start)))
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
        merged(runs)
    }
}

/// Returns the frames of `runs` as runs that neither overlap nor touch, by address.
pub(crate) fn merged(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable_by_key(|run| run.start());
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
