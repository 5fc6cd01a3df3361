//! Typed caches: objects as owned values, and what survives as a type that cannot be freed.
//!
//! ```text
//! TypedCache::insert ──> Object ── preserve ──> PreservedObject
//!              claim ──>  │   ^                  │
//!                       drop  └── unpreserve ────┘     (no drop that frees)
//! ```

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{PhysAddr, Refused};

use crate::adopt_slab::Adopted;
use crate::cache::Cache;
use crate::error::Error;
use crate::header::Slab;
use crate::persist::Persist;
use crate::slabs::Slabs;
use crate::spec::CacheSpec;
use crate::state::State;

/// A cache of values of type `T`. Size, alignment and fingerprint are the type's.
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{Slabs, persist};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Inode {
///     number: u64,
///     links: u64,
/// }
/// persist!(Inode { number, links });
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let inodes = slabs.typed::<Inode>("inode", false)?;
/// let mut inode = inodes.insert(Inode { number: 1, links: 1 })?;
/// inode.links += 1;
/// let kept = inode.preserve()?;
/// assert_eq!(kept.links, 2);
/// drop(kept.unpreserve()?);
/// assert_eq!(inodes.cache().stats().live, 0);
/// # Ok::<(), heirloom_slab::Error>(())
/// ```
pub struct TypedCache<'s, T: Persist, M: Machine> {
    cache: Cache<'s, M>,
    of: PhantomData<fn() -> T>,
}

impl<T: Persist, M: Machine> Clone for TypedCache<'_, T, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Persist, M: Machine> Copy for TypedCache<'_, T, M> {}

impl<T: Persist, M: Machine> fmt::Debug for TypedCache<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cache.fmt(f)
    }
}

/// An owned object of a typed cache. Dropping it frees it.
///
/// In a preserving cache it survives a jump as it stands; [`Object::leak`] is how its owner lets go
/// of it without freeing it.
pub struct Object<'s, T: Persist, M: Machine> {
    cache: TypedCache<'s, T, M>,
    ptr: NonNull<T>,
}

/// An object that survives a jump. It has no drop that frees: letting go of the handle leaves it
/// preserved, and only [`PreservedObject::unpreserve`] leads back to one that can be freed.
pub struct PreservedObject<'s, T: Persist, M: Machine> {
    cache: TypedCache<'s, T, M>,
    ptr: NonNull<T>,
}

// SAFETY: the handle owns the object, a `T`, and reaches the cache through shared references.
unsafe impl<T: Persist + Send, M: Machine> Send for Object<'_, T, M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}
// SAFETY: as for `Send`; a shared handle gives shared access to the `T`.
unsafe impl<T: Persist + Sync, M: Machine> Sync for Object<'_, T, M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}
// SAFETY: as for `Object`.
unsafe impl<T: Persist + Send, M: Machine> Send for PreservedObject<'_, T, M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}
// SAFETY: as for `Object`.
unsafe impl<T: Persist + Sync, M: Machine> Sync for PreservedObject<'_, T, M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}

/// The fingerprint of caches whose objects have one owner, `heirloom-collections`, which follows links to them that it found to be
/// its own. No type has it, so no safe call hands out such an object to be written to.
pub const OWNED: u64 = u64::from_le_bytes(*b"hl-coll1");

impl<M: Machine> Slabs<M> {
    /// Returns the cache called `name` of values of type `T`.
    ///
    /// # Errors
    /// As for [`Slabs::cache`].
    pub fn typed<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        self.cache(spec::<T>(name, preserving)).map(TypedCache::over)
    }

    /// Does what [`Slabs::adopt`] does, for a cache of values of type `T`: with all slabs of the
    /// predecessor's cache of this name, which must have left one.
    ///
    /// # Errors
    /// As for [`Slabs::adopt`].
    pub fn adopt_typed<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<(TypedCache<'_, T, M>, Adopted), Error> {
        let (cache, adopted) = self.adopt(spec::<T>(name, preserving))?;
        Ok((TypedCache::over(cache), adopted))
    }

    /// Returns the cache called `name` of values of type `T`, with all that the predecessor's cache of this
    /// name left, in use as it was: see [`Slabs::resume`]. [`TypedCache::from_raw`] gives each object its
    /// owner again.
    ///
    /// # Errors
    /// As for [`Slabs::resume`].
    ///
    /// # Examples
    /// ```
    /// use heirloom_kho::PhysAddr;
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{Slabs, persist};
    /// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
    ///
    /// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    /// #[repr(C)]
    /// struct Node {
    ///     next: u64,
    ///     value: u64,
    /// }
    /// persist!(Node { next, value });
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let nodes = slabs.typed::<Node>("nodes", true)?;
    /// let tail = nodes.insert(Node { next: 0, value: 2 })?.leak();
    /// let head = nodes.insert(Node { next: tail.get(), value: 1 })?.leak();
    ///
    /// // The successor, over the same memory: the list is there, by its addresses.
    /// let (map, directory) = (slabs.memory().preserved().tree_root()?, slabs.cache_directory());
    /// let memory = slabs.into_memory().into_machine().attach(&Ram::frames(1024))?;
    /// let slabs = Slabs::revive(memory.take_over(map)?.0, directory)?;
    /// let nodes = slabs.resume_typed::<Node>("nodes", true)?;
    /// // SAFETY: the list's, which is this kernel's as a whole; each is had once.
    /// let head = unsafe { nodes.from_raw(head) };
    /// // SAFETY: as above.
    /// let tail = unsafe { nodes.from_raw(PhysAddr::new(head.next)) };
    /// assert_eq!((head.value, tail.value), (1, 2));
    /// drop((head, tail));
    /// assert_eq!(nodes.cache().preserved().count(), 0);
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn resume_typed<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        self.resume(spec::<T>(name, preserving)).map(TypedCache::over)
    }

    /// Like [`Slabs::resume_typed`], for a cache that the predecessor may not have left.
    ///
    /// # Errors
    /// As for [`Slabs::resume_or_create`].
    pub fn resume_typed_or_create<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        self.resume_or_create(spec::<T>(name, preserving)).map(TypedCache::over)
    }

    /// Like [`Slabs::adopt_typed`], for a cache that the predecessor may not have left.
    ///
    /// # Errors
    /// As for [`Slabs::adopt_or_create`].
    pub fn adopt_typed_or_create<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<(TypedCache<'_, T, M>, Adopted), Error> {
        let (cache, adopted) = self.adopt_or_create(spec::<T>(name, preserving))?;
        Ok((TypedCache::over(cache), adopted))
    }
}

