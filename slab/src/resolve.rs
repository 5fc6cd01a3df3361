//! From a pointer to what it leads to: one search, for every call that gets a pointer.
//!
//! ```text
//! ptr ── phys ──> address ─┬─ a large buffer starts at its frame ──> Resolved::Large
//!                          └─ a slab is around it ─────────────────> Resolved::Slab ── start ──> ObjectRef
//! ```
//!
//! Any pointer may be asked about; none is followed before a byte of the page allocator says what
//! lies there. What is in neither is told from other memory by the caller that has to explain a
//! refusal. A free's short path asks for the slab alone; `preserve`, a claim and what names an object ask for the
//! [object](Slabs::object_fast) where most are, and then for one half after the other, as what the whole
//! returns is larger than what it takes to find it.

use core::ptr::NonNull;

use heirloom_folio::internal::{BlockMatcher, BlockRef};
use heirloom_folio::{FrameType, Machine};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{Order, PhysAddr, Run};

use crate::cache::inner::CacheInner;
use crate::class::ALL_IN_BASE;
use crate::error::Error;
use crate::geometry::{BASE_ORDER, MAX_ORDER, ObjectIndex};
use crate::header::Slab;
use crate::object_ref::{ObjectRef, Promised, Stays};
use crate::slabs::Slabs;

/// What a pointer leads to.
pub(crate) enum Resolved<'s, 'l, M: Machine> {
    /// Somewhere in a slab.
    Slab(InSlab<'s, 'l, M>),
    /// The first byte of a large buffer.
    Large {
        /// The buffer's frames.
        run: Run,
        /// Whether it survives a jump.
        preserved: bool,
    },
}

/// A place in a slab.
pub(crate) struct InSlab<'s, 'l, M: Machine> {
    slabs: &'s Slabs<M>,
    pub(crate) inner: &'s CacheInner<M>,
    /// The place by pointers, which freeing goes on with.
    pub(crate) found: BlockRef,
    addr: PhysAddr,
    stays: Promised<'l>,
}

impl<'s, 'l, M: Machine> InSlab<'s, 'l, M> {
    /// Returns the slab.
    pub(crate) const fn slab(&self) -> Slab {
        let start = PhysAddr::new(self.addr.get() - usize_to_u64(self.found.offset));
        // SAFETY: a slab of that cache starts there, and stays as long as the value says so; a place's
        // head is good for all of its block.
        unsafe { Slab::at_both(self.found.head, start) }
    }

    /// Returns the object around the place, whether or not it starts there; `None` beside all objects.
    pub(crate) fn around(&self) -> Option<ObjectRef<'s, 'l, M>> {
        let (index, _) = self.inner.geometry.around(usize_to_u64(self.found.offset))?;
        Some(self.object(index))
    }

    /// Returns the object that starts at the place.
    ///
    /// # Errors
    /// [`Error::Interior`], with the start of the object around it, or of the slab if there is none.
    #[inline]
    pub(crate) fn start(&self) -> Result<ObjectRef<'s, 'l, M>, Error> {
        match self.inner.geometry.index(self.found.offset) {
            Some(index) => Ok(self.object(index)),
            None => Err(self.interior()),
        }
    }

    const fn object(&self, index: ObjectIndex) -> ObjectRef<'s, 'l, M> {
        ObjectRef::new(self.slabs, self.inner, self.slab(), index, self.stays)
    }

    #[cold]
    #[inline(never)]
    fn interior(&self) -> Error {
        let start = self.around().map_or(self.slab().phys(), |object| object.addr());
        Error::Interior { cache: self.inner.name, addr: self.addr, start }
    }
}

impl<M: Machine> Slabs<M> {
    /// Returns what a pointer leads to; `None` if it is neither the start of a large buffer nor in a
    /// slab.
    pub(crate) fn resolve<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Option<Resolved<'_, 'l, M>> {
        self.resolve_at(self.memory().machine().phys(ptr)?, stays)
    }

