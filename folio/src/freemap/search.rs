//! Searching a level for a group of free chunks, and taking it there.
//!
//! Where memory is ample a CPU takes what it meets first, from where it last found some. Where it is not,
//! what is taken is what leaves most for larger requests: the smallest free block that is large enough, and
//! of several the lowest. Blocks of all ages fill lower memory so, and what lies above becomes whole again.

use heirloom_kho::sync::{Acquire, AtomicU64, Relaxed};

use super::group::lowest;
use super::lanes::{Widths, latest};
use super::units::{Height, Level, Width, WordId};
use super::{FreeMap, Hints};

/// Words that a search looks at before it breaks a larger chunk; and stretches of words.
const PROBES: usize = 8;

/// All words of a stretch.
const ALL: u64 = !0;

/// A level, and how many of its chunks make a group.
type At = (Level, Width);

/// What a search took: the number of the word, and the bits that the groups start with.
type Taken = (WordId, u64);

impl FreeMap {
    /// Returns whether a chunk is free that is larger than blocks mostly are: so much that it does not
    /// matter where a block is taken.
    #[inline]
    pub(crate) fn has_large(&self) -> bool {
        !self.is_empty(Level::LARGE) || !self.is_empty(Level::LAST)
    }

    /// Takes up to `most` groups from one word, looking at no more than a few, from where the CPU last found some.
    pub(super) fn probe(&self, at: At, most: usize, hints: &mut Hints) -> Option<Taken> {
        let (level, width) = at;
        let start = hints.get(level);
        if let Some(starts) = self.take_in(at, most, start) {
            return Some((start, starts));
        }
        if self.is_empty(level) {
            return None;
        }
        let mut probes = if width == Width::ONE { usize::MAX } else { PROBES };
        // Once from the hint to the end, once from the beginning to the hint.
        for (mut from, until) in [(start, WordId::NONE), (WordId::FIRST, start)] {
            while let Some(n) = self.next(level, level.lowest(), from)
                && n < until
            {
                if let Some(starts) = self.take_in(at, most, n) {
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

    /// Takes up to `most` groups from one word, where they leave most, of those in the first stretches that may hold any.
    pub(super) fn search(&self, at: At, most: usize) -> Option<Taken> {
        let (level, width) = at;
        let up = level.lowest().up()?;
        // Frames of small blocks are few, and lie in the lowest stretch that has some.
        let at_once = if level == Level::FIRST { 1 } else { PROBES };
        let (mut from, mut looked) = (WordId::FIRST, 0);
        while looked < PROBES {
            let (near, len) = self.stretches_from(at, up, from, at_once);
            let near = near.get(..len)?;
            from = near.last()?.next();
            looked += len;
            let noted = |found| near.iter().find_map(|n| self.take_noted(at, found, most, *n));
            if let Some(taken) = width.and_above().find_map(noted) {
                return Some(taken);
            }
            for n in near {
                let filled = self.word_at(level, up, *n).map_or(0, |word| word.load(Relaxed));
                if let Some(taken) = self.take_in_stretch(at, most, *n, filled) {
                    return Some(taken);
                }
                if width != Width::ONE {
                    self.say_vain(level, Widths::of(width), *n, || self.stretch_has(at, *n));
                }
            }
        }
        None
    }

    /// Takes what [`FreeMap::search`] would from any word: what is left to do once no larger chunk could be
    /// broken, and what a refusal costs.
    pub(super) fn search_all(&self, at: At, most: usize) -> Option<Taken> {
        let (level, width) = at;
        let Some(fits) = self.fits(level) else {
            // The last level has few words.
            let (words, first) = self.bitmap(level, level.lowest());
            let mut all = (0..words.len()).map(|index| first.add(index));
            return all.find_map(|n| Some((n, self.take_in(at, most, n)?)));
        };
        let (sought, mut look) = (Widths::of(width), self.begin_look());
        let mut from = WordId::FIRST;
        while let Some(n) = fits.next(sought, from) {
            if let Some(taken) = self.take_in_stretch(at, most, n, ALL) {
                return Some(taken);
            }
            look.changed();
            if self.say_vain(level, sought, n, || self.stretch_has(at, n)) {
                from = n.next();
            }
        }
        if self.was_undisturbed(&look) {
            return None;
        }
        // Other calls were about to clear bits, or to set them.
        fits.stretches().find_map(|n| self.take_in_stretch(at, most, n, ALL))
    }

    /// Returns the next stretches from `from` on that may hold a group, up to `most`, and how many they are.
    fn stretches_from(
        &self,
        (level, width): At,
        up: Height,
        from: WordId,
        most: usize,
    ) -> ([WordId; PROBES], usize) {
        let mut near = [WordId::NONE; PROBES];
        let (mut len, mut from) = (0, from);
        // A single chunk is in each stretch that is not empty.
        let fits = if width == Width::ONE { None } else { self.fits(level) };
        while len < most
            && let Some(place) = near.get_mut(len)
            && let Some(n) =
                fits.map_or_else(|| self.next(level, up, from), |f| f.next(Widths::of(width), from))
        {
            *place = n;
            len += 1;
            from = n.next();
        }
        (near, len)
    }

    /// Returns whether a word of a stretch holds a group. What a call gave that then saw no bit
    /// missing is found.
    pub(super) fn stretch_has(&self, (level, width): At, stretch: WordId) -> bool {
        let (words, first) = self.bitmap(level, level.lowest());
        let (start, end) = (stretch.below(0).max(first), stretch.next().below(0));
        let end = end.index_from(first).min(words.len());
        let words = words.get(start.index_from(first)..end).unwrap_or(&[]);
        match width.log2() {
            0 => any_has::<0>(words),
            1 => any_has::<1>(words),
            2 => any_has::<2>(words),
            3 => any_has::<3>(words),
            4 => any_has::<4>(words),
            _ => any_has::<5>(words),
        }
    }

    /// Takes from a word of a stretch that is noted to have a block of width `found`.
    fn take_noted(&self, at: At, found: Width, most: usize, stretch: WordId) -> Option<Taken> {
        let (level, _) = at;
        let mut rest = self.fits(level)?.noted(stretch, found)?.load(Relaxed);
        while rest != 0 {
            let n = stretch.below(rest.trailing_zeros());
            rest &= rest - 1;
            if let Some(starts) = self.take_best(at, found, most, n) {
                return Some((n, starts));
            }
            // It has none any more, or only larger ones.
            self.note(level, n);
        }
        None
    }

    /// Takes up to `most` groups from one of the words of a stretch that `filled` names: of the smallest free
    /// blocks that are large enough the first.
    fn take_in_stretch(&self, at: At, most: usize, stretch: WordId, filled: u64) -> Option<Taken> {
        let (level, width) = at;
        loop {
            let (n, found) = match width.log2() {
                0 => self.find_in_stretch::<0>(level, stretch, filled),
                1 => self.find_in_stretch::<1>(level, stretch, filled),
                2 => self.find_in_stretch::<2>(level, stretch, filled),
                3 => self.find_in_stretch::<3>(level, stretch, filled),
                4 => self.find_in_stretch::<4>(level, stretch, filled),
                _ => self.find_in_stretch::<5>(level, stretch, filled),
            }?;
            // Otherwise other calls took it.
            if let Some(starts) = self.take_best(at, found, most, n) {
                return Some((n, starts));
            }
        }
    }

    /// Finds what [`FreeMap::take_in_stretch`] takes, with the width known: the look at a word is then a few
    /// instructions. Returns the word's number, and the width of the block there.
    fn find_in_stretch<const K: u32>(
        &self,
        level: Level,
        stretch: WordId,
        filled: u64,
    ) -> Option<(WordId, Width)> {
        let (words, first) = self.bitmap(level, level.lowest());
        let mut best: Option<(WordId, Width)> = None;
        let mut rest = filled;
        while rest != 0 {
            let n = stretch.below(rest.trailing_zeros());
            rest &= rest - 1;
            let Some(word) = words.get(n.index_from(first)) else { continue };
            let bits = word.load(Relaxed);
            if bits == 0 && filled != ALL {
                // Its bits in the summaries above are behind.
                self.summarize_emptied(level, n);
            }
            if let Some((found, _)) = Width::new(K).best(bits)
                && best.is_none_or(|(_, so_far)| found < so_far)
            {
                best = Some((n, found));
                if found == Width::new(K) {
                    break;
                }
            }
        }
        best
    }

    /// Takes up to `most` groups from word `n`: the bits that they start with.
    #[inline]
    fn take_in(&self, (level, width): At, most: usize, n: WordId) -> Option<u64> {
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

    /// Takes up to `most` groups from word `n`, from the smallest free blocks there that are large enough, if those
    /// are no larger than `limit`.
    fn take_best(&self, (level, width): At, limit: Width, most: usize, n: WordId) -> Option<u64> {
        let word = self.word(level, n)?;
        let mut bits = word.load(Relaxed);
        while let Some((found, blocks)) = width.best(bits)
            && found <= limit
        {
            let starts = if found == width {
                lowest(blocks, most)
            } else {
                // Of one block, so that the others stay whole.
                lowest(width.groups(found.spread(lowest(blocks, 1))), most)
            };
            let rest = bits & !width.spread(starts);
            // Acquire pairs with the Release in `give_to` that gave these chunks.
            match word.compare_exchange_weak(bits, rest, Acquire, Relaxed) {
                Ok(_) => {
                    if rest == 0 {
                        self.summarize_emptied(level, n);
                    }
                    if found != width || starts == blocks {
                        self.note(level, n);
                    }
                    return Some(starts);
                }
                Err(now) => bits = now,
            }
        }
        None
    }
}

/// Returns whether one of the words has a group of `2^K`, with the width known as in [`FreeMap::find_in_stretch`].
fn any_has<const K: u32>(words: &[AtomicU64]) -> bool {
    // SeqCst pairs with that of `give_to`; see `say_vain`.
    words.iter().any(|word| Width::new(K).groups(latest(word)) != 0)
}
