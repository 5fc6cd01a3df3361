//! The summaries above a level's lowest bitmap: which words below them are not empty.

use heirloom_kho::sync::{AcqRel, Relaxed};

use super::group::STEP;
use super::{FreeMap, LEVELS};

impl FreeMap {
    /// Says in the summaries above that word `n` at `height` is no longer empty.
    pub(super) fn summarize_filled(&self, level: usize, height: usize, n: u64) {
        let mut n = n;
        for up in height + 1..LEVELS {
            let Some(word) = self.word(level, up, n >> STEP) else { return };
            // AcqRel pairs with the one in `summarize_emptied`: the call that clears this bit later sees
            // the word below as filled and sets the bit again.
            if word.fetch_or(1 << (n & 63), AcqRel) != 0 {
                // The call that made that word non-empty tells the summaries above it.
                return;
            }
            n >>= STEP;
        }
    }

    /// Says in the summaries above that word `n` of `level`'s lowest bitmap became empty.
    pub(super) fn summarize_emptied(&self, level: usize, n: u64) {
        let mut n = n;
        for up in level + 1..LEVELS {
            let Some(word) = self.word(level, up, n >> STEP) else { return };
            let bit = 1 << (n & 63);
            // AcqRel pairs with the one in `summarize_filled`: if the bit that goes was set for a chunk
            // given meanwhile, the load below sees that chunk.
            let rest = word.fetch_and(!bit, AcqRel) & !bit;
            let below = self.word(level, up - 1, n).map_or(0, |w| w.load(Relaxed));
            if below != 0 {
                return self.summarize_filled(level, up - 1, n);
            }
            if rest != 0 {
                return;
            }
            n >>= STEP;
        }
    }

    /// Returns the number of the next word of `level`'s bitmap at height `height`, from number `from`, that is not said to be empty.
    pub(super) fn next(&self, level: usize, height: usize, from: u64) -> Option<u64> {
        if height + 1 == LEVELS {
            let (words, first) = self.bitmap(level, height);
            let skip = from.saturating_sub(first) as usize;
            let found = words.iter().skip(skip).position(|w| w.load(Relaxed) != 0)?;
            return Some(first + (skip + found) as u64);
        }
        let mut from = from.max(self.bitmaps[level][height].first);
        loop {
            let up = from >> STEP;
            let word = self.word(level, height + 1, up)?;
            let bits = word.load(Relaxed) & (!0 << (from & 63));
            if bits != 0 {
                return Some((up << STEP) + u64::from(bits.trailing_zeros()));
            }
            from = self.next(level, height + 1, up + 1)? << STEP;
        }
    }

    /// Returns whether the top summary says that `level` has nothing.
    #[inline]
    pub(super) fn is_empty(&self, level: usize) -> bool {
        let (words, _) = self.bitmap(level, LEVELS - 1);
        words.iter().all(|word| word.load(Relaxed) == 0)
    }
}
