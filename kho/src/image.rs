//! Memory that is not this machine's: a core dump, a guest, a file.

use crate::addr::{Block, PhysAddr, Run};
use crate::page_size::PageSize;
use crate::pages::Pages;
use crate::sync::AtomicU64;
use crate::tree::{Tables, Tree};

/// Physical memory as a file or another mapping has it.
///
/// Implement this for what you have, and everything in this crate that reads [`Pages`] can be used
/// on it: with [`Left`], which adds what the handover's own tree says.
pub trait Image {
    /// Returns the size of the pages of the machine that it is an image of: this build's, unless it says
    /// otherwise.
    #[inline]
    fn page_size(&self) -> PageSize {
        PageSize::BUILD
    }

    /// `bytes` bytes from physical `addr` as words, a last half one whole; `None` if any of them
    /// is not in the image, or `addr` is not a multiple of 8. Any address and length may be asked
    /// for, across the borders of the image's stretches too.
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]>;

    /// Returns whether all of `run` is memory.
    fn is_memory(&self, run: Run) -> bool;
}

/// What one handover left in an image: its memory, and the tree that says what is preserved.
///
/// The tree is read as far as it is sound: an entry that leads nowhere is as good as none. Whether
/// it is sound `heirloom_restore::survey` tells.
#[derive(Debug)]
pub struct Left<'i, I: ?Sized> {
    image: &'i I,
    map: PhysAddr,
}

impl<I: ?Sized> Clone for Left<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: ?Sized> Copy for Left<'_, I> {}

impl<'i, I: Image + ?Sized> Left<'i, I> {
    /// Returns what the tree whose root node is at `map` (see
    /// [`RootView::map`](crate::RootView::map)) says of `image`.
    pub const fn new(image: &'i I, map: PhysAddr) -> Self {
        Self { image, map }
    }

    /// Says that nothing is preserved: enough to read a root page before its tree is known.
    pub const fn bare(image: &'i I) -> Self {
        Self::new(image, PhysAddr::new(0))
    }

    /// Returns the tree: folios, rows of folios, nodes, gaps.
    pub const fn tree(&self) -> Tree<'_, Self> {
        Tree::new(self.map, self)
    }
}

impl<I: Image + ?Sized> Tables for Left<'_, I> {
    fn page_size(&self) -> PageSize {
        self.image.page_size()
    }

    fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]> {
        self.image.words(node, self.image.page_size().bytes())
    }
}

impl<I: Image + ?Sized> Pages for Left<'_, I> {
    fn page_size(&self) -> PageSize {
        self.image.page_size()
    }

    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        self.image.words(addr, bytes)
    }

    fn holds(&self, block: Block) -> bool {
        self.tree().contains(block)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.image.is_memory(run)
    }
}
