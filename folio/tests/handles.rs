//! Owned handles: what stands in the frames of one is bytes, whoever had them before.

mod common;

use std::ptr::NonNull;

use common::{base, free, order};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Kind, Memory, Order, PAGE_SIZE, Request};

/// Writes values with padding all over the memory, whose bytes between the fields are none.
fn leave_padding(memory: &Memory<Ram>) {
    let block = memory.alloc(Request::new(order(5))).unwrap();
    let at: NonNull<(u8, u64)> = memory.ptr(block.run()).unwrap().cast();
    for i in 0..32 * PAGE_SIZE / 16 {
        // SAFETY: allocated just now, and the values fit.
        unsafe { at.add(i).write((1, 2)) };
    }
    free(memory, block, Kind::Folio).unwrap();
    memory.drain();
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

/// Under Miri this fails where a byte is read that nothing has written.
#[test]
fn the_bytes_of_an_owned_folio_are_bytes_whatever_was_there() {
    let memory = Ram::memory(&Ram::frames(32)).unwrap();
    leave_padding(&memory);
    let mut folio = memory.folio(Request::new(order(1))).unwrap();
    let before = sum(folio.bytes());
    assert_eq!(before, sum(folio.bytes_mut()));
    let kept = folio.preserve().unwrap();
    assert_eq!(before, sum(kept.bytes()));
    let mut run = memory.run(3, Request::new(Order::ZERO)).unwrap();
    let before = sum(run.bytes());
    assert_eq!(before, sum(run.bytes_mut()));
    let mut kept_run = run.preserve().unwrap();
    assert_eq!(before, sum(kept_run.bytes_mut()));

    let root = memory.tree_root().unwrap();
    let block = kept.into_raw();
    kept_run.into_raw();
    assert!(block.pfn() >= base());
    let (memory, _) =
        memory.into_machine().attach(&Ram::frames(32)).unwrap().inherit(root).unwrap();
    assert!(sum(memory.claim_folio(block).unwrap().bytes()) > 0);
}

#[test]
fn what_is_asked_for_zeroed_is() {
    let memory = Ram::memory(&Ram::frames(32)).unwrap();
    leave_padding(&memory);
    let mut folio = memory.folio(Request::new(order(1)).zeroed()).unwrap();
    assert!(folio.bytes().iter().all(|byte| *byte == 0));
    folio.bytes_mut()[0] = 1;
    assert_eq!(sum(folio.bytes()), 1);
    let run = memory.run(3, Request::new(Order::ZERO).zeroed()).unwrap();
    assert!(run.bytes().iter().all(|byte| *byte == 0));
}
