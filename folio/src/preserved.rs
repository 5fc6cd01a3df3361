//! The preserved tree in this memory: its nodes, the directory of its leaves, and what is in it.

use heirloom_kho::sync::{Acquire, AtomicU64, Release};
use heirloom_kho::tree::{Adjacent, Counts, Tables, TreeNode};
use heirloom_kho::{Block, Order, PhysAddr, Run};

use crate::error::Error;
use crate::frame_type::Kind;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;
use crate::request::Request;
use crate::tracker::NodeAlloc;

/// The memory as the tracker sees it: pages for nodes, and the directory of leaves.
pub(crate) struct Pages<'m, M: Machine> {
    memory: &'m Memory<M>,
}

impl<M: Machine> Tables for Pages<'_, M> {
    #[inline]
    fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]> {
        self.memory.words_of(node)
    }
}

impl<M: Machine> NodeAlloc for Pages<'_, M> {
    fn allocate(&self) -> Result<PhysAddr, Error> {
        let request = Request::new(Order::ZERO).kind(Kind::Table).zeroed();
        let block = self.memory.alloc(request)?;
        // A node survives without a bit of its own. Marked so, it can neither be freed nor
        // preserved, which would give its frame two uses in the successor's eyes.
        self.memory.mark_preserved(block, Kind::Table, true);
        Ok(block.addr())
    }

    fn release(&self, node: PhysAddr) {
        let block = Block::containing(node.pfn(), Order::ZERO);
        self.memory.mark_preserved(block, Kind::Table, false);
        // SAFETY: the tracker gives back a page that it got from `allocate` and never linked.
        let freed = unsafe { self.memory.free(block, Kind::Table) };
        debug_assert!(freed.is_ok(), "an unlinked node is free to go: {freed:?}");
    }

    #[inline]
    fn leaf(&self, block: Block) -> Option<&[AtomicU64]> {
        self.memory.leaf_in(self.memory.ranges.find(block.pfn())?, block)
    }

    fn cache_leaf(&self, block: Block, leaf: PhysAddr) {
        let range = self.memory.ranges.find(block.pfn());
        if let Some(slot) = range.and_then(|range| range.slot(block)) {
            // Release pairs with the Acquire in `leaf`.
            slot.store(leaf.get(), Release);
        }
    }
}

impl<M: Machine> Memory<M> {
    pub(crate) const fn tables(&self) -> Pages<'_, M> {
        Pages { memory: self }
    }

    /// Returns the root node of the tree that this kernel hands over: its predecessor's, or one that is
    /// allocated at the first call.
    ///
    /// It stays where it is as long as the memory lives.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] at the first call.
    pub fn tree_root(&self) -> Result<PhysAddr, Error> {
        self.tracker.ensure_root(&self.tables())
    }

    /// Returns the leaf of a block that the directory knows.
    #[inline]
    pub(crate) fn leaf_in(&self, range: &Range, block: Block) -> Option<&[AtomicU64]> {
        // Acquire pairs with the Release in `cache_leaf`: the leaf is as its linking left it.
        let leaf = range.slot(block)?.load(Acquire);
        // SAFETY: `cache_leaf` is told of leaves only, which are pages of memory.
        (leaf != 0).then(|| unsafe { self.node_words(PhysAddr::new(leaf)) })
    }

    /// Returns whether exactly this block is preserved: in the tracker, by its order.
    pub fn is_preserved(&self, block: Block) -> bool {
        self.tracker.contains(&self.tables(), block)
    }

    /// Calls `each` with every preserved block, order by order, by address within an order.
    ///
    /// Nothing is held meanwhile: `each` may call everything, and blocks that are preserved or let
    /// go since the call began may be among them or not.
    pub fn for_each_preserved(&self, each: impl FnMut(Block)) {
        self.tracker.tree(&self.tables()).folios().for_each(each);
    }

    /// Calls `each` with all preserved blocks that lie side by side and have one order, taken together:
    /// what [`Memory::for_each_preserved`] tells one by one, and much faster where blocks are many.
    pub fn for_each_adjacent(&self, each: impl FnMut(Adjacent)) {
        self.tracker.tree(&self.tables()).adjacent().for_each(each);
    }

    /// Calls `each` with every frame that the tracker's own nodes occupy.
    #[doc(hidden)]
    pub fn for_each_node(&self, each: impl FnMut(TreeNode)) {
        self.tracker.tree(&self.tables()).nodes().for_each(each);
    }

    /// Returns how many blocks of which order are preserved, and in how many nodes.
    pub fn counts(&self) -> Counts {
        self.tracker.tree(&self.tables()).counts()
    }

    /// Returns the first `frames` frames in a row within `within` of which none is preserved.
    pub fn next_gap(&self, frames: u64, within: Run) -> Option<Run> {
        self.tracker.tree(&self.tables()).next_gap(within, frames)
    }
}
