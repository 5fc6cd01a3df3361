//! A predecessor that is not to be trusted: whatever stands in the objects of containers, they are opened and used, or refused.

use std::vec::Vec as StdVec;

use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Handle, PhysAddr};
use heirloom_slab::{Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::testing::{Dice, boot, stop};
use crate::{Error, Hash, Log, Map, Pool, Vec, Xxh3};

const FRAMES: u64 = 320;

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Pair {
    first: u64,
    second: u64,
}
persist!(Pair { first, second });

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Triple {
    words: [u64; 3],
}
persist!(Triple { words });

/// A hash of another build.
struct Other;

impl Hash for Other {
    const NAME: u64 = 3;

    fn hash(seed: u64, key: &[u8]) -> u64 {
        Xxh3::hash(seed ^ 1, key)
    }
}

/// What the first kernel left: its memory, the handles, and where the objects are.
struct Left {
    slabs: Slabs<Ram>,
    handles: [Handle; 4],
    objects: StdVec<(PhysAddr, usize)>,
}

fn left(entries: u64) -> Left {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let mut other = Map::<_>::create(&pool, 8).unwrap();
    for n in 0..entries {
        map.insert(&n.to_le_bytes(), &[1; 20][..(n % 20) as usize]).unwrap();
        other.insert(&n.to_le_bytes(), b"of another").unwrap();
    }
    let mut vec = Vec::<Pair, _>::create(&pool).unwrap();
    let mut log = Log::create(&pool).unwrap();
    for n in 0..entries {
        vec.push(Pair { first: n, second: n }).unwrap();
        log.append(&[2; 900][..(n * 40 % 900) as usize]).unwrap();
    }
    let handles = [map.handle(), other.handle(), vec.handle(), log.handle()];
    drop((map, other, vec, log));
    let mut objects = StdVec::new();
    for cache in slabs.caches() {
        if cache.name().as_str().starts_with("collections-") {
            objects.extend(cache.preserved().map(|(at, _)| (at, cache.object_size())));
        }
    }
    Left { slabs, handles, objects }
}

impl Left {
    /// The successor's memory, in which a few words are not what they were.
    fn forged(&self, dice: &mut Dice) -> Slabs<Ram> {
        let slabs = stop(&self.slabs, FRAMES).revive();
        for _ in 0..=dice.below(4) {
            let (at, bytes) = self.objects[dice.below(self.objects.len() as u64) as usize];
            // Mostly where links and lengths are.
            let words = if dice.below(2) == 0 { 5 } else { bytes as u64 / 8 };
            let word = PhysAddr::new(at.get() + 8 * dice.below(words.min(bytes as u64 / 8)));
            let ptr = slabs.memory().machine().ptr(word).cast::<u64>();
            let (other, _) = self.objects[dice.below(self.objects.len() as u64) as usize];
            let other =
                slabs.memory().machine().ptr(PhysAddr::new(other.get() + 8 * dice.below(3)));
            // SAFETY: words of objects, which nothing uses yet.
            unsafe {
                let forged = match dice.below(6) {
                    0 => ptr.read() ^ 1 << dice.below(64),
                    1 => dice.below(u64::MAX),
                    2 => 0,
                    3 => u64::MAX,
                    4 => ptr.read().wrapping_add(dice.below(64)),
                    _ => other.cast::<u64>().read(),
                };
                ptr.write(forged);
            }
        }
        slabs
    }
}

/// Does everything there is with the containers. What is refused is refused.
fn use_all(slabs: &Slabs<Ram>, handles: [Handle; 4], entries: u64) -> Result<(), Error> {
    let pool = Pool::open(slabs)?;
    let mut refused = None;
    let mut note = |result: Result<(), Error>| refused = refused.take().or(result.err());
    for handle in [handles[0], handles[1]] {
        note(Map::<_>::open(&pool, handle).and_then(|mut map| {
            let mut bytes = 0;
            let seen = map.for_each(|entry| bytes += entry.key().len() + entry.value().len());
            let mut found = Ok(());
            for n in 0..entries {
                found = found.and(map.get(&n.to_le_bytes()).map(drop));
                if n % 3 == 0 {
                    found = found.and(map.remove(&n.to_le_bytes()).map(drop));
                } else {
                    found = found.and(map.insert(&n.to_le_bytes(), &[3; 30]).map(drop));
                }
            }
            for n in entries..entries + 40 {
                found = found.and(map.insert(&n.to_le_bytes(), b"new").map(drop));
            }
            seen.and(found).and(map.clear())
        }));
    }
    note(Vec::<Pair, _>::open(&pool, handles[2]).and_then(|mut vec| {
        let len = vec.len().min(2 * entries);
        for index in 0..len {
            vec.get(index)?;
        }
        vec.set(len / 2, Pair { first: 1, second: 2 })?;
        for _ in 0..40 {
            vec.push(Pair { first: 1, second: 2 })?;
        }
        vec.pop()?;
        vec.truncate(1);
        vec.shrink()
    }));
    note(Log::open(&pool, handles[3]).and_then(|mut log| {
        let mut bytes = 0;
        for record in log.records() {
            bytes += record.map_or(0, |(_, record)| record.len());
        }
        for _ in 0..entries {
            log.append(&[4; 700][..bytes % 700])?;
            log.pop_front()?;
        }
        while log.pop_front()? {}
        Ok(())
    }));
    refused.map_or(Ok(()), Err)
}

#[test]
fn any_words_in_objects_are_used_or_refused() {
    let (rounds, entries) = (500, 60);
    let left = left(entries);
    let mut dice = Dice(0x5eed_0007);
    let (mut good, mut refused) = (0, 0);
    for _ in 0..rounds {
        let slabs = left.forged(&mut dice);
        match use_all(&slabs, left.handles, entries) {
            Ok(()) => good += 1,
            Err(_) => refused += 1,
        }
    }
    std::println!("{good} used, {refused} refused");
    assert!(good > 50 && refused > 50);
}

/// What a reader has found is as it was, whatever the writer does next.
fn use_beside(slabs: &Slabs<Ram>, handles: [Handle; 4], entries: u64) -> Result<(), Error> {
    let pool = Pool::open(slabs)?;
    let mut refused = None;
    let mut note = |result: Result<(), Error>| refused = refused.take().or(result.err());
    for handle in [handles[0], handles[1]] {
        note(Map::<_>::open(&pool, handle).and_then(|mut map| {
            let (mut writer, reader) = map.split()?;
            let (mut result, mut before) = (Ok(()), reader.enter());
            for n in 0..2 * entries {
                let visit = reader.enter();
                let key = (n % entries).to_le_bytes();
                let found = before.get(&key).map(|found| {
                    found.map(|entry| (entry, entry.key().to_vec(), entry.value().to_vec()))
                });
                let done = match n % 3 {
                    0 => writer.remove(&key),
                    _ => writer.insert(&key, &[5; 33][..(n % 33) as usize]),
                };
                let more = writer.insert(&(n + entries).to_le_bytes(), b"more");
                writer.reclaim()?;
                if let Ok(Some((entry, key, value))) = &found {
                    assert_eq!((entry.key(), entry.value()), (&key[..], &value[..]));
                }
                result = result.and(found.map(drop)).and(done.map(drop)).and(more.map(drop));
                before = visit;
            }
            let mut bytes = 0;
            let seen = before.for_each(|entry| bytes += entry.value().len());
            result.and(seen)
        }));
    }
    note(Log::open(&pool, handles[3]).and_then(|mut log| {
        let (mut writer, reader) = log.split()?;
        let visit = reader.enter();
        let found: StdVec<_> = visit.records()?.take(200).map_while(Result::ok).collect();
        let copies: StdVec<_> = found.iter().map(|(_, record)| record.to_vec()).collect();
        let mut result = Ok(());
        for _ in 0..2 * entries {
            let appended = writer.append(&[6; 600]).map(drop);
            result = result.and(appended).and(writer.pop_front().map(drop));
            writer.reclaim()?;
        }
        assert!(found.iter().zip(&copies).all(|((_, record), copy)| record == copy));
        result
    }));
    refused.map_or(Ok(()), Err)
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of kernels")]
fn what_readers_find_of_forged_words_stays_as_it_was() {
    let left = left(60);
    let mut dice = Dice(0x5eed_0008);
    let (mut good, mut refused) = (0, 0);
    for _ in 0..400 {
        let slabs = left.forged(&mut dice);
        match use_beside(&slabs, left.handles, 60) {
            Ok(()) => good += 1,
            Err(_) => refused += 1,
        }
    }
    std::println!("{good} used, {refused} refused");
    assert!(good > 40 && refused > 40);
}

#[test]
fn links_of_one_container_lead_to_nothing_of_another() {
    let left = left(if cfg!(miri) { 3 } else { 40 });
    let slabs = stop(&left.slabs, FRAMES).revive();
    let heads =
        left.objects.iter().filter(|(_, bytes)| *bytes == size_of::<crate::head::HeadBytes>());
    let heads: StdVec<_> = heads.map(|(at, _)| slabs.memory().machine().ptr(*at)).collect();
    assert_eq!(heads.len(), 4);
    // Every link of the other map's head, in the first one's.
    for word in crate::head::at::DIRECT..crate::head::WORDS {
        // SAFETY: words of heads, which nothing uses yet.
        unsafe {
            let from = heads[1].cast::<u64>().add(word);
            heads[0].cast::<u64>().add(word).write(from.read());
        }
    }
    let pool = Pool::open(&slabs).unwrap();
    let opened = left.handles.iter().filter(|handle| {
        Map::<_>::open(&pool, **handle).is_ok_and(|map| map.for_each(|_| ()).is_ok())
    });
    assert_eq!(opened.count(), 1, "one of two maps is whole, and the others are none");
}

#[test]
fn a_container_is_opened_once_and_as_what_it_is() {
    let left = left(if cfg!(miri) { 3 } else { 20 });
    let slabs = stop(&left.slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    let [map, other, vec, log] = left.handles;
    drop(Map::<_>::open(&pool, map).unwrap());
    assert!(matches!(Map::<_>::open(&pool, map), Err(Error::Slab(_))));
    assert!(matches!(Map::<_>::open(&pool, vec), Err(Error::Mismatch { .. })));
    assert!(matches!(Vec::<Pair, _>::open(&pool, log), Err(Error::Mismatch { .. })));
    assert!(matches!(Log::open(&pool, Handle::from([0; 16])), Err(Error::Handle(_))));
    // What is not opened as one is there to be opened as another: by a build that tries what it knows, the newest first.
    assert!(matches!(Map::<_, Other>::open(&pool, other), Err(Error::Mismatch { .. })));
    assert!(matches!(Vec::<Triple, _>::open(&pool, vec), Err(Error::Mismatch { .. })));
    assert!(!Map::<_>::open(&pool, other).unwrap().is_empty());
    assert!(!Vec::<Pair, _>::open(&pool, vec).unwrap().is_empty());
    assert!(!Log::open(&pool, log).unwrap().is_empty());
    assert!(matches!(Log::open(&pool, log), Err(Error::Slab(_))));
}
