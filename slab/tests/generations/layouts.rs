//! What another layout, or a cache of the same name with other slabs, left.

use heirloom_folio::Disposition;
use heirloom_kho::Order;
use heirloom_slab::{CacheSpec, Error, Field, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::common::{copy, slabs, successor};
use super::{FRAMES, claim, finish, keep, spec};

#[test]
fn what_another_layout_left_is_kept_beside_the_cache_of_its_name() {
    fn construct(_: core::ptr::NonNull<u8>) {}
    let old = CacheSpec::new("same", 100);
    for new in [CacheSpec::new("same", 300), old.constructor(construct)] {
        let first = slabs(FRAMES);
        let object = first.cache(old).unwrap().alloc().unwrap();
        let left = keep(&first, object, 3);
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { first.preserve(object) }.unwrap();
        let second = successor(first, FRAMES).unwrap();
        // This kernel uses the name for something else, and wants nothing of what was left.
        let own = second.cache(new).unwrap().alloc().unwrap();
        second.finish_inherited(|_| Disposition::Keep).unwrap();
        second.memory().predecessor().finish(|_| Disposition::Free);
        assert_eq!(second.size_of(own), Some(second.caches().next().unwrap().object_size()));
        // A third that knows the old layout has it all.
        let third = successor(second, FRAMES).unwrap();
        assert_eq!(third.adopt(old).unwrap().1.unclaimed, 1);
        claim(&third, &left);
    }
}

#[test]
fn what_was_left_is_in_the_way_of_another_once_it_is_asked_for() {
    let (old, new) = (CacheSpec::new("same", 100), CacheSpec::new("same", 300));
    let first = slabs(FRAMES);
    let object = first.cache(old).unwrap().alloc().unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { first.preserve(object) }.unwrap();
    let second = successor(first, FRAMES).unwrap();
    second.finish_inherited(|_| Disposition::Keep).unwrap();
    second.memory().predecessor().finish(|_| Disposition::Free);
    // No cache keeps it: it stays in the cache directory as it is.
    assert_eq!((second.caches().count(), second.inherited("same").is_some()), (0, true));
    let asked = second.cache(old).unwrap();
    assert_eq!((asked.unclaimed().count(), asked.stats().slabs), (0, 0));
    assert_eq!(second.adopt(old).unwrap().1.unclaimed, 1);
    assert_eq!((asked.unclaimed().count(), asked.stats().slabs), (1, 1));
    assert_eq!(second.inherited("same"), None);
    assert!(matches!(second.cache(new), Err(Error::Mismatch { .. })));
    assert!(matches!(second.adopt(new), Err(Error::Mismatch { .. })));
    assert_eq!(second.caches().count(), 1);
}

mod old {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, persist};

    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub(super) struct File {
        pub(super) size: u64,
        pub(super) owner: u64,
    }
    persist!(File { size, owner });
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct File {
    owner: u64,
    size: u64,
}
persist!(File { owner, size });

#[test]
fn another_layout_is_refused_and_can_be_upgraded() {
    let slabs = slabs(FRAMES);
    let files = slabs.typed::<old::File>("file", true).unwrap();
    for i in 0..100 {
        files.insert(old::File { size: i, owner: 1000 + i }).unwrap().leak();
    }
    let slabs = successor(slabs, FRAMES).unwrap();
    let refused = slabs.adopt_typed::<File>("file", true).unwrap_err();
    assert!(matches!(refused, Error::Mismatch { field: Field::Fingerprint, .. }), "{refused}");
    let record = slabs.inherited("file").unwrap();
    assert_eq!(record.object_size(), 16);
    let files = slabs.typed::<File>("file", true).unwrap();
    let mut moved = Vec::new();
    // Stopped on the way, nothing is lost.
    let stop = Error::TooManyCaches { limit: 0 };
    assert_eq!(slabs.upgrade(&record, |_| Err(stop)), Err(stop));
    let count = slabs.upgrade(&record, |object| {
        let old = old::File::read_from_bytes(object.bytes).unwrap();
        moved.push(files.insert(File { owner: old.owner, size: old.size })?);
        Ok(())
    });
    assert_eq!(count, Ok(100));
    assert!(moved.iter().all(|file| file.owner == 1000 + file.size));
    assert_eq!(slabs.upgrade(&record, |_| Err(stop)), Ok(0));
    assert_eq!(finish(&slabs), (0, 0));
}

#[test]
fn a_cache_is_taken_with_slabs_of_another_order() {
    let slabs = slabs(FRAMES);
    let order = Order::new(1).unwrap();
    let cache = slabs.cache(spec(true).order(order)).unwrap();
    let kept = keep(&slabs, cache.alloc().unwrap(), 3);
    let slabs = successor(slabs, FRAMES).unwrap();
    let (cache, _) = slabs.adopt(spec(true)).unwrap();
    assert_eq!(cache.slab_order(), order);
    claim(&slabs, &kept);
}

#[test]
fn two_of_one_name_with_other_slabs_are_refused_before_a_cache_is_created() {
    let (old, new) = (spec(false), spec(false).order(Order::new(1).unwrap()));
    let first = slabs(FRAMES);
    let object = first.cache(old).unwrap().alloc().unwrap();
    let one = keep(&first, object, 1);
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { first.preserve(object) }.unwrap();
    let second = successor(first, FRAMES).unwrap();
    let object = second.cache(new).unwrap().alloc().unwrap();
    let other = keep(&second, object, 2);
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { second.preserve(object) }.unwrap();
    second.finish_inherited(|_| Disposition::Keep).unwrap();
    second.memory().predecessor().finish(|_| Disposition::Free);
    let third = successor(second, FRAMES).unwrap();
    assert!(matches!(third.adopt(old), Err(Error::Mismatch { field: Field::Order, .. })));
    assert_eq!(third.caches().count(), 0);
    // Who says which gets it; the other is there to be upgraded.
    assert_eq!(third.adopt(new).unwrap().1.unclaimed, 1);
    claim(&third, &other);
    let mut records = Vec::new();
    third.for_each_inherited(|record| records.push(record));
    let left = records.iter().find(|record| record.order() != Order::new(1).unwrap()).unwrap();
    let mut seen = Vec::new();
    let upgraded = third.upgrade(left, |object| {
        seen.push(object.addr);
        Ok(())
    });
    assert_eq!((upgraded, seen), (Ok(1), vec![one.addr]));
}

#[test]
fn a_record_without_slabs_stands_back_behind_one_that_has_some() {
    let (old, new) = (spec(true), spec(true).order(Order::new(1).unwrap()));
    let first = slabs(FRAMES);
    keep(&first, first.cache(old).unwrap().alloc().unwrap(), 1);
    let second = successor(first, FRAMES).unwrap();
    assert_eq!(finish(&second), (1, 0));
    let kept = keep(&second, second.cache(new).unwrap().alloc().unwrap(), 2);
    // The old record is there still, and admits the spec that names no order.
    for create_first in [false, true] {
        let third = copy(&second, FRAMES);
        if create_first {
            assert_eq!(third.cache(spec(true)).unwrap().slab_order(), Order::new(1).unwrap());
        }
        let (cache, adopted) = third.adopt(spec(true)).unwrap();
        assert_eq!((cache.slab_order(), adopted.unclaimed), (Order::new(1).unwrap(), 1));
        claim(&third, &kept);
        assert!(matches!(third.adopt(old.order(Order::ZERO)), Err(Error::Mismatch { .. })));
    }
}
