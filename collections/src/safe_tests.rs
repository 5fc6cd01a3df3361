//! What safe calls can be made to do beside one another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_slab::{Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::entry::NewEntry;
use crate::testing::{boot, in_use, stop};
use crate::{Error, Hash, Log, Map, Pool, Vec};

const FRAMES: u64 = 512;

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Number {
    number: u64,
}
persist!(Number { number });

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn two_pools_of_one_slabs_are_one() {
    let slabs = boot(FRAMES);
    let pools = [Pool::open(&slabs).unwrap(), Pool::open(&slabs).unwrap()];
    let mut maps = pools.each_ref().map(|pool| Map::<_>::create(pool, 7).unwrap());
    for n in 0..200 {
        for (map, value) in maps.iter_mut().zip([b"one", b"two"]) {
            map.insert(&key(n), value).unwrap();
        }
    }
    let handles = maps.each_ref().map(Map::handle);
    drop(maps);
    let slabs = stop(&slabs, FRAMES).revive();
    let pools = [Pool::open(&slabs).unwrap(), Pool::open(&slabs).unwrap()];
    // Each by the other pool, and by one of them only.
    for (at, value) in [b"one", b"two"].into_iter().enumerate() {
        let map = Map::<_>::open(&pools[1 - at], handles[at]).unwrap();
        assert!(matches!(Map::<_>::open(&pools[at], handles[at]), Err(Error::Slab(_))));
        for n in 0..200 {
            assert_eq!(map.get(&key(n)).unwrap().unwrap().value(), value);
        }
        map.destroy().unwrap();
    }
    assert_eq!(in_use(&slabs), 0);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn threads_with_a_map_each_share_a_pool_in_a_successor_too() {
    let count = 400;
    let slabs = boot(1024);
    let pool = Pool::open(&slabs).unwrap();
    let fill = |seed: u64| {
        let mut map = Map::<_>::create(&pool, seed).unwrap();
        for n in 0..count {
            map.insert(&key(n), &key(seed)).unwrap();
            if n % 3 == 0 {
                map.remove(&key(n / 2)).unwrap();
            }
        }
        (map.handle(), map.len())
    };
    let left = thread::scope(|scope| {
        let all = std::array::from_fn::<_, 4, _>(|at| scope.spawn(move || fill(at as u64)));
        all.map(|thread| thread.join().unwrap())
    });
    let slabs = stop(&slabs, 1024).revive();
    let pool = Pool::open(&slabs).unwrap();
    thread::scope(|scope| {
        for (seed, (handle, len)) in left.into_iter().enumerate() {
            let pool = &pool;
            scope.spawn(move || {
                let mut map = Map::<_>::open(pool, handle).unwrap();
                assert_eq!(map.len(), len);
                // Readers beside one another are the first to look at each bucket.
                thread::scope(|scope| {
                    for _ in 0..3 {
                        let map = &map;
                        scope.spawn(move || {
                            let mut seen = 0;
                            map.for_each(|entry| {
                                assert_eq!(entry.value(), key(seed as u64));
                                entry.set_mark(entry.mark() + 1);
                                seen += 1;
                            })
                            .unwrap();
                            assert_eq!(seen, len);
                        });
                    }
                });
                map.clear().unwrap();
                map.destroy().unwrap();
            });
        }
    });
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn of_threads_that_change_a_mark_by_what_it_was_none_undoes_anothers_change() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    map.insert_marked(b"key", b"value", 1).unwrap();
    let times = if cfg!(miri) { 20 } else { 20_000 };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let entry = map.get(b"key").unwrap().unwrap();
                let add = || {
                    let mark = entry.mark();
                    entry.replace_mark(mark, mark + 1)
                };
                for _ in 0..times {
                    while !add() {}
                }
            });
        }
    });
    let entry = map.get(b"key").unwrap().unwrap();
    assert_eq!(entry.mark(), 1 + 3 * times);
    assert!(!entry.replace_mark(0, 9));
    assert_eq!(entry.mark(), 1 + 3 * times);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn a_pool_that_is_opened_too_late_has_what_was_kept_in_the_kernel_after() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    (0..100).for_each(|n| assert!(!map.insert(&key(n), b"kept").unwrap()));
    let kept = map.handle();
    drop(map);

    let slabs = stop(&slabs, FRAMES).revive();
    slabs.finish_inherited(|_| Disposition::Keep).unwrap();
    let pool = Pool::open(&slabs).unwrap();
    let late = Map::<_>::open(&pool, kept);
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    (0..100).for_each(|n| assert!(!map.insert(&key(n), b"new").unwrap()));
    let new = map.handle();
    match late {
        // It was opened, and is whole then.
        Ok(late) => (0..100).for_each(|n| {
            assert_eq!(late.get(&key(n)).unwrap().unwrap().value(), b"kept");
        }),
        Err(error) => assert!(matches!(error, Error::Slab(_)), "{error:?}"),
    }
    drop(map);

    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    for (handle, value) in [(kept, &b"kept"[..]), (new, b"new")] {
        let map = Map::<_>::open(&pool, handle).unwrap();
        for n in 0..100 {
            assert_eq!(map.get(&key(n)).unwrap().unwrap().value(), value);
        }
        map.destroy().unwrap();
    }
    assert_eq!(in_use(&slabs), 0);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn the_shortest_and_the_longest_keys_and_values_are_there() {
    let slabs = boot(4096);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let longest = std::vec![7; NewEntry::MAX_KEY];
    for key in [&[][..], &longest[..1], &longest] {
        let room = heirloom_slab::MAX_OBJECT - 24 - key.len();
        for bytes in [0, 1, room - 1, room] {
            let value = std::vec![bytes as u8; bytes];
            map.insert_marked(key, &value, u64::MAX).unwrap();
            let entry = map.get(key).unwrap().unwrap();
            assert_eq!((entry.key(), entry.value(), entry.mark()), (key, &value[..], u64::MAX));
        }
        for bytes in [room + 1, 2 * room + 100] {
            let error = map.insert(key, &std::vec![0; bytes]).unwrap_err();
            assert!(matches!(error, Error::TooLong { max, .. } if max == room), "{error:?}");
        }
        assert_eq!(map.get(key).unwrap().unwrap().value().len(), room);
    }
    let error = map.insert(&std::vec![7; NewEntry::MAX_KEY + 1], b"").unwrap_err();
    assert!(matches!(error, Error::TooLong { max: NewEntry::MAX_KEY, .. }), "{error:?}");
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, 4096).revive();
    let pool = Pool::open(&slabs).unwrap();
    let map = Map::<_>::open(&pool, handle).unwrap();
    assert_eq!(map.len(), 3);
    assert_eq!(map.get(&longest).unwrap().unwrap().key(), longest);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

