//! Preserving and unpreserving: one atomic operation on a word, behind a directory hit.
//!
//! Whatever is missing of the tree is added before the first bit is set. All pages that this takes
//! are obtained before the first is linked, so an operation that fails leaves the tree, and the
//! memory around it, as they were.

use heirloom_kho::narrow::usize_to_u32;
use heirloom_kho::prefetch::prefetch;
use heirloom_kho::sync::{AcqRel, Acquire, AtomicU64, Release};
use heirloom_kho::tree::{Geometry, Key, LEVELS, Tables, Tree, node_start};
use heirloom_kho::{Block, PhysAddr};

use super::node::{NodeAlloc, NodePool};
use crate::error::Error;

const G: Geometry = Geometry::BUILD;

/// The root of a tree of preserved blocks. Its nodes are pages of the memory around it, which
/// every operation is given.
#[derive(Debug)]
pub(crate) struct Tracker {
    root: AtomicU64,
}

impl Tracker {
    /// Makes a tracker without any node.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self { root: AtomicU64::new(0) }
    }

    /// Makes a tracker without any node.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { root: AtomicU64::new(0) }
    }

    /// Makes the tracker of a tree that exists: a predecessor's, checked, with which it goes on.
    pub(crate) fn adopt(root: PhysAddr) -> Self {
        Self { root: AtomicU64::new(root.get()) }
    }

    /// Returns the root node, if there is one yet.
    pub(crate) fn root(&self) -> Option<PhysAddr> {
        // Acquire pairs with the Release that linked the root: it is seen zeroed.
        match self.root.load(Acquire) {
            0 => None,
            root => Some(PhysAddr::new(root)),
        }
    }

    /// Returns the root node, and adds one if there is none.
    ///
    /// # Errors
    /// Whatever [`NodeAlloc::allocate`] answers.
    pub(crate) fn ensure_root<N: NodeAlloc>(&self, nodes: &N) -> Result<PhysAddr, Error> {
        if let Some(root) = self.root() {
            return Ok(root);
        }
        let mut pool = NodePool::new(nodes);
        pool.add()?;
        link(&self.root, &mut pool)
    }

    /// Returns the tree as readers see it.
    pub(crate) fn tree<'a, T: Tables>(&self, tables: &'a T) -> Tree<'a, T> {
        Tree::new(self.root().unwrap_or_default(), tables)
    }

    /// Returns whether `block` is preserved as a folio of exactly its order.
    #[inline]
    pub(crate) fn contains<N: NodeAlloc>(&self, nodes: &N, block: Block) -> bool {
        // Acquire pairs with the Release in `preserve`: what the block's owner wrote before is
        // seen by the caller that finds it preserved.
        self.word(nodes, block).is_some_and(|(word, bit)| word.load(Acquire) & bit != 0)
    }

    /// Says that `block` survives.
    ///
    /// Costs one read-modify-write where the directory knows the leaf.
    ///
    /// # Errors
    /// - [`Error::AlreadyPreserved`];
    /// - whatever [`NodeAlloc::allocate`] answers, where the tree has to grow.
    #[inline]
    pub(crate) fn preserve<N: NodeAlloc>(&self, nodes: &N, block: Block) -> Result<(), Error> {
        let leaf_bit = match LeafBit::known(nodes, block) {
            Some(leaf_bit) => leaf_bit,
            None => self.word_or_grow(nodes, block)?.into(),
        };
        leaf_bit.preserve(block)
    }

    /// Says that `block` no longer survives. Of several callers at once, one succeeds.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: it is not, or not with this order.
    #[inline]
    pub(crate) fn unpreserve<N: NodeAlloc>(&self, nodes: &N, block: Block) -> Result<(), Error> {
        let leaf_bit = self.word(nodes, block).ok_or(Error::NotPreserved { block })?;
        LeafBit::from(leaf_bit).unpreserve(block)
    }

    /// Returns the leaf that holds the key of `block`.
    #[inline]
    pub(super) fn leaf<'n, N: NodeAlloc>(
        &self,
        nodes: &'n N,
        block: Block,
    ) -> Option<&'n [AtomicU64]> {
        match nodes.leaf(block) {
            Some(leaf) => Some(leaf),
            None => self.walk(nodes, block),
        }
    }

    /// Returns the word and bit of `block`, if its leaf exists.
    #[inline]
    pub(super) fn word<'n, N: NodeAlloc>(
        &self,
        nodes: &'n N,
        block: Block,
    ) -> Option<(&'n AtomicU64, u64)> {
        bit_in(self.leaf(nodes, block)?, block)
    }

    /// Returns the word and bit of `block` where the directory does not know its leaf.
    #[cold]
    #[inline(never)]
    fn word_or_grow<'n, N: NodeAlloc>(
        &self,
        nodes: &'n N,
        block: Block,
    ) -> Result<(&'n AtomicU64, u64), Error> {
        if let Some(found) = self.word(nodes, block) {
            return Ok(found);
        }
        self.grow(nodes, core::iter::once(block))?;
        self.word(nodes, block).ok_or(Error::NotMemory { pfn: block.pfn() })
    }

    /// Returns the leaf of `block` by way of the tree; the directory caches it.
    #[cold]
    #[inline(never)]
    fn walk<'n, N: NodeAlloc>(&self, nodes: &'n N, block: Block) -> Option<&'n [AtomicU64]> {
        let leaf = self.tree(nodes).leaf(Key::of(block))?;
        nodes.cache_leaf(block, leaf.addr);
        Some(leaf.words)
    }

    /// Adds every node that is missing on the way to `blocks`; on error none.
    #[cold]
    #[inline(never)]
    pub(super) fn grow<N: NodeAlloc>(
        &self,
        nodes: &N,
        blocks: impl Iterator<Item = Block> + Clone,
    ) -> Result<(), Error> {
        let mut pool = NodePool::new(nodes);
        let tree = self.tree(nodes);
        let mut last = None;
        for block in blocks.clone() {
            let key = Key::of(block);
            for level in 0..usize_to_u32(LEVELS - tree.depth(key)) {
                // A node that the block before needs as well is in the pool already.
                let start = node_start(key.get(), level);
                if last.is_none_or(|last| node_start(last, level) != start) {
                    pool.add()?;
                }
            }
            last = Some(key.get());
        }
        for block in blocks {
            let mut addr = link(&self.root, &mut pool)?;
            for level in (1..G.levels).rev() {
                let entry = nodes
                    .words(addr)
                    .and_then(|words| words.get(Key::of(block).index(level)))
                    .ok_or(Error::NotMemory { pfn: addr.pfn() })?;
                addr = link(entry, &mut pool)?;
            }
            nodes.cache_leaf(block, addr);
        }
        Ok(())
    }
}

