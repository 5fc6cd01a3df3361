//! A stretch of this process's addresses that shows a stretch of the image's memory.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use heirloom_folio::{PhysAddr, Run};
use rustix::mm::{MapFlags, ProtFlags};

use super::{PAGE, Piece, whole_frames};

/// Pieces that touch, side by side.
///
/// Whole pages that lie in the file as they lie in memory, modulo the page size, are mapped from
/// it, privately. All others start as anonymous zeroes and are filled from the file when
/// they are first asked for.
#[derive(Debug)]
pub(super) struct Window {
    run: Run,
    /// The physical address that `base` shows.
    start: u64,
    base: NonNull<u8>,
    bytes: usize,
    pieces: Box<[Piece]>,
    /// Apart from each other, by address.
    copied: Box<[Copied]>,
}

/// Pages that are filled when they are asked for.
#[derive(Debug)]
struct Copied {
    /// Physical addresses.
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
        let host = (rustix::param::page_size() as u64).max(PAGE);
        let start = run.addr().get() / host * host;
        let end = (run.addr().get() + run.bytes()).next_multiple_of(host);
        let bytes = usize::try_from(end - start).context("more memory than addresses here")?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let base =
            unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), bytes, access, flags) };
        let base = base.with_context(|| format!("cannot map {bytes} bytes"))?;
        let base = NonNull::new(base.cast::<u8>()).context("mapped at address zero")?;
        let pieces = pieces.into();
        let mut window = Self { run, start, base, bytes, pieces, copied: Box::default() };
        window.map(file, host)?;
        Ok(Some(window))
    }

    /// Maps what can be mapped, and takes note of the rest.
    fn map(&mut self, file: &File, host: u64) -> Result<()> {
        let end = self.start + self.bytes as u64;
        let mut at = self.start;
        let mut copied = Vec::new();
        for piece in &self.pieces {
            if piece.start % host != piece.offset % host {
                continue;
            }
            let first = piece.start.next_multiple_of(host).max(at);
            let last = (piece.end() / host * host).min(end);
            if first >= last {
                continue;
            }
            let offset = piece.offset + (first - piece.start);
            let place = (first - self.start) as usize;
            // SAFETY: `start <= first < end`, so the place is within the reservation.
            let place: *mut c_void = unsafe { self.base.add(place) }.as_ptr().cast();
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            let length = (last - first) as usize;
            // SAFETY: replaces only addresses of this window, none of which were given out yet.
            let mapped = unsafe { rustix::mm::mmap(place, length, access, flags, file, offset) };
            mapped.with_context(|| format!("cannot map {length} bytes of the file"))?;
            copied.extend(Copied::new(at, first));
            at = last;
        }
        copied.extend(Copied::new(at, end));
        self.copied = copied.into();
        Ok(())
    }

    /// The frames that it shows.
    pub(super) const fn run(&self) -> Run {
        self.run
    }

    /// `bytes` bytes at `addr` as words, if the window has them all and `addr` is a multiple of 8.
    pub(super) fn words(&self, file: &File, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let at = addr.get();
        let count = bytes.div_ceil(8);
        let run = Run::covering(addr, u64::try_from(count.checked_mul(8)?).ok()?)?;
        if !at.is_multiple_of(8) || !self.run.covers(run) {
            return None;
        }
        let end = at + count as u64 * 8;
        let after = self.copied.partition_point(|part| part.end <= at);
        for part in self.copied.get(after..)?.iter().take_while(|part| part.start < end) {
            self.fill(file, part, at.max(part.start), end.min(part.end))?;
        }
        // SAFETY: the bytes lie in `run`, so within the window, which stays mapped while `self`
        // is borrowed; `start` is a multiple of the page size and `at` of 8, so the words are
        // aligned. Any bytes are an `AtomicU64`. Within this process a page is written only by
        // `fill`, before the first reference to it is made, and what references it then only
        // loads. Another process that writes to the file may change a mapped page meanwhile: an
        // atomic load takes some value then, and readers of tables believe no two loads to agree.
        Some(unsafe {
            let first = self.base.add((at - self.start) as usize).cast::<AtomicU64>();
            core::slice::from_raw_parts(first.as_ptr(), count)
        })
    }

    /// Fills the pages of `part` from `from` to `to` that are not filled yet; `None` if the file
    /// could not be read.
    fn fill(&self, file: &File, part: &Copied, from: u64, to: u64) -> Option<()> {
        // A panic in here cannot leave a bit set for a page that is not filled.
        let mut filled = part.filled.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = ((from - part.start) / PAGE, (to - part.start).div_ceil(PAGE));
        for page in first..last {
            let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
            if filled.get(word)? & bit != 0 {
                continue;
            }
            let start = part.start + page * PAGE;
            let after = self.pieces.partition_point(|piece| piece.end() <= start);
            for piece in self.pieces.get(after..)? {
                let (from, to) = (start.max(piece.start), (start + PAGE).min(piece.end()));
                if from >= to {
                    break;
                }
                // SAFETY: a part of a page of this window that is not mapped from the file:
                // anonymous memory, writable. Its bit is not set, so `words` has made no
                // reference to it, and the lock keeps everybody else from making one.
                let bytes = unsafe {
                    let place = self.base.add((from - self.start) as usize);
                    core::slice::from_raw_parts_mut(place.as_ptr(), (to - from) as usize)
                };
                file.read_exact_at(bytes, piece.offset + (from - piece.start)).ok()?;
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
    fn new(start: u64, end: u64) -> Option<Self> {
        let words = end.checked_sub(start)?.div_ceil(PAGE).div_ceil(64);
        (words > 0).then(|| Self { start, end, filled: Mutex::new(vec![0; words as usize]) })
    }
}
