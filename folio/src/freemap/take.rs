//! Taking blocks out of the free map: any of an order, or an exact one.

use heirloom_kho::sync::{Acquire, Relaxed};
use heirloom_kho::{Block, Order, Pfn};

use super::group::{Group, lowest};
use super::units::{ChunkId, Level, Width, WordId};
use super::{FreeMap, Hints};

impl FreeMap {
    /// Takes a free block of `order` (at most [`Order::MAX_FOLIO`]).
    pub(crate) fn take(&self, order: Order, hints: &mut Hints) -> Option<Block> {
        self.take_group(order, 1, hints)?.blocks(order).next()
    }

    /// Takes one free block of `order` (at most [`Order::MAX_FOLIO`]), and up to `most` if they
    /// lie in the same word.
    pub(crate) fn take_group(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group> {
        let (level, width) = Level::of(order);
        let found = if level >= Level::LARGE || self.has_large() {
            self.probe((level, width), most, hints)
        } else {
            self.search((level, width), most)
        };
        let found = found.or_else(|| self.split((level, width), most, hints));
        let (n, starts) = found.or_else(|| self.search_all((level, width), most))?;
        Group::new(order, n, starts)
    }

    /// Takes all free frames of a word of which some are in use.
    pub(crate) fn take_word(&self, hints: &mut Hints) -> Option<Group> {
        const FRAMES: Level = Level::FIRST;
        let start = hints.get(FRAMES);
        for (mut from, until) in [(start, WordId::NONE), (WordId::FIRST, start)] {
            while let Some(n) = self.next(FRAMES, FRAMES.lowest(), from)
                && n < until
            {
                // Acquire pairs with the Release in `give_to` that gave these frames.
                let bits = self.word(FRAMES, n)?.swap(0, Acquire);
                self.summarize_emptied(FRAMES, n);
                if bits != 0 {
                    hints.set(FRAMES, n);
                    return Group::new(Order::ZERO, n, bits);
                }
                from = n.next();
            }
        }
        None
    }

    /// Breaks a chunk of the next level into a word of `level`, and keeps up to `most` groups
    /// of `width` of its chunks: the word's number, and the bits that the groups start with.
    fn split(
        &self,
        (level, width): (Level, Width),
        most: usize,
        hints: &mut Hints,
    ) -> Option<(WordId, u64)> {
        let chunk = self.take(level.up()?.chunk_order(), hints)?;
        let n = ChunkId::of(chunk.pfn(), level).word();
        let starts = lowest(width.groups(!0), most);
        let rest = !width.spread(starts);
        if rest != 0 {
            self.give_rest(level, n, rest);
        }
        hints.set(level, n);
        Some((n, starts))
    }

    /// Gives the chunks of a word that is wholly ours, but for those kept.
    pub(super) fn give_rest(&self, level: Level, n: WordId, rest: u64) {
        let given = self.give_bits(level, n, rest);
        debug_assert!(given.is_ok(), "a taken chunk has no free part");
    }

    /// Takes exactly `block`; `false` if some frame of it is not free, and nothing changed.
    pub(crate) fn take_at(&self, block: Block) -> bool {
        let (level, width) = Level::of(block.order());
        let first = ChunkId::of(block.pfn(), level);
        self.take_bits_at(level, first.word(), width.mask(first.at()))
    }

    fn take_bits_at(&self, level: Level, n: WordId, wanted: u64) -> bool {
        let Some(word) = self.word(level, n) else { return false };
        let mut bits = word.load(Relaxed);
        while bits & wanted == wanted {
            // Acquire pairs with the Release in `give_to` that gave these chunks.
            match word.compare_exchange_weak(bits, bits & !wanted, Acquire, Relaxed) {
                Ok(_) => {
                    if bits == wanted {
                        self.summarize_emptied(level, n);
                    }
                    return true;
                }
                Err(now) => bits = now,
            }
        }
        // Part of it free here means that no larger chunk holds it.
        let ((above, bit), up) = (n.above(), level.up());
        if bits != 0 || !up.is_some_and(|up| self.take_bits_at(up, above, bit)) {
            return false;
        }
        if wanted != !0 {
            self.give_rest(level, n, !wanted);
        }
        true
    }

    /// Takes `chunks` neighbouring chunks of the last level: for runs above the largest folio.
    pub(crate) fn take_chunks(&self, chunks: u64) -> Option<Pfn> {
        const LARGEST: Level = Level::LAST;
        let (words, first) = self.bitmap(LARGEST, LARGEST.lowest());
        let (mut start, end) = (first.chunk(), first.add(words.len()).chunk());
        'search: while start.add(chunks) <= end {
            // From the last on: the chunk that is missing there rules out every start up to it.
            for i in (0..chunks).rev() {
                if !self.has(LARGEST, start.add(i)) {
                    start = start.add(i + 1);
                    continue 'search;
                }
            }
            for i in 0..chunks {
                let chunk = start.add(i);
                if !self.take_bits_at(LARGEST, chunk.word(), chunk.bit()) {
                    // Another CPU was first: what was taken of the run goes back, and the search goes on behind it.
                    for taken in (0..i).map(|i| start.add(i)) {
                        self.give_rest(LARGEST, taken.word(), taken.bit());
                    }
                    start = start.add(i + 1);
                    continue 'search;
                }
            }
            return Some(start.first(LARGEST));
        }
        None
    }
}
