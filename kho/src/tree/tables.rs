//! What a tree is read from.

use crate::addr::PhysAddr;
use crate::sync::AtomicU64;

/// Read access to the nodes of a tree.
pub trait Tables {
    /// The `PAGE_SIZE / 8` words of the page at `node`, which is page-aligned; `None` if it is not
    /// wholly in memory.
    ///
    /// Any address may be asked about: the entries of a predecessor's tree are whatever it wrote.
    fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]>;
}
