//! What can go wrong in this layer, with what a person needs to find the fault.

use core::fmt;

use heirloom_folio::{Block, Order, PhysAddr, Run};

use crate::excerpt::Excerpt;
use crate::handle::HandleFault;
use crate::root::Name;
use crate::seal::Broken;

/// An error of the restore layer. Nothing was changed where one is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The folio layer refused.
    Folio(heirloom_folio::Error),
    /// The slab layer refused.
    Slab(heirloom_slab::Error),
    /// Something changed since the handover was sealed.
    Broken(Broken),
    /// The handover is not sealed, and had to be.
    NotSealed {
        /// Whether it was: a successor found it whole then, opened it and has been at work in it
        /// since, and the policy was [`SealedOnly`](crate::SealPolicy::SealedOnly).
        opened: bool,
    },
    /// A table left in memory is not sound.
    Table(TableError),
    /// A handle is not sound, or says what no handle can say.
    Handle {
        /// The handle's address.
        addr: u64,
        /// The handle's second word.
        meta: u64,
        /// What is wrong with it.
        fault: HandleFault,
    },
    /// The root page has no room for one more subtree.
    RootFull {
        /// The subtree that does not fit.
        name: Name,
        /// Bytes of structure that all subtrees need with it.
        needed: usize,
        /// Bytes of structure that fit.
        limit: usize,
        /// Subtrees there that are the predecessor's, neither claimed nor removed.
        inherited: usize,
    },
    /// A subtree of this name is there already.
    NameTaken {
        /// The name.
        name: Name,
    },
    /// No subtree has this name.
    NoSuchSubtree {
        /// The name.
        name: Name,
    },
    /// Not the name of a tree node: empty, too long, or a character that no name has.
    BadName {
        /// Bytes in the name.
        length: usize,
        /// The first character at fault; `None` if the length is.
        at: Option<usize>,
    },
    /// More entries than the table has room for.
    TableFull {
        /// Which table.
        table: Table,
        /// Entries that fit.
        limit: u64,
    },
    /// A scratch area, or the page given for a table, that cannot be one.
    BadRun {
        /// Which table wanted it.
        table: Table,
        /// The frames.
        run: Run,
    },
    /// Blocks of one area must all have its order.
    WrongOrder {
        /// The block.
        block: Block,
        /// The area's order.
        expected: Order,
    },
    /// The predecessor left nothing here that can be claimed so, or it is claimed already.
    NotInherited {
        /// Where.
        at: PhysAddr,
    },
    /// A memory in which a handover has no room beside what its successor needs, so that it could not
    /// be taken over once it is full.
    MemoryTooSmall {
        /// Frames that it has for one.
        frames: u64,
        /// Frames that it takes.
        needed: u64,
    },
    /// A subtree's frames must be preserved before it is added; this one is not.
    NotPreserved {
        /// The frame's address.
        at: PhysAddr,
    },
}

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
    /// Whether something that the table names is not preserved.
    pub(crate) const fn is_not_preserved(&self) -> bool {
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

impl Error {
    /// The address that the error names: of the table, the node, the block or the bytes at fault.
    pub const fn at(&self) -> Option<PhysAddr> {
        Some(match self {
            Self::Folio(heirloom_folio::Error::Tree(e)) => e.node,
            Self::Slab(heirloom_slab::Error::Slab(e)) => e.slab,
            Self::Slab(heirloom_slab::Error::Roll(e)) => e.page,
            Self::Broken(broken) => broken.addr,
            Self::Table(e) => e.at,
            Self::Handle { addr, .. } => PhysAddr::new(*addr),
            Self::BadRun { run, .. } => run.addr(),
            Self::WrongOrder { block, .. } => block.addr(),
            Self::NotInherited { at } | Self::NotPreserved { at } => *at,
            _ => return None,
        })
    }
}

impl Fault {
    /// The fault at `offset` of the table page at `at`.
    pub(crate) const fn in_table(self, table: Table, at: PhysAddr, offset: usize) -> Error {
        Error::Table(TableError { table, at, offset, fault: self })
    }
}

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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folio(e) => e.fmt(f),
            Self::Slab(e) => e.fmt(f),
            Self::Broken(broken) => write!(f, "the seal is broken: {broken}"),
            Self::NotSealed { opened: false } => f.write_str("the handover is not sealed"),
            Self::NotSealed { opened: true } => f.write_str(
                "the handover is not sealed any more: a successor found it whole and opened it",
            ),
            Self::Table(e) => e.fmt(f),
            Self::Handle { addr, meta, fault } => {
                write!(f, "handle {addr:#x}/{meta:#x}: {fault}")
            }
            Self::RootFull { name, needed, limit, inherited } => {
                write!(f, "no room for subtree {name}: {needed} bytes, {limit} fit")?;
                if *inherited > 0 {
                    write!(
                        f,
                        "; {inherited} subtrees are the predecessor's, and were not claimed"
                    )?;
                }
                Ok(())
            }
            Self::NameTaken { name } => write!(f, "subtree {name} is there already"),
            Self::NoSuchSubtree { name } => write!(f, "no subtree is named {name}"),
            Self::BadName { length, at: None } => {
                write!(f, "a name of {length} bytes; 1 to {} are possible", Name::MAX)
            }
            Self::BadName { at: Some(at), .. } => write!(f, "character {at} fits no name"),
            Self::TableFull { table, limit } => write!(f, "the {table} holds {limit} entries"),
            Self::BadRun { table, run } => write!(f, "{run} cannot be part of the {table}"),
            Self::WrongOrder { block, expected } => {
                write!(f, "{block} in an area of {expected} blocks")
            }
            Self::NotInherited { at } => write!(f, "nothing left at {at} can be claimed so"),
            Self::MemoryTooSmall { frames, needed } => {
                write!(f, "{frames} frames for a handover, which takes {needed} beside scratch")
            }
            Self::NotPreserved { at } => write!(f, "the frame at {at} is not preserved"),
        }
    }
}

impl core::error::Error for TableError {}
impl core::error::Error for Error {}

impl From<heirloom_folio::Error> for Error {
    fn from(e: heirloom_folio::Error) -> Self {
        Self::Folio(e)
    }
}

impl From<heirloom_slab::Error> for Error {
    fn from(e: heirloom_slab::Error) -> Self {
        match e {
            heirloom_slab::Error::Folio(e) => Self::Folio(e),
            other => Self::Slab(other),
        }
    }
}

impl From<TableError> for Error {
    fn from(e: TableError) -> Self {
        Self::Table(e)
    }
}
