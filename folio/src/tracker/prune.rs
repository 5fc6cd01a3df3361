//! Taking out of a tree the nodes that lead to nothing.
//!
//! While a kernel runs, a node stays where it was linked: others may be on their way through it. So a
//! tree that goes from kernel to kernel would have, in the end, a node for each place at which
//! something was ever preserved. A successor takes the empty ones out before anything else can
//! look at the tree.

use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::{AtomicU64, Relaxed, Release};
use heirloom_kho::tree::{Geometry, Key, LEAF_KEYS, Tables};
use heirloom_kho::{Block, PhysAddr};

use super::grow::Tracker;

const G: Geometry = Geometry::BUILD;

impl Tracker {
    /// Unlinks every node below the root that leads to nothing, from the leaves up, and hands the
    /// page of each to `unlinked`; of a leaf with keys of one order, the first block that it stood for,
    /// too: a directory may know the leaf. The tree was checked.
    pub(crate) fn prune<T: Tables>(
        &mut self,
        tables: &T,
        mut unlinked: impl FnMut(PhysAddr, Option<Block>),
    ) {
        if let Some(root) = self.root() {
            prune(tables, root, 0, G.levels - 1, &mut unlinked);
        }
    }
}

/// Unlinks the empty nodes below the node of `level` at `addr`, with `first` as its first key. Returns
/// whether that is empty then.
fn prune<T: Tables>(
    tables: &T,
    addr: PhysAddr,
    first: u64,
    level: u32,
    unlinked: &mut impl FnMut(PhysAddr, Option<Block>),
) -> bool {
    let Some(words) = tables.words(addr) else { return false };
    // Relaxed: nothing else uses the tree.
    let is_empty = |word: &AtomicU64| word.load(Relaxed) == 0;
    if level > 0 {
        for (index, entry) in words.iter().enumerate().filter(|(_, entry)| !is_empty(entry)) {
            let below = PhysAddr::new(entry.load(Relaxed));
            let first = first + (usize_to_u64(index) << G.shift(level));
            if prune(tables, below, first, level - 1, unlinked) {
                // Release: what a successor finds in the page's place comes after this.
                entry.store(0, Release);
                // The very first leaf has keys of several orders, all too high for a directory.
                let leaf = level == 1 && first >= LEAF_KEYS;
                unlinked(below, if leaf { Key::new(first).block() } else { None });
            }
        }
    }
    words.iter().all(is_empty)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use heirloom_kho::tree::LEVELS;

    use super::super::NodeAlloc;
    use super::super::ram::{Ram, block};
    use super::*;

    #[test]
    fn what_leads_to_nothing_goes_and_the_rest_stays() {
        let ram = Ram::new(64);
        let mut tracker = Tracker::new();
        let all = [block(0, 0), block(0, 1 << 30), block(9, 0), block(30, 0)];
        for b in all {
            tracker.preserve(&ram, b).unwrap();
        }
        let mut left = all.to_vec();
        for b in all {
            tracker.prune(&ram, |_, _| panic!("every node leads to something"));
            tracker.unpreserve(&ram, b).unwrap();
            left.retain(|kept| *kept != b);
            let before = tracker.tree(&ram).nodes().count();
            let mut gone = Vec::new();
            let mut leaves = 0;
            tracker.prune(&ram, |page, leaf| {
                gone.push(page);
                // The leaf of what is gone, and no other.
                if let Some(first) = leaf {
                    assert_eq!(first.order(), b.order());
                    let leaf = |block| Key::of(block).get() >> G.leaf_log2;
                    assert_eq!(leaf(first), leaf(b));
                    leaves += 1;
                }
            });
            assert_eq!(leaves, usize::from(Key::of(b).get() >= LEAF_KEYS));
            assert!(!gone.is_empty(), "{b} had a leaf of its own");
            assert_eq!(tracker.tree(&ram).nodes().count(), before - gone.len());
            assert!(left.iter().all(|b| tracker.contains(&ram, *b)));
            ram.clear_leaf_cache();
            for page in gone {
                ram.release(page);
            }
            // As many as a tree that never had more.
            let fresh = (Ram::new(64), Tracker::new());
            fresh.1.ensure_root(&fresh.0).unwrap();
            for b in &left {
                fresh.1.preserve(&fresh.0, *b).unwrap();
            }
            assert_eq!(ram.used(), fresh.0.used());
        }
        assert_eq!(ram.used(), 1, "the root stays");
        tracker.preserve(&ram, all[0]).unwrap();
        assert_eq!(ram.used(), LEVELS);
    }
}
