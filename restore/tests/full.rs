//! A memory that is full to the last frame is taken over, again and again.

use core::ptr::NonNull;

use heirloom_folio::harness::Ram;
use heirloom_folio::{Block, Cpus, Fate, Memory, Order, Request};
use heirloom_restore::{Entry, Handle, Handover, Parts, SealPolicy};

type Kernel<'r> = Handover<&'r Ram>;

fn memory(ram: &Ram, frames: u64) -> Memory<&Ram> {
    let [(run, node)] = Ram::frames(frames);
    let space = |bytes| ram.space(bytes);
    let cpus: NonNull<[u8]> = space(Memory::<&Ram>::cpu_bytes(ram.count()));
    // SAFETY: the machine keeps the spaces as long as it lives, and lends each once; one kernel at
    // a time runs on it.
    unsafe {
        let memory = Memory::new(ram, cpus).unwrap();
        memory.add_range(run, node, space(Memory::<&Ram>::range_bytes(run))).unwrap();
        memory
    }
}

fn revive<'r>(ram: &'r Ram, frames: u64, entry: Entry, why: &str) -> Kernel<'r> {
    let revived = Handover::revive(memory(ram, frames), entry, "next", SealPolicy::Checked);
    revived.unwrap_or_else(|error| panic!("{why}, {frames} frames: {error}"))
}

/// Objects of 200 bytes and preserved folios, until there is neither; the folios.
fn fill(kernel: &Kernel<'_>, objects_first: bool) -> Vec<Block> {
    let mut kept = Vec::new();
    if objects_first {
        let room = kernel.memory().stats().free() / 2;
        let used = kernel.memory().stats().used();
        while kernel.memory().stats().used() < used + room && kernel.alloc(200).is_ok() {}
    }
    while let Ok(folio) = kernel.memory().folio(Request::new(Order::ZERO)) {
        let Ok(folio) = folio.preserve() else { break };
        kept.push(folio.into_raw());
    }
    while kernel.alloc(200).is_ok() {}
    while kernel.memory().alloc(Request::new(Order::ZERO)).is_ok() {}
    kernel.memory().drain();
    let stats = kernel.memory().stats();
    assert_eq!((stats.free(), stats.cached), (0, 0), "full");
    kept
}

#[test]
fn a_full_memory_is_taken_over_again_and_again() {
    for frames in [512, 1024, 8192] {
        for objects_first in [false, true] {
            let ram = Ram::over(&Ram::frames(frames));
            let mut kernel = Handover::fresh(memory(&ram, frames), &[], "first").unwrap();
            let mut kept = fill(&kernel, objects_first);
            assert!(kept.len() as u64 > frames / 4, "{} folios of {frames} frames", kept.len());
            for life in 0..6 {
                let next = revive(&ram, frames, kernel.entry(), "full");
                // Nothing is given up: what was kept is claimed, and preserved again.
                for block in &kept {
                    let folio = next.claim_folio(Handle::new(Parts::Folio(*block)).unwrap());
                    let folio = folio.unwrap_or_else(|error| panic!("{block}: {error}"));
                    let kept = folio.preserve();
                    kept.unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw();
                }
                // Every other one fills its memory before it ends the inheritance, and may be the
                // predecessor as it is.
                if life % 2 == 0 {
                    kept.extend(fill(&next, false));
                    let third = revive(&ram, frames, next.entry(), "before the end");
                    let mut left = 0;
                    third.memory().for_each_inherited(|_| left += 1);
                    assert!(left >= kept.len());
                    kernel = third;
                    for block in &kept {
                        let folio = kernel.claim_folio(Handle::new(Parts::Folio(*block)).unwrap());
                        folio
                            .unwrap()
                            .preserve()
                            .map_err(|refused| refused.error)
                            .unwrap()
                            .into_raw();
                    }
                } else {
                    kernel = next;
                }
                let finished = kernel.finish(|_| Fate::Free).unwrap();
                assert_eq!((finished.folios, finished.objects), (0, 0));
                kept.extend(fill(&kernel, objects_first && life == 1));
                kernel.memory().audit().unwrap();
            }
        }
    }
}
