//! One object, found: its slab, its cache and its byte; and what can be done to it but allocating
//! and freeing.
//!
//! ```text
//!           alloc           preserve
//!   Free ─────────> Live ───────────────> Preserved ──┐
//!    ^  <─────────   ^   <───────────────    ^        │ jump
//!    │      free     │      unpreserve       │        │
//!    │               │ unpreserve   preserve │        v
//!    │               └──────────── Held ─────┘    Unclaimed
//!    │<──────────────────────────── │ ^ <──────────── │
//!    │             free               │    claim      │
//!    └────────────────────────────────────────────────┘ discard
//! ```
//!
//! Held survives as Preserved does, and is freed as Live is: what is claimed loses neither. In a
//! preserving cache Live survives, becomes Unclaimed in the successor, and is Live again once it is
//! claimed. A claim can be undone, by the same states.
//!
//! The first object of a slab to be preserved preserves the slab and enters it in the cache directory, under
//! the cache's lock; the ones after it only count themselves. A slab's count is above zero only
//! while the slab is preserved and in the cache directory, and an object's byte says Preserved, Held or Unclaimed
//! only while it is counted: so at any instant a successor finds every object whose `preserve`
//! returned.

use core::marker::PhantomData;

use heirloom_folio::{FrameState, FrameType, Machine};
use heirloom_kho::narrow::u32_to_u64;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use heirloom_kho::{Block, Parts, PhysAddr};

use crate::cache::inner::{CacheInner, Shared};
use crate::error::{Action, Error, SlabError, SlabFault};
use crate::geometry::ObjectIndex;
use crate::header::Slab;
use crate::slabs::Slabs;
use crate::state::{ObjectState, State};
use crate::store;

/// Keeps what is found by an address from being given back, for as long as it lives: the caller is
/// a [reader](heirloom_folio::Memory::reading), or owns an object there.
pub(crate) struct Stays<'a>(PhantomData<&'a ()>);

impl Stays<'_> {
    /// Returns the promise of a caller that owns the object which it looks up, or was promised that it stays.
    ///
    /// # Safety
    /// The slab around the address that is looked up, if it is in one, is not given back as long as
    /// the value lives. So it is as long as an object of it is in use, or free and in no list.
    pub(crate) const unsafe fn promised() -> Self {
        Self(PhantomData)
    }
}

/// Says that a [`Stays`] is there for as long; had from one alone.
#[derive(Clone, Copy)]
pub(crate) struct Promised<'l>(PhantomData<&'l ()>);

impl<'l> Promised<'l> {
    /// Returns what a value carries that is found under this promise.
    pub(crate) const fn by(_: &'l Stays<'_>) -> Self {
        Self(PhantomData)
    }
}

/// An object of a cache, in whatever state.
pub(crate) struct ObjectRef<'s, 'l, M: Machine> {
    pub(crate) slabs: &'s Slabs<M>,
    pub(crate) inner: &'s CacheInner<M>,
    pub(crate) slab: Slab,
    pub(crate) index: ObjectIndex,
    _stays: Promised<'l>,
}

impl<'s, 'l, M: Machine> ObjectRef<'s, 'l, M> {
    /// Returns object `index` of a slab of that cache, which stays as `stays` says.
    pub(crate) const fn new(
        slabs: &'s Slabs<M>,
        inner: &'s CacheInner<M>,
        slab: Slab,
        index: ObjectIndex,
        stays: Promised<'l>,
    ) -> Self {
        Self { slabs, inner, slab, index, _stays: stays }
    }

    /// Returns its address.
    pub(crate) const fn addr(&self) -> PhysAddr {
        self.slab.addr(&self.inner.geometry, self.index)
    }

    /// Returns its byte.
    pub(crate) fn state(&self) -> State {
        State(self.slab.state(&self.inner.geometry, self.index).load(Relaxed))
    }

    /// Returns what a handle to the object says, `state` being its byte.
    #[inline]
    pub(crate) fn parts(&self, state: State) -> Parts {
        let bytes = u32_to_u64(self.inner.geometry.size);
        Parts::Object { addr: self.addr(), bytes, tag: state.reuse_tag() }
    }

    /// Returns what the object's byte, `state`, says that it is.
    ///
    /// # Errors
    /// [`Error::Slab`]: it is none that this layer writes.
    pub(crate) fn what(&self, state: State) -> Result<ObjectState, Error> {
        let fault = SlabFault::State { index: self.index.get(), found: state.0 };
        state.what().ok_or(Error::Slab(SlabError { slab: self.slab.phys(), fault }))
    }

