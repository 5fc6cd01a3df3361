//! The free map against a set of frames.

use core::ops::Deref;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;

use bitvec::prelude::*;
use heirloom_kho::{Block, Order, Pfn};
use proptest::prelude::*;

use super::units::Width;
use super::*;

/// A free map with the words that it lies in.
struct Owned {
    freemap: FreeMap,
    words: NonNull<[AtomicU64]>,
}

impl Deref for Owned {
    type Target = FreeMap;

    fn deref(&self) -> &FreeMap {
        &self.freemap
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: from `Box::leak`, and the freemap, which alone use it, end here.
        drop(unsafe { Box::from_raw(self.words.as_ptr()) });
    }
}

fn freemap(run: Run) -> Owned {
    let words: Vec<AtomicU64> = (0..FreeMap::words(run)).map(|_| AtomicU64::new(0)).collect();
    let words = NonNull::from(Box::leak(words.into_boxed_slice()));
    // SAFETY: as many zeroed words as needed, that live as long as the freemap.
    let freemap = unsafe { FreeMap::new(run, words.cast()) };
    for b in run.blocks_up_to(Order::MAX_FOLIO) {
        freemap.give(b).unwrap();
    }
    Owned { freemap, words }
}

fn run(start: u64, frames: u64) -> Run {
    Run::new(Pfn::new(start), frames).unwrap()
}

fn order(o: u8) -> Order {
    Order::new(o).unwrap()
}

fn free_frames(c: &FreeMap) -> u64 {
    let mut counts = [0; 19];
    c.count_free(&mut counts);
    counts.iter().enumerate().map(|(o, n)| n << o).sum()
}

#[test]
fn groups_are_aligned_runs_of_set_bits() {
    for k in 0..6 {
        for at in 0..64_u32 {
            let aligned = at.is_multiple_of(1 << k) && at + (1 << k) <= 64;
            if aligned {
                assert_eq!(Width::new(k).groups(Width::new(k).mask(at)), 1 << at);
            }
        }
        assert_eq!(Width::new(k).groups(!0).count_ones(), 64 >> k);
    }
    assert_eq!(Width::new(1).groups(0b0110), 0, "not aligned");
}

#[test]
fn fresh_memory_is_its_largest_blocks() {
    let c = freemap(run(3, 300_000));
    let mut counts = [0; 19];
    c.count_free(&mut counts);
    assert_eq!(counts.iter().enumerate().map(|(o, n)| n << o).sum::<u64>(), 300_000);
    assert_eq!(counts[17], 1, "2^17..2^18");
}

#[test]
fn everything_taken_one_by_one_and_given_back_is_whole_again() {
    for o in 0..=18 {
        let c = freemap(run(0, 1 << 19));
        let mut hints = Hints::new();
        let mut taken = Vec::new();
        while let Some(b) = c.take(order(o), &mut hints) {
            assert_eq!(b.order(), order(o));
            taken.push(b);
        }
        assert_eq!(taken.len(), 1 << (19 - o));
        assert_eq!(free_frames(&c), 0);
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 1 << (19 - o), "no block twice");
        for b in taken.iter().rev() {
            c.give(*b).unwrap();
        }
        let mut counts = [0; 19];
        c.count_free(&mut counts);
        assert_eq!(counts[18], 2, "order {o}");
    }
}

#[test]
fn words_of_frames() {
    let c = freemap(run(10, 200));
    let mut hints = Hints::new();
    let mut seen = BTreeSet::new();
    while let Some(group) = c.take_word(&mut hints) {
        for block in group.blocks(order(0)) {
            assert!(seen.insert(block.pfn().get()));
        }
    }
    assert_eq!(seen, (10..64).chain(192..210).collect(), "words that are not whole");
    let whole = c.take_group(order(6), 4, &mut hints).unwrap();
    assert_eq!(whole.blocks(order(6)).count(), 2);
    for block in whole.blocks(order(6)) {
        seen.extend(block.run().start().get()..block.run().end().get());
    }
    assert_eq!(seen, (10..210).collect());
    let give = |bits| c.give_group(order(0), Group::frames(Pfn::new(0), bits).unwrap());
    assert_eq!(give(1 << 10), Ok(()));
    assert_eq!(give(3 << 10), Err(()), "frame 10 is free");
    assert_eq!(free_frames(&c), 1, "the refused part was undone");
}

