//! Which stretches of words may hold a free group: what makes the refusal of a request cheap where memory
//! is in pieces.
//!
//! A *stretch* is the 64 words of a level that share a word of the summary above. Of each stretch a lane of
//! eight bits says which widths it may hold a free group of; a word has the lanes of eight stretches. A
//! lane above stands for eight lanes, and has the bits that any of them has:
//!
//! ```text
//! row 1   | lane of stretches 0 to 7                        | ...        | one word is the top
//! row 0   | stretch 0 | stretch 1 | ... | stretch 7 | ...                | a lane: widths 1 to 32, pairs
//! ```
//!
//! A bit that is set may be behind: taking changes none. One that is clear is right. A search that finds
//! nothing in a stretch clears its bits from the width searched for on, and looks once more; a call that gives sets them
//! all again, if one is missing. So a search pays for each stretch once, and then no more until something is
//! given there.
//!
//! Where all bits are set, as they are at first, giving costs one load of a count of stretches that lack one, which nothing
//! writes. Where bits change, the change is counted as it begins and as it has ended, so that a search which
//! found no bit can tell whether it looked in between.

use core::ptr::NonNull;

use heirloom_kho::Run;
use heirloom_kho::narrow::{u32_to_usize, u64_to_usize};
use heirloom_kho::sync::{AcqRel, Acquire, AtomicU64, Ordering, Relaxed};

use super::units::{Height, LEVELS, Level, Width, WordId};

/// Levels that have stretches: in the last one each chunk is a block of its own.
pub(super) const STRETCHED: usize = LEVELS - 1;

/// log2 of the lanes in a word.
const LANES_LOG2: u32 = 3;
/// log2 of the bits in a lane.
const LANE_LOG2: u32 = 3;
/// The lowest bit of each lane.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Words that marks take, with a cache line's length to each side: what every free loads is on a line
/// with nothing that changes as often.
const MARKS: usize = 3 + 2 * MARGIN;
const MARGIN: usize = 7;

/// Bits of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Widths(u64);

impl Widths {
    pub(super) const ALL: Self = Self(0x7f);
    /// Two neighbours, which need not be a block, in the first level.
    pub(super) const PAIR: Self = Self(1);
    /// Any chunk at all.
    const SINGLE: Self = Self(0x40);

    /// Returns the bit of `width`.
    pub(super) const fn of(width: Width) -> Self {
        if width.log2() == 0 { Self::SINGLE } else { Self(1 << width.log2()) }
    }

    /// Returns all that is not there where nothing of this bit is: it, and what is wider.
    pub(super) const fn and_wider(self) -> Self {
        if self.0 == Self::SINGLE.0 {
            Self::ALL
        } else {
            Self(!Self::SINGLE.0 & Self::ALL.0 & !(self.0 - 1))
        }
    }

    /// Returns these bits in the lane of item `item` of a row.
    pub(super) const fn at(self, item: u64) -> u64 {
        self.0 << ((item & 7) << LANE_LOG2)
    }

    /// Returns the widths of which `word` has a free block.
    pub(super) const fn in_word(word: u64) -> Self {
        let (mut widths, mut width) = (if word == 0 { 0 } else { Self::SINGLE.0 }, 1);
        while width < WIDTHS_U32 && Width::new(width).groups(word) != 0 {
            widths |= 1 << width;
            width += 1;
        }
        Self(widths)
    }

    /// Returns the bits that some lane of a word has.
    const fn of_any(word: u64) -> Self {
        let four = word | word >> 32;
        let two = four | four >> 16;
        Self((two | two >> 8) & Self::ALL.0)
    }
}

/// The lanes of one level. Where each row begins is worked out as it is needed.
pub(super) struct Fits {
    words: NonNull<AtomicU64>,
    first: WordId,
    last: WordId,
    /// Behind the lanes, of each stretch a word for each width: where to look first.
    notes: NonNull<AtomicU64>,
}

/// How many widths blocks have in a word.
const WIDTHS: usize = u32_to_usize(WIDTHS_U32);
const WIDTHS_U32: u32 = 6;

/// Words of lanes that stand for as many stretches each.
pub(super) struct Row<'a> {
    words: &'a [AtomicU64],
    /// The number of the first one.
    first: u64,
}

