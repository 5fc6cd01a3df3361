//! Readers beside a writer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::vec::Vec as StdVec;

use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Handle, Parts};
use heirloom_slab::{Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::head::at;
use crate::link::Link;
use crate::testing::{Dice, Rest, boot, in_use, stop};
use crate::{Error, Hash, Log, LogReader, Map, MapReader, Pool, Vec, VecReader, Xxh3};

/// Handles of readers go to other threads, and are shared by them.
const _: () = {
    const fn is_for_threads<T: Send + Sync + Clone>() {}
    is_for_threads::<MapReader<'_, Ram>>();
    is_for_threads::<LogReader<'_, Ram>>();
    is_for_threads::<VecReader<'_, Quad, Ram>>();
};

const FRAMES: u64 = if cfg!(miri) { 192 } else { 1024 };
const MANY: u64 = if cfg!(miri) { 3 } else { 400 };
const STEPS: u64 = if cfg!(miri) { 25 } else { 100 * MANY };

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

/// Returns a value that names its key, and shows whether it is whole: its first byte is its length, and each byte behind is the key.
fn value(n: u64, version: u64) -> StdVec<u8> {
    let length = 1 + version % 60;
    let mut bytes = std::vec![(n % 251) as u8; length as usize];
    bytes[0] = length as u8;
    bytes
}

fn is_value(n: u64, bytes: &[u8]) -> bool {
    usize::from(bytes[0]) == bytes.len() && bytes[1..].iter().all(|byte| *byte == (n % 251) as u8)
}

/// A hash by which eight buckets of sixteen have all keys: many lines, which close up.
struct Narrow;

impl Hash for Narrow {
    const NAME: u64 = 2;

    fn hash(seed: u64, key: &[u8]) -> u64 {
        Xxh3::hash(seed, key) & !8
    }
}

/// Looks at keys that stay, and at those that come and go, until the writer has done.
fn look<H: Hash>(reader: &MapReader<'_, Ram, H>, done: &AtomicBool, seed: u64) -> u64 {
    let (mut dice, mut looks) = (Dice(seed), 0);
    while !done.load(Ordering::Relaxed) {
        let visit = reader.enter();
        for _ in 0..20 {
            let n = dice.below(3 * MANY);
            let found = visit.get(&key(n)).unwrap();
            assert!(found.is_some() || n >= MANY, "key {n} stays");
            if let Some(entry) = found {
                assert!(entry.key() == key(n) && is_value(n, entry.value()), "key {n} is whole");
            }
            looks += 1;
        }
        drop(visit);
        if looks % 400 == 0 {
            let (mut all, visit) = (std::collections::BTreeSet::new(), reader.enter());
            visit
                .for_each(|entry| {
                    let n = u64::from_le_bytes(entry.key().try_into().unwrap());
                    assert!(is_value(n, entry.value()), "key {n} is whole");
                    all.insert(n);
                })
                .unwrap();
            assert!((0..MANY).all(|n| all.contains(&n)), "what stays is seen");
        }
    }
    looks
}

/// What a scan calls is slow beside the writer: here, it is the writer.
fn scanned_while_it_grows<H: Hash>(pool: &Pool<'_, Ram>, seed: u64, more: u64) {
    const STAY: u64 = 80;
    let mut map = Map::<_, H>::create(pool, seed).unwrap();
    for n in 0..STAY {
        map.insert(&key(n), b"").unwrap();
    }
    let (mut writer, reader) = map.split().unwrap();
    let (visit, mut found) = (reader.enter(), std::collections::BTreeSet::new());
    let (mut next, mut cursor) = (STAY, 0);
    let end = STAY + more;
    loop {
        let (mut calls, buckets) = (0, writer.map().len() / 5);
        cursor = visit
            .scan(cursor, |entry| {
                found.insert(u64::from_le_bytes(entry.key().try_into().unwrap()));
                calls += 1;
                // Six more entries: another bucket.
                for _ in 0..6 {
                    if next < end {
                        writer.insert(&key(next), b"").unwrap();
                        next += 1;
                    }
                }
            })
            .unwrap();
        // (A bucket is split, and looked at again, once for each time that the map becomes twice as large.)
        assert!(calls < 120, "{calls} calls for a bucket of a map that had {buckets}, seed {seed}");
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(next, end, "the map grew");
    assert!((0..STAY).all(|n| found.contains(&n)), "what stays is seen, seed {seed}");
    drop(visit);
    assert!(writer.reclaim().unwrap(), "no reader is in");
    drop(writer);
    map.destroy().unwrap();
}

#[test]
fn a_scan_sees_what_stays_and_calls_for_a_bucket_a_few_times_however_fast_the_map_grows() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    for seed in 0..MANY.div_ceil(10) {
        // Of what moves once within its bucket, and does not go on to one that is scanned later.
        scanned_while_it_grows::<Narrow>(&pool, seed, 6);
    }
    scanned_while_it_grows::<Xxh3>(&pool, 0, 20 * MANY);
    scanned_while_it_grows::<Narrow>(&pool, 0, 20 * MANY);
}

fn readers_beside_a_writer<H: Hash>(map: &mut Map<'_, Ram, H>) {
    let mut dice = Dice(0x5eed_0040);
    for n in 0..MANY {
        map.insert(&key(n), &value(n, n)).unwrap();
    }
    let (done, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut writer, reader) = map.split().unwrap();
    let mut model = BTreeMap::new();
    thread::scope(|scope| {
        for seed in 0..2 {
            let (reader, done, looks) = (reader.clone(), &done, &looks);
            scope.spawn(move || {
                looks.fetch_add(look(&reader, done, 0x5eed_0041 + seed), Ordering::Relaxed);
            });
        }
        for step in 0..STEPS {
            let n = dice.below(3 * MANY);
            if n < MANY {
                assert!(writer.insert(&key(n), &value(n, step)).unwrap());
            } else if dice.below(2) == 0 {
                writer.insert(&key(n), &value(n, step)).unwrap();
                model.insert(n, step);
            } else {
                assert_eq!(writer.remove(&key(n)).unwrap(), model.remove(&n).is_some());
            }
            if cfg!(miri) {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    std::println!("{looks:?} looks beside {STEPS} operations, seeds 0x5eed0040 to 42");
    assert!(writer.reclaim().unwrap(), "no reader is in");
    for (n, step) in &model {
        assert_eq!(writer.map().get(&key(*n)).unwrap().unwrap().value(), value(*n, *step));
    }
    assert_eq!(reader.len(), MANY + model.len() as u64);
}

#[test]
fn readers_find_what_stays_and_what_is_whole() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    readers_beside_a_writer(&mut map);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn readers_find_what_is_moved_within_a_bucket() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Narrow>::create(&pool, 7).unwrap();
    readers_beside_a_writer(&mut map);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn readers_find_what_a_predecessor_left() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Narrow>::create(&pool, 7).unwrap();
    (0..3 * MANY).for_each(|n| assert!(!map.insert(&key(n), &value(n, n)).unwrap()));
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Narrow>::open(&pool, handle).unwrap();
    // No bucket was looked at in this kernel: the writer does, one after the other.
    let done = AtomicBool::new(false);
    let (mut writer, reader) = map.split().unwrap();
    thread::scope(|scope| {
        let others = [1, 2].map(|seed| {
            let (reader, done) = (reader.clone(), &done);
            scope.spawn(move || look(&reader, done, 0x5eed_0050 + seed))
        });
        for n in (MANY..3 * MANY).chain(MANY..6 * MANY) {
            if n % 3 == 0 {
                writer.remove(&key(n)).unwrap();
            } else {
                writer.insert(&key(n), &value(n, n + 1)).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(others.map(|other| other.join().unwrap()).iter().all(|looks| *looks > 0));
    });
    drop(writer);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn what_is_removed_is_freed_once_the_readers_of_that_time_have_left() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    (0..60).for_each(|n| assert!(!map.insert(&key(n), b"value").unwrap()));
    let before = in_use(&slabs);
    let (mut writer, reader) = map.split().unwrap();
    let visit = reader.enter();
    let entries: StdVec<_> = (0..60).map(|n| visit.get(&key(n)).unwrap().unwrap()).collect();
    for n in 0..60 {
        assert!(writer.remove(&key(n)).unwrap());
        // Each removal beside other readers, that come and go.
        assert!(reader.clone().get(&key(n)).unwrap().is_none());
    }
    assert!(!writer.reclaim().unwrap());
    assert!(in_use(&slabs) >= before, "all of them are there");
    for (n, entry) in (0..60).zip(&entries) {
        assert_eq!((entry.key(), entry.value()), (&key(n)[..], &b"value"[..]));
        entry.set_mark(n);
    }
    let late = reader.enter();
    drop(visit);
    assert!(!writer.reclaim().unwrap(), "the late one may have come before some were removed");
    drop(late);
    assert!(writer.reclaim().unwrap());
    assert_eq!(in_use(&slabs), before - 60);
}

#[test]
fn a_visit_that_is_forgotten_or_a_writer_costs_memory_until_the_map_ends() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    map.insert(&key(0), b"stays").unwrap();
    let before = in_use(&slabs);
    for forget_writer in [false, true] {
        let (mut writer, reader) = map.split().unwrap();
        std::mem::forget(reader.enter());
        std::mem::forget(reader.get(&key(0)).unwrap());
        for n in 1..50 {
            writer.insert(&key(n), b"goes").unwrap();
            writer.remove(&key(n)).unwrap();
        }
        assert!(!writer.reclaim().unwrap() && in_use(&slabs) >= before + 49);
        if forget_writer {
            std::mem::forget(writer);
        }
    }
    // The next one begins anew.
    let (mut writer, reader) = map.split().unwrap();
    assert_eq!(in_use(&slabs), before);
    assert!(reader.contains(&key(0)).unwrap() && writer.reclaim().unwrap());
    let visit = reader.enter();
    writer.remove(&key(0)).unwrap();
    drop(writer);
    drop(visit);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
    slabs.shrink();
    slabs.memory().audit().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn a_removal_without_memory_to_name_it_has_changed_nothing() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    (0..40).for_each(|n| assert!(!map.insert(&key(n), b"value").unwrap()));
    let (mut writer, reader) = map.split().unwrap();
    let visit = reader.enter();
    let mut rest = Rest::take(&slabs);
    let mut n = 0;
    let refused = loop {
        match writer.remove(&key(n)) {
            Ok(removed) => assert!(removed),
            Err(error) => break error,
        }
        n += 1;
    };
    // Both sets of the head are full, and there is no line for more.
    assert!(refused.is_out_of_memory() && n == 18, "{refused:?} at {n}");
    assert_eq!(visit.get(&key(n)).unwrap().unwrap().value(), b"value");
    assert_eq!(reader.len(), 40 - n);
    drop(visit);
    // No reader is in: what was named makes room.
    assert!(writer.remove(&key(n)).unwrap());
    rest.give();
    drop(writer);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn more_readers_than_there_are_words_share_them() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    map.insert(&key(0), b"value").unwrap();
    let before = in_use(&slabs);
    let (mut writer, reader) = map.split().unwrap();
    let readers: StdVec<_> = (0..100).map(|_| reader.clone()).collect();
    let visits: StdVec<_> = readers.iter().map(MapReader::enter).collect();
    writer.remove(&key(0)).unwrap();
    for visit in visits {
        assert!(!writer.reclaim().unwrap());
        drop(visit);
    }
    assert!(writer.reclaim().unwrap());
    assert_eq!(in_use(&slabs), before - 1);
}

#[test]
fn what_is_cleared_stays_for_the_readers_of_that_time_and_no_others() {
    let count = if cfg!(miri) { 90 } else { 1400 };
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    (0..count).for_each(|n| assert!(!map.insert(&key(n), &value(n, n)).unwrap()));
    let before = in_use(&slabs);
    let (mut writer, reader) = map.split().unwrap();
    let visit = reader.enter();
    let entries: StdVec<_> = (0..count).map(|n| visit.get(&key(n)).unwrap().unwrap()).collect();
    writer.clear().unwrap();
    assert!(reader.is_empty() && (0..count).all(|n| reader.get(&key(n)).unwrap().is_none()));
    visit.for_each(|entry| panic!("{entry:?} is gone")).unwrap();
    assert!(in_use(&slabs) >= before, "all of them are there");
    for (n, entry) in (0..count).zip(&entries) {
        assert!(entry.key() == key(n) && is_value(n, entry.value()));
    }
    // It goes on, with the buckets that are left.
    assert!(!writer.insert(&key(0), b"new").unwrap() && !writer.reclaim().unwrap());
    drop(visit);
    assert!(writer.reclaim().unwrap());
    assert_eq!((in_use(&slabs), reader.len()), (2, 1), "a segment and an entry");
    (1..count).for_each(|n| assert!(!writer.insert(&key(n), &value(n, n)).unwrap()));
    assert!(writer.reclaim().unwrap());
    assert_eq!(in_use(&slabs), before);
    drop(writer);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn readers_beside_a_writer_that_clears_find_what_is_whole() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let (many, rounds) = (5 * MANY, if cfg!(miri) { 2 } else { 12 });
    let (done, found) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut writer, reader) = map.split().unwrap();
    thread::scope(|scope| {
        for seed in 0..2 {
            let (reader, done, found) = (reader.clone(), &done, &found);
            scope.spawn(move || {
                let mut dice = Dice(0x5eed_0070 + seed);
                while !done.load(Ordering::Relaxed) {
                    let visit = reader.enter();
                    for _ in 0..20 {
                        let n = dice.below(many);
                        if let Some(entry) = visit.get(&key(n)).unwrap() {
                            assert!(entry.key() == key(n) && is_value(n, entry.value()));
                            found.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    visit
                        .for_each(|entry| {
                            let n = u64::from_le_bytes(entry.key().try_into().unwrap());
                            assert!(is_value(n, entry.value()), "key {n} is whole");
                        })
                        .unwrap();
                }
            });
        }
        for round in 0..rounds {
            for n in 0..many {
                assert!(!writer.insert(&key(n), &value(n, n + round)).unwrap(), "it was cleared");
            }
            writer.clear().unwrap();
            assert!(reader.is_empty() && reader.get(&key(round)).unwrap().is_none());
        }
        done.store(true, Ordering::Relaxed);
    });
    std::println!("{found:?} found beside {rounds} rounds");
    assert!(writer.reclaim().unwrap());
    assert_eq!(in_use(&slabs), 1);
    drop(writer);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn a_clear_without_memory_to_name_what_goes_has_happened() {
    // Buckets in two segments.
    let count = 1400;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let handle = map.handle();
    (0..count).for_each(|n| assert!(!map.insert(&key(n), b"value").unwrap()));
    let (mut writer, reader) = map.split().unwrap();
    let visit = reader.enter();
    let entry = visit.get(&key(7)).unwrap().unwrap();
    let rest = Rest::take(&slabs);
    let mut taken = StdVec::new();
    for cache in slabs.caches() {
        taken.extend(core::iter::from_fn(|| cache.alloc().ok()));
    }
    // Both sets of the head are full, and there is no line for more.
    let refused = writer.clear().unwrap_err();
    assert!(refused.is_out_of_memory() && reader.is_empty() && entry.value() == b"value");
    // Something is linked still, and only readers may find it.
    assert!((0..count).any(|n| visit.get(&key(n)).unwrap().is_some()));
    assert!((0..count).all(|n| writer.map().get(&key(n)).unwrap().is_none()));
    assert!(!writer.remove(&key(count - 1)).unwrap());
    for object in taken {
        // SAFETY: allocated above, and not used.
        unsafe { slabs.free(object) }.unwrap();
    }
    drop(rest);
    let successor = |expected: StdVec<u64>| {
        let next = stop(&slabs, FRAMES).revive();
        let pool = Pool::open(&next).unwrap();
        let map = Map::<_>::open(&pool, handle).unwrap();
        let mut found = StdVec::new();
        map.for_each(|entry| found.push(u64::from_le_bytes(entry.key().try_into().unwrap())))
            .unwrap();
        assert_eq!(found, expected);
        map.destroy().unwrap();
        assert_eq!(in_use(&next), 0);
    };
    successor(std::vec![]);
    // The next insertion brings it to its end.
    assert!(!writer.insert(&key(1), b"new").unwrap());
    successor(std::vec![1]);
    assert!((2..count).all(|n| reader.get(&key(n)).unwrap().is_none()));
    drop(visit);
    assert!(writer.reclaim().unwrap());
    assert_eq!(in_use(&slabs), 2, "a segment and an entry");
    drop(writer);
    map.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

/// The words of a head.
fn head_word(slabs: &Slabs<Ram>, handle: Handle, word: usize) -> *mut u64 {
    let Ok(Parts::Object { addr, .. }) = handle.parts() else { panic!("{handle:?}") };
    // SAFETY: a head has so many words.
    unsafe { slabs.memory().machine().ptr(addr).cast::<u64>().add(word).as_ptr() }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn what_is_forged_as_deferred_is_freed_once_or_not() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let mut other = Map::<_>::create(&pool, 7).unwrap();
    for n in 0..100 {
        map.insert(&key(n), b"of the map").unwrap();
        other.insert(&key(n), b"of another").unwrap();
    }
    // A visit that is forgotten leaves both sets, and lines of more.
    let (mut writer, reader) = map.split().unwrap();
    std::mem::forget(reader.enter());
    (0..40).for_each(|n| assert!(writer.remove(&key(n)).unwrap()));
    std::mem::forget(writer);
    let handles = [map.handle(), other.handle()];
    // What the head names, what the lines of more name, and what is in buckets; some of another map's.
    let words = |handle, from: usize, count: usize| -> StdVec<u64> {
        // SAFETY: words of a head, or of what it leads to, which only this thread has.
        (from..from + count).map(|at| unsafe { head_word(&slabs, handle, at).read() }).collect()
    };
    let mut links = words(handles[0], at::DEFERRED, 20);
    for link in [links[19], words(handles[0], at::DIRECT, 1)[0]] {
        assert_ne!(link, 0, "a line of more, and the first segment");
        let ptr = slabs.memory().machine().ptr(Link::from_bits(link).addr()).cast::<u64>();
        // SAFETY: a line of more, or the first lines of a segment.
        let of = |at: usize| unsafe { ptr.add(at).read() };
        links.extend((2..10).map(of));
        if link == words(handles[0], at::DIRECT, 1)[0] {
            links.extend((8..60).map(of));
        }
    }
    links.extend(words(handles[0], at::DIRECT, 1));
    links.extend(words(handles[1], at::DIRECT, 1));
    let dice = &mut Dice(0x5eed_0060);
    let mut refused = 0;
    for round in 0..200 {
        let slabs = stop(&slabs, FRAMES).revive();
        for _ in 0..=round % 6 {
            let word = at::DEFERRED + dice.below(20) as usize;
            let forged = links[dice.below(links.len() as u64) as usize];
            // SAFETY: a word of a head, which no container of this kernel has yet.
            unsafe { head_word(&slabs, handles[0], word).write(forged) };
        }
        let pool = Pool::open(&slabs).unwrap();
        let other = Map::<_>::open(&pool, handles[1]).unwrap();
        match Map::<_>::open(&pool, handles[0]) {
            Ok(mut map) => {
                (40..100)
                    .for_each(|n| assert_eq!(map.get(&key(n)).unwrap().unwrap().key(), key(n)));
                for n in 0..100 {
                    map.insert(&key(n), b"new").unwrap();
                }
                map.destroy().unwrap();
            }
            Err(Error::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        (0..100).for_each(|n| {
            assert_eq!(other.get(&key(n)).unwrap().unwrap().value(), b"of another");
        });
        slabs.memory().audit().unwrap();
    }
    std::println!("{refused} of 200 refused, seed 0x5eed0060");
}

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Quad {
    words: [u64; 4],
}
persist!(Quad { words });

#[test]
fn readers_of_a_vector_find_each_element_that_was_pushed() {
    let count = if cfg!(miri) { 8 } else { 5000 };
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::<Quad, _>::create(&pool).unwrap();
    let (mut writer, reader) = vec.split();
    thread::scope(|scope| {
        for _ in 0..2 {
            let reader = reader.clone();
            scope.spawn(move || {
                let mut seen = 0;
                while seen < count {
                    if let Some(quad) = reader.get(seen).unwrap() {
                        assert_eq!(quad.words, [seen; 4]);
                        seen += 1;
                    } else {
                        thread::yield_now();
                    }
                }
            });
        }
        (0..count).for_each(|n| writer.push(Quad { words: [n; 4] }).unwrap());
    });
    assert_eq!(reader.len(), count);
    vec.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn readers_of_a_log_find_records_in_turn_and_whole() {
    let count = if cfg!(miri) { 8 } else { 3000 };
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    let record = |n: u64| std::vec![(n % 251) as u8; (n * 37 % 700) as usize];
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut writer, reader) = log.split().unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, done, rounds) = (reader.clone(), &done, &rounds);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let (visit, mut next) = (reader.enter(), None);
                    for found in visit.records().unwrap() {
                        let (number, bytes) = found.unwrap();
                        assert!(next.is_none_or(|next| next == number), "one after the other");
                        assert_eq!(bytes, record(number));
                        next = Some(number + 1);
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..count {
            assert_eq!(writer.append(&record(n)).unwrap(), n);
            if n >= 100.min(count / 2) {
                assert!(writer.pop_front().unwrap());
            }
            if cfg!(miri) {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    std::println!("{rounds:?} rounds beside {count} records");
    assert!(writer.reclaim().unwrap());
    drop(writer);
    assert_eq!(log.range(), count - 100.min(count / 2)..count);
    log.destroy().unwrap();
    assert_eq!(in_use(&slabs), 0);
}

#[test]
fn segments_that_are_left_beside_a_reader_are_freed_by_it_or_a_successor() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    let record = [7; 6000];
    (0..80).for_each(|n| assert_eq!(log.append(&record).unwrap(), n));
    let handle = log.handle();
    let (mut writer, reader) = log.split().unwrap();
    let visit = reader.enter();
    let all: StdVec<_> = visit.records().unwrap().map(Result::unwrap).collect();
    let before = in_use(&slabs);
    while writer.pop_front().unwrap() {}
    assert!(!writer.reclaim().unwrap() && in_use(&slabs) >= before);
    assert!(all.iter().enumerate().all(|(n, found)| *found == (n as u64, &record[..])));
    // The kernel ends here, or it goes on.
    let next = stop(&slabs, FRAMES).revive();
    let next_pool = Pool::open(&next).unwrap();
    let mut successor = Log::open(&next_pool, handle).unwrap();
    assert_eq!((successor.range(), in_use(&next)), (80..80, 1));
    assert_eq!(successor.append(b"on").unwrap(), 80);
    drop(visit);
    assert!(writer.reclaim().unwrap());
    assert_eq!(in_use(&slabs), 1);
    drop(writer);
    assert_eq!(log.append(b"on").unwrap(), 80);
}
