//! Links: eight plain bytes by which one object leads to another, wherever memory is mapped.
//!
//! | | [`Handle`](heirloom_kho::Handle), 16 bytes | [`Link`], 8 bytes |
//! |---|---|---|
//! | names | anything preserved | an object of one typed cache |
//! | bytes that never were one | told apart in 255 of 256 cases | told apart where no object of the cache in use starts there |
//! | another cache, another length | refused | refused: the cache that owns the address is asked |
//! | an earlier object in the same place | refused, 31 of 32 times | leads to the present one |
//! | is replaced | by two stores | by one |
//!
//! So a link is for what an owner alone leads to, from memory that survives, and clears before it frees the object.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::PhysAddr;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire, Release};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Error;
use crate::persist::Persist;
use crate::typed::{Object, PreservedObject, TypedCache};

/// Eight bytes that lead to an object of a typed cache, or to none: its physical address, little-endian. Any bytes are one.
///
/// What it gives up against a [handle](heirloom_kho::Handle), and how it is checked, is at [`TypedCache::follow`].
///
/// # Examples
/// A list that is found again by one link:
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{Link, Slabs, persist};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Node {
///     next: Link<Node>,
///     value: u64,
/// }
/// persist!(Node { next, value });
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let nodes = slabs.typed::<Node>("nodes", true)?;
/// let tail = nodes.insert(Node { next: Link::NULL, value: 2 })?;
/// let head = nodes.insert(Node { next: tail.link(), value: 1 })?.link_and_leak();
/// tail.leak();
///
/// // The successor, over the same memory.
/// let (map, directory) = (slabs.memory().preserved().tree_root()?, slabs.cache_directory());
/// let memory = slabs.into_memory().into_machine().attach(&Ram::frames(1024))?;
/// let slabs = Slabs::revive(memory.take_over(map)?.0, directory)?;
/// let nodes = slabs.resume_typed::<Node>("nodes", true)?;
/// // SAFETY: the list's, which is this kernel's as a whole.
/// let head = unsafe { nodes.follow(head)?.as_ref() };
/// // SAFETY: as above.
/// let tail = unsafe { nodes.follow(head.next)?.as_ref() };
/// assert_eq!((head.value, tail.value), (1, 2));
/// assert!(nodes.follow(tail.next).is_err() && nodes.follow(Link::from_bits(0x1234)).is_err());
/// # Ok::<(), heirloom_slab::Error>(())
/// ```
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Link<T> {
    addr: u64,
    to: PhantomData<fn() -> T>,
}

const _: () = assert!(size_of::<Link<u64>>() == 8, "one store replaces it");

impl<T> Clone for Link<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Link<T> {}

impl<T> PartialEq for Link<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}

impl<T> Eq for Link<T> {}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({:#x})", self.bits())
    }
}

impl<T> Link<T> {
    /// Leads to nothing.
    pub const NULL: Self = Self::from_bits(0);

    /// Returns the link that leads to an address.
    pub const fn to(addr: PhysAddr) -> Self {
        Self::from_bits(addr.get())
    }

    /// Returns the link of a number, which may be any.
    pub const fn from_bits(bits: u64) -> Self {
        Self { addr: bits.to_le(), to: PhantomData }
    }

    /// Returns the number, of which 0 is [`Link::NULL`].
    pub const fn bits(self) -> u64 {
        u64::from_le(self.addr)
    }

    /// Returns whether it leads to nothing.
    pub const fn is_null(self) -> bool {
        self.bits() == 0
    }

    /// Returns where it leads to. That something is there is not known from this.
    pub const fn addr(self) -> PhysAddr {
        PhysAddr::new(self.bits())
    }
}

