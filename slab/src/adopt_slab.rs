//! One slab of a predecessor's: checked, made ours, and its objects claimed or discarded.

use core::ptr::NonNull;

use heirloom_folio::{FrameType, Machine};
use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::sync::Ordering::{Relaxed, Release};
use heirloom_kho::sync::{AtomicU8, AtomicU64};
use heirloom_kho::{Block, PhysAddr};

use crate::cache::Cache;
use crate::directory::{CacheRecord, Here, Source};
use crate::error::{Action, Error, Field, SlabError, SlabFault};
use crate::geometry::{Geometry, HEADER_BYTES, ObjectIndex};
use crate::header::{Slab, SlabDesc, SlabHeaderDisk};
use crate::predecessor::{Named, Turn};
use crate::spec::CacheSpec;
use crate::state::{ObjectState, State};
use crate::state_word::{StateWord, for_each_word, gathered, indices, nth, summed};
use crate::{debug, store};

/// What adopting brought into a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    /// Slabs.
    pub slabs: u64,
    /// Objects to be claimed.
    pub unclaimed: u64,
    /// Places that can be allocated from.
    pub free: u64,
}

impl Adopted {
    pub(crate) fn add(&mut self, more: Self) {
        self.slabs += more.slabs;
        self.unclaimed += more.unclaimed;
        self.free += more.free;
    }
}

/// What a predecessor's slab holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SlabInfo {
    /// Objects that survived.
    pub(crate) survivors: u32,
    /// Places without one.
    pub(crate) free: u32,
}

