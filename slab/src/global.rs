//! The buffers as Rust's allocators.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{NonNull, null_mut};

use heirloom_folio::Machine;
use heirloom_kho::sync::AtomicPtr;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire};

use crate::buffer::AllocOptions;
use crate::class::Class;
use crate::early::{EarlyBytes, EarlyRoom};
use crate::slabs::Slabs;

/// The buffers of an instance as an allocator: a handle, cheap to copy.
///
/// With the feature `allocator-api2` it is an `Allocator` of that crate's version 0.2, the one of
/// hashbrown, for collections whose memory is the instance's. A collection does *not* survive a
/// jump: the successor sees the memory elsewhere, so the pointers in it lead nowhere, even where
/// its buffers are preserving and are found again. What survives is plain bytes that name each other
/// by handle or address.
pub struct Heap<'s, M: Machine> {
    slabs: &'s Slabs<M>,
    preserving: bool,
}

impl<M: Machine> Clone for Heap<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Heap<'_, M> {}

impl<M: Machine> fmt::Debug for Heap<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("preserving", &self.preserving).finish_non_exhaustive()
    }
}

impl<M: Machine> Slabs<M> {
    /// Returns the buffers as an allocator: plain ones, or those that are preserved from birth.
    pub const fn heap(&self, preserving: bool) -> Heap<'_, M> {
        Heap { slabs: self, preserving }
    }
}

impl<M: Machine> Heap<'_, M> {
    #[inline]
    fn take(&self, layout: Layout, zeroed: bool) -> Option<NonNull<u8>> {
        let opts = AllocOptions { preserving: self.preserving, zeroed };
        let Some(buffer) = self.slabs.alloc_now(layout, opts.preserving) else {
            return self.slabs.take_slow(layout, opts);
        };
        if zeroed {
            // SAFETY: the buffer is the caller's, of that many bytes, and not handed out yet.
            unsafe { buffer.write_bytes(0, layout.size()) };
        }
        Some(buffer)
    }

    /// Frees a buffer of this layout. Returns whether it did: what is refused is not changed.
    ///
    /// # Safety
    /// As for [`GlobalAlloc::dealloc`].
    #[inline]
    unsafe fn give(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        let Some(class) = Class::of(layout) else {
            // SAFETY: the caller's promise: allocated here, and not used again.
            return unsafe { self.slabs.give_large(ptr) };
        };
        // Most often the class's cache has it: comparing the slab's owner with one cache's is less than
        // looking for the cache of an owner.
        let cache = self.slabs.existing_class(class, self.preserving);
        // SAFETY: as above; what was not freed at hand is not changed.
        unsafe { cache.is_some_and(|cache| cache.free_now(ptr)) || self.slabs.give_small(ptr) }
    }
}

impl<M: Machine> Slabs<M> {
    /// Allocates what is not at hand.
    #[inline(never)]
    fn take_slow(&self, layout: Layout, opts: AllocOptions) -> Option<NonNull<u8>> {
        self.alloc_slow(layout, opts).ok()
    }

    /// Frees a large buffer. Returns whether it did.
    ///
    /// # Safety
    /// As for [`Slabs::free`].
    #[inline(never)]
    unsafe fn give_large(&self, ptr: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.free_slow(ptr) }.is_ok()
    }

    /// Frees a small buffer for which there is no room at hand, or of a larger class than its layout's, as resizing it in
    /// place left it. Returns whether it did.
    ///
    /// # Safety
    /// As for [`Slabs::free`].
    #[inline(never)]
    unsafe fn give_small(&self, ptr: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.free(ptr) }.is_ok()
    }
}

// SAFETY: `Slabs::alloc` gives memory of the layout's size and alignment that is the caller's alone
// until it is freed; a size of zero is refused. Nothing unwinds, unless the machine does.
unsafe impl<M: Machine> GlobalAlloc for Heap<'_, M> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout, false).map_or(null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout, true).map_or(null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(ptr) = NonNull::new(ptr) else { return };
        // SAFETY: the same contract.
        if !unsafe { self.give(ptr, layout) } {
            // An allocator cannot say so, as it must not unwind: what was preserved behind its back stays.
            self.slabs.note_refused();
        }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let layout = Layout::from_size_align(new_size, layout.align()).ok();
        let moved = layout.zip(NonNull::new(ptr)).and_then(|(layout, ptr)| {
            // SAFETY: the caller's promise: allocated here, and the old pointer not used again.
            unsafe { self.slabs.realloc(ptr, layout) }.ok()
        });
        moved.map_or(null_mut(), NonNull::as_ptr)
    }
}

/// An allocator to be a program's `#[global_allocator]`, over an instance that is named later.
///
/// Until [`Global::set`] was called, nothing can be allocated, unless there is [room for it](Global::early).
///
/// # Examples
/// ```
/// use core::alloc::{GlobalAlloc, Layout};
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{Global, Slabs};
///
/// static HEAP: Global<Ram> = Global::new();
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// HEAP.set(Box::leak(Box::new(slabs))).unwrap();
/// let layout = Layout::new::<u64>();
/// // SAFETY: the layout has a size; freed once.
/// unsafe {
///     let ptr = HEAP.alloc(layout);
///     assert!(!ptr.is_null());
///     HEAP.dealloc(ptr, layout);
/// }
/// # Ok::<(), heirloom_slab::Error>(())
/// ```
pub struct Global<M: Machine + 'static> {
    slabs: AtomicPtr<Slabs<M>>,
    early: Option<EarlyBytes>,
}

