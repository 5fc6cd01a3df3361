//! A caller's code runs under no lock that a call of the caller needs, and may panic: nothing is lost.
//!
//! The machine's locks here say so where one is taken that is held: in one thread that is a wait
//! for itself.

mod common;

use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::memory;
use heirloom_folio::harness::Ram;
use heirloom_folio::{CpuId, Cpus, DirectMap, Disposition, Machine, Request};
use heirloom_kho::{Block, Handle, Order, Parts, PhysAddr};
use heirloom_restore::{Entry, Error, Finished, Heirloom, PreservedArea, SealPolicy, Unclaimed};
use heirloom_slab::CacheSpec;

const FRAMES: u64 = 1024;

/// A lock that one thread alone uses: it panics where it would wait.
struct Alone(AtomicBool);

// SAFETY: whoever finds it taken does not come back with it.
unsafe impl lock_api::RawMutex for Alone {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        assert!(!self.0.swap(true, Relaxed), "waits for itself");
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Relaxed)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Relaxed);
    }
}

/// [`Ram`] with such locks.
struct Single<'r>(&'r Ram);

impl<'r> From<&'r Ram> for Single<'r> {
    fn from(ram: &'r Ram) -> Self {
        Self(ram)
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for Single<'_> {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.0.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.0.phys(ptr)
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl Cpus for Single<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.0.with_cpu(f)
    }
}

impl Machine for Single<'_> {
    type Lock = Alone;
    type Mutex = Alone;
}

type Kernel<'r> = Heirloom<Single<'r>>;

fn boot(ram: &Ram) -> Kernel<'_> {
    Heirloom::boot_memory(memory(ram, FRAMES), &[], "first").unwrap()
}

fn revive(ram: &Ram, entry: Entry) -> Kernel<'_> {
    Heirloom::revive_memory(memory(ram, FRAMES), entry, "next", SealPolicy::Checked).unwrap()
}

fn keep(kernel: &Kernel<'_>, order: u8) -> Block {
    let folio = kernel.memory().alloc_folio(Request::new(Order::new(order).unwrap())).unwrap();
    folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw()
}

fn handle(block: Block) -> Handle {
    Handle::new(Parts::Folio(block)).unwrap()
}

/// A kernel whose predecessor left two roots, folios and a slab.
fn heir(ram: &Ram) -> (Kernel<'_>, Vec<Block>) {
    let first = boot(ram);
    first.publish("a", &[1]).unwrap();
    first.publish("b", &[2]).unwrap();
    first.slabs().cache(CacheSpec::new("objects", 100).preserving(true)).unwrap().alloc().unwrap();
    let blocks = (0..5).map(|order| keep(&first, order)).collect();
    let second = revive(ram, first.entry());
    (second, blocks)
}

/// What there is in names, slabs and folios.
const fn told(subtrees: u64, slabs: u64, folios: u64, frames: u64) -> Finished {
    Finished { subtrees, folios, frames, slabs, objects: 0 }
}

