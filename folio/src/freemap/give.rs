//! Giving blocks back to the free map.

use heirloom_kho::sync::{Acquire, AtomicU64, Ordering, Relaxed};
use heirloom_kho::{Block, Order, Pfn};

use super::FreeMap;
use super::group::Group;
use super::units::{ChunkId, Level, WordId};

impl FreeMap {
    /// Marks `block` free. `Err`: it lies outside the range, or part of it is seen to be free
    /// already; nothing changed.
    ///
    /// The frame types are what finds a double free. What is seen here are two that race, and
    /// only in the word itself, not in a larger chunk that it has become part of.
    pub(crate) fn give(&self, block: Block) -> Result<(), ()> {
        let (level, width) = Level::of(block.order());
        let first = ChunkId::of(block.pfn(), level);
        self.give_bits(level, first.word(), width.mask(first.at()))
    }

    /// Marks all blocks of `group` free, as [`FreeMap::give`] does.
    pub(crate) fn give_group(&self, order: Order, group: Group) -> Result<(), ()> {
        let (level, width) = Level::of(order);
        let first = ChunkId::of(group.first(), level);
        self.give_bits(level, first.word(), width.spread(group.starts()))
    }

    /// Marks these frames of the range free, as [`FreeMap::give`] does, neighbours in one go. Returns
    /// the length of the last batch.
    ///
    /// A tight loop, as each atomic operation waits for whatever was stored before it.
    #[inline]
    pub(crate) fn give_frames(&self, frames: impl Iterator<Item = Pfn>) -> u32 {
        let (words, origin) = self.bitmap(Level::FIRST, Level::FIRST.lowest());
        let give = |n: WordId, bits: u64| {
            let word = words.get(n.index_from(origin));
            let given = word.map_or(Err(()), |word| self.give_to(word, Level::FIRST, n, bits));
            // Two frees of one block that raced: one of them is refused here, too late to say so.
            debug_assert!(given.is_ok(), "a kept frame is in no other place");
        };
        let mut frames = frames.map(|pfn| ChunkId::of(pfn, Level::FIRST));
        let Some(first) = frames.next() else { return 0 };
        let (mut n, mut bits) = (first.word(), first.bit());
        for frame in frames {
            if frame.word() != n {
                give(n, bits);
                (n, bits) = (frame.word(), 0);
            }
            bits |= frame.bit();
        }
        give(n, bits);
        bits.count_ones()
    }

    /// Says of frames that [`FreeMap::give_frames`] gave what their words may hold now: to be called after it.
    #[inline]
    pub(crate) fn say_frames(&self, frames: impl Iterator<Item = Pfn>) {
        // Once for all: the last of the atomic operations is waited for here.
        if self.misses_bits() {
            for n in frames.map(|pfn| ChunkId::of(pfn, Level::FIRST).word()) {
                self.say_given(Level::FIRST, n);
            }
        }
    }

    pub(super) fn give_bits(&self, level: Level, n: WordId, bits: u64) -> Result<(), ()> {
        let word = self.word(level, n).ok_or(())?;
        if bits == !0
            && let Some(up) = level.up()
            && word.load(Relaxed) == 0
        {
            // A whole word is a chunk of the next level.
            let (above, bit) = n.above();
            return self.give_bits(up, above, bit);
        }
        let given = self.give_to(word, level, n, bits);
        if self.misses_bits() {
            self.say_given(level, n);
            self.note(level, n);
        }
        given
    }

    /// Marks chunks free in `word`, which is word `n` of `level`. The caller then looks whether it has to
    /// [say](FreeMap::say_given) so.
    #[inline]
    pub(super) fn give_to(
        &self,
        word: &AtomicU64,
        level: Level,
        n: WordId,
        bits: u64,
    ) -> Result<(), ()> {
        // Release pairs with the Acquire of the call that takes one of these chunks: the last
        // owner's accesses come before the next one's.
        // SeqCst, with `misses_bits` after it: a search in vain sees what is given, or is seen (`say_vain`).
        let old = word.fetch_or(bits, Ordering::SeqCst);
        if old != 0 && old & bits == 0 && old | bits != !0 {
            return Ok(());
        }
        self.give_slow(level, n, bits, old)
    }

    /// Finishes a give once word `n` of `level` went from `old` to `old | bits`: a word that
    /// is full moves up, and one that is no longer empty is told to the summaries above.
    #[inline(never)]
    pub(super) fn give_slow(&self, level: Level, n: WordId, bits: u64, old: u64) -> Result<(), ()> {
        if old & bits != 0 {
            self.take_back(level, n, bits & !old);
            return Err(());
        }
        // Acquire: the chunks that others gave move up with ours; the Release one level up
        // passes their owners' accesses on.
        if old | bits == !0
            && let Some(up) = level.up()
            && let Some(word) = self.word(level, n)
            && word.compare_exchange(!0, 0, Acquire, Relaxed).is_ok()
        {
            if old != 0 {
                self.summarize_emptied(level, n);
            }
            // Once for each level at most.
            let (above, bit) = n.above();
            return self.give_bits(up, above, bit);
        }
        if old == 0 {
            self.summarize_filled(level, level.lowest(), n);
        }
        Ok(())
    }

    /// Undoes the part of a refused `give` that was new.
    #[cold]
    pub(super) fn take_back(&self, level: Level, n: WordId, bits: u64) {
        if let Some(word) = self.word(level, n)
            && word.fetch_and(!bits, Acquire) & !bits == 0
        {
            self.summarize_emptied(level, n);
        }
    }
}
