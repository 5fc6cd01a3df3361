//! Errors as the kernel that left the handover would say them: in its pages.
//!
//! Blocks and runs are counted in frames of this build; a finding counts them in pages of the machine
//! that the image is of.

use heirloom_folio::Error as FolioError;
use heirloom_kho::tree::{TreeError, TreeFault};
use heirloom_kho::{Block, Error as KhoError, Fault, Order, PageSize, Run, Table, TableError};
use heirloom_restore::Error;
use heirloom_slab::internal::SlabFault;
use heirloom_slab::{Error as Slabs, SlabError};

/// The order of a block in pages.
pub(crate) const fn order(order: Order, page: PageSize) -> u8 {
    order.get().saturating_sub(page.order().get())
}

/// `error` of a reader.
pub(crate) fn reader(error: KhoError, page: PageSize) -> KhoError {
    match error {
        KhoError::Table(error) => KhoError::Table(table(error, page)),
        KhoError::Tree(error) => KhoError::Tree(tree(error, page)),
        KhoError::BadRun { table, run: of } => KhoError::BadRun { table, run: run(of, page) },
        other => other,
    }
}

/// `error` of a survey.
pub(crate) fn survey(error: Error, page: PageSize) -> Error {
    match error {
        Error::Table(error) => Error::Table(table(error, page)),
        Error::Folio(FolioError::Tree(error)) => Error::Folio(FolioError::Tree(tree(error, page))),
        Error::Slab(Slabs::Slab(SlabError {
            slab,
            fault: SlabFault::NotPreserved { block: of },
        })) => {
            let fault = SlabFault::NotPreserved { block: block(of, page) };
            Error::Slab(Slabs::Slab(SlabError { slab, fault }))
        }
        other => other,
    }
}

/// What to do about what is not read, as it is of a version that is not known: which kernels write it, and so take it
/// over.
pub(crate) fn advice(error: &Error) -> Option<&'static str> {
    let Error::Table(TableError { table, fault: Fault::Version { found, known }, .. }) = error
    else {
        return None;
    };
    let linux =
        [Table::Root, Table::Luo, Table::File, Table::Memfd, Table::KhoTest, Table::Memblock];
    Some(match (table, found) {
        (Table::Root, 1) => "Linux 6.16 to 6.19 write this version, and no later one takes it over",
        (Table::Root, 2 | 3) | (Table::Luo, 2..=4) => {
            "Linux from 7.0 on wrote this version, up to the one before 7.3: no other takes it over; start that one, or \
             look with its own tools"
        }
        (Table::Luo, 1) => "Linux 6.19 writes this version, and no later one takes it over",
        (Table::File | Table::Memfd, 1) => {
            "Linux from 6.19 on wrote this version, before files kept their seals: one of these takes it over"
        }
        _ if linux.contains(table) && found > known => {
            "a later kernel writes this version: look with a later build of this command"
        }
        _ => return None,
    })
}

fn table(error: TableError, page: PageSize) -> TableError {
    let fault = match error.fault {
        Fault::NotPreserved { block: of } => Fault::NotPreserved { block: block(of, page) },
        Fault::Shared { block: of } => Fault::Shared { block: block(of, page) },
        Fault::Overlap { run: of, with } => {
            Fault::Overlap { run: run(of, page), with: run(with, page) }
        }
        other => other,
    };
    TableError { fault, ..error }
}

fn tree(error: TreeError, page: PageSize) -> TreeError {
    let reason = match error.reason {
        TreeFault::Overlap { block: of } => TreeFault::Overlap { block: block(of, page) },
        TreeFault::Scratch { block: of } => TreeFault::Scratch { block: block(of, page) },
        TreeFault::Node { block: of, node } => TreeFault::Node { block: block(of, page), node },
        other => other,
    };
    TreeError { reason, ..error }
}

/// A block that is said to have as many frames as `of` has pages.
fn block(of: Block, page: PageSize) -> Block {
    let order = Order::new(order(of.order(), page)).unwrap_or(Order::ZERO);
    Block::new(of.pfn(), order).unwrap_or(of)
}

/// A run that is said to have as many frames as `of` has pages.
fn run(of: Run, page: PageSize) -> Run {
    Run::new(of.start(), page.pages(of.frames())).unwrap_or(of)
}

#[cfg(test)]
mod tests {
    use heirloom_kho::{Pfn, PhysAddr};

    use super::*;

    #[test]
    fn blocks_and_runs_are_counted_in_pages() {
        let page = PageSize::MAX;
        let block =
            Block::containing(page.page_of(Pfn::new(0x70)).pfn(), page.order_of(1).unwrap());
        let at = block.addr();
        let said = |fault: Fault| {
            let error = fault.in_table(Table::Area, PhysAddr::new(0), 0);
            let survey = survey(error.into(), page).to_string();
            assert_eq!(survey, reader(error, page).to_string());
            survey
        };
        let expected = format!("area table at 0x0, byte 0: order 1 at {at} is not preserved");
        assert_eq!(said(Fault::NotPreserved { block }), expected);
        let with = block.run();
        let expected =
            format!("area table at 0x0, byte 0: 2 frames at {at} share some with 2 frames at {at}");
        assert_eq!(said(Fault::Overlap { run: with, with }), expected);
        let reason = TreeFault::Overlap { block };
        let tree = TreeError { node: at, level: 0, index: 3, reason };
        let text = survey(Error::Folio(FolioError::Tree(tree)), page).to_string();
        assert!(text.ends_with(&format!("order 1 at {at} has two uses")), "{text}");
    }
}
