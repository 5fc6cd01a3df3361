//! Searching a level for a word with free chunks, and taking them there.

use heirloom_kho::sync::{Acquire, Relaxed};

use super::group::lowest;
use super::units::{Level, Width, WordId};
use super::{FreeMap, Hints};

impl FreeMap {
    /// Takes up to `most` groups of `width` chunks from word `n` of `level`: the bits that the
    /// groups start with.
    #[inline]
    pub(super) fn take_in(
        &self,
        (level, width): (Level, Width),
        most: usize,
        n: WordId,
    ) -> Option<u64> {
        let word = self.word(level, n)?;
        let mut bits = word.load(Relaxed);
        while let starts @ 1.. = width.groups(bits) {
            let starts = lowest(starts, most);
            let rest = bits & !width.spread(starts);
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

    /// Takes up to `most` groups of `width` chunks from one word of `level`, looking at no more
    /// than `probes` words: the word's number, and the bits that the groups start with.
    pub(super) fn take_bits(
        &self,
        (level, width): (Level, Width),
        most: usize,
        probes: usize,
        hints: &mut Hints,
    ) -> Option<(WordId, u64)> {
        let start = hints.get(level);
        if let Some(starts) = self.take_in((level, width), most, start) {
            return Some((start, starts));
        }
        if self.is_empty(level) {
            return None;
        }
        let mut probes = probes;
        // Once from the hint to the end, once from the beginning to the hint.
        for (mut from, until) in [(start, WordId::NONE), (WordId::FIRST, start)] {
            while let Some(n) = self.next(level, level.lowest(), from)
                && n < until
            {
                if let Some(starts) = self.take_in((level, width), most, n) {
                    hints.set(level, n);
                    return Some((n, starts));
                }
                if self.word(level, n)?.load(Relaxed) == 0 {
                    // Its bits in the summaries above are behind.
                    self.summarize_emptied(level, n);
                }
                probes = probes.checked_sub(1)?;
                from = n.next();
            }
        }
        None
    }

    /// Takes up to `most` groups of `width` chunks from one word of `level`, after a look at every
    /// word that is not said to be empty: what is left to do where memory is nearly full and in
    /// pieces, and what a refusal costs.
    pub(super) fn sweep(
        &self,
        (level, width): (Level, Width),
        most: usize,
        hints: &mut Hints,
    ) -> Option<(WordId, u64)> {
        match width.log2() {
            0 => self.sweep_for::<0>(level, most, hints),
            1 => self.sweep_for::<1>(level, most, hints),
            2 => self.sweep_for::<2>(level, most, hints),
            3 => self.sweep_for::<3>(level, most, hints),
            4 => self.sweep_for::<4>(level, most, hints),
            _ => self.sweep_for::<5>(level, most, hints),
        }
    }

    /// Does what [`FreeMap::sweep`] does with the width known: the look at a word is then a few instructions.
    fn sweep_for<const K: u32>(
        &self,
        level: Level,
        most: usize,
        hints: &mut Hints,
    ) -> Option<(WordId, u64)> {
        let width = Width::new(K);
        let (words, first) = self.bitmap(level, level.lowest());
        let has = |n: WordId| {
            let word = words.get(n.index_from(first));
            word.is_some_and(|word| width.groups(word.load(Relaxed)) != 0)
        };
        let mut take = |n: WordId| {
            let starts = if has(n) { self.take_in((level, width), most, n)? } else { return None };
            hints.set(level, n);
            Some((n, starts))
        };
        let Some(summary) = level.lowest().up() else {
            return (0..words.len()).find_map(|index| take(first.add(index)));
        };
        let (above, above_first) = self.bitmap(level, summary);
        above.iter().enumerate().find_map(|(index, word)| {
            let up = above_first.add(index);
            let mut rest = word.load(Relaxed);
            while rest != 0 {
                let found = take(up.below(rest.trailing_zeros()));
                if found.is_some() {
                    return found;
                }
                rest &= rest - 1;
            }
            None
        })
    }
}
