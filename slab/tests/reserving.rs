//! Objects that were set aside: allocated without fail when nothing else is to be had, given back when they are not wanted,
//! and free to a successor.

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::collections::BTreeSet;

use common::{copy, slabs};
use heirloom_folio::harness::Ram;
use heirloom_folio::{FrameState, FrameType, Request};
use heirloom_kho::{Block, Order, PAGE_SIZE};
use heirloom_slab::{AllocOptions, Cache, CacheSpec, CacheStats, Error, Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Of small pages four mebibytes; of large ones enough for tables that are a page each.
const FRAMES: u64 = if PAGE_SIZE <= 16_384 { (4 << 20) / PAGE_SIZE as u64 } else { 160 };

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug)]
#[repr(C)]
struct Counter {
    count: u64,
}
persist!(Counter { count });

/// Takes all frames.
fn hog(slabs: &Slabs<Ram>) -> Vec<Block> {
    slabs.memory().drain();
    let mut all = Vec::new();
    for order in (0..=9).rev().map(|o| Order::new(o).unwrap()) {
        while let Ok(block) = slabs.memory().alloc(Request::new(order)) {
            all.push(block);
        }
    }
    all
}

fn release(slabs: &Slabs<Ram>, blocks: Vec<Block>) {
    for block in blocks {
        // SAFETY: from `hog`.
        unsafe { slabs.memory().free(block) }.unwrap();
    }
}

