//! A survey finds every fault, and `check` the first of them.

use std::vec;
use std::vec::Vec;

use heirloom_kho::sync::Relaxed;
use heirloom_kho::tree::{TreeError, TreeFault, *};
use heirloom_kho::{Block, Order, PhysAddr, Run};
use proptest::prelude::*;

use super::hostile_tests::Book;
use super::model_tests::config;
use super::ram::{Ram, block, run};
use super::*;

/// What a survey finds with a ledger of frames over `stretches`, and what it counts.
fn found(
    root: PhysAddr,
    ram: &Ram,
    stretches: &[Run],
    scratch: Option<Run>,
) -> (Vec<TreeError>, Counts) {
    let mut words: Vec<_> =
        stretches.iter().map(|run| vec![!0; FramesOf::words(*run).unwrap()]).collect();
    let frames = stretches.iter().zip(&mut words).map(|(run, words)| FramesOf::new(*run, words));
    let mut frames: Vec<_> = frames.map(Option::unwrap).collect();
    let mut ledger = Frames::new(&mut frames);
    if let Some(area) = scratch {
        ledger.keep_out(area);
    }
    let mut found = Vec::new();
    let counts = survey(root, ram, &mut ledger, |fault| {
        found.push(fault);
        Ok::<_, TreeError>(())
    });
    (found, counts.unwrap())
}

fn reasons(found: &[TreeError]) -> Vec<TreeFault> {
    found.iter().map(|error| error.reason).collect()
}

#[test]
fn every_fault_is_found_and_the_rest_is_counted() {
    let ram = Ram::new(64);
    let tracker = Tracker::new();
    let memory = [run(0, 0x400), ram.run()];
    let good = [block(3, 0x40), block(0, 0x80), block(0, 0x81), block(0, 0x83)];
    let outside = [block(0, 0x400), block(0, 0x402), block(1, 0x500)];
    let scratch = [block(0, 0x200), block(2, 0x204)];
    let twice = [block(0, 0x41), block(1, 0x46)];
    let node = Block::containing(ram.run().start(), Order::ZERO);
    for b in good.iter().chain(&outside).chain(&scratch).chain(&twice).chain([&node]) {
        tracker.preserve(&ram, *b).unwrap();
    }
    let root = tracker.root().unwrap();
    let (found, counts) = found(root, &ram, &memory, Some(run(0x200, 0x10)));
    let overlap = |block| TreeFault::Overlap { block };
    let mut expected = vec![TreeFault::Node { block: node, node: node.addr() }];
    expected.extend(outside.map(|block| TreeFault::OutsideMemory { addr: block.addr() }));
    expected.extend(scratch.map(|block| TreeFault::Scratch { block }));
    expected.extend(twice.map(overlap));
    let mut reasons = reasons(&found);
    let key = |fault: &TreeFault| std::format!("{fault:?}");
    reasons.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(reasons, expected);
    assert_eq!(counts.total(), good.len() as u64);
    assert_eq!(counts.nodes(), tracker.tree(&ram).counts().nodes());
}

#[test]
fn bits_beside_one_at_fault_are_taken() {
    let ram = Ram::new(32);
    let tracker = Tracker::new();
    for pfn in 0..64 {
        tracker.preserve(&ram, block(0, 0x40 + pfn)).unwrap();
    }
    // Frame 0x60 is in no memory: the word is of two stretches.
    let memory = [run(0x40, 0x20), run(0x61, 0x100), ram.run()];
    let (found, counts) = found(tracker.root().unwrap(), &ram, &memory, None);
    assert_eq!(reasons(&found), [TreeFault::OutsideMemory { addr: block(0, 0x60).addr() }]);
    assert_eq!(counts.folios(Order::ZERO), 63);
}

#[test]
fn a_folio_may_lie_in_two_stretches_side_by_side() {
    let ram = Ram::new(32);
    let tracker = Tracker::new();
    tracker.preserve(&ram, block(7, 0x80)).unwrap();
    let root = tracker.root().unwrap();
    let (sound, _) = found(root, &ram, &[run(0, 0xa5), run(0xa5, 0x100), ram.run()], None);
    assert_eq!(sound, []);
    let (gap, _) = found(root, &ram, &[run(0, 0xa5), run(0xa6, 0x100), ram.run()], None);
    assert_eq!(reasons(&gap), [TreeFault::OutsideMemory { addr: block(7, 0x80).addr() }]);
}

#[test]
fn an_error_of_the_caller_ends_it() {
    let ram = Ram::new(32);
    let tracker = Tracker::new();
    for pfn in [0, 2, 4] {
        tracker.preserve(&ram, block(0, pfn)).unwrap();
    }
    let mut book = Book::over(ram.run());
    let mut seen = 0;
    let ended = survey(tracker.root().unwrap(), &ram, &mut book, |fault| {
        seen += 1;
        if seen == 2 { Err(fault.reason) } else { Ok(()) }
    });
    let second = TreeFault::OutsideMemory { addr: block(0, 2).addr() };
    assert_eq!((ended.unwrap_err(), seen), (second, 2));
}

#[test]
fn each_block_is_claimed_once() {
    let memory = run(0x10, 0x100);
    let mut words = vec![0; FramesOf::words(memory).unwrap()];
    assert!(FramesOf::new(memory, &mut vec![0; words.len() - 1]).is_none());
    let mut stretches = [FramesOf::new(memory, &mut words).unwrap()];
    assert_eq!(stretches[0].run(), memory);
    let mut frames = Frames::new(&mut stretches);
    assert!(frames.claim(block(2, 0x20)) && frames.claim(block(0, 0x24)));
    assert!(!frames.claim(block(0, 0x23)) && !frames.claim(block(3, 0x20)));
    // What is claimed is not taken.
    assert_eq!(frames.take(block(2, 0x20)), Ok(()));
}

proptest! {
    #![proptest_config(config())]

    /// Whatever is in the nodes: both end, and agree on whether there is a fault, and on the first.
    #[test]
    fn check_finds_what_a_survey_finds_first(
        stores in prop::collection::vec(
            (0..12_u64, 0..64_usize, 0..12_u64, any::<u64>(), 0..4_u8),
            0..24,
        ),
    ) {
        let ram = Ram::new(12);
        let tracker = Tracker::new();
        tracker.preserve(&ram, block(0, 1)).unwrap();
        let root = tracker.root().unwrap();
        let first = ram.run().start();
        for (page, word, target, bits, what) in stores {
            let value = match what {
                0 => first.add(target).addr().get(),
                1 => 0,
                2 => bits & 0xff << target,
                _ => bits,
            };
            ram.words(first.add(page).addr()).unwrap()[word].store(value, Relaxed);
        }
        let mut all = Vec::new();
        let surveyed = survey(root, &ram, &mut Book::over(ram.run()), |fault| {
            all.push(fault);
            Ok::<_, TreeError>(())
        });
        let checked = check(root, &ram, &mut Book::over(ram.run()));
        let first = all.first();
        prop_assert_eq!(checked, first.map_or(surveyed, |fault| Err(*fault)));
        // One fault at most for each entry of each node.
        prop_assert!(all.len() <= 12 * 64 * heirloom_kho::PAGE_SIZE);
    }
}
