//! Object caches: allocating and freeing, fast from any CPU.
//!
//! ```text
//!  alloc / free
//!      │  a magazine of this CPU         nothing shared is touched
//!      │  the depot's full and empty magazines  ┐
//!      │  slabs: a word of free bits at a time  ┘ under the cache's lock
//!      v  a new slab from the page allocator      with no lock held
//! ```
//!
//! Only the first step is inlined where a caller allocates or frees, and it calls nothing: so the caller needs no
//! stack for it. What takes more is told so by one bit, with nothing done, and begins again with the caller's arguments.

pub(crate) mod inner;
mod life;
pub(crate) mod shrink;
mod slow_path;

use core::fmt;
use core::ptr::NonNull;

use heirloom_folio::internal::BlockRef;
use heirloom_folio::{CpuId, Machine};
use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::sync::Ordering::Relaxed;

use crate::cache::inner::CacheInner;
use crate::debug;
use crate::error::{Action, Error};
use crate::header::Slab;
use crate::magazine::Round;
use crate::name::Name;
use crate::object_ref::{ObjectRef, Stays};
use crate::slabs::Slabs;
use crate::state::{ObjectState, State};

/// A cache of objects: a handle, cheap to copy, to what lives as long as its [`Slabs`].
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{CacheSpec, Slabs};
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let inodes = slabs.cache(CacheSpec::new("inode", 640))?;
/// let inode = inodes.alloc_zeroed()?;
/// assert_eq!(slabs.size_of(inode), Some(640));
/// // SAFETY: allocated above, and not used again.
/// unsafe { inodes.free(inode) }?;
/// # Ok::<(), heirloom_slab::Error>(())
/// ```
pub struct Cache<'s, M: Machine> {
    pub(crate) slabs: &'s Slabs<M>,
    pub(crate) inner: &'s CacheInner<M>,
}

impl<M: Machine> Clone for Cache<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Cache<'_, M> {}

impl<M: Machine> fmt::Debug for Cache<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({}, {:?})", self.inner.name, self.inner.geometry)
    }
}

impl<'s, M: Machine> Cache<'s, M> {
    /// Returns the name.
    pub const fn name(&self) -> Name {
        self.inner.name
    }

    /// Returns the bytes of an object.
    pub const fn object_size(&self) -> usize {
        u32_to_usize(self.inner.geometry.size)
    }

    /// Returns the alignment of an object, in bytes.
    pub const fn align(&self) -> usize {
        u32_to_usize(self.inner.geometry.align)
    }

    /// Returns how many objects are in a slab.
    pub const fn objects_per_slab(&self) -> u32 {
        self.inner.geometry.objects
    }

    /// Returns the order of a slab.
    pub const fn slab_order(&self) -> heirloom_kho::Order {
        self.inner.geometry.order
    }

    /// Returns whether objects are preserved from birth.
    pub const fn is_preserving(&self) -> bool {
        self.inner.spec.preserving
    }

