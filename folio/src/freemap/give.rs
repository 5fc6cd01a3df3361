//! Giving blocks back to the free map.

use heirloom_kho::sync::{Acquire, AtomicU64, Relaxed, Release};
use heirloom_kho::{Block, Order, Pfn};

use super::group::{Group, STEP, chunk_log2, level_of, mask};
use super::{FreeMap, LEVELS};

impl FreeMap {
    /// Marks `block` free. `Err`: it lies outside the range, or part of it is seen to be free
    /// already; nothing changed.
    ///
    /// The frame types are what finds a double free. What is seen here are two that race, and
    /// only in the word itself, not in a larger chunk that it has become part of.
    pub(crate) fn give(&self, block: Block) -> Result<(), ()> {
        let (level, k) = level_of(block.order());
        let at = (block.pfn().get() >> chunk_log2(level)) as u32 & 63;
        self.give_bits(level, block.pfn().get() >> (chunk_log2(level) + STEP), mask(at, k))
    }

    /// Marks all blocks of `group` free, as [`FreeMap::give`] does.
    pub(crate) fn give_group(&self, order: Order, group: Group) -> Result<(), ()> {
        let (level, k) = level_of(order);
        // The starts are at least a block apart, so the products do not overlap.
        let bits = group.starts().wrapping_mul(mask(0, k));
        self.give_bits(level, group.first().get() >> (chunk_log2(level) + STEP), bits)
    }

    /// Marks these frames of the range free, as [`FreeMap::give`] does, neighbours in one go. Returns
    /// the length of the last batch.
    ///
    /// A tight loop, as each atomic operation waits for whatever was stored before it.
    #[inline]
    pub(crate) fn give_frames(&self, frames: impl Iterator<Item = Pfn>) -> u32 {
        let (words, origin) = self.bitmap(0, 0);
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

    pub(super) fn give_bits(&self, level: usize, n: u64, bits: u64) -> Result<(), ()> {
        let word = self.word(level, level, n).ok_or(())?;
        if bits == !0 && level + 1 < LEVELS && word.load(Relaxed) == 0 {
            // A whole word is a chunk of the next level.
            return self.give_bits(level + 1, n >> STEP, 1 << (n & 63));
        }
        self.give_to(word, level, n, bits)
    }

    /// Marks chunks free in `word`, which is word `n` of `level`.
    #[inline]
    pub(super) fn give_to(
        &self,
        word: &AtomicU64,
        level: usize,
        n: u64,
        bits: u64,
    ) -> Result<(), ()> {
        // Release pairs with the Acquire of the call that takes one of these chunks: the last
        // owner's accesses come before the next one's.
        let old = word.fetch_or(bits, Release);
        if old != 0 && old & bits == 0 && old | bits != !0 {
            return Ok(());
        }
        self.give_slow(level, n, bits, old)
    }

    /// Finishes a give once word `n` of `level` went from `old` to `old | bits`: a word that
    /// is full moves up, and one that is no longer empty is told to the summaries above.
    #[inline(never)]
    pub(super) fn give_slow(&self, level: usize, n: u64, bits: u64, old: u64) -> Result<(), ()> {
        if old & bits != 0 {
            self.take_back(level, n, bits & !old);
            return Err(());
        }
        // Acquire: the chunks that others gave move up with ours; the Release one level up
        // passes their owners' accesses on.
        if old | bits == !0
            && level + 1 < LEVELS
            && let Some(word) = self.word(level, level, n)
            && word.compare_exchange(!0, 0, Acquire, Relaxed).is_ok()
        {
            if old != 0 {
                self.summarize_emptied(level, n);
            }
            // Once for each level at most.
            return self.give_bits(level + 1, n >> STEP, 1 << (n & 63));
        }
        if old == 0 {
            self.summarize_filled(level, level, n);
        }
        Ok(())
    }

    /// Undoes the part of a refused `give` that was new.
    #[cold]
    pub(super) fn take_back(&self, level: usize, n: u64, bits: u64) {
        if let Some(word) = self.word(level, level, n)
            && word.fetch_and(!bits, Acquire) & !bits == 0
        {
            self.summarize_emptied(level, n);
        }
    }
}
