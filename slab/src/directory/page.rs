//! The pages of the cache directory and of slab tables: a link, a count, and entries behind them.

use heirloom_folio::{FrameType, Machine, Memory, Request};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr};

use crate::error::Error;

/// Words of a page before its entries: the next page's address, and the count.
pub(super) const HEADER: usize = 2;

/// Allocates and preserves a page of zeroes.
///
/// # Errors
/// [`Error::Folio`]: out of memory.
pub(super) fn new_page<M: Machine>(memory: &Memory<M>) -> Result<PhysAddr, Error> {
    let block = memory.alloc(Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed())?;
    // SAFETY: allocated just now.
    match unsafe { memory.preserve_as(block, FrameType::Table) } {
        Ok(()) => Ok(block.addr()),
        Err(error) => {
            // SAFETY: allocated just now, and refused.
            let freed = unsafe { memory.free_as(block, FrameType::Table) };
            debug_assert!(freed.is_ok(), "a fresh page is free to go: {freed:?}");
            Err(error.into())
        }
    }
}

/// Gives a page back that nothing leads to.
pub(super) fn drop_page<M: Machine>(memory: &Memory<M>, page: PhysAddr) {
    let block = Block::containing(page.pfn(), Order::ZERO);
    // SAFETY: from `new_page`, and nothing leads to it.
    let unpreserved = unsafe { memory.unpreserve_as(block, FrameType::Table) };
    debug_assert!(unpreserved.is_ok(), "the directory's pages are preserved: {unpreserved:?}");
    // SAFETY: from `new_page`, and nothing leads to it.
    let freed = unsafe { memory.free_as(block, FrameType::Table) };
    debug_assert!(freed.is_ok(), "an unlinked page is free to go: {freed:?}");
}

/// Returns the words of a page of the cache directory.
///
/// # Safety
/// `page` is a page of memory that nothing writes but by atomics while the words are in use.
pub(super) unsafe fn words<M: Machine>(memory: &Memory<M>, page: PhysAddr) -> &[AtomicU64] {
    let first = memory.machine().ptr(page).cast::<AtomicU64>();
    // SAFETY: the map covers the page, aligned; the caller promises the rest.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), PAGE_SIZE / size_of::<AtomicU64>()) }
}