const fn spec<T: Persist>(name: &str, preserving: bool) -> CacheSpec {
    const { assert!(T::FINGERPRINT != OWNED, "such objects are not a typed cache's") };
    CacheSpec::new(name, size_of::<T>())
        .align(align_of::<T>())
        .fingerprint(T::FINGERPRINT)
        .preserving(preserving)
}

impl<'s, T: Persist, M: Machine> TypedCache<'s, T, M> {
    const fn over(cache: Cache<'s, M>) -> Self {
        Self { cache, of: PhantomData }
    }

    /// Returns the cache beneath.
    pub const fn cache(&self) -> Cache<'s, M> {
        self.cache
    }

    /// Allocates an object and puts `value` into it.
    ///
    /// # Errors
    /// As for [`Cache::alloc`].
    pub fn insert(&self, value: T) -> Result<Object<'s, T, M>, Error> {
        Ok(self.fill(self.cache.alloc()?, value))
    }

    /// Puts `value` into an object that was allocated just now, and returns its owner.
    pub(crate) fn fill(&self, object: NonNull<u8>, value: T) -> Object<'s, T, M> {
        let ptr = object.cast::<T>();
        // SAFETY: the object is ours alone, and as large and as aligned as a `T`.
        unsafe { ptr.write(value) };
        Object { cache: *self, ptr }
    }

    /// Claims an object that the predecessor left, by the address and the reuse tag of its handle. It
    /// survives until it is dropped, or [preserved](Object::preserve) and let go.
    ///
    /// # Errors
    /// As for [`Slabs::claim`]; [`Error::WrongCache`].
    pub fn claim(&self, addr: PhysAddr, reuse_tag: u8) -> Result<Object<'s, T, M>, Error> {
        let slabs = self.cache.slabs;
        let ptr = slabs.memory().machine().ptr(addr);
        slabs.swept(ptr, || {
            slabs.looking(|stays| {
                self.cache.object_ref(ptr, stays)?.claim(usize_to_u64(size_of::<T>()), reuse_tag)
            })
        })?;
        Ok(self.at(addr))
    }

    /// Claims all objects that the predecessor left and no caller has claimed, one at a time.
    pub fn claim_all(&self) -> impl Iterator<Item = Object<'s, T, M>> + use<'s, '_, T, M> {
        // What another claims first is not ours.
        self.cache.unclaimed().filter_map(|(addr, reuse_tag)| self.claim(addr, reuse_tag).ok())
    }

    /// Returns the owner of an object that [`Object::leak`] let go.
    ///
    /// # Safety
    /// `addr` is that of an object of this cache that is in use, not preserved singly, and the
    /// caller's to give away; no other handle for it exists.
    pub unsafe fn from_raw(&self, addr: PhysAddr) -> Object<'s, T, M> {
        self.at(addr)
    }

    /// Returns the owner of a preserved object that [`PreservedObject::into_raw`] let go.
    ///
    /// # Safety
    /// As for [`TypedCache::from_raw`], but that it is preserved.
    pub unsafe fn preserved_from_raw(&self, addr: PhysAddr) -> PreservedObject<'s, T, M> {
        let Object { cache, ptr } = *ManuallyDrop::new(self.at(addr));
        PreservedObject { cache, ptr }
    }

    fn at(&self, addr: PhysAddr) -> Object<'s, T, M> {
        let ptr = self.cache.slabs.memory().machine().ptr(addr).cast();
        Object { cache: *self, ptr }
    }

    /// Returns where an object that is in use is, and its reuse tag: what a handle needs beside its
    /// size. It says so also from where the object's slab, if it is resumed, cannot be swept.
    fn handle_parts(&self, ptr: NonNull<T>) -> (PhysAddr, u8) {
        let (machine, geometry) = (self.cache.slabs.memory().machine(), &self.cache.inner.geometry);
        let Some(addr) = machine.phys(ptr.cast()) else { return Default::default() };
        // SAFETY: the object's handle asks, which is its one owner: so it is in use, and the slab around
        // it stays, a slab of this cache, or one that is to become it as it lies.
        let slab = unsafe { Slab::at(machine, geometry.slab_of(addr)) };
        let index = geometry.index(u64_to_usize(geometry.offset_of(addr)));
        let state = index.map(|index| State(slab.state(geometry, index).load(Relaxed)));
        (addr, state.map_or(0, State::reuse_tag))
    }
}

