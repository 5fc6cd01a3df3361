//! What fuzzing found once, each as a test of its own.

use heirloom::kho::{Block, Fault, Order, Table, TableError};
use heirloom::restore::{Error, SealPolicy};
use heirloom_verify::world::{Place, Shape};

/// It was refused as "a Table, not a Table", with no place.
#[test]
fn tables_that_share_a_page_are_named() {
    let (machine, left) = Shape::Bare.build(true);
    let header = left.tables.iter().find(|table| table.place == Place::Header).unwrap().addr;
    let root = left.entry.root;
    for seal in [232, 256] {
        machine.put(heirloom::kho::PhysAddr::new(header.get() + seal), root.get());
    }
    let refused = machine.try_revive(left.entry, SealPolicy::Checked).err();
    let fault = Fault::Shared { block: Block::containing(root.pfn(), Order::ZERO) };
    let expected = TableError { table: Table::Seal, at: root, offset: 0, fault };
    assert_eq!(refused, Some(Error::Table(expected)));
}
