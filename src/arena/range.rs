//! Ranges of an arena's physical memory: as they are asked for, and as they are.

use heirloom_folio::NodeId;
use heirloom_kho::{PhysAddr, Run};

/// The most bytes from an arena's first physical address to its last: 64 TiB, half of what a
/// process can address on common machines.
pub const MAX_SPAN: u64 = 1 << 46;

/// A range of physical memory to create: where it is to appear, its length, its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeSpec {
    /// The first physical address, a multiple of the page size.
    pub start: PhysAddr,
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
    /// The NUMA node that it belongs to.
    pub node: NodeId,
}

/// A range of an arena's physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaRange {
    pub(super) run: Run,
    pub(super) node: NodeId,
    pub(super) offset: u64,
}

impl ArenaRange {
    /// Returns the frames.
    pub const fn run(&self) -> Run {
        self.run
    }

    /// Returns the NUMA node.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Returns where the range's bytes begin in the file.
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}