/// Allocates until there is no memory.
fn exhaust(cache: &Cache<'_, Ram>) -> Vec<NonNull<u8>> {
    let mut all = Vec::new();
    loop {
        match cache.alloc() {
            Ok(object) => all.push(object),
            Err(Error::Folio(_)) => return all,
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn free(cache: &Cache<'_, Ram>, objects: Vec<NonNull<u8>>) {
    for object in objects {
        // SAFETY: allocated by the test, and not used again.
        unsafe { cache.free(object) }.unwrap();
    }
}

/// Each object is in one figure.
fn add_up(cache: &Cache<'_, Ram>) -> CacheStats {
    let stats = cache.stats();
    let CacheStats { live, unclaimed, free, cached, reserved, quarantined, .. } = stats;
    let all = live + unclaimed + free + cached + reserved + quarantined;
    assert_eq!(all, stats.slabs * u64::from(cache.objects_per_slab()), "{stats:?}");
    stats
}

#[test]
fn what_is_reserved_is_had_when_others_have_taken_all_memory() {
    // Magazines of 128 objects, of 8 and of 2; one object, and several magazines.
    for (size, count) in
        [(64, 1), (64, 127), (64, 128), (64, 1000), (5000, 33), (40_000, 5), (8, 300)]
    {
        for preserving in [false, true] {
            let slabs = slabs(FRAMES);
            let cache = slabs.cache(CacheSpec::new("things", size).preserving(preserving)).unwrap();
            let mut reserved = cache.reserve(count).unwrap();
            assert_eq!((reserved.remaining(), add_up(&cache).reserved), (count, count as u64));
            let frames = hog(&slabs);
            let others = exhaust(&cache);
            assert!(cache.reserve(1).is_err());
            let mut seen: BTreeSet<_> = others.iter().copied().collect();
            let mut mine = Vec::new();
            for n in (0..count).rev() {
                let object = reserved.alloc().expect("reserved");
                assert!(seen.insert(object), "{object:?} is another's");
                // SAFETY: allocated just now, of that size.
                unsafe { object.write_bytes(0xa5, size) };
                mine.push(object);
                assert_eq!(reserved.remaining(), n);
            }
            assert_eq!(reserved.alloc(), None);
            let stats = add_up(&cache);
            assert_eq!((stats.live, stats.reserved), ((count + others.len()) as u64, 0));
            if preserving {
                assert_eq!(stats.preserved, stats.live);
            }
            drop(reserved);
            free(&cache, mine);
            free(&cache, others);
            assert_eq!(add_up(&cache).live, 0);
            release(&slabs, frames);
        }
    }
}

#[test]
fn what_is_not_wanted_goes_back_with_all_its_memory() {
    let mut slabs = slabs(FRAMES);
    let before = {
        let cache = slabs.cache(CacheSpec::new("things", 700)).unwrap();
        // The magazines of the first time stay the cache's.
        drop(cache.reserve(500).unwrap());
        slabs.shrink_all();
        slabs.memory().audit().unwrap().allocated
    };
    for (count, taken) in [(500, 0), (500, 499), (500, 500), (1, 0), (0, 0)] {
        {
            let cache = slabs.cache(CacheSpec::new("things", 700)).unwrap();
            let mut reserved = cache.reserve(count).unwrap();
            let mine: Vec<_> = (0..taken).map(|_| reserved.alloc().unwrap()).collect();
            assert_eq!(add_up(&cache).reserved, (count - taken) as u64);
            drop(reserved);
            assert_eq!(add_up(&cache).reserved, 0);
            free(&cache, mine);
        }
        slabs.shrink_all();
        let after = slabs.memory().audit().unwrap().allocated;
        assert_eq!(after[FrameType::Slab as usize], 0);
        assert_eq!(after, before, "{count} reserved, {taken} taken");
    }
}

#[test]
fn a_reservation_that_cannot_be_had_leaves_nothing_behind() {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(CacheSpec::new("things", 2000)).unwrap();
    let error = cache.reserve(usize::MAX).unwrap_err();
    assert!(matches!(error, Error::Folio(_)), "{error:?}");
    let stats = add_up(&cache);
    assert_eq!((stats.live, stats.reserved), (0, 0));
    // All of it is there for others.
    let all = exhaust(&cache);
    assert!(all.len() as u64 > FRAMES * 3 / 2, "{} objects", all.len());
    free(&cache, all);
}

/// Frames that no allocated block ever began with.
fn untouched(slabs: &Slabs<Ram>) -> usize {
    let [(run, _)] = Ram::frames(FRAMES);
    let state = |n| slabs.memory().state(run.start().add(n)).unwrap();
    (0..FRAMES).filter(|n| state(*n) == FrameState::Never).count()
}

#[test]
fn a_reservation_that_cannot_be_had_is_refused_before_memory_is_taken() {
    for size in [8, 64, 700, 2000, 5000, 40_000] {
        let most = {
            let slabs = slabs(FRAMES);
            exhaust(&slabs.cache(CacheSpec::new("things", size)).unwrap()).len()
        };
        for preserving in [false, true] {
            let slabs = slabs(FRAMES);
            let cache = slabs.cache(CacheSpec::new("things", size).preserving(preserving)).unwrap();
            drop(cache.reserve(1).unwrap());
            let before = untouched(&slabs);
            assert!(before as u64 > FRAMES * 3 / 4, "{before} frames were never allocated");
            for count in [usize::MAX, usize::MAX / size, 1 << 40, 2 * most, most + 1] {
                let error = cache.reserve(count).unwrap_err();
                assert!(matches!(error, Error::Folio(_)), "{error:?}");
                let taken = before - untouched(&slabs);
                assert_eq!(taken, 0, "{count} of {size} bytes, where there are {most} at most");
            }
            assert_eq!((add_up(&cache).live, add_up(&cache).reserved), (0, 0));
            // Some less are had.
            let count = most * if size == 8 { 1 } else { 3 } / 4;
            assert_eq!(cache.reserve(count / 2).unwrap().remaining(), count / 2);
        }
    }
}

#[test]
fn what_others_keep_is_given_back_for_a_reservation_that_it_suffices_for() {
    let slabs = slabs(FRAMES);
    let other = slabs.cache(CacheSpec::new("other", 700)).unwrap();
    let things = slabs.cache(CacheSpec::new("things", 2000)).unwrap();
    drop(things.reserve(1).unwrap());
    let objects = exhaust(&other);
    assert!(things.reserve(100).is_err());
    // All but one slab of them is empty from here on, and the other cache's.
    free(&other, objects);
    let count = FRAMES as usize * PAGE_SIZE / 2000 / 2;
    assert_eq!(things.reserve(count).unwrap().remaining(), count);
    // What the cache has itself counts too.
    let all = exhaust(&things);
    free(&things, all);
    let frames = hog(&slabs);
    let stats = add_up(&things);
    let own = (stats.free + stats.cached) as usize;
    assert!(own > 16);
    assert_eq!(things.reserve(own / 2).unwrap().remaining(), own / 2);
    assert!(things.reserve(own + 1).is_err());
    release(&slabs, frames);
}

#[test]
fn other_threads_are_not_refused_while_an_impossible_reservation_is_tried() {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(CacheSpec::new("things", 2000)).unwrap();
    drop(cache.reserve(1).unwrap());
    let done = AtomicBool::new(false);
    // As many frames as no CPU keeps for itself.
    let order = Order::new(6).unwrap();
    std::thread::scope(|s| {
        let other = s.spawn(|| {
            let mut count = 0;
            while count < 100 || !done.load(Acquire) {
                let block = slabs.memory().alloc(Request::new(order)).expect("most is free");
                // SAFETY: allocated just now.
                unsafe { slabs.memory().free(block) }.unwrap();
                count += 1;
            }
        });
        for _ in 0..200 {
            cache.reserve(usize::MAX).unwrap_err();
        }
        // Release pairs with the Acquire above.
        done.store(true, Release);
        other.join().unwrap();
    });
}

#[test]
fn a_buffer_larger_than_memory_is_refused_and_caches_keep_what_they_have() {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(CacheSpec::new("things", 2000)).unwrap();
    let objects = (0..300).map(|_| cache.alloc().unwrap()).collect();
    free(&cache, objects);
    let (before, stats) = (untouched(&slabs), cache.stats());
    for bytes in [FRAMES as usize * PAGE_SIZE + 1, 1 << 40, isize::MAX as usize - PAGE_SIZE] {
        for preserving in [false, true] {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            let refused = slabs.alloc(layout, AllocOptions { preserving, zeroed: true });
            assert!(matches!(refused, Err(Error::Folio(_))), "{refused:?}");
            assert_eq!((untouched(&slabs), cache.stats()), (before, stats));
        }
    }
}

#[test]
fn a_slab_with_reserved_objects_is_not_given_back_and_its_cache_not_destroyed() {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(CacheSpec::new("things", 64)).unwrap();
    let mut reserved = cache.reserve(3).unwrap();
    slabs.shrink();
    assert_eq!((add_up(&cache).slabs, add_up(&cache).reserved), (1, 3));
    // SAFETY: the only thread; the reservation is used later only as the cache goes on.
    let refused = unsafe { cache.destroy() };
    assert!(matches!(refused, Err(Error::CacheInUse { objects: 3, .. })), "{refused:?}");
    let object = reserved.alloc().unwrap();
    drop(reserved);
    free(&cache, vec![object]);
    // SAFETY: the only thread, and the cache is not used again.
    unsafe { cache.destroy() }.unwrap();
    assert_eq!(slabs.memory().audit().unwrap().allocated[FrameType::Slab as usize], 0);
}

#[test]
fn objects_are_as_constructed() {
    fn construct(object: NonNull<u8>) {
        // SAFETY: a free object of 64 bytes.
        unsafe { object.write_bytes(7, 64) };
    }
    let slabs = slabs(FRAMES);
    let spec = CacheSpec::new("things", 64).constructor(construct);
    let cache = slabs.cache(spec).unwrap();
    let mut reserved = cache.reserve(200).unwrap();
    while let Some(object) = reserved.alloc() {
        // SAFETY: allocated just now, of 64 bytes.
        assert_eq!(unsafe { object.cast::<[u8; 64]>().read() }, [7; 64]);
        free(&cache, vec![object]);
    }
}

#[test]
fn to_a_successor_what_is_reserved_is_free_and_what_was_allocated_of_it_is_there() {
    let slabs = slabs(FRAMES);
    let spec = CacheSpec::new("things", 64).preserving(true);
    let cache = slabs.cache(spec).unwrap();
    let mut reserved = cache.reserve(300).unwrap();
    for n in 0..100_u8 {
        let object = reserved.alloc().unwrap();
        // SAFETY: allocated just now.
        unsafe { object.write(n) };
    }
    // In the middle of it.
    let next = copy(&slabs, FRAMES);
    let (things, adopted) = next.adopt(spec).unwrap();
    assert_eq!(adopted.unclaimed, 100);
    let mut seen = BTreeSet::new();
    for (addr, tag) in things.unclaimed() {
        let object = next.claim(addr, 64, tag).unwrap();
        // SAFETY: claimed just now.
        seen.insert(unsafe { object.read() });
    }
    assert_eq!(seen.len(), 100);
    assert_eq!(add_up(&things).reserved, 0);
}

#[test]
fn typed_values_are_inserted_without_fail() {
    let slabs = slabs(FRAMES);
    let counters = slabs.typed::<Counter>("counters", true).unwrap();
    let mut reserved = counters.reserve(150).unwrap();
    let frames = hog(&slabs);
    let others = exhaust(&counters.cache());
    let mine: Vec<_> = (0..150).map(|n| reserved.insert(Counter { count: n }).unwrap()).collect();
    let back = reserved.insert(Counter { count: 7 }).err();
    assert_eq!((reserved.remaining(), back.map(|value| value.count)), (0, Some(7)));
    assert!(mine.iter().zip(0..).all(|(value, n)| value.count == n));
    drop(mine);
    free(&counters.cache(), others);
    release(&slabs, frames);
    assert_eq!(add_up(&counters.cache()).live, 0);
}

#[test]
fn two_cpus_reserve_and_allocate_while_both_use_the_cache() {
    const ROUNDS: usize = 200;
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(CacheSpec::new("things", 64).preserving(true)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let work = |seed: usize| {
            move || {
                for round in 0..ROUNDS {
                    let count = (seed * 31 + round * 7) % 300;
                    let mut reserved = cache.reserve(count).unwrap();
                    let taken = count - count % 5;
                    let mine: Vec<_> = (0..taken).map(|_| reserved.alloc().unwrap()).collect();
                    for object in &mine {
                        // SAFETY: allocated just now, of 64 bytes.
                        unsafe { object.cast::<usize>().write(seed) };
                    }
                    let others: Vec<_> = (0..64).map(|_| cache.alloc().unwrap()).collect();
                    for object in &mine {
                        // SAFETY: as above.
                        assert_eq!(unsafe { object.cast::<usize>().read() }, seed);
                    }
                    free(&cache, others);
                    drop(reserved);
                    free(&cache, mine);
                }
            }
        };
        let pair = [s.spawn(work(1)), s.spawn(work(2))];
        // A reservation that was made here is used and dropped there.
        let moved = cache.reserve(10).unwrap();
        let third = s.spawn(move || {
            let mut moved = moved;
            let object = moved.alloc().unwrap();
            free(&moved.cache(), vec![object]);
        });
        let shrinking = s.spawn(|| {
            while !done.load(Acquire) {
                cache.shrink();
            }
        });
        third.join().unwrap();
        for thread in pair {
            thread.join().unwrap();
        }
        // Release pairs with the Acquire above.
        done.store(true, Release);
        shrinking.join().unwrap();
    });
    let stats = add_up(&cache);
    assert_eq!((stats.live, stats.reserved), (0, 0));
}

#[test]
fn of_a_cache_that_is_destroyed_nothing_is_reserved() {
    let slabs = Slabs::new(Ram::memory(&Ram::frames(1024)).unwrap()).unwrap();
    let cache = slabs.cache(CacheSpec::new("names", 64)).unwrap();
    let object = cache.alloc().unwrap();
    // SAFETY: allocated above; neither it nor another object of the cache is used again.
    unsafe {
        cache.free(object).unwrap();
        cache.destroy().unwrap();
    }
    slabs.memory().drain();
    let used = slabs.memory().stats().used();
    assert!(matches!(cache.reserve(1), Err(Error::Destroyed { .. })));
    assert_eq!(slabs.memory().stats().used(), used);
}
