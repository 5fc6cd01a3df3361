use std::vec::Vec;

use heirloom_kho::tree::*;
use heirloom_kho::*;

use crate::tracker::Tracker;
use crate::tracker::ram::{Ram, block};

fn tracker(ram: &Ram, blocks: &[Block]) -> Tracker {
    let tracker = Tracker::new();
    for &b in blocks {
        tracker.preserve(ram, b).unwrap();
    }
    tracker
}

#[test]
fn folios_come_by_order_and_address() {
    let ram = Ram::new(400);
    let expected: Vec<_> = (0..ORDERS as u8)
        .rev()
        .flat_map(|o| {
            let last = Pfn::LIMIT.get() - (1 << o);
            [block(o, 0), block(o, last)]
        })
        .collect();
    let tracker = tracker(&ram, &expected);
    let tree = tracker.tree(&ram);
    assert_eq!(tree.folios().collect::<Vec<_>>(), expected);
}

#[test]
fn words_are_the_leaves_words() {
    let ram = Ram::new(32);
    let t = tracker(&ram, &[block(0, 64), block(0, 127), block(0, 3), block(2, 8)]);
    let words: Vec<_> = t.tree(&ram).words().collect();
    let word =
        |o, first, mask| Word { order: Order::new(o).unwrap(), first: Pfn::new(first), mask };
    assert_eq!(words, [word(2, 0, 4), word(0, 0, 8), word(0, 64, 1 << 63 | 1)]);
}

#[test]
fn neighbours_are_taken_together_across_words_and_leaves() {
    let ram = Ram::new(32);
    let t = Tracker::new();
    let rows = [(1, 2, 1), (1, 6, 61), (0, 0, 1), (0, 2, 62), (0, 65, LEAF_KEYS)];
    let rows = rows.map(|(o, pfn, n)| FolioRange::new(block(o, pfn), n).unwrap());
    for row in rows {
        t.preserve_range(&ram, row).unwrap();
    }
    assert_eq!(t.tree(&ram).folio_ranges().collect::<Vec<_>>(), rows);
}

#[test]
fn neighbours_in_key_are_not_neighbours_of_another_order() {
    let ram = Ram::new(32);
    let (last, first) = (block(1, Pfn::LIMIT.get() - 2), block(0, 0));
    assert_eq!(Key::of(last).get() + 1, Key::of(first).get());
    let t = tracker(&ram, &[last, first]);
    let rows: Vec<_> = t.tree(&ram).folio_ranges().map(|a| (a.first(), a.count())).collect();
    assert_eq!(rows, [(last, 1), (first, 1)]);
}

#[test]
fn whole_orders_are_one_row_each() {
    let ram = Ram::new(200);
    let t = Tracker::new();
    // An order so far below the largest has so many folios, from one word to many leaves.
    let rows = [0, 3, 4, 5, 6, 7, 14, 18].map(|below| {
        let first = block(Order::MAX.get() - below, 0);
        FolioRange::new(first, 2 << below).unwrap()
    });
    for row in rows {
        t.preserve_range(&ram, row).unwrap();
    }
    assert_eq!(t.tree(&ram).folio_ranges().collect::<Vec<_>>(), rows);
    // One folio less in each, in the middle, leaves two rows.
    for row in rows {
        let order = row.first().order();
        t.unpreserve(&ram, Block::containing(Pfn::new(Pfn::LIMIT.get() / 2), order)).unwrap();
    }
    let halves: Vec<_> = t.tree(&ram).folio_ranges().map(FolioRange::count).collect();
    let expected = rows.map(|row| [row.count() / 2, row.count() / 2 - 1]);
    assert_eq!(
        halves,
        expected.as_flattened().iter().copied().filter(|n| *n > 0).collect::<Vec<_>>()
    );
}

#[test]
fn the_first_in_a_row_from_a_frame() {
    let ram = Ram::new(64);
    let t = Tracker::new();
    for (o, pfn, n) in [(0, 60, 10), (0, 100_000, 1), (51, 0, 1), (46, 1 << 46, 2)] {
        if o <= Order::MAX.get() {
            t.preserve_range(&ram, FolioRange::new(block(o, pfn), n).unwrap()).unwrap();
        }
    }
    let tree = t.tree(&ram);
    let find = |o: u8, from| {
        let found = FolioRanges::first_of(&tree, Order::new(o).unwrap(), Pfn::new(from));
        found.map(|a| (a.first().pfn().get(), a.count()))
    };
    assert_eq!(find(0, 0), Some((60, 10)));
    assert_eq!(find(0, 63), Some((63, 7)));
    assert_eq!(find(0, 69), Some((69, 1)));
    assert_eq!(find(0, 70), Some((100_000, 1)));
    assert_eq!(find(0, 100_001), None);
    assert_eq!(find(1, 0), None);
    assert_eq!(find(46, 0), Some((1 << 46, 2)));
    assert_eq!(find(46, (1 << 47) + 5), Some((1 << 47, 1)));
    assert_eq!(find(46, 3 << 46), None);
}
