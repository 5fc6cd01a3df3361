use std::cell::RefCell;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use heirloom_folio::harness::Ram;
use heirloom_slab::Slabs;

use super::*;
use crate::testing::{Dice, boot, in_use, stop};
use crate::watch;

type Model = VecDeque<(u64, Vec<u8>)>;

fn contents(log: &Log<'_, Ram>) -> Model {
    let found: Result<Model, Error> = log
        .records()
        .map(|record| record.map(|(number, bytes)| (number, bytes.to_vec())))
        .collect();
    let found = found.unwrap();
    assert_eq!(log.range().end - log.range().start, found.len() as u64);
    assert_eq!(log.front().unwrap(), found.front().map(|(_, bytes)| &bytes[..]));
    assert_eq!(log.is_empty(), found.is_empty());
    found
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Pop,
}

fn step(dice: &mut Dice) -> Step {
    // Most segments have a few records, some one that is longer than they are.
    if dice.below(5) < 2 {
        return Step::Pop;
    }
    let bytes = if dice.below(20) == 0 { 20_000 } else { dice.below(6000) };
    Step::Append(vec![dice.below(256) as u8; bytes as usize])
}

impl Step {
    fn log(&self, log: &mut Log<'_, Ram>) {
        match self {
            Self::Append(record) => drop(log.append(record).unwrap()),
            Self::Pop => drop(log.pop_front().unwrap()),
        }
    }

    fn model(&self, model: &mut Model, next: &mut u64) {
        match self {
            Self::Append(record) => {
                model.push_back((*next, record.clone()));
                *next += 1;
            }
            Self::Pop => drop(model.pop_front()),
        }
    }
}

/// Segments that a log consists of.
fn segments(log: &Log<'_, Ram>) -> usize {
    let (mut here, mut count) = (log.first, 1);
    while here.next().get() != 0 {
        here = segment(&log.body, Link::from_bits(here.next().get())).unwrap();
        count += 1;
    }
    count
}

#[test]
fn a_log_is_what_a_queue_of_std_is() {
    let slabs = boot(4096);
    let pool = Pool::open(&slabs).unwrap();
    let mut log = Log::create(&pool).unwrap();
    let (mut model, mut next, mut dice) = (Model::new(), 0, Dice(0x5eed_0005));
    for _ in 0..if cfg!(miri) { 30 } else { 3000 } {
        let step = step(&mut dice);
        step.log(&mut log);
        step.model(&mut model, &mut next);
    }
    assert_eq!(contents(&log), model);
    assert_eq!(in_use(&slabs), segments(&log));
    assert!(matches!(log.append(&vec![0; MAX_OBJECT]), Err(Error::TooLong { .. })));
    log.destroy().unwrap();
    assert!(slabs.caches().all(|cache| cache.preserved().count() == 0));
}

#[test]
fn the_numbers_of_a_log_go_on_through_every_successor() {
    const FRAMES: u64 = 256;
    let mut slabs = boot(FRAMES);
    let handle = {
        let pool = Pool::open(&slabs).unwrap();
        Log::create(&pool).unwrap().handle()
    };
    // Each kernel does something else: it appends, or removes all, or leaves it as it is.
    let (mut model, mut next) = (Model::new(), 0);
    for (kernel, what) in [5, 0, 3, 12, 0, 0, 7, 3, 1, 12].into_iter().enumerate() {
        slabs = stop(&slabs, FRAMES).revive();
        let pool = Pool::open(&slabs).unwrap();
        let mut log = Log::open(&pool, handle).unwrap();
        assert_eq!(contents(&log), model, "kernel {kernel}");
        assert_eq!(log.range().end, next, "kernel {kernel}");
        for _ in 0..what {
            let record = vec![kernel as u8; 4000];
            assert_eq!(log.append(&record).unwrap(), next);
            model.push_back((next, record));
            next += 1;
        }
        if what % 3 == 0 {
            while log.pop_front().unwrap() {
                model.pop_front();
            }
            model.clear();
        }
        assert_eq!(log.range(), next - model.len() as u64..next);
    }
    assert_eq!(next, 43);
}

fn look(slabs: &Slabs<Ram>, handle: Handle, before: &Model, after: &Model, next: u64) -> bool {
    let pool = Pool::open(slabs).unwrap();
    let mut log = Log::open(&pool, handle).unwrap();
    let found = contents(&log);
    assert!(found == *before || found == *after);
    assert_eq!(in_use(slabs), segments(&log), "nothing is lost");
    let number = log.append(b"another").unwrap();
    assert!(number == next || number + 1 == next, "{number}, {next}");
    found == *after
}

#[test]
fn an_operation_is_there_or_not_at_each_store() {
    const FRAMES: u64 = 640;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let log = RefCell::new(Log::create(&pool).unwrap());
    let handle = log.borrow().handle();
    let (mut model, mut next, mut dice) = (Model::new(), 0, Dice(0x5eed_0006));
    let (stops, deaths) = (RefCell::new(0), RefCell::new(0));
    for _ in 0..50 {
        let step = step(&mut dice);
        let before = model.clone();
        step.model(&mut model, &mut next);
        let happened = RefCell::new(false);
        watch::during(
            &|| {
                let now = look(&stop(&slabs, FRAMES).revive(), handle, &before, &model, next);
                assert!(now || !*happened.borrow() || before == model, "it stays happened");
                *happened.borrow_mut() = now;
                *stops.borrow_mut() += 1;
                let revived = stop(&slabs, FRAMES).revive();
                let pool = Pool::open(&revived).unwrap();
                let again = || {
                    look(&stop(&revived, FRAMES).revive(), handle, &before, &model, next);
                    *deaths.borrow_mut() += 1;
                };
                watch::during(&again, || Log::open(&pool, handle).unwrap());
            },
            || step.log(&mut log.borrow_mut()),
        );
        assert_eq!(contents(&log.borrow()), model);
    }
    let (stops, deaths) = (stops.into_inner(), deaths.into_inner());
    std::println!("{stops} stops, {deaths} in the middle of opening");
    assert!(stops > 60 && deaths > 10);
}
