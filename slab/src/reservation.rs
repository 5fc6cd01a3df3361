//! Objects set aside, which are allocated later without fail: for a caller that is in the middle of something by then.
//!
//! ```text
//! Reservation ── top ──> | link | * * * _ | ──> | link | * * * * | ──> …      magazines of the cache's depot, of
//!                                                                             which the first chamber is the link
//! ```
//!
//! What is reserved is free in its slab's state bytes, and in no list and no CPU's magazine: as if a magazine were taken home. To
//! a successor it is free.

use core::fmt;
use core::ptr::NonNull;

use heirloom_folio::{self as folio, Machine};
use heirloom_kho::Order;

use crate::cache::shrink::{EMPTIES, SURPLUS};
use crate::cache::{Cache, hand_out};
use crate::error::Error;
use crate::magazine::{Chamber, Magazine};
use crate::persist::Persist;
use crate::typed::{Object, TypedCache};

/// Objects of a cache that were set aside: see [`Cache::reserve`]. Dropping it gives back those that are left.
///
/// It is dropped where a lock may be waited for ([`Machine::may_wait`]); elsewhere what is left of it stays set aside.
pub struct Reservation<'s, M: Machine> {
    cache: Cache<'s, M>,
    /// The magazine that is taken from; those linked to it are full.
    top: Option<Linked>,
    /// Empty ones.
    spent: Option<NonNull<Chamber>>,
    remaining: usize,
}

/// A magazine whose first chamber is a link to another.
struct Linked {
    link: NonNull<Chamber>,
    /// The chambers behind the first.
    magazine: Magazine,
}

// SAFETY: the chambers are the value's alone, and belong to no thread; the cache is reached through shared references.
unsafe impl<M: Machine> Send for Reservation<'_, M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}
// SAFETY: a shared reference reads a number.
unsafe impl<M: Machine> Sync for Reservation<'_, M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}

impl<M: Machine> fmt::Debug for Reservation<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({}, {} remaining)", self.cache.name(), self.remaining)
    }
}

impl<'s, M: Machine> Cache<'s, M> {
    /// Sets objects aside: as many allocations from what is returned cannot fail, whatever others do meanwhile. They neither wait
    /// nor look at anything that CPUs share.
    ///
    /// Of a preserving cache an object survives from the allocation on, so that for an owner that is to preserve in the middle of
    /// something nothing is left that could fail. In other caches [`Cache::preserve`] may need memory still.
    ///
    /// What memory cannot hold is refused before any of it is taken: others go on allocating meanwhile.
    ///
    /// With the feature `debug` objects are checked as they are set aside.
    ///
    /// # Errors
    /// As for [`Cache::alloc`]; nothing is set aside then. [`Error::WouldWait`]: where a lock may not be waited for.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{CacheSpec, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let sessions = slabs.cache(CacheSpec::new("sessions", 64).preserving(true))?;
    /// let mut reserved = sessions.reserve(2)?;
    /// // ... others take all the memory that there is ...
    /// let first = reserved.alloc().expect("one of two");
    /// assert_eq!(reserved.remaining(), 1);
    /// assert_eq!(sessions.stats().preserved, 1);
    /// drop(reserved);
    /// // SAFETY: allocated above, and not used again.
    /// unsafe { sessions.free(first) }?;
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn reserve(&self, objects: usize) -> Result<Reservation<'s, M>, Error> {
        if !self.slabs.memory().machine().may_wait() {
            return Err(Error::WouldWait);
        }
        if !self.inner.life.goes_on() {
            return Err(Error::Destroyed { cache: self.inner.name });
        }
        self.check_room(objects, self.inner.magazine_capacity() - 1)?;
        // Dropped where it fails: what was set aside by then is given back.
        let mut reservation = Reservation { cache: *self, top: None, spent: None, remaining: 0 };
        while reservation.remaining < objects {
            reservation.add()?;
        }
        Ok(reservation)
    }
}

impl<'s, M: Machine> Reservation<'s, M> {
    /// Allocates one of the objects, with whatever it contains: what the constructor or the last owner left. `None` once all that
    /// were reserved are allocated, and never before. It is an object of the cache like any other.
    #[inline]
    pub fn alloc(&mut self) -> Option<NonNull<u8>> {
        loop {
            let top = self.top.as_mut()?;
            if let Some(round) = top.magazine.pop() {
                self.remaining -= 1;
                return Some(hand_out(round));
            }
            self.descend();
        }
    }

    /// Returns how many objects can be allocated still.
    pub const fn remaining(&self) -> usize {
        self.remaining
    }