/// Returns the node that `entry` points at; one from `pool` if there was none.
fn link<N: NodeAlloc>(entry: &AtomicU64, pool: &mut NodePool<'_, N>) -> Result<PhysAddr, Error> {
    // Acquire pairs with the Release below, of the call that linked the node: it is seen zeroed.
    let found = entry.load(Acquire);
    if found != 0 {
        return Ok(PhysAddr::new(found));
    }
    let page = loop {
        match pool.take() {
            Some(page) => break page,
            None => pool.add()?,
        }
    };
    // Release pairs with every Acquire that follows an entry: the page's zeroes come first, for a
    // successor too. Acquire on failure pairs with the winner's Release.
    match entry.compare_exchange(0, page.get(), Release, Acquire) {
        Ok(_) => Ok(page),
        Err(winner) => {
            pool.put(page)?;
            Ok(PhysAddr::new(winner))
        }
    }
}

/// Where the tree keeps a block: a bit of a leaf's word.
#[derive(Clone, Copy)]
pub(crate) struct LeafBit<'n> {
    word: &'n AtomicU64,
    bit: u64,
}

impl<'n> From<(&'n AtomicU64, u64)> for LeafBit<'n> {
    #[inline]
    fn from((word, bit): (&'n AtomicU64, u64)) -> Self {
        Self { word, bit }
    }
}

impl<'n> LeafBit<'n> {
    /// Returns the bit of `block`, if the directory knows its leaf.
    #[inline]
    pub(crate) fn known<N: NodeAlloc>(nodes: &'n N, block: Block) -> Option<Self> {
        Self::of(nodes.leaf(block)?, block)
    }

