//! The free blocks of one memory range, as bits.
//!
//! Picture four columns of bitmaps. A set bit in the lowest row of column `t` is a free *unit* of
//! `64^t` frames: 1, 64, 4096 or 262,144 (orders 0, 6, 12, 18). A free block of any order is an
//! aligned group of bits in one word of one column: order 9 is eight bits of column 1. When the
//! last bit of a word is set, the word is 64 free units in a row, which is one unit of the next
//! column: the call that sets it moves the unit up. A frame is thus free in exactly one column, and
//! taking or giving any block is one atomic operation on one word.
//!
//! ```text
//! row 3   . . .                . . .              . . .            units of 2^18 frames
//! row 2   word empty? ...      word empty? ...    units of 2^12
//! row 1   word empty? ...      units of 2^6
//! row 0   units of 1
//!         column 0             column 1           column 2         column 3
//! ```
//!
//! The rows above a column's lowest say which words below are not empty, 64 words a bit-word, so
//! that finding a free unit costs a few loads however large and full memory is. They are hints
//! that may be set for an empty word; at rest no word with a free unit is without its bits.
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

use group::STEP;

pub(crate) use group::Group;

/// Columns, and rows of the first column.
pub(crate) const COLUMNS: usize = 4;

/// One row of a column: words in memory that the owner of the range provides.
#[derive(Clone, Copy)]
struct Row {
    words: NonNull<AtomicU64>,
    len: usize,
    /// The number that the first word would have in a bitmap that starts at frame 0.
    first: u64,
}

/// Where a search last found something, per column: the next one starts there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints([u64; COLUMNS]);

impl Hints {
    /// Nothing found yet.
    pub(crate) const fn new() -> Self {
        Self([u64::MAX; COLUMNS])
    }
}

/// The free blocks of one range of frames.
pub(crate) struct Columns {
    rows: [[Row; COLUMNS]; COLUMNS],
}

// SAFETY: the rows point at atomics that live as long as the value (promised to `new`); sharing
// them is what atomics are for.
unsafe impl Send for Columns {}
// SAFETY: as for `Send`.
unsafe impl Sync for Columns {}

/// Words in row `r` of any column for the frames of `run`, and the number of the first.
const fn row_span(run: Run, r: usize) -> (u64, u64) {
    let shift = STEP * (r as u32 + 1);
    let first = run.start().get() >> shift;
    let last = (run.end().get() - 1) >> shift;
    (first, last - first + 1)
}

impl Columns {
    /// 64-bit words needed for the (non-empty) `run`.
    pub(crate) const fn words(run: Run) -> usize {
        let mut words = 0;
        let mut r = 0;
        while r < COLUMNS {
            // Row `r` exists in columns 0 to r.
            words += row_span(run, r).1 as usize * (r + 1);
            r += 1;
        }
        words
    }

    /// Columns for `run` in which nothing is free yet.
    ///
    /// # Safety
    /// `space` is valid for reads and writes of `Self::words(run)` aligned, zeroed words as long
    /// as the value or anything that shares it lives, and nothing else uses them.
    pub(crate) const unsafe fn new(run: Run, space: NonNull<AtomicU64>) -> Self {
        let empty = Row { words: space, len: 0, first: 0 };
        let mut rows = [[empty; COLUMNS]; COLUMNS];
        let mut at = 0;
        let mut t = 0;
        while t < COLUMNS {
            let mut r = t;
            while r < COLUMNS {
                let (first, len) = row_span(run, r);
                // SAFETY: the rows' lengths sum to `words(run)`, so `at` stays within `space`.
                let words = unsafe { space.add(at) };
                rows[t][r] = Row { words, len: len as usize, first };
                at += len as usize;
                r += 1;
            }
            t += 1;
        }
        Self { rows }
    }

    /// The words of row `r` in column `t`, and the number of the first.
    #[inline]
    fn row(&self, t: usize, r: usize) -> (&[AtomicU64], u64) {
        let row = &self.rows[t][r];
        // SAFETY: `new` laid the row over `len` valid words that only atomics touch.
        (unsafe { core::slice::from_raw_parts(row.words.as_ptr(), row.len) }, row.first)
    }

    /// Word number `n` of row `r` in column `t`; `None` outside the range.
    #[inline]
    fn word(&self, t: usize, r: usize, n: u64) -> Option<&AtomicU64> {
        let (words, first) = self.row(t, r);
        words.get(n.wrapping_sub(first) as usize)
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
