//! Caches that end: what is refused, what is given back, what goes on in the next of the same description, and what a
//! successor finds.

mod common;

use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use common::{slabs, successor};
use heirloom_folio::FrameType;
use heirloom_folio::harness::Ram;
use heirloom_slab::{AllocOptions, Cache, CacheSpec, Error, Slabs};

const SPEC: CacheSpec = CacheSpec::new("ends", 200);
const KEPT: CacheSpec = CacheSpec::new("ends preserved", 200).preserving(true);

fn used(slabs: &Slabs<Ram>) -> u64 {
    slabs.memory().stats().used()
}

fn destroy(cache: &Cache<'_, Ram>) -> Result<(), Error> {
    // SAFETY: these tests use a cache from one thread at a time.
    unsafe { cache.destroy() }
}

fn many(cache: &Cache<'_, Ram>, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.alloc().unwrap()).collect()
}

fn free(cache: &Cache<'_, Ram>, objects: Vec<NonNull<u8>>) {
    for object in objects {
        // SAFETY: allocated by `many`, and not used again.
        unsafe { cache.free(object) }.unwrap();
    }
}

#[test]
fn while_an_object_is_in_use_the_cache_goes_on() {
    let slabs = slabs(1024);
    let cache = slabs.cache(SPEC).unwrap();
    let objects = many(&cache, 1000);
    assert_eq!(destroy(&cache), Err(Error::CacheInUse { cache: cache.name(), objects: 1000 }));
    // All is as it was.
    assert_eq!(cache.stats().live, 1000);
    free(&cache, many(&cache, 10));
    free(&cache, objects);
    assert_eq!(destroy(&cache), Ok(()));
}

#[test]
fn slabs_and_magazines_are_free_memory_again_of_every_cpu() {
    let slabs = slabs(4096);
    // The tracker's nodes are there, and stay.
    let stays = slabs.cache(KEPT_TOO).unwrap();
    let _kept = many(&stays, 1);
    let caches = [SPEC, KEPT].map(|spec| slabs.cache(spec).unwrap());
    for cache in caches {
        // Before the first object there is a control block, and nothing else.
        let before = used(&slabs);
        free(&cache, many(&cache, 3000));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| free(&cache, many(&cache, 500)));
            }
        });
        assert!(used(&slabs) > before + cache.slab_order().frames());
        assert_eq!(destroy(&cache), Ok(()));
        // Where it was in the cache directory: a page for its slabs.
        assert_eq!(used(&slabs) - before, u64::from(cache.is_preserving()));
        let audit = slabs.memory().audit().unwrap();
        let kept = stays.slab_order().frames();
        assert_eq!(audit.allocated[FrameType::Slab as usize], kept, "the one that is kept");
    }
    assert_eq!(slabs.caches().count(), 1);
}

#[test]
fn a_copy_of_what_was_destroyed_says_so() {
    let slabs = slabs(1024);
    let cache = slabs.cache(SPEC).unwrap();
    let object = cache.alloc().unwrap();
    free(&cache, vec![object]);
    destroy(&cache).unwrap();
    let over = Error::Destroyed { cache: cache.name() };
    assert_eq!(cache.alloc(), Err(over));
    assert_eq!(destroy(&cache), Err(over));
    assert_eq!(cache.shrink(), 0);
    // SAFETY: no object any more, which is what is tried.
    assert!(matches!(unsafe { cache.free(object) }, Err(Error::NotAnObject { .. })));
}

#[test]
fn the_next_of_the_same_description_costs_nothing_and_has_a_constructor_of_its_own() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let slabs = slabs(1024);
    let mut after = None;
    for round in 0..50 {
        let cache = slabs.cache(KEPT).unwrap();
        free(&cache, many(&cache, 700));
        destroy(&cache).unwrap();
        assert_eq!(*after.get_or_insert(used(&slabs)), used(&slabs), "round {round}");
    }
    let cache = slabs.cache(KEPT.constructor(|_| _ = CALLS.fetch_add(1, Relaxed))).unwrap();
    free(&cache, many(&cache, 1));
    let calls = CALLS.load(Relaxed);
    assert_eq!(calls, cache.objects_per_slab() as usize);
    assert!(matches!(slabs.cache(KEPT), Err(Error::Mismatch { .. })));
    destroy(&cache).unwrap();
    let cache = slabs.cache(KEPT).unwrap();
    free(&cache, many(&cache, 1));
    assert_eq!(CALLS.load(Relaxed), calls, "called no more");
    let more = cache.slab_order().frames() + 1;
    assert_eq!(*after.get_or_insert(0) + more, used(&slabs), "a slab and a page of magazines");
}

#[test]
fn another_layout_of_the_same_name_is_another_cache() {
    let slabs = slabs(1024);
    let cache = slabs.cache(SPEC).unwrap();
    assert!(matches!(slabs.cache(CacheSpec::new("ends", 96)), Err(Error::Mismatch { .. })));
    destroy(&cache).unwrap();
    let other = slabs.cache(CacheSpec::new("ends", 96)).unwrap();
    assert_eq!((other.object_size(), slabs.caches().count()), (96, 1));
    free(&other, many(&other, 10));
    destroy(&other).unwrap();
    assert_eq!(slabs.cache(SPEC).unwrap().object_size(), 200);
}

