use std::collections::BTreeSet;
use std::vec::Vec;

use crate::tracker::Tracker;
use crate::tracker::ram::{Ram, block};

#[test]
fn nodes_come_bottom_up_each_once() {
    let ram = Ram::new(64);
    let t = Tracker::new();
    for b in [block(0, 0), block(0, 1 << 30), block(9, 0), block(40, 0)] {
        t.preserve(&ram, b).unwrap();
    }
    let nodes: Vec<_> = t.tree(&ram).nodes().collect();
    assert!(nodes.is_sorted_by_key(|n| n.level));
    assert_eq!(nodes.last().unwrap().addr, t.root().unwrap());
    let pages: BTreeSet<_> = nodes.iter().map(|n| n.addr).collect();
    assert_eq!((pages.len(), nodes.len()), (ram.used(), ram.used()));
}
