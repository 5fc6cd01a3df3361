//! Free objects on their way out of a slab and back into it, a word of free bits at a time.

use core::ptr::NonNull;

use heirloom_folio::DirectMap;
use heirloom_folio::sync::Ordering::Relaxed;
use heirloom_kho::narrow::u32_to_usize;

use crate::geometry::Geometry;
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
                slab.words(geometry).get(u32_to_usize(index) / 64)
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
    word: u32,
    bits: u64,
    pub(super) objects: u32,
}

impl FreeBatch {
    /// Begins with one object of a slab.
    pub(super) const fn of(slab: Slab, index: u32) -> Self {
        Self { slab, word: index / 64, bits: 1 << (index % 64), objects: 0 }
    }

    /// Adds an object of the slab.
    #[inline]
    pub(super) fn add(&mut self, geometry: &Geometry, index: u32) {
        if index / 64 != self.word {
            self.put(geometry);
            (self.word, self.bits) = (index / 64, 0);
        }
        self.bits |= 1 << (index % 64);
    }

    /// Sets the free bits in the slab.
    #[inline]
    pub(super) fn put(&mut self, geometry: &Geometry) {
        let Some(word) = self.slab.words(geometry).get(u32_to_usize(self.word)) else { return };
        let there = word.load(Relaxed);
        debug_assert_eq!(there & self.bits, 0, "an object is put back once");
        word.store(there | self.bits, Relaxed);
        self.objects += (self.bits & !there).count_ones();
    }
}

/// Moves free objects of `slab` into `magazine`. Returns how many.
pub(super) fn take(slab: Slab, geometry: &Geometry, magazine: &mut Magazine) -> u32 {
    let mut taken = 0;
    for (first, word) in (0_u32..).step_by(64).zip(slab.words(geometry)) {
        let mut bits = word.load(Relaxed);
        if bits == 0 {
            continue;
        }
        // The lowest goes in last, so that objects come out in address order.
        while bits != 0 {
            let bit = bits.ilog2();
            if !magazine.push(slab.round(geometry, first + bit)) {
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
