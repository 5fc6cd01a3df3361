//! What this kernel knows of a map's buckets is what is in them, whatever was split, refused or taken over before.

use std::collections::BTreeMap;
use std::vec::Vec as StdVec;

use heirloom_folio::harness::Ram;
use heirloom_slab::{AllocOptions, Slabs};

use crate::buckets::{bucket_by, mask_of};
use crate::link::Link;
use crate::testing::{Dice, Rest, boot, in_use, stop};
use crate::{Hash, Map, Pool, Xxh3};

const FRAMES: u64 = 4096;

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

/// A hash by which all keys belong to one bucket, until there are 257.
struct One;

impl Hash for One {
    const NAME: u64 = 77;

    fn hash(_: u64, key: &[u8]) -> u64 {
        u64::from(key[0]) << 56 | u64::from(key[1]) << 48 | 256
    }
}

/// The bucket is too long to be looked at once, and the segment of the new one is new.
#[test]
#[cfg_attr(miri, ignore = "a thousand entries")]
fn what_moves_out_of_a_long_bucket_into_a_new_segment_is_found() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, One>::create(&pool, 7).unwrap();
    for n in 0..1260 {
        assert!(!map.insert(&key(n), b"value").unwrap());
    }
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_, One>::open(&pool, handle).unwrap();
    for n in 1260..1300 {
        assert!(!map.insert(&key(n), b"value").unwrap());
        let lost = (0..=n).filter(|n| !map.contains(&key(*n)).unwrap()).count();
        assert_eq!(lost, 0, "of {} after key {n}, in {} buckets", map.len(), map.buckets.count());
    }
}

/// All memory: what small objects are allocated from, too.
struct Full<'s> {
    slabs: &'s Slabs<Ram>,
    #[expect(dead_code, reason = "given back as it is dropped")]
    frames: Rest<'s>,
    taken: StdVec<core::ptr::NonNull<u8>>,
}

impl<'s> Full<'s> {
    fn new(slabs: &'s Slabs<Ram>) -> Self {
        let layout = core::alloc::Layout::from_size_align(2040, 8).unwrap();
        let (frames, options) = (Rest::take(slabs), AllocOptions::default());
        let taken = core::iter::from_fn(|| slabs.alloc(layout, options).ok()).collect();
        Self { slabs, frames, taken }
    }

    fn give(&mut self) {
        if let Some(buffer) = self.taken.pop() {
            // SAFETY: allocated in `new`, and not used.
            unsafe { self.slabs.free(buffer) }.unwrap();
        }
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        while !self.taken.is_empty() {
            self.give();
        }
    }
}

/// A bucket is split of which this kernel knows nothing, as it had no memory for that.
#[test]
#[cfg_attr(miri, ignore = "thousands of entries")]
fn what_moves_while_memory_is_full_is_found() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    let mut n = 0;
    while map.buckets.count() < 1014 {
        assert!(!map.insert(&key(n), b"value").unwrap());
        n += 1;
    }
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::open(&pool, handle).unwrap();
    let mut inserted: StdVec<u64> = (0..n).collect();
    // Inserts a key that does not belong to a bucket of the first segment: of that one nothing is known.
    let mut more = |map: &mut Map<'_, Ram>| {
        let count = map.buckets.count();
        let bucket = |n: u64| bucket_by(Xxh3::hash(7, &key(n)) as u32, count, mask_of(count));
        let next = (n + 1..u64::MAX).find(|n| bucket(*n) >= 254).unwrap();
        assert!(!map.insert(&key(next), b"value").unwrap());
        inserted.push(next);
        n = next;
    };
    while map.buckets.count() < 1024 || map.len() < 5 * 1024 {
        more(&mut map);
    }
    assert!(map.buckets.count() == 1024 && map.buckets.index(0).is_none());
    let full = Full::new(&slabs);
    more(&mut map);
    assert!(map.buckets.count() == 1025 && map.buckets.index(0).is_none());
    drop(full);
    for n in &inserted {
        assert!(map.contains(&key(*n)).unwrap(), "{n} is lost");
    }
    for n in &inserted {
        assert!(map.insert(&key(*n), b"newer").unwrap());
    }
    let handle = map.handle();
    drop(map);
    let slabs = stop(&slabs, FRAMES).revive();
    let pool = Pool::open(&slabs).unwrap();
    let map = Map::<_>::open(&pool, handle).unwrap();
    let mut seen = 0;
    map.for_each(|entry| seen += usize::from(entry.value() == b"newer")).unwrap();
    assert_eq!((seen, map.len()), (inserted.len(), inserted.len() as u64));
}

/// A hash that crowds some keys into two buckets, gives some one tag, some another, and spreads the rest.
struct Mixed;

