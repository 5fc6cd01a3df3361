//! What can be wrong with what Linux registered.

use core::fmt;

use heirloom_folio::PhysAddr;
use heirloom_restore::Fault;

/// An error of this layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A list, an area or a device tree, of which Linux makes its tables, is not sound.
    Restore(heirloom_restore::Error),
    /// A table of Linux's is not sound.
    Table(TableError),
}

/// A table that Linux leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Table {
    /// The live update orchestrator's subtree.
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
    /// The `kexec-metadata` subtree.
    Metadata,
    /// The `memblock` subtree.
    Memblock,
    /// The `kho_test` subtree.
    KhoTest,
}

/// Why a table was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableError {
    /// Which table.
    pub table: Table,
    /// Where the table, or the entry of it that is at fault, starts.
    pub at: PhysAddr,
    /// Bytes from there to the field at fault.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

impl Table {
    /// `fault` at byte `offset` of the table at `at`.
    pub(crate) const fn fail(self, at: PhysAddr, offset: usize, fault: Fault) -> Error {
        Error::Table(TableError { table: self, at, offset, fault })
    }
}

impl Error {
    /// The address that the error names.
    pub const fn at(&self) -> Option<PhysAddr> {
        match self {
            Self::Restore(e) => e.at(),
            Self::Table(e) => Some(e.at),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Luo => "LUO",
            Self::Session => "session",
            Self::File => "file",
            Self::Flbs => "list of FLBs",
            Self::Memfd => "memfd",
            Self::MemfdFolios => "memfd's folio",
            Self::Metadata => "kexec-metadata",
            Self::Memblock => "memblock",
            Self::KhoTest => "kho_test",
        })
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, at, offset, fault } = self;
        write!(f, "{table} at {at}, byte {offset}: {fault}")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restore(e) => e.fmt(f),
            Self::Table(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for TableError {}
impl core::error::Error for Error {}

impl From<heirloom_restore::Error> for Error {
    fn from(e: heirloom_restore::Error) -> Self {
        Self::Restore(e)
    }
}

impl From<TableError> for Error {
    fn from(e: TableError) -> Self {
        Self::Table(e)
    }
}
