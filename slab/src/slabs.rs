//! The layer's object: memory with its caches, its buffers and its cache directory.

use core::fmt;

use heirloom_folio::{Machine, Memory};
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::sync::{AtomicU32, AtomicU64};
use heirloom_kho::{Order, PhysAddr};
use lock_api::Mutex;

use crate::directory::CacheDirectory;
use crate::predecessor::Predecessor;
use crate::registry::CacheRegistry;

/// Caches and buffers over a [`Memory`], which it owns.
///
/// One value is one instance, entirely its own. It needs nothing but the memory: control blocks
/// lie in frames.
///
/// # Examples
/// ```
/// use core::alloc::Layout;
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{AllocOptions, Slabs};
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let layout = Layout::from_size_align(100, 8).unwrap();
/// let buffer = slabs.alloc(layout, AllocOptions { zeroed: true, ..AllocOptions::default() })?;
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
    pub(crate) registry: CacheRegistry<M>,
    pub(crate) directory: CacheDirectory<M>,
    /// The orders of slabs there are, a bit each.
    pub(crate) orders: AtomicU32,
    /// Held by a pass over a cache's slabs.
    pub(crate) passing: Mutex<M::Mutex, ()>,
    /// Frees by an owner's end that were refused; see [`Slabs::refused_frees`].
    refused: AtomicU64,
    pub(crate) predecessor: Predecessor<M>,
}

impl<M: Machine> fmt::Debug for Slabs<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slabs").field("directory", &self.cache_directory()).finish_non_exhaustive()
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

impl<M: Machine> Slabs<M> {
    /// Returns the layer over a memory in which the cache directory begins at this page.
    pub(crate) fn over(memory: Memory<M>, directory: PhysAddr) -> Self {
        let (registry, directory) =
            (CacheRegistry::new(directory), CacheDirectory::reopen(&memory, directory));
        Self {
            memory,
            registry,
            directory,
            orders: AtomicU32::new(0),
            passing: Mutex::new(()),
            refused: AtomicU64::new(0),
            predecessor: Predecessor::new(),
        }
    }

    /// Returns the memory underneath.
    #[inline]
    pub const fn memory(&self) -> &Memory<M> {
        &self.memory
    }

    /// Returns the memory, for a caller that alone has the layer.
    pub(crate) const fn memory_mut(&mut self) -> &mut Memory<M> {
        &mut self.memory
    }

    /// Returns the memory, for a caller that goes on without caches: what is preserved stays where
    /// it is.
    pub fn into_memory(self) -> Memory<M> {
        self.memory
    }

    /// Returns the address of the cache directory's first page, which a successor finds all caches
    /// and slabs by. It never changes.
    #[doc(hidden)]
    pub const fn cache_directory(&self) -> PhysAddr {
        self.directory.first()
    }

    /// Lets pointers into slabs of this order be found. Before there is one.
    pub(crate) fn expect_order(&self, order: Order) {
        self.orders.fetch_or(1 << order.get(), Relaxed);
    }

    /// Returns how many objects and buffers stayed in use when their owners ended: by a drop or an
    /// allocator's `dealloc`, which cannot say that they were refused. What a raw call preserved
    /// behind its owner's back is, and what was written to past its end, with the feature `debug`.
    pub fn refused_frees(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}
