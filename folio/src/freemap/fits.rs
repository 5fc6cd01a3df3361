//! The lanes of a free map as searches and calls that give change them: see `lanes`.

use heirloom_kho::sync::{AcqRel, Acquire, AtomicU64, Ordering, Relaxed};

use super::FreeMap;
use super::lanes::{Fits, Widths, latest};
use super::units::{Level, Width, WordId};

/// What tells how current the lanes are.
struct Marks<'a> {
    /// At least as many as there are stretches of which a bit is missing.
    missing: &'a AtomicU64,
    /// Changes of lanes that have begun, and that have ended.
    begun: &'a AtomicU64,
    ended: &'a AtomicU64,
}

/// A look for what fits: whether nothing changed in the lanes while it lasted.
pub(super) struct Look {
    ended: u64,
    own: u64,
}

impl FreeMap {
    fn marks(&self) -> Marks<'_> {
        // SAFETY: `lay_fits` left three valid words here that only atomics touch.
        unsafe {
            Marks {
                missing: self.marks.as_ref(),
                begun: self.marks.add(1).as_ref(),
                ended: self.marks.add(2).as_ref(),
            }
        }
    }

    /// Returns the lanes of a level; `None` for the last.
    pub(super) fn fits(&self, level: Level) -> Option<&Fits> {
        self.fits.get(level.index())
    }

    /// Returns whether a call that gave has more to do: some stretch lacks a bit.
    #[inline]
    pub(super) fn misses_bits(&self) -> bool {
        latest(self.marks().missing) != 0
    }

    /// Says of the stretch of word `n`, to which something was given, what the word may hold now.
    #[cold]
    #[inline(never)]
    pub(super) fn say_given(&self, level: Level, n: WordId) {
        let (stretch, _) = n.above();
        // What other calls took meanwhile need not be said; what they gave they say.
        let word = self.word(level, n).map_or(0, |word| word.load(Relaxed));
        self.say(level, stretch, Widths::in_word(word));
        if level == Level::FIRST && self.lacks_pair(stretch) && self.begins_pair(n) {
            self.say(level, stretch, Widths::PAIR);
        }
        // Its first frame may be the second of two.
        let before = n.sub(1);
        if level == Level::FIRST
            && word & 1 != 0
            && self.lacks_pair(before.above().0)
            && self.begins_pair(before)
        {
            self.say(level, before.above().0, Widths::PAIR);
        }
    }

    fn lacks_pair(&self, stretch: WordId) -> bool {
        self.fits(Level::FIRST).is_some_and(|fits| fits.lacks(stretch, Widths::PAIR))
    }

    /// Notes which blocks word `n` has: a search for the smallest that is large enough looks there first. Plain
    /// stores: what is lost between two calls is not found so, or is looked for in vain.
    pub(super) fn note(&self, level: Level, n: WordId) {
        let word = self.word(level, n).map_or(0, |word| word.load(Relaxed));
        let ((stretch, bit), mut widths) = (n.above(), Width::all_of(word));
        let Some(notes) = self.fits(level).and_then(|fits| fits.notes(stretch)) else { return };
        for noted in notes {
            let before = noted.load(Relaxed);
            if (before & bit != 0) != (widths & 1 != 0) {
                noted.store(before ^ bit, Relaxed);
            }
            widths >>= 1;
        }
    }

    fn say(&self, level: Level, stretch: WordId, widths: Widths) {
        if let Some(fits) = self.fits(level).filter(|fits| fits.lacks(stretch, widths)) {
            let marks = self.marks();
            marks.begun.fetch_add(1, AcqRel);
            self.set_lane(fits, stretch, widths);
            marks.ended.fetch_add(1, AcqRel);
        }
    }

    fn set_lane(&self, fits: &Fits, stretch: WordId, widths: Widths) {
        let Some(word) = fits.row(0).and_then(|row| row.word(stretch.0)) else { return };
        let (set, all) = (widths.at(stretch.0), Widths::ALL.at(stretch.0));
        let before = word.fetch_or(set, Ordering::SeqCst);
        fits.lift(0, stretch.0, widths);
        if before & all != all && (before | set) & all == all {
            self.marks().missing.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Says of a stretch that it holds nothing of the bit `sought`, and so nothing wider; `found` looks whether
    /// that is so, and is asked once the bits are clear. Returns whether it is: if not, all are set again.
    pub(super) fn say_vain(
        &self,
        level: Level,
        sought: Widths,
        stretch: WordId,
        found: impl FnOnce() -> bool,
    ) -> bool {
        let Some(fits) = self.fits(level) else { return true };
        let Some(word) = fits.row(0).and_then(|row| row.word(stretch.0)) else { return true };
        let (marks, widths, all) = (self.marks(), sought.and_wider(), Widths::ALL.at(stretch.0));
        marks.begun.fetch_add(1, AcqRel);
        // SeqCst, here and of the words that `found` loads, pairs with that of `give_to` and `misses_bits`: a
        // call that gives meanwhile sees that a bit is missing, or what it gave is seen below.
        marks.missing.fetch_add(1, Ordering::SeqCst);
        let before = word.fetch_and(!widths.at(stretch.0), Ordering::SeqCst);
        if before & all != all {
            marks.missing.fetch_sub(1, Ordering::SeqCst);
        }
        let vain = !found();
        if vain {
            fits.drop_empty(stretch, widths);
        } else {
            self.set_lane(fits, stretch, widths);
        }
        marks.ended.fetch_add(1, AcqRel);
        vain
    }

    /// Begins a look.
    pub(super) fn begin_look(&self) -> Look {
        // Acquire: the changes that have ended are seen.
        Look { ended: self.marks().ended.load(Acquire), own: 0 }
    }

    /// Returns whether no lane was changed, but by the look itself, while it lasted: then a bit that it did not
    /// find was not there.
    pub(super) fn was_undisturbed(&self, look: &Look) -> bool {
        self.marks().begun.load(Acquire) == look.ended.wrapping_add(look.own)
    }
}

impl Look {
    /// Counts a change of the look's own.
    pub(super) const fn changed(&mut self) {
        self.own += 1;
    }
}
