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

use heirloom_kho::sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release};
use heirloom_kho::{Block, Order, Pfn, Run};

mod carve;
mod group;
mod look;

use group::{STEP, groups, lowest, mask, place, unit, unit_log2};

pub(crate) use group::Group;

/// Columns, and rows of the first column.
pub(crate) const COLUMNS: usize = 4;
/// Words that a search for a group looks at before it breaks a larger unit.
const PROBES: usize = 8;

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

    /// Marks `block` free. `Err`: it lies outside the range, or part of it is seen to be free
    /// already; nothing changed.
    ///
    /// The kinds bytes are what finds a double free. What is seen here are two that race, and
    /// only in the word itself, not in a larger unit that it has become part of.
    pub(crate) fn give(&self, block: Block) -> Result<(), ()> {
        let (t, k) = place(block.order());
        let at = (block.pfn().get() >> unit_log2(t)) as u32 & 63;
        self.give_bits(t, block.pfn().get() >> (unit_log2(t) + STEP), mask(at, k))
    }

    /// Marks all blocks of `group` free, as [`Columns::give`] does.
    pub(crate) fn give_group(&self, order: Order, group: Group) -> Result<(), ()> {
        let (t, k) = place(order);
        // The starts are at least a block apart, so the products do not overlap.
        let bits = group.starts().wrapping_mul(mask(0, k));
        self.give_bits(t, group.first().get() >> (unit_log2(t) + STEP), bits)
    }

    /// Marks these frames of the range free, as [`Columns::give`] does, neighbours in one go: how
    /// many the last of them were that went together.
    ///
    /// A tight loop, as each atomic operation waits for whatever was stored before it.
    #[inline]
    pub(crate) fn give_frames(&self, frames: impl Iterator<Item = Pfn>) -> u32 {
        let (words, origin) = self.row(0, 0);
        let give = |n: u64, bits: u64| {
            let word = words.get(n.wrapping_sub(origin) as usize);
            let given = word.map_or(Err(()), |word| self.give_to(word, 0, n, bits));
            // Two frees of one block that raced: one of them is refused here, too late to say so.
            debug_assert!(given.is_ok(), "a kept frame is in no other place");
        };
        let mut frames = frames.map(Pfn::get);
        let Some(first) = frames.next() else { return 0 };
        let (mut n, mut bits) = (first >> STEP, 1 << (first & 63));
        for frame in frames {
            if frame >> STEP != n {
                give(n, bits);
                (n, bits) = (frame >> STEP, 0);
            }
            bits |= 1 << (frame & 63);
        }
        give(n, bits);
        bits.count_ones()
    }

    fn give_bits(&self, t: usize, n: u64, bits: u64) -> Result<(), ()> {
        let word = self.word(t, t, n).ok_or(())?;
        if bits == !0 && t + 1 < COLUMNS && word.load(Relaxed) == 0 {
            // A whole word is a unit of the next column.
            return self.give_bits(t + 1, n >> STEP, 1 << (n & 63));
        }
        self.give_to(word, t, n, bits)
    }

    /// Marks units free in `word`, which is word `n` of column `t`.
    #[inline]
    fn give_to(&self, word: &AtomicU64, t: usize, n: u64, bits: u64) -> Result<(), ()> {
        // Release pairs with the Acquire of the call that takes one of these units: the last
        // owner's accesses come before the next one's.
        let old = word.fetch_or(bits, Release);
        if old != 0 && old & bits == 0 && old | bits != !0 {
            return Ok(());
        }
        self.settle(t, n, bits, old)
    }

    /// What is left to do once word `n` of column `t` went from `old` to `old | bits`: a word that
    /// is full moves up, and one that is no longer empty is told to the rows above.
    #[inline(never)]
    fn settle(&self, t: usize, n: u64, bits: u64, old: u64) -> Result<(), ()> {
        if old & bits != 0 {
            self.take_back(t, n, bits & !old);
            return Err(());
        }
        // Acquire: the units that others gave move up with ours; the Release one column up
        // passes their owners' accesses on.
        if old | bits == !0
            && t + 1 < COLUMNS
            && let Some(word) = self.word(t, t, n)
            && word.compare_exchange(!0, 0, Acquire, Relaxed).is_ok()
        {
            if old != 0 {
                self.emptied(t, n);
            }
            // Once for each column at most.
            return self.give_bits(t + 1, n >> STEP, 1 << (n & 63));
        }
        if old == 0 {
            self.filled(t, t, n);
        }
        Ok(())
    }

    /// Undoes the part of a refused `give` that was new.
    #[cold]
    fn take_back(&self, t: usize, n: u64, bits: u64) {
        if let Some(word) = self.word(t, t, n)
            && word.fetch_and(!bits, Acquire) & !bits == 0
        {
            self.emptied(t, n);
        }
    }

    /// Word `n` of row `r` is no longer empty: says so in the rows above.
    fn filled(&self, t: usize, r: usize, n: u64) {
        let mut n = n;
        for up in r + 1..COLUMNS {
            let Some(word) = self.word(t, up, n >> STEP) else { return };
            // AcqRel pairs with the one in `emptied`: the call that clears this bit later sees
            // the word below as filled and sets the bit again.
            if word.fetch_or(1 << (n & 63), AcqRel) != 0 {
                // The call that made that word non-empty tells the rows above it.
                return;
            }
            n >>= STEP;
        }
    }

    /// Word `n` of column `t`'s lowest row became empty: says so in the rows above.
    fn emptied(&self, t: usize, n: u64) {
        let mut n = n;
        for up in t + 1..COLUMNS {
            let Some(word) = self.word(t, up, n >> STEP) else { return };
            let bit = 1 << (n & 63);
            // AcqRel pairs with the one in `filled`: if the bit that goes was set for a unit
            // given meanwhile, the load below sees that unit.
            let rest = word.fetch_and(!bit, AcqRel) & !bit;
            let below = self.word(t, up - 1, n).map_or(0, |w| w.load(Relaxed));
            if below != 0 {
                return self.filled(t, up - 1, n);
            }
            if rest != 0 {
                return;
            }
            n >>= STEP;
        }
    }

    /// The next word of column `t`'s row `r`, from number `from`, that is not said to be empty.
    fn next(&self, t: usize, r: usize, from: u64) -> Option<u64> {
        if r + 1 == COLUMNS {
            let (words, first) = self.row(t, r);
            let skip = from.saturating_sub(first) as usize;
            let found = words.iter().skip(skip).position(|w| w.load(Relaxed) != 0)?;
            return Some(first + (skip + found) as u64);
        }
        let mut from = from.max(self.rows[t][r].first);
        loop {
            let up = from >> STEP;
            let word = self.word(t, r + 1, up)?;
            let bits = word.load(Relaxed) & (!0 << (from & 63));
            if bits != 0 {
                return Some((up << STEP) + u64::from(bits.trailing_zeros()));
            }
            from = self.next(t, r + 1, up + 1)? << STEP;
        }
    }

    /// Whether the top row says that column `t` has nothing.
    #[inline]
    fn is_empty(&self, t: usize) -> bool {
        let (words, _) = self.row(t, COLUMNS - 1);
        words.iter().all(|word| word.load(Relaxed) == 0)
    }

    /// Takes up to `most` groups of `2^k` units from word `n` of column `t`: the bits that the
    /// groups start with.
    #[inline]
    fn take_in(&self, (t, k): (usize, u32), most: usize, n: u64) -> Option<u64> {
        let word = self.word(t, t, n)?;
        let mut bits = word.load(Relaxed);
        while let starts @ 1.. = groups(bits, k) {
            let starts = lowest(starts, most);
            let rest = bits & !starts.wrapping_mul(mask(0, k));
            // Acquire pairs with the Release in `give_to` that gave these units.
            match word.compare_exchange_weak(bits, rest, Acquire, Relaxed) {
                Ok(_) => {
                    if rest == 0 {
                        self.emptied(t, n);
                    }
                    return Some(starts);
                }
                Err(now) => bits = now,
            }
        }
        None
    }

    /// Takes up to `most` groups of `2^k` units from one word of column `t`, looking at no more
    /// than `probes` words: the word's number, and the bits that the groups start with.
    fn take_bits(
        &self,
        (t, k): (usize, u32),
        most: usize,
        probes: usize,
        hints: &mut Hints,
    ) -> Option<(u64, u64)> {
        let start = hints.0[t];
        if let Some(starts) = self.take_in((t, k), most, start) {
            return Some((start, starts));
        }
        if self.is_empty(t) {
            return None;
        }
        let mut probes = probes;
        // Once from the hint to the end, once from the beginning to the hint.
        for (mut from, until) in [(start, u64::MAX), (0, start)] {
            while let Some(n) = self.next(t, t, from)
                && n < until
            {
                if let Some(starts) = self.take_in((t, k), most, n) {
                    hints.0[t] = n;
                    return Some((n, starts));
                }
                if self.word(t, t, n)?.load(Relaxed) == 0 {
                    // Its bits in the rows above are behind.
                    self.emptied(t, n);
                }
                probes = probes.checked_sub(1)?;
                from = n + 1;
            }
        }
        None
    }

    /// Takes a free block of `order` (at most [`Order::MAX_FOLIO`]).
    pub(crate) fn take(&self, order: Order, hints: &mut Hints) -> Option<Block> {
        self.take_group(order, 1, hints)?.blocks(order).next()
    }

    /// Takes one free block of `order` (at most [`Order::MAX_FOLIO`]), and up to `most` if they
    /// lie in the same word.
    pub(crate) fn take_group(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group> {
        let (t, k) = place(order);
        let few = if k == 0 { usize::MAX } else { PROBES };
        let (n, starts) = match self.take_bits((t, k), most, few, hints) {
            Some(found) => found,
            None => match self.split(t, k, most, hints) {
                Some(found) => found,
                None => self.sweep((t, k), most, hints)?,
            },
        };
        Group::new(order, n, starts)
    }

    /// Takes up to `most` groups of `2^k` units from one word of column `t`, after a look at every
    /// word that is not said to be empty: what is left to do where memory is nearly full and in
    /// pieces, and what a refusal costs.
    fn sweep(&self, (t, k): (usize, u32), most: usize, hints: &mut Hints) -> Option<(u64, u64)> {
        match k {
            0 => self.sweep_for::<0>(t, most, hints),
            1 => self.sweep_for::<1>(t, most, hints),
            2 => self.sweep_for::<2>(t, most, hints),
            3 => self.sweep_for::<3>(t, most, hints),
            4 => self.sweep_for::<4>(t, most, hints),
            _ => self.sweep_for::<5>(t, most, hints),
        }
    }

    /// The same with `k` known: the look at a word is then a few instructions.
    fn sweep_for<const K: u32>(
        &self,
        t: usize,
        most: usize,
        hints: &mut Hints,
    ) -> Option<(u64, u64)> {
        let (words, first) = self.row(t, t);
        let has = |n: u64| {
            let word = words.get(n.wrapping_sub(first) as usize);
            word.is_some_and(|word| groups(word.load(Relaxed), K) != 0)
        };
        let mut take = |n: u64| {
            let starts = if has(n) { self.take_in((t, K), most, n)? } else { return None };
            hints.0[t] = n;
            Some((n, starts))
        };
        if t + 1 == COLUMNS {
            return (first..).take(words.len()).find_map(take);
        }
        let (above, above_first) = self.row(t, t + 1);
        (above_first..).zip(above).find_map(|(up, word)| {
            let mut rest = word.load(Relaxed);
            while rest != 0 {
                let found = take((up << STEP) + u64::from(rest.trailing_zeros()));
                if found.is_some() {
                    return found;
                }
                rest &= rest - 1;
            }
            None
        })
    }

    /// Takes all free frames of a word of which some are in use.
    pub(crate) fn take_word(&self, hints: &mut Hints) -> Option<Group> {
        let start = hints.0[0];
        for (mut from, until) in [(start, u64::MAX), (0, start)] {
            while let Some(n) = self.next(0, 0, from)
                && n < until
            {
                // Acquire pairs with the Release in `give_to` that gave these frames.
                let bits = self.word(0, 0, n)?.swap(0, Acquire);
                self.emptied(0, n);
                if bits != 0 {
                    hints.0[0] = n;
                    return Group::new(Order::ZERO, n, bits);
                }
                from = n + 1;
            }
        }
        None
    }

    /// Breaks a unit of the next column into a word of column `t`, and keeps up to `most` groups
    /// of `2^k` of its units: the word's number, and the bits that the groups start with.
    fn split(&self, t: usize, k: u32, most: usize, hints: &mut Hints) -> Option<(u64, u64)> {
        let up = t + 1;
        if up >= COLUMNS {
            return None;
        }
        let unit = self.take(unit(up), hints)?;
        let n = unit.pfn().get() >> unit_log2(up);
        let starts = lowest(groups(!0, k), most);
        let rest = !starts.wrapping_mul(mask(0, k));
        if rest != 0 {
            self.put_rest(t, n, rest);
        }
        hints.0[t] = n;
        Some((n, starts))
    }

    /// Gives the units of a word that is wholly ours, but for those kept.
    fn put_rest(&self, t: usize, n: u64, rest: u64) {
        let given = self.give_bits(t, n, rest);
        debug_assert!(given.is_ok(), "a taken unit has no free part");
    }

    /// Takes exactly `block`; `false` if some frame of it is not free, and nothing changed.
    pub(crate) fn take_at(&self, block: Block) -> bool {
        let (t, k) = place(block.order());
        let n = block.pfn().get() >> (unit_log2(t) + STEP);
        let at = (block.pfn().get() >> unit_log2(t)) as u32 & 63;
        self.take_bits_at(t, n, mask(at, k))
    }

    fn take_bits_at(&self, t: usize, n: u64, wanted: u64) -> bool {
        let Some(word) = self.word(t, t, n) else { return false };
        let mut bits = word.load(Relaxed);
        while bits & wanted == wanted {
            // Acquire pairs with the Release in `give_to` that gave these units.
            match word.compare_exchange_weak(bits, bits & !wanted, Acquire, Relaxed) {
                Ok(_) => {
                    if bits == wanted {
                        self.emptied(t, n);
                    }
                    return true;
                }
                Err(now) => bits = now,
            }
        }
        // Part of it free here means that no larger unit holds it.
        let up = t + 1;
        if bits != 0 || up >= COLUMNS || !self.take_bits_at(up, n >> STEP, 1 << (n & 63)) {
            return false;
        }
        if wanted != !0 {
            self.put_rest(t, n, !wanted);
        }
        true
    }

    /// Takes `units` neighbouring units of the last column: for runs above the largest folio.
    pub(crate) fn take_units(&self, units: u64) -> Option<Pfn> {
        let t = COLUMNS - 1;
        let (words, first) = self.row(t, t);
        let is_free = |u: u64| {
            let word = words.get(((u >> STEP) - first) as usize);
            word.is_some_and(|w| w.load(Relaxed) >> (u & 63) & 1 == 1)
        };
        let (mut start, end) = (first << STEP, (first + words.len() as u64) << STEP);
        'search: while start + units <= end {
            for i in (0..units).rev() {
                if !is_free(start + i) {
                    start += i + 1;
                    continue 'search;
                }
            }
            for i in 0..units {
                let u = start + i;
                if !self.take_bits_at(t, u >> STEP, 1 << (u & 63)) {
                    for u in start..u {
                        self.put_rest(t, u >> STEP, 1 << (u & 63));
                    }
                    start += i + 1;
                    continue 'search;
                }
            }
            return Some(Pfn::new(start << unit_log2(t)));
        }
        None
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
