use std::vec::Vec;

use heirloom_kho::sync::Relaxed;
use heirloom_kho::tree::*;
use heirloom_kho::*;

use crate::tracker::Tracker;
use crate::tracker::ram::{Ram, block};

#[test]
fn an_empty_tree_holds_nothing() {
    let ram = Ram::new(1);
    let tree = Tree::new(PhysAddr::new(0), &ram);
    assert!(!tree.contains(block(0, 0)));
    assert!(tree.seek(0, 0).is_none());
    assert_eq!(tree.depth(Key::of(block(0, 0))), 0);
    assert_eq!(tree.folios().count(), 0);
}

#[test]
fn seek_finds_the_next_leaf_however_far() {
    let ram = Ram::new(64);
    let tracker = Tracker::new();
    let far = 1 << 40;
    for b in [block(9, 0), block(0, 5), block(0, 7), block(0, far)] {
        tracker.preserve(&ram, b).unwrap();
    }
    let tree = tracker.tree(&ram);
    let mut firsts = Vec::new();
    let mut from = 0;
    while let Some(leaf) = tree.seek(0, from) {
        firsts.push(leaf.first);
        from = leaf.first + LEAF_KEYS;
    }
    let expected: Vec<_> =
        [block(9, 0), block(0, 0), block(0, far)].map(|b| node_start(Key::of(b).get(), 0)).into();
    assert_eq!(firsts, expected);
    assert_eq!(tree.depth(Key::of(block(0, 6))), LEVELS);
    assert!(tree.depth(Key::of(block(0, far * 2))) < LEVELS);
}

#[test]
fn entries_outside_memory_read_as_absent() {
    let ram = Ram::new(16);
    let tracker = Tracker::new();
    tracker.preserve(&ram, block(0, 0)).unwrap();
    tracker.preserve(&ram, block(9, 0)).unwrap();
    let tree = tracker.tree(&ram);
    let table = tree.seek(1, Key::of(block(0, 0)).get()).unwrap();
    let index = Key::of(block(0, 0)).index(1);
    for bad in [u64::MAX, 7, 1 << 60] {
        table.words[index].store(bad, Relaxed);
        assert!(!tree.contains(block(0, 0)));
        assert_eq!(tree.folios().collect::<Vec<_>>(), [block(9, 0)]);
    }
}