impl<'s, T: Persist, M: Machine> Object<'s, T, M> {
    /// Returns its address and its reuse tag, which a handle to it holds.
    pub fn handle_parts(&self) -> (PhysAddr, u8) {
        self.cache.handle_parts(self.ptr)
    }

    /// Makes the object survive a jump.
    ///
    /// # Errors
    /// As for [`Cache::preserve`]; in a preserving cache [`Error::WrongState`]. The value
    /// comes back unchanged.
    pub fn preserve(self) -> Result<PreservedObject<'s, T, M>, Refused<Self, Error>> {
        // SAFETY: the handle owns the object, so nothing frees it.
        match unsafe { self.cache.cache.preserve(self.ptr.cast()) } {
            Ok(()) => {
                let Self { cache, ptr } = *ManuallyDrop::new(self);
                Ok(PreservedObject { cache, ptr })
            }
            Err(error) => Err(Refused { error, value: self }),
        }
    }

    /// Undoes a claim: the object is the predecessor's again, there to be claimed with the same handle or to be told by
    /// [`Slabs::finish_inherited`].
    ///
    /// # Errors
    /// [`Error::WrongState`]: in a cache that is not preserving, one that this kernel allocated. The value comes back.
    #[doc(hidden)]
    pub fn unclaim(self) -> Result<(), Refused<Self, Error>> {
        let slabs = self.cache.cache.slabs;
        let put_back =
            slabs.looking(|stays| self.cache.cache.object_ref(self.ptr.cast(), stays)?.unclaim());
        match put_back {
            Ok(()) => {
                let _ = ManuallyDrop::new(self);
                Ok(())
            }
            Err(error) => Err(Refused { error, value: self }),
        }
    }

    /// Lets go of the object without freeing it: its address. In a preserving cache it stays
    /// preserved.
    pub fn leak(self) -> PhysAddr {
        let object = ManuallyDrop::new(self);
        object.handle_parts().0
    }
}

impl<'s, T: Persist, M: Machine> PreservedObject<'s, T, M> {
    /// Returns its address and its reuse tag, which a handle to it holds.
    pub fn handle_parts(&self) -> (PhysAddr, u8) {
        self.cache.handle_parts(self.ptr)
    }

    /// Gives the object back as one that does not survive, and that dropping frees.
    ///
    /// # Errors
    /// [`Error::WrongState`] if a raw call unpreserved it behind the handle's back.
    pub fn unpreserve(self) -> Result<Object<'s, T, M>, Refused<Self, Error>> {
        // SAFETY: as for `preserve`.
        match unsafe { self.cache.cache.unpreserve(self.ptr.cast()) } {
            Ok(()) => Ok(Object { cache: self.cache, ptr: self.ptr }),
            Err(error) => Err(Refused { error, value: self }),
        }
    }

    /// Lets go of the handle; the object stays preserved: its address.
    pub fn into_raw(self) -> PhysAddr {
        self.handle_parts().0
    }
}

impl<T: Persist, M: Machine> Drop for Object<'_, T, M> {
    fn drop(&mut self) {
        // SAFETY: the handle is the object's one owner, and it ends here. Typed caches have no
        // constructor: no spec of one has.
        let freed = unsafe { self.cache.cache.free(self.ptr.cast()) };
        // Refused only if a raw call preserved or freed the object behind the handle's back, or
        // if something wrote past its end; then it is not ours to free, and stays as it is.
        if freed.is_err() {
            self.cache.cache.slabs.note_refused();
        }
    }
}

macro_rules! access {
    ($handle:ident) => {
        impl<T: Persist, M: Machine> Deref for $handle<'_, T, M> {
            type Target = T;

            fn deref(&self) -> &T {
                // SAFETY: the object is ours alone, as large and as aligned as a `T` (the spec
                // says so), and any bytes are a `T`; writes need `&mut self`.
                unsafe { self.ptr.as_ref() }
            }
        }

        impl<T: Persist, M: Machine> DerefMut for $handle<'_, T, M> {
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: as for `deref`, and we are borrowed mutably.
                unsafe { self.ptr.as_mut() }
            }
        }

        impl<T: Persist + fmt::Debug, M: Machine> fmt::Debug for $handle<'_, T, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    };
}

access!(Object);
access!(PreservedObject);
