//! Free objects on their way out of a slab and back into it, a word of free bits at a time.

use core::ptr::NonNull;

use heirloom_folio::DirectMap;
use heirloom_kho::sync::Ordering::Relaxed;

use crate::geometry::{FreeWord, Geometry, ObjectIndex};
use crate::header::Slab;
use crate::magazine::{Magazine, Round};
use crate::prefetch::prefetch;

/// Returns the slab of a free object.
#[inline]
pub(super) fn slab_around(map: &impl DirectMap, geometry: &Geometry, round: Round) -> Option<Slab> {
    let addr = map.phys(round.object)?;
    // SAFETY: magazines hold free objects of this cache's slabs, and a slab is not given back
    // before all of its objects are.
    Some(unsafe { Slab::at(map, geometry.slab_of(addr)) })
}

/// Asks for the lines that [`Lists::empty_out`] is going to need: with objects of as many slabs
/// as there are objects, each would be waited for.
pub(crate) fn prefetch_slabs(map: &impl DirectMap, geometry: &Geometry, magazine: &Magazine) {
    let mut at: Option<Slab> = None;
    for round in magazine.rounds() {
        if at.is_none_or(|slab| slab.holds(geometry, round).is_none()) {
            at = slab_around(map, geometry, round);
            let word = at.and_then(|slab| {
                let index = slab.holds(geometry, round)?;
                slab.words(geometry).get(index.free_bit().0.index())
            });
            if let Some(word) = word {
                prefetch(NonNull::from(word).cast());
            }
        }
    }
}

/// Objects on their way back to one slab, those of the last word not in it yet.
pub(super) struct FreeBatch {
    pub(super) slab: Slab,
    word: FreeWord,
    bits: u64,
    pub(super) objects: u32,
}

impl FreeBatch {
    /// Begins with one object of a slab.
    pub(super) const fn of(slab: Slab, index: ObjectIndex) -> Self {
        let (word, bits) = index.free_bit();
        Self { slab, word, bits, objects: 0 }
    }

    /// Adds an object of the slab.
    #[inline]
    pub(super) fn add(&mut self, geometry: &Geometry, index: ObjectIndex) {
        let (word, bit) = index.free_bit();
        if word != self.word {
            self.put(geometry);
            (self.word, self.bits) = (word, 0);
        }
        self.bits |= bit;
    }

    /// Sets the free bits in the slab.
    #[inline]
    pub(super) fn put(&mut self, geometry: &Geometry) {
        let Some(word) = self.slab.words(geometry).get(self.word.index()) else { return };
        let there = word.load(Relaxed);
        debug_assert_eq!(there & self.bits, 0, "an object is put back once");
        word.store(there | self.bits, Relaxed);
        self.objects += (self.bits & !there).count_ones();
    }
}

/// Moves free objects of `slab` into `magazine`. Returns how many.
pub(super) fn take(slab: Slab, geometry: &Geometry, magazine: &mut Magazine) -> u32 {
    let mut taken = 0;
    for (at, word) in FreeWord::all().zip(slab.words(geometry)) {
        let mut bits = word.load(Relaxed);
        if bits == 0 {
            continue;
        }
        // The lowest goes in last, so that objects come out in address order.
        while bits != 0 {
            let bit = bits.ilog2();
            if !magazine.push(slab.round(geometry, at.object(bit))) {
                break;
            }
            bits &= !(1 << bit);
            taken += 1;
        }
        word.store(bits, Relaxed);
        if magazine.is_full() {
            break;
        }
    }
    taken
}