// SAFETY: the pointer is to a `Slabs` that is borrowed for good and used by reference; the early room is `Sync`, and borrowed
// for good too.
unsafe impl<M: Machine> Sync for Global<M>
where
    M::Lock: Sync,
    M::Mutex: Sync,
{
}

impl<M: Machine> Global<M> {
    /// Returns an allocator without memory.
    pub const fn new() -> Self {
        Self { slabs: AtomicPtr::new(null_mut()), early: None }
    }

    /// Returns an allocator that has this room until it has memory. What was allocated there stays valid; it
    /// can be freed and resized at any time, but its bytes are not had again.
    ///
    /// # Examples
    /// ```
    /// use core::alloc::{GlobalAlloc, Layout};
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{EarlyRoom, Global, Slabs};
    ///
    /// static ROOM: EarlyRoom<4096> = EarlyRoom::new();
    /// static HEAP: Global<Ram> = Global::early(&ROOM);
    ///
    /// let layout = Layout::new::<[u64; 4]>();
    /// // SAFETY: the layout has a size; each is freed once.
    /// unsafe {
    ///     let before = HEAP.alloc(layout);
    ///     assert!(!before.is_null());
    ///     let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    ///     HEAP.set(Box::leak(Box::new(slabs))).unwrap();
    ///     HEAP.dealloc(before, layout);
    ///     let after = HEAP.alloc(layout);
    ///     HEAP.dealloc(after, layout);
    /// }
    /// assert_eq!(ROOM.used(), 32);
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub const fn early<const N: usize>(room: &'static EarlyRoom<N>) -> Self {
        Self { slabs: AtomicPtr::new(null_mut()), early: Some(room.bytes()) }
    }

    /// Names the instance that the memory comes from, once.
    ///
    /// # Errors
    /// Gives `slabs` back if one was named before.
    pub fn set(&self, slabs: &'static Slabs<M>) -> Result<(), &'static Slabs<M>> {
        let new = core::ptr::from_ref(slabs).cast_mut();
        // AcqRel: Release pairs with the Acquire in `heap`.
        match self.slabs.compare_exchange(null_mut(), new, AcqRel, Acquire) {
            Ok(_) => Ok(()),
            Err(_) => Err(slabs),
        }
    }

    #[inline]
    fn heap(&self) -> Option<Heap<'static, M>> {
        // Acquire pairs with the Release in `set`.
        let slabs = self.slabs.load(Acquire);
        // SAFETY: null, or from a `&'static Slabs`.
        unsafe { slabs.as_ref() }.map(|slabs| slabs.heap(false))
    }

    /// Takes memory from the early room, if there is one and as much in it.
    #[cold]
    fn take_early(&self, layout: Layout) -> *mut u8 {
        let taken = self.early.and_then(|early| early.take(layout));
        taken.map_or(null_mut(), NonNull::as_ptr)
    }

    /// Returns whether a pointer leads into the early room. Asked where the heap does not know it.
    #[cold]
    fn is_early(&self, ptr: *mut u8) -> bool {
        self.early.is_some_and(|early| early.contains(ptr))
    }
}

impl<M: Machine> Default for Global<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> fmt::Debug for Global<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Global").finish_non_exhaustive()
    }
}

// SAFETY: as for `Heap`; without an instance a request fails or gets bytes of the early room that no other
// request gets.
unsafe impl<M: Machine> GlobalAlloc for Global<M> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.heap() {
            // SAFETY: the same contract.
            Some(heap) => unsafe { heap.alloc(layout) },
            None => self.take_early(layout),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(heap) = self.heap() {
            // SAFETY: the same contract.
            return unsafe { heap.alloc_zeroed(layout) };
        }
        let ptr = self.take_early(layout);
        if !ptr.is_null() {
            // SAFETY: as many bytes, taken just now.
            unsafe { ptr.write_bytes(0, layout.size()) };
        }
        ptr
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some((heap, at)) = self.heap().zip(NonNull::new(ptr))
            // SAFETY: the caller's promise: allocated here, and not used again. What is the early room's is no
            // buffer, and refused.
            && !unsafe { heap.give(at, layout) }
            && !self.is_early(ptr)
        {
            heap.slabs.note_refused();
        }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if let Some(heap) = self.heap() {
            // SAFETY: the same contract; what is the early room's is refused, and stays.
            let moved = unsafe { heap.realloc(ptr, layout, new_size) };
            if !moved.is_null() || !self.is_early(ptr) {
                return moved;
            }
        }
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
        // SAFETY: the new size is none of zero, as the caller promises.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both have as many bytes, and the new ones are nothing else's.
            unsafe { moved.copy_from_nonoverlapping(ptr, layout.size().min(new_size)) };
        }
        moved
    }
}

