//! Codes of findings, for scripts: which table, and what is wrong with it, in words that stay when the sentence is put
//! another way.

use heirloom_folio::Error as FolioError;
use heirloom_kho::tree::TreeFault;
use heirloom_kho::{Fault, Table, TableError};
use heirloom_restore::Error;
use heirloom_slab::Error as Slabs;

/// Of findings that are not listed one by one.
pub(crate) const MORE: &str = "more";
/// Of sessions with one name.
pub(crate) const SESSION_TWICE: &str = "session-duplicate";
/// Of files with one token.
pub(crate) const FILE_TWICE: &str = "file-duplicate";
/// Of preserved pages that the image has and that cannot be read.
pub(crate) const UNREADABLE: &str = "page-unreadable";
/// Of a root page that was not taken, as it is not whole, and may be the one that counts.
pub(crate) const OTHER_ROOT: &str = "root-other";
/// Of what the next kernel does not take, as it takes another version.
pub(crate) const NEXT_VERSION: &str = "next-version";
/// As it takes nothing of the kind.
pub(crate) const NEXT_ABSENT: &str = "next-absent";
/// Of what may be a module's.
pub(crate) const NEXT_UNKNOWN: &str = "next-unknown";
/// As it is for another machine.
pub(crate) const NEXT_MACHINE: &str = "next-machine";
/// As it has numbers in another byte order.
pub(crate) const NEXT_BYTE_ORDER: &str = "next-byte-order";
/// As its pages have another size.
pub(crate) const NEXT_PAGE_SIZE: &str = "next-page-size";
/// As a file has seals that it does not know.
pub(crate) const NEXT_SEALS: &str = "next-seals";
/// As there is more of something, or something is larger.
pub(crate) const NEXT_LIMIT: &str = "next-limit";
/// Of a structure that is laid out in another way, and says that it is the same.
pub(crate) const LAYOUT_CHANGED: &str = "layout-changed";

/// The code of what `error` says.
pub(crate) fn of(error: &Error) -> String {
    match error {
        Error::Table(TableError { table: which, fault: why, .. }) => {
            format!("{}-{}", table(*which), fault(why))
        }
        Error::Folio(FolioError::Tree(error)) => format!("tree-{}", tree(&error.reason)),
        Error::Slab(Slabs::Directory(_)) => "cache-directory".to_owned(),
        Error::Slab(_) => "slab".to_owned(),
        Error::Broken(_) => "seal-broken".to_owned(),
        _ => "handover".to_owned(),
    }
}

const fn table(table: Table) -> &'static str {
    match table {
        Table::Root => "root",
        Table::Scratch => "scratch",
        Table::Area => "area",
        Table::Records => "records",
        Table::Header => "header",
        Table::Seal => "seal",
        Table::Blob => "subtree",
        Table::Luo => "luo",
        Table::Session => "session",
        Table::File => "file",
        Table::Flbs => "flbs",
        Table::Memfd => "memfd",
        Table::MemfdFolios => "memfd-folio",
        Table::Metadata => "kexec-metadata",
        Table::Memblock => "memblock",
        Table::KhoTest => "kho-test",
        Table::Loans => "loans",
        _ => "table",
    }
}

const fn fault(fault: &Fault) -> &'static str {
    match fault {
        Fault::Magic { .. } => "magic",
        Fault::Version { .. } => "version",
        Fault::Unknown { .. } => "unknown",
        Fault::Part { .. } => "part-version",
        Fault::UnknownPart { .. } => "part-unknown",
        Fault::Malformed { .. } => "malformed",
        Fault::Missing { .. } => "missing",
        Fault::Duplicate => "duplicate",
        Fault::Length { .. } => "length",
        Fault::TooMany { .. } => "too-many",
        Fault::Misaligned { .. } => "misaligned",
        Fault::OutsideMemory { .. } => "outside-memory",
        Fault::NotPreserved { .. } => "not-preserved",
        Fault::Overlap { .. } => "overlap",
        Fault::Ended => "ended",
        Fault::Shared { .. } => "shared",
        Fault::Reserved { .. } => "reserved",
        Fault::Checksum { .. } => "checksum",
        _ => "fault",
    }
}

const fn tree(fault: &TreeFault) -> &'static str {
    match fault {
        TreeFault::Misaligned { .. } => "misaligned",
        TreeFault::OutsideMemory { .. } => "outside-memory",
        TreeFault::Overlap { .. } => "overlap",
        TreeFault::Scratch { .. } => "in-scratch",
        TreeFault::Node { .. } => "node",
        TreeFault::NoKey => "no-key",
        #[allow(unreachable_patterns, reason = "where the enum has more variants one day")]
        _ => "fault",
    }
}

#[cfg(test)]
mod tests {
    use heirloom_kho::PhysAddr;
    use heirloom_kho::tree::TreeError;

    use super::*;

    #[test]
    fn a_code_names_the_table_and_the_fault() {
        let at = PhysAddr::new(0x1000);
        let said = |error: Error| of(&error);
        let in_table = |table, fault: Fault| said(fault.in_table(table, at, 8).into());
        assert_eq!(in_table(Table::Luo, Fault::Version { found: 6, known: 5 }), "luo-version");
        assert_eq!(
            in_table(Table::MemfdFolios, Fault::OutsideMemory { addr: at }),
            "memfd-folio-outside-memory"
        );
        let tree = TreeError { node: at, level: 0, index: 3, reason: TreeFault::NoKey };
        assert_eq!(said(Error::Folio(FolioError::Tree(tree))), "tree-no-key");
        assert_eq!(said(Error::NotSealed { opened: false }), "handover");
    }

    /// What the book says there is, there is.
    #[test]
    fn the_book_lists_every_code() {
        let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/looking-inside.md");
        let book = std::fs::read_to_string(book).unwrap();
        let tables = [
            Table::Root,
            Table::Scratch,
            Table::Area,
            Table::Records,
            Table::Header,
            Table::Seal,
            Table::Blob,
            Table::Luo,
            Table::Session,
            Table::File,
            Table::Flbs,
            Table::Memfd,
            Table::MemfdFolios,
            Table::Metadata,
            Table::Memblock,
            Table::KhoTest,
            Table::Loans,
        ];
        let named = tables.map(table);
        let mut once = named.to_vec();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), named.len());
        let own = [MORE, SESSION_TWICE, FILE_TWICE, UNREADABLE, OTHER_ROOT];
        let next = [
            NEXT_VERSION,
            NEXT_ABSENT,
            NEXT_UNKNOWN,
            NEXT_MACHINE,
            NEXT_BYTE_ORDER,
            NEXT_PAGE_SIZE,
            NEXT_SEALS,
            NEXT_LIMIT,
            LAYOUT_CHANGED,
        ];
        let own = own.into_iter().chain(next);
        let others = ["cache-directory", "slab", "seal-broken", "handover"].into_iter().chain(own);
        for code in named.into_iter().chain(others) {
            assert!(book.contains(&format!("`{code}`")), "{code}");
        }
    }
}