impl<M: Machine> Cache<'_, M> {
    /// Returns whether the slabs of a record can be slabs of this cache.
    pub(crate) fn admits(&self, record: &CacheRecord) -> Result<(), Error> {
        admits_slabs(&self.inner.spec, &self.inner.geometry, record)
    }

    /// Makes a slab of the predecessor's one of this cache, which admits its record; `None` if it
    /// is not left any more.
    pub(crate) fn adopt_left(
        &self,
        record: &CacheRecord,
        named: Named,
    ) -> Result<Option<Adopted>, Error> {
        let turn = self.slabs.predecessor.turn();
        let slab = Block::new(named.slab.pfn(), record.order());
        if !slab.is_some_and(|slab| self.slabs.is_left(&turn, record, slab)) {
            return Ok(None);
        }
        self.adopt_slab(&turn, record, named).map(Some)
    }

    /// Makes a slab of the predecessor's that is left one of this cache, which admits its record. What
    /// survives in it is there to be claimed, or in use at once where the cache is resumed.
    ///
    /// Where there is a constructor, free places are out of use until [`Cache::construct_in`] puts
    /// them in order: it is the caller's code, and runs out of turn.
    ///
    /// Each store to what a successor reads turns a state that survives into another that does, or one
    /// that does not into another that does not.
    pub(crate) fn adopt_slab(
        &self,
        turn: &Turn,
        record: &CacheRecord,
        named: Named,
    ) -> Result<Adopted, Error> {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let (geometry, addr) = (&inner.geometry, named.slab);
        // SAFETY: the slab has no owner, and only in turn would it get one.
        let info = check_slab(unsafe { Here::new(memory) }, addr, record)?;
        let block = Block::containing(addr.pfn(), geometry.order);
        // SAFETY: a sound slab of the predecessor's.
        let slab = unsafe { Slab::at(memory.machine(), addr) };
        if !slab
            .object(geometry, ObjectIndex::FIRST)
            .addr()
            .get()
            .is_multiple_of(u32_to_usize(geometry.align))
        {
            return Err(Error::BadMap {
                addr: slab.addr(geometry, ObjectIndex::FIRST),
                align: u32_to_usize(geometry.align),
            });
        }
        // SAFETY: labelled by this layer, as the cache directory names it.
        unsafe { memory.claim_as(block, FrameType::Slab) }?;
        // SAFETY: claimed just now, by this call. No cache's until the owner is written.
        unsafe { slab.begin_anew(named.entry) };
        let preserving = inner.spec.preserving;
        let resumed = inner.takeover.adopt(turn);
        self.begin_states(slab, resumed);
        if !preserving {
            slab.header().preserved.store(info.survivors, Relaxed);
        }
        {
            // A CPU that finds the slab may put objects back into it, under this lock: so it is in
            // its list before it can be found.
            let mut shared = inner.shared.lock();
            if !preserving && info.survivors == 0 {
                // Of use to this kernel alone.
                self.slabs.unpreserve_slab(inner, &mut shared, slab);
            }
            shared.lists.add(geometry, slab);
            // Release pairs with the Acquire in `ObjectRef::claim`: the states are this kernel's.
            slab.header().owner.store(inner.owner, Release);
            // SAFETY: ours since it was claimed, and a slab of this cache since just now.
            unsafe { self.slabs.publish_slab(block) };
        }
        Ok(Adopted { slabs: 1, unclaimed: info.survivors.into(), free: info.free.into() })
    }

    /// Makes the states in a slab that only this call has, and that was checked, this kernel's, and the free
    /// bits of them.
    fn begin_states(&self, slab: Slab, resumed: bool) {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let (geometry, preserving): (&Geometry, _) = (&inner.geometry, inner.spec.preserving);
        let raw = inner.constructor().is_some();
        // Free places need nothing written to them but for a red zone or poison, which a build without them
        // has none of.
        let bare = raw || !geometry.redzone && !debug::ENABLED;
        // SAFETY: nothing but this call writes to the slab.
        let left = unsafe { Here::new(memory) };
        let states =
            left.words(slab.phys(), HEADER_BYTES + u32_to_usize(geometry.objects)).unwrap_or(&[]);
        let states = states.get(HEADER_BYTES / size_of::<u64>()..).unwrap_or(&[]);
        // In use as it was, but for what no caller has claimed; or all of it there to be claimed.
        let kept = match (resumed, preserving) {
            (false, _) => ObjectState::Unclaimed,
            (true, true) => ObjectState::Live,
            (true, false) => ObjectState::Held,
        };
        let left = if raw { ObjectState::Quarantined } else { ObjectState::Free };
        let change = Change { preserving, unclaimed_alone: resumed && !preserving, kept, left };
        let mut all = 0;
        let firsts = (0..).step_by(64).map(ObjectIndex::new);
        for ((bits, words), first) in slab.words(geometry).iter().zip(states.chunks(8)).zip(firsts)
        {
            let gone = change.make(words, first, geometry.objects);
            if !bare {
                for bit in (0..u64::BITS).filter(|bit| gone >> bit & 1 == 1) {
                    // SAFETY: the slab is this call's alone, the place free. No constructor is run.
                    unsafe { self.prepare(slab, first.add(bit)) };
                }
            }
            let free = if raw { 0 } else { gone };
            bits.store(free, Relaxed);
            all += free.count_ones();
        }
        slab.header().free.store(all, Relaxed);
    }

    /// Runs the constructor for the free places of a slab that the caller has just adopted, and
    /// makes them available, one by one. If it panics, the places that are left stay out of use.
    pub(crate) fn construct_in(&self, addr: PhysAddr, adopted: &Adopted) {
        let (inner, memory) = (self.inner, self.slabs.memory());
        if inner.constructor().is_none() || adopted.free == 0 {
            return;
        }
        let geometry: &Geometry = &inner.geometry;
        // SAFETY: a slab of this cache. It is not given back before all of its places are free, and
        // a place that is out of use becomes free by the call that adopted it alone, which is this.
        let slab = unsafe { Slab::at(memory.machine(), addr) };
        let raw = |index: &ObjectIndex| {
            State(slab.state(geometry, *index).load(Relaxed)).is(ObjectState::Quarantined)
        };
        // One behind, so that the last one keeps the slab while the others are looked for.
        let mut ready = None;
        for index in geometry.indices().filter(raw) {
            if let Some(before) = ready.replace(index) {
                self.construct(slab, before);
            }
        }
        if let Some(last) = ready {
            self.construct(slab, last);
        }
    }

    /// Makes one place available that is the caller's alone: out of use, or free and in no list.
    fn construct(&self, slab: Slab, index: ObjectIndex) {
        let (inner, machine) = (self.inner, self.slabs.memory().machine());
        // SAFETY: the caller's alone.
        unsafe { self.prepare(slab, index) };
        let byte = slab.state(&inner.geometry, index);
        let state = State(byte.load(Relaxed));
        // Release, as for the other states of an adopted slab.
        byte.store(state.to(ObjectState::Free).0, Release);
        let round = slab.round(&inner.geometry, index);
        inner.shared.lock().lists.put_one(machine, &inner.geometry, round);
    }

    /// Claims an object by its address alone, one that [`Cache::unclaimed`] told.
    ///
    /// # Errors
    /// [`Error::WrongState`]: it has an owner, or is free;, [`Error::WrongCache`], and for addresses as for [`Slabs::claim`](crate::Slabs::claim).
    pub fn claim(&self, addr: PhysAddr) -> Result<NonNull<u8>, Error> {
        let ptr = self.slabs.memory().machine().ptr(addr);
        self.slabs.swept(ptr, || {
            self.slabs.looking(|stays| {
                let object_ref = self.object_ref(ptr, stays)?;
                object_ref
                    .claim(u64::from(self.inner.geometry.size), object_ref.state().reuse_tag())
            })
        })?;
        Ok(ptr)
    }

    /// Frees an object that the predecessor left and that is not claimed.
    ///
    /// # Errors
    /// As for [`Cache::claim`].
    pub fn discard(&self, addr: PhysAddr) -> Result<(), Error> {
        let inner = self.inner;
        let ptr = self.slabs.memory().machine().ptr(addr);
        let (slab, index) = self.slabs.looking(|stays| {
            let object_ref = self.object_ref(ptr, stays)?;
            let state = object_ref.state();
            // Free and in no list: this call's alone. (Not out of use, as the places are that
            // `construct_in` puts in order, maybe at the same time.)
            if !state.is(ObjectState::Unclaimed) || !object_ref.exchange(state, ObjectState::Free) {
                return Err(object_ref.refused(Action::Claim));
            }
            Ok((object_ref.slab, object_ref.index))
        })?;
        // Before the object is in its slab again: until then the slab is not given back.
        if !inner.spec.preserving {
            self.slabs.discount_preserved(inner, slab);
        }
        // Last, as a constructor may panic: then the place is out of use.
        let out_of_use = OutOfUse(slab.state(&inner.geometry, index));
        self.construct(slab, index);
        core::mem::forget(out_of_use);
        Ok(())
    }
}

