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
//! Beside them lie lanes, of which widths a stretch of 64 words may hold a group (see `lanes`). They are what
//! makes the refusal of a request cheap, and tell a search where memory is scarce which block to take.
//!
//! The idea of bits that merge upward is `LLFree`'s (USENIX ATC 2023), with 64-way words at every
//! level in place of counters, so that no counter is touched on any path.

use core::ptr::NonNull;

use heirloom_kho::Run;
use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::sync::AtomicU64;

mod carve;
mod fits;
mod give;
mod group;
mod inspect;
mod lanes;
mod search;
mod summary;
mod take;
mod units;

pub(crate) use group::Group;
use lanes::{Fits, STRETCHED, fits_words, lay_fits};
use units::{Height, LEVELS, Level, WordId};

/// One bitmap of a level: words in memory that the owner of the range provides.
#[derive(Clone, Copy)]
struct Bitmap {
    words: NonNull<AtomicU64>,
    len: usize,
    /// Which of all words of its height the first is.
    first: WordId,
}

/// Where a search last found something, per level: the next one starts there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints([WordId; LEVELS]);

impl Hints {
    /// Makes hints of a search that found nothing yet.
    pub(crate) const fn new() -> Self {
        Self([WordId::NONE; LEVELS])
    }

    /// Returns where the next search of a level starts.
    #[inline]
    const fn get(&self, level: Level) -> WordId {
        self.0[level.index()]
    }

    /// Notes where something was found in a level.
    #[inline]
    const fn set(&mut self, level: Level, n: WordId) {
        self.0[level.index()] = n;
    }
}

/// The free blocks of one range of frames.
pub(crate) struct FreeMap {
    bitmaps: [[Bitmap; LEVELS]; LEVELS],
    fits: [Fits; STRETCHED],
    /// Three words, see `fits`.
    marks: NonNull<AtomicU64>,
}

// SAFETY: the bitmaps point at atomics that live as long as the value (promised to `new`); sharing
// them is what atomics are for.
unsafe impl Send for FreeMap {}
// SAFETY: as for `Send`.
unsafe impl Sync for FreeMap {}

/// Returns the first of the words at a height that the frames of `run`, which is not empty, are in, and how many there are.
const fn bitmap_span(run: Run, height: Height) -> (WordId, usize) {
    let shift = height.word_log2();
    let first = run.start().get() >> shift;
    let last = (run.end().get() - 1) >> shift;
    (WordId(first), u64_to_usize(last - first + 1))
}

impl FreeMap {
    /// Returns how many 64-bit words are needed for the (non-empty) `run`.
    pub(crate) const fn words(run: Run) -> usize {
        let mut words = fits_words(run);
        let mut next = Some(Level::FIRST.lowest());
        while let Some(height) = next {
            // Each level up to the one that is as high has a bitmap of it.
            words += bitmap_span(run, height).1 * (height.index() + 1);
            next = height.up();
        }
        words
    }

    /// Makes a free map for `run` in which nothing is free yet.
    ///
    /// # Safety
    /// `space` is valid for reads and writes of `Self::words(run)` aligned, zeroed words as long
    /// as the value or anything that shares it lives, and nothing else uses them.
    pub(crate) unsafe fn new(run: Run, space: NonNull<AtomicU64>) -> Self {
        let empty = Bitmap { words: space, len: 0, first: WordId::FIRST };
        let mut bitmaps = [[empty; LEVELS]; LEVELS];
        let mut at = 0;
        for level in Level::all() {
            for height in level.heights() {
                let (first, len) = bitmap_span(run, height);
                // SAFETY: the bitmaps' lengths sum to `words(run)`, so `at` stays within `space`.
                let words = unsafe { space.add(at) };
                bitmaps[level.index()][height.index()] = Bitmap { words, len, first };
                at += len;
            }
        }
        // SAFETY: behind the bitmaps, `words(run)` counts what the lanes and marks take.
        let (fits, marks) = unsafe { lay_fits(run, space.add(at)) };
        Self { bitmaps, fits, marks }
    }

    /// Returns the words of `level`'s bitmap at a height, and which the first is.
    #[inline]
    fn bitmap(&self, level: Level, height: Height) -> (&[AtomicU64], WordId) {
        let bitmap = &self.bitmaps[level.index()][height.index()];
        // SAFETY: `new` laid the bitmap over `len` valid words that only atomics touch.
        (unsafe { core::slice::from_raw_parts(bitmap.words.as_ptr(), bitmap.len) }, bitmap.first)
    }

    /// Returns word `n` of `level`'s chunks; `None` outside the range.
    #[inline]
    fn word(&self, level: Level, n: WordId) -> Option<&AtomicU64> {
        self.word_at(level, level.lowest(), n)
    }

    /// Returns word `n` of `level`'s bitmap at a height; `None` outside the range.
    #[inline]
    fn word_at(&self, level: Level, height: Height, n: WordId) -> Option<&AtomicU64> {
        let (words, first) = self.bitmap(level, height);
        words.get(n.index_from(first))
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
