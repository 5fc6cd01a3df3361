//! The free blocks of one memory range, as bits.
//!
//! Picture four levels of bitmaps. A set bit in the lowest bitmap of level `l` is a free *chunk* of
//! `64^l` frames: 1, 64, 4096 or 262,144 (orders 0, 6, 12, 18). A free block of any order is an
//! aligned group of bits in one word of one level: order 9 is eight bits of level 1. When the
//! last bit of a word is set, the word is 64 free chunks in a row, which is one chunk of the next
//! level: the call that sets it moves the chunk up. A frame is thus free in exactly one level, and
//! taking or giving any block is one atomic operation on one word.
//!
//! ```text
//! height 3   . . .               . . .              . . .            chunks of 2^18 frames
//! height 2   word empty? ...     word empty? ...    chunks of 2^12
//! height 1   word empty? ...     chunks of 2^6
//! height 0   chunks of 1
//!            level 0             level 1            level 2          level 3
//! ```
//!
//! The summaries above a level's lowest bitmap say which words below are not empty, 64 words a bit-word, so
//! that finding a free chunk costs a few loads however large and full memory is. They are hints
//! that may be set for an empty word; at rest no word with a free chunk is without its bits.
//!
//! The idea of bits that merge upward is `LLFree`'s (USENIX ATC 2023), with 64-way words at every
//! level in place of counters, so that no counter is touched on any path.

use core::ptr::NonNull;

use heirloom_kho::Run;
use heirloom_kho::sync::AtomicU64;

mod carve;
mod give;
mod group;
mod inspect;
mod search;
mod summary;
mod take;

pub(crate) use group::Group;
use group::STEP;

/// Levels, and bitmaps of the first level.
pub(crate) const LEVELS: usize = 4;

/// One bitmap of a level: words in memory that the owner of the range provides.
#[derive(Clone, Copy)]
struct Bitmap {
    words: NonNull<AtomicU64>,
    len: usize,
    /// The number that the first word would have in a bitmap that starts at frame 0.
    first: u64,
}

/// Where a search last found something, per level: the next one starts there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints([u64; LEVELS]);

impl Hints {
    /// Makes hints of a search that found nothing yet.
    pub(crate) const fn new() -> Self {
        Self([u64::MAX; LEVELS])
    }
}

/// The free blocks of one range of frames.
pub(crate) struct FreeMap {
    bitmaps: [[Bitmap; LEVELS]; LEVELS],
}

// SAFETY: the bitmaps point at atomics that live as long as the value (promised to `new`); sharing
// them is what atomics are for.
unsafe impl Send for FreeMap {}
// SAFETY: as for `Send`.
unsafe impl Sync for FreeMap {}

/// Returns how many words are in the bitmap at height `height` of any level for the frames of `run`, and the number of the first.
const fn bitmap_span(run: Run, height: usize) -> (u64, u64) {
    let shift = STEP * (height as u32 + 1);
    let first = run.start().get() >> shift;
    let last = (run.end().get() - 1) >> shift;
    (first, last - first + 1)
}

impl FreeMap {
    /// Returns how many 64-bit words are needed for the (non-empty) `run`.
    pub(crate) const fn words(run: Run) -> usize {
        let mut words = 0;
        let mut height = 0;
        while height < LEVELS {
            // Bitmap `height` exists in levels 0 to `height`.
            words += bitmap_span(run, height).1 as usize * (height + 1);
            height += 1;
        }
        words
    }

    /// Makes a free map for `run` in which nothing is free yet.
    ///
    /// # Safety
    /// `space` is valid for reads and writes of `Self::words(run)` aligned, zeroed words as long
    /// as the value or anything that shares it lives, and nothing else uses them.
    pub(crate) const unsafe fn new(run: Run, space: NonNull<AtomicU64>) -> Self {
        let empty = Bitmap { words: space, len: 0, first: 0 };
        let mut bitmaps = [[empty; LEVELS]; LEVELS];
        let mut at = 0;
        let mut level = 0;
        while level < LEVELS {
            let mut height = level;
            while height < LEVELS {
                let (first, len) = bitmap_span(run, height);
                // SAFETY: the bitmaps' lengths sum to `words(run)`, so `at` stays within `space`.
                let words = unsafe { space.add(at) };
                bitmaps[level][height] = Bitmap { words, len: len as usize, first };
                at += len as usize;
                height += 1;
            }
            level += 1;
        }
        Self { bitmaps }
    }

    /// Returns the words of `level`'s bitmap at height `height`, and the number of the first.
    #[inline]
    fn bitmap(&self, level: usize, height: usize) -> (&[AtomicU64], u64) {
        let bitmap = &self.bitmaps[level][height];
        // SAFETY: `new` laid the bitmap over `len` valid words that only atomics touch.
        (unsafe { core::slice::from_raw_parts(bitmap.words.as_ptr(), bitmap.len) }, bitmap.first)
    }

    /// Returns word number `n` of `level`'s bitmap at height `height`; `None` outside the range.
    #[inline]
    fn word(&self, level: usize, height: usize, n: u64) -> Option<&AtomicU64> {
        let (words, first) = self.bitmap(level, height);
        words.get(n.wrapping_sub(first) as usize)
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
