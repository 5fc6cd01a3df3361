//! Looking without taking: what is free, and how much.

use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Order, Pfn};

use super::FreeMap;
use super::units::{ChunkId, Level, WordId};

impl FreeMap {
    /// Returns the first `frames` free frames in a row that start at a multiple of `align`'s size;
    /// they are not taken. Looks at every word, so it is for a caller that found no aligned block.
    pub(crate) fn find_run(&self, frames: u64, align: Order) -> Option<Pfn> {
        let (words, first) = self.bitmap(Level::FIRST, Level::FIRST.lowest());
        let (mut start, mut end) = (0, 0);
        for n in (0..words.len()).map(|index| first.add(index)) {
            let mut bits = self.free_in_word(n);
            while bits != 0 {
                let at = bits.trailing_zeros();
                let from = n.first_frame(Level::FIRST).get() + u64::from(at);
                let ones = (bits >> at).trailing_ones();
                if from != end {
                    start = from.next_multiple_of(align.frames());
                }
                end = from + u64::from(ones);
                if start + frames <= end {
                    return Some(Pfn::new(start));
                }
                bits &= u64::MAX.unbounded_shl(at + ones);
            }
        }
        None
    }

    /// Returns which of the 64 frames of word `n` are free, in whichever level.
    fn free_in_word(&self, n: WordId) -> u64 {
        let first = n.first_frame(Level::FIRST);
        let mut larger = Level::all().skip(1);
        let whole = larger.any(|level| self.has(level, ChunkId::of(first, level)));
        if whole { !0 } else { self.bits(Level::FIRST, n) }
    }

    /// Adds the number of free blocks of each order to `counts`, each as large as can be.
    pub(crate) fn count_free(&self, counts: &mut [u64; Order::MAX_FOLIO.index() + 1]) {
        for level in Level::all() {
            let mut from = WordId::FIRST;
            while let Some(n) = self.next(level, level.lowest(), from) {
                let mut bits = self.bits(level, n);
                for width in level.widths().rev() {
                    let starts = width.groups(bits);
                    let order = u32_to_usize(level.chunk_log2() + width.log2());
                    counts[order] += u64::from(starts.count_ones());
                    bits &= !width.spread(starts);
                }
                from = n.next();
            }
        }
    }

    /// Returns whether the frame is free, in whichever level.
    pub(crate) fn is_free(&self, pfn: Pfn) -> bool {
        Level::all().any(|level| self.has(level, ChunkId::of(pfn, level)))
    }

    /// Returns whether the chunk is free in its level.
    pub(super) fn has(&self, level: Level, chunk: ChunkId) -> bool {
        self.bits(level, chunk.word()) & chunk.bit() != 0
    }

    /// Returns which chunks of word `n` are free; none outside the range.
    fn bits(&self, level: Level, n: WordId) -> u64 {
        self.word(level, n).map_or(0, |word| word.load(Relaxed))
    }
}
