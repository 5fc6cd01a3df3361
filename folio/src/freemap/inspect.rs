//! Looking without taking: what is free, and how much.

use core::ops::ControlFlow;

use heirloom_kho::narrow::{low_u8, u32_to_u64, u32_to_usize, u64_to_usize};
use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Order, Pfn};

use super::FreeMap;
use super::lanes::{Widths, latest};
use super::units::{ChunkId, Level, Width, WordId};

impl FreeMap {
    /// Returns `frames` free frames in a row that start at a multiple of `align`'s size, if there are; they are
    /// not taken. It is for a caller that found no aligned block.
    ///
    /// Looks at stretches that may hold the block which is in each run of that length, and where a chunk of
    /// a higher level is one, at every word.
    pub(crate) fn find_run(&self, frames: u64, align: Order) -> Option<Pfn> {
        let (words, first) = self.bitmap(Level::FIRST, Level::FIRST.lowest());
        let end = first.add(words.len());
        let everywhere = || self.scan_runs((first, end), frames, align);
        let Some((level, width)) = block_in_run(frames) else { return everywhere() };
        let mut look = self.begin_look();
        // By the words: a summary is behind while another call is about to say what it gave, or looks whether
        // what it took was the last.
        let has_any =
            |level| self.bitmap(level, level.lowest()).0.iter().any(|word| word.load(Relaxed) != 0);
        let has_higher = || Level::all().any(|higher| higher > level && has_any(higher));
        if has_higher() {
            return everywhere();
        }
        let (Some(fits), Some(up)) = (self.fits(level), level.lowest().up()) else {
            return everywhere();
        };
        let pairs = (level, width) == (Level::FIRST, Width::ONE);
        let sought = if pairs { Widths::PAIR } else { Widths::of(width) };
        let has = |n| {
            if pairs { self.stretch_has_pair(n) } else { self.stretch_has((level, width), n) }
        };
        // As many words more as a run may begin before the block, and end behind it.
        let around = u64_to_usize(frames.div_ceil(64)) + 1;
        let mut from = WordId::FIRST;
        while let Some(n) = fits.next(sought, from) {
            let (low, high) = (n.lowest_word(up), n.next().lowest_word(up));
            let span = (low.sub(around).max(first), high.add(around).min(end));
            let found = self.scan_runs(span, frames, align);
            if found.is_some() {
                return found;
            }
            if !has(n) {
                look.changed();
                self.say_vain(level, sought, n, || has(n));
            }
            from = n.next();
        }
        // Otherwise other calls were about to clear bits, or to set them, or chunks have become larger ones.
        if self.was_undisturbed(&look) && !has_higher() { None } else { everywhere() }
    }

