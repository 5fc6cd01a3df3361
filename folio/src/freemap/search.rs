//! Searching a level for a word with free chunks, and taking them there.

use heirloom_kho::sync::{Acquire, Relaxed};

use super::group::{STEP, groups, lowest, mask};
use super::{FreeMap, Hints, LEVELS};

impl FreeMap {
    /// Takes up to `most` groups of `2^k` chunks from word `n` of `level`: the bits that the
    /// groups start with.
    #[inline]
    pub(super) fn take_in(&self, (level, k): (usize, u32), most: usize, n: u64) -> Option<u64> {
        let word = self.word(level, level, n)?;
        let mut bits = word.load(Relaxed);
        while let starts @ 1.. = groups(bits, k) {
            let starts = lowest(starts, most);
            let rest = bits & !starts.wrapping_mul(mask(0, k));
            // Acquire pairs with the Release in `give_to` that gave these chunks.
            match word.compare_exchange_weak(bits, rest, Acquire, Relaxed) {
                Ok(_) => {
                    if rest == 0 {
                        self.summarize_emptied(level, n);
                    }
                    return Some(starts);
                }
                Err(now) => bits = now,
            }
        }
        None
    }

    /// Takes up to `most` groups of `2^k` chunks from one word of `level`, looking at no more
    /// than `probes` words: the word's number, and the bits that the groups start with.
    pub(super) fn take_bits(
        &self,
        (level, k): (usize, u32),
        most: usize,
        probes: usize,
        hints: &mut Hints,
    ) -> Option<(u64, u64)> {
        let start = hints.0[level];
        if let Some(starts) = self.take_in((level, k), most, start) {
            return Some((start, starts));
        }
        if self.is_empty(level) {
            return None;
        }
        let mut probes = probes;
        // Once from the hint to the end, once from the beginning to the hint.
        for (mut from, until) in [(start, u64::MAX), (0, start)] {
            while let Some(n) = self.next(level, level, from)
                && n < until
            {
                if let Some(starts) = self.take_in((level, k), most, n) {
                    hints.0[level] = n;
                    return Some((n, starts));
                }
                if self.word(level, level, n)?.load(Relaxed) == 0 {
                    // Its bits in the summaries above are behind.
                    self.summarize_emptied(level, n);
                }
                probes = probes.checked_sub(1)?;
                from = n + 1;
            }
        }
        None
    }

    /// Takes up to `most` groups of `2^k` chunks from one word of `level`, after a look at every
    /// word that is not said to be empty: what is left to do where memory is nearly full and in
    /// pieces, and what a refusal costs.
    pub(super) fn sweep(
        &self,
        (level, k): (usize, u32),
        most: usize,
        hints: &mut Hints,
    ) -> Option<(u64, u64)> {
        match k {
            0 => self.sweep_for::<0>(level, most, hints),
            1 => self.sweep_for::<1>(level, most, hints),
            2 => self.sweep_for::<2>(level, most, hints),
            3 => self.sweep_for::<3>(level, most, hints),
            4 => self.sweep_for::<4>(level, most, hints),
            _ => self.sweep_for::<5>(level, most, hints),
        }
    }

    /// Does what [`FreeMap::sweep`] does with `k` known: the look at a word is then a few instructions.
    fn sweep_for<const K: u32>(
        &self,
        level: usize,
        most: usize,
        hints: &mut Hints,
    ) -> Option<(u64, u64)> {
        let (words, first) = self.bitmap(level, level);
        let has = |n: u64| {
            let word = words.get(n.wrapping_sub(first) as usize);
            word.is_some_and(|word| groups(word.load(Relaxed), K) != 0)
        };
        let mut take = |n: u64| {
            let starts = if has(n) { self.take_in((level, K), most, n)? } else { return None };
            hints.0[level] = n;
            Some((n, starts))
        };
        if level + 1 == LEVELS {
            return (first..).take(words.len()).find_map(take);
        }
        let (above, above_first) = self.bitmap(level, level + 1);
        (above_first..).zip(above).find_map(|(up, word)| {
            let mut rest = word.load(Relaxed);
            while rest != 0 {
                let found = take((up << STEP) + u64::from(rest.trailing_zeros()));
                if found.is_some() {
                    return found;
                }
                rest &= rest - 1;
            }
            None
        })
    }
}
