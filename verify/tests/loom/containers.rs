//! Readers of a map beside its writer.

use std::cell::{Cell, RefCell};

use heirloom::slab::Slabs;
use heirloom_collections::{Hash, Map, MapReader, MapWriter, Pool};
use heirloom_testkit::TestMachine;
use heirloom_verify::races::Model;

/// A key's number, so that a model says which bucket it is in, with bits of it above for its tag.
struct Plain;

impl Hash for Plain {
    const NAME: u64 = 1;

    fn hash(_: u64, key: &[u8]) -> u64 {
        let number = key.try_into().map_or(0, u64::from_le_bytes);
        number | number << 52
    }
}

type Machine = &'static TestMachine;

/// A split map with some entries, each of 8 bytes that all say the same.
struct Beside {
    writer: RefCell<MapWriter<'static, 'static, Machine, Plain>>,
    reader: MapReader<'static, Machine, Plain>,
}

// SAFETY: one thread of a model writes.
unsafe impl Sync for Beside {}

fn key(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

impl Beside {
    /// A map with these keys.
    fn with(keys: impl Iterator<Item = u64>) -> Self {
        let slabs = Slabs::new(TestMachine::pooled(128, 2, false).memory()).expect("room");
        // (Thousands of these are a few megabytes.)
        let slabs: &'static Slabs<Machine> = Box::leak(Box::new(slabs));
        let pool: &'static Pool<'static, Machine> =
            Box::leak(Box::new(Pool::open(slabs).expect("room")));
        let map = Box::leak(Box::new(Map::create(pool, 0).expect("room")));
        keys.for_each(|number| assert!(!map.insert(&key(number), b"oldoldol").expect("room")));
        let (writer, reader) = map.split().expect("room");
        Self { writer: RefCell::new(writer), reader }
    }

    fn insert(&self, number: u64, value: &[u8; 8]) {
        self.writer.borrow_mut().insert(&key(number), value).unwrap();
    }

    fn remove(&self, number: u64) {
        assert!(self.writer.borrow_mut().remove(&key(number)).unwrap());
    }

    fn reclaim(&self) -> bool {
        self.writer.borrow_mut().reclaim().unwrap()
    }

    /// Looks at a key twice in one visit: what it found is the same each time.
    fn look(&self, number: u64) -> Option<[u8; 8]> {
        let visit = self.reader.enter();
        let entry = visit.get(&key(number)).unwrap()?;
        let value: [u8; 8] = entry.value().try_into().unwrap();
        // Another thread may come in between.
        entry.set_mark(entry.mark() + 1);
        assert_eq!((entry.key(), entry.value()), (&key(number)[..], &value[..]), "it stays");
        assert!([b"oldoldol", b"newnewne"].contains(&&value), "{value:?} is none of the key's");
        Some(value)
    }

    /// No reader is in, and the map is whole.
    fn check(self, keys: u64) {
        let mut writer = self.writer.into_inner();
        assert!(writer.reclaim().unwrap(), "no reader is in");
        let mut seen = 0;
        writer
            .map()
            .for_each(|entry| {
                assert_eq!(writer.map().get(entry.key()).unwrap().unwrap().key(), entry.key());
                seen += 1;
            })
            .unwrap();
        assert_eq!((seen, writer.map().len()), (keys, keys));
    }
}

/// Fails if what is unlinked is freed at once, if the writer looks at one of the two words alone or loads them in place of its
/// exchange, and if a reader enters by Relaxed.
#[test]
fn an_entry_that_is_removed_is_not_freed_under_a_reader() {
    Model {
        name: "an entry is removed, freed, and its memory another's, beside two visits",
        preemptions: 3,
        build: || Beside::with(1..3),
        threads: &[
            |world| {
                let first = world.look(1);
                let second = world.look(1);
                assert!(first.is_some() || second.is_none(), "it does not come back");
            },
            |world| {
                world.remove(1);
                world.reclaim();
                world.insert(3, b"otherkey");
            },
        ],
        after: |world| world.check(2),
    }
    .check();
}

/// A map, and what a reader does in its visit.
struct Left {
    world: Beside,
    /// Whether the reader has found the entry, and marked the other one.
    found: Cell<bool>,
    /// What mark the writer finds there, if it has found all readers out.
    seen: Cell<Option<u64>>,
}

// SAFETY: each cell is one thread's.
unsafe impl Sync for Left {}

/// Fails if a reader leaves by Relaxed: what it did in its visit may be done after the entry is freed then. (That it reads the entry
/// only then is what no model tries, so it stores.)
#[test]
fn what_a_reader_does_in_a_visit_is_done_before_the_entry_is_freed() {
    Model {
        name: "an entry is removed and freed behind a visit",
        preemptions: 3,
        build: || Left {
            world: Beside::with(1..3),
            found: Cell::new(false),
            seen: Cell::new(None),
        },
        threads: &[
            |left| {
                let visit = left.world.reader.enter();
                if visit.get(&key(1)).unwrap().is_some() {
                    visit.get(&key(2)).unwrap().unwrap().set_mark(1);
                    left.found.set(true);
                }
            },
            |left| {
                left.world.remove(1);
                if left.world.reclaim() {
                    let writer = left.world.writer.borrow();
                    let other = writer.map().get(&key(2)).unwrap().unwrap();
                    left.seen.set(Some(other.mark()));
                }
            },
        ],
        after: |left| {
            assert!(!left.found.get() || left.seen.get() != Some(0), "it was in");
            left.world.check(1);
        },
    }
    .check();
}

#[test]
fn an_entry_is_whole_or_not_there() {
    Model {
        name: "an entry is inserted beside a reader",
        preemptions: 3,
        build: || Beside::with(1..2),
        threads: &[
            |world| assert!(world.look(17) != Some(*b"oldoldol")),
            |world| world.insert(17, b"newnewne"),
        ],
        after: |world| world.check(2),
    }
    .check();
}

/// Fails if no move is counted where a bucket is split, or after the links were cleared; if a reader does not look again; or if words
/// are loaded or stored by Relaxed.
#[test]
fn a_key_that_moves_to_a_new_bucket_is_found() {
    Model {
        name: "a bucket is added beside a reader",
        preemptions: 2,
        // Sixteen buckets of five: the next one adds bucket 16, which key 16 moves to.
        build: || Beside::with(0..80),
        threads: &[
            |world| assert!(world.look(16).is_some(), "it was there all the time"),
            |world| world.insert(80, b"newnewne"),
        ],
        after: |world| world.check(81),
    }
    .check();
}

/// Fails if no move is counted where links close up, or after; or if a line is freed at once.
#[test]
fn a_key_that_moves_within_its_bucket_is_found() {
    Model {
        name: "a bucket closes up beside a reader",
        preemptions: 1,
        // Bucket 0 has nine keys, of which two move to bucket 16: what is in its second line moves to the first.
        build: || {
            let of_zero = [0, 16, 48, 32, 64, 96, 128, 160, 192];
            Beside::with(of_zero.into_iter().chain((1..81).filter(|n| n % 16 != 0).take(71)))
        },
        threads: &[
            |world| assert!(world.look(160).is_some(), "it was there all the time"),
            |world| {
                world.insert(79, b"newnewne");
                world.reclaim();
            },
        ],
        after: |world| world.check(81),
    }
    .check();
}