    /// Makes the object survive a jump.
    pub(crate) fn preserve(&self) -> Result<(), Error> {
        let state = self.state();
        match state.what() {
            Some(ObjectState::Live) if !self.inner.spec.preserving => {}
            // Counted already.
            Some(ObjectState::Held) if self.exchange(state, ObjectState::Preserved) => {
                return Ok(());
            }
            _ => return Err(self.refused(Action::Preserve)),
        }
        self.slabs.count_preserved(self.inner, self.slab)?;
        if self.exchange(state, ObjectState::Preserved) {
            return Ok(());
        }
        self.slabs.discount_preserved(self.inner, self.slab);
        Err(self.refused(Action::Preserve))
    }

    /// Lets the object go: it no longer survives.
    pub(crate) fn unpreserve(&self) -> Result<(), Error> {
        let state = self.state();
        let kept = state.is(ObjectState::Preserved) || state.is(ObjectState::Held);
        if !kept || !self.exchange(state, ObjectState::Live) {
            return Err(self.refused(Action::Unpreserve));
        }
        self.slabs.discount_preserved(self.inner, self.slab);
        Ok(())
    }

    /// Claims what the predecessor left here, once. It is the caller's then, and survives as before
    /// until it is freed or let go.
    pub(crate) fn claim(&self, bytes: u64, reuse_tag: u8) -> Result<(), Error> {
        let (cache, addr) = (self.inner.name, self.addr());
        let found = u64::from(self.inner.geometry.size);
        if bytes != found {
            return Err(Error::WrongLength { cache, addr, expected: bytes, found });
        }
        // Acquire pairs with the Release in `Cache::adopt_slab`, which may have been just now.
        self.slab.header().owner.load(Acquire);
        let Some(unclaimed) = State::unclaimed(reuse_tag) else {
            return Err(self.not_claimed(reuse_tag));
        };
        let preserving = self.inner.spec.preserving;
        let claimed = if preserving { ObjectState::Live } else { ObjectState::Held };
        // No look before: the line of the byte comes once, to be written.
        if self.exchange(unclaimed, claimed) { Ok(()) } else { Err(self.not_claimed(reuse_tag)) }
    }

    /// Undoes a claim, for the object's one owner: it is there to be claimed.
    pub(crate) fn unclaim(&self) -> Result<(), Error> {
        let state = self.state();
        let preserving = self.inner.spec.preserving;
        let claimed = if preserving { ObjectState::Live } else { ObjectState::Held };
        // It survives as before, and is counted.
        if state.is(claimed) && self.exchange(state, ObjectState::Unclaimed) {
            return Ok(());
        }
        Err(self.refused(Action::Claim))
    }

    /// Returns why an object cannot be claimed with this reuse tag.
    #[cold]
    #[inline(never)]
    fn not_claimed(&self, reuse_tag: u8) -> Error {
        let (cache, addr, state) = (self.inner.name, self.addr(), self.state());
        match state.reuse_tag() {
            found if state.is(ObjectState::Unclaimed) && found != reuse_tag => {
                Error::Stale { cache, addr, expected: reuse_tag, found }
            }
            _ => self.refused(Action::Claim),
        }
    }

    /// Lets an object go that its owner frees: if it is held, it is live, and no more.
    pub(crate) fn release(&self, state: State) -> State {
        if !state.is(ObjectState::Held) || !self.exchange(state, ObjectState::Live) {
            return state;
        }
        self.slabs.discount_preserved(self.inner, self.slab);
        state.to(ObjectState::Live)
    }

    /// Returns why the object cannot be acted on, being what it is.
    #[cold]
    pub(crate) fn refused(&self, action: Action) -> Error {
        match self.what(self.state()) {
            Ok(found) => {
                Error::WrongState { cache: self.inner.name, addr: self.addr(), action, found }
            }
            Err(broken) => broken,
        }
    }

    /// Changes the state from what it was seen to be; false if it is another by now.
    pub(crate) fn exchange(&self, from: State, to: ObjectState) -> bool {
        let byte = self.slab.state(&self.inner.geometry, self.index);
        store::exchange(byte, from.0, from.to(to).0)
    }
}

