//! The machine of heap memory lends no byte that it has not, whatever it is asked for.

mod common;

use std::panic::catch_unwind;

use common::run;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Error, NodeId, Request};
use heirloom_kho::{Order, PAGE_SIZE, Pfn, Run};

#[test]
fn a_memory_has_no_frame_that_the_machine_was_not_made_for() {
    let beyond =
        [run(0, 4096), run(1, 2), run(2, 1), run(1 << 40, 1), Run::new(Pfn::new(0), 1).unwrap()];
    for wrong in beyond {
        let ram = Ram::over(&Ram::frames(2));
        let attached = ram.attach(&[(wrong, NodeId(0))]);
        assert_eq!(attached.err(), Some(Error::BadRange { run: wrong }), "{wrong}");
    }
    // A part of it, and what lies between two ranges, are memory.
    let ram = Ram::over(&[(run(0, 1), NodeId(0)), (run(7, 1), NodeId(0))]);
    let memory = ram.attach(&[(run(1, 3), NodeId(0)), (run(4, 4), NodeId(1))]).unwrap();
    let mut folio = memory.alloc_folio(Request::new(Order::new(2).unwrap())).unwrap();
    folio.bytes_mut().fill(1);
    assert_eq!(folio.bytes().len(), 4 * PAGE_SIZE);
}

#[test]
fn frames_that_no_heap_has_are_refused() {
    for wrong in [
        Run::new(Pfn::new(0), Pfn::LIMIT.get()).unwrap(),
        Run::new(Pfn::new(1), Pfn::LIMIT.get() - 1).unwrap(),
        Run::new(Pfn::new(0), Pfn::LIMIT.get() / 2).unwrap(),
    ] {
        assert!(catch_unwind(|| Ram::over(&[(wrong, NodeId(0))])).is_err(), "{wrong}");
    }
    let ends = [run(0, 1), Run::new(Pfn::new(Pfn::LIMIT.get() - 1), 1).unwrap()];
    assert!(catch_unwind(|| Ram::over(&ends.map(|run| (run, NodeId(0))))).is_err());
}
