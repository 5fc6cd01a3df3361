//! Free places of resumed slabs: when they are constructed, and found where memory is full.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use heirloom_folio::Request;
use heirloom_folio::harness::Ram;
use heirloom_kho::Order;
use heirloom_slab::{AllocOptions, Constructor, Slabs};

use super::common::{addr, slab_frames, slabs, successor};
use super::{FRAMES, check, free, leave, spec};

#[test]
fn free_places_of_resumed_slabs_are_allocated_before_new_slabs() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let mut all: BTreeMap<_, _> = (0..2000_u32).map(|i| leave(&cache, i as u8)).collect();
    for at in all.keys().copied().step_by(2).collect::<Vec<_>>() {
        free(&cache, at, all.remove(&at).unwrap());
    }
    let places = cache.stats().slabs * u64::from(cache.objects_per_slab());
    let second = successor(first, FRAMES).unwrap();
    let cache = second.resume(spec(true)).unwrap();
    let used = second.memory().stats().used();
    for i in all.len() as u64..places {
        let (at, thing) = leave(&cache, i as u8);
        assert!(all.insert(at, thing).is_none(), "{at} has two owners");
    }
    // Magazines are all that is new.
    assert!(second.memory().stats().used() < used + 16, "no new slab");
    check(&second, &cache, &all);
}

#[test]
fn an_allocation_looks_at_a_few_full_slabs_and_no_more() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = cache.objects_per_slab();
    for i in 0..100 * each {
        leave(&cache, i as u8);
    }
    let second = successor(first, FRAMES).unwrap();
    let cache = second.resume(spec(true)).unwrap();
    let before = cache.stats().unswept;
    cache.alloc().unwrap();
    let swept = before - cache.stats().unswept;
    assert!((1..=8).contains(&swept), "{swept} slabs for one object");
    // The rest on request.
    assert_eq!(cache.sweep(10), Ok(10));
    assert_eq!(cache.stats().unswept, before - swept - 10);
    assert_eq!(cache.sweep(u64::MAX), Ok(cache.stats().slabs - 1 - swept - 10));
    assert_eq!((cache.sweep(1), cache.stats().unswept), (Ok(0), 0));
}

std::thread_local! {
    static BUILT: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn free_places_of_a_resumed_slab_are_constructed_when_it_is_first_used() {
    fn construct(object: NonNull<u8>) {
        BUILT.set(BUILT.get() + 1);
        // SAFETY: a place of the cache, which is this call's.
        unsafe { object.write_bytes(0x77, 200) };
    }
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = cache.objects_per_slab();
    let all: BTreeMap<_, _> = (0..each).map(|i| leave(&cache, i as u8)).collect();
    let (gone, thing) = all.first_key_value().map(|(at, thing)| (*at, *thing)).unwrap();
    free(&cache, gone, thing);
    let second = successor(first, FRAMES).unwrap();
    let cache = second.resume(spec(true).constructor(construct)).unwrap();
    assert_eq!(BUILT.get(), 0);
    let object = cache.alloc().unwrap();
    assert_eq!((BUILT.get(), addr(&second, object)), (1, gone));
    // SAFETY: allocated just now, and constructed.
    assert!(unsafe { (0..200).all(|i| object.add(i).read() == 0x77) });
}

std::thread_local! {
    static KERNEL: Cell<Option<&'static Slabs<Ram>>> = const { Cell::new(None) };
    static NESTED: Cell<u32> = const { Cell::new(0) };
    static DEEPEST: Cell<u32> = const { Cell::new(0) };
}

/// Takes all the memory that there is.
fn hog(slabs: &Slabs<Ram>) {
    for order in (0..=9).rev().map(|order| Order::new(order).unwrap()) {
        while slabs.memory().alloc(Request::new(order)).is_ok() {}
    }
}

/// A kernel to which `count` slabs of a preserving cache were left, a place in each of them free, and
/// which resumed the cache.
fn resumed_with_holes(count: u64, constructor: Constructor) -> &'static Slabs<Ram> {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = u64::from(cache.objects_per_slab());
    let all: Vec<_> = (0..count * each).map(|i| leave(&cache, i as u8)).collect();
    let mut slabs_seen = BTreeSet::new();
    for (at, thing) in all {
        if slabs_seen.insert(at.pfn()) {
            free(&cache, at, thing);
        }
    }
    let second: &Slabs<Ram> = Box::leak(Box::new(successor(first, FRAMES).unwrap()));
    second.resume(spec(true).constructor(constructor)).unwrap();
    second
}

