//! Giving blocks back to the free map.

use heirloom_kho::sync::{Acquire, AtomicU64, Relaxed, Release};
use heirloom_kho::{Block, Order, Pfn};

use super::group::{Group, STEP, mask, place, unit_log2};
use super::{COLUMNS, Columns};

impl Columns {
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

    pub(super) fn give_bits(&self, t: usize, n: u64, bits: u64) -> Result<(), ()> {
        let word = self.word(t, t, n).ok_or(())?;
        if bits == !0 && t + 1 < COLUMNS && word.load(Relaxed) == 0 {
            // A whole word is a unit of the next column.
            return self.give_bits(t + 1, n >> STEP, 1 << (n & 63));
        }
        self.give_to(word, t, n, bits)
    }

    /// Marks units free in `word`, which is word `n` of column `t`.
    #[inline]
    pub(super) fn give_to(&self, word: &AtomicU64, t: usize, n: u64, bits: u64) -> Result<(), ()> {
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
    pub(super) fn settle(&self, t: usize, n: u64, bits: u64, old: u64) -> Result<(), ()> {
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
    pub(super) fn take_back(&self, t: usize, n: u64, bits: u64) {
        if let Some(word) = self.word(t, t, n)
            && word.fetch_and(!bits, Acquire) & !bits == 0
        {
            self.emptied(t, n);
        }
    }
}