/// What adopting makes of the states in a slab.
struct Change {
    preserving: bool,
    /// Of what survived only what is unclaimed becomes something else.
    unclaimed_alone: bool,
    /// What becomes of what survived, and of what did not.
    kept: ObjectState,
    left: ObjectState,
}

impl Change {
    /// Changes the states of up to 64 objects, `first` and those behind it, in a slab of `objects` that is the
    /// caller's alone. Returns a bit for each that did not survive.
    ///
    /// Of most slabs that are resumed nothing is written: a state word that is right stays so, and its line clean.
    #[inline(never)]
    fn make(&self, words: &[AtomicU64], first: ObjectIndex, objects: u32) -> u64 {
        let Self { preserving, unclaimed_alone, kept, left } = *self;
        let (mut gone_bits, mut at) = (0, 0);
        for_each_word(words, first, objects, |word, state_word| {
            let survivors = state_word.survivors(preserving);
            let gone = state_word.others(survivors);
            let these = if unclaimed_alone { state_word.unclaimed() } else { survivors };
            if let Some(now) = state_word.changed([these, gone], [kept, left]) {
                store::states(word, now);
            }
            gone_bits |= gathered(gone) << at;
            at += 8;
        });
        gone_bits
    }
}

/// The byte of a place that is one call's alone: dropping it puts the place out of use.
struct OutOfUse<'s>(&'s AtomicU8);

