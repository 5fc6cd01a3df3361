//! One bit turned over: who names it, and that it is refused.

use heirloom::kho::sync::AtomicU64;
use heirloom::kho::{Block, Header, Image, Pages, PhysAddr, Run, Table};
use heirloom::restore::{Error, SealPolicy, verify};

use super::parts::Part;
use crate::world::{Left, TestMachine};

/// Memory as it lies there, whatever the tree says of it.
struct Raw<'w>(&'w TestMachine);

impl Pages for Raw<'_> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        Image::words(self.0, addr, bytes)
    }

    fn holds(&self, _: Block) -> bool {
        true
    }

    fn is_memory(&self, run: Run) -> bool {
        Image::is_memory(self.0, run)
    }
}

/// Who is named for what is wrong with a handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blamed {
    /// Nobody: it is as it was sealed.
    Nobody,
    /// What the seal covers there.
    Sealed(heirloom::kho::Sealed, PhysAddr),
    /// The page of the `heirloom` subtree.
    Header(PhysAddr),
    /// The seal's table.
    Table,
    /// More than one.
    Several,
}

/// Whom the seal blames, of the subtree page at `header`: all tables are looked at, however broken
/// one of them is.
///
/// # Panics
/// If the page or the table blames something else.
pub fn blame(machine: &TestMachine, header: PhysAddr) -> Blamed {
    let words = Image::words(machine, header, Header::SIZE).expect("memory");
    let read = match Header::read(words, header) {
        Ok(read) => read,
        Err(heirloom::kho::Error::Table(e)) if e.table == Table::Header => {
            return Blamed::Header(e.at);
        }
        Err(other) => panic!("of the page at {header}: {other}"),
    };
    let info = read.seal.info().expect("no bit makes a sealed handover one that is not");
    let mut blamed = Blamed::Nobody;
    let verified = verify(&Raw(machine), &info, machine.all().frames(), |broken| {
        blamed = match blamed {
            Blamed::Nobody => Blamed::Sealed(broken.kind, broken.addr),
            _ => Blamed::Several,
        };
    });
    match verified {
        Ok(_) => blamed,
        Err(Error::Table(e)) if e.table == Table::Seal => Blamed::Table,
        Err(other) => panic!("of the seal's table: {other}"),
    }
}

/// Revives where a seal is required, which must be refused: whether the refusal names the part
/// itself, and not something that it leads to. (A root page that does not lead to a subtree page
/// is one of a handover that is not sealed, which is all that is said then.)
///
/// # Panics
/// If it is not refused, or the refusal names nothing.
pub fn refuse(machine: &TestMachine, left: &Left, part: &Part, bit: usize) -> bool {
    let refused = machine.try_revive(left.entry, SealPolicy::Required).err();
    let error = refused.unwrap_or_else(|| panic!("bit {bit} of {part:?} was not seen"));
    assert!(!error.to_string().is_empty());
    match error {
        // Of the scratch list.
        Error::ScratchTooSmall { .. } | Error::ScratchNotMemory { .. } => {
            part.what == "scratch list"
        }
        Error::MetadataInUse { .. } => panic!("bit {bit} of {part:?}: {error}"),
        error => {
            let unsealed = matches!(error, Error::NotSealed { .. }) && part.what == "root page";
            let at = error.at();
            assert!(unsealed || at.is_some(), "bit {bit} of {part:?}: no place: {error}");
            at.is_some_and(|at| at.pfn() == part.addr.pfn())
        }
    }
}
