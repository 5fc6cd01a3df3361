//! A tree to read: finding a leaf, and the next node at or after a key.
//!
//! ```text
//! root [ . . * . ]                 level LEVELS-1   tables: addresses of lower nodes, 0 = none
//!            |
//!          [ * . * . ]             ...
//!            |   |
//!          leaf  leaf              level 0          one bit a key
//! ```
//!
//! There is no stack to keep: a walk remembers the next key and comes back down from the root, six
//! loads for each leaf of 32,768 keys.

use super::key::{Geometry, Key};
use super::tables::Tables;
use crate::addr::{Block, PhysAddr};
use crate::narrow::{u32_to_usize, usize_to_u64};
use crate::sync::{Acquire, AtomicU64};

/// Reads a preserved-memory tree, through [`Tables`] that know where its pages are mapped.
///
/// Reading never blocks and never fails; an entry that points outside memory reads as absent. A
/// tree that others change meanwhile is seen in some state in which everything that is preserved
/// throughout is preserved, and nothing that is not.
///
/// A tree from elsewhere is to be [checked](super::check) first: reading one that is not sound is
/// harmless, but may go on for as long as there are keys.
///
/// # Examples
/// ```
/// use heirloom_kho::tree::{Geometry, Key, Tables, Tree};
/// use heirloom_kho::{Block, Order, PAGE_SIZE, Pfn, PhysAddr};
/// use std::sync::atomic::AtomicU64;
///
/// // Pages 1, 2, .. of memory.
/// struct Pages(Vec<Vec<AtomicU64>>);
/// impl Tables for Pages {
///     fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]> {
///         self.0.get((node.pfn().get() as usize).checked_sub(1)?).map(|page| &page[..])
///     }
/// }
///
/// // The tree that holds one folio: a path of nodes, one of each level.
/// let folio = Block::new(Pfn::new(64), Order::new(5).unwrap()).unwrap();
/// let page = || (0..PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect();
/// let mut pages = Pages((0..Geometry::BUILD.levels).map(|_| page()).collect());
/// for (i, level) in (1..Geometry::BUILD.levels).rev().enumerate() {
///     let below = Pfn::new(i as u64 + 2).addr();
///     pages.0[i][Key::of(folio).index(level)] = AtomicU64::new(below.get());
/// }
/// let bit = Key::of(folio).index(0);
/// pages.0.last_mut().unwrap()[bit / 64] = AtomicU64::new(1 << (bit % 64));
///
/// let tree = Tree::new(Pfn::new(1).addr(), &pages);
/// assert!(tree.contains(folio));
/// assert_eq!(tree.folios().collect::<Vec<_>>(), [folio]);
/// assert_eq!(tree.counts().frames(), 32);
/// ```
#[derive(Debug)]
pub struct Tree<'a, T: ?Sized> {
    tables: &'a T,
    root: PhysAddr,
}

impl<T: ?Sized> Clone for Tree<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Tree<'_, T> {}

/// A node that was found.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// Its page.
    pub addr: PhysAddr,
    /// The first key that it covers.
    pub first: u64,
    /// Its entries, or bits.
    pub words: &'a [AtomicU64],
}

impl<'a, T: Tables + ?Sized> Tree<'a, T> {
    /// Returns the tree with its root at `root`; physical address 0 is the tree with nothing in it.
    pub const fn new(root: PhysAddr, tables: &'a T) -> Self {
        Self { tables, root }
    }

    /// Returns the address of the root.
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Returns the shape of the tree: a constant, unless its tables say otherwise.
    #[inline]
    pub(super) fn geometry(&self) -> Geometry {
        Geometry::of(self.tables.page_size())
    }

    /// Returns whether `block` is preserved as a folio of exactly its order.
    pub fn contains(&self, block: Block) -> bool {
        let key = Key::of(block);
        let (index, bit) = (self.geometry().index(key, 0), 1 << (key.get() & 63));
        self.leaf(key)
            .and_then(|leaf| leaf.words.get(index / 64))
            // Acquire pairs with the Release that set the bit: what its owner wrote before is
            // seen by the caller that finds it preserved.
            .is_some_and(|word| word.load(Acquire) & bit != 0)
    }

    /// Returns the leaf that holds `key`, if there is one.
    pub fn leaf(&self, key: Key) -> Option<Node<'a>> {
        let g = self.geometry();
        if g != Geometry::BUILD && key.get() >= g.key_limit() {
            // Blocks of less than a page.
            return None;
        }
        let mut at = self.node(self.root, 0)?;
        for level in (1..g.levels).rev() {
            // Acquire pairs with the Release that linked the node: it is seen zeroed.
            let entry = at.words.get(g.index(key, level))?.load(Acquire);
            at = self.node(PhysAddr::new(entry), 0)?;
        }
        Some(Node { first: g.node_start(key.get(), 0), ..at })
    }

    /// Returns how many nodes there are on the way to `key`, from the root down.
    pub fn depth(&self, key: Key) -> usize {
        let g = self.geometry();
        let mut entry = self.root;
        for level in (0..g.levels).rev() {
            let Some(at) = self.node(entry, 0) else { return u32_to_usize(g.levels - 1 - level) };
            if level > 0 {
                // Acquire as in `leaf`.
                entry =
                    PhysAddr::new(at.words.get(g.index(key, level)).map_or(0, |e| e.load(Acquire)));
            }
        }
        u32_to_usize(g.levels)
    }

    /// Returns the first node of `level` that covers a key at or after `from`.
    pub fn seek(&self, level: u32, from: u64) -> Option<Node<'a>> {
        let g = self.geometry();
        let mut key = from;
        'root: while key < g.key_limit() {
            let mut at = self.node(self.root, 0)?;
            for height in (level + 1..g.levels).rev() {
                let index = g.index(Key::new(key), height);
                let Some((skipped, entry)) = next_entry(at.words, index) else {
                    // Nothing more in this table: on to what lies behind it.
                    key = g.node_start(key, height) + (1 << g.shift(height + 1));
                    continue 'root;
                };
                if skipped > 0 {
                    key =
                        g.node_start(key, height - 1) + (usize_to_u64(skipped) << g.shift(height));
                }
                match self.node(entry, key) {
                    Some(next) if key < g.key_limit() => at = next,
                    _ => {
                        key = g.node_start(key, height - 1) + (1 << g.shift(height));
                        continue 'root;
                    }
                }
            }
            return Some(Node { first: g.node_start(key, level), ..at });
        }
        None
    }

    #[inline]
    fn node(&self, addr: PhysAddr, first: u64) -> Option<Node<'a>> {
        if addr.get() == 0 || !self.tables.page_size().is_aligned(addr) {
            return None;
        }
        Some(Node { addr, first, words: self.tables.words(addr)? })
    }
}

/// Returns the first entry from `index` on that is not 0, and how many lie before it.
fn next_entry(words: &[AtomicU64], index: usize) -> Option<(usize, PhysAddr)> {
    // Acquire pairs with the Release that linked the node: it is seen zeroed.
    let mut entries = words.get(index..)?.iter().map(|word| word.load(Acquire)).enumerate();
    entries.find(|&(_, entry)| entry != 0).map(|(skipped, entry)| (skipped, PhysAddr::new(entry)))
}