    /// Returns what an address leads to, as [`Slabs::resolve`] does.
    pub(crate) fn resolve_at<'l>(
        &self,
        addr: PhysAddr,
        stays: &'l Stays<'_>,
    ) -> Option<Resolved<'_, 'l, M>> {
        // First the large buffer: one byte says whether it is one, and slabs may be of several orders.
        if addr.is_page_aligned()
            && let Some((run, preserved)) = self.memory().find_run_at(addr.pfn(), FrameType::Buffer)
        {
            return Some(Resolved::Large { run, preserved });
        }
        self.in_slab(addr, stays).map(Resolved::Slab)
    }

    /// Returns the place in a slab that an address is.
    ///
    /// Found by the map's own pointer: a caller may have another to the same byte.
    #[inline]
    fn in_slab<'l>(&self, addr: PhysAddr, stays: &'l Stays<'_>) -> Option<InSlab<'_, 'l, M>> {
        let machine = self.memory().machine();
        // An address outside the map may have any pointer.
        let ptr = Some(machine.ptr(addr)).filter(|ptr| machine.phys(*ptr) == Some(addr))?;
        let (found, inner) = self.slab_around(ptr)?;
        Some(InSlab { slabs: self, inner, found, addr, stays: Promised::by(stays) })
    }

    /// Like [`Slabs::resolve`], for a pointer that the caller owns: the slab around it is swept if it was
    /// not.
    ///
    /// # Errors
    /// [`Error::NotAnObject`]; [`Error::WouldWait`] and [`Error::Slab`] as for [`Slabs::sweep_around`].
    pub(crate) fn owned<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Result<Resolved<'_, 'l, M>, Error> {
        let nothing = Error::NotAnObject { ptr: ptr.addr().get() };
        self.swept(ptr, || self.resolve(ptr, stays).ok_or(nothing))
    }

    /// Returns the object that starts at a pointer, if its slab is of the smallest order and in the memory's first
    /// range: where most are, and by one look at the frame's byte, one at the slab's owner.
    #[inline]
    pub(crate) fn object_fast<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Option<ObjectRef<'_, 'l, M>> {
        let (found, inner) = self.base_slab_around(ptr)?;
        let index = inner.geometry.index(found.offset)?;
        let start = self.memory().machine().phys(found.head)?;
        // SAFETY: a slab of that cache starts there, and stays as `stays` says; a place's head is good for
        // all of its block.
        let slab = unsafe { Slab::at_both(found.head, start) };
        Some(ObjectRef::new(self, inner, slab, index, Promised::by(stays)))
    }

    /// Returns the object that starts at a pointer: one half of what [`Slabs::resolve`] does. A large buffer is no
    /// object.
    ///
    /// # Errors
    /// [`Error::NotAnObject`], [`Error::Interior`].
    #[inline]
    pub(crate) fn object_of<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Result<ObjectRef<'_, 'l, M>, Error> {
        match self.object_fast(ptr, stays) {
            Some(object_ref) => Ok(object_ref),
            None => self.object_of_slow(ptr, stays),
        }
    }

    /// Looks for the object that starts at a pointer in slabs of any order, or says why there is none.
    #[inline(never)]
    fn object_of_slow<'l>(
        &self,
        ptr: NonNull<u8>,
        stays: &'l Stays<'_>,
    ) -> Result<ObjectRef<'_, 'l, M>, Error> {
        let nothing = Error::NotAnObject { ptr: ptr.addr().get() };
        let addr = self.memory().machine().phys(ptr).ok_or(nothing)?;
        self.object_at_slow(addr, stays)?.ok_or(nothing)
    }

    /// Returns the object that starts at an address; `None` if no slab is there.
    ///
    /// # Errors
    /// [`Error::Interior`].
    #[inline]
    pub(crate) fn object_at<'l>(
        &self,
        addr: PhysAddr,
        stays: &'l Stays<'_>,
    ) -> Result<Option<ObjectRef<'_, 'l, M>>, Error> {
        // An address outside the map may have any pointer.
        let fast = self.object_fast(self.memory().machine().ptr(addr), stays);
        match fast.filter(|object_ref| object_ref.addr() == addr) {
            Some(object_ref) => Ok(Some(object_ref)),
            None => self.object_at_slow(addr, stays),
        }
    }

    /// Looks for the object that starts at an address in slabs of any order.
    #[inline(never)]
    fn object_at_slow<'l>(
        &self,
        addr: PhysAddr,
        stays: &'l Stays<'_>,
    ) -> Result<Option<ObjectRef<'_, 'l, M>>, Error> {
        self.in_slab(addr, stays).map(|place| place.start()).transpose()
    }

    /// Returns the slab that holds an address, and its cache.
    pub(crate) fn slab_at(
        &self,
        addr: PhysAddr,
        stays: &Stays<'_>,
    ) -> Option<(Slab, &CacheInner<M>)> {
        let place = self.in_slab(addr, stays)?;
        Some((place.slab(), place.inner))
    }

    /// Returns the place that a pointer leads to in a slab of the smallest order, and the slab's cache: by
    /// a look at the memory's first range alone, for the path that most frees take.
    #[inline]
    pub(crate) fn base_slab_around(&self, ptr: NonNull<u8>) -> Option<(BlockRef, &CacheInner<M>)> {
        const BASE: BlockMatcher = BlockMatcher::new(FrameType::Slab, BASE_ORDER);
        let found = self.memory().lookup_fast(ptr, &BASE)?;
        // SAFETY: as in `owner_of_slab`.
        let owner = unsafe { Slab::owner_at(found.head) };
        match self.registry.class_cache(owner) {
            Some(inner) if ALL_IN_BASE => Some((found, inner)),
            _ => Some((found, self.owner_of_slab(found.head, BASE_ORDER)?)),
        }
    }

    /// Like [`Slabs::base_slab_around`], for slabs of any order in any range.
    #[inline]
    fn slab_around(&self, ptr: NonNull<u8>) -> Option<(BlockRef, &CacheInner<M>)> {
        self.base_slab_around(ptr).or_else(|| self.slab_around_slow(ptr))
    }

    /// Looks for the slab around a pointer once in each order that slabs have.
    #[inline(never)]
    fn slab_around_slow(&self, ptr: NonNull<u8>) -> Option<(BlockRef, &CacheInner<M>)> {
        let orders = self.orders.load(Relaxed);
        let orders = (0..=MAX_ORDER.get()).filter(|order| orders >> order & 1 == 1);
        orders.filter_map(Order::new).find_map(|order| {
            let found = self.memory().lookup(ptr, &BlockMatcher::new(FrameType::Slab, order))?;
            Some((found, self.owner_of_slab(found.head, order)?))
        })
    }

    /// Returns the cache of the slab of `order` that starts at `head`.
    #[inline]
    fn owner_of_slab(&self, head: NonNull<u8>, order: Order) -> Option<&CacheInner<M>> {
        // SAFETY: a slab starts there, one that `Slabs::publish_slab` published: what a predecessor
        // left is none until it is adopted, whatever its header says. An instance before this one,
        // over the same memory, may have left it; then its owner word names none of our caches.
        let owner = unsafe { Slab::owner_at(head) };
        self.registry.cache(owner).filter(|inner| inner.geometry.order == order)
    }
}