    /// Returns the bit of `block` in its leaf.
    #[inline]
    pub(crate) fn of(leaf: &'n [AtomicU64], block: Block) -> Option<Self> {
        bit_in(leaf, block).map(Self::from)
    }

    /// Asks for the word.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.word);
    }

    /// Returns whether the block is preserved.
    #[inline]
    pub(crate) fn is_set(self) -> bool {
        // Acquire as in [`Tracker::contains`].
        self.word.load(Acquire) & self.bit != 0
    }

    /// Does what [`Tracker::preserve`] does, the bit being known.
    #[inline]
    pub(crate) fn preserve(self, block: Block) -> Result<(), Error> {
        // Release pairs with the Acquire of the call that finds or clears the bit: what was written
        // to the block before comes with it.
        if self.word.fetch_or(self.bit, Release) & self.bit == 0 {
            Ok(())
        } else {
            Err(Error::AlreadyPreserved { block })
        }
    }

    /// Does what [`Tracker::unpreserve`] does, the bit being known.
    #[inline]
    pub(crate) fn unpreserve(self, block: Block) -> Result<(), Error> {
        // Acquire pairs with the Release in `preserve`: the block is seen as its owner left it. Release
        // pairs with the Acquire of a successor that finds the bit clear: what led to the block was
        // unlinked before.
        if self.word.fetch_and(!self.bit, AcqRel) & self.bit != 0 {
            Ok(())
        } else {
            Err(Error::NotPreserved { block })
        }
    }
}

#[inline]
fn bit_in(leaf: &[AtomicU64], block: Block) -> Option<(&AtomicU64, u64)> {
    let (word, bit) = Key::of(block).bit();
    Some((leaf.get(word)?, bit))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use heirloom_kho::sync::Relaxed;
    use heirloom_kho::tree::LEAF_KEYS;

    use super::super::ram::{Ram, block};
    use super::*;

    #[test]
    fn a_block_is_preserved_once() {
        let ram = Ram::new(16);
        let tracker = Tracker::new();
        let b = block(3, 8);
        assert_eq!(tracker.unpreserve(&ram, b), Err(Error::NotPreserved { block: b }));
        assert_eq!(ram.used(), 0);
        tracker.preserve(&ram, b).unwrap();
        assert!(tracker.contains(&ram, b));
        assert!(!tracker.contains(&ram, block(2, 8)));
        assert_eq!(tracker.preserve(&ram, b), Err(Error::AlreadyPreserved { block: b }));
        tracker.unpreserve(&ram, b).unwrap();
        assert_eq!(tracker.unpreserve(&ram, b), Err(Error::NotPreserved { block: b }));
        assert_eq!(ram.used(), LEVELS);
    }

    #[test]
    fn a_path_costs_one_node_a_level_and_is_shared() {
        let ram = Ram::new(32);
        let tracker = Tracker::new();
        let root = tracker.ensure_root(&ram).unwrap();
        assert_eq!(tracker.ensure_root(&ram), Ok(root));
        assert_eq!(ram.used(), 1);
        tracker.preserve(&ram, block(0, 5)).unwrap();
        assert_eq!(ram.used(), LEVELS);
        tracker.preserve(&ram, block(0, 6)).unwrap();
        assert_eq!(ram.used(), LEVELS);
        tracker.preserve(&ram, block(0, LEAF_KEYS)).unwrap();
        assert_eq!(ram.used(), LEVELS + 1);
        assert_eq!(tracker.root(), Some(root));
    }

    #[test]
    fn the_directory_stands_in_for_the_walk() {
        let ram = Ram::new(16);
        let tracker = Tracker::new();
        tracker.preserve(&ram, block(0, 5)).unwrap();
        let known = ram.leaf(block(0, 6)).unwrap();
        assert_eq!(known[0].load(Relaxed), 1 << 5);
        // A tracker over the same tree, which has to walk once.
        ram.clear_leaf_cache();
        assert!(ram.leaf(block(0, 5)).is_none());
        let second = Tracker::adopt(tracker.root().unwrap());
        assert!(second.contains(&ram, block(0, 5)));
        assert!(ram.leaf(block(0, 5)).is_some());
    }
}
