//! A stretch of this process's addresses that shows a stretch of the image's memory.
//!
//! ```text
//!  file        ... |skew| page | page | page | ...       pages of the file, as it is mapped
//!  memory           |<- start   a frame, wherever it falls
//! ```
//!
//! A core's bytes seldom start at a page of the file: a table of headers comes first. Words need
//! only be aligned to their size, so the window is mapped as the file has it and memory starts
//! `skew` bytes into a page. Where that is no multiple of 8, and where pieces that touch lie in the
//! file otherwise, pages are copied when they are first asked for.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use heirloom_folio::{PhysAddr, Run};
use rustix::mm::{MapFlags, ProtFlags};

use super::{Piece, whole_frames};

/// Pieces that touch, side by side.
#[derive(Debug)]
pub(super) struct Window {
    run: Run,
    base: NonNull<u8>,
    bytes: usize,
    /// Bytes of `base` before the first frame.
    skew: u64,
    parts: Box<[Part]>,
    /// Apart from each other, in order.
    copied: Box<[Copied]>,
    /// Bytes of a page of this process.
    page: u64,
}

/// A stretch of the window that is a stretch of the file. Offsets are from `base`.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: u64,
    end: u64,
    /// Where `start` is in the file.
    offset: u64,
}

/// Pages that are filled when they are asked for. Offsets are from `base`.
#[derive(Debug)]
struct Copied {
    start: u64,
    end: u64,
    /// A bit a page: whether it is filled.
    filled: Mutex<Vec<u64>>,
}

