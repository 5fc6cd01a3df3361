//! What a map that survives costs beside one that does not: heirloom's `Map` and hashbrown's, with the same hash, on one thread.
//!
//! ```text
//! cargo bench -p heirloom-benches --bench collections
//! ```
//!
//! Keys have 16 bytes and values 48. hashbrown has them boxed, as keys and values of any length are kept, and as arrays within its
//! table. Each figure is the least of five rounds, in which the three take turns; nanoseconds for each operation. With `--test`,
//! a thousand entries and one round.

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::time::Instant;

use heirloom_collections::{Hash, Map, Pool, Xxh3};
use heirloom_folio::harness::Ram;
use heirloom_slab::Slabs;

const SEED: u64 = 0x5eed_c011;
const KEY: usize = 16;
const VALUE: usize = 48;
const OPERATIONS: [&str; 6] = ["insert", "get", "get, not there", "replace", "iterate", "remove"];
type Times = [f64; OPERATIONS.len()];

/// Hashes for hashbrown as the map of heirloom does: the bytes alone, without the length that `Hash` writes before them.
#[derive(Clone, Copy, Default)]
struct Same(u64);

impl BuildHasher for Same {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Same {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = Xxh3::hash(SEED, bytes);
    }

    // What a slice's hash begins with: its length.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map of byte strings.
trait Strings {
    fn put(&mut self, key: &[u8; KEY], value: &[u8; VALUE]);
    fn get(&self, key: &[u8; KEY]) -> u64;
    fn remove(&mut self, key: &[u8; KEY]);
    fn sum(&self) -> u64;
}

impl Strings for Map<'_, Ram> {
    fn put(&mut self, key: &[u8; KEY], value: &[u8; VALUE]) {
        self.insert(key, value).expect("there is memory");
    }

    fn get(&self, key: &[u8; KEY]) -> u64 {
        let entry = Self::get(self, key).expect("it is sound");
        entry.map_or(0, |entry| entry.value()[0].into())
    }

    fn remove(&mut self, key: &[u8; KEY]) {
        Self::remove(self, key).expect("it is sound");
    }

    fn sum(&self) -> u64 {
        let mut sum = 0;
        self.for_each(|entry| sum += u64::from(entry.value()[0])).expect("it is sound");
        sum
    }
}

impl Strings for hashbrown::HashMap<Box<[u8]>, Box<[u8]>, Same> {
    fn put(&mut self, key: &[u8; KEY], value: &[u8; VALUE]) {
        self.insert(key[..].into(), value[..].into());
    }

    fn get(&self, key: &[u8; KEY]) -> u64 {
        Self::get(self, &key[..]).map_or(0, |value| value[0].into())
    }

    fn remove(&mut self, key: &[u8; KEY]) {
        Self::remove(self, &key[..]);
    }

    fn sum(&self) -> u64 {
        self.values().map(|value| u64::from(value[0])).sum()
    }
}

impl Strings for hashbrown::HashMap<[u8; KEY], [u8; VALUE], Same> {
    fn put(&mut self, key: &[u8; KEY], value: &[u8; VALUE]) {
        self.insert(*key, *value);
    }

    fn get(&self, key: &[u8; KEY]) -> u64 {
        Self::get(self, key).map_or(0, |value| value[0].into())
    }

    fn remove(&mut self, key: &[u8; KEY]) {
        Self::remove(self, key);
    }

    fn sum(&self) -> u64 {
        self.values().map(|value| u64::from(value[0])).sum()
    }
}

/// Key number `n`, of those that are there or of those that are not.
fn key(n: u64, there: bool) -> [u8; KEY] {
    let mut key = [u8::from(there); KEY];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    key
}

/// One number after another below `count`, a power of two, in an order that looks random.
fn orders(count: u64) -> impl Iterator<Item = u64> {
    (0..count).scan(1_u64, move |at, _| {
        *at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*at >> 20) & (count - 1))
    })
}

fn times(map: &mut impl Strings, entries: u32) -> Times {
    let count = u64::from(entries);
    let mut figures = [0.0; OPERATIONS.len()];
    let mut timed = |row: usize, f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        figures[row] = start.elapsed().as_secs_f64() * 1e9 / f64::from(entries);
    };
    timed(0, &mut || (0..count).for_each(|n| map.put(&key(n, true), &[1; VALUE])));
    timed(1, &mut || {
        let sum: u64 = orders(count).map(|n| map.get(&key(n, true))).sum();
        assert_eq!(black_box(sum), count);
    });
    timed(2, &mut || {
        let sum: u64 = orders(count).map(|n| map.get(&key(n, false))).sum();
        assert_eq!(black_box(sum), 0);
    });
    timed(3, &mut || orders(count).for_each(|n| map.put(&key(n, true), &[2; VALUE])));
    timed(4, &mut || assert!(black_box(map.sum()) >= count));
    timed(5, &mut || (0..count).for_each(|n| map.remove(&key(n, true))));
    figures
}

fn round(count: u32, slabs: &Slabs<Ram>) -> [Times; 3] {
    let pool = Pool::open(slabs).expect("there is memory");
    let mut ours = Map::<_>::create(&pool, SEED).expect("there is memory");
    let ours = times(&mut ours, count);
    let mut boxed = hashbrown::HashMap::<Box<[u8]>, Box<[u8]>, _>::with_hasher(Same::default());
    let boxed = times(&mut boxed, count);
    let mut arrays = hashbrown::HashMap::<[u8; KEY], [u8; VALUE], _>::with_hasher(Same::default());
    [ours, boxed, times(&mut arrays, count)]
}

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let counts: &[u32] = if test { &[1 << 10] } else { &[1 << 13, 1 << 20] };
    for &count in counts {
        let frames = 4096 + u64::from(count) / 16;
        let mut least = [[f64::INFINITY; OPERATIONS.len()]; 3];
        for _ in 0..if test { 1 } else { 5 } {
            let memory = Ram::memory(&Ram::frames(frames)).expect("there is memory");
            let slabs = Slabs::new(memory).expect("there is memory");
            for (least, times) in least.iter_mut().zip(round(count, &slabs)) {
                for (least, time) in least.iter_mut().zip(times) {
                    *least = least.min(time);
                }
            }
        }
        println!("{count} entries; ns      heirloom   boxed  arrays   heirloom / boxed");
        let [ours, boxed, arrays] = least;
        for (row, name) in OPERATIONS.iter().enumerate() {
            let (ours, boxed, arrays) = (ours[row], boxed[row], arrays[row]);
            println!("{name:20} {ours:12.1} {boxed:7.1} {arrays:7.1} {:12.2}", ours / boxed);
        }
    }
}
