//! Object caches: allocating and freeing, fast from any CPU.
//!
//! ```text
//!  alloc / free
//!      │  a magazine of this CPU         nothing shared is touched
//!      │  the depot's full and empty magazines  ┐
//!      │  slabs: a word of free bits at a time  ┘ under the cache's lock
//!      v  a new slab from the page allocator      with no lock held
//! ```

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heirloom_folio::{Block, CpuId, Kind, Machine, PhysAddr, Request};

use crate::control::Control;
use crate::debug;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::header::Slab;
use crate::magazine::{Magazine, Popped, Pushed};
use crate::name::Name;
use crate::slabs::Slabs;
use crate::spot::Spot;
use crate::state::{ObjectState, State};

/// Empty slabs that a cache keeps when objects are freed.
const EMPTIES: usize = 4;

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
    pub(crate) control: &'s Control<M>,
}

impl<M: Machine> Clone for Cache<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Cache<'_, M> {}

impl<M: Machine> fmt::Debug for Cache<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({}, {:?})", self.control.name, self.control.geometry)
    }
}

impl<'s, M: Machine> Cache<'s, M> {
    /// The name.
    pub const fn name(&self) -> Name {
        self.control.name
    }

    /// Bytes of an object.
    pub const fn object_size(&self) -> usize {
        self.control.geometry.size as usize
    }

    /// The alignment of an object, in bytes.
    pub const fn align(&self) -> usize {
        self.control.geometry.align as usize
    }

    /// Objects in a slab.
    pub const fn objects_per_slab(&self) -> u32 {
        self.control.geometry.objects
    }

    /// The order of a slab.
    pub const fn slab_order(&self) -> heirloom_folio::Order {
        self.control.geometry.order
    }

    /// Whether objects are preserved from birth.
    pub const fn is_preserving(&self) -> bool {
        self.control.spec.preserving
    }

