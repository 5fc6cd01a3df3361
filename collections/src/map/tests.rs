use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use heirloom_folio::harness::Ram;
use heirloom_slab::Slabs;

use super::*;
use crate::testing::{Dice, boot, in_use, stop};
use crate::watch;

type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

/// Everything that a map holds; its length, and each key, must say the same.
fn contents(map: &Map<'_, Ram>) -> Model {
    let mut found = Model::new();
    map.for_each(|entry| {
        let value = (entry.value().to_vec(), entry.mark());
        assert!(found.insert(entry.key().to_vec(), value).is_none(), "once each");
    })
    .unwrap();
    assert_eq!(map.len(), found.len() as u64);
    for (key, (value, mark)) in &found {
        let entry = map.get(key).unwrap().unwrap();
        assert_eq!((entry.value(), entry.mark()), (&value[..], *mark));
    }
    found
}

/// How many objects a map consists of, but its head.
fn reachable(map: &Map<'_, Ram>) -> usize {
    let (buckets, mut lines) = (&map.buckets, 0);
    let n = buckets.count();
    if !map.is_empty() {
        for bucket in 0..n {
            lines += buckets.lines(buckets.bucket(bucket).unwrap()).count() - 1;
        }
    }
    let (mut segments, mut pages) = (0, 0);
    for segment in 0.. {
        match buckets.body.slot(segment).unwrap() {
            Some(word) if word.get() != 0 => segments += 1,
            _ => break,
        }
    }
    for page in 0.. {
        match buckets.body.page_word(page) {
            Some(word) if word.get() != 0 => pages += 1,
            _ => break,
        }
    }
    lines + segments + pages + usize::try_from(map.len()).unwrap()
}

#[test]
fn a_map_is_what_a_map_of_std_is() {
    let slabs = boot(if cfg!(miri) { 256 } else { 2048 });
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let (mut model, mut dice) = (Model::new(), Dice(0x5eed_0001));
    let longest = if cfg!(miri) { 30 } else { 300 };
    for _ in 0..if cfg!(miri) { 40 } else { 20_000 } {
        let key = dice.below(if cfg!(miri) { 15 } else { 3000 }).to_le_bytes()
            [..2 + dice.below(4) as usize]
            .to_vec();
        match dice.below(10) {
            0..6 => {
                let value = vec![dice.below(256) as u8; dice.below(longest) as usize];
                let mark = dice.below(1 << 40);
                let there = map.insert_marked(&key, &value, mark).unwrap();
                assert_eq!(there, model.insert(key, (value, mark)).is_some());
            }
            6..9 => assert_eq!(map.remove(&key).unwrap(), model.remove(&key).is_some()),
            _ => {
                let found = map.get(&key).unwrap().map(|entry| entry.value().to_vec());
                assert_eq!(found, model.get(&key).map(|(value, _)| value.clone()));
            }
        }
    }
    assert_eq!(contents(&map), model);
    assert_eq!(in_use(&slabs), reachable(&map));
    map.clear().unwrap();
    assert!(map.is_empty() && contents(&map).is_empty());
    assert_eq!(in_use(&slabs), 0);
    map.insert(b"key", b"value").unwrap();
    assert_eq!(in_use(&slabs), reachable(&map));
    map.destroy().unwrap();
    assert!(slabs.caches().all(|cache| cache.preserved().count() == 0));
}

/// One thing that is done to a map.
#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
}

fn step(dice: &mut Dice, keys: u64) -> Step {
    let key = dice.below(keys).to_string().into_bytes();
    if dice.below(3) == 0 {
        return Step::Remove(key);
    }
    Step::Insert(key, vec![dice.below(256) as u8; dice.below(60) as usize])
}

impl Step {
    fn map(&self, map: &mut Map<'_, Ram>) {
        match self {
            Self::Insert(key, value) => drop(map.insert(key, value).unwrap()),
            Self::Remove(key) => drop(map.remove(key).unwrap()),
        }
    }

    fn model(&self, model: &mut Model) {
        match self {
            Self::Insert(key, value) => drop(model.insert(key.clone(), (value.clone(), 0))),
            Self::Remove(key) => drop(model.remove(key)),
        }
    }
}

/// Opens the map in a kernel that was revived: it holds one of the two, and nothing else is in use.
fn look(slabs: &Slabs<Ram>, handle: Handle, before: &Model, after: &Model) -> bool {
    let pool = Pool::open(slabs).unwrap();
    let mut map = Map::<_>::open(&pool, handle).unwrap();
    let found = contents(&map);
    assert!(found == *before || found == *after, "{found:?}\nbefore {before:?}\nafter {after:?}");
    assert_eq!(in_use(slabs), reachable(&map), "nothing is lost");
    // It goes on.
    let mut more = found.clone();
    for n in 0..12_u8 {
        map.insert(&[n], b"another").unwrap();
        more.insert(std::vec![n], (b"another".to_vec(), 0));
    }
    assert_eq!(contents(&map), more);
    assert_eq!(in_use(slabs), reachable(&map));
    found == *after
}