impl<M: Machine> Slabs<M> {
    /// Runs `look`, in which slabs are found by addresses that may be anything: none of them is given
    /// back meanwhile. For what takes a few instructions; `look` takes no lock and asks for no memory.
    #[inline]
    pub(crate) fn looking<R>(&self, look: impl FnOnce(&Stays<'_>) -> R) -> R {
        self.memory().reading(|| look(&Stays(PhantomData)))
    }

    /// Counts one more preserved object in a slab, which is preserved and in the cache directory afterwards.
    fn count_preserved(&self, inner: &CacheInner<M>, slab: Slab) -> Result<(), Error> {
        let count = &slab.header().preserved;
        // Acquire pairs with the Release below: where there is a count, the slab is in the cache directory.
        let more = |n: u32| (n > 0).then_some(n + 1);
        if count.fetch_update(Acquire, Relaxed, more).is_ok() {
            return Ok(());
        }
        self.retry_after_reclaim(|| {
            let mut shared = inner.shared.lock();
            if count.fetch_update(Acquire, Relaxed, more).is_ok() {
                return Ok(());
            }
            self.preserve_slab(inner, &mut shared, slab)?;
            // Release pairs with the Acquire above. No call counts from 0 but under the lock.
            count.store(1, Release);
            Ok(())
        })
    }

    /// Counts one preserved object less; the last lets the slab go.
    pub(crate) fn discount_preserved(&self, inner: &CacheInner<M>, slab: Slab) {
        let count = &slab.header().preserved;
        // AcqRel: the call that lets the slab go does so after all that were counted are done.
        let less = |n: u32| (n > 1).then(|| n - 1);
        if count.fetch_update(AcqRel, Relaxed, less).is_ok() {
            return;
        }
        let mut shared = inner.shared.lock();
        if count.fetch_update(AcqRel, Relaxed, |n| n.checked_sub(1)) == Ok(1) {
            self.unpreserve_slab(inner, &mut shared, slab);
        }
    }

    /// Preserves a slab and enters it in the cache directory.
    pub(crate) fn preserve_slab(
        &self,
        inner: &CacheInner<M>,
        shared: &mut Shared,
        slab: Slab,
    ) -> Result<(), Error> {
        let memory = self.memory();
        if shared.table.first().is_none() {
            let first = self.directory.add_cache(memory, inner.desc)?;
            shared.table.begin(first);
        }
        let place = shared.table.place(memory, self.predecessor.struck_out())?;
        let block = slab.block(&inner.geometry);
        // SAFETY: the slab is this cache's, or about to be: the caller owns it.
        unsafe { memory.preserve_as(block, self.kind_of(block)) }?;
        let entry = shared.table.enter(memory, place, slab.phys());
        slab.header().entry.store(entry.get(), Relaxed);
        Ok(())
    }

    /// Returns what a slab's block is: a table until it is [published](Slabs::publish_slab).
    fn kind_of(&self, block: Block) -> FrameType {
        match self.memory().state(block.pfn()) {
            Ok(FrameState::Head { kind: FrameType::Slab, .. }) => FrameType::Slab,
            _ => FrameType::Table,
        }
    }

    /// Makes a slab one that pointers into it lead to.
    ///
    /// # Safety
    /// The block is this instance's, a table so far, and holds a slab whose owner word names one of
    /// its caches, of this order.
    pub(crate) unsafe fn publish_slab(&self, block: Block) {
        // SAFETY: the caller's promise; this layer is the one that looks for slabs.
        let made = unsafe { self.memory().make_slab(block) };
        debug_assert!(made.is_ok(), "a table can become a slab: {made:?}");
    }

    /// Makes a slab a table again, so that pointers into it lead to no slab. Returns whether it did.
    ///
    /// # Safety
    /// The slab is in no list, and none of its objects is in use.
    pub(crate) unsafe fn unpublish_slab(&self, block: Block) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.memory().hide_slab(block) }.is_ok()
    }

    /// Strikes a slab out of the cache directory and unpreserves it.
    pub(crate) fn unpreserve_slab(&self, inner: &CacheInner<M>, shared: &mut Shared, slab: Slab) {
        // Under the lock, so without an exchange.
        let entry = slab.header().entry.load(Relaxed);
        slab.header().entry.store(0, Relaxed);
        shared.table.leave(self.memory(), PhysAddr::new(entry));
        let block = slab.block(&inner.geometry);
        // SAFETY: the slab is this cache's.
        let done = unsafe { self.memory().unpreserve_as(block, self.kind_of(block)) };
        debug_assert!(done.is_ok(), "a slab in the directory is preserved: {done:?}");
    }
}
