//! Races over the same words: whatever the order, no chunk is taken twice, and at rest none is out
//! of reach.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p heirloom-folio --release loom`.

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{Block, Order, Pfn, Run};
use loom::sync::Arc;
use loom::thread;

use super::{FreeMap, Group, Hints};

/// Two words of frames and all the summaries above them.
const FRAMES: u64 = 128;

/// A free map with the words that it lies in, which the model checker wants dropped.
struct Shared {
    freemap: FreeMap,
    words: NonNull<[AtomicU64]>,
}

// SAFETY: the words are atomics, and nothing but the freemap and `drop` uses them.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: from `Box::leak`, and the freemap, which alone use it, end here.
        drop(unsafe { Box::from_raw(self.words.as_ptr()) });
    }
}

fn block(frame: u64, order: u8) -> Block {
    Block::new(Pfn::new(frame), Order::new(order).unwrap()).unwrap()
}

/// A free map in which these blocks are free.
fn shared(free: &[Block]) -> Arc<Shared> {
    let run = Run::new(Pfn::new(0), FRAMES).unwrap();
    let words: Vec<AtomicU64> = (0..FreeMap::words(run)).map(|_| AtomicU64::new(0)).collect();
    let words = NonNull::from(Box::leak(words.into_boxed_slice()));
    // SAFETY: as many zeroed words as needed, that live as long as the freemap.
    let freemap = unsafe { FreeMap::new(run, words.cast()) };
    for b in free {
        freemap.give(*b).unwrap();
    }
    Arc::new(Shared { freemap, words })
}

/// The most preemptions that are tried: with one more, some of the models take hours.
const MOST: usize = 4;

fn model(test: impl Fn() + Sync + Send + 'static) {
    model_of(MOST, test);
}

/// A model with so many preemptions, and `HEIRLOOM_PREEMPTIONS` more.
fn model_of(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let more = std::env::var("HEIRLOOM_PREEMPTIONS").ok().and_then(|more| more.parse().ok());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some((preemptions + more.unwrap_or(0_usize)).min(MOST));
    builder.max_branches = 5000;
    builder.check(test);
}

/// All that is free, found frame by frame as an allocator would: by the hints.
fn reachable(freemap: &FreeMap) -> Vec<u64> {
    let mut hints = Hints::new();
    let mut found = Vec::new();
    loop {
        let word = freemap.take_word(&mut hints);
        let chunk = || freemap.take(order(6), &mut hints).and_then(|b| Group::frames(b.pfn(), !0));
        let Some(group) = word.or_else(chunk) else { break };
        found.extend(group.blocks(order(0)).map(|b| b.pfn().get()));
    }
    found.sort_unstable();
    let mut once = found.clone();
    once.dedup();
    assert_eq!(once, found, "a frame was free twice");
    found
}

fn frames(blocks: &[Block]) -> Vec<u64> {
    let mut all: Vec<u64> =
        blocks.iter().flat_map(|b| b.pfn().get()..b.run().end().get()).collect();
    all.sort_unstable();
    all
}

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

/// The blocks of a word but for the single frames given, largest first.
fn all_but_two() -> [Block; 6] {
    [block(32, 5), block(16, 4), block(8, 3), block(4, 2), block(2, 1), block(64, 6)]
}

#[test]
fn two_that_complete_a_word_make_one_unit_of_it() {
    model(|| {
        let shared = shared(&all_but_two()[..5]);
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.give(block(0, 0)).unwrap());
        shared.freemap.give(block(1, 0)).unwrap();
        thread.join().unwrap();
        let mut counts = [0; Order::MAX_FOLIO.index() + 1];
        shared.freemap.count_free(&mut counts);
        assert_eq!(counts[6], 1, "{counts:?}");
        assert_eq!(reachable(&shared.freemap), frames(&[block(0, 6)]));
    });
}

#[test]
fn a_frame_given_to_a_word_that_becomes_empty_is_found() {
    model(|| {
        let shared = shared(&[block(3, 0)]);
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.take(order(0), &mut Hints::new()));
        shared.freemap.give(block(5, 0)).unwrap();
        let taken = thread.join().unwrap();
        let mut left = reachable(&shared.freemap);
        left.extend(taken.map(|b| b.pfn().get()));
        left.sort_unstable();
        assert_eq!(left, [3, 5]);
    });
}

#[test]
fn a_unit_given_while_its_word_is_swept_is_found() {
    model(|| {
        let shared = shared(&[block(3, 0)]);
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.take_word(&mut Hints::new()));
        // To the neighbouring word, under the same hints.
        shared.freemap.give(block(70, 0)).unwrap();
        let taken = thread.join().unwrap();
        let mut left = reachable(&shared.freemap);
        left.extend(taken.into_iter().flat_map(|g| g.blocks(order(0))).map(|b| b.pfn().get()));
        left.sort_unstable();
        assert_eq!(left, [3, 70]);
    });
}

// With three preemptions, a twentieth of what four take: fails if `give_to` or `take_best` changes its word by a load
// and a store.
#[test]
fn of_two_that_break_a_unit_both_get_a_block_or_one_is_too_early() {
    model_of(3, || {
        let shared = shared(&[block(64, 6)]);
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.take(order(5), &mut Hints::new()));
        let mine = shared.freemap.take(order(0), &mut Hints::new());
        let theirs = thread.join().unwrap();
        let taken: Vec<Block> = mine.into_iter().chain(theirs).collect();
        assert!(!taken.is_empty(), "one of them found the chunk");
        let mut all = reachable(&shared.freemap);
        all.extend(frames(&taken));
        all.sort_unstable();
        assert_eq!(all, frames(&[block(64, 6)]));
    });
}