impl Drop for OutOfUse<'_> {
    fn drop(&mut self) {
        let state = State(self.0.load(Relaxed));
        // The place is not handed out again, so nothing is told by the byte.
        store::state(self.0, state.to(ObjectState::Quarantined).0);
    }
}

/// Returns whether the slabs of a record can be slabs of a cache like `spec` whose own lie so. Then
/// both have one description: what the cache enters where the cache directory names them are slabs
/// of that record.
pub(crate) fn admits_slabs(
    spec: &CacheSpec,
    ours: &Geometry,
    record: &CacheRecord,
) -> Result<(), Error> {
    let theirs = record.geometry();
    let admitted = spec
        .admits_objects(&record.spec(), theirs)
        .and_then(|()| spec.same(Field::Order, ours.order.get().into(), theirs.order.get().into()))
        .and_then(|()| spec.same(Field::Stride, ours.stride.into(), theirs.stride.into()))
        .and_then(|()| spec.same(Field::RedZone, ours.redzone.into(), theirs.redzone.into()));
    admitted.map_err(Error::of_inherited)
}

/// Returns whether an object outlives the kernel that wrote its state.
pub(crate) const fn survived(state: State, preserving: bool) -> bool {
    state.is(ObjectState::Preserved)
        || state.is(ObjectState::Unclaimed)
        || state.is(ObjectState::Held)
        || preserving && state.is(ObjectState::Live)
}

/// Checks a slab that the predecessor left, of which nothing is claimed: its header, and every
/// object's byte. On this machine, in turn.
pub(crate) fn check_slab<'s>(
    source: impl Source<'s>,
    slab: PhysAddr,
    record: &CacheRecord,
) -> Result<SlabInfo, Error> {
    let (desc, geometry): (&SlabDesc, &Geometry) = (record.desc(), record.geometry());
    let fail = |fault| Error::Slab(SlabError { slab, fault });
    let block = Block::new(slab.pfn(), geometry.order).filter(|block| block.addr() == slab);
    let block = block.filter(|block| source.is_memory(block.run()));
    let block = block.ok_or(fail(SlabFault::Misplaced))?;
    if !source.holds(block) {
        return Err(fail(SlabFault::NotPreserved { block }));
    }
    let objects = u32_to_usize(geometry.objects);
    let words = source.words(slab, HEADER_BYTES + objects).ok_or(fail(SlabFault::Misplaced))?;
    SlabHeaderDisk::read(words).check(slab, desc).map_err(fail)?;
    let preserving = desc.is_preserving();
    let mut survivors = 0;
    let states = words.get(HEADER_BYTES / size_of::<u64>()..).unwrap_or_default();
    for (words, first) in states.chunks(8).zip((0..).step_by(64).map(ObjectIndex::new)) {
        let (mut of_these, mut unsound) = (0, 0);
        for_each_word(words, first, geometry.objects, |_, state_word| {
            // In a preserving cache all that is in use is held, and is live.
            unsound |= state_word.unsound(preserving);
            of_these += state_word.survivors(preserving);
        });
        if unsound != 0 {
            return Err(fail(unsound_state(states, geometry, preserving)));
        }
        survivors += summed(of_these);
    }
    Ok(SlabInfo { survivors, free: geometry.objects - survivors })
}

/// Returns the first state that is none.
#[cold]
#[inline(never)]
fn unsound_state(states: &[AtomicU64], geometry: &Geometry, preserving: bool) -> SlabFault {
    let unsound = states.iter().enumerate().find_map(|(at, word)| {
        let (states, first) = (word.load(Relaxed), ObjectIndex::of_state_word(at));
        let state_word = StateWord::of(states, first, geometry.objects);
        let index = indices(state_word.unsound(preserving), first).next()?;
        Some((index, nth(states, index).0))
    });
    let (index, found) = unsound.unwrap_or((ObjectIndex::FIRST, 0));
    SlabFault::State { index: index.get(), found }
}
