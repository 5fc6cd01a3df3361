//! Where a cache's magazines get objects, and bring them: the slower half of allocating and freeing.
//!
//! No lock is held while a CPU's slot is in use, nor while the page allocator is asked for a slab:
//! a magazine is taken out of its slot, filled or emptied under the cache's lock, and put back. It
//! may come back on another CPU, or find the place taken; then it goes to the depot.

use core::ptr::NonNull;

use heirloom_folio::{FrameType, Machine, Request};
use heirloom_kho::Block;
use heirloom_kho::narrow::u32_to_usize;

use crate::cache::Cache;
use crate::cache::shrink::{EMPTIES, SURPLUS};
use crate::debug;
use crate::error::Error;
use crate::geometry::ObjectIndex;
use crate::header::Slab;
use crate::lists::prefetch_slabs;
use crate::magazine::{Chamber, Magazine, Popped, Pushed, Round};

/// Slabs that were resumed and that an allocation sweeps before it asks for a new one.
const SWEPT: usize = 8;

impl<M: Machine> Cache<'_, M> {
    /// Takes a free object from this CPU's magazines, the depot or a slab.
    #[cold]
    #[inline(never)]
    pub(crate) fn pop_slow(&self) -> Result<Round, Error> {
        let inner = self.inner;
        if !inner.life.goes_on() {
            return Err(Error::Destroyed { cache: inner.name });
        }
        if !self.slabs.memory().machine().may_wait() {
            return Err(Error::WouldWait);
        }
        let popped = self.slabs.memory().machine().with_cpu(|cpu| {
            // SAFETY: as in `alloc`.
            cpu.map(|cpu| unsafe { inner.slot(cpu).pop_or_detach() })
        });
        let magazine = match popped {
            Some(Popped::Object(round)) => return Ok(round),
            Some(Popped::Nothing(Some(magazine))) => magazine,
            Some(Popped::Nothing(None)) => {
                let magazine = inner.shared.lock().depot.pop_empty(self.slabs.memory());
                // No memory for a magazine: one object is all that is needed.
                let Some(magazine) = magazine else { return self.take_one() };
                magazine
            }
            None => return self.take_one(),
        };
        // The magazine is this call's alone now: filled with no CPU pinned, as that may take a lock and a new slab.
        let mut magazine = InHand { cache: *self, magazine: Some(magazine) };
        let filled = magazine.magazine.as_mut().map_or(Ok(()), |magazine| self.refill(magazine));
        let round = magazine.magazine.as_mut().and_then(Magazine::pop);
        drop(magazine);
        filled?;
        round.map_or_else(|| self.take_one(), Ok)
    }

    /// Gives a free object to this CPU's magazines, or makes room for it. Returns `false`, with
    /// nothing done, where that might be to wait for itself.
    #[cold]
    #[inline(never)]
    pub(crate) fn push_slow(&self, round: Round) -> bool {
        let inner = self.inner;
        if !self.slabs.memory().machine().may_wait() {
            return false;
        }
        let pushed = self.slabs.memory().machine().with_cpu(|cpu| {
            // SAFETY: as in `alloc`.
            cpu.map(|cpu| unsafe { inner.slot(cpu).push_or_detach(round) })
        });
        let mut surplus = false;
        let empty = match pushed {
            Some(Pushed::Done) => return true,
            Some(Pushed::Full(Some(full))) => {
                let (empty, nr_empty) = self.exchange(full);
                surplus = nr_empty > SURPLUS;
                Some(empty)
            }
            Some(Pushed::Full(None)) => inner.shared.lock().depot.pop_empty(self.slabs.memory()),
            None => None,
        };
        let Some(mut magazine) = empty else {
            let map = self.slabs.memory().machine();
            let nr_empty = {
                let mut shared = inner.shared.lock();
                shared.lists.put_one(map, &inner.geometry, round);
                shared.lists.nr_empty()
            };
            if nr_empty > SURPLUS {
                self.trim(EMPTIES, 1);
            }
            return true;
        };
        let room = magazine.push(round);
        debug_assert!(room, "it was empty");
        self.install(magazine);
        if surplus {
            self.trim(EMPTIES, 1);
        }
        true
    }

    /// Exchanges a full magazine for an empty one, and returns it and how many slabs are empty
    /// then.
    fn exchange(&self, mut full: Magazine) -> (Magazine, usize) {
        let (inner, memory) = (self.inner, self.slabs.memory());
        prefetch_slabs(memory.machine(), &inner.geometry, &full);
        let mut shared = inner.shared.lock();
        // A full magazine is kept as it is, so that a CPU that mostly allocates gets it whole; its objects go
        // back to their slabs only where enough are kept.
        if shared.depot.has_room()
            && let Some(empty) = shared.depot.pop_empty(memory)
        {
            match shared.depot.push_full(full) {
                Ok(()) => return (empty, shared.lists.nr_empty()),
                Err(back) => {
                    shared.depot.push_empty(empty);
                    full = back;
                }
            }
        }
        shared.lists.empty_out(memory.machine(), &inner.geometry, &mut full);
        (full, shared.lists.nr_empty())
    }

    /// Fills an empty magazine, at least with one object.
    fn refill(&self, magazine: &mut Magazine) -> Result<(), Error> {
        let (inner, map) = (self.inner, self.slabs.memory().machine());
        loop {
            {
                let mut shared = inner.shared.lock();
                // Whole magazines first: exchanging one costs the same whatever it holds.
                if let Some(full) = shared.depot.pop_full() {
                    shared.depot.push_empty(core::mem::replace(magazine, full));
                    return Ok(());
                }
                if shared.lists.fill(map, &inner.geometry, magazine) > 0 {
                    return Ok(());
                }
            }
            let more = self.make_more();
            if more.is_err() {
                // Giving back what others held may have helped.
                let mut shared = inner.shared.lock();
                return match shared.lists.fill(map, &inner.geometry, magazine) {
                    0 => more,
                    _ => Ok(()),
                };
            }
        }
    }

    /// Makes free places available: in a slab that was resumed and not used yet, or in a new one.
    fn make_more(&self) -> Result<(), Error> {
        if self.sweep_for_free(SWEPT) {
            return Ok(());
        }
        let grown = self.grow();
        if grown.is_err() {
            if self.sweep_for_free(usize::MAX) {
                return Ok(());
            }
            self.await_sweep();
        }
        grown
    }

    /// Takes one object, without a magazine.
    fn take_one(&self) -> Result<Round, Error> {
        let chamber = Chamber::new();
        // SAFETY: one chamber, used through this magazine alone, which goes before it.
        let mut magazine = unsafe { Magazine::new(NonNull::from(&chamber), 1) };
        let (inner, map) = (self.inner, self.slabs.memory().machine());
        loop {
            {
                let mut shared = inner.shared.lock();
                shared.lists.fill(map, &inner.geometry, &mut magazine);
                if let Some(round) = magazine.pop() {
                    return Ok(round);
                }
                if let Some(mut full) = shared.depot.pop_full() {
                    let round = full.pop();
                    shared.lists.empty_out(map, &inner.geometry, &mut full);
                    shared.depot.push_empty(full);
                    if let Some(round) = round {
                        return Ok(round);
                    }
                }
            }
            if let Err(error) = self.make_more() {
                let mut shared = inner.shared.lock();
                shared.lists.fill(map, &inner.geometry, &mut magazine);
                return magazine.pop().ok_or(error);
            }
        }
    }

    /// Puts a magazine into this CPU's slot, and what had to make way where it belongs.
    fn install(&self, magazine: Magazine) {
        let inner = self.inner;
        let surplus = self.slabs.memory().machine().with_cpu(|cpu| match cpu {
            // SAFETY: as in `alloc`.
            Some(cpu) => unsafe { inner.slot(cpu).install(magazine) },
            None => Some(magazine),
        });
        if let Some(surplus) = surplus {
            self.stow(surplus);
        }
    }

    /// Puts a magazine into the depot, its objects into their slabs if need be.
    fn stow(&self, magazine: Magazine) {
        let (inner, map) = (self.inner, self.slabs.memory().machine());
        let mut shared = inner.shared.lock();
        if let Err(mut magazine) = shared.depot.push_full(magazine) {
            shared.lists.empty_out(map, &inner.geometry, &mut magazine);
            shared.depot.push_empty(magazine);
        }
    }

    /// Adds a slab.
    fn grow(&self) -> Result<(), Error> {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let geometry = &inner.geometry;
        let block = self.slabs.retry_after_reclaim(|| {
            Ok(memory.alloc(Request::new(geometry.order).frame_type(FrameType::Table))?)
        })?;
        let unbuilt = Unbuilt { cache: *self, block };
        // SAFETY: the block was allocated just now, and is a slab from here on.
        let slab = unsafe { Slab::at(memory.machine(), block.addr()) };
        // SAFETY: allocated just now.
        unsafe { slab.build(geometry, inner.desc, inner.owner) };
        let first = slab.object(geometry, ObjectIndex::FIRST);
        if !first.addr().get().is_multiple_of(u32_to_usize(geometry.align)) {
            let (addr, align) =
                (slab.addr(geometry, ObjectIndex::FIRST), u32_to_usize(geometry.align));
            return Err(Error::BadMap { addr, align });
        }
        let bare = inner.constructor().is_none() && !geometry.redzone && !debug::ENABLED;
        if !bare {
            for index in geometry.indices() {
                // SAFETY: the slab is new, and its objects have no owner.
                unsafe { self.prepare(slab, index) };
            }
        }
        if inner.spec.preserving {
            self.slabs.retry_after_reclaim(|| {
                self.slabs.preserve_slab(inner, &mut inner.shared.lock(), slab)
            })?;
        }
        core::mem::forget(unbuilt);
        // Published under the lock that a call needs to take objects from it.
        let mut shared = inner.shared.lock();
        // SAFETY: allocated above, and a slab of this cache by now.
        unsafe { self.slabs.publish_slab(block) };
        shared.lists.add(geometry, slab);
        Ok(())
    }

    /// Makes a place ready for its first allocation.
    ///
    /// # Safety
    /// The place is free, its slab this cache's, and it is the caller's alone to touch.
    pub(crate) unsafe fn prepare(&self, slab: Slab, index: ObjectIndex) {
        let geometry = &self.inner.geometry;
        let object = slab.object(geometry, index);
        // SAFETY: the caller's promise.
        unsafe { debug::fill_redzone(object, geometry) };
        match self.inner.constructor() {
            // SAFETY: the caller's promise.
            Some(construct) => unsafe { construct.run(object) },
            // SAFETY: the caller's promise.
            None if debug::ENABLED => unsafe { debug::poison(object, geometry) },
            None => {}
        }
    }
}

/// A magazine that is being filled, which may take a constructor that panics: dropping it installs it.
struct InHand<'s, M: Machine> {
    cache: Cache<'s, M>,
    magazine: Option<Magazine>,
}

impl<M: Machine> Drop for InHand<'_, M> {
    fn drop(&mut self) {
        if let Some(magazine) = self.magazine.take() {
            self.cache.install(magazine);
        }
    }
}

/// A slab's frames until it is one: dropping it gives them back.
struct Unbuilt<'s, M: Machine> {
    cache: Cache<'s, M>,
    block: Block,
}

impl<M: Machine> Drop for Unbuilt<'_, M> {
    fn drop(&mut self) {
        // A constructor panicked, or there is no memory for the cache directory. What a raw call preserved in
        // between is refused, and stays that call's.
        // SAFETY: allocated by `grow`, and never published: no object of it had an owner.
        let _ = unsafe { self.cache.slabs.memory().free_as(self.block, FrameType::Table) };
    }
}
