//! Words that a predecessor forged so that a container would free, or write to, what it leads to no more.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec as StdVec;

use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Handle, Parts, PhysAddr};
use heirloom_slab::{Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::class::Class;
use crate::head::at;
use crate::link::Link;
use crate::testing::{Dice, boot, stop};
use crate::{Error, Log, Map, Pool, Vec};

const FRAMES: u64 = 320;
/// Frames for two containers of each kind.
const MANY: u64 = 768;

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Number {
    number: u64,
}
persist!(Number { number });

/// The words of an object from one on.
struct Words<'s> {
    slabs: &'s Slabs<Ram>,
    from: PhysAddr,
}

impl<'s> Words<'s> {
    fn head(slabs: &'s Slabs<Ram>, handle: Handle) -> Self {
        let Ok(Parts::Object { addr, .. }) = handle.parts() else { panic!("{handle:?}") };
        Self { slabs, from: addr }
    }

    /// The object that a word links.
    fn behind(&self, word: usize) -> Self {
        Self { slabs: self.slabs, from: Link::from_bits(self.get(word)).addr() }
    }

    fn get(&self, word: usize) -> u64 {
        // SAFETY: a word of an object that no container of this kernel has yet.
        u64::from_le(unsafe {
            self.slabs.memory().machine().ptr(self.from).cast().add(word).read()
        })
    }

    fn set(&self, word: usize, value: u64) {
        let ptr = self.slabs.memory().machine().ptr(self.from).cast::<u64>();
        // SAFETY: as in `get`.
        unsafe { ptr.add(word).write(value.to_le()) };
    }
}

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn what_lies_behind_the_last_bucket_is_none_of_a_new_one() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let mut other = Map::<_>::create(&pool, 7).unwrap();
    for n in 0..60 {
        map.insert(&key(n), b"of the map").unwrap();
        other.insert(&key(n), b"of another").unwrap();
    }
    let handles = [map.handle(), other.handle()];
    drop((map, other));

    let slabs = stop(&slabs, FRAMES).revive();
    let [segment, others] = handles.map(|handle| Words::head(&slabs, handle).behind(at::DIRECT));
    // Line 0 is at word 8, line 16 the one behind the last bucket's.
    for line in 17..40 {
        (0..7).for_each(|word| {
            segment.set(8 + 8 * line + word, others.get(8 + 8 * (line % 16) + word));
        });
    }
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::open(&pool, handles[0]).unwrap();
    for n in 60..160 {
        map.insert(&key(n), b"more").unwrap();
    }
    let mut seen = 0;
    map.for_each(|entry| {
        assert_ne!(entry.value(), b"of another");
        seen += 1;
    })
    .unwrap();
    assert_eq!((map.len(), seen), (160, 160));
    map.destroy().unwrap();
    let other = Map::<_>::open(&pool, handles[1]).unwrap();
    for n in 0..60 {
        assert_eq!(other.get(&key(n)).unwrap().unwrap().value(), b"of another");
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri itself ends, in its emulation of weak memory")]
fn a_chunk_that_is_linked_twice_is_not_freed_by_the_second_link() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::<Number, _>::create(&pool).unwrap();
    (0..60).for_each(|n| vec.push(Number { number: n }).unwrap());
    let handle = vec.handle();
    drop(vec);

    let slabs = stop(&slabs, FRAMES).revive();
    let head = Words::head(&slabs, handle);
    head.set(at::DIRECT + 1, head.get(at::DIRECT));
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::<Number, _>::open(&pool, handle).unwrap();
    assert_eq!(vec.get(0).unwrap(), Some(&Number { number: 0 }));
    // (Refused, or not: the chunk is in use.)
    let _ = vec.shrink();
    let mut other = Vec::<Number, _>::create(&pool).unwrap();
    (0..60).for_each(|_| other.push(Number { number: 99 }).unwrap());
    for n in 0..60 {
        assert_eq!(vec.get(n).unwrap(), Some(&Number { number: n }));
    }
}