#[test]
fn a_size_class_is_never_destroyed() {
    let slabs = slabs(1024);
    let buffer =
        slabs.alloc(core::alloc::Layout::new::<[u64; 8]>(), AllocOptions::default()).unwrap();
    let class = slabs.caches().next().unwrap();
    // SAFETY: allocated just now.
    unsafe { slabs.free(buffer) }.unwrap();
    assert_eq!(destroy(&class), Err(Error::ReservedName { cache: class.name() }));
}

#[test]
fn a_successor_finds_no_object_of_it_and_what_was_left_to_it_keeps_it() {
    let slabs = slabs(2048);
    let (gone, left) = (slabs.cache(KEPT).unwrap(), slabs.cache(KEPT_TOO).unwrap());
    free(&gone, many(&gone, 700));
    destroy(&gone).unwrap();
    let objects = many(&left, 3);
    assert_eq!(destroy(&left), Err(Error::CacheInUse { cache: left.name(), objects: 3 }));
    drop(objects);
    let slabs = successor(slabs, 2048).unwrap();
    let (gone, adopted) = slabs.adopt(KEPT).unwrap();
    assert_eq!((adopted.slabs, adopted.unclaimed), (0, 0));
    assert_eq!(destroy(&gone), Ok(()));
    // Not adopted yet: what it is left keeps the cache of that name.
    let left = slabs.cache(KEPT_TOO).unwrap();
    assert_eq!(destroy(&left), Err(Error::CacheInUse { cache: left.name(), objects: 0 }));
    let (left, adopted) = slabs.adopt(KEPT_TOO).unwrap();
    assert_eq!(adopted.unclaimed, 3);
    assert_eq!(destroy(&left), Err(Error::CacheInUse { cache: left.name(), objects: 3 }));
    for (addr, _) in left.unclaimed().collect::<Vec<_>>() {
        free(&left, vec![left.claim(addr).unwrap()]);
    }
    assert_eq!(destroy(&left), Ok(()));
    // Begun again, it is free to resume.
    assert!(slabs.resume_or_create(KEPT_TOO).is_ok());
}

const KEPT_TOO: CacheSpec = CacheSpec::new("ends later", 72).preserving(true);

#[test]
fn what_is_resumed_ends_like_anything_else() {
    let slabs = slabs(2048);
    many(&slabs.cache(KEPT).unwrap(), 700);
    let slabs = successor(slabs, 2048).unwrap();
    let cache = slabs.resume(KEPT).unwrap();
    assert_eq!(destroy(&cache), Err(Error::CacheInUse { cache: cache.name(), objects: 700 }));
    let objects: Vec<_> =
        cache.preserved().map(|(addr, tag)| cache.at(addr, tag).unwrap()).collect();
    free(&cache, objects);
    assert_eq!(destroy(&cache), Ok(()));
}

/// Calls about something else that take memory back come to every cache.
#[test]
fn a_cache_ends_while_other_threads_take_memory_back() {
    let slabs = slabs(4096);
    let others = slabs.cache(CacheSpec::new("others", 64)).unwrap();
    let going_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while going_on.load(Relaxed) {
                    free(&others, many(&others, 50));
                    slabs.shrink();
                }
            });
        }
        for round in 0..300 {
            let cache = slabs.cache(KEPT).unwrap();
            let objects = many(&cache, 150);
            assert!(matches!(destroy(&cache), Err(Error::CacheInUse { .. })), "round {round}");
            free(&cache, objects);
            while let Err(error) = destroy(&cache) {
                // Another thread is about to take memory back.
                assert_eq!(error, Error::CacheInUse { cache: cache.name(), objects: 0 });
                std::thread::yield_now();
            }
        }
        going_on.store(false, Relaxed);
    });
    assert_eq!(others.stats().live, 0);
    destroy(&others).unwrap();
    assert_eq!(slabs.memory().audit().unwrap().allocated[FrameType::Slab as usize], 0);
}

/// What each CPU is asked for where a cache is to give everything back without being destroyed.
#[test]
fn a_cpu_empties_what_it_keeps_and_no_other_does() {
    let slabs = slabs(4096);
    let cache = slabs.cache(SPEC).unwrap();
    let (filled, flushed) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            free(&cache, many(&cache, 40));
            filled.wait();
            flushed.wait();
            assert!(cache.stats().cached > 0, "this thread's are there");
            assert!(slabs.flush());
            assert_eq!(cache.stats().cached, 0);
        });
        free(&cache, many(&cache, 40));
        filled.wait();
        let both = cache.stats().cached;
        assert!(slabs.flush());
        assert!((1..both).contains(&cache.stats().cached), "of both {both}");
        flushed.wait();
    });
    assert!(cache.shrink() > 0);
    assert_eq!(cache.stats().slabs, 0);
}

/// Whichever call begins it again, all have the same one, with what it was begun with.
#[test]
fn of_calls_at_once_that_ask_for_what_was_destroyed_each_gets_the_same_cache() {
    const THREADS: usize = 4;
    let slabs = slabs(1024);
    for round in 0..if cfg!(miri) { 4 } else { 2000 } {
        let cache = slabs.cache(SPEC).unwrap();
        free(&cache, many(&cache, 1));
        destroy(&cache).unwrap();
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            let asks = || {
                start.wait();
                let cache = slabs.cache(SPEC);
                cache.map(|cache| cache.into_raw().addr())
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(asks)).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), Ok(cache.into_raw().addr()), "round {round}");
            }
        });
        assert_eq!(slabs.caches().count(), 1, "round {round}");
    }
}
