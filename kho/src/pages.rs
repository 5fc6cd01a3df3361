//! Where tables that are not trusted are read from: memory as words, and what is preserved in it.

use crate::addr::{Block, Order, Pfn, PhysAddr, Run};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::page_size::PageSize;
use crate::sync::{AtomicU32, AtomicU64};

/// Memory that tables are read from: this machine's, or an image of another's.
///
/// Readers ask whether a block is preserved before they look into it, and load words one by one;
/// they never make a reference to plain bytes.
pub trait Pages {
    /// Returns the size of the pages of the kernel that left what is read: this build's, unless an image
    /// says otherwise.
    #[inline]
    fn page_size(&self) -> PageSize {
        PageSize::BUILD
    }

    /// Returns `bytes` bytes from `addr`, a multiple of 8, as words, a last half one whole; `None` if any
    /// of them is not in memory or not known to be there.
    ///
    /// Any address and length may be asked for.
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]>;

    /// Returns whether exactly this block, with this order, is preserved and has no owner yet.
    fn holds(&self, block: Block) -> bool;

    /// Returns whether all of `run` is memory.
    fn is_memory(&self, run: Run) -> bool {
        usize::try_from(run.bytes()).is_ok_and(|bytes| self.words(run.addr(), bytes).is_some())
    }

    /// Returns the preserved block that frame `pfn` lies in; the smallest, should there be several.
    fn block_around(&self, pfn: Pfn) -> Option<Block> {
        let orders = orders(self.page_size());
        orders.map(|order| Block::containing(pfn, order)).find(|block| self.holds(*block))
    }

    /// Returns the preserved block that starts with frame `pfn`; the smallest, should there be several.
    fn block_from(&self, pfn: Pfn) -> Option<Block> {
        let orders = orders(self.page_size());
        orders.map_while(|order| Block::new(pfn, order)).find(|block| self.holds(*block))
    }

    /// Returns the first frame of `run` that lies in no preserved block.
    fn first_unpreserved(&self, run: Run) -> Option<Pfn> {
        let mut at = run.start();
        while at < run.end() {
            match self.block_around(at) {
                Some(block) => at = block.run().end(),
                None => return Some(at),
            }
        }
        None
    }
}

/// Returns the orders that a block of whole pages can have.
fn orders(page: PageSize) -> impl Iterator<Item = Order> {
    (page.order().get()..=Order::MAX.get()).filter_map(Order::new)
}

/// Returns the block of `order` at `addr`, which `table` names in byte `offset` of its page `at`.
///
/// # Errors
/// [`Error::Table`] if nothing of that order can start there, or it is not preserved.
pub(crate) fn block_at(
    pages: &impl Pages,
    addr: PhysAddr,
    order: Order,
    (table, at, offset): (Table, PhysAddr, usize),
) -> Result<Block, Error> {
    let block = Block::new(addr.pfn(), order).filter(|block| block.addr() == addr);
    let block = block.ok_or(Fault::Misaligned { addr }.in_table(table, at, offset))?;
    if !pages.holds(block) {
        return Err(Fault::NotPreserved { block }.in_table(table, at, offset));
    }
    Ok(block)
}

/// Returns the one-page table at `addr`, which `from` says where it is named.
///
/// # Errors
/// [`Error::Table`] if no page can start there, or it is not preserved or not in memory.
pub fn table_at(
    pages: &impl Pages,
    addr: PhysAddr,
    from: (Table, PhysAddr, usize),
) -> Result<(Block, &[AtomicU64]), Error> {
    let page = pages.page_size();
    let block = block_at(pages, addr, page.order(), from)?;
    match pages.words(addr, page.bytes()) {
        Some(words) => Ok((block, words)),
        None => Err(Fault::OutsideMemory { addr }.in_table(from.0, from.1, from.2)),
    }
}

/// Returns `words` in halves, as the root page is read.
pub fn halves(words: &[AtomicU64]) -> &[AtomicU32] {
    #[allow(unsafe_code, reason = "memory as words of another width")]
    // SAFETY: the same memory, less strictly aligned; both are atomics, and every access to a
    // root page is made of halves.
    unsafe {
        core::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2)
    }
}
