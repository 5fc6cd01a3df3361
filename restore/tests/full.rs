//! A memory that is full to the last frame is taken over, again and again.

mod common;

use common::memory;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Request};
use heirloom_kho::{Block, Handle, Order, PAGE_SIZE, Parts};
use heirloom_restore::{Entry, Error, Finished, Heirloom, SealPolicy};

type Kernel<'r> = Heirloom<&'r Ram>;

/// Bytes of an object: 20 and no more to a page, of whatever size.
const OBJECT: usize = PAGE_SIZE * 200 / 4096;

fn revive<'r>(ram: &'r Ram, frames: u64, entry: Entry, why: &str) -> Kernel<'r> {
    let revived =
        Heirloom::<&Ram>::revive_memory(memory(ram, frames), entry, "next", SealPolicy::Checked);
    revived.unwrap_or_else(|error| panic!("{why}, {frames} frames: {error}"))
}

/// Objects of 200 bytes and preserved folios of these orders in turn, until there is neither; the
/// folios.
fn fill(kernel: &Kernel<'_>, orders: u8, objects_first: bool) -> Vec<Block> {
    let mut kept = Vec::new();
    let object = || kernel.alloc(OBJECT).is_ok();
    if objects_first {
        let room = kernel.memory().stats().free() / 2;
        let used = kernel.memory().stats().used();
        while kernel.memory().stats().used() < used + room && (0..20).all(|_| object()) {}
    }
    for order in (0..orders).cycle() {
        // Or the largest that there is yet.
        let mut fits = (0..=order).rev().filter_map(Order::new);
        let folio = fits.find_map(|order| kernel.memory().alloc_folio(Request::new(order)).ok());
        let Some(folio) = folio else { break };
        let Ok(folio) = folio.preserve() else { break };
        kept.push(folio.into_raw());
    }
    while object() {}
    while kernel.memory().alloc(Request::new(Order::ZERO)).is_ok() {}
    kernel.memory().drain();
    let stats = kernel.memory().stats();
    assert_eq!((stats.free(), stats.cached), (0, 0), "full");
    kept
}

/// Claims a folio, which stays preserved.
fn claim(kernel: &Kernel<'_>, block: Block) {
    let folio = kernel.claim_folio(Handle::new(Parts::Folio(block)).unwrap());
    assert_eq!(folio.unwrap_or_else(|error| panic!("{block}: {error}")).into_raw(), block);
    assert!(
        kernel.memory().preserved().contains(block)
            && !kernel.memory().predecessor().contains(block)
    );
}

/// Takes over from a kernel that is full, and claims all that it kept: no frame is needed for either, and
/// the frames that it held in reserve are held again.
fn take_over<'r>(ram: &'r Ram, frames: u64, entry: Entry, kept: &[Block], why: &str) -> Kernel<'r> {
    let next = revive(ram, frames, entry, why);
    assert_eq!(next.entry(), entry);
    assert_eq!(next.reserve(), 16, "{frames} frames");
    let (used, mut nodes) = (next.memory().stats().used(), 0);
    next.memory().preserved().for_each_node(|_| nodes += 1);
    for block in kept {
        assert!(next.memory().predecessor().contains(*block), "{block}");
        claim(&next, *block);
    }
    next.memory().preserved().for_each_node(|_| nodes -= 1);
    assert_eq!((next.memory().stats().used(), nodes), (used, 0));
    next
}

/// Fills a memory, and takes it over again and again: nothing is given up, and each kernel is as full
/// as the one before.
fn lives(frames: u64, orders: u8, objects_first: bool) {
    let ram = Ram::over(&Ram::frames(frames));
    let mut kernel = Heirloom::<&Ram>::boot_memory(memory(&ram, frames), &[], "first").unwrap();
    let mut kept = fill(&kernel, orders, objects_first);
    let least = if frames < 128 { 0 } else { frames / 4 };
    let held: u64 = kept.iter().map(|block| block.order().frames()).sum();
    assert!(held >= least, "{held} of {frames} frames");
    for life in 0..6 {
        kernel = take_over(&ram, frames, kernel.entry(), &kept, "full");
        // Every other one fills its memory before it has told what is left, and ends there.
        if life % 2 == 0 {
            kept.extend(fill(&kernel, orders, false));
            kernel = take_over(&ram, frames, kernel.entry(), &kept, "before the end");
        }
        assert_eq!(kernel.finish(|_| Disposition::Free), Ok(Finished::default()));
        assert_eq!(kernel.reserve(), 16, "{frames} frames");
        kept.extend(fill(&kernel, orders, objects_first && life == 1));
        kernel.memory().audit().unwrap();
    }
}

#[test]
fn a_full_memory_is_taken_over_again_and_again() {
    for frames in [512, 1024, (32 << 20) / PAGE_SIZE as u64] {
        for objects_first in [false, true] {
            lives(frames, 1, objects_first);
        }
    }
}

#[test]
fn the_smallest_memory_that_boots_is_taken_over_when_it_is_full() {
    let boot = |ram: &Ram, frames| {
        Heirloom::<&Ram>::boot_memory(memory(ram, frames), &[], "first").map(|_| ())
    };
    let needed = 32;
    for frames in 1..needed {
        let ram = Ram::over(&Ram::frames(frames));
        assert_eq!(boot(&ram, frames), Err(Error::MemoryTooSmall { frames, needed }));
    }
    for frames in (needed..64).chain((64..512).step_by(24)) {
        for objects_first in [false, true] {
            lives(frames, 1, objects_first);
        }
    }
}

#[test]
fn folios_of_several_orders_fill_a_memory_that_is_taken_over() {
    for frames in (40..64).step_by(4).chain([100, 128, 300, 512, 1024]) {
        for orders in [2, 3, 5] {
            lives(frames, orders, false);
        }
    }
}