/// A log of three segments, forged; then the log that was opened, or not, beside another that may have what it freed.
fn forged_log(forge: impl Fn(&Words<'_>)) {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    for n in 0..3 {
        log.append(&[n; 9000]).unwrap();
    }
    let handle = log.handle();
    drop(log);

    let slabs = stop(&slabs, FRAMES).revive();
    forge(&Words::head(&slabs, handle));
    let pool = Pool::open(&slabs).unwrap();
    let Ok(mut log) = Log::open(&pool, handle) else { return };
    let mut others: [_; 2] = core::array::from_fn(|_| Log::create(&pool).unwrap());
    for other in &mut others {
        assert_eq!(other.append(b"of another").unwrap(), 0);
    }
    // (Refused, or not.)
    let _ = log.append(b"forged");
    for other in others {
        let records: Result<std::vec::Vec<_>, _> = other.records().collect();
        assert_eq!(records.unwrap(), [(0, &b"of another"[..])]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri itself ends, in its emulation of weak memory")]
fn the_last_segment_of_a_log_is_not_freed_by_a_name_for_it() {
    // As if it were about to be removed from the front.
    forged_log(|head| head.set(at::OLD, head.get(at::DIRECT + 1)));
}

#[test]
#[cfg_attr(miri, ignore = "Miri itself ends, in its emulation of weak memory")]
fn a_segment_behind_the_one_that_was_being_linked_does_not_free_it() {
    forged_log(|head| {
        let first = head.get(at::DIRECT);
        let second = head.behind(at::DIRECT).get(2);
        // As if the second had been linked just now. It leads on, and all was removed from it.
        head.set(at::DIRECT + 1, first);
        head.set(at::NEW, second);
        head.set(at::DIRECT, second);
        let segment = head.behind(at::DIRECT);
        segment.set(3, segment.get(4));
    });
}

#[test]
fn a_log_that_is_refused_at_its_front_is_closed_once() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    (0..3).for_each(|n| assert_eq!(log.append(&[n; 9000]).unwrap(), u64::from(n)));
    let handle = log.handle();
    drop(log);

    let slabs = stop(&slabs, FRAMES).revive();
    let first = Words::head(&slabs, handle).behind(at::DIRECT);
    // All was removed from it, and it leads to nothing of the log's.
    first.set(3, first.get(4));
    first.set(2, 1);
    let pool = Pool::open(&slabs).unwrap();
    assert!(matches!(Log::open(&pool, handle), Err(Error::Damaged { .. })));
}

/// A hash by which the keys of a test belong to a few buckets.
struct Few;

impl crate::Hash for Few {
    const NAME: u64 = 4;

    fn hash(_: u64, key: &[u8]) -> u64 {
        // Bucket 0 is the parent of bucket 16, which is added first.
        u64::from(key[0]) << 48 | if key[7] == 0 { 0 } else { u64::from(key[7]) }
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of entries")]
fn a_long_bucket_is_looked_at_a_few_times_when_a_map_is_opened_however_long() {
    let mut looks = StdVec::new();
    for entries in [700, 1400] {
        let slabs = boot(MANY);
        let pool = Pool::open(&slabs).unwrap();
        let mut map = Map::<_, Few>::create(&pool, 7).unwrap();
        for n in 0..entries {
            assert!(!map.insert(&key(n), b"value").unwrap());
        }
        let handle = map.handle();
        drop(map);
        let slabs = stop(&slabs, MANY).revive();
        // As if one bucket had been added just now: all are in its parent.
        Words::head(&slabs, handle).set(at::SIZE, 17);
        let pool = Pool::open(&slabs).unwrap();
        let before = crate::watch::lines();
        let map = Map::<_, Few>::open(&pool, handle).unwrap();
        looks.push(crate::watch::lines() - before);
        let mut seen = 0;
        map.for_each(|_| seen += 1).unwrap();
        assert_eq!((map.len(), seen), (entries, entries));
    }
    std::println!("{looks:?} lines");
    // (A hundred, and two hundred.)
    assert!(looks[0] < 1000 && looks[1] < 2 * looks[0] + 100);
}

/// As what is in a long bucket is not compared, a link there could lead to what another bucket leads to.
#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn what_another_bucket_leads_to_is_not_removed_from_a_long_one() {
    let slabs = boot(MANY);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Few>::create(&pool, 7).unwrap();
    for n in 0..600 {
        assert!(!map.insert(&key(n), b"in bucket 0").unwrap());
    }
    let other = key(5 << 56);
    assert!(!map.insert(&other, b"in bucket 5").unwrap());
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, MANY).revive();
    let segment = Words::head(&slabs, handle).behind(at::DIRECT);
    // The first bucket's links are behind eight words of the segment, and each has a line of eight.
    let mut links = (0..7).map(|place| segment.get(8 + 8 * 5 + place));
    let link = links.find(|word| *word != 0).unwrap();
    segment.set(8, link);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Few>::open(&pool, handle).unwrap();
    assert_eq!(map.get(&other).unwrap().unwrap().value(), b"in bucket 5");
    let mut seen = 0;
    let refused = map.retain(|entry| {
        seen += u32::from(entry.key() == other);
        entry.key() != other
    });
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    assert_eq!((seen, map.get(&other).unwrap().unwrap().value()), (0, &b"in bucket 5"[..]));
}

/// As what is in a long bucket is not compared, one entry may be found in it twice: idle longest, and then over.
#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn what_a_long_bucket_leads_to_twice_is_evicted_once() {
    for split in [false, true] {
        let slabs = boot(MANY);
        let pool = Pool::open(&slabs).unwrap();
        let mut map = Map::<_, Few>::create(&pool, 7).unwrap();
        for n in 0..600 {
            assert!(!map.insert(&key(n), b"value").unwrap());
        }
        let handle = map.handle();
        drop(map);
        let slabs = stop(&slabs, MANY).revive();
        let segment = Words::head(&slabs, handle).behind(at::DIRECT);
        segment.set(9, segment.get(8));
        let pool = Pool::open(&slabs).unwrap();
        let mut map = Map::<_, Few>::open(&pool, handle).unwrap();
        let mut seen = StdVec::new();
        let idle = |entry: crate::Entry<'_>| {
            seen.push(entry.key().to_vec());
            (seen.len() != 2).then_some(if seen.len() == 1 { 9 } else { 1 })
        };
        if split {
            let (mut writer, _reader) = map.split().unwrap();
            assert!(writer.evict(13, 0, idle).unwrap());
            assert!(writer.reclaim().unwrap(), "each is freed, and once");
        } else {
            assert!(map.evict(13, 0, idle).unwrap());
        }
        assert_eq!(seen[0], seen[1], "it is linked twice");
        assert_eq!(map.len(), 598);
        // Without readers its second link is left, and refused where it is followed.
        assert!(matches!(map.contains(&seen[0]), Ok(false) | Err(Error::Damaged { .. })));
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn an_error_of_a_bucket_that_is_looked_at_each_time_has_changed_nothing() {
    let slabs = boot(MANY);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Few>::create(&pool, 7).unwrap();
    for n in 0..500 {
        assert!(!map.insert(&key(n), b"value").unwrap());
    }
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, MANY).revive();
    // The last line of a bucket that has too many to compare leads to nothing.
    let mut line = Words::head(&slabs, handle).behind(at::DIRECT).behind(8 + 7);
    while line.get(9) != 0 {
        line = line.behind(9);
    }
    line.set(9, 1);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Few>::open(&pool, handle).unwrap();
    let (mut done, mut refused) = (0, 0);
    for n in (0..520).step_by(3) {
        let len = map.len();
        let (act, now) = if n % 2 == 0 {
            (map.insert(&key(n), b"another").map(drop), len)
        } else {
            (map.remove(&key(n)).map(drop), len - 1)
        };
        match act {
            Ok(()) => done += 1,
            Err(error) => {
                assert!(matches!(error, Error::Damaged { .. }), "{error}");
                refused += 1;
            }
        }
        assert_eq!(map.len(), if act.is_ok() { now } else { len }, "key {n}: {act:?}");
    }
    std::println!("{done} done, {refused} refused");
    assert!(done > 100 && refused > 5);
}

/// One container of each kind.
type Three<'p> = (Option<Map<'p, Ram>>, Option<Vec<'p, Number, Ram>>, Option<Log<'p, Ram>>);

