//! The tree's own pages.

use core::iter::FusedIterator;

use super::read::Tree;
use super::tables::Tables;
use crate::addr::PhysAddr;
use crate::narrow::u32_to_u8;

impl<'a, T: Tables + ?Sized> Tree<'a, T> {
    /// Returns the tree's own pages. See [`TreeNodes`].
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
        let g = self.tree.geometry();
        while self.level < g.levels {
            if let Some(node) = self.tree.seek(self.level, self.from) {
                self.from = node.first + (1 << g.shift(self.level + 1));
                return Some(TreeNode { addr: node.addr, level: u32_to_u8(self.level) });
            }
            self.level += 1;
            self.from = 0;
        }
        None
    }
}

impl<T: Tables + ?Sized> FusedIterator for TreeNodes<'_, T> {}
