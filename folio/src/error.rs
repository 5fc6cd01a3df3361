//! What can go wrong in this layer, with what a person needs to find the fault.

use core::fmt;

use heirloom_kho::tree::TreeError;
use heirloom_kho::{Block, Order, PAGE_SHIFT, Pfn, Run};

use crate::frame_type::FrameType;
use crate::machine::NodeId;

/// An error of the folio layer. Nothing was changed where one is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// No free block of this order (on this node, where one was demanded).
    OutOfMemory {
        /// The order asked for.
        order: Order,
        /// The node demanded, if any.
        node: Option<NodeId>,
    },
    /// No free run of this many frames.
    NoRun {
        /// Frames asked for.
        frames: u64,
    },
    /// A request that no memory could meet: zero frames, or an order above the largest.
    BadRequest {
        /// Frames asked for.
        frames: u64,
    },
    /// The frame is in no memory range.
    NotMemory {
        /// The frame.
        pfn: Pfn,
    },
    /// The frame is absent: bring it online first.
    Absent {
        /// The frame.
        pfn: Pfn,
    },
    /// The frame is no absent one, so it cannot come online.
    NotAbsent {
        /// The frame.
        pfn: Pfn,
    },
    /// The frames wanted at an address are not all free.
    NotFree {
        /// The frames wanted.
        run: Run,
    },
    /// Freed already.
    DoubleFree {
        /// The block that was to be freed.
        block: Block,
    },
    /// No block starts here and none ever did: the frame was never handed out.
    NeverAllocated {
        /// The frame.
        pfn: Pfn,
    },
    /// The frame lies inside a block that starts elsewhere.
    TailFrame {
        /// The frame.
        pfn: Pfn,
        /// The block that it belongs to.
        of: Block,
    },
    /// The block that starts here has another size.
    WrongOrder {
        /// Where.
        pfn: Pfn,
        /// The order the caller said.
        expected: Order,
        /// The order it has.
        found: Order,
    },
    /// The run that starts here has another length.
    WrongLength {
        /// Where.
        pfn: Pfn,
        /// Frames the caller said.
        expected: u64,
        /// Frames it has.
        found: u64,
    },
    /// The block that starts here is used for something else.
    WrongType {
        /// Where.
        pfn: Pfn,
        /// The kind the caller said.
        expected: FrameType,
        /// The kind it has.
        found: FrameType,
    },
    /// The block is preserved: unpreserve it first.
    Preserved {
        /// The block.
        block: Block,
    },
    /// Preserved already.
    AlreadyPreserved {
        /// The block.
        block: Block,
    },
    /// Not preserved (any more), or not with this order.
    NotPreserved {
        /// The block.
        block: Block,
    },
    /// Another call has what would be claimed set aside: it can be claimed once that call has ended.
    PredecessorBusy,
    /// A new range overlaps one that is there.
    RangeOverlaps {
        /// The new range.
        run: Run,
        /// The one that is there.
        with: Run,
    },
    /// A range without frames, or one that does not fit the address space.
    BadRange {
        /// The range.
        run: Run,
    },
    /// The space given for metadata is too small or misaligned.
    BadSpace {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
        /// The alignment needed, in bytes.
        align: usize,
    },
    /// A tree left by a predecessor is not sound.
    Tree(TreeError),
}

impl Error {
    /// Returns whether free memory was all that was missing: the call can be repeated once there is
    /// some.
    pub const fn is_out_of_memory(&self) -> bool {
        self.frames_wanted().is_some()
    }

    /// Returns how many frames in a row were wanted, where they were all that was missing.
    #[doc(hidden)]
    pub const fn frames_wanted(&self) -> Option<u64> {
        match self {
            Self::OutOfMemory { order, .. } => Some(order.frames()),
            Self::NoRun { frames } => Some(*frames),
            _ => None,
        }
    }

    /// Returns the error's number: 100 to 199 in this layer, the same in every release, for callers in
    /// other languages. What the error carries is in its text alone.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::Error;
    /// assert_eq!(Error::BadRequest { frames: 0 }.code(), 102);
    /// ```
    pub const fn code(&self) -> u16 {
        match self {
            Self::OutOfMemory { .. } => 100,
            Self::NoRun { .. } => 101,
            Self::BadRequest { .. } => 102,
            Self::NotMemory { .. } => 103,
            Self::NotFree { .. } => 104,
            Self::DoubleFree { .. } => 105,
            Self::NeverAllocated { .. } => 106,
            Self::TailFrame { .. } => 107,
            Self::WrongOrder { .. } => 108,
            Self::WrongLength { .. } => 109,
            Self::WrongType { .. } => 110,
            Self::Preserved { .. } => 111,
            Self::AlreadyPreserved { .. } => 112,
            Self::NotPreserved { .. } => 113,
            Self::PredecessorBusy => 114,
            Self::RangeOverlaps { .. } => 115,
            Self::BadRange { .. } => 116,
            Self::BadSpace { .. } => 117,
            Self::Tree(_) => 118,
            Self::Absent { .. } => 119,
            Self::NotAbsent { .. } => 120,
        }
    }
}

impl From<TreeError> for Error {
    fn from(e: TreeError) -> Self {
        Self::Tree(e)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { order, node } => {
                write!(f, "no free block of {} bytes ({order})", order.bytes())?;
                node.map_or(Ok(()), |node| write!(f, " on node {}", node.0))
            }
            Self::NoRun { frames } => {
                let bytes = u128::from(*frames) << PAGE_SHIFT;
                write!(f, "no free run of {bytes} bytes ({frames} frames)")
            }
            Self::BadRequest { frames } => write!(f, "no memory has {frames} frames in a row"),
            Self::NotMemory { pfn } => write!(f, "{pfn} is not in memory"),
            Self::Absent { pfn } => write!(f, "{pfn} is absent: it must come online first"),
            Self::NotAbsent { pfn } => write!(f, "{pfn} is not absent: it cannot come online"),
            Self::NotFree { run } => write!(f, "{run} are not all free"),
            Self::DoubleFree { block } => write!(f, "{block} is free already"),
            Self::NeverAllocated { pfn } => write!(f, "{pfn} was never handed out"),
            Self::TailFrame { pfn, of } => write!(f, "{pfn} lies inside {of}"),
            Self::WrongOrder { pfn, expected, found } => {
                write!(f, "{pfn} has {found}, not {expected}")
            }
            Self::WrongLength { pfn, expected, found } => {
                write!(f, "the run at {pfn} has {found} frames, not {expected}")
            }
            Self::WrongType { pfn, expected, found } => {
                write!(f, "{pfn} is a {found:?}, not a {expected:?}")
            }
            Self::Preserved { block } => write!(f, "{block} is preserved"),
            Self::AlreadyPreserved { block } => write!(f, "{block} is preserved already"),
            Self::NotPreserved { block } => write!(f, "{block} is not preserved"),
            Self::PredecessorBusy => {
                f.write_str("another call has it set aside: try again once that call has ended")
            }
            Self::RangeOverlaps { run, with } => write!(f, "range {run} overlaps {with}"),
            Self::BadRange { run } => write!(f, "{run} cannot be a memory range"),
            Self::BadSpace { needed, given, align } => {
                write!(f, "metadata needs {needed} bytes aligned to {align}, given {given}")
            }
            Self::Tree(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Error {}
