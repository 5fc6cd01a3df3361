//! What lies between: stretches of frames with nothing preserved in them, of any order.
//!
//! Each order is a sorted sequence of its own in the tree. The gaps are what a merge of those
//! sequences leaves out: one row of folios is remembered for each order, and renewed once it lies
//! behind.

use super::key::ORDERS;
use super::read::Tree;
use super::tables::Tables;
use super::walk::FolioRanges;
use crate::addr::{Order, Pfn, Run};
use crate::narrow::{u32_to_u8, u32_to_usize, usize_to_u32};

impl<'a, T: Tables + ?Sized> Tree<'a, T> {
    /// Returns the stretches of `within` that hold nothing preserved, by address. See [`Gaps`].
    pub fn gaps(&self, within: Run) -> Gaps<'a, T> {
        let none = Span { start: 0, end: 0 };
        let live = u64::MAX >> (u64::BITS - usize_to_u32(ORDERS));
        let (at, end) = (within.start().get(), within.end().get());
        Gaps { tree: *self, at, end, live, rows: [none; ORDERS] }
    }

    /// Returns the first stretch of at least `frames` frames within `within` that holds nothing
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
    /// Returns the row of `order` that ends after `at`, looked up if the one that is known lies
    /// behind.
    fn row(&mut self, order: u32) -> Option<Span> {
        let row = self.rows.get_mut(u32_to_usize(order))?;
        if row.end <= self.at {
            let order = Order::new(u32_to_u8(order))?;
            let found = FolioRanges::first_of(&self.tree, order, Pfn::new(self.at))?;
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

const _: () = assert!(ORDERS <= u32_to_usize(u64::BITS), "an order a bit of `live`");
