use std::cell::RefCell;
use std::vec;

use heirloom_folio::harness::Ram;
use heirloom_slab::{Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::*;
use crate::testing::{Dice, boot, in_use, stop};
use crate::watch;

/// An element that no one store writes.
#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wide {
    number: u64,
    again: [u64; 37],
}
persist!(Wide { number, again });

const fn wide(number: u64) -> Wide {
    Wide { number, again: [number; 37] }
}

fn contents(vec: &Vec<'_, Wide, Ram>) -> vec::Vec<Wide> {
    let mut found = vec![];
    vec.for_each(|element| found.push(*element)).unwrap();
    found
}

/// One thing that is done to a vector.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u64),
    Pop,
    Set(u64, u64),
    Truncate(u64),
    Shrink,
}

fn step(dice: &mut Dice, len: u64) -> Step {
    match dice.below(40) {
        0..24 => Step::Push(dice.below(1 << 32)),
        24..32 => Step::Pop,
        32..38 => Step::Set(dice.below(len + 1), dice.below(1 << 32)),
        38 => Step::Truncate(dice.below(len + 1)),
        _ => Step::Shrink,
    }
}

impl Step {
    fn vec(self, vec: &mut Vec<'_, Wide, Ram>) {
        match self {
            Self::Push(number) => vec.push(wide(number)).unwrap(),
            Self::Pop => drop(vec.pop().unwrap()),
            Self::Set(index, number) => {
                assert_eq!(vec.set(index, wide(number)).unwrap(), index < vec.len());
            }
            Self::Truncate(len) => vec.truncate(len),
            Self::Shrink => vec.shrink().unwrap(),
        }
    }

    fn model(self, model: &mut vec::Vec<Wide>) {
        match self {
            Self::Push(number) => model.push(wide(number)),
            Self::Pop => drop(model.pop()),
            Self::Set(index, number) => {
                if let Some(element) = model.get_mut(index as usize) {
                    *element = wide(number);
                }
            }
            Self::Truncate(len) => model.truncate(len as usize),
            Self::Shrink => {}
        }
    }
}

#[test]
fn a_vector_is_what_a_vector_of_std_is() {
    let slabs = boot(2048);
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::create(&pool).unwrap();
    let (mut model, mut dice) = (vec![], Dice(0x5eed_0003));
    for _ in 0..if cfg!(miri) { 30 } else { 5000 } {
        let step = step(&mut dice, vec.len());
        step.vec(&mut vec);
        step.model(&mut model);
    }
    assert_eq!(contents(&vec), model);
    assert_eq!(vec.get(vec.len()).unwrap(), None);
    vec.destroy().unwrap();
    assert!(slabs.caches().all(|cache| cache.preserved().count() == 0));
}

#[test]
fn a_vector_of_many_chunks_has_a_directory() {
    let slabs = boot(2048);
    let pool = Pool::open(&slabs).unwrap();
    let mut vec = Vec::create(&pool).unwrap();
    let per_chunk = Vec::<Wide, Ram>::PER_CHUNK;
    let count = if cfg!(miri) { per_chunk + 1 } else { 70 * per_chunk };
    for number in 0..count {
        vec.push(wide(number)).unwrap();
    }
    for number in 0..count {
        assert_eq!(vec.get(number).unwrap(), Some(&wide(number)));
    }
    vec.truncate(1);
    vec.shrink().unwrap();
    assert_eq!(in_use(&slabs), 1);
    assert_eq!(contents(&vec), [wide(0)]);
}

fn look(
    slabs: &Slabs<Ram>,
    handle: Handle,
    before: &[Wide],
    after: &[Wide],
    chunks: core::ops::RangeInclusive<usize>,
) -> bool {
    let pool = Pool::open(slabs).unwrap();
    let mut vec = Vec::open(&pool, handle).unwrap();
    let found = contents(&vec);
    assert!(found == before || found == after, "{found:?}");
    assert!(chunks.contains(&in_use(slabs)), "{chunks:?}: nothing is lost");
    vec.shrink().unwrap();
    let needed = if vec.is_empty() { 0 } else { vec.len() / Vec::<Wide, Ram>::PER_CHUNK + 1 };
    assert_eq!(in_use(slabs) as u64, needed);
    vec.push(wide(1)).unwrap();
    assert_eq!(vec.pop().unwrap(), Some(wide(1)));
    found == after
}

#[test]
fn an_operation_is_there_or_not_at_each_store() {
    const FRAMES: u64 = 320;
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let vec = RefCell::new(Vec::create(&pool).unwrap());
    let handle = vec.borrow().handle();
    let (mut model, mut dice) = (vec![], Dice(0x5eed_0004));
    let (stops, deaths) = (RefCell::new(0), RefCell::new(0));
    for _ in 0..70 {
        let step = step(&mut dice, model.len() as u64);
        let before = model.clone();
        step.model(&mut model);
        let chunks = in_use(&slabs);
        let chunks =
            chunks.saturating_sub(if matches!(step, Step::Shrink) { 9 } else { 0 })..=chunks + 1;
        let happened = RefCell::new(false);
        watch::during(
            &|| {
                let now =
                    look(&stop(&slabs, FRAMES).revive(), handle, &before, &model, chunks.clone());
                assert!(now || !*happened.borrow() || before == model, "it stays happened");
                *happened.borrow_mut() = now;
                *stops.borrow_mut() += 1;
                let next = stop(&slabs, FRAMES).revive();
                let pool = Pool::open(&next).unwrap();
                let again = || {
                    look(&stop(&next, FRAMES).revive(), handle, &before, &model, chunks.clone());
                    *deaths.borrow_mut() += 1;
                };
                watch::during(&again, || Vec::<Wide, Ram>::open(&pool, handle).unwrap());
            },
            || step.vec(&mut vec.borrow_mut()),
        );
        assert_eq!(contents(&vec.borrow()), model);
    }
    let (stops, deaths) = (stops.into_inner(), deaths.into_inner());
    std::println!("{stops} stops, {deaths} in the middle of opening");
    assert!(stops > 70 && deaths > 10);
}
