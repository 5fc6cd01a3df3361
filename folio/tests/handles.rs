//! Owned handles: what stands in the frames of one is bytes, whoever had them before.

mod common;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{base, free, free_run, order};
use heirloom_folio::harness::Ram;
use heirloom_folio::internal::BlockMatcher;
use heirloom_folio::{DirectMap as _, Disposition, Folio, FrameType, Memory, Request};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, PAGE_SIZE, Run};

/// Writes values with padding all over the memory, whose bytes between the fields are none.
fn leave_padding(memory: &Memory<Ram>) {
    let block = memory.alloc(Request::new(order(5))).unwrap();
    let at: NonNull<(u8, u64)> = memory.ptr(block.run()).unwrap().cast();
    for i in 0..32 * PAGE_SIZE / 16 {
        // SAFETY: allocated just now, and the values fit.
        unsafe { at.add(i).write((1, 2)) };
    }
    free(memory, block, FrameType::Folio).unwrap();
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
    let mut folio = memory.alloc_folio(Request::new(order(1))).unwrap();
    let before = sum(folio.bytes());
    assert_eq!(before, sum(folio.bytes_mut()));
    let kept = folio.preserve().unwrap();
    assert_eq!(before, sum(kept.bytes()));
    let mut run = memory.alloc_owned_run(3, Request::new(Order::ZERO)).unwrap();
    let before = sum(run.bytes());
    assert_eq!(before, sum(run.bytes_mut()));
    let mut kept_run = run.preserve().unwrap();
    assert_eq!(before, sum(kept_run.bytes_mut()));

    let root = memory.preserved().tree_root().unwrap();
    let block = kept.into_raw();
    kept_run.into_raw();
    assert!(block.pfn() >= base());
    let (memory, _) =
        memory.into_machine().attach(&Ram::frames(32)).unwrap().take_over(root).unwrap();
    assert!(sum(memory.claim_owned(block).unwrap().bytes()) > 0);
}

#[test]
fn what_is_asked_for_zeroed_is() {
    let memory = Ram::memory(&Ram::frames(32)).unwrap();
    leave_padding(&memory);
    let mut folio = memory.alloc_folio(Request::new(order(1)).zeroed()).unwrap();
    assert!(folio.bytes().iter().all(|byte| *byte == 0));
    folio.bytes_mut()[0] = 1;
    assert_eq!(sum(folio.bytes()), 1);
    let run = memory.alloc_owned_run(3, Request::new(Order::ZERO).zeroed()).unwrap();
    assert!(run.bytes().iter().all(|byte| *byte == 0));
}

/// Every safe call that is given a block, a run or a frame, with one that is maybe another owner's.
fn by_address(memory: &Memory<Ram>, n: u64, frames: u64) {
    let pfn = base().add(n * 7 % frames);
    let block = Block::containing(pfn, order((n % 4) as u8));
    let run = Run::new(pfn, n % 5 + 1).unwrap();
    let ptr = memory.machine().ptr(pfn.addr());
    let _ = (
        memory.state(pfn),
        memory.owning_block(pfn),
        memory.node_of(pfn),
        memory.predecessor().label_of(block),
    );
    let _ = (
        memory.preserved().contains(block),
        memory.predecessor().contains(block),
        memory.predecessor().block_at(pfn),
    );
    let _ = (memory.ptr(run), memory.contains(run), memory.preserved().next_gap(2, run));
    let _ = memory.lookup(ptr, &BlockMatcher::new(FrameType::Folio, block.order()));
    for kind in
        [FrameType::Folio, FrameType::Run, FrameType::Slab, FrameType::Buffer, FrameType::Table]
    {
        let _ = memory.run_at(pfn, kind);
    }
    let row = FolioRange::new(block, n % 3).unwrap();
    let _ = (memory.claim(block), memory.claim(run), memory.claim(row));
    let _ = (memory.claim(&[block]), memory.claim_owned(block).is_ok());
    let _ = memory.predecessor().finish(|_| Disposition::Keep);
    if memory.alloc_at(block).is_ok() {
        // SAFETY: allocated just now.
        drop(unsafe { Folio::from_raw(memory, block) });
    }
    if memory.alloc_at(run).is_ok() {
        free_run(memory, run, FrameType::Run).unwrap();
    }
    if memory.reserve(run).is_ok() {
        // SAFETY: reserved just now.
        unsafe { memory.release(run) }.unwrap();
    }
}

/// Handles are preserved, let go and dropped on two threads, while a third makes every safe call that
/// names frames by address. What is preserved in the end is apart, and a successor takes it.
#[test]
fn handles_beside_every_safe_call_by_address_leave_a_whole_tree() {
    const FRAMES: u64 = 64;
    let ranges = Ram::frames(FRAMES);
    let (rounds, steps) = if cfg!(miri) { (1, 40) } else { (40, 4000) };
    for round in 0..rounds {
        let memory = Ram::memory(&ranges).unwrap();
        let root = memory.preserved().tree_root().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (memory, stop) = (&memory, &stop);
            scope.spawn(move || {
                let mut n = round;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    by_address(memory, n, FRAMES);
                }
            });
            let own = |thread: u64| {
                for n in 0..steps {
                    let order = order(((n + thread) % 3) as u8);
                    if let Ok(mut folio) = memory.alloc_folio(Request::new(order)) {
                        folio.bytes_mut()[0] = 1;
                        match folio.preserve() {
                            Ok(kept) if n % 2 == 0 => drop(kept.unpreserve().unwrap()),
                            Ok(kept) => {
                                let again = kept.unpreserve().unwrap().preserve();
                                drop(again.map(|kept| kept.unpreserve().map(drop)));
                            }
                            Err(refused) => drop(refused.value),
                        }
                    }
                    if let Ok(run) = memory.alloc_owned_run(n % 6 + 1, Request::new(Order::ZERO))
                        && let Ok(kept) = run.preserve()
                    {
                        drop(kept.unpreserve().unwrap());
                    }
                    if n % 64 == 0 {
                        memory.drain();
                    }
                }
            };
            let other = scope.spawn(move || own(1));
            own(0);
            other.join().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        memory.audit().unwrap();
        assert_eq!(memory.stats().preserved, 0);
        // A later owner of the same frames, in order.
        for order in [2, 1, 0].map(order) {
            while let Ok(folio) = memory.alloc_folio(Request::new(order)) {
                match folio.preserve() {
                    Ok(kept) => _ = kept.into_raw(),
                    Err(refused) => _ = refused.value.into_raw(),
                }
            }
        }
        let successor = memory.into_machine().attach(&ranges).unwrap().take_over(root);
        assert!(successor.is_ok(), "round {round}: {:?}", successor.err());
    }
}
