//! What a kernel does with what its predecessor left, and when it cannot.

mod common;

use common::memory;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Block, Fate, Kind, Order, PAGE_SIZE, Request};
use heirloom_restore::{Entry, Error, Finished, Handover, SealPolicy, Unclaimed};
use heirloom_slab::CacheSpec;

const FRAMES: u64 = 1024;
const CACHE: CacheSpec = CacheSpec::new("objects", 100).preserving(true);

type Kernel<'r> = Handover<&'r Ram>;

fn boot(ram: &Ram) -> Kernel<'_> {
    Handover::fresh(memory(ram, FRAMES), &[], "first").unwrap()
}

fn revive(ram: &Ram, entry: Entry) -> Kernel<'_> {
    Handover::revive(memory(ram, FRAMES), entry, "next", SealPolicy::Checked).unwrap()
}

/// A folio that is left.
fn keep(kernel: &Kernel<'_>, order: u8) -> Block {
    let folio = kernel.memory().folio(Request::new(Order::new(order).unwrap())).unwrap();
    folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw()
}

#[test]
fn what_the_predecessor_preserved_is_no_subtree_of_ours_even_while_it_ends() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let first = boot(&ram);
    first.slabs().cache(CACHE).unwrap().alloc().unwrap();
    let folio = keep(&first, 1);
    let second = revive(&ram, first.entry());
    let mut slabs = 0;
    let refuse = |block: Block| {
        let at = block.addr();
        let added = second.add_subtree("theirs", at, PAGE_SIZE as u64);
        assert_eq!(added, Err(Error::NotPreserved { at }));
    };
    refuse(folio);
    let ended = second.memory().disinherit(|block| {
        if second.memory().label_of(block) != Some(Kind::Table) {
            refuse(block);
            slabs += usize::from(second.memory().label_of(block) == Some(Kind::Slab));
        }
        Fate::Keep
    });
    ended.unwrap();
    assert_eq!(slabs, 1);
    // What was kept is ours.
    second.add_subtree("kept", folio.addr(), 2 * PAGE_SIZE as u64).unwrap();
}

/// Leaves two folios, a slab of a cache that is not adopted, and an object of one that is.
fn left(ram: &Ram) -> Kernel<'_> {
    let first = boot(ram);
    first.slabs().cache(CACHE).unwrap().alloc().unwrap();
    let other = first.slabs().cache(CacheSpec::new("other", 200)).unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { first.slabs().preserve(other.alloc().unwrap()) }.unwrap();
    for order in [0, 3] {
        keep(&first, order);
    }
    let second = revive(ram, first.entry());
    second.slabs().adopt(CACHE).unwrap();
    second
}

#[test]
fn what_was_decided_before_a_refusal_is_in_the_report() {
    // What is kept in caches is asked about again; a slab is adopted by then.
    for (fate, slabs, objects) in [(Fate::Free, 1, 1), (Fate::Keep, 0, 2)] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let second = left(&ram);
        let held = second.memory().hold_inheritance().unwrap();
        let mut asked = 0;
        let refused = second.finish(|_| {
            asked += 1;
            fate
        });
        assert_eq!(refused, Err(Error::Folio(heirloom_folio::Error::Claiming)));
        assert_eq!(asked, 2, "the slab and the object");
        drop(held);
        let finished = second.finish(|unclaimed| {
            let folio = matches!(unclaimed, Unclaimed::Folio(_));
            assert!(folio || fate == Fate::Keep, "{unclaimed:?} is free");
            fate
        });
        assert_eq!(finished, Ok(Finished { folios: 2, frames: 9, slabs, objects }));
        assert_eq!(second.finish(|_| unreachable!("it has ended")), Ok(Finished::default()));
    }
}

#[test]
fn what_could_not_be_kept_is_reported_once() {
    let mut refusals = 0;
    for spare in 0.. {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let second = left(&ram);
        let mut hogged = Vec::new();
        while let Ok(block) = second.memory().alloc(Request::new(Order::ZERO)) {
            hogged.push(block);
        }
        for block in hogged.drain(..spare) {
            // SAFETY: allocated above, and used by nobody.
            unsafe { second.memory().free(block, Kind::Folio) }.unwrap();
        }
        let first = second.finish(|_| Fate::Keep);
        if first.is_err() {
            refusals += 1;
            for block in hogged {
                // SAFETY: as above.
                unsafe { second.memory().free(block, Kind::Folio) }.unwrap();
            }
        }
        let finished = first.or_else(|_| second.finish(|_| Fate::Keep)).unwrap();
        assert_eq!((finished.folios, finished.frames), (2, 9), "{spare}");
        // A slab that was kept before the fault is one of objects by the next call.
        assert_eq!(finished.slabs + finished.objects, 2, "{spare}");
        if first.is_ok() {
            break;
        }
    }
    assert!(refusals > 1);
}
