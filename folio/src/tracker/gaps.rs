//! What lies between: stretches of frames with nothing preserved in them, of any order.
//!
//! Each order is a sorted sequence of its own in the tree. The gaps are what a merge of those
//! sequences leaves out: one row of folios is remembered for each order, and renewed once it lies
//! behind.

use crate::addr::{Order, Pfn, Run};

use super::key::ORDERS;
use super::node::Tables;
use super::tree::Tree;
use super::walk::AdjacentFolios;

impl<'a, T: Tables + ?Sized> Tree<'a, T> {
    /// The stretches of `within` that hold nothing preserved, by address. See [`Gaps`].
    pub fn gaps(&self, within: Run) -> Gaps<'a, T> {
        let none = Span { start: 0, end: 0 };
        let live = u64::MAX >> (u64::BITS - ORDERS as u32);
        let (at, end) = (within.start().get(), within.end().get());
        Gaps { tree: *self, at, end, live, rows: [none; ORDERS] }
    }

    /// The first stretch of at least `frames` frames within `within` that holds nothing
    /// preserved, as long as it is.
    pub fn next_gap(&self, within: Run, frames: u64) -> Option<Run> {
        self.gaps(within).find(|gap| gap.frames() >= frames)
    }
}

/// Frames `start..end`.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    end: u64,
}

/// The stretches of frames that hold nothing preserved, as long as they are, by address. From
/// [`Tree::gaps`].
///
/// The tree's own nodes are not preserved blocks: they lie in gaps, unless the caller knows
/// better.
#[derive(Clone, Debug)]
pub struct Gaps<'a, T: ?Sized> {
    tree: Tree<'a, T>,
    /// Everything before this frame was dealt with.
    at: u64,
    end: u64,
    /// The orders that have something at or after `at`.
    live: u64,
    /// For each of them, its first row of folios that ends after `at`; empty: not looked up yet.
    rows: [Span; ORDERS],
}

impl<T: Tables + ?Sized> Gaps<'_, T> {
    /// The row of `order` that ends after `at`, looked up if the one that is known lies behind.
    fn row(&mut self, order: u32) -> Option<Span> {
        let row = self.rows.get_mut(order as usize)?;
        if row.end <= self.at {
            let order = Order::new(order as u8)?;
            let found = AdjacentFolios::first_of(&self.tree, order, Pfn::new(self.at))?;
            let run = found.run();
            *row = Span { start: run.start().get(), end: run.end().get() };
        }
        (row.start < self.end).then_some(*row)
    }
}

impl<T: Tables + ?Sized> Iterator for Gaps<'_, T> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        while self.at < self.end {
            // Where the next preserved frame is, and how far what covers `at` reaches.
            let (mut start, mut covered) = (self.end, self.at);
            let mut orders = self.live;
            while orders != 0 {
                let order = orders.trailing_zeros();
                orders &= orders - 1;
                match self.row(order) {
                    Some(row) if row.start <= self.at => covered = covered.max(row.end),
                    Some(row) => start = start.min(row.start),
                    None => self.live &= !(1 << order),
                }
            }
            if covered > self.at {
                self.at = covered;
                continue;
            }
            let gap = Run::between(Pfn::new(self.at), Pfn::new(start));
            self.at = start;
            return gap;
        }
        None
    }
}

const _: () = assert!(ORDERS <= u64::BITS as usize, "an order a bit of `live`");

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::super::Tracker;
    use super::super::ram::{Ram, block, run};
    use super::*;

    #[test]
    fn gaps_lie_between_folios_of_every_order() {
        let ram = Ram::new(64);
        let t = Tracker::new();
        for b in [block(0, 1), block(0, 2), block(3, 8), block(0, 16), block(2, 20)] {
            t.preserve(&ram, b).unwrap();
        }
        let tree = t.tree(&ram);
        let gaps: Vec<_> = tree.gaps(run(0, 100)).collect();
        assert_eq!(gaps, [run(0, 1), run(3, 5), run(17, 3), run(24, 76)]);
        assert_eq!(tree.gaps(run(9, 9)).collect::<Vec<_>>(), [run(17, 1)]);
        assert_eq!(tree.next_gap(run(0, 100), 5), Some(run(3, 5)));
        assert_eq!(tree.next_gap(run(4, 96), 4), Some(run(4, 4)));
        assert_eq!(tree.next_gap(run(5, 95), 77), None);
        assert_eq!(tree.gaps(run(8, 8)).count(), 0);
        assert_eq!(tree.gaps(run(50, 0)).count(), 0);
    }

    #[test]
    fn an_empty_tree_is_one_gap() {
        let ram = Ram::new(0);
        let everything = run(0, Pfn::LIMIT.get());
        let gaps: Vec<_> = Tracker::new().tree(&ram).gaps(everything).collect();
        assert_eq!(gaps, [everything]);
    }

    #[test]
    fn a_block_over_everything_leaves_no_gap() {
        let ram = Ram::new(16);
        let t = Tracker::new();
        t.preserve_run(&ram, run(0, Pfn::LIMIT.get())).unwrap();
        assert_eq!(t.tree(&ram).gaps(run(0, Pfn::LIMIT.get())).count(), 0);
    }
}
