//! Races, every interleaving of them that the model checker can think of.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p heirloom-folio --release loom`.

use std::vec::Vec;

use heirloom_kho::Run;
use heirloom_kho::tree::{FolioRange, LEVELS};
use loom::sync::Arc;
use loom::thread;

use super::Tracker;
use super::ram::{Ram, block};
use crate::error::Error;

/// Keys whose path stays within the first words of every node: frames below 256.
fn model(pages: usize, test: impl Fn(Arc<(Ram, Tracker)>) + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || test(Arc::new((Ram::new(pages), Tracker::new()))));
}

fn adjacent(pfn: u64, count: u64) -> FolioRange {
    FolioRange::new(block(0, pfn), count).unwrap()
}

fn row(pfn: u64, frames: u64) -> Run {
    super::ram::run(pfn, frames)
}

#[test]
fn two_make_the_same_missing_path() {
    model(2 * LEVELS, |shared| {
        let other = shared.clone();
        let thread = thread::spawn(move || other.1.preserve(&other.0, block(0, 1)).unwrap());
        shared.1.preserve(&shared.0, block(0, 2)).unwrap();
        thread.join().unwrap();
        let (ram, tracker) = &*shared;
        let folios: Vec<_> = tracker.tree(ram).folios().collect();
        assert_eq!(folios, [block(0, 1), block(0, 2)]);
        assert_eq!(ram.used(), LEVELS, "the loser's pages went back");
    });
}

#[test]
fn of_two_that_preserve_a_block_one_succeeds() {
    model(2 * LEVELS, |shared| {
        let b = block(0, 5);
        shared.1.preserve(&shared.0, block(0, 0)).unwrap();
        let other = shared.clone();
        let thread = thread::spawn(move || other.1.preserve(&other.0, b));
        let mine = shared.1.preserve(&shared.0, b);
        let theirs = thread.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok());
        assert_eq!(mine.and(theirs), Err(Error::AlreadyPreserved { block: b }));
        assert!(shared.1.contains(&shared.0, b));
    });
}

#[test]
fn of_two_that_claim_a_block_one_succeeds() {
    model(LEVELS, |shared| {
        let b = block(0, 5);
        shared.1.preserve(&shared.0, b).unwrap();
        let other = shared.clone();
        let thread = thread::spawn(move || other.1.unpreserve(&other.0, b));
        let mine = shared.1.unpreserve(&shared.0, b);
        let theirs = thread.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok());
        assert!(!shared.1.contains(&shared.0, b));
    });
}

#[test]
fn whoever_unpreserves_sees_what_was_written_before() {
    use heirloom_kho::sync::{AtomicU64, Relaxed};
    model(LEVELS, |shared| {
        let b = block(0, 5);
        // The leaf is there: the bit alone carries the content across.
        shared.1.preserve(&shared.0, block(0, 0)).unwrap();
        let content = Arc::new(AtomicU64::new(0));
        let (other, theirs) = (shared.clone(), content.clone());
        let thread = thread::spawn(move || {
            theirs.store(7, Relaxed);
            other.1.preserve(&other.0, b).unwrap();
        });
        if shared.1.unpreserve(&shared.0, b).is_ok() {
            assert_eq!(content.load(Relaxed), 7);
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_walk_sees_nodes_zeroed_and_what_was_there() {
    model(2 * LEVELS, |shared| {
        shared.1.preserve(&shared.0, block(0, 0)).unwrap();
        let other = shared.clone();
        // The walk comes second: the checker then lets each of its loads find what is old or new.
        let thread = thread::spawn(move || {
            let folios: Vec<_> = other.1.tree(&other.0).folios().collect();
            let all = [block(1, 2), block(0, 0), block(0, 1)];
            assert!(folios.contains(&block(0, 0)));
            assert!(folios.iter().all(|b| all.contains(b)), "{folios:?}");
        });
        // Order 1 has a leaf of its own.
        shared.1.preserve(&shared.0, block(1, 2)).unwrap();
        shared.1.preserve(&shared.0, block(0, 1)).unwrap();
        thread.join().unwrap();
        assert_eq!(shared.1.tree(&shared.0).folios().count(), 3);
    });
}

#[test]
fn of_overlapping_runs_one_is_preserved_whole() {
    model(3 * LEVELS, |shared| {
        // 1 + 2 frames against 2 + 1, which share the block of two.
        let (one, two) = (row(1, 3), row(2, 3));
        for b in one.blocks().chain(two.blocks()) {
            // The nodes are there: what races is the bits.
            let _ = shared.1.preserve(&shared.0, b);
            let _ = shared.1.unpreserve(&shared.0, b);
        }
        let other = shared.clone();
        let thread = thread::spawn(move || other.1.preserve_run(&other.0, two));
        let mine = shared.1.preserve_run(&shared.0, one);
        let theirs = thread.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok());
        let winner = if mine.is_ok() { one } else { two };
        let mut expected: Vec<_> = winner.blocks().collect();
        expected.sort_by_key(|b| (core::cmp::Reverse(b.order()), b.pfn()));
        assert_eq!(shared.1.tree(&shared.0).folios().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn of_overlapping_rows_one_is_preserved_whole() {
    model(LEVELS, |shared| {
        shared.1.preserve(&shared.0, block(0, 0)).unwrap();
        let other = shared.clone();
        let thread = thread::spawn(move || other.1.preserve_range(&other.0, adjacent(100, 10)));
        let mine = shared.1.preserve_range(&shared.0, adjacent(60, 50));
        let theirs = thread.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok());
        let rows: Vec<_> = shared.1.tree(&shared.0).folio_ranges().collect();
        let winner = if mine.is_ok() { adjacent(60, 50) } else { adjacent(100, 10) };
        assert_eq!(rows, [adjacent(0, 1), winner]);
    });
}

#[test]
fn of_overlapping_rows_one_is_unpreserved_whole() {
    model(LEVELS, |shared| {
        shared.1.preserve_range(&shared.0, adjacent(60, 50)).unwrap();
        let other = shared.clone();
        let thread = thread::spawn(move || other.1.unpreserve(&other.0, block(0, 109)));
        let mine = shared.1.unpreserve_range(&shared.0, adjacent(60, 50));
        let theirs = thread.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok());
        let rows: Vec<_> = shared.1.tree(&shared.0).folio_ranges().collect();
        let expected: &[_] = if mine.is_ok() { &[] } else { &[adjacent(60, 49)] };
        assert_eq!(rows, expected);
    });
}
