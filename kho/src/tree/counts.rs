//! How much is in a tree.
//!
//! Nothing is counted while blocks are preserved: a counter would be a shared line that every CPU
//! writes. The leaves are counted when a caller asks, 64 folios at a time.

use super::key::{KEY_LIMIT, LEVELS, ORDERS, order_of};
use super::read::Tree;
use super::tables::Tables;
use crate::addr::Order;
use crate::sync::{AtomicU64, Relaxed};

impl<T: Tables + ?Sized> Tree<'_, T> {
    /// Returns what is in the tree, by population count of its leaves.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::NONE;
        for node in self.nodes() {
            counts.add_node(node.level);
        }
        let mut from = 0;
        while let Some(leaf) = self.seek(0, from) {
            counts.add_leaf(leaf.first, leaf.words);
            from = leaf.first + self.geometry().leaf_keys();
        }
        counts
    }
}

/// What is in a tree: folios of each order, nodes of each level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    folios: [u64; ORDERS],
    nodes: [u64; LEVELS],
}

impl Counts {
    /// An empty tree.
    pub const NONE: Self = Self { folios: [0; ORDERS], nodes: [0; LEVELS] };

    /// Returns the number of preserved folios of `order`.
    pub fn folios(&self, order: Order) -> u64 {
        self.folios.get(order.index()).copied().unwrap_or(0)
    }

    /// Returns the number of preserved folios of all orders.
    pub fn total(&self) -> u64 {
        self.folios.iter().fold(0, |sum: u64, folios| sum.saturating_add(*folios))
    }

    /// Returns the number of frames of all preserved folios, saturating: a tree that was not
    /// checked can name the same frames with several orders.
    pub fn frames(&self) -> u64 {
        let each = self.folios.iter().enumerate();
        each.fold(0, |sum, (order, folios)| sum.saturating_add(folios.saturating_mul(1 << order)))
    }

    /// Returns the number of nodes of `level`; leaves are level 0.
    pub fn nodes_at(&self, level: u8) -> u64 {
        self.nodes.get(usize::from(level)).copied().unwrap_or(0)
    }

    /// Returns the number of nodes of all levels: the frames that the tree itself takes.
    pub fn nodes(&self) -> u64 {
        self.nodes.iter().sum()
    }

    pub(super) fn add_node(&mut self, level: u8) {
        if let Some(count) = self.nodes.get_mut(usize::from(level)) {
            *count += 1;
        }
    }

    pub(super) fn add_folios(&mut self, order: Order, folios: u64) {
        if let Some(count) = self.folios.get_mut(order.index()) {
            *count += folios;
        }
    }

    /// Adds the folios of the leaf that starts with key `first`.
    fn add_leaf(&mut self, first: u64, words: &[AtomicU64]) {
        // Relaxed: numbers, from which nothing is followed.
        let ones = |word: &AtomicU64| u64::from(word.load(Relaxed).count_ones());
        if first != 0 {
            self.add_folios(order_of(first), words.iter().map(ones).sum());
            return;
        }
        let mut words = words.iter();
        let mixed = words.next().map_or(0, |word| word.load(Relaxed));
        for key in (2..64).filter(|key| mixed >> key & 1 != 0) {
            self.add_folios(order_of(key), 1);
        }
        for (key, word) in (64..KEY_LIMIT).step_by(64).zip(words) {
            self.add_folios(order_of(key), ones(word));
        }
    }
}
