//! What a kernel does with what its predecessor left, and when it cannot.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use common::memory;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, FrameType, Request};
use heirloom_kho::{Block, Handle, Order, PAGE_SIZE, Parts};
use heirloom_restore::{Entry, Error, Finished, Heirloom, SealPolicy, Unclaimed};
use heirloom_slab::CacheSpec;

const FRAMES: u64 = 1024;
const CACHE: CacheSpec = CacheSpec::new("objects", 100).preserving(true);

type Kernel<'r> = Heirloom<&'r Ram>;

fn boot(ram: &Ram) -> Kernel<'_> {
    Heirloom::boot_memory(memory(ram, FRAMES), &[], "first").unwrap()
}

fn revive(ram: &Ram, entry: Entry) -> Kernel<'_> {
    Heirloom::revive_memory(memory(ram, FRAMES), entry, "next", SealPolicy::Checked).unwrap()
}

/// A folio that is left.
fn keep(kernel: &Kernel<'_>, order: u8) -> Block {
    let folio = kernel.memory().alloc_folio(Request::new(Order::new(order).unwrap())).unwrap();
    folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw()
}

#[test]
fn what_the_predecessor_preserved_is_no_subtree_of_ours_before_it_is_claimed() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let first = boot(&ram);
    first.slabs().cache(CACHE).unwrap().alloc().unwrap();
    let folio = keep(&first, 1);
    let second = revive(&ram, first.entry());
    let mut slabs = 0;
    let refuse = |block: Block| {
        let at = block.addr();
        let refused = second.add_subtree("theirs", at, PAGE_SIZE as u64).unwrap_err();
        // What the cache directory names is known for what it is.
        match second.memory().predecessor().label_of(block) {
            None => assert_eq!(refused, Error::NotPreserved { at }),
            Some(found) => {
                let expected = FrameType::Folio;
                let kind = heirloom_folio::Error::WrongType { pfn: at.pfn(), expected, found };
                assert_eq!(refused, Error::Folio(kind));
            }
        }
    };
    refuse(folio);
    second.memory().predecessor().for_each(|block| {
        refuse(block);
        slabs +=
            usize::from(second.memory().predecessor().label_of(block) == Some(FrameType::Slab));
    });
    assert_eq!(slabs, 1);
    let mut told = Vec::new();
    let done = second.memory().predecessor().finish(|block| {
        refuse(block);
        told.push(block);
        Disposition::Keep
    });
    // The slab is its layer's, as is the page of the slab table that names it.
    assert_eq!((done, told), ((0, 1), vec![folio]));
    refuse(folio);
    let ours = second.claim_folio(Handle::new(Parts::Folio(folio)).unwrap()).unwrap();
    second.add_subtree("kept", folio.addr(), 2 * PAGE_SIZE as u64).unwrap();
    drop(ours);
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

/// What `left` leaves, told.
const ALL: Finished = Finished { subtrees: 0, folios: 2, frames: 9, slabs: 1, objects: 1 };

#[test]
fn what_is_kept_is_told_again_and_what_is_freed_is_not() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let second = left(&ram);
    for _ in 0..3 {
        assert_eq!(second.finish(|_| Disposition::Keep), Ok(ALL));
    }
    let mut asked = 0;
    let finished = second.finish(|unclaimed| {
        asked += 1;
        if matches!(unclaimed, Unclaimed::Folio(_)) { Disposition::Keep } else { Disposition::Free }
    });
    assert_eq!((finished, asked), (Ok(ALL), 4));
    let folios = Finished { slabs: 0, objects: 0, ..ALL };
    assert_eq!(second.finish(|_| Disposition::Free), Ok(folios));
    assert_eq!(second.finish(|_| unreachable!("nothing is left")), Ok(Finished::default()));
    second.memory().audit().unwrap();
}

#[test]
fn keeping_needs_no_memory_and_hands_all_of_it_on() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let second = left(&ram);
    while second.memory().alloc(Request::new(Order::ZERO)).is_ok() {}
    second.memory().drain();
    assert_eq!(second.memory().stats().free(), 0);
    assert_eq!(second.finish(|_| Disposition::Keep), Ok(ALL));
    let third = revive(&ram, second.entry());
    // Neither cache is adopted there: both slabs are told whole.
    let whole = Finished { slabs: 2, objects: 0, ..ALL };
    assert_eq!(third.finish(|_| Disposition::Keep), Ok(whole));
    third.slabs().adopt(CACHE).unwrap();
    assert_eq!(third.finish(|_| Disposition::Free), Ok(ALL));
    third.memory().audit().unwrap();
}
