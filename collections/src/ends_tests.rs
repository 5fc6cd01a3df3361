//! Kernels that end while a container is cleared, shrunk or destroyed: what is left can be opened, and then freed, to the last object.

use core::alloc::Layout;
use std::cell::Cell;
use std::vec::Vec as StdVec;

use heirloom_folio::harness::Ram;
use heirloom_kho::Handle;
use heirloom_slab::{AllocOptions, Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::testing::{Rest, boot, in_use, stop};
use crate::{Error, Log, Map, Pool, Vec, watch};

const FRAMES: u64 = 192;
/// Frames where there is a directory.
const MANY: u64 = 512;

/// An element of which few have room in a chunk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Long {
    words: [u64; 512],
}
persist!(Long { words });

/// Runs `act` with a pool, and at each of its stores, or one in so many, ends the kernel: `look` is what the next one does. That
/// one ends as well, at each of its stores.
fn at_each_store(
    (slabs, frames): (&Slabs<Ram>, u64),
    pool: &Pool<'_, Ram>,
    stride: u32,
    act: impl FnOnce(&Pool<'_, Ram>),
    look: impl Fn(&Pool<'_, Ram>),
) {
    let (stores, stops, deaths) = (Cell::new(0), Cell::new(0), Cell::new(0));
    watch::during(
        &|| {
            stores.set(stores.get() + 1);
            if stores.get() % stride != 0 {
                return;
            }
            let next = stop(slabs, frames).revive();
            let again = || {
                let last = stop(&next, frames).revive();
                look(&Pool::open(&last).unwrap());
                nothing_is_left(&last);
                deaths.set(deaths.get() + 1);
            };
            let pool = Pool::open(&next).unwrap();
            if stops.get() % 16 == 1 {
                watch::during(&again, || look(&pool));
            } else {
                look(&pool);
            }
            nothing_is_left(&next);
            stops.set(stops.get() + 1);
        },
        || act(pool),
    );
    std::println!("{} stops, {} in successors", stops.get(), deaths.get());
    assert!(stops.get() > 5 && deaths.get() > 5);
}

fn nothing_is_left(slabs: &Slabs<Ram>) {
    assert_eq!(in_use(slabs), 0);
    assert!(slabs.caches().all(|cache| cache.preserved().count() == 0));
}

/// Opens what may be gone as a whole.
fn opened<T>(opened: Result<T, Error>) -> Option<T> {
    match opened {
        Ok(container) => Some(container),
        Err(Error::Slab(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

fn destroy_map(pool: &Pool<'_, Ram>, handle: Handle) {
    if let Some(map) = opened(Map::<_>::open(pool, handle)) {
        let mut seen = 0;
        map.for_each(|_| seen += 1).unwrap();
        assert_eq!(seen, map.len());
        map.destroy().unwrap();
    }
}

fn map_of<'p>(pool: &'p Pool<'p, Ram>, entries: u64) -> Map<'p, Ram> {
    let mut map = Map::<_>::create(pool, 7).unwrap();
    for n in 0..entries {
        map.insert(&n.to_le_bytes(), b"value").unwrap();
    }
    map
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn a_map_is_destroyed_from_any_store_on() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let map = map_of(&pool, 84);
    let handle = map.handle();
    at_each_store(
        (&slabs, FRAMES),
        &pool,
        3,
        |_| map.destroy().unwrap(),
        |pool| destroy_map(pool, handle),
    );
    nothing_is_left(&slabs);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn a_map_is_retained_in_part_from_any_store_on() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = map_of(&pool, 84);
    let handle = map.handle();
    let keep = |key: &[u8]| key[0].is_multiple_of(3);
    let retain = |_: &Pool<'_, Ram>| map.retain(|entry| keep(entry.key())).unwrap();
    at_each_store((&slabs, FRAMES), &pool, 3, retain, |pool| {
        let Some(mut map) = opened(Map::<_>::open(pool, handle)) else { return };
        let mut kept = 0;
        map.for_each(|entry| kept += u64::from(keep(entry.key()))).unwrap();
        // (Or its successor had begun to destroy it.)
        assert!(kept == 28 || map.len() == kept);
        map.retain(|entry| keep(entry.key())).unwrap();
        assert_eq!(map.len(), kept);
        map.destroy().unwrap();
    });
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn entries_are_evicted_or_not_at_each_store() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = map_of(&pool, 84);
    let handle = map.handle();
    let evict = |_: &Pool<'_, Ram>| {
        for n in 0..20 {
            let over = |key: &[u8]| key[0].is_multiple_of(7);
            let idle = |entry: crate::Entry<'_>| (!over(entry.key())).then_some(n);
            assert!(map.evict(13, n * 7, idle).unwrap());
        }
    };
    at_each_store((&slabs, FRAMES), &pool, 3, evict, |pool| destroy_map(pool, handle));
    assert!((52..64).contains(&map.len()), "{} are left", map.len());
    map.destroy().unwrap();
    nothing_is_left(&slabs);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn a_vector_is_destroyed_from_any_store_on() {
    let slabs = boot(MANY);
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::<Long, _>::create(&pool).unwrap();
    // So many that there is a directory.
    (0..200).for_each(|n| vec.push(Long { words: [n; 512] }).unwrap());
    let handle = vec.handle();
    at_each_store(
        (&slabs, MANY),
        &pool,
        5,
        |_| vec.destroy().unwrap(),
        |pool| {
            if let Some(vec) = opened(Vec::<Long, _>::open(pool, handle)) {
                let mut seen = StdVec::new();
                vec.for_each(|element| seen.push(element.words[511])).unwrap();
                assert!(seen.is_empty() || seen.iter().copied().eq(0..200));
                vec.destroy().unwrap();
            }
        },
    );
    nothing_is_left(&slabs);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn a_log_is_destroyed_from_any_store_on() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    (0..5).for_each(|n| assert_eq!(log.append(&[n as u8; 9000]).unwrap(), n));
    let handle = log.handle();
    at_each_store(
        (&slabs, FRAMES),
        &pool,
        1,
        |_| log.destroy().unwrap(),
        |pool| {
            if let Some(log) = opened(Log::open(pool, handle)) {
                let seen = log.records().map(|record| record.unwrap().0);
                assert!(seen.eq(log.range()));
                log.destroy().unwrap();
            }
        },
    );
    nothing_is_left(&slabs);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn a_log_that_was_being_destroyed_is_opened_once_there_is_memory() {
    let (slabs, refused) = (boot(FRAMES), Cell::new(0));
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    for _ in 0..12 {
        log.append(&[7; 3000]).unwrap();
    }
    let handle = log.handle();
    let look = || {
        let next = stop(&slabs, FRAMES).revive();
        let pool = Pool::open(&next).unwrap();
        // Full, but for what this kernel needs to know of a container: no segment is free, nor memory for one.
        let spare = next.alloc(Layout::new::<[u64; 128]>(), AllocOptions::default()).unwrap();
        let mut filler = Vec::<Long, _>::create(&pool).unwrap();
        while filler.push(Long { words: [1; 512] }).is_ok() {}
        let rest = Rest::take(&next);
        // SAFETY: allocated above, and not used.
        unsafe { next.free(spare) }.unwrap();
        let first = Log::open(&pool, handle);
        drop(rest);
        filler.destroy().unwrap();
        let log = match first {
            Err(error) if error.is_out_of_memory() => {
                refused.set(refused.get() + 1);
                Some(Log::open(&pool, handle).expect("it is there"))
            }
            first => opened(first),
        };
        if let Some(log) = log {
            log.destroy().unwrap();
        }
        nothing_is_left(&next);
    };
    watch::during(&look, || log.destroy().unwrap());
    std::println!("{refused:?} refused for want of memory");
    assert!(refused.get() > 0);
}