impl<'a> Row<'a> {
    /// Returns the word with the lane of an item.
    pub(super) fn word(&self, item: u64) -> Option<&'a AtomicU64> {
        self.words.get(u64_to_usize((item >> LANES_LOG2).wrapping_sub(self.first)))
    }
}

/// Returns the first and the last of the stretches that frames of `run` are in.
const fn stretches(run: Run, height: Height) -> (WordId, WordId) {
    let shift = height.word_log2();
    (WordId(run.start().get() >> shift), WordId((run.end().get() - 1) >> shift))
}

/// Returns the number of the first word of row `row`, and how many words it has.
const fn row_span(first: WordId, last: WordId, row: u32) -> (u64, usize) {
    let shift = LANES_LOG2 * (row + 1);
    let start = first.0 >> shift;
    (start, u64_to_usize((last.0 >> shift) - start + 1))
}

impl Fits {
    /// Returns how many words the lanes of stretches between these are.
    const fn words(first: WordId, last: WordId) -> usize {
        let (mut words, mut row) = (0, 0);
        loop {
            let (_, len) = row_span(first, last, row);
            words += len;
            if len == 1 {
                return words + WIDTHS * u64_to_usize(last.0 - first.0 + 1);
            }
            row += 1;
        }
    }

    /// Returns of each width the word that says which words of a stretch have such a block.
    pub(super) fn notes(&self, stretch: WordId) -> Option<&[AtomicU64; WIDTHS]> {
        // Without notes loom has fewer steps to try; nothing relies on them.
        if cfg!(any(loom, heirloom_model)) || stretch < self.first || stretch > self.last {
            return None;
        }
        let at = stretch.index_from(self.first) * WIDTHS;
        // SAFETY: `lay_fits` left as many valid words for each stretch, that only atomics touch.
        Some(unsafe { self.notes.add(at).cast().as_ref() })
    }

    /// Returns the word that says which words of a stretch have a block of `width`.
    pub(super) fn noted(&self, stretch: WordId, width: Width) -> Option<&AtomicU64> {
        self.notes(stretch)?.get(u32_to_usize(width.log2()))
    }

    /// Iterates over all stretches.
    pub(super) fn stretches(&self) -> impl Iterator<Item = WordId> {
        (self.first.0..=self.last.0).map(WordId)
    }

