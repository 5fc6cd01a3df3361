//! The objects of a cache that survive, or are to be claimed, one after the other.

use heirloom_folio::Machine;
use heirloom_kho::PhysAddr;
use heirloom_kho::sync::Ordering::Relaxed;

use crate::adopt_slab::survived;
use crate::cache::Cache;
use crate::directory::{Here, NamedSlabs};
use crate::geometry::{Geometry, ObjectIndex};
use crate::state::{ObjectState, State};

/// Which objects are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Left by the predecessor, and not claimed.
    Unclaimed,
    /// In use, and surviving a jump.
    Preserved,
}

impl<'s, M: Machine> Cache<'s, M> {
    /// Returns the objects that the predecessor left and that are not claimed: address and reuse
    /// tag of each. What is claimed or discarded meanwhile may or may not be among them. No lock is
    /// held in between.
    pub fn unclaimed(&self) -> Objects<'s, M> {
        Objects::all(*self, Which::Unclaimed)
    }

    /// Returns the objects in use that survive a jump: address and reuse tag of each. In a
    /// preserving cache all that are in use; else those that are preserved, or were claimed. What
    /// is resumed is among them, and its slabs are [swept](Cache::sweep) on the way; one that is
    /// not sound is passed over, and all that are not swept where nothing can be waited for. What
    /// changes meanwhile may or may not be among them. No lock is held in between.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{CacheSpec, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let names = slabs.cache(CacheSpec::new("names", 64))?;
    /// let (kept, _lost) = (names.alloc()?, names.alloc()?);
    /// // SAFETY: allocated just now.
    /// unsafe { names.preserve(kept) }?;
    /// let all: Vec<_> = names.preserved().collect();
    /// let [(addr, reuse_tag)] = all[..] else { panic!("one survives") };
    /// assert_eq!(names.at(addr, reuse_tag)?, kept);
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn preserved(&self) -> Objects<'s, M> {
        Objects::all(*self, Which::Preserved)
    }

    /// Returns those that are not claimed in one slab, if it is one of this cache.
    pub(crate) const fn unclaimed_in(&self, slab: PhysAddr) -> ObjectsIn<'s, M> {
        ObjectsIn { cache: *self, which: Which::Unclaimed, slab, index: ObjectIndex::FIRST }
    }
}

/// Objects of a cache: the address and the reuse tag of each; from [`Cache::unclaimed`] and [`Cache::preserved`].
pub struct Objects<'s, M: Machine> {
    place: ObjectsIn<'s, M>,
    /// How many records of this description were begun with: one, but for what a predecessor forged.
    records: usize,
    named: Option<NamedSlabs<'s, Here<'s, M>>>,
}

impl<'s, M: Machine> Objects<'s, M> {
    const fn all(cache: Cache<'s, M>, which: Which) -> Self {
        let place = ObjectsIn { cache, which, slab: PhysAddr::new(0), index: ObjectIndex::NONE };
        Self { place, records: 0, named: None }
    }
}

impl<M: Machine> Iterator for Objects<'_, M> {
    type Item = (PhysAddr, u8);

    fn next(&mut self) -> Option<(PhysAddr, u8)> {
        let Cache { slabs, inner } = self.place.cache;
        loop {
            if let Some(found) = self.place.next() {
                return Some(found);
            }
            if let Some(named) = self.named.as_mut().and_then(Iterator::next) {
                if self.place.which == Which::Preserved {
                    // One that cannot be swept has no objects that can be told.
                    let _ = slabs.sweep_around(slabs.memory().machine().ptr(named.slab));
                }
                (self.place.slab, self.place.index) = (named.slab, ObjectIndex::FIRST);
                continue;
            }
            let view = slabs.view();
            let mut records = view.records_with(|desc| *desc == inner.desc);
            self.named = Some(view.named(&records.nth(self.records)?));
            self.records += 1;
        }
    }
}

/// Those of them that lie in one slab.
pub(crate) struct ObjectsIn<'s, M: Machine> {
    cache: Cache<'s, M>,
    which: Which,
    slab: PhysAddr,
    index: ObjectIndex,
}

impl<M: Machine> Iterator for ObjectsIn<'_, M> {
    type Item = (PhysAddr, u8);

    fn next(&mut self) -> Option<(PhysAddr, u8)> {
        let Cache { slabs, inner } = self.cache;
        let (geometry, preserving): (&Geometry, _) = (&inner.geometry, inner.spec.preserving);
        if !geometry.has(self.index) {
            return None;
        }
        let which = self.which;
        let is_meant = |state: State| match which {
            Which::Unclaimed => state.is(ObjectState::Unclaimed),
            Which::Preserved => survived(state, preserving) && !state.is(ObjectState::Unclaimed),
        };
        let found = slabs.looking(|stays| {
            // What the cache directory names may be a slab that is left, or by now another cache's.
            let (slab, owner) = slabs.slab_at(self.slab, stays)?;
            if !core::ptr::eq(owner, inner) || slab.phys() != self.slab {
                return None;
            }
            let states = geometry
                .indices_from(self.index)
                .zip(slab.states(geometry).iter().skip(self.index.index()));
            let mut states = states.map(|(index, byte)| (index, State(byte.load(Relaxed))));
            let (index, state) = states.find(|(_, state)| is_meant(*state))?;
            Some((index, (slab.addr(geometry, index), state.reuse_tag())))
        });
        self.index = found.map_or(ObjectIndex::NONE, |(index, _)| index.add(1));
        found.map(|(_, object)| object)
    }
}