#[test]
fn in_finish_everything_works() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let (kernel, blocks) = heir(&ram);
    let mut calls = 0;
    let finished = kernel.finish(|unclaimed| {
        calls += 1;
        kernel.publish(&format!("at-{calls}"), &[0; 100]).unwrap();
        kernel.publish("again", &[calls]).unwrap();
        kernel.unpublish("again").unwrap();
        kernel.seal().unwrap();
        kernel.unseal().unwrap();
        drop(kernel.memory().alloc_folio(Request::new(Order::ZERO)).unwrap());
        assert_eq!(kernel.predecessor().unwrap().as_str(), "first");
        let mut names = 0;
        kernel.for_each_subtree(|_, _, _| names += 1).unwrap();
        let theirs = [2, 2, 1, 1][usize::from(calls) - 1];
        assert_eq!(names, usize::from(calls) + 1 + theirs);
        match (calls, unclaimed) {
            (1, Unclaimed::Subtree { name, .. }) => {
                assert_eq!(name.as_str(), "a");
                // Both are their owner's from now on, whatever this says.
                assert_eq!(kernel.claim_root("a").unwrap().bytes(), [1]);
                let _ = kernel.claim_folio(handle(blocks[0])).unwrap().into_raw();
            }
            (2, Unclaimed::Subtree { name, .. }) => {
                assert_eq!(name.as_str(), "b");
                assert_eq!(kernel.finish(|_| Disposition::Keep), Ok(told(1, 1, 4, 30)));
                let mut names = Vec::new();
                let list = |name: &str, _, _| names.push(name.to_owned());
                kernel.for_each_inherited_subtree(list).unwrap();
                assert_eq!(names, ["b"]);
            }
            (3, Unclaimed::Slab { objects: 1, .. }) => {}
            (4, Unclaimed::Folio(block)) => {
                // The largest come first.
                assert_eq!(block, blocks[4]);
                // All that the call outside would ask about next.
                assert_eq!(kernel.finish(|_| Disposition::Free), Ok(told(0, 0, 4, 30)));
                assert!(kernel.claim_folio(handle(blocks[2])).is_err());
            }
            other => panic!("{other:?}"),
        }
        Disposition::Free
    });
    assert_eq!(finished, Ok(told(2, 1, 1, 16)));
    assert_eq!(kernel.finish(|_| unreachable!()), Ok(Finished::default()));
    kernel.unpublish("a").unwrap();
    assert!(matches!(kernel.unpublish("b"), Err(Error::NoSuchSubtree { .. })));
    kernel.memory().audit().unwrap();
}

#[test]
fn a_panic_in_finish_leaves_the_rest_to_the_next_call() {
    for asked in 0_u32..8 {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let (kernel, _) = heir(&ram);
        let mut left = asked;
        let mut before = Vec::new();
        let finish = AssertUnwindSafe(|| {
            kernel.finish(|unclaimed| {
                left = left.checked_sub(1).expect("a panic of the caller's");
                before.push(unclaimed);
                Disposition::Free
            })
        });
        assert!(catch_unwind(finish).is_err(), "{asked}");
        // What was decided stands, and what was not is told.
        let mut all = before.clone();
        let finished = kernel.finish(|unclaimed| {
            assert!(!before.contains(&unclaimed), "{unclaimed:?}");
            all.push(unclaimed);
            Disposition::Free
        });
        let finished = finished.unwrap();
        assert_eq!(all.len(), 8, "{all:?}");
        assert_eq!(finished.subtrees, u64::from(2_u32.saturating_sub(asked)), "{asked}");
        assert_eq!(finished.slabs, u64::from(asked <= 2), "{asked}");
        assert_eq!(finished.folios, u64::from((8 - asked).min(5)), "{asked}");
        kernel.memory().audit().unwrap();
    }
}