fn each_store(count: usize, keys: u64, prefill: u64) {
    const FRAMES: u64 = 320;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let map = RefCell::new(Map::<_>::create(&pool, 7).unwrap());
    let (mut model, mut dice) = (Model::new(), Dice(0x5eed_0002));
    for key in 0..prefill {
        let step = Step::Insert(key.to_string().into_bytes(), vec![1; 8]);
        step.map(&mut map.borrow_mut());
        step.model(&mut model);
    }
    let handle = map.borrow().handle();
    let (mut stops, mut deaths) = (0, 0);
    for _ in 0..count {
        let step = step(&mut dice, keys);
        let before = model.clone();
        step.model(&mut model);
        let happened = RefCell::new(false);
        let counter = RefCell::new((0, 0));
        watch::during(
            &|| {
                let now = look(&stop(&slabs, FRAMES).revive(), handle, &before, &model);
                assert!(now || !*happened.borrow() || before == model, "it stays happened");
                *happened.borrow_mut() = now;
                counter.borrow_mut().0 += 1;
                // The successor ends as well, at each instant of its opening.
                if counter.borrow().0 % 3 == 1 {
                    let next = stop(&slabs, FRAMES).revive();
                    let pool = Pool::open(&next).unwrap();
                    let again = || {
                        look(&stop(&next, FRAMES).revive(), handle, &before, &model);
                        counter.borrow_mut().1 += 1;
                    };
                    watch::during(&again, || Map::<_>::open(&pool, handle).unwrap());
                }
            },
            || step.map(&mut map.borrow_mut()),
        );
        look(&stop(&slabs, FRAMES).revive(), handle, &model, &model);
        stops += counter.borrow().0;
        deaths += counter.borrow().1;
    }
    std::println!("{stops} stops, {deaths} in the middle of opening");
    assert!(stops > count * 5 && deaths > count);
}

#[test]
fn an_operation_is_there_or_not_at_each_store() {
    each_store(25, 20, 0);
}

#[test]
fn a_bucket_is_added_or_not_at_each_store() {
    // Around each of these an insertion adds a bucket.
    each_store(40, 200, 90);
}

