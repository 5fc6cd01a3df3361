//! For owners that keep what they allocate in a structure of their own, across jumps at any instant: an object is named in
//! memory that survives before it is in use, and what is named is looked at before it is followed.
//!
//! ```text
//! alloc_noted   free object ──> note(object): its address is stored ──> its state byte: in use
//!                            jump: free, as the byte says           jump: in use, and named
//! in_use_at     address ──> an object of this cache starts there, and is in use; or an error
//! ```
//!
//! So of an object that was allocated and not linked yet a successor has the address, and frees it.

use core::ptr::NonNull;
use core::sync::atomic::fence;

use heirloom_folio::Machine;
use heirloom_kho::PhysAddr;
use heirloom_kho::sync::Ordering::{Acquire, Release};

use crate::cache::{Cache, hand_out};
use crate::debug;
use crate::error::{Action, Error};
use crate::header::Slab;
use crate::magazine::Round;
use crate::state::State;

/// A free object that is no list's. Dropping it gives it back.
struct Taken<'c, 's, M: Machine> {
    cache: &'c Cache<'s, M>,
    round: Option<Round>,
}

impl<M: Machine> Drop for Taken<'_, '_, M> {
    fn drop(&mut self) {
        if let Some(round) = self.round.take() {
            let inner = self.cache.inner;
            if debug::ENABLED && inner.constructor().is_none() {
                // SAFETY: free, and this value's; `note` may have written to it.
                unsafe { debug::poison(round.object, &inner.geometry) };
            }
            // Refused only where nothing can be waited for: it is out of use then, until the next kernel.
            self.cache.push_slow(round);
        }
    }
}

impl<M: Machine> Cache<'_, M> {
    /// Allocates an object, and calls `note` with it just before it is in use: what `note` stores is there at any instant at which
    /// the object is. The object is `note`'s to write to already, and free to a successor as long as `note` runs.
    ///
    /// `note` runs with no lock held. If it panics, the object stays free. In a cache with a constructor it leaves the object as
    /// constructed then.
    ///
    /// # Errors
    /// As for [`Cache::alloc`]; `note` was not called then.
    ///
    /// # Examples
    /// ```
    /// use core::sync::atomic::{AtomicU64, Ordering::Release};
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::DirectMap;
    /// use heirloom_slab::{CacheSpec, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let nodes = slabs.cache(CacheSpec::new("nodes", 64).preserving(true))?;
    /// // In memory that survives, it would be.
    /// let named = AtomicU64::new(0);
    /// let phys = |node| slabs.memory().machine().phys(node).unwrap();
    /// let node = nodes.alloc_noted(|node| {
    ///     assert!(nodes.in_use_at(phys(node)).is_err(), "not yet");
    ///     named.store(phys(node).get(), Release);
    /// })?;
    /// assert_eq!(nodes.in_use_at(phys(node)), Ok(node));
    /// // SAFETY: allocated above, and not used again.
    /// unsafe { nodes.free(node) }?;
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    #[inline]
    pub fn alloc_noted(&self, note: impl FnOnce(NonNull<u8>)) -> Result<NonNull<u8>, Error> {
        let popped = self.slabs.memory().machine().try_with_cpu(|cpu| {
            if debug::ENABLED {
                return None;
            }
            // SAFETY: pinned to a CPU of the machine; its slot is used within.
            cpu.and_then(|cpu| unsafe { self.inner.slot(cpu).pop() })
        });
        let round = popped.map_or_else(|| self.take_checked(), Ok)?;
        let object = round.object;
        let mut taken = Taken { cache: self, round: Some(round) };
        note(object);
        // Release pairs with the Acquire in `look_at`, and orders what was noted before the store that puts the object to use, as a
        // successor sees them.
        fence(Release);
        Ok(taken.round.take().map_or(object, hand_out))
    }

    /// Returns where the object at an address is, if one of this cache starts there and is in use. Any address may be asked
    /// about. Unlike [`Cache::at`] it asks for no reuse tag: it says that the address is good, not that the object is still the same.
    ///
    /// # Errors
    /// [`Error::WrongState`] (not in use), [`Error::WrongCache`], [`Error::Interior`], [`Error::NotAnObject`]; [`Error::WouldWait`]
    /// and [`Error::Slab`] as for [`Slabs::resume`](crate::Slabs::resume).
    #[inline]
    pub fn in_use_at(&self, addr: PhysAddr) -> Result<NonNull<u8>, Error> {
        self.look_at(addr, |object| object)
    }

    /// Calls `look` with the object in use at an address, as [`Cache::in_use_at`] finds it. The memory stays the cache's
    /// meanwhile, also if the object's owner frees it: so a caller that has only a forged address, say, finds out by what the
    /// object begins with whether it is the caller's. `look` may be called twice, reads by atomics, and takes a few instructions:
    /// it asks for no memory and for no lock.
    ///
    /// # Errors
    /// As for [`Cache::in_use_at`].
    #[inline]
    pub fn look_at<R>(&self, addr: PhysAddr, look: impl Fn(NonNull<u8>) -> R) -> Result<R, Error> {
        let machine = self.slabs.memory().machine();
        let ptr = machine.ptr(addr);
        let looked = self.slabs.looking(|_| {
            let found = self.find(ptr)?;
            let index = self.inner.geometry.index(found.offset)?;
            // SAFETY: an object of the slab, by its geometry; the slab is not given back meanwhile.
            let byte = unsafe { Slab::state_at(found.head, index) };
            // Acquire pairs with the fence in `alloc_noted`: what was noted of the object is seen by `look`.
            let in_use = State(byte.load(Acquire)).is_in_use();
            // An address outside the map may have any pointer.
            (in_use && machine.phys(ptr) == Some(addr)).then(|| look(ptr))
        });
        looked.map_or_else(|| self.look_at_slow(addr, &look), Ok)
    }

    /// Looks for the object in slabs of any order, in ranges of any number, and in those that are to be swept; or says why there
    /// is none.
    #[cold]
    #[inline(never)]
    fn look_at_slow<R>(
        &self,
        addr: PhysAddr,
        look: &impl Fn(NonNull<u8>) -> R,
    ) -> Result<R, Error> {
        let machine = self.slabs.memory().machine();
        let ptr = machine.ptr(addr);
        if machine.phys(ptr) != Some(addr) {
            return Err(Error::NotAnObject { ptr: ptr.addr().get() });
        }
        self.slabs.swept(ptr, || {
            self.slabs.looking(|stays| {
                let object_ref = self.object_ref(ptr, stays)?;
                if object_ref.state().is_in_use() {
                    // As in `look_at`.
                    fence(Acquire);
                    return Ok(look(ptr));
                }
                Err(object_ref.refused(Action::Name))
            })
        })
    }
}