    /// Returns row `row`; `None` above the top.
    pub(super) fn row(&self, row: u32) -> Option<Row<'_>> {
        let mut at = 0;
        for below in 0..row {
            let (_, len) = row_span(self.first, self.last, below);
            if len == 1 {
                return None;
            }
            at += len;
        }
        let (first, len) = row_span(self.first, self.last, row);
        // SAFETY: `new` laid all rows over as many valid words, one after the other, that only atomics touch.
        let words = unsafe { core::slice::from_raw_parts(self.words.add(at).as_ptr(), len) };
        Some(Row { words, first })
    }

    /// Sets all bits of all lanes, while nothing else uses them.
    fn set_all(&self) {
        let mut row = 0;
        while let Some(lanes) = self.row(row) {
            let shift = LANES_LOG2 * row;
            for item in self.first.0 >> shift..=self.last.0 >> shift {
                if let Some(word) = lanes.word(item) {
                    word.store(word.load(Relaxed) | Widths::ALL.at(item), Relaxed);
                }
            }
            row += 1;
        }
    }

    /// Returns whether one of these bits of a stretch's lane is missing.
    pub(super) fn lacks(&self, stretch: WordId, widths: Widths) -> bool {
        let word = self.row(0).and_then(|row| row.word(stretch.0));
        word.is_some_and(|word| latest(word) & widths.at(stretch.0) != widths.at(stretch.0))
    }

    /// Returns the next stretch from `from` on of which the lane has the one bit `sought`.
    pub(super) fn next(&self, sought: Widths, from: WordId) -> Option<WordId> {
        let bit = EACH << sought.0.trailing_zeros();
        let (mut row, mut item) = (0, from.max(self.first).0);
        loop {
            let lanes = self.row(row)?;
            // Acquire: what is seen of a change comes with its having begun, see `Marks`.
            let bits = match lanes.word(item) {
                Some(word) => word.load(Acquire) & bit & (!0 << ((item & 7) << LANE_LOG2)),
                // Beyond the end of the row.
                None => return None,
            };
            if bits == 0 {
                // What is behind this word, in the word above.
                item = (item >> LANES_LOG2) + 1;
                row += 1;
                continue;
            }
            item = (item & !7) | u64::from(bits.trailing_zeros() >> LANE_LOG2);
            if row == 0 {
                return Some(WordId(item));
            }
            item <<= LANES_LOG2;
            row -= 1;
        }
    }

    /// Sets bits of the lanes above row `below` that an item of it belongs to.
    pub(super) fn lift(&self, below: u32, item: u64, widths: Widths) {
        let (mut row, mut item) = (below + 1, item >> LANES_LOG2);
        while let Some(word) = self.row(row).and_then(|row| row.word(item)) {
            // AcqRel pairs with the one in `drop_empty`: the call that clears this bit later sees what is below.
            if word.fetch_or(widths.at(item), AcqRel) & widths.at(item) == widths.at(item) {
                return;
            }
            (row, item) = (row + 1, item >> LANES_LOG2);
        }
    }

    /// Clears bits above a stretch that no lane has any more.
    pub(super) fn drop_empty(&self, stretch: WordId, widths: Widths) {
        let (mut row, mut item, mut widths) = (0, stretch.0, widths);
        while let Some(below) = self.row(row).and_then(|row| row.word(item)) {
            let (up, above) = (row + 1, item >> LANES_LOG2);
            widths = Widths(widths.0 & !Widths::of_any(below.load(Relaxed)).0);
            let Some(word) = self.row(up).and_then(|row| row.word(above)) else { return };
            if widths.0 == 0 {
                return;
            }
            // AcqRel pairs with the one in `lift`: if what goes was set for a lane set meanwhile, the load
            // below sees that lane.
            word.fetch_and(!widths.at(above), AcqRel);
            let back = Widths(widths.0 & Widths::of_any(below.load(Relaxed)).0);
            if back.0 != 0 {
                self.lift(row, item, back);
                widths = Widths(widths.0 & !back.0);
            }
            (row, item) = (up, above);
        }
    }
}

/// Returns what a word has in the one order of all calls that give and of all searches that clear bits: the
/// give comes before the look of the search, or the search's mark before the look of the give.
#[inline]
pub(super) fn latest(word: &AtomicU64) -> u64 {
    if cfg!(any(loom, heirloom_model)) {
        // It takes such a load for a weaker one, but not a read-modify-write.
        word.fetch_or(0, AcqRel)
    } else {
        word.load(Ordering::SeqCst)
    }
}

/// Returns how many words the lanes and marks take of a free map for `run`.
pub(super) const fn fits_words(run: Run) -> usize {
    let mut words = MARKS;
    let mut height = Level::FIRST.lowest().up();
    while let Some(up) = height {
        let (first, last) = stretches(run, up);
        words += Fits::words(first, last);
        height = up.up();
    }
    words
}

/// Lays the lanes of all levels out in `space`, and behind them the marks. Every bit is set.
///
/// # Safety
/// `space` is valid for reads and writes of [`fits_words`] aligned, zeroed words as long as anything uses
/// them through what is returned, and nothing else does.
pub(super) unsafe fn lay_fits(
    run: Run,
    space: NonNull<AtomicU64>,
) -> ([Fits; STRETCHED], NonNull<AtomicU64>) {
    let mut at = 0;
    let mut height = Level::FIRST.lowest();
    let fits = core::array::from_fn(|_| {
        height = height.up().unwrap_or(Height::TOP);
        let (first, last) = stretches(run, height);
        let notes = at + Fits::words(first, last) - WIDTHS * (last.index_from(first) + 1);
        // SAFETY: the lanes' words sum to less than `fits_words(run)`.
        let fits = unsafe { Fits { words: space.add(at), first, last, notes: space.add(notes) } };
        fits.set_all();
        at += Fits::words(first, last);
        fits
    });
    // SAFETY: within the words, which the marks with their margins end.
    (fits, unsafe { space.add(at + MARGIN) })
}
