//! The summaries above a level's lowest bitmap: which words below them are not empty.

use heirloom_kho::sync::{AcqRel, Relaxed};

use super::FreeMap;
use super::units::{Height, Level, WordId};

impl FreeMap {
    /// Says in the summaries above that word `n` at `height` is no longer empty.
    pub(super) fn summarize_filled(&self, level: Level, height: Height, n: WordId) {
        let mut n = n;
        for up in height.above() {
            let (above, bit) = n.above();
            let Some(word) = self.word_at(level, up, above) else { return };
            // AcqRel pairs with the one in `summarize_emptied`: the call that clears this bit later sees
            // the word below as filled and sets the bit again.
            if word.fetch_or(bit, AcqRel) != 0 {
                // The call that made that word non-empty tells the summaries above it.
                return;
            }
            n = above;
        }
    }

    /// Says in the summaries above that word `n` of `level`'s lowest bitmap became empty.
    pub(super) fn summarize_emptied(&self, level: Level, n: WordId) {
        let (mut n, mut height) = (n, level.lowest());
        while let Some(up) = height.up() {
            let (above, bit) = n.above();
            let Some(word) = self.word_at(level, up, above) else { return };
            // AcqRel pairs with the one in `summarize_filled`: if the bit that goes was set for a chunk
            // given meanwhile, the load below sees that chunk.
            let rest = word.fetch_and(!bit, AcqRel) & !bit;
            let below = self.word_at(level, height, n).map_or(0, |w| w.load(Relaxed));
            if below != 0 {
                return self.summarize_filled(level, height, n);
            }
            if rest != 0 {
                return;
            }
            (n, height) = (above, up);
        }
    }

    /// Returns the number of the next word of `level`'s bitmap at height `height`, from number `from`, that is not said to be empty.
    pub(super) fn next(&self, level: Level, height: Height, from: WordId) -> Option<WordId> {
        let (words, first) = self.bitmap(level, height);
        let mut from = from.max(first);
        let Some(summary) = height.up() else {
            let rest = words.get(from.index_from(first)..)?;
            return Some(from.add(rest.iter().position(|word| word.load(Relaxed) != 0)?));
        };
        loop {
            let (up, _) = from.above();
            let word = self.word_at(level, summary, up)?;
            let bits = word.load(Relaxed) & from.on_from();
            if bits != 0 {
                return Some(up.below(bits.trailing_zeros()));
            }
            from = self.next(level, summary, up.next())?.below(0);
        }
    }

    /// Returns whether the top summary says that `level` has nothing.
    #[inline]
    pub(super) fn is_empty(&self, level: Level) -> bool {
        let (words, _) = self.bitmap(level, Height::TOP);
        words.iter().all(|word| word.load(Relaxed) == 0)
    }
}