/// What three containers hold that nothing forged.
#[derive(Default)]
struct Model {
    map: BTreeMap<u64, StdVec<u8>>,
    vec: StdVec<u64>,
    log: VecDeque<StdVec<u8>>,
}

impl Model {
    /// Does one thing to each of three containers; with a model, what it says.
    fn step(three: &mut Three<'_>, model: Option<&mut Self>, dice: &mut Dice) {
        let (what, at) = (dice.below(8), dice.below(120));
        let value = std::vec![what as u8; (dice.below(4) * 30) as usize];
        let record = std::vec![at as u8; (dice.below(4) * 2000) as usize];
        let (mut scratch, honest) = (Self::default(), model.is_some());
        let model = model.unwrap_or(&mut scratch);
        let ok = |result: Result<(), Error>| assert!(result.is_ok() || !honest, "{result:?}");
        if let Some(map) = &mut three.0 {
            ok(match what {
                0..5 => {
                    model.map.insert(at, value.clone());
                    map.insert(&key(at), &value).map(drop)
                }
                5..7 => {
                    model.map.remove(&at);
                    map.remove(&key(at)).map(drop)
                }
                _ => map.get(&key(at)).map(|entry| {
                    entry.map(|entry| entry.value().len());
                }),
            });
        }
        if let Some(vec) = &mut three.1 {
            ok(match what {
                0..4 => {
                    model.vec.push(at);
                    vec.push(Number { number: at })
                }
                4 => {
                    model.vec.pop();
                    vec.pop().map(drop)
                }
                5..7 => {
                    if let Some(number) = model.vec.get_mut(at as usize) {
                        *number = at;
                    }
                    vec.set(at, Number { number: at }).map(drop)
                }
                _ => vec.shrink(),
            });
        }
        if let Some(log) = &mut three.2 {
            ok(if what < 4 {
                model.log.push_back(record.clone());
                log.append(&record).map(drop)
            } else {
                model.log.pop_front();
                log.pop_front().map(drop)
            });
        }
    }

