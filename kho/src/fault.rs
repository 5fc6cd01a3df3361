//! What is wrong with something that one kernel leaves and another reads: a table, a handle, a name, what
//! was sealed.

use core::fmt;

use crate::addr::{Block, PhysAddr, Run};
use crate::excerpt::Excerpt;

/// A table that one kernel leaves and another reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Table {
    /// The root page: a flattened device tree.
    Root,
    /// The list of scratch areas.
    Scratch,
    /// The descriptor or a chunk page of a virtually contiguous area.
    Area,
    /// A block of records.
    Records,
    /// The page of the `heirloom` subtree.
    Header,
    /// The seal's table.
    Seal,
    /// The bytes of a subtree of another make: a device tree.
    Blob,
    /// The subtree of Linux's live update orchestrator.
    Luo,
    /// A session of it.
    Session,
    /// A file of a session.
    File,
    /// The list of states that files share.
    Flbs,
    /// A preserved memfd.
    Memfd,
    /// The list of a memfd's folios.
    MemfdFolios,
    /// Linux's `kexec-metadata` subtree.
    Metadata,
    /// Linux's `memblock` subtree.
    Memblock,
    /// Linux's `kho_test` subtree.
    KhoTest,
    /// The list of what Linux lends to heirloom's module.
    Loans,
}

/// Why a table was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableError {
    /// Which table.
    pub table: Table,
    /// The address of the page at fault.
    pub at: PhysAddr,
    /// Bytes from there to the field at fault.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

impl TableError {
    /// Returns whether something that the table names is not preserved.
    pub const fn is_not_preserved(&self) -> bool {
        matches!(self.fault, Fault::NotPreserved { .. })
    }
}

/// What is wrong with a field of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Another value stands where a fixed one must.
    Magic {
        /// The value there.
        found: u64,
    },
    /// A version that this build does not read.
    Version {
        /// The version there.
        found: u32,
        /// The one that is read.
        known: u32,
    },
    /// A name of a format that this build does not read: of another make, or with more to it than a
    /// version.
    Unknown {
        /// The name there.
        found: Excerpt,
        /// The one that is known.
        expected: &'static str,
    },
    /// A version that this build does not read, of something that the structure is built of.
    Part {
        /// What.
        name: &'static str,
        /// The version there.
        found: u32,
        /// The one that is read.
        known: u32,
    },
    /// The name and version of something that the structure is built of and that this build does not read.
    UnknownPart {
        /// The name and version there.
        found: Excerpt,
    },
    /// The bytes have no structure: the text says what was expected.
    Malformed {
        /// What was expected.
        expected: &'static str,
    },
    /// A property that must be there is missing.
    Missing {
        /// Its name.
        property: &'static str,
    },
    /// A name or property stands twice.
    Duplicate,
    /// A length that differs from the only one possible.
    Length {
        /// The one possible.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// More than there can be.
    TooMany {
        /// What was found.
        found: u64,
        /// What there can be.
        limit: u64,
    },
    /// An address that is not aligned as it must be, or is zero.
    Misaligned {
        /// The address.
        addr: PhysAddr,
    },
    /// The address is not in memory.
    OutsideMemory {
        /// The address.
        addr: PhysAddr,
    },
    /// The block is not preserved, or is claimed already.
    NotPreserved {
        /// The block.
        block: Block,
    },
    /// Two stretches that must not share a frame do.
    Overlap {
        /// The one at fault.
        run: Run,
        /// The one that was there before.
        with: Run,
    },
    /// The entry that leads here was ended: a successor of the kernel that left it has an entry of its
    /// own, and has given back what this one led to.
    Ended,
    /// Two tables name the block as theirs.
    Shared {
        /// The block.
        block: Block,
    },
    /// A reserved bit or flag is set.
    Reserved {
        /// The field.
        found: u64,
    },
    /// A checksum is not that of the bytes.
    Checksum {
        /// The one computed from the bytes.
        expected: u64,
        /// The one stored.
        found: u64,
    },
}

/// Why sixteen bytes are no handle, or parts fit none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum HandleFault {
    /// The check byte is not that of the rest: this was never a handle.
    Malformed,
    /// No kind has this number.
    Kind,
    /// The address cannot start this kind of memory.
    Address,
    /// The length is zero, too large, or not one that this kind has.
    Length,
    /// The tag is not one that this kind has.
    Tag,
}

/// What an entry of a seal covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Sealed {
    /// The root page.
    Root = 1,
    /// A node of the tracker's tree.
    Node = 2,
    /// A subtree's page.
    Subtree = 3,
    /// A page of the cache directory.
    CacheDirectory = 4,
    /// A slab's header.
    Slab = 5,
    /// The scratch list.
    Scratch = 6,
}

