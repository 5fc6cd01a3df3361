//! What the feature `debug` finds.
#![cfg(feature = "debug")]

mod common;

use common::{addr, slabs, successor};
use heirloom_kho::PhysAddr;
use heirloom_slab::{CacheSpec, Error, ObjectState, Owner};

#[test]
fn a_write_past_the_end_is_found_when_the_object_is_freed() {
    let slabs = slabs(1024);
    for size in [24, 100, 1000] {
        let cache = slabs.cache(CacheSpec::new(&format!("objects {size}"), size)).unwrap();
        let object = cache.alloc().unwrap();
        let at = addr(&slabs, object);
        // SAFETY: behind the object lies a red zone of its slab.
        let behind = unsafe { object.add(size + 3) };
        // SAFETY: as above.
        let before = unsafe { behind.replace(1) };
        let found = Error::Overwritten {
            cache: cache.name(),
            addr: at,
            at: PhysAddr::new(at.get() + size as u64 + 3),
        };
        // SAFETY: refused, and then ours.
        unsafe {
            assert_eq!(cache.free(object), Err(found));
            behind.write(before);
            assert_eq!(cache.free(object), Ok(()));
        }
    }
}

#[test]
fn a_write_to_a_free_object_is_found_when_it_is_allocated() {
    let slabs = slabs(1024);
    let cache = slabs.cache(CacheSpec::new("objects", 64)).unwrap();
    let object = cache.alloc().unwrap();
    let at = addr(&slabs, object);
    // SAFETY: ours; and what is written afterwards is memory that nothing else uses.
    unsafe {
        cache.free(object).unwrap();
        object.add(17).write(0);
    }
    let found =
        Error::Overwritten { cache: cache.name(), addr: at, at: PhysAddr::new(at.get() + 17) };
    let refused = (0..10_000).find_map(|_| cache.alloc().err());
    assert_eq!(refused, Some(found));
    assert_eq!(cache.stats().quarantined, 1);
    let state = slabs.owner_of(object);
    assert!(matches!(state, Ok(Owner::Object { state: ObjectState::Quarantined, .. })));
    // The others are fine.
    let next = cache.alloc().unwrap();
    assert_ne!(next, object);
}

#[test]
fn freed_objects_are_poisoned() {
    let slabs = slabs(1024);
    let cache = slabs.cache(CacheSpec::new("objects", 64)).unwrap();
    let object = cache.alloc().unwrap();
    // SAFETY: ours, and read after it is free, when nothing else uses it.
    unsafe {
        object.write(7);
        cache.free(object).unwrap();
        assert_eq!(object.read(), 0x5b);
    }
}

#[test]
fn adopted_slabs_are_watched_too() {
    let slabs = slabs(1024);
    let spec = CacheSpec::new("objects", 64).preserving(true);
    let cache = slabs.cache(spec).unwrap();
    let kept = cache.alloc().unwrap();
    let (at, reuse_tag) = (addr(&slabs, kept), slabs.reuse_tag_of(kept).unwrap().0);
    let slabs = successor(slabs, 1024).unwrap();
    let (cache, _) = slabs.adopt(spec).unwrap();
    for _ in 0..100 {
        cache.alloc().unwrap();
    }
    let object = slabs.claim(at, 64, reuse_tag).unwrap();
    // SAFETY: claimed above; behind it lies its red zone.
    unsafe {
        object.add(64).write(0);
        assert!(matches!(cache.free(object), Err(Error::Overwritten { .. })));
    }
}

#[test]
fn an_object_that_was_written_to_while_it_was_named_is_poisoned_again() {
    let slabs = slabs(1024);
    let cache = slabs.cache(CacheSpec::new("named", 64).preserving(true)).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let named = cache.alloc_noted(|object| {
            // SAFETY: the caller's to write to.
            unsafe { object.write_bytes(7, 64) };
            panic!("by the caller")
        });
        named.map(drop)
    }));
    assert!(panicked.is_err());
    // Each object there is room for, so that one among them.
    for _ in 0..10_000 {
        cache.alloc().unwrap();
    }
    assert_eq!(cache.stats().quarantined, 0);
}