    fn check(&self, three: &Three<'_>) {
        let map = three.0.as_ref().unwrap();
        assert_eq!(map.len(), self.map.len() as u64);
        for (at, value) in &self.map {
            assert_eq!(map.get(&key(*at)).unwrap().unwrap().value(), value);
        }
        let mut found = StdVec::new();
        three.1.as_ref().unwrap().for_each(|number| found.push(number.number)).unwrap();
        assert_eq!(found, self.vec);
        let records = three.2.as_ref().unwrap().records();
        assert!(records.map(|record| record.unwrap().1).eq(&self.log));
    }
}

fn opened<'p>(pool: &'p Pool<'p, Ram>, handles: [Handle; 3]) -> Three<'p> {
    let [map, vec, log] = handles;
    (Map::open(pool, map).ok(), Vec::open(pool, vec).ok(), Log::open(pool, log).ok())
}

fn created<'p>(pool: &'p Pool<'p, Ram>) -> (Three<'p>, [Handle; 3]) {
    let map = Map::create(pool, 7).unwrap();
    let (vec, log) = (Vec::create(pool).unwrap(), Log::create(pool).unwrap());
    let handles = [map.handle(), vec.handle(), log.handle()];
    ((Some(map), Some(vec), Some(log)), handles)
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn what_is_forged_of_containers_changes_no_others() {
    let (rounds, steps) = (400, 250);
    let slabs = boot(MANY);
    let pool = Pool::open(&slabs).unwrap();
    let (mut forged, handles) = created(&pool);
    let (mut others, others_handles) = created(&pool);
    let (mut model, mut dice) = (Model::default(), Dice(0x5eed_0010));
    for _ in 0..steps {
        Model::step(&mut forged, None, &mut dice);
        Model::step(&mut others, Some(&mut model), &mut dice);
    }
    drop((forged, others));
    // What is forged is where the first three have their objects; it leads to any of them, or elsewhere.
    let mut objects = StdVec::new();
    let mut links = StdVec::new();
    let owners = handles.map(|handle| Words::head(&slabs, handle).from.get() / 16);
    for cache in slabs.caches() {
        let (name, bytes) = (cache.name(), cache.object_size());
        for (addr, _) in cache.preserved() {
            let first = Words { slabs: &slabs, from: addr }.get(0);
            if owners.contains(&(addr.get() / 16)) || owners.contains(&(first >> 16)) {
                objects.push((addr, bytes));
            }
            if let Some(class) = Class::of_spec(name.as_str(), bytes) {
                links.push(Link::new(addr, class).bits());
            }
        }
    }
    let mut refused = 0;
    for round in 0..rounds {
        let next = stop(&slabs, MANY).revive();
        for _ in 0..=[6, 6, 60][dice.below(3) as usize] {
            let (from, bytes) = objects[dice.below(objects.len() as u64) as usize];
            // Heads every other time: they are few, and most is in them.
            let head = Words::head(&next, handles[dice.below(3) as usize]);
            let (object, words) = match dice.below(2) {
                0 => (head, [11, 40, 160][dice.below(3) as usize]),
                _ => (
                    Words { slabs: &next, from },
                    (bytes as u64 / 8).min([5, 300][dice.below(2) as usize]),
                ),
            };
            let word = dice.below(words) as usize;
            let there = object.get(word);
            object.set(
                word,
                match dice.below(7) {
                    0 => there ^ 1 << dice.below(64),
                    1 => object.get(dice.below(words) as usize),
                    2 => 0,
                    3 => there.wrapping_add(dice.below(64)).wrapping_sub(32),
                    _ => {
                        let link = links[dice.below(links.len() as u64) as usize];
                        // With the tag that was there.
                        link | there >> 55 << 55
                    }
                },
            );
        }
        let pool = Pool::open(&next).unwrap();
        let mut forged = opened(&pool, handles);
        let mut others = opened(&pool, others_handles);
        refused += [forged.0.is_none(), forged.1.is_none(), forged.2.is_none()]
            .into_iter()
            .filter(|none| *none)
            .count();
        let mut now =
            Model { map: model.map.clone(), vec: model.vec.clone(), log: model.log.clone() };
        let mut dice = Dice(0x5eed_0011 + round);
        for _ in 0..150 {
            Model::step(&mut forged, None, &mut dice);
            Model::step(&mut others, Some(&mut now), &mut dice);
        }
        now.check(&others);
        let _ = forged.0.map(|mut map| {
            let _ = map.for_each(|_| ());
            let _ = map.clear();
            for n in 0..200 {
                let _ = map.insert(&key(n), b"again");
            }
            map.destroy()
        });
        let _ = forged.1.map(Vec::destroy);
        let _ = forged.2.map(Log::destroy);
        for _ in 0..30 {
            Model::step(&mut others, Some(&mut now), &mut dice);
        }
        now.check(&others);
    }
    std::println!("{refused} of {} refused", 3 * rounds);
    assert!(refused > 50);
}

/// A bucket leads to an entry of another one, which is freed while a reader looks at it there; then its place is another map's.
fn look_at_what_another_bucket_leads_to(
    look: impl Fn(&crate::MapVisit<'_, '_, Ram, Few>, &[u8; 8]) -> Option<StdVec<u8>>,
) {
    let [removed, sought, stays] = [1_u8, 2, 3].map(|bucket| [0, 0, 0, 0, 0, 0, 0, bucket]);
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Few>::create(&pool, 7).unwrap();
    map.insert(&removed, b"value").unwrap();
    map.insert(&stays, b"value").unwrap();
    let handle = map.handle();
    drop(map);

    let slabs = stop(&slabs, FRAMES).revive();
    let segment = Words::head(&slabs, handle).behind(at::DIRECT);
    segment.set(8 + 8 * 2, segment.get(8 + 8));
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, Few>::open(&pool, handle).unwrap();
    let other = RefCell::new(Map::<_, Few>::create(&pool, 7).unwrap());
    let (mut writer, reader) = map.split().unwrap();
    let second = reader.clone();
    let before = Cell::new(Some(second.enter()));
    assert!(writer.remove(&removed).unwrap());
    // The first reader is not in; the second is.
    assert!(!writer.reclaim().unwrap());
    let writer = RefCell::new(writer);
    let visit = reader.enter();
    let free = || {
        drop(before.take());
        assert!(writer.borrow_mut().reclaim().unwrap(), "the reader that is in came later");
        other.borrow_mut().insert(&sought, b"other").unwrap();
    };
    assert_eq!(crate::watch::once_followed(&free, || look(&visit, &sought)), None);
    assert_eq!(other.borrow().get(&sought).unwrap().unwrap().value(), b"other");
}

#[test]
#[cfg_attr(miri, ignore = "Miri itself ends, in its emulation of weak memory")]
fn a_reader_finds_no_entry_of_another_map_where_one_was_of_another_bucket() {
    look_at_what_another_bucket_leads_to(|visit, key| {
        visit.get(key).unwrap().map(|entry| entry.value().to_vec())
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri itself ends, in its emulation of weak memory")]
fn a_scan_finds_no_entry_of_another_map_where_one_was_of_another_bucket() {
    look_at_what_another_bucket_leads_to(|visit, _| {
        let mut seen = None;
        visit.scan(2, |entry| seen = Some(entry.value().to_vec())).unwrap();
        seen
    });
}

#[test]
#[cfg_attr(miri, ignore = "dozens of kernels")]
fn a_bucket_whose_lines_lead_back_is_refused_after_a_few() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    (0..80).for_each(|n| assert!(!map.insert(&key(n), b"value").unwrap()));
    let handle = map.handle();
    drop(map);
    // Bucket 0 is the one that was split last, if any was: it is gone through when the map is opened. The others are when
    // they are first used.
    let mut forged = 0;
    for bucket in 0..16 {
        for back in [0, 1] {
            let next = stop(&slabs, FRAMES).revive();
            let segment = Words::head(&next, handle).behind(at::DIRECT);
            let first = segment.get(8 + 8 * bucket + 7);
            if first == 0 {
                continue;
            }
            forged += 1;
            let line = segment.behind(8 + 8 * bucket + 7);
            line.set(9, first);
            if back == 1 {
                (2..9).for_each(|word| line.set(word, 0));
            }
            let pool = Pool::open(&next).unwrap();
            let Ok(mut map) = Map::<_>::open(&pool, handle) else { continue };
            let buckets = map.buckets;
            let bucket = buckets.unchecked(bucket as u64).unwrap().unwrap();
            let lines = buckets.lines(bucket).count();
            assert!(lines < 8, "{lines} lines");
            // (Refused, or gone through as far as there is something.)
            for n in 0..80 {
                let _ = map.get(&key(n));
                let _ = map.remove(&key(n));
            }
            let _ = map.clear();
        }
    }
    assert!(forged > 2);
}
