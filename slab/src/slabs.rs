//! The layer's object: memory with its caches, its buffers and its roll.

use core::fmt;
use core::ptr::NonNull;
use heirloom_folio::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};

use heirloom_folio::{Kind, Machine, Memory, Order, PhysAddr, Run};
use lock_api::Mutex;

use crate::cache::Cache;
use crate::class::Classes;
use crate::control::Control;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::name::Name;
use crate::new::NewSlabs;
use crate::past::Past;
use crate::register::{FIRST, Put, Register};
use crate::roll::{CacheRecord, Roll};
use crate::spec::CacheSpec;
use crate::spot::Stays;
use crate::state::ObjectState;

/// Caches and buffers over a [`Memory`], which it owns.
///
/// One value is one instance, entirely its own. It needs nothing but the memory: control blocks
/// lie in frames.
///
/// # Examples
/// ```
/// use core::alloc::Layout;
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{Buffers, Slabs};
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let layout = Layout::from_size_align(100, 8).unwrap();
/// let buffer = slabs.alloc(layout, Buffers { zeroed: true, ..Buffers::default() })?;
/// assert_eq!(slabs.size_of(buffer), Some(112));
/// // SAFETY: allocated above, and nothing frees it meanwhile.
/// unsafe { slabs.preserve(buffer) }?;
/// // SAFETY: allocated above; refused, as it is preserved.
/// assert!(unsafe { slabs.free(buffer) }.is_err());
/// // SAFETY: allocated above, and not used again.
/// unsafe {
///     slabs.unpreserve(buffer)?;
///     slabs.free(buffer)?;
/// }
/// # Ok::<(), heirloom_slab::Error>(())
/// ```
pub struct Slabs<M: Machine> {
    memory: Memory<M>,
    pub(crate) register: Register<M>,
    pub(crate) roll: Roll<M>,
    /// The orders of slabs there are, a bit each.
    pub(crate) orders: AtomicU32,
    pub(crate) classes: Classes<M>,
    /// Held by a pass over a cache's slabs.
    pub(crate) passing: Mutex<M::Mutex, ()>,
    /// Frees by an owner's end that were refused; see [`Slabs::refused_frees`].
    refused: AtomicU64,
    pub(crate) past: Past<M>,
}

impl<M: Machine> fmt::Debug for Slabs<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slabs").field("roll", &self.roll()).finish_non_exhaustive()
    }
}

// SAFETY: the pointers lead to frames of the memory that the value owns; nothing is tied to a
// thread.
unsafe impl<M: Machine + Send> Send for Slabs<M>
where
    M::Lock: Send,
    M::Mutex: Send,
{
}
// SAFETY: everything shared is atomics or under a lock; control blocks are `Sync`.
unsafe impl<M: Machine> Sync for Slabs<M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}

/// Whose some memory is; see [`Slabs::owner_of`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Owner {
    /// An object of a cache, or a small buffer.
    Object {
        /// The cache.
        cache: Name,
        /// The object's address.
        addr: PhysAddr,
        /// Its size in bytes.
        size: usize,
        /// What it is.
        state: ObjectState,
        /// Whether it survives a jump.
        preserved: bool,
        /// Which of the objects that were in this place it is, modulo 32.
        tag: u8,
    },
    /// A part of a slab that is no object.
    Slab {
        /// The cache.
        cache: Name,
        /// The slab's address.
        addr: PhysAddr,
    },
    /// A large buffer.
    Large {
        /// Its frames.
        run: Run,
        /// Whether it survives a jump.
        preserved: bool,
    },
}

impl<M: Machine> Slabs<M> {
    /// Caches and buffers over `memory`: none yet.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory for the roll's page and the tracker's nodes.
    pub fn new(memory: Memory<M>) -> Result<Self, Error> {
        Ok(Self::of(NewSlabs::new(memory)?))
    }

