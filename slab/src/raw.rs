//! A cache as one pointer, for callers in other languages, which have no room for two.

use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::sync::Ordering::Relaxed;

use crate::cache::Cache;
use crate::cache::inner::CacheInner;
use crate::slabs::Slabs;

/// What a raw cache's pointer leads to: see [`Cache::into_raw`].
pub struct RawCache {
    _opaque: [u8; 0],
}

impl<'s, M: Machine> Cache<'s, M> {
    /// Returns the cache as one pointer, which [`Cache::from_raw`] makes the cache of again, any number
    /// of times. One cache has one such pointer.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{Cache, CacheSpec, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let raw = slabs.cache(CacheSpec::new("names", 64))?.into_raw();
    /// // SAFETY: of slabs on such a machine, which were not moved since and are there still.
    /// let names = unsafe { Cache::<'_, Ram>::from_raw(raw) };
    /// assert_eq!(names.object_size(), 64);
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn into_raw(self) -> NonNull<RawCache> {
        // Relaxed: what passes the pointer on to another thread passes this on too.
        self.inner.slabs.store(core::ptr::from_ref(self.slabs).cast_mut().cast(), Relaxed);
        NonNull::from(self.inner).cast()
    }

    /// Returns the cache of a pointer.
    ///
    /// # Safety
    /// - The pointer is from [`Cache::into_raw`] of a cache on a machine of this type.
    /// - Its [`Slabs`] were not moved since that call, and are neither moved nor dropped as long as the
    ///   value, or anything borrowed by way of it, is in use.
    #[inline]
    pub unsafe fn from_raw(raw: NonNull<RawCache>) -> Self {
        // SAFETY: a control block (contract), which stays as long as its slabs.
        let inner: &'s CacheInner<M> = unsafe { raw.cast().as_ref() };
        // SAFETY: `into_raw` wrote where they are, and there they are still (contract).
        let slabs: &'s Slabs<M> = unsafe { &*inner.slabs.load(Relaxed).cast() };
        Self { slabs, inner }
    }
}
