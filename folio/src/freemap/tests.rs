//! The free map against a set of frames.

use core::ops::Deref;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;

use bitvec::prelude::*;
use heirloom_kho::sync::{AcqRel, Relaxed};
use heirloom_kho::{Block, Order, Pfn};
use proptest::prelude::*;

use super::lanes::Widths;
use super::units::{Height, Level, Width, WordId};
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
    let owned = empty(run);
    for b in run.blocks_up_to(Order::MAX_FOLIO) {
        owned.give(b).unwrap();
    }
    owned
}

/// A free map in which nothing is free.
fn empty(run: Run) -> Owned {
    let words: Vec<AtomicU64> = (0..FreeMap::words(run)).map(|_| AtomicU64::new(0)).collect();
    let words = NonNull::from(Box::leak(words.into_boxed_slice()));
    // SAFETY: as many zeroed words as needed, that live as long as the freemap.
    let freemap = unsafe { FreeMap::new(run, words.cast()) };
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

/// What two threads take of blocks that each gives before: nothing that was given before is missed, whatever
/// the other looks for in vain.
#[test]
fn what_is_given_before_a_request_is_found_beside_requests_in_vain() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 20_000 };
    // Twelve stretches, which have lanes in two words and a row above.
    let c = empty(run(0, 12 << 12));
    for f in (0..12 << 12).step_by(2) {
        c.give(Block::new(Pfn::new(f), Order::ZERO).unwrap()).unwrap();
    }
    std::thread::scope(|s| {
        for thread in 0..2 {
            let c: &FreeMap = &c;
            s.spawn(move || {
                let mut at = thread * 7919;
                for _ in 0..ROUNDS {
                    // A frame that makes a pair, in a word of the thread's own. The last one there may still be, and
                    // the other thread may be about to give the first frame of that one back. If that is free,
                    // it is until this one is: alone it is in no pair.
                    let odd = loop {
                        at = (at + 5003) % (12 << 12);
                        let even = Pfn::new((at & !255) + thread * 128);
                        let odd = even.add(1);
                        if c.is_free(even) && c.give(Block::new(odd, Order::ZERO).unwrap()).is_ok()
                        {
                            break odd;
                        }
                    };
                    match c.take(order(1), &mut Hints::new()) {
                        // Its first frame is free again, its second is not.
                        Some(pair) => c.give(Block::new(pair.pfn(), Order::ZERO).unwrap()).unwrap(),
                        // The other thread has it, and gave what it takes itself too late for this look.
                        None => assert!(!c.is_free(odd), "a pair that was given before"),
                    }
                    assert!(c.take(order(2), &mut Hints::new()).is_none());
                }
            });
        }
    });
    while let Some(pair) = c.take(order(1), &mut Hints::new()) {
        c.give(Block::new(pair.pfn(), Order::ZERO).unwrap()).unwrap();
    }
    assert_eq!(free_frames(&c), 6 << 12);
}

#[test]
fn a_refusal_leaves_nothing_to_look_at_for_the_next() {
    let c = empty(run(0, 20 << 12));
    for f in (0..20 << 12).step_by(2) {
        c.give(Block::new(Pfn::new(f), Order::ZERO).unwrap()).unwrap();
    }
    let fits = &c.fits[0];
    for o in [3, 1] {
        assert_eq!(c.take(order(o), &mut Hints::new()), None);
        assert_eq!(fits.next(Widths::of(Width::new(o.into())), WordId::FIRST), None, "order {o}");
    }
    assert_eq!(c.find_run(2, order(0)), None);
    assert_eq!(fits.next(Widths::PAIR, WordId::FIRST), None);
    // Single frames change nothing, a pair is said where it is, and so is one over a stretch's end.
    c.give(Block::new(Pfn::new((7 << 12) + 129), Order::ZERO).unwrap()).unwrap();
    assert_eq!(fits.next(Widths::of(Width::new(1)), WordId::FIRST), Some(WordId(7)));
    assert_eq!(fits.next(Widths::of(Width::new(2)), WordId::FIRST), None);
    assert_eq!(c.take(order(1), &mut Hints::new()).map(|b| b.pfn().get()), Some((7 << 12) + 128));
    assert_eq!(c.take(order(1), &mut Hints::new()), None);
    c.give(Block::new(Pfn::new((9 << 12) - 1), Order::ZERO).unwrap()).unwrap();
    assert_eq!(c.find_run(3, order(0)).map(Pfn::get), Some((9 << 12) - 2));
}

