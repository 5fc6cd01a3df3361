//! What can go wrong where tables are read and written, with what a person needs to find the fault.

use core::fmt;

use crate::addr::{PhysAddr, Run};
use crate::fault::{BadName, Fault, HandleFault, Table, TableError};
use crate::root::Name;
use crate::tree::TreeError;

/// An error of a reader or a writer of what crosses the jump. Nothing was changed where one is
/// returned.
///
/// Has no variants to come: the layers above turn each into one of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// A table left in memory is not sound.
    Table(TableError),
    /// The tree of what is preserved is not sound.
    Tree(TreeError),
    /// A handle is not sound, or says what no handle can say.
    Handle {
        /// The handle's address.
        addr: u64,
        /// The handle's second word.
        meta: u64,
        /// What is wrong with it.
        fault: HandleFault,
    },
    /// Not the name of a tree node: empty, too long, or a character that no name has.
    BadName(BadName),
    /// The root page has no room for one more subtree.
    RootFull {
        /// The subtree that does not fit.
        name: Name,
        /// Bytes of structure that all subtrees need with it.
        needed: usize,
        /// Bytes of structure that fit.
        limit: usize,
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
}

impl Error {
    /// Returns the address that the error names: of the table, the node, the frames or the handle
    /// at fault.
    pub const fn at(&self) -> Option<PhysAddr> {
        Some(match self {
            Self::Table(e) => e.at,
            Self::Tree(e) => e.node,
            Self::Handle { addr, .. } => PhysAddr::new(*addr),
            Self::BadRun { run, .. } => run.addr(),
            _ => return None,
        })
    }
}

impl Fault {
    /// Returns the error that says so of byte `offset` of the table at `at`.
    pub const fn in_table(self, table: Table, at: PhysAddr, offset: usize) -> Error {
        Error::Table(TableError { table, at, offset, fault: self })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(e) => e.fmt(f),
            Self::Tree(e) => e.fmt(f),
            Self::Handle { addr, meta, fault } => write!(f, "handle {addr:#x}/{meta:#x}: {fault}"),
            Self::BadName(name) => name.fmt(f),
            Self::RootFull { name, needed, limit } => {
                write!(f, "no room for subtree {name}: {needed} bytes, {limit} fit")
            }
            Self::NameTaken { name } => write!(f, "subtree {name} is there already"),
            Self::NoSuchSubtree { name } => write!(f, "no subtree is named {name}"),
            Self::TableFull { table, limit } => write!(f, "the {table} holds {limit} entries"),
            Self::BadRun { table, run } => write!(f, "{run} cannot be part of the {table}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<TableError> for Error {
    fn from(e: TableError) -> Self {
        Self::Table(e)
    }
}

impl From<TreeError> for Error {
    fn from(e: TreeError) -> Self {
        Self::Tree(e)
    }
}

impl From<BadName> for Error {
    fn from(e: BadName) -> Self {
        Self::BadName(e)
    }
}
