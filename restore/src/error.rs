//! What can go wrong with a kernel's object, with what a person needs to find the fault.

use core::fmt;

use heirloom_kho::{
    BadName, Block, Broken, Error as Kho, HandleFault, Name, Order, PhysAddr, Run, Table,
    TableError,
};

/// An error of a kernel's object. Nothing was changed where one is returned.
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
    BadName(BadName),
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
    /// No stretch of scratch is large enough for this memory's metadata.
    ScratchTooSmall {
        /// Bytes needed, in one piece.
        needed: usize,
        /// Bytes of the largest piece that is not busy.
        largest: usize,
    },
    /// Scratch does not lie in one range of the memory map.
    ScratchNotMemory {
        /// The area.
        area: Run,
    },
    /// The frames that were given for metadata are partly something else.
    MetadataInUse {
        /// The frames.
        metadata: Run,
        /// What they share frames with: what is busy, a scratch area or a range that they lie in
        /// only in part, the predecessor's root page or scratch list.
        with: Run,
    },
    /// A subtree's frames must be preserved before it is added; this one is not.
    NotPreserved {
        /// The frame's address.
        at: PhysAddr,
    },
}

impl Error {
    /// Returns whether free memory was all that was missing: the call can be repeated once there is
    /// some.
    pub const fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Folio(error) => error.is_out_of_memory(),
            Self::Slab(error) => error.is_out_of_memory(),
            _ => false,
        }
    }

    /// Returns the error's number: 300 to 399 in this layer, the same in every release, for callers in
    /// other languages; of [`Error::Folio`] and [`Error::Slab`] the number that it has there.
    ///
    /// # Examples
    /// ```
    /// use heirloom_restore::Error;
    /// assert_eq!(Error::NotSealed { opened: false }.code(), 301);
    /// let slab = heirloom_slab::Error::BadLayout { size: 0, align: 16 };
    /// assert_eq!(Error::from(slab).code(), slab.code());
    /// ```
    pub const fn code(&self) -> u16 {
        match self {
            Self::Folio(error) => error.code(),
            Self::Slab(error) => error.code(),
            Self::Broken(_) => 300,
            Self::NotSealed { .. } => 301,
            Self::Table(_) => 302,
            Self::Handle { .. } => 303,
            Self::RootFull { .. } => 304,
            Self::NameTaken { .. } => 305,
            Self::NoSuchSubtree { .. } => 306,
            Self::BadName(_) => 307,
            Self::TableFull { .. } => 308,
            Self::BadRun { .. } => 309,
            Self::WrongOrder { .. } => 310,
            Self::NotInherited { .. } => 311,
            Self::MemoryTooSmall { .. } => 312,
            Self::ScratchTooSmall { .. } => 313,
            Self::ScratchNotMemory { .. } => 314,
            Self::MetadataInUse { .. } => 315,
            Self::NotPreserved { .. } => 316,
        }
    }

    /// Returns the address that the error names: of the table, the node, the block or the bytes at
    /// fault.
    pub const fn at(&self) -> Option<PhysAddr> {
        Some(match self {
            Self::Folio(heirloom_folio::Error::Tree(e)) => e.node,
            Self::Slab(heirloom_slab::Error::Slab(e)) => e.slab,
            Self::Slab(heirloom_slab::Error::Directory(e)) => e.page,
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Folio(e) => e.fmt(f),
            Self::Slab(e) => e.fmt(f),
            Self::Broken(broken) => write!(f, "the seal is broken: {broken}"),
            Self::NotSealed { opened: false } => f.write_str("the handover is not sealed"),
            Self::NotSealed { opened: true } => f.write_str(
                "the handover is not sealed any more: a successor found it whole and opened it",
            ),
            Self::Table(e) => e.fmt(f),
            Self::Handle { addr, meta, fault } => Kho::Handle { addr, meta, fault }.fmt(f),
            Self::RootFull { name, needed, limit, inherited } => {
                Kho::RootFull { name, needed, limit }.fmt(f)?;
                if inherited > 0 {
                    write!(
                        f,
                        "; {inherited} subtrees are the predecessor's, and were not claimed"
                    )?;
                }
                Ok(())
            }
            Self::NameTaken { name } => Kho::NameTaken { name }.fmt(f),
            Self::NoSuchSubtree { name } => Kho::NoSuchSubtree { name }.fmt(f),
            Self::BadName(name) => name.fmt(f),
            Self::TableFull { table, limit } => Kho::TableFull { table, limit }.fmt(f),
            Self::BadRun { table, run } => Kho::BadRun { table, run }.fmt(f),
            Self::WrongOrder { block, expected } => {
                write!(f, "{block} in an area of {expected} blocks")
            }
            Self::NotInherited { at } => write!(f, "nothing left at {at} can be claimed so"),
            Self::MemoryTooSmall { frames, needed } => {
                write!(f, "{frames} frames for a handover, which takes {needed} beside scratch")
            }
            Self::ScratchTooSmall { needed, largest } => write!(
                f,
                "metadata needs {needed} bytes of scratch in one piece, the largest that is not \
                 busy has {largest}: boot with larger scratch, or place metadata elsewhere"
            ),
            Self::ScratchNotMemory { area } => write!(f, "scratch area of {area} is not memory"),
            Self::MetadataInUse { metadata, with } => {
                write!(f, "metadata cannot lie in {metadata}: they share some with {with}")
            }
            Self::NotPreserved { at } => write!(f, "the frame at {at} is not preserved"),
        }
    }
}

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

impl From<heirloom_kho::Error> for Error {
    fn from(e: heirloom_kho::Error) -> Self {
        match e {
            Kho::Table(e) => Self::Table(e),
            Kho::Tree(e) => Self::Folio(e.into()),
            Kho::Handle { addr, meta, fault } => Self::Handle { addr, meta, fault },
            Kho::BadName(e) => Self::BadName(e),
            Kho::RootFull { name, needed, limit } => {
                Self::RootFull { name, needed, limit, inherited: 0 }
            }
            Kho::NameTaken { name } => Self::NameTaken { name },
            Kho::NoSuchSubtree { name } => Self::NoSuchSubtree { name },
            Kho::TableFull { table, limit } => Self::TableFull { table, limit },
            Kho::BadRun { table, run } => Self::BadRun { table, run },
        }
    }
}

impl From<TableError> for Error {
    fn from(e: TableError) -> Self {
        Self::Table(e)
    }
}

impl From<BadName> for Error {
    fn from(e: BadName) -> Self {
        Self::BadName(e)
    }
}