std::thread_local! {
    static PANICS: AtomicBool = const { AtomicBool::new(false) };
}

/// A hash of few values, which panics when it is told to.
struct Bad;

impl Hash for Bad {
    const NAME: u64 = 1;

    fn hash(_: u64, key: &[u8]) -> u64 {
        assert!(!PANICS.with(|panics| panics.load(Ordering::Relaxed)), "by the hash");
        u64::from(key[0] % 2) << 60
    }
}

fn panicking<R>(act: impl FnOnce() -> R) {
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    assert!(panicked.is_err());
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn callers_that_panic_leave_a_map_as_it_was() {
    let slabs: Slabs<Ram> = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Bad>::create(&pool, 7).unwrap();
    let mut other = Map::<_, Bad>::create(&pool, 7).unwrap();
    // All of them in two buckets, whatever is split.
    for n in 0..300 {
        map.insert(&key(n), b"value").unwrap();
    }
    let set = |to| PANICS.with(|panics| panics.store(to, Ordering::Relaxed));
    set(true);
    panicking(|| map.insert(&key(1), b"another"));
    panicking(|| map.insert(&key(1000), b"another"));
    panicking(|| map.remove(&key(1)));
    set(false);
    let mut seen = 0;
    panicking(|| map.for_each(|_| panic!("by the closure")));
    panicking(|| {
        map.retain(|entry| {
            // What is kept goes to another map of the same pool.
            other.insert(entry.key(), entry.value()).unwrap();
            seen += 1;
            assert!(seen < 100, "by the closure");
            seen % 2 == 0
        })
    });
    assert_eq!((map.len(), other.len()), (250, 100));
    let mut found = 0;
    map.for_each(|_| found += 1).unwrap();
    assert_eq!(found, 250);
    let handles = [map.handle(), other.handle()];
    drop((map, other));
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    for handle in handles {
        assert!(matches!(Map::<_>::open(&pool, handle), Err(Error::Mismatch { .. })));
    }
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    for (handle, len) in handles.into_iter().zip([250, 100]) {
        let map = Map::<_, Bad>::open(&pool, handle).unwrap();
        let mut found = 0;
        map.for_each(|_| found += 1).unwrap();
        assert_eq!((map.len(), found), (len, len));
        map.destroy().unwrap();
    }
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn a_container_in_use_outlives_what_is_let_go() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::<Number, _>::create(&pool).unwrap();
    let mut log = Log::create(&pool).unwrap();
    for number in 0..100 {
        vec.push(Number { number }).unwrap();
        log.append(&key(number)).unwrap();
    }
    let handles = [vec.handle(), log.handle()];
    let unopened = Map::<_>::create(&pool, 7).unwrap().handle();
    drop((vec, log));
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    let vec = Vec::<Number, _>::open(&pool, handles[0]).unwrap();
    let log = Log::open(&pool, handles[1]).unwrap();
    let mut told = 0;
    slabs
        .finish_inherited(|_| {
            told += 1;
            Disposition::Free
        })
        .unwrap();
    assert_eq!(told, 1, "the map, which was not opened");
    assert!(matches!(Map::<_>::open(&pool, unopened), Err(Error::Slab(_))));
    for number in 0..100 {
        assert_eq!(vec.get(number).unwrap(), Some(&Number { number }));
    }
    assert_eq!(log.records().count(), 100);
    vec.destroy().unwrap();
    log.destroy().unwrap();
    assert!(slabs.caches().all(|cache| cache.preserved().count() == 0));
}