    /// Returns the cache whose objects they are.
    pub const fn cache(&self) -> Cache<'s, M> {
        self.cache
    }

    /// Puts the top, which is empty, aside, and goes on with the full one that is linked to it.
    fn descend(&mut self) {
        if let Some(Linked { link, .. }) = self.top.take() {
            // SAFETY: the chambers are this value's alone.
            let below = unsafe { link.as_ref() }.next();
            // SAFETY: as above.
            unsafe { link.as_ref() }.set_next(self.spent.replace(link));
            // SAFETY: as above; the one below was full when it was linked, and is as it was.
            self.top = below.map(|link| unsafe { self.full(link) });
        }
    }

    /// Returns a full magazine that begins with this link.
    ///
    /// # Safety
    /// A magazine of the cache's does, which is this value's, and is full behind the link.
    unsafe fn full(&self, link: NonNull<Chamber>) -> Linked {
        let behind = self.cache.inner.magazine_capacity() - 1;
        // SAFETY: the caller's promise; a magazine has two chambers at least.
        let magazine = unsafe { Magazine::filled(link.add(1), behind) };
        Linked { link, magazine }
    }

    /// Sets one more object aside.
    fn add(&mut self) -> Result<(), Error> {
        if self.top.as_ref().is_none_or(|top| top.magazine.is_full()) {
            let (inner, slabs) = (self.cache.inner, self.cache.slabs);
            let empty = slabs.retry_after_reclaim(|| {
                let popped = inner.shared.lock().depot.pop_empty(slabs.memory());
                let nothing = folio::Error::OutOfMemory { order: Order::ZERO, node: None };
                popped.ok_or(Error::Folio(nothing))
            })?;
            let link = empty.into_chambers();
            // SAFETY: the magazine's chambers are this value's from here on.
            unsafe { link.as_ref() }.set_next(self.top.take().map(|top| top.link));
            let behind = inner.magazine_capacity() - 1;
            // SAFETY: as above; a magazine has two at least.
            let magazine = unsafe { Magazine::new(link.add(1), behind) };
            self.top = Some(Linked { link, magazine });
        }
        let round = self.cache.take_checked()?;
        let kept = self.top.as_mut().is_some_and(|top| top.magazine.push(round));
        debug_assert!(kept, "there is room");
        self.remaining += 1;
        Ok(())
    }
}

impl<M: Machine> Drop for Reservation<'_, M> {
    fn drop(&mut self) {
        let (inner, machine) = (self.cache.inner, self.cache.slabs.memory().machine());
        if !machine.may_wait() {
            return;
        }
        // The lock is held for one magazine at a time.
        while let Some(Linked { magazine, .. }) = &mut self.top {
            inner.shared.lock().lists.empty_out(machine, &inner.geometry, magazine);
            self.descend();
        }
        let mut shared = inner.shared.lock();
        while let Some(link) = self.spent {
            // SAFETY: a magazine that is this value's, and from here on the depot's.
            unsafe {
                self.spent = link.as_ref().next();
                shared.depot.push_empty(Magazine::new(link, inner.magazine_capacity()));
            }
        }
        let surplus = shared.lists.nr_empty() > SURPLUS;
        drop(shared);
        if surplus {
            self.cache.trim(EMPTIES, 1);
        }
    }
}

/// Objects of a typed cache that were set aside: see [`TypedCache::reserve`].
pub struct TypedReservation<'s, T: Persist, M: Machine> {
    cache: TypedCache<'s, T, M>,
    reservation: Reservation<'s, M>,
}

impl<T: Persist, M: Machine> fmt::Debug for TypedReservation<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reservation.fmt(f)
    }
}

impl<'s, T: Persist, M: Machine> TypedCache<'s, T, M> {
    /// Sets objects aside, as [`Cache::reserve`] does: as many values can be inserted without fail.
    ///
    /// # Errors
    /// As for [`Cache::reserve`].
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{Slabs, persist};
    /// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
    ///
    /// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    /// #[repr(C)]
    /// struct Counter {
    ///     count: u64,
    /// }
    /// persist!(Counter { count });
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let counters = slabs.typed::<Counter>("counters", true)?;
    /// let mut reserved = counters.reserve(1)?;
    /// let counter = reserved.insert(Counter { count: 7 }).ok().expect("one of one");
    /// assert_eq!(counter.count, 7);
    /// // There are no more: the value comes back.
    /// assert!(reserved.insert(Counter { count: 8 }).is_err_and(|value| value.count == 8));
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn reserve(&self, objects: usize) -> Result<TypedReservation<'s, T, M>, Error> {
        let reservation = self.cache().reserve(objects)?;
        Ok(TypedReservation { cache: *self, reservation })
    }
}

impl<'s, T: Persist, M: Machine> TypedReservation<'s, T, M> {
    /// Puts `value` into one of the objects.
    ///
    /// # Errors
    /// Gives the value back once all that were reserved are in use, and never before.
    pub fn insert(&mut self, value: T) -> Result<Object<'s, T, M>, T> {
        match self.reservation.alloc() {
            Some(object) => Ok(self.cache.fill(object, value)),
            None => Err(value),
        }
    }

    /// Returns how many values can be inserted still.
    pub const fn remaining(&self) -> usize {
        self.reservation.remaining()
    }
}
