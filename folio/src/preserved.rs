//! The preserved tree in this memory: its nodes, the directory of its leaves, and what is in it.

use heirloom_kho::sync::{Acquire, AtomicU64, Release};
use heirloom_kho::tree::{Counts, FolioRange, Tables, TreeNode};
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr, Run};

use crate::error::Error;
use crate::frame_type::FrameType;
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
        let request = Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed();
        let block = self.memory.alloc(request)?;
        // A node survives without a bit of its own. Marked so, it can neither be freed nor
        // preserved, which would give its frame two uses in the successor's eyes.
        self.memory.mark_preserved(block, FrameType::Table, true);
        Ok(block.addr())
    }

    fn release(&self, node: PhysAddr) {
        let block = Block::containing(node.pfn(), Order::ZERO);
        self.memory.mark_preserved(block, FrameType::Table, false);
        // SAFETY: the tracker gives back a page that it got from `allocate` and never linked.
        let freed = unsafe { self.memory.free_as(block, FrameType::Table) };
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

    /// Returns the view of what is preserved: now, and in the tree that a successor finds.
    #[inline]
    pub const fn preserved(&self) -> PreservedSet<'_, M> {
        PreservedSet { memory: self }
    }

    /// Returns the words of a tree's page; `None` if it is no page of memory.
    pub(crate) fn words_of(&self, page: PhysAddr) -> Option<&[AtomicU64]> {
        if !page.is_page_aligned() || self.ranges.find(page.pfn()).is_none() {
            return None;
        }
        // SAFETY: the frame is memory.
        Some(unsafe { self.node_words(page) })
    }

    /// Returns the words of a tree's page.
    ///
    /// # Safety
    /// `page` is the address of a frame in a memory range.
    #[inline]
    pub(crate) unsafe fn node_words(&self, page: PhysAddr) -> &[AtomicU64] {
        let words = self.machine().ptr(page).cast::<AtomicU64>();
        // SAFETY: the map covers the frame, page aligned; the pages of trees are touched as
        // atomics alone (they are `FrameType::Table` of ours, or a predecessor's).
        unsafe { core::slice::from_raw_parts(words.as_ptr(), PAGE_SIZE / size_of::<AtomicU64>()) }
    }

    /// Returns the leaf of a block that the directory knows.
    #[inline]
    pub(crate) fn leaf_in(&self, range: &Range, block: Block) -> Option<&[AtomicU64]> {
        // Acquire pairs with the Release in `cache_leaf`: the leaf is as its linking left it.
        let leaf = range.slot(block)?.load(Acquire);
        // SAFETY: `cache_leaf` is told of leaves only, which are pages of memory.
        (leaf != 0).then(|| unsafe { self.node_words(PhysAddr::new(leaf)) })
    }
}

/// What is preserved in a memory, by its owner in this kernel or by a predecessor: from
/// [`Memory::preserved`].
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_folio::Request;
/// use heirloom_kho::Order;
///
/// let memory = Ram::memory(&Ram::frames(64))?;
/// let folio = memory.alloc_folio(Request::new(Order::new(2).unwrap()))?.preserve()?;
/// assert!(memory.preserved().contains(folio.extent()));
/// assert_eq!(memory.preserved().counts().frames(), 4);
/// # Ok::<(), heirloom_folio::Error>(())
/// ```
pub struct PreservedSet<'m, M: Machine> {
    memory: &'m Memory<M>,
}

impl<M: Machine> Clone for PreservedSet<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for PreservedSet<'_, M> {}

impl<M: Machine> PreservedSet<'_, M> {
    /// Returns whether exactly this block is preserved: in the tree, by its order.
    #[inline]
    pub fn contains(self, block: Block) -> bool {
        self.memory.tracker.contains(&self.memory.tables(), block)
    }

    /// Calls `each` with every preserved block, order by order, by address within an order.
    ///
    /// Nothing is held meanwhile: `each` may call everything, and blocks that are preserved or let
    /// go since the call began may be among them or not.
    pub fn for_each(self, each: impl FnMut(Block)) {
        self.memory.tracker.tree(&self.memory.tables()).folios().for_each(each);
    }

    /// Calls `each` with all preserved blocks that lie side by side and have one order, taken together:
    /// what [`PreservedSet::for_each`] tells one by one, and much faster where blocks are many.
    pub fn for_each_range(self, each: impl FnMut(FolioRange)) {
        self.memory.tracker.tree(&self.memory.tables()).folio_ranges().for_each(each);
    }

    /// Calls `each` with every frame that the tree's own nodes occupy.
    #[doc(hidden)]
    pub fn for_each_node(self, each: impl FnMut(TreeNode)) {
        self.memory.tracker.tree(&self.memory.tables()).nodes().for_each(each);
    }

    /// Returns how many blocks of which order are preserved, and in how many nodes.
    pub fn counts(self) -> Counts {
        self.memory.tracker.tree(&self.memory.tables()).counts()
    }

    /// Returns the first `frames` frames in a row within `within` of which none is preserved.
    pub fn next_gap(self, frames: u64, within: Run) -> Option<Run> {
        self.memory.tracker.tree(&self.memory.tables()).next_gap(within, frames)
    }

    /// Returns the root node of the tree that this kernel hands over: its predecessor's, or one that is
    /// allocated at the first call.
    ///
    /// It stays where it is as long as the memory lives.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] at the first call.
    pub fn tree_root(self) -> Result<PhysAddr, Error> {
        self.memory.tracker.ensure_root(&self.memory.tables())
    }
}
