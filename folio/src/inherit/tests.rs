//! What was found by looking for it: each a promise at a place where it is easily broken.

use std::collections::BTreeSet;
use std::vec::Vec;

use super::*;
use crate::harness::Ram;
use crate::machine::NodeId;
use crate::tracker::Geometry;

pub(super) fn order(o: u8) -> Order {
    Order::new(o).unwrap()
}

/// The block of order `o` at `frame` from the first.
pub(super) fn block(frame: u64, o: u8) -> Block {
    Block::new(Ram::frames(1)[0].0.start().add(frame), order(o)).unwrap()
}

pub(super) fn run(frame: u64, frames: u64) -> Run {
    Run::new(block(frame, 0).pfn(), frames).unwrap()
}

/// A kernel that preserved these folios.
pub(super) fn kernel(ranges: &[(Run, NodeId)], blocks: &[Block]) -> Memory<Ram> {
    let memory = Ram::memory(ranges).unwrap();
    for block in blocks {
        memory.alloc_at(*block, Kind::Folio).unwrap();
    }
    for block in blocks {
        memory.preserve_kind(*block, Kind::Folio).unwrap();
    }
    memory
}

pub(super) fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Memory<Ram> {
    let root = memory.tree_root().unwrap();
    memory.into_machine().attach(ranges).unwrap().inherit(root).unwrap().0
}

pub(super) fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.for_each_inherited(|b| blocks.push(b));
    blocks
}

/// The nodes of a tree that has these blocks and never had others.
pub(super) fn nodes_of(blocks: &[Block]) -> u64 {
    let g = Geometry::BUILD;
    let stretches = |level: u32| {
        let bits = g.leaf_log2 + level * g.table_log2;
        blocks.iter().map(|b| Key::of(*b).get() >> bits).collect::<BTreeSet<_>>().len() as u64
    };
    1 + (0..g.levels - 1).map(stretches).sum::<u64>()
}

#[test]
fn a_leaf_that_was_looked_at_before_it_is_pruned_is_not_written_to() {
    let ranges = Ram::frames(256);
    let [kept, gone] = [block(8, 0), block(16, 3)];
    let memory = kernel(&ranges, &[kept, gone]);
    memory.unpreserve_kind(gone, Kind::Folio).unwrap();
    let root = memory.tree_root().unwrap();
    let mut memory = memory.into_machine().attach(&ranges).unwrap();
    memory.take_over(root, |_| ()).unwrap();
    // As the layers above look for what tables name, before there is an owner of anything.
    assert!(!memory.is_preserved(gone) && memory.claim(gone, Kind::Folio).is_err());
    let nodes = memory.counts().nodes();
    memory.prune();
    assert!(memory.counts().nodes() < nodes, "the leaf of {gone} is gone");
    memory.alloc_at(gone, Kind::Folio).unwrap();
    memory.preserve_kind(gone, Kind::Folio).unwrap();
    assert!(memory.is_preserved(gone));
    assert_eq!(inherited(&successor(memory, &ranges)), [gone, kept]);
}