    /// What the cache belongs to.
    pub const fn slabs(&self) -> &'s Slabs<M> {
        self.slabs
    }

    /// Allocates an object, with whatever it contains: what the constructor or the last owner
    /// left.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory. [`Error::BadMap`]: the machine's map does not keep the
    /// alignment. [`Error::Overwritten`], with the feature `debug`: the next free object was
    /// written to; it is out of use now, and the call can be repeated.
    #[inline]
    pub fn alloc(&self) -> Result<NonNull<u8>, Error> {
        let control = self.control;
        let popped = self.slabs.memory().machine().pinned(|cpu| {
            // SAFETY: pinned to a CPU of the machine; its slot is used within.
            cpu.and_then(|cpu| unsafe { control.slot(cpu).pop() })
        });
        match popped {
            Some(addr) => self.hand_out(addr),
            None => self.hand_out(self.alloc_slow()?),
        }
    }

    /// Allocates an object filled with zeroes.
    ///
    /// # Errors
    /// As for [`Cache::alloc`]; [`Error::Constructed`] if the cache has a constructor.
    #[inline]
    pub fn alloc_zeroed(&self) -> Result<NonNull<u8>, Error> {
        if self.control.spec.constructor.is_some() {
            return Err(Error::Constructed { cache: self.control.name });
        }
        let object = self.alloc()?;
        // SAFETY: the object is the caller's, of that many bytes, and nobody has seen it yet.
        unsafe { object.write_bytes(0, self.object_size()) };
        Ok(object)
    }

    /// Frees an object, from any CPU.
    ///
    /// The check against double frees is a look at the object's byte: of two frees *at the same
    /// time* both may pass, unless the feature `debug` is on.
    ///
    /// # Errors
    /// The object stays whose it was: [`Error::DoubleFree`], [`Error::Preserved`],
    /// [`Error::Unclaimed`], [`Error::Interior`], [`Error::WrongCache`], [`Error::NotAnObject`];
    /// with the feature `debug`, [`Error::Overwritten`].
    ///
    /// # Safety
    /// - The caller owns the object: nothing will read or write it through an older pointer, and
    ///   no other call frees or preserves it at the same time.
    /// - If the cache has a constructor, the object is as constructed.
    #[inline]
    pub unsafe fn free(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        let Some(addr) = self.slabs.memory().machine().phys(ptr) else {
            return Err(Error::NotAnObject { ptr: ptr.addr().get() });
        };
        let geometry = &self.control.geometry;
        let base = PhysAddr::new(addr.get() & !geometry.mask());
        if self.slabs.is_slab(base, geometry.order.get().into()) {
            // SAFETY: a slab starts there; see `Slabs::slab_at` for one that is not ours.
            let slab = unsafe { Slab::at(self.slabs.memory().machine(), base) };
            if slab.head().owner.load(Relaxed) == self.control.owner
                && let Some(index) = geometry.index(addr.get() & geometry.mask())
            {
                // SAFETY: the caller's promise.
                return unsafe { self.free_at(slab, index, addr) };
            }
        }
        Err(self.misdirected(ptr))
    }

    /// Frees object `index` of a slab of this cache, which is at `addr`.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline]
    pub(crate) unsafe fn free_at(
        &self,
        slab: Slab,
        index: u32,
        addr: PhysAddr,
    ) -> Result<(), Error> {
        let geometry = &self.control.geometry;
        let byte = slab.state(geometry, index);
        let state = State(byte.load(Relaxed));
        if !state.is(ObjectState::Live) {
            return Err(self.not_live(state, addr));
        }
        if debug::ENABLED {
            // SAFETY: the caller owns the object.
            unsafe { self.check_free(slab, index, state) }?;
        }
        byte.store(state.to(ObjectState::Free).0, Relaxed);
        self.give(addr);
        Ok(())
    }

    /// Makes a single object survive a jump, in a cache that is not preserving.
    ///
    /// # Errors
    /// [`Error::AlreadyPreserved`]; [`Error::DoubleFree`] if it is free; [`Error::Unclaimed`];
    /// out of memory; and for pointers as for [`Cache::free`].
    pub fn preserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        self.spot(ptr)?.preserve()
    }

    /// Lets a preserved object go: it no longer survives, and can be freed.
    ///
    /// # Errors
    /// [`Error::NotPreserved`], also in a preserving cache; [`Error::Unclaimed`]; and for pointers
    /// as for [`Cache::free`].
    pub fn unpreserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        self.spot(ptr)?.unpreserve()
    }

    /// The object of this cache that a pointer leads to.
    pub(crate) fn spot(&self, ptr: NonNull<u8>) -> Result<Spot<'s, M>, Error> {
        let spot = self.slabs.spot_of(ptr)?;
        if core::ptr::eq(spot.control, self.control) {
            return Ok(spot);
        }
        let (expected, found) = (self.control.name, spot.control.name);
        Err(Error::WrongCache { addr: spot.addr(), expected, found })
    }

    /// Turns a free object into a live one.
    #[inline]
    fn hand_out(&self, addr: PhysAddr) -> Result<NonNull<u8>, Error> {
        let geometry = &self.control.geometry;
        let machine = self.slabs.memory().machine();
        let base = PhysAddr::new(addr.get() & !geometry.mask());
        // SAFETY: magazines hold the addresses of free objects of this cache's slabs.
        let slab = unsafe { Slab::at(machine, base) };
        let index = geometry.nearest(addr.get() & geometry.mask());
        let byte = slab.state(geometry, index);
        let state = State(byte.load(Relaxed));
        if debug::ENABLED {
            self.check_alloc(slab, index, state)?;
        }
        byte.store(state.allocated().0, Relaxed);
        Ok(machine.ptr(addr))
    }

    /// Gives a free object to this CPU's magazine.
    #[inline]
    fn give(&self, addr: PhysAddr) {
        let control = self.control;
        let pushed = self.slabs.memory().machine().pinned(|cpu| {
            // SAFETY: pinned to a CPU of the machine; its slot is used within.
            cpu.is_some_and(|cpu| unsafe { control.slot(cpu).push(addr) })
        });
        if !pushed {
            self.give_slow(addr);
        }
    }

    /// A free object from this CPU's previous magazine, the depot or a slab.
    #[cold]
    fn alloc_slow(&self) -> Result<PhysAddr, Error> {
        let control = self.control;
        let popped = self.slabs.memory().machine().pinned(|cpu| {
            // SAFETY: as in `alloc`.
            cpu.map(|cpu| unsafe { control.slot(cpu).pop_or_detach(control.capacity) })
        });
        let mut magazine = match popped {
            Some(Popped::Object(addr)) => return Ok(addr),
            Some(Popped::Nothing(Some(magazine))) => magazine,
            Some(Popped::Nothing(None)) => {
                let magazine = control.shared.lock().depot.pop_empty(self.slabs.memory());
                // No memory for a magazine: one object is all that is needed.
                let Some(magazine) = magazine else { return self.take_one() };
                magazine
            }
            None => return self.take_one(),
        };
        let filled = self.refill(&mut magazine);
        let addr = magazine.pop();
        self.install(magazine);
        filled?;
        addr.map_or_else(|| self.take_one(), Ok)
    }

    /// Gives a free object to the previous magazine, or makes room for it.
    #[cold]
    fn give_slow(&self, addr: PhysAddr) {
        let control = self.control;
        let pushed = self.slabs.memory().machine().pinned(|cpu| {
            // SAFETY: as in `alloc`.
            cpu.map(|cpu| unsafe { control.slot(cpu).push_or_detach(addr, control.capacity) })
        });
        let empty = match pushed {
            Some(Pushed::Done) => return,
            Some(Pushed::Full(Some(full))) => Some(self.exchange(full)),
            Some(Pushed::Full(None)) => control.shared.lock().depot.pop_empty(self.slabs.memory()),
            None => None,
        };
        let Some(mut magazine) = empty else {
            let map = self.slabs.memory().machine();
            control.shared.lock().lists.put_one(map, &control.geometry, addr);
            self.trim(EMPTIES);
            return;
        };
        let room = magazine.push(addr);
        debug_assert!(room, "it was empty");
        self.install(magazine);
        self.trim(EMPTIES);
    }

    /// An empty magazine for a full one.
    fn exchange(&self, mut full: Magazine) -> Magazine {
        let (control, memory) = (self.control, self.slabs.memory());
        let mut shared = control.shared.lock();
        if shared.depot.has_room()
            && let Some(empty) = shared.depot.pop_empty(memory)
        {
            match shared.depot.push_full(full) {
                Ok(()) => return empty,
                Err(back) => {
                    shared.depot.push_empty(empty);
                    full = back;
                }
            }
        }
        shared.lists.empty_out(memory.machine(), &control.geometry, &mut full);
        full
    }

    /// Fills an empty magazine, at least with one object.
    fn refill(&self, magazine: &mut Magazine) -> Result<(), Error> {
        let (control, map) = (self.control, self.slabs.memory().machine());
        loop {
            {
                let mut shared = control.shared.lock();
                if let Some(full) = shared.depot.pop_full() {
                    shared.depot.push_empty(core::mem::replace(magazine, full));
                    return Ok(());
                }
                if shared.lists.fill(map, &control.geometry, magazine) > 0 {
                    return Ok(());
                }
            }
            let grown = self.grow();
            if grown.is_err() {
                // Giving back what others held may have helped.
                let mut shared = control.shared.lock();
                return match shared.lists.fill(map, &control.geometry, magazine) {
                    0 => grown,
                    _ => Ok(()),
                };
            }
        }
    }

    /// One object, without a magazine.
    fn take_one(&self) -> Result<PhysAddr, Error> {
        let word = AtomicU64::new(0);
        // SAFETY: room for one object, used through this magazine alone, which goes before it.
        let mut magazine = unsafe { Magazine::new(NonNull::from(&word), 1) };
        let (control, map) = (self.control, self.slabs.memory().machine());
        loop {
            {
                let mut shared = control.shared.lock();
                shared.lists.fill(map, &control.geometry, &mut magazine);
                if let Some(addr) = magazine.pop() {
                    return Ok(addr);
                }
                if let Some(mut full) = shared.depot.pop_full() {
                    let addr = full.pop();
                    shared.lists.empty_out(map, &control.geometry, &mut full);
                    shared.depot.push_empty(full);
                    if let Some(addr) = addr {
                        return Ok(addr);
                    }
                }
            }
            let grown = self.grow();
            if let Err(error) = grown {
                let mut shared = control.shared.lock();
                shared.lists.fill(map, &control.geometry, &mut magazine);
                return magazine.pop().ok_or(error);
            }
        }
    }

    /// Puts a magazine into this CPU's slot, and what had to make way where it belongs.
    fn install(&self, magazine: Magazine) {
        let control = self.control;
        let surplus = self.slabs.memory().machine().pinned(|cpu| match cpu {
            // SAFETY: as in `alloc`.
            Some(cpu) => unsafe { control.slot(cpu).install(magazine) },
            None => Some(magazine),
        });
        if let Some(surplus) = surplus {
            self.stow(surplus);
        }
    }

    /// Puts a magazine into the depot, its objects into their slabs if need be.
    fn stow(&self, magazine: Magazine) {
        let (control, map) = (self.control, self.slabs.memory().machine());
        let mut shared = control.shared.lock();
        if let Err(mut magazine) = shared.depot.push_full(magazine) {
            shared.lists.empty_out(map, &control.geometry, &mut magazine);
            shared.depot.push_empty(magazine);
        }
    }

    /// Adds a slab.
    fn grow(&self) -> Result<(), Error> {
        let (control, memory) = (self.control, self.slabs.memory());
        let geometry = &control.geometry;
        let block = self
            .slabs
            .patiently(|| Ok(memory.alloc(Request::new(geometry.order).kind(Kind::Slab))?))?;
        let unbuilt = Unbuilt { cache: *self, block };
        // SAFETY: the block was allocated just now, and is a slab from here on.
        let slab = unsafe { Slab::at(memory.machine(), block.addr()) };
        let first = slab.object(geometry, 0);
        if !first.addr().get().is_multiple_of(geometry.align as usize) {
            let (addr, align) = (slab.addr(geometry, 0), geometry.align as usize);
            return Err(Error::BadMap { addr, align });
        }
        // SAFETY: allocated just now.
        unsafe { slab.build(geometry, control.shape, control.owner) };
        for index in 0..geometry.objects {
            // SAFETY: the slab is new, its objects nobody's.
            unsafe { self.prepare(slab, index) };
        }
        if control.spec.preserving {
            self.slabs.patiently(|| self.slabs.keep(control, &mut control.shared.lock(), slab))?;
        }
        control.shared.lock().lists.add(geometry, slab);
        core::mem::forget(unbuilt);
        Ok(())
    }

    /// Makes a place ready for its first allocation.
    ///
    /// # Safety
    /// The place is free, its slab this cache's, and it is nobody else's to touch.
    pub(crate) unsafe fn prepare(&self, slab: Slab, index: u32) {
        let geometry = &self.control.geometry;
        let object = slab.object(geometry, index);
        // SAFETY: the caller's promise.
        unsafe { debug::fence(object, geometry) };
        match self.control.spec.constructor {
            Some(construct) => construct(object),
            // SAFETY: the caller's promise.
            None if debug::ENABLED => unsafe { debug::poison(object, geometry) },
            None => {}
        }
    }

    /// Gives empty slabs back until `keep` are left: how many.
    pub(crate) fn trim(&self, keep: usize) -> u64 {
        let (control, memory) = (self.control, self.slabs.memory());
        let mut given = 0;
        loop {
            let slab = {
                let mut shared = control.shared.lock();
                if shared.lists.empties() <= keep {
                    return given;
                }
                let Some(slab) = shared.lists.take_empty(memory.machine(), keep) else {
                    return given;
                };
                // An empty slab of a plain cache has no preserved object.
                if control.spec.preserving {
                    self.slabs.let_go(control, &mut shared, slab);
                }
                slab
            };
            drop(Unbuilt { cache: *self, block: slab.block(&control.geometry) });
            given += 1;
        }
    }

    /// Gives back what the cache does not need: the objects in this CPU's magazines, in those of
    /// CPUs that nothing runs on and in the depot go to their slabs, and slabs without objects to
    /// the page allocator. Returns how many slabs.
    pub fn shrink(&self) -> u64 {
        let (control, memory) = (self.control, self.slabs.memory());
        let machine = memory.machine();
        let own = machine.pinned(|cpu| {
            // SAFETY: as in `alloc`.
            cpu.map(|cpu| unsafe { control.slot(cpu).detach(control.capacity) })
        });
        own.into_iter().flatten().flatten().for_each(|magazine| self.drain(magazine));
        for cpu in (0..machine.count() as u32).map(CpuId) {
            let mut idle = None;
            machine.idle(cpu, || {
                // SAFETY: `idle` runs this as if on `cpu`, a CPU of the machine.
                idle = Some(unsafe { control.slot(cpu).detach(control.capacity) });
            });
            idle.into_iter().flatten().flatten().for_each(|magazine| self.drain(magazine));
        }
        while let Some(full) = {
            let mut shared = control.shared.lock();
            shared.depot.pop_full()
        } {
            self.drain(full);
        }
        self.trim(0)
    }

    /// Puts a magazine's objects into their slabs, and the magazine aside.
    fn drain(&self, mut magazine: Magazine) {
        let (control, map) = (self.control, self.slabs.memory().machine());
        let mut shared = control.shared.lock();
        shared.lists.empty_out(map, &control.geometry, &mut magazine);
        shared.depot.push_empty(magazine);
    }

    /// How many objects there are, in which state.
    ///
    /// Objects in use are counted from their bytes, so the figures cannot drift; exact while nothing is
    /// allocated or freed. Costs a pass over the bytes, with the cache locked.
    pub fn stats(&self) -> CacheStats {
        let (control, machine) = (self.control, self.slabs.memory().machine());
        let geometry: &Geometry = &control.geometry;
        let mut stats =
            CacheStats { slab_frames: geometry.order.frames(), ..CacheStats::default() };
        let shared = control.shared.lock();
        stats.cached = control.cached(machine, &shared) as u64;
        shared.lists.for_each(machine, |slab| {
            stats.slabs += 1;
            stats.free += u64::from(slab.head().free.load(Relaxed));
            for byte in slab.states(geometry) {
                match State(byte.load(Relaxed)).what() {
                    // In its slab or in a magazine, which have counted it.
                    Some(ObjectState::Free) => {}
                    Some(ObjectState::Live) => {
                        stats.live += 1;
                        stats.preserved += u64::from(control.spec.preserving);
                    }
                    Some(ObjectState::Preserved) => {
                        stats.live += 1;
                        stats.preserved += 1;
                    }
                    Some(ObjectState::Unclaimed) => stats.unclaimed += 1,
                    _ => stats.quarantined += 1,
                }
            }
        });
        debug_assert_eq!(stats.slabs, shared.lists.slabs() as u64);
        stats
    }

    /// Why `free` found no object of this cache.
    #[cold]
    fn misdirected(&self, ptr: NonNull<u8>) -> Error {
        match self.spot(ptr) {
            Err(error) => error,
            Ok(_) => Error::NotAnObject { ptr: ptr.addr().get() },
        }
    }

    /// Why an object that is not live cannot be freed.
    #[cold]
    fn not_live(&self, state: State, addr: PhysAddr) -> Error {
        let cache = self.control.name;
        match state.what() {
            Some(ObjectState::Preserved) => Error::Preserved { cache, addr },
            Some(ObjectState::Unclaimed) => Error::Unclaimed { cache, addr },
            _ => Error::DoubleFree { cache, addr },
        }
    }

    /// What the feature `debug` checks of an object about to be freed, and does to it.
    ///
    /// # Safety
    /// The caller owns the object.
    #[cold]
    unsafe fn check_free(&self, slab: Slab, index: u32, state: State) -> Result<(), Error> {
        let geometry = &self.control.geometry;
        let (object, addr) = (slab.object(geometry, index), slab.addr(geometry, index));
        // SAFETY: the caller owns the object, and nobody else writes behind it but by mistake.
        if let Some(at) = unsafe { debug::overrun(object, geometry) } {
            return Err(self.overwritten(addr, at));
        }
        // Of two frees at the same time one loses here.
        let spot = Spot { slabs: self.slabs, control: self.control, slab, index };
        if !spot.exchange(state, ObjectState::Free) {
            return Err(self.not_live(spot.state(), addr));
        }
        if self.control.spec.constructor.is_none() {
            // SAFETY: the caller gave the object up, and it is in no magazine yet.
            unsafe { debug::poison(object, geometry) };
        }
        Ok(())
    }

    /// What the feature `debug` checks of an object about to be handed out.
    #[cold]
    fn check_alloc(&self, slab: Slab, index: u32, state: State) -> Result<(), Error> {
        let geometry = &self.control.geometry;
        let (object, addr) = (slab.object(geometry, index), slab.addr(geometry, index));
        let sound = state.is(ObjectState::Free);
        // SAFETY: the object came from a magazine and is ours alone.
        let spoiled = match self.control.spec.constructor {
            Some(_) => None,
            None => unsafe { debug::spoiled(object, geometry) },
        };
        // SAFETY: as above; behind it nobody writes but by mistake.
        let at = spoiled.or_else(|| unsafe { debug::overrun(object, geometry) });
        let at = at.or(if sound { None } else { Some(0) });
        at.map_or(Ok(()), |at| {
            let bad = state.to(ObjectState::Quarantined);
            slab.state(geometry, index).store(bad.0, Relaxed);
            Err(self.overwritten(addr, at))
        })
    }

    const fn overwritten(&self, addr: PhysAddr, at: usize) -> Error {
        let at = PhysAddr::new(addr.get() + at as u64);
        Error::Overwritten { cache: self.control.name, addr, at }
    }
}

/// A slab's frames while it is in no list: dropping it gives them back.
struct Unbuilt<'s, M: Machine> {
    cache: Cache<'s, M>,
    block: Block,
}

impl<M: Machine> Drop for Unbuilt<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the slab is in no list, so none of its objects is anybody's.
        let freed = unsafe { self.cache.slabs.memory().free(self.block, Kind::Slab) };
        debug_assert!(freed.is_ok(), "an empty slab is free to go: {freed:?}");
    }
}

/// How many objects of a cache there are, in which state; see [`Cache::stats`].
///
/// Each object is counted once:
/// `slabs * objects_per_slab == live + unclaimed + free + cached + quarantined`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Slabs.
    pub slabs: u64,
    /// Frames in each.
    pub slab_frames: u64,
    /// Objects in use, preserved ones included.
    pub live: u64,
    /// Those of them that survive a jump.
    pub preserved: u64,
    /// Objects that the predecessor left and nobody claimed yet.
    pub unclaimed: u64,
    /// Objects free in their slabs.
    pub free: u64,
    /// Objects free in magazines.
    pub cached: u64,
    /// Objects taken out of use because they were overwritten while free.
    pub quarantined: u64,
}