#[test]
fn what_is_listed_may_be_changed_meanwhile() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let (kernel, _) = heir(&ram);
    let mut names = Vec::new();
    kernel
        .for_each_inherited_subtree(|name, _, _| {
            names.push(name.to_owned());
            assert!(matches!(kernel.publish(name, &[3]), Err(Error::NameTaken { .. })));
            let root = kernel.claim_root(name).unwrap();
            assert!(matches!(kernel.publish(name, &[3]), Err(Error::NameTaken { .. })));
            drop(root);
            kernel.publish(name, &[3]).unwrap();
            kernel.for_each_inherited_subtree(|_, _, _| ()).unwrap();
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(names, ["a", "b"]);
    for name in ["c", "d", "e"] {
        kernel.publish(name, &[4]).unwrap();
    }
    let mut left = Vec::new();
    kernel
        .for_each_subtree(|name, _, _| {
            left.push(name.to_owned());
            match name {
                // One before, itself, and one behind it.
                "b" => kernel.unpublish("a").unwrap(),
                "c" => kernel.unpublish("c").unwrap(),
                "d" => {
                    kernel.unpublish("e").unwrap();
                    kernel.publish("f", &[5]).unwrap();
                }
                _ => {}
            }
        })
        .unwrap();
    assert_eq!(left, ["heirloom", "a", "b", "c", "d", "f"]);
}

#[test]
fn no_name_is_passed_over_while_others_move() {
    // The one that is asked about, and one before it, go; or it goes to the end.
    for again in [false, true] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let first = boot(&ram);
        let names = ["d", "a", "c", "e", "b"];
        for name in names {
            first.publish(name, name.as_bytes()).unwrap();
        }
        let kernel = revive(&ram, first.entry());
        let mut asked = Vec::new();
        let finished = kernel.finish(|unclaimed| {
            let Unclaimed::Subtree { name, .. } = unclaimed else { panic!("{unclaimed:?}") };
            drop(kernel.claim_root(name.as_str()).unwrap());
            asked.push(name.to_string());
            for gone in asked.iter().rev().take(2) {
                let there = kernel.unpublish(gone);
                assert_eq!(there.is_ok(), again || *gone == name.as_str());
                if again {
                    kernel.publish(gone, &[9]).unwrap();
                }
            }
            Disposition::Free
        });
        assert_eq!(finished, Ok(told(5, 0, 0, 0)));
        assert_eq!(asked, ["a", "b", "c", "d", "e"]);
        let mut left = 0;
        kernel.for_each_subtree(|_, _, _| left += 1).unwrap();
        assert_eq!(left, if again { 6 } else { 1 });
        kernel.memory().audit().unwrap();
    }
}

#[test]
fn a_panic_while_folios_are_handed_out_puts_the_rest_back() {
    for handed in 0_usize..5 {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let (kernel, blocks) = heir(&ram);
        let handles: Vec<_> = blocks.iter().copied().map(handle).collect();
        let mut left = handed;
        let claim = AssertUnwindSafe(|| {
            kernel.claim_folios(&handles, |folio| {
                left = left.checked_sub(1).expect("a panic of the caller's");
                let _ = folio.into_raw();
            })
        });
        assert!(catch_unwind(claim).is_err());
        // Those that were handed out are their owner's; the one at which it happened was dropped.
        for (i, handle) in handles.iter().enumerate() {
            assert_eq!(kernel.claim_folio(*handle).is_ok(), i > handed, "{i} of {handed}");
        }
        kernel.memory().audit().unwrap();
    }
}

#[test]
fn a_panic_while_an_area_is_made_or_let_go_leaves_no_half_of_one() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let kernel = boot(&ram);
    let memory = kernel.memory();
    let one = Request::new(Order::ZERO);
    let blocks: Vec<_> = (0..20).map(|_| memory.alloc(one).unwrap()).collect();
    let before = memory.stats();
    for made in 0..20 {
        let given = blocks.iter().enumerate().map(|(i, block)| {
            assert!(i < made, "a panic of the caller's");
            *block
        });
        let preserve =
            // SAFETY: allocated by this test, and told to nothing else.
            AssertUnwindSafe(|| unsafe { PreservedArea::preserve(memory, given, Order::ZERO, false) }.is_ok());
        assert!(catch_unwind(preserve).is_err());
        assert_eq!(
            (memory.stats().used(), memory.stats().preserved),
            (before.used(), before.preserved)
        );
    }
    for told in 0_u32..20 {
        let given = blocks.iter().copied();
        // SAFETY: allocated by this test, and told to nothing else.
        let area = unsafe { PreservedArea::preserve(memory, given, Order::ZERO, false) }.unwrap();
        let mut left = told;
        let release = AssertUnwindSafe(|| {
            area.unpreserve(|_| left = left.checked_sub(1).expect("a panic of the caller's"))
                .is_ok()
        });
        assert!(catch_unwind(release).is_err());
        assert_eq!(
            (memory.stats().used(), memory.stats().preserved),
            (before.used(), before.preserved)
        );
    }
}
