//! A panic in a caller's code that heirloom runs loses nothing: a slab is wholly adopted or the
//! predecessor's still, and each object is there to be claimed.

mod common;

use core::cell::Cell;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{addr, fill, filled, slab_frames, slabs, successor};
use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_kho::PhysAddr;
use heirloom_slab::{CacheSpec, Error, Slabs, Unclaimed};

const FRAMES: u64 = 2048;
const OBJECTS: u64 = 300;
const BYTES: usize = 120;

std::thread_local! {
    /// How many times the constructor runs before it panics.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

fn construct(object: NonNull<u8>) {
    assert!(LEFT.get() > 0, "the constructor has enough");
    LEFT.set(LEFT.get() - 1);
    // SAFETY: a place of the cache, which is this call's.
    unsafe { fill(object, BYTES, 77) };
}

fn panics(f: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "no panic");
}

fn spec(preserving: bool) -> CacheSpec {
    CacheSpec::new("things", BYTES).preserving(preserving)
}

/// A successor, and what its predecessor left in a cache of several slabs: address, reuse tag and seed.
fn heirs(preserving: bool) -> (Slabs<Ram>, Vec<(PhysAddr, u8, u8)>) {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(spec(preserving)).unwrap();
    let mut left = Vec::new();
    for seed in 0..OBJECTS * 4 {
        let object = cache.alloc().unwrap();
        if !preserving && seed % 4 != 0 {
            continue;
        }
        let seed = (seed % 251) as u8;
        // SAFETY: allocated just now.
        unsafe { fill(object, BYTES, seed) };
        if !preserving {
            // SAFETY: as above.
            unsafe { slabs.preserve(object) }.unwrap();
        }
        left.push((addr(&slabs, object), slabs.reuse_tag_of(object).unwrap().0, seed));
    }
    (successor(slabs, FRAMES).unwrap(), left)
}

/// Claims and frees all of it, and ends the inheritance.
fn claim_all(slabs: &Slabs<Ram>, left: &[(PhysAddr, u8, u8)]) {
    for (at, reuse_tag, seed) in left {
        let object = slabs.claim(*at, BYTES as u64, *reuse_tag).unwrap();
        // SAFETY: claimed just now.
        assert!(unsafe { filled(object, BYTES, *seed) }, "{at}");
        // SAFETY: claimed just now; constructed anew where somebody looks at it.
        unsafe {
            fill(object, BYTES, 77);
            slabs.free(object).unwrap();
        }
    }
    slabs.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
    slabs.memory().predecessor().finish(|_| Disposition::Free);
    slabs.memory().audit().unwrap();
}

#[test]
fn a_constructor_that_panics_while_a_cache_is_adopted_loses_no_object() {
    for preserving in [false, true] {
        for runs in [0, 1, 150, 400] {
            let (slabs, left) = heirs(preserving);
            let spec = spec(preserving).constructor(construct);
            LEFT.set(runs);
            let free = catch_unwind(AssertUnwindSafe(|| slabs.adopt(spec).unwrap().1.free));
            LEFT.set(u64::MAX);
            assert!(free.is_err() || free.unwrap() < runs);
            // The rest is adopted by the next call.
            let (cache, _) = slabs.adopt(spec).unwrap();
            assert_eq!(cache.stats().unclaimed, left.len() as u64);
            assert_eq!(cache.unclaimed().count(), left.len());
            // What is allocated is constructed.
            let objects: Vec<_> = (0..100).map(|_| cache.alloc().unwrap()).collect();
            for object in objects {
                // SAFETY: allocated just now.
                assert!(unsafe { filled(object, BYTES, 77) });
                // SAFETY: as above; it is as constructed.
                unsafe { cache.free(object) }.unwrap();
            }
            claim_all(&slabs, &left);
        }
    }
}

#[test]
fn a_constructor_that_panics_while_an_object_is_discarded_loses_no_other() {
    for preserving in [false, true] {
        let (slabs, mut left) = heirs(preserving);
        let (cache, _) = slabs.adopt(spec(preserving).constructor(construct)).unwrap();
        let (at, ..) = left.pop().unwrap();
        LEFT.set(0);
        panics(|| cache.discard(at).unwrap());
        LEFT.set(u64::MAX);
        assert!(cache.discard(at).is_err(), "it is gone");
        assert_eq!(cache.stats().unclaimed, left.len() as u64);
        claim_all(&slabs, &left);
        cache.shrink();
        // In a plain cache, nothing that is free keeps a slab preserved.
        assert!(slabs.memory().stats().preserved <= 64, "{:?}", slabs.memory().stats());
    }
}

