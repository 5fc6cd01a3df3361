//! What a tree is read from.

use crate::addr::PhysAddr;
use crate::page_size::PageSize;
use crate::sync::AtomicU64;

/// Read access to the nodes of a tree.
pub trait Tables {
    /// Returns the size of a node, which is a page: this build's, unless the tree is another machine's.
    #[inline]
    fn page_size(&self) -> PageSize {
        PageSize::BUILD
    }

    /// Returns the words of the page at `node`, which is page-aligned; `None` if it is not wholly
    /// in memory.
    ///
    /// Any address may be asked about: the entries of a predecessor's tree are whatever it wrote.
    fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]>;
}
