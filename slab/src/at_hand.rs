//! Small buffers that a CPU has at hand, or has room for: paths that call nothing, as a cache's own
//! ([`Cache::alloc_on`]).
//!
//! Each tells by one bit that it did nothing, because more is to be done than that; its caller then begins again with
//! the whole call, which does the rest or says why not.

use core::alloc::Layout;
use core::ptr::NonNull;

use heirloom_folio::{CpuId, Machine};

use crate::buffer::AllocOptions;
use crate::cache::Cache;
use crate::class::{CACHES, Class};
use crate::registry::CacheNumber;
use crate::slabs::Slabs;

impl<M: Machine> Slabs<M> {
    /// Allocates a small buffer that this CPU has at hand. `None`, with nothing done: [`Slabs::alloc`] is asked.
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "three dozen instructions: a call costs a third")]
    pub fn alloc_now(&self, layout: Layout, preserving: bool) -> Option<NonNull<u8>> {
        self.existing_class(Class::of(layout)?, preserving)?.alloc_now()
    }

    /// Allocates a buffer that CPU `cpu` has at hand. `None`, with nothing done, where it has none, for large ones, and always
    /// with the feature `debug`: then [`Slabs::alloc`] does, once the caller is no longer on the CPU. See [`Cache::alloc_on`].
    ///
    /// # Safety
    /// As for [`Cache::alloc_on`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "two dozen instructions: a call costs half as much")]
    pub unsafe fn alloc_on(
        &self,
        cpu: CpuId,
        layout: Layout,
        preserving: bool,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { self.existing_class(Class::of(layout)?, preserving)?.alloc_on(cpu) }
    }

    /// Returns the number of the size class that a small buffer is of, for [`Slabs::alloc_of_class_on`].
    #[doc(hidden)]
    pub fn class_of(layout: Layout) -> Option<usize> {
        Class::of(layout).map(|class| class.number(false))
    }

    /// Does what [`Slabs::alloc_on`] does, for a buffer of a class.
    ///
    /// # Safety
    /// As for [`Cache::alloc_on`]; [`Slabs::class_of`] returned `class`.
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "two dozen instructions: a call costs half as much")]
    pub unsafe fn alloc_of_class_on(&self, cpu: CpuId, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the number of a class's cache (contract), of which there are no more.
        unsafe { core::hint::assert_unchecked(class < CACHES) };
        let inner = self.registry.of_class(CacheNumber::of_class(class))?;
        // SAFETY: the caller's promise.
        unsafe { Cache { slabs: self, inner }.alloc_on(cpu) }
    }

    /// Allocates a large buffer that is one block. `None`, with nothing done: [`Slabs::alloc`] is asked.
    #[doc(hidden)]
    #[inline]
    pub fn alloc_block_now(&self, layout: Layout, opts: AllocOptions) -> Option<NonNull<u8>> {
        self.alloc_single(layout, opts)
    }

    /// Frees a large buffer that is one block. Returns `false`, with nothing done, if it is anything else:
    /// [`Slabs::free`] is asked.
    ///
    /// # Safety
    /// As for [`Slabs::free`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn free_block_now(&self, ptr: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.free_block_slow(ptr) }
    }

    /// Frees an object for which this CPU has room at hand, if nothing speaks against it. Returns whether it did; if
    /// not, nothing is done: [`Slabs::free`] is asked.
    ///
    /// # Safety
    /// As for [`Slabs::free`].
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "five dozen instructions: a call costs a fifth")]
    pub unsafe fn free_now(&self, ptr: NonNull<u8>) -> bool {
        let Some((found, inner)) = self.base_slab_around(ptr) else { return false };
        // SAFETY: the slab is of that cache; the rest is the caller's promise.
        unsafe { Cache { slabs: self, inner }.free_found_now(found, ptr) }
    }

    /// Frees a small buffer, or an object of any cache, for which CPU `cpu` has room at hand, if nothing speaks against it.
    /// Returns whether it did; if not, nothing is done, and [`Slabs::free`] frees it, or says why not, once the caller is no
    /// longer on the CPU.
    ///
    /// # Safety
    /// As for [`Slabs::free`] and [`Cache::alloc_on`].
    ///
    /// # Examples
    /// ```
    /// use core::alloc::Layout;
    /// use heirloom_folio::{Cpus, harness::Ram};
    /// use heirloom_slab::{AllocOptions, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let layout = Layout::new::<[u64; 8]>();
    /// let [one, other] = [(); 2].map(|()| slabs.alloc(layout, AllocOptions::default()));
    /// let (one, other) = (one?, other?);
    /// // SAFETY: allocated above, and not used again.
    /// unsafe { slabs.free(one) }?;
    /// let freed = slabs.memory().machine().with_cpu(|cpu| {
    ///     // SAFETY: within the closure; allocated above, and not used again.
    ///     cpu.is_some_and(|cpu| unsafe { slabs.free_on(cpu, other) })
    /// });
    /// if !freed {
    ///     // SAFETY: as above.
    ///     unsafe { slabs.free(other) }?;
    /// }
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "five dozen instructions: a call costs a fifth")]
    pub unsafe fn free_on(&self, cpu: CpuId, ptr: NonNull<u8>) -> bool {
        let Some((found, inner)) = self.base_slab_around(ptr) else { return false };
        // SAFETY: the slab is of that cache; the rest is the caller's promise.
        unsafe { Cache { slabs: self, inner }.free_found_on(cpu, found, ptr) }
    }
}
