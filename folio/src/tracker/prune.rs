//! Taking out of a tree the nodes that lead to nothing.
//!
//! While a kernel runs, a node stays where it was linked: others may be on their way through it. So a
//! tree that goes from kernel to kernel would have, in the end, a node for each place at which
//! something was ever preserved. A successor takes the empty ones out before anything else can
//! look at the tree.

use crate::addr::PhysAddr;
use crate::sync::{AtomicU64, Relaxed, Release};

use super::grow::Tracker;
use super::key::Geometry;
use super::node::Tables;

const G: Geometry = Geometry::BUILD;

impl Tracker {
    /// Unlinks every node below the root that leads to nothing, from the leaves up, and hands the
    /// page of each to `unlinked`. The tree was checked.
    pub(crate) fn prune<T: Tables>(&mut self, tables: &T, mut unlinked: impl FnMut(PhysAddr)) {
        if let Some(root) = self.root() {
            prune(tables, root, G.levels - 1, &mut unlinked);
        }
    }
}

/// Unlinks the empty nodes below the node of `level` at `addr`. Returns whether that is empty then.
fn prune<T: Tables>(
    tables: &T,
    addr: PhysAddr,
    level: u32,
    unlinked: &mut impl FnMut(PhysAddr),
) -> bool {
    let Some(words) = tables.words(addr) else { return false };
    // Relaxed: nothing else uses the tree.
    let is_empty = |word: &AtomicU64| word.load(Relaxed) == 0;
    if level > 0 {
        for entry in words.iter().filter(|entry| !is_empty(entry)) {
            let below = PhysAddr::new(entry.load(Relaxed));
            if prune(tables, below, level - 1, unlinked) {
                // Release: what a successor finds in the page's place comes after this.
                entry.store(0, Release);
                unlinked(below);
            }
        }
    }
    words.iter().all(is_empty)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::super::key::LEVELS;
    use super::super::ram::{Ram, block};
    use super::super::{Nodes, Tracker};

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
            tracker.prune(&ram, |_| panic!("every node leads to something"));
            tracker.unpreserve(&ram, b).unwrap();
            left.retain(|kept| *kept != b);
            let before = tracker.tree(&ram).nodes().count();
            let mut gone = Vec::new();
            tracker.prune(&ram, |page| gone.push(page));
            assert!(!gone.is_empty(), "{b} had a leaf of its own");
            assert_eq!(tracker.tree(&ram).nodes().count(), before - gone.len());
            assert!(left.iter().all(|b| tracker.contains(&ram, *b)));
            ram.forget();
            gone.into_iter().for_each(|page| ram.release(page));
            // As many as a tree that never had more.
            let fresh = (Ram::new(64), Tracker::new());
            fresh.1.ensure_root(&fresh.0).unwrap();
            left.iter().for_each(|b| fresh.1.preserve(&fresh.0, *b).unwrap());
            assert_eq!(ram.used(), fresh.0.used());
        }
        assert_eq!(ram.used(), 1, "the root stays");
        tracker.preserve(&ram, all[0]).unwrap();
        assert_eq!(ram.used(), LEVELS);
    }
}
