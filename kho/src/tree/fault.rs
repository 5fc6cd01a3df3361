//! What is wrong with a tree, and where.

use core::fmt;

use crate::addr::{Block, PhysAddr};

/// Why a table of a tree was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeError {
    /// The node at fault.
    pub node: PhysAddr,
    /// Its level; leaves are level 0.
    pub level: u8,
    /// The entry (of a table) or the bit (of a leaf) at fault.
    pub index: u32,
    /// What is wrong with it.
    pub reason: TreeFault,
}

/// What is wrong with an entry of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TreeFault {
    /// The entry is not the address of a page.
    Misaligned {
        /// The entry.
        entry: u64,
    },
    /// The entry points outside memory.
    OutsideMemory {
        /// The entry, or the block that the bit stands for.
        addr: PhysAddr,
    },
    /// The page is reached twice, is preserved as well, or lies in scratch.
    Overlap {
        /// The page or block with two uses.
        block: Block,
    },
    /// The block, or the page of the node, lies in scratch. From ledgers that tell it apart.
    Scratch {
        /// The page or block.
        block: Block,
    },
    /// The frame is a node's: a node with two parents, a cycle, or a preserved block over a node.
    /// From ledgers that tell it apart.
    Node {
        /// The page or block that would have it.
        block: Block,
        /// The node's page.
        node: PhysAddr,
    },
    /// The bit's path is no key: no order belongs to it.
    NoKey,
}

impl fmt::Display for TreeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned { entry } => write!(f, "entry {entry:#x} is no page address"),
            Self::OutsideMemory { addr } => write!(f, "{addr} is not in memory"),
            Self::Overlap { block } => write!(f, "{block} has two uses"),
            Self::Scratch { block } => write!(f, "{block} lies in scratch"),
            Self::Node { block, node } => write!(f, "{block} shares {node} with a node"),
            Self::NoKey => f.write_str("the path names no key"),
        }
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, level, index, reason } = self;
        write!(f, "tree node {node}, level {level}, entry {index}: ")?;
        match reason {
            // An entry above the leaves leads to a node.
            TreeFault::Node { node, .. } if *level > 0 => {
                write!(f, "the node at {node} was led to before: a cycle, or a second parent")
            }
            TreeFault::Overlap { block } if *level > 0 => {
                write!(f, "a node at {}, which has another use", block.addr())
            }
            TreeFault::Scratch { block } if *level > 0 => {
                write!(f, "a node at {}, which lies in scratch", block.addr())
            }
            _ => reason.fmt(f),
        }
    }
}

impl core::error::Error for TreeError {}
