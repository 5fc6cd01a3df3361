//! The tree's own pages.

use core::iter::FusedIterator;

use crate::addr::PhysAddr;

use super::key::Geometry;
use super::node::Tables;
use super::tree::Tree;

const G: Geometry = Geometry::BUILD;

impl<'a, T: Tables + ?Sized> Tree<'a, T> {
    /// The tree's own pages. See [`TreeNodes`].
    pub fn nodes(&self) -> TreeNodes<'a, T> {
        TreeNodes { tree: *self, level: 0, from: 0 }
    }
}

/// One page of the tree itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeNode {
    /// Where it is.
    pub addr: PhysAddr,
    /// Its level; leaves are level 0.
    pub level: u8,
}

/// The tree's own pages, leaves first and the root last. From [`Tree::nodes`].
///
/// A page is not looked at any more once it was given out, so a tree that nothing else uses can
/// be freed page by page as they come.
#[derive(Clone, Debug)]
pub struct TreeNodes<'a, T: ?Sized> {
    tree: Tree<'a, T>,
    level: u32,
    from: u64,
}

impl<T: Tables + ?Sized> Iterator for TreeNodes<'_, T> {
    type Item = TreeNode;

    fn next(&mut self) -> Option<TreeNode> {
        while self.level < G.levels {
            if let Some(node) = self.tree.seek(self.level, self.from) {
                self.from = node.first + (1 << G.shift(self.level + 1));
                return Some(TreeNode { addr: node.addr, level: self.level as u8 });
            }
            self.level += 1;
            self.from = 0;
        }
        None
    }
}

impl<T: Tables + ?Sized> FusedIterator for TreeNodes<'_, T> {}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::super::Tracker;
    use super::super::ram::{Ram, block};

    #[test]
    fn nodes_come_bottom_up_each_once() {
        let ram = Ram::new(64);
        let t = Tracker::new();
        for b in [block(0, 0), block(0, 1 << 30), block(9, 0), block(40, 0)] {
            t.preserve(&ram, b).unwrap();
        }
        let nodes: Vec<_> = t.tree(&ram).nodes().collect();
        assert!(nodes.is_sorted_by_key(|n| n.level));
        assert_eq!(nodes.last().unwrap().addr, t.root().unwrap());
        let pages: BTreeSet<_> = nodes.iter().map(|n| n.addr).collect();
        assert_eq!((pages.len(), nodes.len()), (ram.used(), ram.used()));
    }
}
