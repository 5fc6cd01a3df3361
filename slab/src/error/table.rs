//! What is wrong with a slab or with a page of the cache directory that a predecessor left.

use core::fmt;

use heirloom_kho::{Block, PhysAddr};

/// Why a predecessor's slab was refused; its text says what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlabError {
    /// The slab's first byte.
    pub slab: PhysAddr,
    /// What is wrong with it.
    #[doc(hidden)]
    pub fault: SlabFault,
}

/// What is wrong with a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SlabFault {
    /// No block of the slab's order can start there, or it ends outside memory.
    Misplaced,
    /// The predecessor did not preserve it, or it is claimed already.
    NotPreserved {
        /// The slab's block.
        block: Block,
    },
    /// It does not start like a slab.
    Magic {
        /// The bytes it starts with, little-endian.
        found: u64,
    },
    /// Two entries of slab tables name it, or it is a page of the cache directory as well.
    Duplicate,
    /// The header's checksum does not hold.
    Checksum {
        /// The checksum of what is there.
        expected: u64,
        /// The one that stands there.
        found: u64,
    },
    /// The header says that it belongs elsewhere.
    Address {
        /// Where it says it is.
        found: PhysAddr,
    },
    /// It is not of the cache whose list it is in.
    Desc,
    /// An object's byte is none that this layer writes.
    State {
        /// Which object.
        index: u32,
        /// Its byte.
        found: u8,
    },
}

/// Why a page of a predecessor's cache directory was refused; its text says what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryError {
    /// The page.
    pub page: PhysAddr,
    /// The entry in it.
    pub index: u32,
    /// What is wrong with it.
    #[doc(hidden)]
    pub fault: DirectoryFault,
}

/// What is wrong with a page of a cache directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirectoryFault {
    /// No page starts at this address, or it is not in memory.
    Misplaced {
        /// The address.
        addr: PhysAddr,
    },
    /// The predecessor did not preserve the page.
    NotPreserved {
        /// The page.
        addr: PhysAddr,
    },
    /// The page says that it holds more entries than fit.
    Count {
        /// How many it says.
        found: u64,
    },
    /// The page of a slab table has a next one, and is not full.
    NotFull {
        /// How many entries it has.
        found: u64,
        /// How many fit.
        expected: u64,
    },
    /// The chain comes back to where it was, or has no end.
    Endless,
    /// The page has two uses.
    Duplicate,
    /// The record's checksum does not hold.
    Checksum {
        /// The checksum of what is there.
        expected: u64,
        /// The one that stands there.
        found: u64,
    },
    /// The record's name is none that a cache can have.
    Name,
    /// No cache has objects and slabs like the record says.
    Geometry,
    /// The entry is not the address of a page.
    Entry {
        /// The entry.
        found: u64,
    },
}

impl fmt::Display for SlabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slab {}: ", self.slab)?;
        match self.fault {
            SlabFault::Misplaced => f.write_str("no slab can be there"),
            SlabFault::NotPreserved { block } => write!(f, "{block} is not preserved"),
            SlabFault::Magic { found } => write!(f, "starts with {found:#018x}"),
            SlabFault::Duplicate => f.write_str("is named twice"),
            SlabFault::Checksum { expected, found } => {
                write!(f, "checksum is {found:#018x}, should be {expected:#018x}")
            }
            SlabFault::Address { found } => write!(f, "says it is at {found}"),
            SlabFault::Desc => f.write_str("is of another cache"),
            SlabFault::State { index, found } => write!(f, "object {index} has state {found:#04x}"),
        }
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory page {}, entry {}: ", self.page, self.index)?;
        match self.fault {
            DirectoryFault::Misplaced { addr } => write!(f, "{addr} is no page of memory"),
            DirectoryFault::NotPreserved { addr } => write!(f, "page {addr} is not preserved"),
            DirectoryFault::Count { found } => write!(f, "{found} entries do not fit"),
            DirectoryFault::NotFull { found, expected } => {
                write!(f, "a page follows one of {found} entries, where {expected} fit")
            }
            DirectoryFault::Endless => f.write_str("the chain has no end"),
            DirectoryFault::Duplicate => f.write_str("the page has two uses"),
            DirectoryFault::Checksum { expected, found } => {
                write!(f, "checksum is {found:#018x}, should be {expected:#018x}")
            }
            DirectoryFault::Name => f.write_str("the name is none"),
            DirectoryFault::Geometry => f.write_str("no slab is like this"),
            DirectoryFault::Entry { found } => write!(f, "{found:#x} is no slab's address"),
        }
    }
}

impl core::error::Error for SlabError {}
impl core::error::Error for DirectoryError {}
