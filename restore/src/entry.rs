//! Where a successor begins to look, before it has any memory of its own.

use heirloom_folio::DirectMap;
use heirloom_kho::PageSize;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{Fault, PhysAddr, RootView, Run, ScratchList, Table};

use crate::error::Error;
use crate::pages::halves;

/// All that passes from a kernel to its successor beside memory itself: what Linux puts into
/// `struct kho_data`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The root page.
    pub root: PhysAddr,
    /// The scratch list.
    pub scratch: PhysAddr,
    /// Bytes of the scratch list.
    pub scratch_bytes: u64,
}

impl Entry {
    /// Returns the areas that the predecessor kept free of anything preserved: all that a successor
    /// may write before it has read the map. The root page is checked as well, as far as it goes.
    ///
    /// # Errors
    /// [`Error::Table`]: the root page or the list is not sound or not memory; the root page lies
    /// in scratch, where the successor would write over it; the list lies partly in scratch.
    ///
    /// The list may lie in scratch as a whole, as Linux's does: the kernel that is loaded next
    /// lies there too, and the list with it. What is written to scratch must then spare it.
    ///
    /// # Safety
    /// - `is_memory` is true only of runs that `map` covers.
    /// - Nothing writes the pages named here while the list is in use.
    pub unsafe fn scratch_areas<'m>(
        &self,
        map: &'m impl DirectMap,
        is_memory: impl Fn(Run) -> bool,
    ) -> Result<ScratchList<'m>, Error> {
        self.areas_in(PageSize::BUILD, &is_memory, |addr, bytes| {
            let start = map.ptr(addr).cast::<AtomicU64>();
            // SAFETY: `is_memory` vouches for the bytes, so the map covers these words; they are
            // aligned, and the caller promises that nothing writes them.
            Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes / 8) })
        })
    }

    /// Reads the areas with `words` for memory: it is asked for whole words that `is_memory` vouches for.
    pub(crate) fn areas_in<'m>(
        &self,
        page: PageSize,
        is_memory: impl Fn(Run) -> bool,
        words: impl Fn(PhysAddr, usize) -> Option<&'m [AtomicU64]>,
    ) -> Result<ScratchList<'m>, Error> {
        let words = |table, addr: PhysAddr, bytes: u64| {
            let outside = Fault::OutsideMemory { addr }.in_table(table, addr, 0);
            let run = page.covering(addr, bytes).filter(|run| is_memory(*run)).ok_or(outside)?;
            if !addr.get().is_multiple_of(8) {
                return Err(Fault::Misaligned { addr }.in_table(table, addr, 0));
            }
            if !bytes.is_multiple_of(8) {
                let fault = Fault::Length { expected: bytes.next_multiple_of(8), found: bytes };
                return Err(fault.in_table(table, addr, 0));
            }
            let bytes = usize::try_from(bytes).map_err(|_| outside)?;
            Ok((run, words(addr, bytes).ok_or(outside)?))
        };
        let (root, root_words) = words(Table::Root, self.root, usize_to_u64(page.bytes()))?;
        RootView::sized(page, halves(root_words), self.root)?;
        let (list, words) = words(Table::Scratch, self.scratch, self.scratch_bytes)?;
        let areas = ScratchList::sized(page, words, self.scratch, &is_memory)?;
        // The list itself may lie in one of its areas, whole.
        let within = areas.runs().any(|area| area.covers(list));
        let list = (!within).then_some((Table::Scratch, list));
        // Any other table there would be written over while it is still to be read.
        for (table, run) in [(Table::Root, root)].into_iter().chain(list) {
            if let Some(with) = areas.runs().find(|area| area.overlaps(run)) {
                return Err(Fault::Overlap { run, with }.in_table(table, run.addr(), 0).into());
            }
        }
        Ok(areas)
    }
}