#[test]
fn a_constructor_that_panics_in_a_new_slab_loses_no_frame() {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(spec(false).constructor(construct)).unwrap();
    LEFT.set(10);
    panics(|| _ = cache.alloc());
    LEFT.set(u64::MAX);
    assert_eq!(slab_frames(&slabs), 0);
    let object = cache.alloc().unwrap();
    // SAFETY: allocated just now, and as constructed.
    unsafe { cache.free(object) }.unwrap();
}

#[test]
fn a_closure_of_upgrade_that_panics_leaves_its_slab_to_the_next_call() {
    for preserving in [false, true] {
        for after in [0, 1, 100, left_after(preserving)] {
            let (slabs, left) = heirs(preserving);
            let record = slabs.inherited("things").unwrap();
            let mut seen = Vec::new();
            panics(|| {
                let _ = slabs.upgrade(&record, |object| {
                    assert!((seen.len() as u64) < after, "enough");
                    seen.push(object.addr);
                    Ok(())
                });
            });
            let mut found = Vec::new();
            let upgraded = slabs.upgrade(&record, |object| {
                found.push(object.addr);
                Ok(())
            });
            // Those that were taken are gone, and no other.
            assert_eq!(upgraded, Ok(found.len() as u64));
            assert!(!found.is_empty() && seen.iter().all(|at| !found.contains(at)));
            seen.append(&mut found);
            seen.sort();
            let mut all: Vec<_> = left.iter().map(|(at, ..)| *at).collect();
            all.sort();
            assert_eq!(seen, all);
            slabs.finish_inherited(|left| panic!("{left:?} was upgraded")).unwrap();
            slabs.memory().predecessor().finish(|_| Disposition::Free);
            assert_eq!(slab_frames(&slabs), 0);
        }
    }
}

/// One less than all that [`heirs`] leaves.
const fn left_after(preserving: bool) -> u64 {
    if preserving { 4 * OBJECTS - 1 } else { OBJECTS - 1 }
}

#[test]
fn a_slab_that_is_set_aside_is_adopted_when_it_is_back() {
    let (slabs, left) = heirs(true);
    let record = slabs.inherited("things").unwrap();
    let refused = Error::Folio(heirloom_folio::Error::PredecessorBusy);
    let mut asked = 0;
    panics(|| {
        let _ = slabs.upgrade(&record, |object| {
            // Neither adopted nor disposed of while it is.
            assert_eq!(slabs.adopt(spec(true)).map(|_| ()), Err(refused));
            let claimed = slabs.claim(object.addr, BYTES as u64, object.reuse_tag);
            assert_eq!(claimed, Err(refused));
            let aside = |at: PhysAddr| at.pfn() == object.addr.pfn();
            let told = slabs.finish_inherited(|unclaimed| {
                match unclaimed {
                    Unclaimed::Slab { slab, .. } => panic!("{slab} is set aside"),
                    Unclaimed::Object { addr, .. } => assert!(!aside(addr)),
                }
                Disposition::Keep
            });
            assert_eq!(told, Ok(()));
            asked += 1;
            panic!("enough");
        });
    });
    assert_eq!(asked, 1);
    let (_, adopted) = slabs.adopt(spec(true)).unwrap();
    assert_eq!(adopted.slabs, 1);
    claim_all(&slabs, &left);
}

#[test]
fn a_closure_of_finish_that_panics_decides_nothing() {
    for adopt in [false, true] {
        for after in 0..3 {
            let (slabs, left) = heirs(false);
            if adopt {
                slabs.adopt(spec(false)).unwrap();
            }
            let mut asked = Vec::new();
            panics(|| {
                let _ = slabs.finish_inherited(|unclaimed| {
                    assert!(asked.len() < after, "enough");
                    asked.push(unclaimed);
                    Disposition::Free
                });
            });
            slabs.adopt(spec(false)).unwrap();
            let freed = |at: PhysAddr| {
                asked.iter().any(|unclaimed| match *unclaimed {
                    Unclaimed::Slab { slab, .. } => slab.run().contains(at.pfn()),
                    Unclaimed::Object { addr, .. } => addr == at,
                })
            };
            let rest: Vec<_> = left.iter().copied().filter(|(at, ..)| !freed(*at)).collect();
            assert!(rest.len() < left.len() || after == 0);
            claim_all(&slabs, &rest);
        }
    }
}

#[test]
fn walks_that_panic_leave_all_as_it_is() {
    let (slabs, left) = heirs(false);
    panics(|| slabs.for_each_inherited(|_| panic!("enough")));
    let (cache, _) = slabs.adopt(spec(false)).unwrap();
    panics(|| slabs.for_each_table(|_| panic!("enough")));
    let mut objects = cache.unclaimed();
    let mut seen = 0;
    panics(|| {
        for _ in objects.by_ref() {
            seen += 1;
            assert!(seen < 2, "enough");
        }
    });
    assert_eq!(objects.count(), left.len() - 2);
    claim_all(&slabs, &left);
}