#[cfg(feature = "allocator-api2")]
mod api2 {
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr::NonNull;

    use allocator_api2::alloc::{AllocError, Allocator};
    use heirloom_folio::Machine;

    use super::Heap;

    impl<M: Machine> Heap<'_, M> {
        fn block(&self, layout: Layout, zeroed: bool) -> Result<NonNull<[u8]>, AllocError> {
            let start = if layout.size() == 0 {
                NonNull::new(core::ptr::without_provenance_mut(layout.align()))
            } else {
                self.take(layout, zeroed)
            };
            let start = start.ok_or(AllocError)?;
            Ok(NonNull::slice_from_raw_parts(start, layout.size()))
        }

        /// Gives a collection's memory another size.
        ///
        /// # Safety
        /// As for `Allocator::grow` and `shrink`.
        unsafe fn resize(
            &self,
            ptr: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, AllocError> {
            if old.size() == 0 {
                return self.block(new, false);
            }
            if new.size() == 0 {
                // SAFETY: the caller's promise.
                unsafe { self.deallocate(ptr, old) };
                return self.block(new, false);
            }
            // SAFETY: the caller's promise.
            let moved = unsafe { self.slabs.realloc(ptr, new) }.map_err(|_| AllocError)?;
            Ok(NonNull::slice_from_raw_parts(moved, new.size()))
        }
    }

    // SAFETY: memory stays valid until it is freed, wherever the handle is moved or copied to, as
    // it is the instance's that the handle borrows.
    unsafe impl<M: Machine> Allocator for Heap<'_, M> {
        #[inline]
        fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
            self.block(layout, false)
        }

        #[inline]
        fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
            self.block(layout, true)
        }

        #[inline]
        unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
            if layout.size() != 0 {
                // SAFETY: the caller's promise.
                unsafe { self.dealloc(ptr.as_ptr(), layout) };
            }
        }

        unsafe fn grow(
            &self,
            ptr: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: the caller's promise.
            unsafe { self.resize(ptr, old, new) }
        }

        unsafe fn shrink(
            &self,
            ptr: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: the caller's promise.
            unsafe { self.resize(ptr, old, new) }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use heirloom_folio::harness::Ram;

    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn threads_share_it() {
        const fn shared<T: Send + Sync>() {}
        shared::<Global<Ram>>();
    }

    #[test]
    fn the_early_room_is_handed_out_once_and_aligned() {
        static ROOM: EarlyRoom<256> = EarlyRoom::new();
        static HEAP: Global<Ram> = Global::early(&ROOM);
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for (size, align) in [(1, 1), (8, 8), (3, 1), (64, 64), (5, 2), (16, 16)] {
            // SAFETY: the layout has a size.
            let start = unsafe { HEAP.alloc_zeroed(layout(size, align)) }.addr();
            assert!(start != 0 && start.is_multiple_of(align));
            assert!(taken.iter().all(|(at, length)| start + size <= *at || at + length <= start));
            taken.push((start, size));
        }
        // SAFETY: as above.
        let refused = unsafe { [HEAP.alloc(layout(256, 1)), HEAP.alloc(layout(1, 4096))] };
        assert!(refused[0].is_null(), "more than is left");
        assert_eq!(Global::<Ram>::new().take_early(layout(1, 1)), null_mut());
    }

    #[test]
    fn what_was_early_is_resized_and_freed_whenever_there_is_memory() {
        static ROOM: EarlyRoom<1024> = EarlyRoom::new();
        static HEAP: Global<Ram> = Global::early(&ROOM);
        // SAFETY: each layout has a size; each pointer is used until it is resized or freed, once.
        unsafe {
            let first = HEAP.alloc(layout(40, 8));
            first.write_bytes(7, 40);
            let grown = HEAP.realloc(first, layout(40, 8), 100);
            assert_eq!(core::slice::from_raw_parts(grown, 40), [7; 40]);
            let [before, after] = [(); 2].map(|()| HEAP.alloc(layout(10, 1)));
            HEAP.dealloc(before, layout(10, 1));

            let slabs = Slabs::new(Ram::memory(&Ram::frames(1024)).unwrap()).unwrap();
            let slabs: &'static Slabs<Ram> = Box::leak(Box::new(slabs));
            HEAP.set(slabs).ok().unwrap();
            let used = ROOM.used();
            let moved = HEAP.realloc(grown, layout(100, 8), 20);
            assert_eq!(core::slice::from_raw_parts(moved, 20), [7; 20]);
            assert!(slabs.size_of(NonNull::new(moved).unwrap()).is_some());
            HEAP.dealloc(moved, layout(20, 8));
            HEAP.dealloc(after, layout(10, 1));
            assert_eq!((ROOM.used(), slabs.refused_frees()), (used, 0));
            // What is neither is still told.
            let foreign = Box::into_raw(Box::new(5_u64));
            HEAP.dealloc(foreign.cast(), layout(8, 8));
            assert_eq!(slabs.refused_frees(), 1);
            drop(Box::from_raw(foreign));
        }
    }
}