/// Does what [`each_store`] does beside a reader that stays in for some operations: what is removed waits to be freed, in a
/// set of the head, in both, and in lines of more.
fn each_store_beside_a_reader(count: usize, keys: u64, prefill: u64) {
    const FRAMES: u64 = 320;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let (mut model, mut dice) = (Model::new(), Dice(0x5eed_0003));
    for key in 0..prefill {
        let step = Step::Insert(key.to_string().into_bytes(), vec![1; 8]);
        step.map(&mut map);
        step.model(&mut model);
    }
    let handle = map.handle();
    let (stops, deaths, most) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let (writer, reader) = map.split().unwrap();
    let writer = RefCell::new(writer);
    let mut visits = std::collections::VecDeque::new();
    for n in 0..count {
        // Visits overlap, so that some set waits always.
        if n % 12 == 0 {
            visits.push_back(reader.enter());
            visits.drain(..visits.len().saturating_sub(4));
        }
        if n % 50 == 49 {
            visits.clear();
        }
        let step = step(&mut dice, keys);
        let before = model.clone();
        step.model(&mut model);
        let happened = Cell::new(false);
        watch::during(
            &|| {
                let now = look(&stop(&slabs, FRAMES).revive(), handle, &before, &model);
                assert!(now || !happened.get() || before == model, "it stays happened");
                happened.set(now);
                stops.set(stops.get() + 1);
                if stops.get() % 40 == 1 {
                    let next = stop(&slabs, FRAMES).revive();
                    let pool = Pool::open(&next).unwrap();
                    let again = || {
                        look(&stop(&next, FRAMES).revive(), handle, &before, &model);
                        deaths.set(deaths.get() + 1);
                    };
                    watch::during(&again, || Map::<_>::open(&pool, handle).unwrap());
                }
            },
            || {
                let mut writer = writer.borrow_mut();
                match &step {
                    Step::Insert(key, value) => drop(writer.insert(key, value).unwrap()),
                    Step::Remove(key) => drop(writer.remove(key).unwrap()),
                }
            },
        );
        look(&stop(&slabs, FRAMES).revive(), handle, &model, &model);
        most.set(most.get().max(in_use(&slabs) - model.len()));
    }
    std::println!("{stops:?} stops, {deaths:?} in the middle of opening, {most:?} more at most");
    assert!(stops.get() > count * 5 && deaths.get() > count && most.get() > 22);
    drop(visits);
    assert!(writer.borrow_mut().reclaim().unwrap());
    drop(writer);
    assert_eq!(contents(&map), model);
    assert_eq!(in_use(&slabs), reachable(&map));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of openings")]
fn an_operation_beside_a_reader_is_there_or_not_at_each_store() {
    each_store_beside_a_reader(60, 6, 0);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of openings")]
fn a_bucket_is_added_beside_a_reader_or_not_at_each_store() {
    each_store_beside_a_reader(45, 200, 90);
}

/// How many entries there are when the next one adds a bucket that needs the first page of the directory.
const DIRECT_ENTRIES: u64 = 64 * 254 * LOAD;

#[test]
#[cfg_attr(miri, ignore = "tens of thousands of entries")]
fn a_page_of_the_directory_is_added_or_not_at_each_store() {
    const FRAMES: u64 = 2560;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let key = |n: u64| n.to_le_bytes();
    // No call takes long: so many stores, and lines that are looked at.
    let (stores, mut most) = (Cell::new(0_u64), [0; 2]);
    for n in 0..DIRECT_ENTRIES {
        let lines = watch::lines();
        stores.set(0);
        watch::during(&|| stores.set(stores.get() + 1), || {
            assert!(!map.insert(&key(n), b"").unwrap());
        });
        most = [most[0].max(stores.get()), most[1].max(watch::lines() - lines)];
    }
    std::println!("{most:?} stores, lines at most");
    assert!(most[0] < 150 && most[1] < 150);
    let handle = map.handle();
    assert_eq!(map.buckets.count(), 64 * 254);
    let (stops, happened) = (Cell::new(0), Cell::new(false));
    let look = |after: bool| {
        let next = stop(&slabs, FRAMES).revive();
        let pool = Pool::open(&next).unwrap();
        let lines = watch::lines();
        let map = Map::<_>::open(&pool, handle).unwrap();
        // Opened by a few looks, however many entries there are.
        assert!(watch::lines() - lines < 60, "{}", watch::lines() - lines);
        let now = map.contains(&key(DIRECT_ENTRIES)).unwrap();
        assert!(now || !after, "it stays happened");
        assert_eq!(map.len(), DIRECT_ENTRIES + u64::from(now));
        for n in (0..DIRECT_ENTRIES).step_by(97) {
            assert!(map.contains(&key(n)).unwrap());
        }
        if stops.get() % 4 == 0 || after != now {
            assert_eq!(in_use(&next), reachable(&map), "nothing is lost");
        }
        now
    };
    watch::during(
        &|| {
            happened.set(look(happened.get()));
            stops.set(stops.get() + 1);
        },
        || assert!(!map.insert(&key(DIRECT_ENTRIES), b"").unwrap()),
    );
    assert_eq!(map.buckets.count(), 64 * 254 + 1);
    assert!(map.buckets.body.page_word(0).unwrap().get() != 0);
    assert!(look(true) && stops.get() > 15, "{} stops", stops.get());
}

/// Clears a map of so many entries, as its owner alone or beside a reader that stays in or leaves, and ends the kernel at one store in
/// `stride`.
fn cleared_at_each_store(entries: u64, stride: u64, beside: Option<bool>) {
    const FRAMES: u64 = 320;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let mut model = Model::new();
    for key in 0..entries {
        let step = Step::Insert(key.to_string().into_bytes(), vec![1; 8]);
        step.map(&mut map);
        step.model(&mut model);
    }
    let (handle, after) = (map.handle(), Model::new());
    let (stores, deaths, happened) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let each = || {
        stores.set(stores.get() + 1);
        // (The first are all looked at.)
        if stores.get() > 12 && stores.get() % stride != 0 {
            return;
        }
        let now = look(&stop(&slabs, FRAMES).revive(), handle, &model, &after);
        assert!(now || happened.get() == 0, "it stays happened");
        if now && happened.replace(happened.get() + 1) % 16 == 0 {
            let next = stop(&slabs, FRAMES).revive();
            let pool = Pool::open(&next).unwrap();
            let again = || {
                deaths.set(deaths.get() + 1);
                if deaths.get() % stride == 0 {
                    assert!(look(&stop(&next, FRAMES).revive(), handle, &model, &after));
                }
            };
            watch::during(&again, || Map::<_>::open(&pool, handle).unwrap());
        }
    };
    if let Some(stays) = beside {
        let (mut writer, reader) = map.split().unwrap();
        let visit = stays.then(|| reader.enter());
        watch::during(&each, || writer.clear().unwrap());
        assert!(writer.map().is_empty());
        drop(visit);
        assert!(writer.reclaim().unwrap());
        drop(writer);
        assert_eq!((contents(&map), in_use(&slabs)), (Model::new(), 1), "one segment is left");
    } else {
        watch::during(&each, || map.clear().unwrap());
        assert_eq!((contents(&map), in_use(&slabs)), (Model::new(), 0));
    }
    std::println!("{stores:?} stores, {deaths:?} in the middle of opening");
    assert!(stores.get() > 3 * entries && deaths.get() > entries && happened.get() > 10);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of openings")]
fn a_map_is_cleared_or_not_at_each_store() {
    cleared_at_each_store(84, 3, None);
    // Two segments.
    cleared_at_each_store(1400, 331, None);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of openings")]
fn a_map_is_cleared_beside_a_reader_or_not_at_each_store() {
    cleared_at_each_store(84, 3, Some(false));
    cleared_at_each_store(84, 3, Some(true));
    cleared_at_each_store(1400, 331, Some(true));
}