    /// Returns the first run in these words of single frames.
    fn scan_runs(&self, (from, until): (WordId, WordId), frames: u64, align: Order) -> Option<Pfn> {
        let (mut start, mut end) = (0, 0);
        for n in (from.0..until.0).map(WordId) {
            let mut bits = self.free_in_word(n);
            let first = n.first_frame(Level::FIRST).get();
            let joins = end == first && bits & 1 != 0;
            if !joins && !has_row(bits, frames) {
                // All that matters is what the next word may go on with.
                end = first + 64;
                start = (end - u64::from(bits.leading_ones())).next_multiple_of(align.frames());
                continue;
            }
            while bits != 0 {
                let at = bits.trailing_zeros();
                let from = first + u64::from(at);
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

    /// Returns whether two neighbouring frames are free of which the first is in the stretch.
    fn stretch_has_pair(&self, stretch: WordId) -> bool {
        (0..64).any(|bit| self.begins_pair(stretch.below(bit)))
    }

    /// Returns whether two neighbouring frames are free of which the first is in word `n`.
    pub(super) fn begins_pair(&self, n: WordId) -> bool {
        // SeqCst pairs with that of `give_to`; see `say_vain`.
        let bits = |n| self.word(Level::FIRST, n).map_or(0, latest);
        let word = bits(n);
        word & word >> 1 != 0 || (word >> 63 != 0 && bits(n.next()) & 1 != 0)
    }

    /// Returns which of the 64 frames of word `n` are free, in whichever level.
    fn free_in_word(&self, n: WordId) -> u64 {
        let bits = self.bits(Level::FIRST, n);
        // Part of it free there means that no larger chunk holds it.
        if bits != 0 {
            return bits;
        }
        let first = n.first_frame(Level::FIRST);
        let mut larger = Level::all().skip(1);
        let whole = larger.any(|level| self.has(level, ChunkId::of(first, level)));
        // It may have been broken just now.
        if whole { !0 } else { self.bits(Level::FIRST, n) }
    }

    /// Adds the number of free blocks of each order to `counts`, each as large as can be.
    pub(crate) fn count_free(&self, counts: &mut [u64; Order::MAX_FOLIO.index() + 1]) {
        let all = self.try_each_free(|order, blocks| {
            if let Some(count) = counts.get_mut(order) {
                *count += blocks;
            }
            ControlFlow::Continue(())
        });
        debug_assert!(all.is_continue(), "none breaks it off");
    }

    /// Tells `each` how many free blocks of an order there are in a word, for each word and order, each block as
    /// large as can be, until it breaks it off: the highest level's first, where few words say most.
    pub(crate) fn try_each_free(
        &self,
        mut each: impl FnMut(usize, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for level in Level::all().rev() {
            let mut from = WordId::FIRST;
            while let Some(n) = self.next(level, level.lowest(), from) {
                let mut bits = self.bits(level, n);
                for width in level.widths().rev() {
                    let starts = width.groups(bits);
                    let order = u32_to_usize(level.chunk_log2() + width.log2());
                    if starts != 0 {
                        each(order, u64::from(starts.count_ones()))?;
                    }
                    bits &= !width.spread(starts);
                }
                from = n.next();
            }
        }
        ControlFlow::Continue(())
    }

    /// Returns whether the frame is free, in whichever level.
    pub(crate) fn is_free(&self, pfn: Pfn) -> bool {
        Level::all().any(|level| self.has(level, ChunkId::of(pfn, level)))
    }

    /// Returns whether all of `block` is free: whether [`FreeMap::take_at`] would take it.
    pub(crate) fn has_block(&self, block: Block) -> bool {
        let (level, width) = Level::of(block.order());
        let first = ChunkId::of(block.pfn(), level);
        self.has_bits_at(level, first.word(), width.mask(first.at()))
    }

    fn has_bits_at(&self, level: Level, n: WordId, wanted: u64) -> bool {
        let bits = self.bits(level, n);
        if bits & wanted == wanted {
            return true;
        }
        // Part of it free here means that no larger chunk holds it.
        let (above, bit) = n.above();
        bits == 0 && level.up().is_some_and(|up| self.has_bits_at(up, above, bit))
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

/// Returns the largest block that is in each run of `frames` frames, wherever the run begins: the level of
/// its chunks, and how many it is. `None`: there is none but a single frame, or it is beyond all levels'.
fn block_in_run(frames: u64) -> Option<(Level, Width)> {
    // A run of one frame less than twice a block's.
    let log2 = frames.checked_add(1)?.checked_ilog2()?.checked_sub(1)?;
    let order = Order::new(low_u8(u32_to_u64(log2))).filter(|order| *order < Order::MAX_FOLIO)?;
    (frames > 1).then_some(Level::of(order))
}

/// Returns whether `bits` has `len` neighbours that are set.
const fn has_row(bits: u64, len: u64) -> bool {
    let (mut rows, mut so_far) = (bits, 1);
    while so_far < len && rows != 0 {
        let more = if so_far < len - so_far { so_far } else { len - so_far };
        rows &= if more < 64 { rows >> more } else { 0 };
        so_far += more;
    }
    rows != 0
}
