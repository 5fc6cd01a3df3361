//! What the tree needs of the memory around it: pages to read, pages to grow by.

use heirloom_kho::sync::{AtomicU64, Relaxed};
use heirloom_kho::tree::Tables;
use heirloom_kho::{Block, PhysAddr};

use crate::error::Error;

/// What a tree that grows needs: pages for nodes, and a directory of its leaves.
pub(crate) trait NodeAlloc: Tables {
    /// Allocates a zeroed page for a node. [`Tables::words`] knows it.
    fn allocate(&self) -> Result<PhysAddr, Error>;

    /// Takes back a page from [`NodeAlloc::allocate`] that was never linked. It is all zeroes.
    fn release(&self, node: PhysAddr);

    /// Returns the words of the leaf that holds the key of `block`, if the directory was told.
    ///
    /// Reading the directory is an Acquire that pairs with the Release in [`NodeAlloc::cache_leaf`].
    fn leaf(&self, block: Block) -> Option<&[AtomicU64]>;

    /// Tells the directory, where it has a place for it, that `leaf` holds the key of `block`.
    ///
    /// `leaf` is a page that [`Tables::words`] knows, and is the same every time for a block.
    fn cache_leaf(&self, block: Block, leaf: PhysAddr);
}

/// Pages that are to become nodes, obtained before the first of them is needed so that running
/// out of memory is known before anything changed. What is left over goes back on drop.
///
/// The pages form a list through their first words, so any number fits.
pub(super) struct NodePool<'n, N: NodeAlloc> {
    nodes: &'n N,
    top: u64,
}

impl<'n, N: NodeAlloc> NodePool<'n, N> {
    pub(super) const fn new(nodes: &'n N) -> Self {
        Self { nodes, top: 0 }
    }

    /// Counts one page more.
    pub(super) fn add(&mut self) -> Result<(), Error> {
        let mut page = self.nodes.allocate()?;
        if page.get() == 0 {
            // An entry of zero means that there is no node, so physical page 0 cannot be one.
            let other = self.nodes.allocate();
            self.nodes.release(page);
            page = other?;
        }
        self.put(page)
    }

    /// Puts `page`, which is all zeroes, on the list.
    pub(super) fn put(&mut self, page: PhysAddr) -> Result<(), Error> {
        let Some(link) = self.link(page) else {
            self.nodes.release(page);
            return Err(Error::NotMemory { pfn: page.pfn() });
        };
        link.store(self.top, Relaxed);
        self.top = page.get();
        Ok(())
    }

    /// Takes a page from the list, all zeroes.
    pub(super) fn take(&mut self) -> Option<PhysAddr> {
        if self.top == 0 {
            return None;
        }
        let page = PhysAddr::new(self.top);
        self.top = self.link(page).map_or(0, |link| {
            let next = link.load(Relaxed);
            link.store(0, Relaxed);
            next
        });
        Some(page)
    }

    fn link(&self, page: PhysAddr) -> Option<&'n AtomicU64> {
        self.nodes.words(page)?.first()
    }
}

impl<N: NodeAlloc> Drop for NodePool<'_, N> {
    fn drop(&mut self) {
        while let Some(page) = self.take() {
            self.nodes.release(page);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::ram::Ram;
    use super::*;

    #[test]
    fn what_is_left_over_goes_back_zeroed() {
        let ram = Ram::new(8);
        let mut pool = NodePool::new(&ram);
        for _ in 0..3 {
            pool.add().unwrap();
        }
        let page = pool.take().unwrap();
        assert!(ram.words(page).unwrap().iter().all(|w| w.load(Relaxed) == 0));
        drop(pool);
        assert_eq!(ram.used(), 1);
        ram.release(page);
        assert_eq!(ram.used(), 0);
    }

    #[test]
    fn physical_page_zero_is_never_a_node() {
        let ram = Ram::at(heirloom_kho::Pfn::new(0), 3);
        let mut pool = NodePool::new(&ram);
        pool.add().unwrap();
        pool.add().unwrap();
        assert_eq!(pool.add(), Err(ram.full()));
        assert_ne!(pool.take().unwrap().get(), 0);
        assert_ne!(pool.take().unwrap().get(), 0);
        assert!(pool.take().is_none());
        assert_eq!(ram.used(), 2);
    }
}
