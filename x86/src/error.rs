//! What can be wrong with what a kernel is started with, and where.

use core::fmt;

use heirloom_kho::PhysAddr;

/// A structure that this crate reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Structure {
    /// Linux's boot parameters, the zero page.
    BootParams,
    /// A node of the list of `setup_data`.
    SetupData,
    /// PVH's `hvm_start_info`.
    StartInfo,
    /// A bzImage. Addresses are bytes from its start.
    BzImage,
    /// An ELF file. Addresses are bytes from its start.
    Elf,
    /// The map of memory.
    Map,
    /// What a loader puts into memory.
    Load,
}

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes cannot be read.
    OutsideMemory,
    /// Another number than the one that marks the structure.
    Magic {
        /// What stands there.
        found: u64,
    },
    /// A version that is too old.
    Version {
        /// What stands there.
        found: u32,
        /// The oldest that is read.
        oldest: u32,
    },
    /// More entries than there can be, or than there is room for.
    TooMany {
        /// How many fit.
        limit: usize,
    },
    /// Fewer bytes than the structure has.
    TooShort {
        /// Bytes that it has.
        needed: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// More bytes than there is room for.
    TooLong {
        /// Bytes that there is room for.
        limit: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// A value that is not one of those that are known or possible here.
    Unsuitable {
        /// What is wanted.
        expected: &'static str,
    },
    /// The structure is there for the second time.
    Twice,
    /// No area has room for so many bytes beside what is busy.
    NoRoom {
        /// The bytes.
        needed: u64,
    },
}

/// What is wrong with a structure, and where.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Error {
    /// The structure.
    pub structure: Structure,
    /// Where it starts.
    pub at: PhysAddr,
    /// The byte in it.
    pub offset: usize,
    /// What is wrong.
    pub fault: Fault,
}

impl Fault {
    /// Returns the error that says so of byte `offset` of the structure at `at`.
    pub(crate) const fn of(self, structure: Structure, at: PhysAddr, offset: usize) -> Error {
        Error { structure, at, offset, fault: self }
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BootParams => "boot parameters",
            Self::SetupData => "setup_data",
            Self::StartInfo => "start_info",
            Self::BzImage => "bzImage",
            Self::Elf => "ELF file",
            Self::Map => "memory map",
            Self::Load => "image to load",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideMemory => f.write_str("cannot be read"),
            Self::Magic { found } => {
                write!(f, "is marked {found:#x}, which is another structure's")
            }
            Self::Version { found, oldest } => {
                write!(f, "is of version {found:#x}, older than {oldest:#x}")
            }
            Self::TooMany { limit } => write!(f, "has more than {limit} entries"),
            Self::TooShort { needed, found } => write!(f, "has {found} bytes of {needed}"),
            Self::TooLong { limit, found } => write!(f, "has {found} bytes, {limit} fit"),
            Self::Unsuitable { expected } => write!(f, "is not what is wanted: {expected}"),
            Self::Twice => f.write_str("is there twice"),
            Self::NoRoom { needed } => {
                write!(f, "needs {needed} bytes in a row beside what is busy, in no area")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { structure, at, offset, fault } = self;
        write!(f, "{structure} at {:#x}, byte {offset}: {fault}", at.get())
    }
}

impl core::error::Error for Error {}