#[test]
fn several_blocks_of_one_word() {
    for o in 0..=18 {
        let c = freemap(run(0, 1 << 18));
        let mut hints = Hints::new();
        let mut taken = Vec::new();
        while let Some(group) = c.take_group(order(o), 3, &mut hints) {
            let blocks: Vec<Block> = group.blocks(order(o)).collect();
            assert!(
                (1..=3).contains(&blocks.len()) && blocks.iter().all(|b| b.order() == order(o))
            );
            let again = blocks[1..].iter().try_fold(Group::of(blocks[0]), |g, b| g.with(*b));
            assert_eq!(again, Some(group));
            taken.extend(blocks);
        }
        taken.sort();
        taken.dedup();
        assert_eq!((taken.len(), free_frames(&c)), (1 << (18 - o), 0), "order {o}");
        for block in &taken {
            c.give_group(order(o), Group::of(*block)).unwrap();
        }
        assert!(c.take_at(Block::new(Pfn::new(0), order(18)).unwrap()), "whole again");
    }
}

#[test]
fn neighbouring_units_for_very_large_runs() {
    let c = freemap(run(0, 5 << 18));
    assert!(c.take_at(Block::new(Pfn::new(1 << 18), order(0)).unwrap()));
    assert_eq!(c.take_chunks(3), Some(Pfn::new(2 << 18)));
    assert_eq!(c.take_chunks(2), None);
    assert_eq!(c.take_chunks(1), Some(Pfn::new(0)));
}

#[test]
fn runs_are_found_wherever_they_lie() {
    let c = freemap(run(5, 300));
    assert_eq!(c.find_run(300, order(0)), Some(Pfn::new(5)));
    assert_eq!(c.find_run(301, order(0)), None);
    assert_eq!(c.find_run(200, order(6)), Some(Pfn::new(64)));
    assert!(c.take_at(Block::new(Pfn::new(200), order(3)).unwrap()));
    assert_eq!(c.find_run(195, order(0)), Some(Pfn::new(5)));
    assert_eq!(c.find_run(196, order(0)), None);
    assert_eq!(c.find_run(97, order(0)), Some(Pfn::new(5)));
    assert_eq!(c.find_run(97, order(4)), Some(Pfn::new(16)));
    assert_eq!(c.find_run(97, order(7)), None);
    assert!(c.take_at(Block::new(Pfn::new(5), order(0)).unwrap()));
    assert_eq!(c.find_run(194, order(0)), Some(Pfn::new(6)));
}

#[derive(Clone, Debug)]
enum Op {
    Take(u8),
    At(u64, u8),
    Give(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0_u8..13).prop_map(Op::Take),
        1 => (0_u64..20_000, 0_u8..8).prop_map(|(p, o)| Op::At(p, o)),
        4 => any::<usize>().prop_map(Op::Give),
    ];
    prop::collection::vec(op, 1..400)
}

/// The frames of a block, as bits of the model.
fn frames_of(block: Block) -> core::ops::Range<usize> {
    block.pfn().get() as usize..block.run().end().get() as usize
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x6865_6972),
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_a_set_of_frames(start in 0_u64..200, frames in 1_u64..20_000, ops in ops()) {
        let run = run(start, frames);
        let c = freemap(run);
        let mut free: BitVec = BitVec::repeat(false, (start + frames).next_multiple_of(1 << 13) as usize);
        free[start as usize..(start + frames) as usize].fill(true);
        let mut live: Vec<Block> = Vec::new();
        let mut hints = Hints::new();
        for op in ops {
            let block = match op {
                Op::Take(o) => c.take(order(o), &mut hints).inspect(|b| {
                    assert_eq!(b.order(), order(o));
                }).or_else(|| {
                    // Refused only if no aligned block is free.
                    for first in (0..(start + frames) as usize).step_by(1 << o) {
                        assert!(!free[first..first + (1 << o)].all());
                    }
                    None
                }),
                Op::At(p, o) => {
                    let b = Block::containing(Pfn::new(p), order(o));
                    let want = free.get(frames_of(b)).is_some_and(BitSlice::all);
                    prop_assert_eq!(c.take_at(b), want);
                    want.then_some(b)
                }
                Op::Give(i) => {
                    if !live.is_empty() {
                        let b = live.swap_remove(i % live.len());
                        prop_assert_eq!(c.give(b), Ok(()));
                        free[frames_of(b)].fill(true);
                    }
                    None
                }
            };
            if let Some(b) = block {
                prop_assert!(free[frames_of(b)].all(), "a frame with two owners");
                free[frames_of(b)].fill(false);
                live.push(b);
            }
            prop_assert_eq!(free_frames(&c), free.count_ones() as u64);
        }
        for f in start..start + frames {
            prop_assert_eq!(c.is_free(Pfn::new(f)), free[f as usize]);
        }
    }
}