// As above: fails if `give_to`, `take_best` or `take_bits_at` changes its word by a load and a store.
#[test]
fn taking_at_a_place_and_anywhere_never_share_a_frame() {
    model_of(3, || {
        let shared = shared(&[block(0, 6)]);
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.take_at(block(0, 3)));
        let mine = shared.freemap.take(order(4), &mut Hints::new());
        let theirs = thread.join().unwrap().then_some(block(0, 3));
        let taken: Vec<Block> = mine.into_iter().chain(theirs).collect();
        let mut all = reachable(&shared.freemap);
        all.extend(frames(&taken));
        all.sort_unstable();
        assert_eq!(all, frames(&[block(0, 6)]));
    });
}

#[test]
fn completing_a_word_and_taking_from_it() {
    model(|| {
        let shared = shared(&all_but_two());
        shared.freemap.give(block(1, 0)).unwrap();
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.give(block(0, 0)).unwrap());
        let taken = shared.freemap.take(order(1), &mut Hints::new());
        thread.join().unwrap();
        let mut all = reachable(&shared.freemap);
        all.extend(frames(&taken.into_iter().collect::<Vec<_>>()));
        all.sort_unstable();
        assert_eq!(all, frames(&[block(0, 6), block(64, 6)]));
    });
}

#[test]
fn who_takes_sees_what_the_last_owner_wrote() {
    use heirloom_kho::sync::Relaxed;
    model(|| {
        let shared = shared(&all_but_two()[..5]);
        let content = Arc::new(AtomicU64::new(0));
        let (other, theirs) = (shared.clone(), content.clone());
        let thread = thread::spawn(move || {
            theirs.store(7, Relaxed);
            other.freemap.give(block(0, 0)).unwrap();
        });
        // The thread that comes second completes the word, which moves up with what both gave.
        shared.freemap.give(block(1, 0)).unwrap();
        if shared.freemap.take_at(block(0, 0)) {
            assert_eq!(content.load(Relaxed), 7);
        }
        thread.join().unwrap();
    });
}

/// Two pairs and a single frame of which one frame each is still missing.
fn nearly_pairs() -> [Block; 3] {
    [block(0, 0), block(4, 0), block(70, 0)]
}

// Fails if `say_vain` does not look once more, or if `give_bits` does not look whether bits are missing.
#[test]
fn a_pair_given_before_a_search_is_found_beside_another_in_vain() {
    model(|| {
        let shared = shared(&nearly_pairs());
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.take(order(1), &mut Hints::new()));
        shared.freemap.give(block(1, 0)).unwrap();
        let mine = shared.freemap.take(order(1), &mut Hints::new());
        let theirs = thread.join().unwrap();
        assert_eq!(mine.into_iter().chain(theirs).collect::<Vec<_>>(), [block(0, 1)]);
    });
}

// Fails if `give_bits` does not look whether bits are missing.
#[test]
fn a_pair_given_where_another_is_said_is_found() {
    model_of(3, || {
        let shared = shared(&nearly_pairs());
        // Clears the bits: both calls that give find them missing.
        assert_eq!(shared.freemap.take(order(1), &mut Hints::new()), None);
        let other = shared.clone();
        let thread = thread::spawn(move || other.freemap.give(block(1, 0)).unwrap());
        shared.freemap.give(block(5, 0)).unwrap();
        let first = shared.freemap.take(order(1), &mut Hints::new());
        assert!(first.is_some(), "one was given before");
        thread.join().unwrap();
        let second = shared.freemap.take(order(1), &mut Hints::new());
        let mut both: Vec<Block> = first.into_iter().chain(second).collect();
        both.sort();
        assert_eq!(both, [block(0, 1), block(4, 1)]);
    });
}

#[test]
fn pairs_given_by_two_beside_a_search_in_vain_are_found() {
    model_of(2, || {
        let shared = shared(&nearly_pairs());
        let (one, two) = (shared.clone(), shared.clone());
        let vain = thread::spawn(move || one.freemap.take(order(1), &mut Hints::new()));
        let gives = thread::spawn(move || two.freemap.give(block(1, 0)).unwrap());
        shared.freemap.give(block(5, 0)).unwrap();
        gives.join().unwrap();
        let mut taken: Vec<Block> = vain.join().unwrap().into_iter().collect();
        taken.extend((0..2).filter_map(|_| shared.freemap.take(order(1), &mut Hints::new())));
        taken.sort();
        assert_eq!(taken, [block(0, 1), block(4, 1)]);
    });
}

// Fails if `search_all` does not ask whether it was disturbed.
#[test]
fn a_pair_given_before_a_search_is_found_while_bits_are_cleared() {
    model_of(3, || {
        let shared = shared(&nearly_pairs());
        let other = shared.clone();
        // Clears all bits, and takes nothing.
        let thread = thread::spawn(move || other.freemap.find_run(2, order(0)));
        shared.freemap.give(block(1, 0)).unwrap();
        assert_eq!(shared.freemap.take(order(1), &mut Hints::new()), Some(block(0, 1)));
        thread.join().unwrap();
    });
}

// Fails if `say_given` does not look for pairs.
#[test]
fn a_run_given_before_a_search_is_found_beside_another_in_vain() {
    model_of(3, || {
        let shared = shared(&[block(2, 0), block(70, 0)]);
        let other = shared.clone();
        // Two in a row, but no block: in vain, or what is given below.
        let thread = thread::spawn(move || other.freemap.find_run(2, order(0)));
        shared.freemap.give(block(1, 0)).unwrap();
        assert_eq!(shared.freemap.find_run(2, order(0)), Some(Pfn::new(1)));
        thread.join().unwrap();
        assert_eq!(shared.freemap.find_run(2, order(0)), Some(Pfn::new(1)));
    });
}