impl Sealed {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Root, Self::Node, Self::Subtree, Self::CacheDirectory, Self::Slab, Self::Scratch];

    /// Returns the kind's number, by which an entry names it.
    #[expect(clippy::as_conversions, reason = "to what the enum is in memory")]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Returns the kind with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root page",
            Self::Node => "tracker node",
            Self::Subtree => "subtree page",
            Self::CacheDirectory => "cache directory page",
            Self::Slab => "slab header",
            Self::Scratch => "scratch list",
        })
    }
}

/// Tells of a table whose bytes are not those that were sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// What it is.
    pub kind: Sealed,
    /// Where it starts.
    pub addr: PhysAddr,
    /// How many bytes of it were sealed.
    pub length: u32,
    /// The checksum when it was sealed.
    pub sealed: u64,
    /// The checksum now.
    pub found: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, addr, length, sealed, found } = self;
        write!(f, "{kind} at {addr} ({length} bytes): {found:#018x}, sealed as {sealed:#018x}")
    }
}

/// Why a text is no subtree's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadName {
    /// Bytes in it.
    pub length: usize,
    /// The first character at fault; `None` if the length is.
    pub at: Option<usize>,
}

impl BadName {
    /// The longest name, in bytes: the Devicetree Specification's limit.
    pub(crate) const MAX: usize = 31;
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { length, at: None } => {
                write!(f, "a name of {length} bytes; 1 to {} are possible", Self::MAX)
            }
            Self { at: Some(at), .. } => write!(f, "character {at} fits no name"),
        }
    }
}

impl core::error::Error for BadName {}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root page",
            Self::Scratch => "scratch list",
            Self::Area => "area table",
            Self::Records => "record block",
            Self::Header => "heirloom header",
            Self::Seal => "seal table",
            Self::Blob => "subtree's device tree",
            Self::Luo => "LUO",
            Self::Session => "session",
            Self::File => "file",
            Self::Flbs => "list of FLBs",
            Self::Memfd => "memfd",
            Self::MemfdFolios => "memfd's folio",
            Self::Metadata => "kexec-metadata",
            Self::Memblock => "memblock",
            Self::KhoTest => "kho_test",
            Self::Loans => "list of loans",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { found } => write!(f, "{found:#x} is not what marks this table"),
            Self::Version { found, known } => {
                write!(f, "version {found} is not known, version {known} is")
            }
            Self::Unknown { found, expected } => {
                write!(f, "\"{found}\" is not known, \"{expected}\" is")
            }
            Self::Part { name, found, known } => {
                write!(f, "version {found} of its {name} is not known, version {known} is")
            }
            Self::UnknownPart { found } => {
                write!(f, "it is built of \"{found}\", which is not known")
            }
            Self::Malformed { expected } => write!(f, "no {expected}"),
            Self::Missing { property } => write!(f, "property {property} is missing"),
            Self::Duplicate => f.write_str("the name stands twice"),
            Self::Length { expected, found } => write!(f, "length {found}, not {expected}"),
            Self::TooMany { found, limit } => write!(f, "{found} where at most {limit} can be"),
            Self::Misaligned { addr } => write!(f, "nothing can start at {addr}"),
            Self::OutsideMemory { addr } => write!(f, "{addr} is not in memory"),
            Self::NotPreserved { block } => write!(f, "{block} is not preserved"),
            Self::Overlap { run, with } => write!(f, "{run} share some with {with}"),
            Self::Ended => f.write_str("this entry was ended by a successor, which has its own"),
            Self::Shared { block } => write!(f, "{block} has another use"),
            Self::Reserved { found } => write!(f, "{found:#x} has reserved bits set"),
            Self::Checksum { expected, found } => {
                write!(f, "checksum {found:#018x}, the bytes have {expected:#018x}")
            }
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, at, offset, fault } = self;
        write!(f, "{table} at {at}, byte {offset}: {fault}")?;
        // `revive` takes such a root page, and this name out of it.
        if let (Table::Root, Fault::NotPreserved { .. }) = (table, fault) {
            f.write_str("; a subtree's frames were let go before its name was removed")?;
        }
        Ok(())
    }
}

impl fmt::Display for HandleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "these bytes were never a handle",
            Self::Kind => "no kind of memory has this number",
            Self::Address => "nothing of this kind can start at this address",
            Self::Length => "nothing of this kind has this length",
            Self::Tag => "nothing of this kind has this tag",
        })
    }
}

impl core::error::Error for TableError {}
