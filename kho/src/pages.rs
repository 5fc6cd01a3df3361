//! Where tables that are not trusted are read from: memory as words, and what is preserved in it.

use crate::addr::{Block, Order, Pfn, PhysAddr, Run};
use crate::sync::AtomicU64;

/// Memory that tables are read from: this machine's, or an image of another's.
///
/// Readers ask whether a block is preserved before they look into it, and load words one by one;
/// they never make a reference to plain bytes.
pub trait Pages {
    /// `bytes` bytes from `addr`, a multiple of 8, as words, a last half one whole; `None` if any
    /// of them is not in memory or not known to be there.
    ///
    /// Any address and length may be asked for.
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]>;

    /// Returns whether exactly this block, with this order, is preserved and has no owner yet.
    fn holds(&self, block: Block) -> bool;

    /// Whether all of `run` is memory.
    fn is_memory(&self, run: Run) -> bool {
        usize::try_from(run.bytes()).is_ok_and(|bytes| self.words(run.addr(), bytes).is_some())
    }

    /// The preserved block that frame `pfn` lies in; the smallest, should there be several.
    fn block_around(&self, pfn: Pfn) -> Option<Block> {
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        orders.map(|order| Block::containing(pfn, order)).find(|block| self.holds(*block))
    }

    /// The preserved block that starts with frame `pfn`; the smallest, should there be several.
    fn block_from(&self, pfn: Pfn) -> Option<Block> {
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        orders.map_while(|order| Block::new(pfn, order)).find(|block| self.holds(*block))
    }

    /// The first frame of `run` that lies in no preserved block.
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
