//! What this kernel knows of a map's segments: where those are that it has looked at.
//!
//! ```text
//!   root ── 128 pointers ──> pages of 512 pointers ──> segments, once each was found to be the map's       in memory that ends
//!                                                                                                         with this kernel
//!   in a segment's own first line: a bit for each bucket whose links were looked at, in this kernel
//! ```
//!
//! A predecessor's links are checked when they are first used, bucket by bucket, so that opening a map costs the same whatever it
//! holds, and using it no more than once. The bits are cleared when a kernel finds the segment, so what they said before is never
//! believed. Without memory for a page the links are checked each time.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

use heirloom_folio::Machine;
use heirloom_kho::sync::AtomicPtr;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire, Release};
use heirloom_slab::{AllocOptions, Slabs};

use crate::buckets::Segment;

const ROOT: usize = 128;
const PAGE: usize = 512;

/// Segments that a page and a root have room for.
pub(crate) const MAX: usize = ROOT * PAGE;

type Page = [AtomicPtr<u8>; PAGE];
type Root = [AtomicPtr<Page>; ROOT];

/// Where the segments of one map are. Its owner gives it back.
#[derive(Clone, Copy)]
pub(crate) struct Segments(NonNull<Root>);

// SAFETY: all that it leads to are atomics.
unsafe impl Send for Segments {}
// SAFETY: as for `Send`.
unsafe impl Sync for Segments {}

impl Segments {
    /// Returns what knows of no segment yet.
    pub(crate) fn new<M: Machine>(slabs: &Slabs<M>) -> Result<Self, heirloom_slab::Error> {
        let root = slabs.alloc(Layout::new::<Root>(), ZEROED)?;
        // (Null pointers are zeroes on each machine that this is for.)
        Ok(Self(root.cast()))
    }

    /// Gives back its memory.
    ///
    /// # Safety
    /// It is from [`Segments::new`] of these slabs, and not used again.
    pub(crate) unsafe fn give_back<M: Machine>(self, slabs: &Slabs<M>) {
        // SAFETY: the root is there (contract).
        for page in unsafe { self.0.as_ref() } {
            if let Some(page) = NonNull::new(page.load(Acquire)) {
                // SAFETY: allocated in `page`, and not used again (contract).
                let freed = unsafe { slabs.free(page.cast()) };
                debug_assert!(freed.is_ok(), "a page is freed once: {freed:?}");
            }
        }
        // SAFETY: allocated in `new`, and not used again (contract).
        let freed = unsafe { slabs.free(self.0.cast()) };
        debug_assert!(freed.is_ok(), "a root is freed once: {freed:?}");
    }

    /// Returns a segment that was found before.
    #[inline]
    pub(crate) fn get(self, index: usize) -> Option<Segment<'static>> {
        // SAFETY: the root is there as long as the value is used; zeroes are null pointers.
        let page = unsafe { self.0.as_ref() }.get(index / PAGE)?;
        // Acquire pairs with the Release in `page`.
        let page = NonNull::new(page.load(Acquire))?;
        // SAFETY: a page stays as long as the root.
        let segment = unsafe { &page.as_ref()[index % PAGE] };
        // Acquire pairs with the Release in `set`.
        let segment = NonNull::new(segment.load(Acquire))?;
        // SAFETY: `set` was told so.
        Some(unsafe { Segment::at(segment) })
    }

    /// Notes where a segment is. Returns whether there was memory to do so.
    ///
    /// # Safety
    /// A segment of the map is there, for as long as the value is used, and what its bits say is true.
    pub(crate) unsafe fn set<M: Machine>(
        self,
        slabs: &Slabs<M>,
        index: usize,
        segment: NonNull<u8>,
    ) -> bool {
        // SAFETY: as in `get`.
        let Some(slot) = unsafe { self.0.as_ref() }.get(index / PAGE) else { return false };
        let page = NonNull::new(slot.load(Acquire)).or_else(|| Self::page(slabs, slot));
        let Some(page) = page else { return false };
        // SAFETY: as in `get`. Release pairs with the Acquire there.
        unsafe { &page.as_ref()[index % PAGE] }.store(segment.as_ptr(), Release);
        true
    }

    /// Adds a page, or returns the one that another thread added meanwhile.
    #[cold]
    fn page<M: Machine>(slabs: &Slabs<M>, slot: &AtomicPtr<Page>) -> Option<NonNull<Page>> {
        let page = slabs.alloc(Layout::new::<Page>(), ZEROED).ok()?.cast::<Page>();
        // Release pairs with the Acquire in `get`: the page holds zeroes.
        match slot.compare_exchange(null_mut(), page.as_ptr(), AcqRel, Acquire) {
            Ok(_) => Some(page),
            Err(other) => {
                // SAFETY: allocated above, and not handed out.
                let freed = unsafe { slabs.free(page.cast()) };
                debug_assert!(freed.is_ok(), "allocated just now: {freed:?}");
                NonNull::new(other)
            }
        }
    }
}

const ZEROED: AllocOptions = AllocOptions { preserving: false, zeroed: true };