    pub(crate) fn of(new: NewSlabs<M>) -> Self {
        let NewSlabs { memory, roll } = new;
        let (register, roll) = (Register::new(roll), Roll::reopen(&memory, roll));
        Self {
            memory,
            register,
            roll,
            orders: AtomicU32::new(0),
            classes: Classes::new(),
            passing: Mutex::new(()),
            refused: AtomicU64::new(0),
            past: Past::new(),
        }
    }

    /// The memory underneath.
    #[inline]
    pub const fn memory(&self) -> &Memory<M> {
        &self.memory
    }

    /// The memory, for whoever goes on without caches: what is preserved stays where it is.
    pub fn into_memory(self) -> Memory<M> {
        self.memory
    }

    /// The address of the roll's first page, which a successor finds all caches and slabs by. It
    /// never changes.
    pub const fn roll(&self) -> PhysAddr {
        self.roll.first()
    }

    /// Returns the cache that `spec` asks for: the one of this name, or a new one. No lock is
    /// taken.
    ///
    /// # Errors
    /// [`Error::Mismatch`]: there is one of this name, and it is another. [`Error::BadSpec`],
    /// [`Error::ReservedName`], [`Error::TooManyCaches`], [`Error::Folio`]: out of memory.
    pub fn cache(&self, spec: CacheSpec) -> Result<Cache<'_, M>, Error> {
        spec.own_name()?;
        if let Some(there) = self.find(&spec)? {
            return Ok(there);
        }
        // Slabs are as the predecessor's, whose slabs the cache can then adopt.
        let view = self.view();
        let like = |record: &CacheRecord| record.admits(&spec).is_ok();
        let all = || view.records_with(|shape| spec.is_named_as(shape)).filter(like);
        // Rather as those that are there than as those that were.
        let found = all().find(|record| view.slabs(record).next().is_some());
        match found.or_else(|| all().next()) {
            Some(record) => self.create(spec.slabs_like(record.geometry())),
            None => self.create(spec),
        }
    }

    /// Returns all caches: those of the size classes, then the others in the order of their creation.
    pub fn caches(&self) -> impl Iterator<Item = Cache<'_, M>> {
        self.register.iter().map(|control| Cache { slabs: self, control })
    }

    /// The cache of this name and spec, if there is one.
    ///
    /// Caches of a size class whose slabs lie otherwise than this build's stand beside each other.
    /// No two caches have one shape: so at most one goes on with a record of the roll.
    pub(crate) fn find(&self, spec: &CacheSpec) -> Result<Option<Cache<'_, M>>, Error> {
        let mut number = FIRST;
        self.find_from(spec, &mut number)
    }

    /// Like [`Slabs::find`], from cache `number` on; the number behind the last one looked at.
    fn find_from(
        &self,
        spec: &CacheSpec,
        number: &mut usize,
    ) -> Result<Option<Cache<'_, M>>, Error> {
        let mut other = Ok(None);
        while let Some(control) = self.register.get(*number) {
            *number += 1;
            if Some(control.name) != spec.name {
                continue;
            }
            match spec.admits(&control.spec, &control.geometry) {
                // Slabs that are there already are as they are.
                Ok(()) if spec.kept && control.geometry.zones != spec.zones => {}
                Ok(()) => return Ok(Some(Cache { slabs: self, control })),
                Err(_) if spec.kept => {}
                Err(error) => other = Err(error),
            }
        }
        other
    }

    /// The cache, which is created if there is none. `spec` says all about its geometry.
    ///
    /// No lock is taken: the control block is built first, and given the first number that is free
    /// by one exchange. Whoever loses looks at what came first, and tries the next one.
    pub(crate) fn create(&self, spec: CacheSpec) -> Result<Cache<'_, M>, Error> {
        let like = spec.geometry()?;
        let mut number = FIRST;
        if let Some(there) = self.find_from(&spec, &mut number)? {
            return Ok(there);
        }
        let mut new = Control::build(self, spec, like, number)?;
        self.expect_order(like.1.order);
        loop {
            new = match self.register.put(&self.memory, number, new)? {
                Put::Done(control) => return Ok(Cache { slabs: self, control }),
                Put::Taken(_, new) => new,
            };
            if let Some(there) = self.find_from(&spec, &mut number)? {
                return Ok(there);
            }
            new.set_owner(self.register.owner(number));
        }
    }

    /// Lets pointers into slabs of this order be found. Before there is one.
    pub(crate) fn expect_order(&self, order: Order) {
        self.orders.fetch_or(1 << order.get(), Relaxed);
    }

    /// Bytes that an object or buffer has room for. `None`: the pointer is not the start of one
    /// that is in use; or as for [`Slabs::owner_at`].
    pub fn size_of(&self, ptr: NonNull<u8>) -> Option<usize> {
        let addr = self.memory.machine().phys(ptr)?;
        match self.owner_at(addr)? {
            Owner::Object {
                addr: start,
                size,
                state: ObjectState::Live | ObjectState::Preserved | ObjectState::Held,
                ..
            } => (start == addr).then_some(size),
            Owner::Large { run, .. } => (run.addr() == addr).then_some(run.bytes() as usize),
            _ => None,
        }
    }

    /// Whose the memory is that a pointer leads to, also into the middle of an object.
    pub fn owner_of(&self, ptr: NonNull<u8>) -> Option<Owner> {
        self.owner_at(self.memory.machine().phys(ptr)?)
    }

    /// Whose the memory at an address is. `None` too in a slab that is [resumed](Slabs::resume) and was not
    /// used yet, from where nothing can be waited for.
    pub fn owner_at(&self, addr: PhysAddr) -> Option<Owner> {
        let look = || self.looking(|stays| self.owner_while(addr, stays));
        look().or_else(|| match self.sweep_around(self.memory.machine().ptr(addr)) {
            Ok(true) => look(),
            _ => None,
        })
    }

    /// [`Slabs::owner_at`], for a caller that keeps what is there from being given back.
    pub(crate) fn owner_while(&self, addr: PhysAddr, stays: &Stays<'_>) -> Option<Owner> {
        if let Some((slab, control)) = self.slab_at(addr, stays) {
            let geometry: &Geometry = &control.geometry;
            let cache = control.name;
            let Some((index, _)) = geometry.around(geometry.offset_of(addr)) else {
                return Some(Owner::Slab { cache, addr: slab.phys() });
            };
            let state = crate::state::State(slab.state(geometry, index).load(Relaxed));
            let what = state.what()?;
            let preserved = match what {
                ObjectState::Live => control.spec.preserving,
                ObjectState::Preserved | ObjectState::Unclaimed | ObjectState::Held => true,
                _ => false,
            };
            return Some(Owner::Object {
                cache,
                addr: slab.addr(geometry, index),
                size: geometry.size as usize,
                state: what,
                preserved,
                tag: state.tag(),
            });
        }
        match self.memory.holder(addr.pfn())? {
            (run, Kind::Buffer, preserved) => Some(Owner::Large { run, preserved }),
            _ => None,
        }
    }

    /// The tag and the size of the object at a pointer: what a handle to it says, beside its
    /// address. `None` if it is no object in use, or a large buffer, which has no tag; or as for
    /// [`Slabs::owner_at`].
    pub fn tag_of(&self, ptr: NonNull<u8>) -> Option<(u8, usize)> {
        self.name_of(ptr).ok()
    }

    /// Like [`Slabs::tag_of`]; says why not.
    ///
    /// # Errors
    /// [`Error::NotInUse`], [`Error::Interior`], [`Error::NotAnObject`]; [`Error::WouldWait`] and
    /// [`Error::Slab`] as for [`Slabs::resume`].
    #[doc(hidden)]
    pub fn name_of(&self, ptr: NonNull<u8>) -> Result<(u8, usize), Error> {
        self.swept(ptr, || {
            self.looking(|stays| {
                let spot = self.spot_of(ptr, stays)?;
                let (state, cache) = (spot.state(), spot.control.name);
                if state.is_in_use() {
                    return Ok((state.tag(), spot.control.geometry.size as usize));
                }
                Err(Error::NotInUse { cache, addr: spot.addr() })
            })
        })
    }

    /// How many objects and buffers stayed in use when their owners ended: by a drop or an allocator's
    /// `dealloc`, which cannot say that they were refused. What a raw call preserved behind its owner's
    /// back is, and what was written to past its end, with the feature `debug`.
    pub fn refused_frees(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Makes an object or a buffer survive a jump.
    ///
    /// A large buffer that was preserved from birth is from then on like any other: it has to be let go
    /// before it is freed.
    ///
    /// # Errors
    /// As for [`Cache::preserve`]; for a large buffer those of
    /// [`Memory::preserve_run`](heirloom_folio::Memory::preserve_run), as [`Error::Folio`].
    ///
    /// # Safety
    /// As for [`Cache::preserve`].
    pub unsafe fn preserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        match self.large_at(ptr) {
            // SAFETY: a large buffer, which is this layer's.
            Some(run) => Ok(unsafe { self.memory.preserve_run_as(run, Kind::Buffer) }?),
            // SAFETY: the caller's promise.
            None => self.owned(ptr, &unsafe { Stays::promised() })?.preserve(),
        }
    }

    /// Lets go an object or a buffer that is preserved, or was claimed: it no longer survives, and can
    /// be freed. A large buffer that was preserved from birth is from then on like any other.
    ///
    /// # Errors
    /// As for [`Cache::unpreserve`]; for a large buffer as [`Error::Folio`].
    ///
    /// # Safety
    /// As for [`Cache::preserve`].
    pub unsafe fn unpreserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        match self.large_at(ptr) {
            // SAFETY: a large buffer, which is this layer's.
            Some(run) => Ok(unsafe { self.memory.unpreserve_run_as(run, Kind::Buffer) }?),
            // SAFETY: the caller's promise.
            None => self.owned(ptr, &unsafe { Stays::promised() })?.unpreserve(),
        }
    }

    /// Gives back what no cache needs: [`Cache::shrink`] for all, then the page allocator's own
    /// caches. Returns how many slabs.
    pub fn shrink(&self) -> u64 {
        let given = self.caches().map(|cache| cache.shrink()).sum();
        self.memory.drain();
        given
    }

    /// Gives back what no cache needs, as [`Slabs::shrink`], while nothing else uses the slabs: from
    /// the magazines of every CPU. Returns how many slabs.
    ///
    /// What a thread freed last stays in the magazines of its slot when it ends, and a thread that
    /// takes the slot next, for whatever work, keeps `shrink` from it as long as it lives.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::{harness::Ram, Kind};
    /// use heirloom_slab::{Buffers, Slabs};
    ///
    /// let mut slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let buffer = slabs.alloc(core::alloc::Layout::new::<[u64; 8]>(), Buffers::default())?;
    /// // SAFETY: allocated just now.
    /// unsafe { slabs.free(buffer) }?;
    /// slabs.shrink_all();
    /// assert_eq!(slabs.memory().audit()?.allocated[Kind::Slab as usize], 0);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn shrink_all(&mut self) -> u64 {
        // SAFETY: `self` is borrowed mutably, so no call on any of its caches runs.
        let given = self.caches().map(|cache| unsafe { cache.shrink_all() }).sum();
        self.memory.drain_all();
        given
    }

    /// Does what may be refused for want of memory; a second time, after everything that can be
    /// given back without a constructor was.
    pub(crate) fn patiently<T>(&self, act: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        use heirloom_folio::Error::{NoRun, OutOfMemory};
        match act() {
            Err(Error::Folio(OutOfMemory { .. } | NoRun { .. }))
                if self.memory.machine().may_wait() =>
            {
                self.caches().for_each(|cache| _ = cache.shrink_aside());
                self.memory.drain();
                act()
            }
            other => other,
        }
    }
}