#[derive(Clone, Debug)]
enum Op {
    Take(u8),
    At(u64, u8),
    Give(usize),
    Run(u64, u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0_u8..13).prop_map(Op::Take),
        1 => (0_u64..20_000, 0_u8..8).prop_map(|(p, o)| Op::At(p, o)),
        4 => any::<usize>().prop_map(Op::Give),
        1 => (1_u64..300, 0_u8..4).prop_map(|(frames, o)| Op::Run(frames, o)),
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
    fn agrees_with_a_set_of_frames(
        start in 0_u64..200,
        frames in 1_u64..20_000,
        // Of each 64 frames those that are free at first.
        pieces in prop_oneof![
            Just(!0), Just(0x5555_5555_5555_5555), Just(0xaaaa_aaaa_aaaa_aaaa), Just(0x8000_0001_0003_0000), any::<u64>(),
        ],
        ops in ops(),
    ) {
        let run = run(start, frames);
        let c = empty(run);
        let mut free: BitVec = BitVec::repeat(false, (start + frames).next_multiple_of(1 << 13) as usize);
        for f in (start..start + frames).filter(|f| pieces >> (f % 64) & 1 != 0) {
            c.give(Block::new(Pfn::new(f), Order::ZERO).unwrap()).unwrap();
            free.set(f as usize, true);
        }
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
                    prop_assert_eq!((c.has_block(b), c.take_at(b)), (want, want));
                    want.then_some(b)
                }
                Op::Run(len, o) => {
                    let align = 1_usize << o;
                    let fits = |first: usize| free.get(first..first + len as usize).is_some_and(BitSlice::all);
                    if let Some(first) = c.find_run(len, order(o)) {
                        let first = first.get() as usize;
                        prop_assert!(first.is_multiple_of(align) && fits(first));
                    } else {
                        let missed = (0..free.len()).step_by(align).find(|first| fits(*first));
                        prop_assert_eq!(missed, None, "{} frames in a row", len);
                    }
                    None
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

/// Leaves a bit in the summary of word `n` that nothing is behind: as a call that gives does, which is about to
/// say so while another one takes what it gave.
fn leave_behind(c: &FreeMap, level: Level, n: WordId) {
    let old = c.word(level, n).unwrap().fetch_or(1, AcqRel);
    let block = Block::containing(n.first_frame(level), level.chunk_order());
    assert!(c.take_at(block));
    c.give_slow(level, n, 1, old).unwrap();
}

#[test]
fn a_block_is_found_behind_summaries_that_are_behind() {
    let second = Level::FIRST.up().unwrap();
    for (level, stretches, frames, at) in
        [(Level::FIRST, 30, 40 << 12, (35 << 12) + 7), (second, 18, 20 << 18, (19 << 18) + 64)]
    {
        let c = empty(run(0, frames));
        for stretch in 0..stretches {
            leave_behind(&c, level, WordId(stretch * 64 + 5));
        }
        let block = Block::containing(Pfn::new(at), level.chunk_order());
        c.give(block).unwrap();
        assert_eq!(c.take(block.order(), &mut Hints::new()), Some(block));
    }
}

#[test]
fn a_run_is_found_while_another_call_empties_a_word() {
    let (level, n) = (Level::FIRST.up().unwrap(), WordId(0));
    let up = level.lowest().up().unwrap();
    let chunk = |i: u64| Block::containing(Pfn::new(i * 64), order(6));
    let c = empty(run(0, 1 << 14));
    // From here on no lane says that anything fits.
    assert!(c.find_run(64, order(0)).is_none());
    c.give(chunk(3)).unwrap();
    // One call takes it, up to before its store to the top.
    assert_eq!(c.word(level, n).unwrap().fetch_and(!(1 << 3), AcqRel), 1 << 3);
    let (above, bit) = n.above();
    assert_eq!(c.word_at(level, up, above).unwrap().fetch_and(!bit, AcqRel) & !bit, 0);
    // Another gives three more, wholly.
    for i in [5, 6, 7] {
        c.give(chunk(i)).unwrap();
    }
    // The first makes its store, and has not yet looked below.
    let (top, bit) = above.above();
    c.word_at(level, Height::TOP, top).unwrap().fetch_and(!bit, AcqRel);
    for frames in [64, 100, 130] {
        assert_eq!(c.find_run(frames, order(0)), Some(chunk(5).pfn()), "{frames} frames");
    }
    for order in [order(6), order(3)] {
        let taken = c.take(order, &mut Hints::new()).expect("one of three");
        c.give(taken).unwrap();
    }
}

#[test]
fn what_lies_free_is_found_beside_a_call_that_gives_and_takes_its_neighbour() {
    let chunk = |i: u64| Block::containing(Pfn::new(i * 64), order(6));
    let c = empty(run(0, 1 << 14));
    let stop = core::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (c, stop) = (&*c, &stop);
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                c.give(chunk(3)).unwrap();
                // The other may have it for a moment.
                while !c.take_at(chunk(3)) && !stop.load(Relaxed) {}
            }
        });
        let mut missed = [0; 3];
        for _ in 0..30_000 {
            for i in [5, 6, 7] {
                c.give(chunk(i)).unwrap();
            }
            missed[0] += u64::from(c.find_run(130, order(0)).is_none());
            for (missed, order) in missed[1..].iter_mut().zip([order(6), order(3)]) {
                match c.take(order, &mut Hints::new()) {
                    Some(block) => c.give(block).unwrap(),
                    None => *missed += 1,
                }
            }
            for i in [5, 6, 7] {
                while !c.take_at(chunk(i)) {}
            }
        }
        stop.store(true, Relaxed);
        assert_eq!(missed, [0; 3], "a run of 130, order 6, order 3");
    });
}