    /// Returns what the cache belongs to.
    pub const fn slabs(&self) -> &'s Slabs<M> {
        self.slabs
    }

    /// Allocates an object, with whatever it contains: what the constructor or the last owner
    /// left.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory. [`Error::BadMap`]: the machine's map does not keep the
    /// alignment. [`Error::Overwritten`], with the feature `debug`: the next free object was
    /// written to; it is out of use now, and the call can be repeated. [`Error::WouldWait`]: from
    /// the middle of another call.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "two dozen instructions: a call costs half as much")]
    pub fn alloc(&self) -> Result<NonNull<u8>, Error> {
        self.alloc_now().map_or_else(|| self.alloc_slow(), Ok)
    }

    /// Allocates an object that this CPU has at hand. `None`, with nothing done: [`Cache::alloc`] is asked.
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "two dozen instructions: a call costs half as much")]
    pub fn alloc_now(&self) -> Option<NonNull<u8>> {
        self.slabs.memory().machine().try_with_cpu(|cpu| {
            // SAFETY: pinned to this CPU.
            unsafe { self.alloc_on(cpu?) }
        })
    }

    /// Allocates an object that CPU `cpu` has at hand. `None`, with nothing done, where it has none, and always with the
    /// feature `debug`: then [`Cache::alloc`] does, once the caller is no longer on the CPU. For kernels that pin for more than
    /// one thing.
    ///
    /// # Safety
    /// The caller runs as a closure of the machine's [`with_cpu`](heirloom_folio::Cpus::with_cpu) does that was given this CPU.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::{Cpus, harness::Ram};
    /// use heirloom_slab::{CacheSpec, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let names = slabs.cache(CacheSpec::new("names", 64))?;
    /// let first = names.alloc()?;
    /// let second = slabs.memory().machine().with_cpu(|cpu| {
    ///     // SAFETY: within the closure.
    ///     cpu.and_then(|cpu| unsafe { names.alloc_on(cpu) })
    /// });
    /// let second = second.map_or_else(|| names.alloc(), Ok)?;
    /// assert_ne!(second, first);
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a dozen instructions: a call costs as much again")]
    pub unsafe fn alloc_on(&self, cpu: CpuId) -> Option<NonNull<u8>> {
        if debug::ENABLED {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.slot(cpu).pop() }.map(hand_out)
    }

    /// Allocates an object filled with zeroes.
    ///
    /// # Errors
    /// As for [`Cache::alloc`]; [`Error::Constructed`] if the cache has a constructor.
    #[inline]
    pub fn alloc_zeroed(&self) -> Result<NonNull<u8>, Error> {
        if self.inner.constructor().is_some() {
            return Err(Error::Constructed { cache: self.inner.name });
        }
        let object = self.alloc()?;
        // SAFETY: the object is the caller's, of that many bytes, and not handed out yet.
        unsafe { object.write_bytes(0, self.object_size()) };
        Ok(object)
    }

    /// Frees an object, from any CPU.
    ///
    /// The check against double frees is a look at the object's byte: of two frees *at the same
    /// time* both may pass, unless the feature `debug` is on.
    ///
    /// # Errors
    /// The object stays its owner's: [`Error::WrongState`] (free already, preserved,
    /// not claimed), [`Error::Interior`], [`Error::WrongCache`], [`Error::NotAnObject`]; with the feature `debug`, [`Error::Overwritten`]. [`Error::WouldWait`]: from the middle of
    /// another call.
    ///
    /// # Safety
    /// - The caller owns the object: nothing will read or write it through an older pointer, and
    ///   no other call frees or preserves it at the same time.
    /// - If the cache has a constructor, the object is as constructed.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "four dozen instructions: a call costs a quarter")]
    pub unsafe fn free(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        if unsafe { self.free_now(ptr) } {
            return Ok(());
        }
        // SAFETY: the caller's promise; nothing was freed.
        unsafe { self.free_slow(ptr) }
    }

    /// Frees an object for which this CPU has room at hand, if nothing speaks against it. Returns whether it did; if
    /// not, nothing is done: [`Cache::free`] is asked.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "four dozen instructions: a call costs a quarter")]
    pub unsafe fn free_now(&self, ptr: NonNull<u8>) -> bool {
        let Some(found) = self.find(ptr) else { return false };
        // SAFETY: the slab is of this cache; the rest is the caller's promise.
        unsafe { self.free_found_now(found, ptr) }
    }

    /// Frees an object for which CPU `cpu` has room at hand, if nothing speaks against it. Returns whether it did; if not,
    /// nothing is done, as always with the feature `debug`, and [`Cache::free`] frees it, or says why not, once the caller is no
    /// longer on the CPU.
    ///
    /// # Safety
    /// As for [`Cache::free`] and [`Cache::alloc_on`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "three dozen instructions: a call costs a third")]
    pub unsafe fn free_on(&self, cpu: CpuId, ptr: NonNull<u8>) -> bool {
        let Some(found) = self.find(ptr) else { return false };
        // SAFETY: the slab is of this cache; the rest is the caller's promise.
        unsafe { self.free_found_on(cpu, found, ptr) }
    }

    /// Returns the place in a slab of this cache that a pointer leads to, by a look at the memory's first range alone.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a dozen instructions: a call costs as much again")]
    pub(crate) fn find(&self, ptr: NonNull<u8>) -> Option<BlockRef> {
        let found = self.slabs.memory().lookup_fast(ptr, &self.inner.slab)?;
        // SAFETY: a slab starts there, one that `Slabs::publish_slab` published.
        let owner = unsafe { Slab::owner_at(found.head) };
        (owner == self.inner.owner).then_some(found)
    }

    /// Does what [`Cache::free_now`] does, for a place in a slab of this cache that `ptr` leads to.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "two dozen instructions: a call costs half as much")]
    pub(crate) unsafe fn free_found_now(&self, found: BlockRef, ptr: NonNull<u8>) -> bool {
        self.slabs.memory().machine().try_with_cpu(|cpu| {
            // SAFETY: pinned to this CPU; the rest is the caller's promise.
            cpu.is_some_and(|cpu| unsafe { self.free_found_on(cpu, found, ptr) })
        })
    }

    /// Does what [`Cache::free_on`] does, for a place in a slab of this cache that `ptr` leads to.
    ///
    /// # Safety
    /// As for [`Cache::free_on`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "two dozen instructions: a call costs half as much")]
    pub(crate) unsafe fn free_found_on(
        &self,
        cpu: CpuId,
        found: BlockRef,
        ptr: NonNull<u8>,
    ) -> bool {
        if debug::ENABLED {
            return false;
        }
        let Some(index) = self.inner.geometry.index(found.offset) else { return false };
        // SAFETY: an object of the slab, by its geometry.
        let byte = unsafe { Slab::state_at(found.head, index) };
        let Some(freed) = State(byte.load(Relaxed)).freed() else { return false };
        let round = Round { object: found.place_of(ptr), state: NonNull::from(byte) };
        // SAFETY: the caller's promise.
        if !unsafe { self.inner.slot(cpu).push(round) } {
            return false;
        }
        // Nothing takes it out of the slot before the CPU is left.
        byte.store(freed.0, Relaxed);
        true
    }

    /// Frees an object in a slab of this cache if nothing speaks against it, and makes room for it. Returns whether it
    /// did.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    pub(crate) unsafe fn try_free(&self, found: BlockRef) -> bool {
        let inner = self.inner;
        let Some(index) = inner.geometry.index(found.offset) else { return false };
        // SAFETY: an object of the slab, by its geometry.
        let byte = unsafe { Slab::state_at(found.head, index) };
        let live = State(byte.load(Relaxed));
        let Some(freed) = live.freed() else { return false };
        if debug::ENABLED {
            return false;
        }
        byte.store(freed.0, Relaxed);
        let round = Round { object: found.place(), state: NonNull::from(byte) };
        let pushed = self.slabs.memory().machine().try_with_cpu(|cpu| {
            // SAFETY: pinned to a CPU of the machine; its slot is used within.
            cpu.is_some_and(|cpu| unsafe { inner.slot(cpu).push(round) })
        });
        if !pushed && !self.push_slow(round) {
            // Nothing was done but this, and the object is the caller's alone.
            byte.store(live.0, Relaxed);
            return false;
        }
        true
    }

    /// Frees an object, or finds out why not.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn free_slow(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // Most often there is no room, and nothing else.
        if let Some(found) = self.find(ptr)
            // SAFETY: the slab is of this cache; the rest is the caller's promise.
            && unsafe { self.try_free(found) }
        {
            return Ok(());
        }
        // SAFETY: the caller owns the object.
        let stays = unsafe { Stays::promised() };
        let object_ref = self.owned(ptr, &stays)?;
        let state = object_ref.state();
        if !state.is(ObjectState::Live) && !state.is(ObjectState::Held) {
            return Err(object_ref.refused(Action::Free));
        }
        if !self.slabs.memory().machine().may_wait() {
            return Err(Error::WouldWait);
        }
        // SAFETY: the caller owns the object.
        unsafe { debug::check_free(&object_ref, state) }?;
        let given = self.push_slow(object_ref.slab.round(&self.inner.geometry, object_ref.index));
        debug_assert!(given, "the caller may wait");
        Ok(())
    }

    /// Makes a single object survive a jump, in a cache that is not preserving. One that was claimed
    /// survives already, and cannot be freed from now on before it is let go.
    ///
    /// # Errors
    /// [`Error::WrongState`]: preserved already, free, or not claimed; out of memory; and for pointers as for [`Cache::free`].
    ///
    /// # Safety
    /// While the call runs, no other call frees what `ptr` leads to, changes its size, or gives the
    /// slab around it back. So it is with an object or a buffer in use whose owner keeps it
    /// meanwhile.
    pub unsafe fn preserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.owned(ptr, &unsafe { Stays::promised() })?.preserve()
    }

    /// Lets go an object that is preserved, or was claimed: it no longer survives, and can be freed.
    ///
    /// # Errors
    /// [`Error::WrongState`]: not preserved singly, as none is in a preserving cache; and for pointers as for [`Cache::free`].
    ///
    /// # Safety
    /// As for [`Cache::preserve`].
    pub unsafe fn unpreserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.owned(ptr, &unsafe { Stays::promised() })?.unpreserve()
    }

    /// Returns the object of this cache that its owner has a pointer to; its slab is swept if it
    /// was not.
    fn owned<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Result<ObjectRef<'s, 'l, M>, Error> {
        self.slabs.swept(ptr, || self.object_ref(ptr, stays))
    }

    /// Returns the object of this cache that a pointer leads to.
    pub(crate) fn object_ref<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Result<ObjectRef<'s, 'l, M>, Error> {
        let object_ref = self.slabs.object_of(ptr, stays)?;
        if core::ptr::eq(object_ref.inner, self.inner) {
            return Ok(object_ref);
        }
        let (expected, found) = (self.inner.name, object_ref.inner.name);
        Err(Error::WrongCache { addr: object_ref.addr(), expected, found })
    }

    /// Allocates when no object was to be had at once, or is to be checked.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(&self) -> Result<NonNull<u8>, Error> {
        Ok(hand_out(self.take_checked()?))
    }

    /// Takes a free object, the caller's to hand out, from wherever there is one.
    pub(crate) fn take_checked(&self) -> Result<Round, Error> {
        let popped = self.slabs.memory().machine().try_with_cpu(|cpu| {
            // SAFETY: pinned to a CPU of the machine; its slot is used within.
            cpu.and_then(|cpu| unsafe { self.inner.slot(cpu).pop() })
        });
        let round = popped.map_or_else(|| self.pop_slow(), Ok)?;
        if debug::ENABLED {
            // SAFETY: free, and in no list or magazine: this call's.
            debug::check_alloc(&self.object_ref(round.object, &unsafe { Stays::promised() })?)?;
        }
        Ok(round)
    }
}

/// Turns a free object into a live one.
#[inline]
pub(crate) fn hand_out(round: Round) -> NonNull<u8> {
    // SAFETY: the byte of an object in a slab, which stays as long as the object is not in it;
    // only atomics touch it.
    let byte = unsafe { round.state.as_ref() };
    byte.store(State(byte.load(Relaxed)).allocated().0, Relaxed);
    round.object
}
