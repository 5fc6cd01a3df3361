//! Looking without taking: what is free, and how much.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Order, Pfn};

use super::group::{chunk_log2, groups, mask};
use super::{FreeMap, LEVELS, STEP};

impl FreeMap {
    /// Returns the first `frames` free frames in a row that start at a multiple of `align`'s size;
    /// they are not taken. Looks at every word, so it is for a caller that found no aligned block.
    pub(crate) fn find_run(&self, frames: u64, align: Order) -> Option<Pfn> {
        let (words, first) = self.bitmap(0, 0);
        let (mut start, mut end) = (0, 0);
        for n in (first..).take(words.len()) {
            let mut bits = self.free_in_word(n);
            while bits != 0 {
                let from = (n << STEP) + u64::from(bits.trailing_zeros());
                let ones = (bits >> bits.trailing_zeros()).trailing_ones();
                if from != end {
                    start = from.next_multiple_of(align.frames());
                }
                end = from + u64::from(ones);
                if start + frames <= end {
                    return Some(Pfn::new(start));
                }
                bits &= u64::MAX.unbounded_shl(from as u32 % 64 + ones);
            }
        }
        None
    }

    /// Returns which of the 64 frames of word `n` are free, in whichever level.
    fn free_in_word(&self, n: u64) -> u64 {
        let whole = (1..LEVELS).any(|level| {
            let u = n >> chunk_log2(level - 1);
            self.word(level, level, u >> STEP).is_some_and(|w| w.load(Relaxed) >> (u & 63) & 1 == 1)
        });
        if whole { !0 } else { self.word(0, 0, n).map_or(0, |w| w.load(Relaxed)) }
    }

    /// Adds the number of free blocks of each order to `counts`, each as large as can be.
    pub(crate) fn count_free(&self, counts: &mut [u64; Order::MAX_FOLIO.index() + 1]) {
        for level in 0..LEVELS {
            let mut from = 0;
            while let Some(n) = self.next(level, level, from) {
                let mut bits = self.word(level, level, n).map_or(0, |w| w.load(Relaxed));
                let largest = if level + 1 == LEVELS { 0 } else { STEP - 1 };
                for k in (0..=largest).rev() {
                    let mut starts = groups(bits, k);
                    counts[(chunk_log2(level) + k) as usize] += u64::from(starts.count_ones());
                    while starts != 0 {
                        bits &= !mask(starts.trailing_zeros(), k);
                        starts &= starts - 1;
                    }
                }
                from = n + 1;
            }
        }
    }

    /// Returns whether the frame is free, in whichever level.
    pub(crate) fn is_free(&self, pfn: Pfn) -> bool {
        (0..LEVELS).any(|level| {
            let u = pfn.get() >> chunk_log2(level);
            self.word(level, level, u >> STEP).is_some_and(|w| w.load(Relaxed) >> (u & 63) & 1 == 1)
        })
    }
}