/// A link that one store replaces, while others may read it.
///
/// # Examples
/// ```
/// use heirloom_slab::{AtomicLink, Link};
///
/// // In an object that survives, it would be.
/// let mut word = Link::<u64>::NULL;
/// let slot = AtomicLink::from_mut(&mut word);
/// slot.store(Link::from_bits(0x1000));
/// assert_eq!(slot.compare_exchange(Link::NULL, Link::from_bits(0x2000)), Err(Link::from_bits(0x1000)));
/// assert_eq!(slot.load(), Link::from_bits(0x1000));
/// ```
#[repr(transparent)]
pub struct AtomicLink<T> {
    addr: AtomicU64,
    to: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for AtomicLink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

impl<T> AtomicLink<T> {
    /// Returns a slot that holds a link.
    pub const fn new(link: Link<T>) -> Self {
        Self { addr: AtomicU64::new(link.addr), to: PhantomData }
    }

    /// Returns the slot that a link is, for as long as nothing else reaches it.
    pub const fn from_mut(link: &mut Link<T>) -> &Self {
        // SAFETY: for as long as the value lives nothing else reaches the link.
        unsafe { Self::from_ptr(core::ptr::from_mut(link)) }
    }

    /// Returns the slot that a link in memory is.
    ///
    /// # Safety
    /// As long as the value lives a link is there, aligned to 8 bytes, which only slots reach.
    pub const unsafe fn from_ptr<'a>(link: *mut Link<T>) -> &'a Self {
        const { assert!(align_of::<Self>() == align_of::<Link<T>>(), "each link can be a slot") };
        // SAFETY: the caller's promise; a word and an atomic word lie in memory in the same way.
        unsafe { &*link.cast::<Self>() }
    }

    /// Returns the link. What was written before it was stored is seen by its reader.
    pub fn load(&self) -> Link<T> {
        // Acquire pairs with the Release of the calls below.
        Link { addr: self.addr.load(Acquire), to: PhantomData }
    }

    /// Stores a link, after everything that this thread wrote before: to the object that it leads to, say.
    pub fn store(&self, link: Link<T>) {
        // Release pairs with the Acquire in `load`.
        self.addr.store(link.addr, Release);
    }

    /// Stores a link in place of another, and returns that.
    ///
    /// # Errors
    /// The link that is there, if it is not `from`; it stays.
    pub fn compare_exchange(&self, from: Link<T>, to: Link<T>) -> Result<Link<T>, Link<T>> {
        // As in `load` and `store`, each with its partner there.
        let done = self.addr.compare_exchange(from.addr, to.addr, AcqRel, Acquire);
        let link = |addr| Link { addr, to: PhantomData };
        done.map(link).map_err(link)
    }
}

impl<T: Persist, M: Machine> Object<'_, T, M> {
    /// Returns the link to the object.
    pub fn link(&self) -> Link<T> {
        Link::to(self.handle_parts().0)
    }

    /// Lets go of the object without freeing it, as [`Object::leak`] does, and returns the link to it.
    pub fn link_and_leak(self) -> Link<T> {
        Link::to(self.leak())
    }
}

impl<T: Persist, M: Machine> PreservedObject<'_, T, M> {
    /// Returns the link to the object.
    pub fn link(&self) -> Link<T> {
        Link::to(self.handle_parts().0)
    }
}

impl<T: Persist, M: Machine> TypedCache<'_, T, M> {
    /// Returns where the object is that a link leads to, if one of this cache starts there and is in use. Any link may be
    /// followed; the pointer is good for as long as the object stays in use.
    ///
    /// The frame's byte says whether a slab is there, its header which cache has it (and so the length and the layout), the
    /// geometry whether an object starts there, and its own byte whether it is in use. That it is the same object as the link was
    /// made for is not known: a link has no reuse tag. The caller clears links before it frees what they lead to.
    ///
    /// # Errors
    /// As for [`Cache::in_use_at`](crate::Cache::in_use_at); [`Error::NotAnObject`] for [`Link::NULL`].
    #[inline]
    pub fn follow(&self, link: Link<T>) -> Result<NonNull<T>, Error> {
        Ok(self.cache().in_use_at(link.addr())?.cast())
    }
}