/// An allocator does not unwind: so what it does for want of memory runs no constructor of another cache.
#[test]
fn no_constructor_of_a_resumed_cache_is_run_by_an_allocation_of_another() {
    fn construct(_: NonNull<u8>) {
        panic!("a constructor");
    }
    let second = resumed_with_holes(40, construct);
    hog(second);
    let heap = second.heap(false);
    // SAFETY: the layouts have a size.
    unsafe {
        assert!(heap.alloc(Layout::from_size_align(100_000, 8).unwrap()).is_null());
        let mut small = 0;
        while !heap.alloc(Layout::from_size_align(64, 8).unwrap()).is_null() {
            small += 1;
        }
        assert!(small < 10_000);
    }
}

/// A constructor may allocate. Where there is no memory, that brings no other slab's constructors with
/// it, and theirs others', as deep as there are slabs.
#[test]
fn constructors_that_find_no_memory_do_not_nest() {
    fn construct(_: NonNull<u8>) {
        NESTED.set(NESTED.get() + 1);
        DEEPEST.set(DEEPEST.get().max(NESTED.get()));
        let slabs = KERNEL.get().unwrap();
        let large = Layout::from_size_align(100_000, 8).unwrap();
        assert!(slabs.alloc(large, AllocOptions::default()).is_err());
        NESTED.set(NESTED.get() - 1);
    }
    let second = resumed_with_holes(40, construct);
    KERNEL.set(Some(second));
    hog(second);
    let cache = second.cache(spec(true).constructor(construct)).unwrap();
    // All the free places can be had.
    for _ in 0..40 {
        cache.alloc().unwrap();
    }
    assert!(cache.alloc().is_err());
    assert_eq!((DEEPEST.get(), NESTED.get()), (1, 0));
}

/// Where there is no memory, every free place that was resumed can be had, however many full slabs stand
/// before it.
#[test]
fn free_places_behind_many_full_slabs_are_found_where_memory_is_full() {
    fn construct(_: NonNull<u8>) {}
    for constructed in [false, true] {
        let first = slabs(FRAMES);
        let cache = first.cache(spec(true)).unwrap();
        let each = u64::from(cache.objects_per_slab());
        let all: Vec<_> = (0..60 * each).map(|i| leave(&cache, i as u8)).collect();
        let (gone, thing) = *all.last().unwrap();
        free(&cache, gone, thing);
        let second = successor(first, FRAMES).unwrap();
        let like = if constructed { spec(true).constructor(construct) } else { spec(true) };
        let cache = second.resume(like).unwrap();
        hog(&second);
        assert_eq!(cache.alloc().map(|object| addr(&second, object)), Ok(gone));
        assert!(cache.alloc().is_err());
    }
}

#[test]
fn what_was_resumed_and_is_of_no_use_is_given_back_with_all_magazines() {
    for preserving in [false, true] {
        let first = slabs(FRAMES);
        let cache = first.cache(spec(preserving)).unwrap();
        let each = cache.objects_per_slab();
        let all: Vec<_> = (0..4 * each).map(|i| leave(&cache, i as u8)).collect();
        // The slabs of a preserving cache stay a while when they are empty.
        let kept = usize::from(!preserving);
        for (at, thing) in all.iter().skip(kept) {
            free(&cache, *at, *thing);
        }
        let mut second = successor(first, FRAMES).unwrap();
        second.resume(spec(preserving)).unwrap();
        second.shrink_all();
        assert_eq!(slab_frames(&second), kept as u64);
        let cache = second.resume(spec(preserving)).unwrap();
        assert_eq!((cache.stats().unswept, cache.stats().live), (0, kept as u64));
    }
}
