//! Readers of a log beside its writer.

use std::cell::RefCell;

use heirloom::slab::Slabs;
use heirloom_collections::{Log, LogReader, LogWriter, Pool};
use heirloom_testkit::TestMachine;
use heirloom_verify::races::Model;

type Machine = &'static TestMachine;

/// Returns a pool that stays. (Thousands of these are a few megabytes.)
fn pool() -> &'static Pool<'static, Machine> {
    let slabs = Slabs::new(TestMachine::pooled(128, 2, false).memory()).expect("room");
    let slabs: &'static Slabs<Machine> = Box::leak(Box::new(slabs));
    Box::leak(Box::new(Pool::open(slabs).expect("room")))
}

/// Bytes of a record of which a segment has room for one, and of one that has no room in a segment where others are.
const LARGE: usize = 9000;
const SEGMENT: usize = 16_240;

/// A split log. Each byte of a record is the record's number.
struct Beside {
    writer: RefCell<LogWriter<'static, 'static, Machine>>,
    reader: LogReader<'static, Machine>,
}

// SAFETY: one thread of a model writes.
unsafe impl Sync for Beside {}

impl Beside {
    /// A log with so many records.
    fn with(records: u8, bytes: usize) -> Self {
        let log = Box::leak(Box::new(Log::create(pool()).expect("room")));
        for number in 0..records {
            log.append(&vec![number; bytes]).expect("room");
        }
        let (writer, reader) = log.split().expect("room");
        Self { writer: RefCell::new(writer), reader }
    }

    fn append(&self, bytes: usize) {
        let mut writer = self.writer.borrow_mut();
        let number = u8::try_from(writer.log().range().end).unwrap();
        writer.append(&vec![number; bytes]).unwrap();
    }

    fn pop(&self) {
        assert!(self.writer.borrow_mut().pop_front().unwrap());
    }

    /// Reads all records in a visit: each is of its number and whole, and stays so until the visit ends. Returns their numbers.
    fn look(&self) -> core::ops::Range<u64> {
        let visit = self.reader.enter();
        let mut seen = vec![];
        let is_whole = |number: u64, record: &[u8]| {
            let ends = [record.first(), record.last()].map(|byte| byte.copied().map(u64::from));
            assert_eq!(ends, [Some(number); 2], "record {number} is whole");
        };
        for record in visit.records().unwrap() {
            let (number, record) = record.unwrap();
            is_whole(number, record);
            if let Some((before, _)) = seen.last() {
                assert_eq!(number, before + 1, "none is left out");
            }
            seen.push((number, record));
        }
        seen.iter().for_each(|(number, record)| is_whole(*number, record));
        let first = seen.first().map_or(0, |(number, _)| *number);
        first..first + seen.len() as u64
    }

    /// No reader is in, and the log has these records.
    fn check(self, records: core::ops::Range<u64>) {
        let mut writer = self.writer.into_inner();
        assert!(writer.reclaim().unwrap(), "no reader is in");
        assert_eq!(writer.log().range(), records);
        assert_eq!(writer.log().records().count() as u64, records.end - records.start);
    }
}

/// Fails if a segment is freed at once, if a reader enters by Relaxed, or if words are loaded or stored by Relaxed.
#[test]
fn a_segment_that_is_left_is_not_freed_under_a_reader() {
    Model {
        name: "a segment of a log is left, freed, and its memory another's, beside a visit",
        preemptions: 2,
        build: || Beside::with(2, LARGE),
        threads: &[
            |world| {
                let seen = world.look();
                assert!(seen.start <= 1 && (2..=3).contains(&seen.end), "{seen:?}");
            },
            |world| {
                world.pop();
                world.writer.borrow_mut().reclaim().unwrap();
                world.append(LARGE);
            },
        ],
        after: |world| world.check(1..3),
    }
    .check();
}

#[test]
fn a_record_is_whole_or_not_there() {
    Model {
        name: "a record is added to a segment of a log beside a reader",
        preemptions: 3,
        build: || Beside::with(1, 8),
        threads: &[
            |world| {
                let seen = world.look();
                assert!(seen.start == 0 && (1..=2).contains(&seen.end), "{seen:?}");
            },
            |world| world.append(8),
        ],
        after: |world| world.check(0..2),
    }
    .check();
}

#[test]
fn a_record_in_a_segment_of_its_own_is_whole_or_not_there() {
    Model {
        name: "a record and a segment are added to a log beside a reader",
        preemptions: 2,
        build: || Beside::with(1, 8),
        threads: &[
            |world| {
                let seen = world.look();
                assert!(seen.start == 0 && (1..=3).contains(&seen.end), "{seen:?}");
            },
            |world| {
                world.append(8);
                world.append(SEGMENT);
            },
        ],
        after: |world| world.check(0..3),
    }
    .check();
}
