use heirloom_kho::tree::*;
use heirloom_kho::*;

use crate::tracker::Tracker;
use crate::tracker::ram::{Ram, block};

#[test]
fn every_order_and_every_node_is_counted() {
    let ram = Ram::new(400);
    let tracker = Tracker::new();
    for o in 0..ORDERS as u8 {
        tracker.preserve(&ram, block(o, 0)).unwrap();
        tracker.preserve(&ram, block(o, Pfn::LIMIT.get() - (1 << o))).unwrap();
    }
    let counts = tracker.tree(&ram).counts();
    assert_eq!(counts.total(), 2 * ORDERS as u64);
    for o in 0..ORDERS as u8 {
        assert_eq!(counts.folios(Order::new(o).unwrap()), 2, "order {o}");
    }
    assert_eq!(counts.frames(), 2 * ((1 << ORDERS) - 1));
    assert_eq!(counts.nodes(), ram.used() as u64);
    assert_eq!(counts.nodes_at(LEVELS as u8 - 1), 1);
    assert_eq!(counts.nodes_at(LEVELS as u8), 0);
}
