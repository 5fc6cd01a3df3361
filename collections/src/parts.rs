//! What this kernel knows of a container's parts: where those are that it has looked at.
//!
//! ```text
//!   root ── 128 pointers ──> pages of 512 pointers ──> parts, once each was found to be the container's;
//!                                                      a map: an index of each
//! ```
//!
//! A predecessor's links are checked when they are first used, so that opening a container costs the same whatever it holds, and
//! using it no more than once. This lies in memory that ends with this kernel. Without memory for a page of it the links are
//! checked each time.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

use heirloom_folio::Machine;
use heirloom_kho::sync::AtomicPtr;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire, Release};
use heirloom_slab::{AllocOptions, Slabs};

const ROOT: usize = 128;
const PAGE: usize = 512;

/// Parts that the pages of a root have room for.
pub(crate) const MAX: usize = ROOT * PAGE;

type Page = [AtomicPtr<u8>; PAGE];
type Root = [AtomicPtr<Page>; ROOT];

/// Where the parts of one container are. Its owner gives it back.
#[derive(Clone, Copy)]
pub(crate) struct Parts(NonNull<Root>);

// SAFETY: all that it leads to are atomics.
unsafe impl Send for Parts {}
// SAFETY: as for `Send`.
unsafe impl Sync for Parts {}

impl Parts {
    /// Returns what knows of no part yet.
    pub(crate) fn new<M: Machine>(slabs: &Slabs<M>) -> Result<Self, heirloom_slab::Error> {
        let root = slabs.alloc(Layout::new::<Root>(), ZEROED)?;
        // (Null pointers are zeroes on each machine that this is for.)
        Ok(Self(root.cast()))
    }

    /// Gives back its memory.
    ///
    /// # Safety
    /// It is from [`Parts::new`] of these slabs, and not used again.
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

    /// Returns a part that was found before.
    #[inline]
    pub(crate) fn get(self, index: usize) -> Option<NonNull<u8>> {
        // SAFETY: the root is there as long as the value is used; zeroes are null pointers.
        let page = unsafe { self.0.as_ref() }.get(index / PAGE)?;
        // Acquire pairs with the Release in `page`.
        let page = NonNull::new(page.load(Acquire))?;
        // SAFETY: a page stays as long as the root.
        let part = unsafe { &page.as_ref()[index % PAGE] };
        // Acquire pairs with the Release in `set`.
        NonNull::new(part.load(Acquire))
    }

    /// Notes where a part is, unless there is no memory to do so. Null: it is none any more.
    pub(crate) fn set<M: Machine>(self, slabs: &Slabs<M>, index: usize, part: *mut u8) {
        // SAFETY: as in `get`.
        let Some(slot) = unsafe { self.0.as_ref() }.get(index / PAGE) else { return };
        let page = NonNull::new(slot.load(Acquire)).or_else(|| Self::page(slabs, slot));
        let Some(page) = page else { return };
        // SAFETY: as in `get`. Release pairs with the Acquire there.
        unsafe { &page.as_ref()[index % PAGE] }.store(part, Release);
    }

    /// Notes a part, unless one is noted. Returns the one that is noted then; `None` without memory to do so.
    pub(crate) fn add<M: Machine>(
        self,
        slabs: &Slabs<M>,
        index: usize,
        part: NonNull<u8>,
    ) -> Option<NonNull<u8>> {
        // SAFETY: as in `get`.
        let slot = unsafe { self.0.as_ref() }.get(index / PAGE)?;
        let page = NonNull::new(slot.load(Acquire)).or_else(|| Self::page(slabs, slot))?;
        // SAFETY: as in `get`.
        let slot = unsafe { &page.as_ref()[index % PAGE] };
        // Release pairs with the Acquire in `get`.
        match slot.compare_exchange(null_mut(), part.as_ptr(), AcqRel, Acquire) {
            Ok(_) => Some(part),
            Err(other) => NonNull::new(other),
        }
    }

    /// Calls `each` with every part that is noted, from number `first` on, and notes it no longer.
    pub(crate) fn drain(self, first: usize, mut each: impl FnMut(NonNull<u8>)) {
        let mut skip = first % PAGE;
        // SAFETY: as in `get`.
        for page in unsafe { self.0.as_ref() }.iter().skip(first / PAGE) {
            let skipped = core::mem::take(&mut skip);
            let Some(page) = NonNull::new(page.load(Acquire)) else { continue };
            // SAFETY: as in `get`.
            for slot in unsafe { page.as_ref() }.iter().skip(skipped) {
                if let Some(part) = NonNull::new(slot.load(Acquire)) {
                    // Release pairs with the Acquire in `get`.
                    slot.store(null_mut(), Release);
                    each(part);
                }
            }
        }
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
