//! The caches that containers are made of, and what they take from them.

use core::fmt;
use core::ptr::{NonNull, null_mut};

use heirloom_folio::Machine;
use heirloom_kho::narrow::u32_to_u8;
use heirloom_kho::sync::AtomicPtr;
use heirloom_kho::sync::Ordering::{Acquire, Release};
use heirloom_kho::{Handle, HandleFault, Parts, PhysAddr};
use heirloom_slab::{Cache, RawCache, Slabs, TypedCache};

use crate::class::{COUNT, Class};
use crate::error::Error;
use crate::head::HeadBytes;
use crate::link::Link;
use crate::object::{Object, Owner};
use crate::word::{point, settle};

/// The name of the cache of heads.
pub const HEADS: &str = "collections-heads";

/// Where containers have their memory from: caches of their own in a [`Slabs`], named `collections-…`, which all containers of a
/// kernel share. Opening one is the same in the first kernel and in each successor.
///
/// Nothing else may allocate from these caches.
///
/// # Examples
/// ```
/// use heirloom_collections::{Map, Pool};
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::Slabs;
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let pool = Pool::open(&slabs)?;
/// let mut map = Map::<_>::create(&pool, 1)?;
/// map.insert(b"key", b"value")?;
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Pool<'s, M: Machine> {
    slabs: &'s Slabs<M>,
    heads: TypedCache<'s, HeadBytes, M>,
    /// The caches that were needed so far.
    caches: [AtomicPtr<RawCache>; COUNT],
}

impl<M: Machine> fmt::Debug for Pool<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<'s, M: Machine> Pool<'s, M> {
    /// Returns the pool of these slabs. In a successor the objects of all containers are in use as they were, whatever their
    /// number: that costs nothing for each. The containers' heads are there to be claimed: by opening each container.
    ///
    /// It is called before what is unclaimed is [let go](heirloom_slab::Slabs::finish_inherited), as a container is opened before:
    /// what is not is told there, and is freed, or kept for a kernel after this one.
    ///
    /// # Errors
    /// As for [`Slabs::adopt_or_create`] and [`Slabs::resume_or_create`].
    pub fn open(slabs: &'s Slabs<M>) -> Result<Self, Error> {
        let (heads, _) = slabs.adopt_typed_or_create(HEADS, true)?;
        let caches = [const { AtomicPtr::new(null_mut()) }; COUNT];
        let pool = Self { slabs, heads, caches };
        // All that the predecessor left, as what is neither resumed nor adopted is told as unclaimed.
        let mut left = 0_u128;
        slabs.for_each_inherited(|record| {
            if let Some(class) = Class::of_spec(record.name().as_str(), record.object_size()) {
                left |= 1 << class.number();
            }
        });
        for class in (0..u128::BITS).filter(|number| left >> number & 1 == 1) {
            if let Some(class) = Class::of_number(u32_to_u8(class)) {
                pool.cache(class)?;
            }
        }
        Ok(pool)
    }

