//! The object allocators that the rows of `slab` compare.

#![expect(clippy::inline_always, reason = "nothing but the call that is measured")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;

use heirloom_folio::threads::Host;
use heirloom_folio::{Linear, Request};
use heirloom_slab::{AllocOptions, Cache, Slabs};
use slabmalloc::{AllocationError, Allocator, ZoneAllocator};
use talc::TalcLock;
use talc::source::Claim;

use crate::frames_of::Reach;
use crate::{GIB, World, order, reserve, world};

/// The machine of the benches.
pub type Machine = Host<Linear>;

/// heirloom's slabs over memory of `gib` gibibytes, backed as it is touched.
///
/// # Panics
/// If there is not as much address space.
pub fn slabs(gib: u64) -> Slabs<Machine> {
    Slabs::new(world(gib * GIB)).expect("memory for the cache directory")
}

/// An allocator of objects.
pub trait Objects: Sync {
    /// An object of the layout.
    ///
    /// # Panics
    /// If memory is exhausted.
    fn alloc(&self, layout: Layout) -> NonNull<u8>;

    /// Frees an object.
    ///
    /// # Safety
    /// `object` came from `alloc` of the same allocator with the same layout and is not used
    /// again.
    unsafe fn free(&self, object: NonNull<u8>, layout: Layout);
}

/// One of heirloom's caches, whose objects have the layout that is asked for.
impl Objects for Cache<'_, Machine> {
    #[inline(always)]
    fn alloc(&self, _: Layout) -> NonNull<u8> {
        Cache::alloc(self).expect("memory is free")
    }

    #[inline(always)]
    unsafe fn free(&self, object: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Cache::free(self, object) }.expect("a live object");
    }
}

/// heirloom's buffers of any size.
impl Objects for Slabs<Machine> {
    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        Slabs::alloc(self, layout, AllocOptions::default()).expect("memory is free")
    }

    #[inline(always)]
    unsafe fn free(&self, object: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Slabs::free(self, object) }.expect("a live buffer");
    }
}

/// heirloom's buffers of any size, each of which is preserved as it is allocated.
#[derive(Debug)]
pub struct Preserving<'s>(pub &'s Slabs<Machine>);

impl Objects for Preserving<'_> {
    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        let opts = AllocOptions { preserving: true, ..AllocOptions::default() };
        self.0.alloc(layout, opts).expect("memory is free")
    }

    #[inline(always)]
    unsafe fn free(&self, object: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.free(object) }.expect("a live buffer");
    }
}

/// A peer that could be a program's global allocator.
#[derive(Debug)]
pub struct Malloc<A>(pub A);

impl<A: GlobalAlloc + Sync> Objects for Malloc<A> {
    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        // SAFETY: no row asks for nothing.
        NonNull::new(unsafe { self.0.alloc(layout) }).expect("memory is free")
    }

    #[inline(always)]
    unsafe fn free(&self, object: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(object.as_ptr(), layout) };
    }
}

/// talc over a gibibyte behind its lock, which it needs to be shared at all.
pub type Talc = Malloc<TalcLock<spin::Mutex<()>, Claim>>;

/// A talc of its own.
pub fn talc() -> Talc {
    let bytes = 4 << 30;
    // SAFETY: the space is mapped for good and nobody else's.
    Malloc(TalcLock::new(unsafe { Claim::new(reserve(bytes).as_ptr(), bytes) }))
}

/// slabmalloc over a page allocator of heirloom's, from which it is refilled.
pub struct Slabmalloc<R>(R, World);

/// slabmalloc's zone with a lifetime that the mapping outlives.
pub struct Zone(ZoneAllocator<'static>);

// SAFETY: its pages are mapped for good and belong to no thread.
unsafe impl Send for Zone {}

impl<R: Reach<Zone>> Slabmalloc<R> {
    /// One of its own.
    pub fn new() -> Self {
        Self(R::new(Zone(ZoneAllocator::new())), world(GIB))
    }

    #[cold]
    fn refill(&self, zone: &mut Zone, layout: Layout) {
        let small = layout.size() <= ZoneAllocator::MAX_BASE_ALLOC_SIZE;
        let order = if small { order(0) } else { order(9) };
        let block = self.1.alloc(Request::new(order)).expect("memory is free");
        let page = self.1.ptr(block.run()).expect("mapped").as_ptr();
        // SAFETY: fresh frames of the size of the page and aligned to it are an empty object page,
        // all zeros, and stay one.
        let refilled = unsafe {
            if small {
                zone.0.refill(layout, &mut *page.cast())
            } else {
                zone.0.refill_large(layout, &mut *page.cast())
            }
        };
        refilled.expect("a size of its own");
    }
}

impl<R: Reach<Zone>> Default for Slabmalloc<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Reach<Zone>> Objects for Slabmalloc<R> {
    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        self.0.with(|zone| {
            loop {
                match zone.0.allocate(layout) {
                    Ok(object) => break object,
                    Err(AllocationError::OutOfMemory) => self.refill(zone, layout),
                    Err(AllocationError::InvalidLayout) => panic!("too large for slabmalloc"),
                }
            }
        })
    }

    #[inline(always)]
    unsafe fn free(&self, object: NonNull<u8>, layout: Layout) {
        self.0.with(|zone| zone.0.deallocate(object, layout)).expect("a live object");
    }
}

/// The system's allocator.
pub const SYSTEM: Malloc<System> = Malloc(System);