impl Hash for Mixed {
    const NAME: u64 = 79;

    fn hash(seed: u64, key: &[u8]) -> u64 {
        let all = Xxh3::hash(seed, key);
        match key[0] % 4 {
            0 => all & !0xffff_ffff | u64::from(key[1] % 2) << 9,
            1 => all & 0x00ff_ffff_ffff_ffff,
            2 => all | 0xff00_0000_0000_0000,
            _ => all,
        }
    }
}

/// Checks that each link of a bucket that is known is among its tags, and that behind the last bucket all is zero.
fn check(map: &Map<'_, Ram, Mixed>) {
    let (buckets, count) = (map.buckets, map.buckets.count());
    for number in 0..count {
        let Some((bucket, looked)) = buckets.known(number) else { continue };
        for line in buckets.lines(buckets.unchecked(number).unwrap().unwrap()) {
            for word in line.unwrap().links() {
                let link = Link::from_bits(word.get());
                let is_known = match bucket.line.place_of(word) {
                    _ if link.is_none() => true,
                    Some(place) => looked.places(link.bits()).any(|known| known == place),
                    None => looked.is_beyond(link.bits()),
                };
                assert!(is_known, "{:#x} of bucket {number} of {count}", link.bits());
            }
        }
    }
    if let Some(next) = buckets.unchecked(count).unwrap() {
        assert!(next.line.is_empty() && next.line.next().get() == 0);
    }
}

/// Does something with a map and with what is true of it. Returns whether it was refused.
fn step(
    map: &mut Map<'_, Ram, Mixed>,
    model: &mut BTreeMap<[u8; 3], StdVec<u8>>,
    dice: &mut Dice,
    grows: bool,
) -> bool {
    let mut key = || dice.below(6000).to_le_bytes()[..3].try_into().unwrap();
    let (key, other): ([u8; 3], [u8; 3]) = (key(), key());
    let mut refused = false;
    match dice.below(10) {
        _ if dice.below(7000) == 0 => {
            map.clear().unwrap();
            model.clear();
        }
        _ if dice.below(7000) == 0 => {
            let bit = dice.below(2) as u8;
            map.retain(|entry| entry.key()[1] % 2 == bit).unwrap();
            model.retain(|key, _| key[1] % 2 == bit);
        }
        n if n < if grows { 8 } else { 4 } => {
            let value = std::vec![key[0]; dice.below(24) as usize];
            match map.insert(&key, &value) {
                Ok(was) => assert_eq!(was, model.insert(key, value).is_some()),
                Err(error) => {
                    assert!(error.is_out_of_memory(), "{error:?}");
                    refused = true;
                }
            }
        }
        _ => assert_eq!(map.remove(&key).unwrap(), model.remove(&key).is_some()),
    }
    let found = map.get(&other).unwrap();
    assert_eq!(found.map(|entry| entry.value().to_vec()), model.get(&other).cloned());
    assert_eq!(map.len(), model.len() as u64);
    refused
}

#[test]
#[cfg_attr(miri, ignore = "tens of thousands of operations")]
fn what_is_known_of_a_bucket_is_what_is_there() {
    const SEEDS: core::ops::Range<u64> = 1..4;
    let mut refused = 0;
    for seed in SEEDS {
        std::println!("seed {seed}");
        let mut dice = Dice(0x5eed_1000 + seed * 7919);
        let (mut slabs, mut handle, mut model) = (boot(FRAMES), None, BTreeMap::new());
        for _ in 0..3 {
            let pool = Pool::open(&slabs).unwrap();
            let mut map = match handle {
                None => Map::<_, Mixed>::create(&pool, 7).unwrap(),
                Some(handle) => Map::<_, Mixed>::open(&pool, handle).unwrap(),
            };
            handle = Some(map.handle());
            let mut full: Option<Full<'_>> = None;
            for number in 0..9000 {
                match dice.below(600) {
                    0 => full = full.or_else(|| Some(Full::new(&slabs))),
                    1..3 => full = None,
                    3..6 => full.iter_mut().for_each(Full::give),
                    _ => {}
                }
                refused += u64::from(step(&mut map, &mut model, &mut dice, number < 6600));
                if number % 97 == 0 {
                    check(&map);
                }
            }
            check(&map);
            drop((map, full));
            let next = stop(&slabs, FRAMES).revive();
            slabs = next;
        }
        let pool = Pool::open(&slabs).unwrap();
        Map::<_, Mixed>::open(&pool, handle.unwrap()).unwrap().destroy().unwrap();
        assert_eq!(in_use(&slabs), 0);
    }
    std::println!("{refused} refused for want of memory");
    assert!(refused > 100);
}
