//! The summaries above a level's lowest bitmap: which words below them are not empty.

use heirloom_kho::sync::{AcqRel, Relaxed};

use super::group::STEP;
use super::{COLUMNS, Columns};

impl Columns {
    /// Word `n` of row `r` is no longer empty: says so in the rows above.
    pub(super) fn filled(&self, t: usize, r: usize, n: u64) {
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
    pub(super) fn emptied(&self, t: usize, n: u64) {
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
    pub(super) fn next(&self, t: usize, r: usize, from: u64) -> Option<u64> {
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
    pub(super) fn is_empty(&self, t: usize) -> bool {
        let (words, _) = self.row(t, COLUMNS - 1);
        words.iter().all(|word| word.load(Relaxed) == 0)
    }
}