    /// Returns the slabs.
    pub const fn slabs(&self) -> &'s Slabs<M> {
        self.slabs
    }

    /// Returns the cache of a class, resumed or created if this is its first use in this kernel.
    #[inline]
    pub(crate) fn cache(&self, class: Class) -> Result<Cache<'s, M>, Error> {
        let Some(slot) = self.caches.get(class.index()) else { return self.new_cache(class) };
        // Acquire pairs with the Release in `new_cache`.
        match NonNull::new(slot.load(Acquire)) {
            // SAFETY: `into_raw` of a cache of these slabs, which are borrowed for as long: neither moved nor dropped.
            Some(raw) => Ok(unsafe { Cache::from_raw(raw) }),
            None => self.new_cache(class),
        }
    }

    #[cold]
    fn new_cache(&self, class: Class) -> Result<Cache<'s, M>, Error> {
        let cache = self.slabs.resume_or_create(class.spec())?;
        if let Some(slot) = self.caches.get(class.index()) {
            // Whichever of two threads stores it, it is the same.
            slot.store(cache.into_raw().as_ptr(), Release);
        }
        Ok(cache)
    }

    /// Allocates an object, and calls `fill` with it and the link to it just before it is in use.
    ///
    /// # Safety
    /// `fill` begins by writing an [`Owner`]'s words to the object. It writes no more bytes than the class has.
    #[inline]
    pub(crate) unsafe fn alloc(
        &self,
        class: Class,
        fill: impl FnOnce(NonNull<u8>, Link),
    ) -> Result<Link, Error> {
        let (cache, mut link) = (self.cache(class)?, Link::NONE);
        let object = cache.alloc_noted(|object| {
            if let Some(addr) = self.slabs.memory().machine().phys(object) {
                link = Link::new(addr, class);
            }
            if !link.is_none() {
                fill(object, link);
            }
            settle();
        })?;
        point();
        if link.is_none() {
            // Memory beyond 2^52, of which no machine has any.
            // SAFETY: allocated just now, and not handed out.
            unsafe { cache.free(object) }?;
            return Err(heirloom_slab::Error::NotAnObject { ptr: object.addr().get() }.into());
        }
        Ok(link)
    }

    /// Frees an object.
    ///
    /// # Safety
    /// It is in use, and the caller's; nothing uses it any more.
    #[inline]
    pub(crate) unsafe fn free(&self, link: Link, object: NonNull<u8>) -> Result<(), Error> {
        let Some(class) = link.class() else { return Ok(()) };
        let cache = self.cache(class)?;
        settle();
        // SAFETY: the caller's promise.
        let freed = unsafe { cache.free(object) };
        point();
        Ok(freed?)
    }

    /// Returns the object that a link leads to, if it is one of this owner's. Any link may be followed: the slab layer says
    /// whether an object of that class is in use there, and the object whose it is.
    #[inline]
    pub(crate) fn follow(&self, link: Link, owner: Owner) -> Result<Option<Object>, Error> {
        self.follow_as(link, owner, |object| object)
    }

    /// Does what [`Pool::follow`] does, and returns what `look` finds the object to be while it is the owner's still: the caller may be
    /// a reader beside the writer, which frees what the link should not lead to. `look` may be called twice, and reads by atomics.
    #[inline]
    pub(crate) fn follow_as<R>(
        &self,
        link: Link,
        owner: Owner,
        look: impl Fn(Object) -> R,
    ) -> Result<Option<R>, Error> {
        let Some(class) = link.class() else { return Ok(None) };
        let looked = self.cache(class)?.look_at(link.addr(), |ptr| {
            // SAFETY: an object of the pool's, in use, of that class; while it is looked at it stays one. Each begins with an
            // owner's words, which are written before it is in use, and which all look at as atomics.
            let object = unsafe { Object::at(ptr) };
            (object.owner() == owner).then(|| look(object))
        });
        #[cfg(test)]
        crate::watch::followed();
        match looked {
            Ok(found) => Ok(found),
            Err(error) if error.is_out_of_memory() => Err(error.into()),
            Err(error @ heirloom_slab::Error::WouldWait) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Returns the pointer to what a link leads to.
    #[inline]
    pub(crate) fn ptr(&self, link: Link) -> NonNull<u8> {
        self.slabs.memory().machine().ptr(link.addr())
    }

    /// Allocates the head of a container.
    pub(crate) fn new_head(&self, bytes: HeadBytes) -> Result<(PhysAddr, Handle), Error> {
        let head = self.heads.insert(bytes)?;
        let (addr, tag) = head.handle_parts();
        let handle = handle(addr, tag)?;
        Ok((head.leak(), handle))
    }

    /// Claims the head of a container; once, in each kernel.
    pub(crate) fn claim_head(&self, handle: Handle) -> Result<PhysAddr, Error> {
        let bytes = heirloom_kho::narrow::usize_to_u64(size_of::<HeadBytes>());
        match handle.parts().map_err(Error::Handle)? {
            Parts::Object { addr, bytes: found, tag } if found == bytes => {
                Ok(self.heads.claim(addr, tag)?.leak())
            }
            _ => Err(Error::Handle(handle.refused(HandleFault::Kind))),
        }
    }

    /// Gives the head of a container that could not be opened back: it is there to be claimed.
    ///
    /// # Safety
    /// The caller claimed it, and nothing uses it any more.
    pub(crate) unsafe fn unclaim_head(&self, addr: PhysAddr) {
        // SAFETY: the caller's promise: it is in use, and has this one owner.
        let refused = unsafe { self.heads.from_raw(addr) }.unclaim().err();
        // (What is refused stays claimed, and survives.)
        refused.map(|refused| refused.value.leak());
    }

    /// Frees the head of a container.
    ///
    /// # Safety
    /// The caller created or claimed it, and nothing uses it any more.
    pub(crate) unsafe fn free_head(&self, addr: PhysAddr) {
        settle();
        // SAFETY: the caller's promise: it is in use, and has this one owner.
        drop(unsafe { self.heads.from_raw(addr) });
        point();
    }

    /// Returns the pointer to a head.
    pub(crate) fn head_ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.slabs.memory().machine().ptr(addr)
    }
}

/// Returns the handle of a head.
fn handle(addr: PhysAddr, tag: u8) -> Result<Handle, Error> {
    let bytes = heirloom_kho::narrow::usize_to_u64(size_of::<HeadBytes>());
    Handle::new(Parts::Object { addr, bytes, tag }).map_err(Error::Handle)
}
