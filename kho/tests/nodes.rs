//! The tree that heirloom writes for a handover's keys is the one that Linux wrote, node by node and
//! byte for byte, but for where the nodes lie.
#![cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]

mod common;

use common::{Dump, addr, block_of, expected};
use heirloom_folio::NodeId;
use heirloom_folio::harness::Ram;
use heirloom_kho::tree::Geometry;
use heirloom_kho::{Block, PAGE_SIZE, Pfn, PhysAddr, Run};

/// Follows both trees; how many nodes.
fn same_nodes(theirs: &Dump, ours: &Dump, nodes: (u64, u64), level: u32) -> u64 {
    let page = |dump: &Dump, at| dump.bytes(PhysAddr::new(at), PAGE_SIZE);
    let (their_page, our_page) = (page(theirs, nodes.0), page(ours, nodes.1));
    if level == 0 {
        assert!(their_page == our_page, "leaf {:#x}", nodes.0);
        return 1;
    }
    let mut seen = 1;
    for at in (0..PAGE_SIZE as u64).step_by(8) {
        let entries = (theirs.get(nodes.0 + at), ours.get(nodes.1 + at));
        assert_eq!(entries.0 == 0, entries.1 == 0, "node {:#x}, byte {at}", nodes.0);
        if entries.0 != 0 {
            seen += same_nodes(theirs, ours, entries, level - 1);
        }
    }
    seen
}

#[test]
fn a_tree_of_the_same_keys_is_linux_s_tree() {
    let (linux, expected) = (Dump::of_linux(), expected());
    let mut keys: Vec<Block> =
        expected["preserved"].as_array().unwrap().iter().map(block_of).collect();
    // In another order than Linux had them: what a tree is depends on its keys alone.
    keys.reverse();
    let all = Run::new(Pfn::new(0), 16384).unwrap();
    let memory = Ram::memory(&[(all, NodeId(0))]).unwrap();
    for key in &keys {
        memory.alloc_at(*key).unwrap();
    }
    for key in &keys {
        // SAFETY: allocated by this test, and told to nothing else.
        unsafe { memory.preserve(*key) }.unwrap();
    }
    let root = memory.preserved().tree_root().unwrap();
    let mut ours = Dump::default();
    memory.preserved().for_each_node(|node| {
        let page = memory.ptr(Run::covering(node.addr, PAGE_SIZE as u64).unwrap()).unwrap();
        // SAFETY: a page of memory, and nobody writes a tree that is at rest.
        let bytes = unsafe { std::slice::from_raw_parts(page.as_ptr(), PAGE_SIZE) };
        ours.add(node.addr, bytes);
    });
    let roots = (addr(&expected["map"]).get(), root.get());
    let seen = same_nodes(&linux, &ours, roots, Geometry::BUILD.levels - 1);
    assert_eq!(seen, expected["nodes"].as_u64().unwrap());
    assert_eq!(ours.runs().iter().map(|run| run.frames()).sum::<u64>(), seen);
}
