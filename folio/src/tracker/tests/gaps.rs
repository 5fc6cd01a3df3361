use std::vec::Vec;

use heirloom_kho::*;

use crate::tracker::Tracker;
use crate::tracker::ram::{Ram, block, run};

#[test]
fn gaps_lie_between_folios_of_every_order() {
    let ram = Ram::new(64);
    let t = Tracker::new();
    for b in [block(0, 1), block(0, 2), block(3, 8), block(0, 16), block(2, 20)] {
        t.preserve(&ram, b).unwrap();
    }
    let tree = t.tree(&ram);
    let gaps: Vec<_> = tree.gaps(run(0, 100)).collect();
    assert_eq!(gaps, [run(0, 1), run(3, 5), run(17, 3), run(24, 76)]);
    assert_eq!(tree.gaps(run(9, 9)).collect::<Vec<_>>(), [run(17, 1)]);
    assert_eq!(tree.next_gap(run(0, 100), 5), Some(run(3, 5)));
    assert_eq!(tree.next_gap(run(4, 96), 4), Some(run(4, 4)));
    assert_eq!(tree.next_gap(run(5, 95), 77), None);
    assert_eq!(tree.gaps(run(8, 8)).count(), 0);
    assert_eq!(tree.gaps(run(50, 0)).count(), 0);
}

#[test]
fn an_empty_tree_is_one_gap() {
    let ram = Ram::new(0);
    let everything = run(0, Pfn::LIMIT.get());
    let gaps: Vec<_> = Tracker::new().tree(&ram).gaps(everything).collect();
    assert_eq!(gaps, [everything]);
}

#[test]
fn a_block_over_everything_leaves_no_gap() {
    let ram = Ram::new(16);
    let t = Tracker::new();
    t.preserve_run(&ram, run(0, Pfn::LIMIT.get())).unwrap();
    assert_eq!(t.tree(&ram).gaps(run(0, Pfn::LIMIT.get())).count(), 0);
}