impl Window {
    /// The window of `pieces`, each of which starts where the one before ends; `None` if they have
    /// no whole frame.
    pub(super) fn new(file: &File, pieces: &[Piece]) -> Result<Option<Self>> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(None) };
        let Some(run) = whole_frames(first.start, last.end()) else { return Ok(None) };
        let page = rustix::param::page_size() as u64;
        let (start, end) = (run.addr().get(), run.addr().get() + run.bytes());
        let largest = pieces.iter().max_by_key(|piece| piece.bytes).unwrap_or(first);
        // Where the file would have the first frame, if all of it lay as the largest piece does.
        let skew = largest.offset.wrapping_sub(largest.start).wrapping_add(start) % page;
        let skew = if skew.is_multiple_of(8) { skew } else { 0 };
        let part = |piece: &Piece| {
            let (from, to) = (piece.start.max(start), piece.end().min(end));
            let offset = piece.offset + (from - piece.start);
            (from < to).then(|| Part { start: from - start + skew, end: to - start + skew, offset })
        };
        let parts = pieces.iter().filter_map(part).collect();
        let bytes = (run.bytes() + skew).next_multiple_of(page);
        let bytes = usize::try_from(bytes).context("more memory than addresses here")?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let base =
            unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), bytes, access, flags) };
        let base = base.with_context(|| format!("cannot map {bytes} bytes"))?;
        let base = NonNull::new(base.cast::<u8>()).context("mapped at address zero")?;
        let mut window = Self { run, base, bytes, skew, parts, copied: Box::default(), page };
        window.map(file)?;
        Ok(Some(window))
    }

    /// Maps what can be mapped, and takes note of the rest.
    fn map(&mut self, file: &File) -> Result<()> {
        let page = self.page;
        let (mut at, mut copied) = (0, Vec::new());
        for part in &self.parts {
            let (first, last) = (part.start.next_multiple_of(page), part.end / page * page);
            if part.start % page != part.offset % page || first >= last {
                continue;
            }
            // SAFETY: the parts lie in the window, and `first` in this one.
            let place: *mut c_void = unsafe { self.base.add(first as usize) }.as_ptr().cast();
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            let (bytes, offset) = ((last - first) as usize, part.offset + (first - part.start));
            // SAFETY: replaces only addresses of this window, none of which were given out yet.
            let mapped = unsafe { rustix::mm::mmap(place, bytes, access, flags, file, offset) };
            mapped.with_context(|| format!("cannot map {bytes} bytes of the file"))?;
            copied.extend(Copied::new(at, first, page));
            at = last;
        }
        copied.extend(Copied::new(at, self.bytes as u64, page));
        self.copied = copied.into();
        Ok(())
    }

    /// The frames that it shows.
    pub(super) const fn run(&self) -> Run {
        self.run
    }

    /// `bytes` bytes at `addr` as words, if the window has them all and `addr` is a multiple of 8.
    pub(super) fn words(&self, file: &File, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let count = bytes.div_ceil(8);
        let length = u64::try_from(count.checked_mul(8)?).ok()?;
        let run = Run::covering(addr, length)?;
        if !addr.get().is_multiple_of(8) || !self.run.covers(run) {
            return None;
        }
        let at = self.place(addr);
        for part in self.copied_in(at, at + length) {
            self.fill(file, part, at.max(part.start), (at + length).min(part.end))?;
        }
        // SAFETY: the bytes lie in `run`, so within the window, which stays mapped while `self`
        // is borrowed; `base` is the start of a page, `skew` and the distance of `addr` from the
        // first frame are multiples of 8, so the words are aligned. Any bytes are an `AtomicU64`.
        // Within this process a page is written only by `fill`, before the first reference to it
        // is made, and what references it then only loads. Another process that writes to the file
        // may change a mapped page meanwhile: an atomic load takes some value then, and readers of
        // tables believe no two loads to agree.
        Some(unsafe {
            let first = self.base.add(at as usize).cast::<AtomicU64>();
            core::slice::from_raw_parts(first.as_ptr(), count)
        })
    }

    /// The word at `addr`, without a copy of its page where none is there yet.
    pub(super) fn peek(&self, file: &File, addr: PhysAddr) -> Option<u64> {
        if self.run.contains(addr.pfn()) && addr.get().is_multiple_of(8) {
            let at = self.place(addr);
            let part = self.copied_in(at, at + 8).next();
            let whole = self.parts.iter().find(|part| (part.start..part.end).contains(&at));
            if let (Some(copied), Some(part)) = (part, whole)
                && at + 8 <= part.end
                && !copied.has(at, self.page)
            {
                let mut word = [0; 8];
                file.read_exact_at(&mut word, part.offset + (at - part.start)).ok()?;
                return Some(u64::from_ne_bytes(word));
            }
        }
        Some(self.words(file, addr, 8)?.first()?.load(Relaxed))
    }

    /// Where `addr`, which is in `run`, is from `base` on.
    const fn place(&self, addr: PhysAddr) -> u64 {
        addr.get() - self.run.addr().get() + self.skew
    }

    /// The parts that are copied and share a byte with `from..to`.
    fn copied_in(&self, from: u64, to: u64) -> impl Iterator<Item = &Copied> {
        let after = self.copied.partition_point(|part| part.end <= from);
        let rest = self.copied.get(after..).unwrap_or(&[]);
        rest.iter().take_while(move |part| part.start < to)
    }

    /// Fills the pages of `part` from `from` to `to` that are not filled yet; `None` if the file
    /// could not be read.
    fn fill(&self, file: &File, part: &Copied, from: u64, to: u64) -> Option<()> {
        let mut filled = part.lock();
        let (first, last) =
            ((from - part.start) / self.page, (to - part.start).div_ceil(self.page));
        for page in first..last {
            let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
            if filled.get(word)? & bit != 0 {
                continue;
            }
            let start = part.start + page * self.page;
            let end = start + self.page;
            let after = self.parts.partition_point(|source| source.end <= start);
            for source in self.parts.get(after..)?.iter().take_while(|source| source.start < end) {
                let (from, to) = (start.max(source.start), end.min(source.end));
                // SAFETY: a part of a page of this window that is not mapped from the file:
                // anonymous memory, writable. Its bit is not set, so `words` has made no
                // reference to it, and the lock keeps everybody else from making one.
                let bytes = unsafe {
                    let place = self.base.add(from as usize);
                    core::slice::from_raw_parts_mut(place.as_ptr(), (to - from) as usize)
                };
                file.read_exact_at(bytes, source.offset + (from - source.start)).ok()?;
            }
            *filled.get_mut(word)? |= bit;
        }
        Some(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` reserved; whatever was read from it borrowed the window.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping is unmapped: {unmapped:?}");
    }
}

impl Copied {
    fn new(start: u64, end: u64, page: u64) -> Option<Self> {
        let words = end.checked_sub(start)?.div_ceil(page).div_ceil(64);
        (words > 0).then(|| Self { start, end, filled: Mutex::new(vec![0; words as usize]) })
    }

    /// Whether the page at `at` is filled.
    fn has(&self, at: u64, page: u64) -> bool {
        let page = (at - self.start) / page;
        self.lock().get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        // A panic under the lock cannot leave a bit set for a page that is not filled.
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
