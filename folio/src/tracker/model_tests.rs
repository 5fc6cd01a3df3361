//! Random operations against a plain set of blocks.

use std::collections::BTreeSet;
use std::vec::Vec;

use heirloom_kho::tree::{TreeFault, *};
use heirloom_kho::{Block, Order, Pfn, Run};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::hostile_tests::Book;
use super::ram::{Ram, block, run};
use super::*;
use crate::error::Error;

pub(super) fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 192,
        rng_seed: RngSeed::Fixed(0x6865_6972),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Preserve(Block),
    Unpreserve(Block),
    PreserveRun(Run),
    UnpreserveRun(Run),
    PreserveRange(FolioRange),
    UnpreserveRange(FolioRange),
    /// The next operation finds memory for this many nodes only.
    Fail(usize),
}

/// Frames close together in a few places: low, across leaves, far up.
fn frame() -> impl Strategy<Value = u64> {
    let leaf = 1 << Geometry::BUILD.leaf_log2;
    let bases = [0, leaf - 70, leaf * leaf, Pfn::LIMIT.get() - 4096];
    (prop::sample::select(bases.to_vec()), 0..140_u64).prop_map(|(base, offset)| base + offset)
}

fn any_block() -> impl Strategy<Value = Block> {
    let orders = [0, 0, 0, 1, 1, 2, 5, 9, 22, 40, Order::MAX.get()];
    (prop::sample::select(orders.to_vec()), frame())
        .prop_map(|(order, pfn)| Block::containing(Pfn::new(pfn), Order::new(order).unwrap()))
}

fn any_run() -> impl Strategy<Value = Run> {
    let frames = prop_oneof![0..300_u64, 0..1_u64 << 20];
    (frame(), frames).prop_map(|(pfn, frames)| run(pfn, frames.min(Pfn::LIMIT.get() - pfn)))
}

fn any_adjacent() -> impl Strategy<Value = FolioRange> {
    (any_block(), 0..200_u64).prop_map(|(first, count)| {
        let room = (Pfn::LIMIT.get() - first.pfn().get()) >> first.order().get();
        FolioRange::new(first, count.min(room)).unwrap()
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => any_block().prop_map(Operation::Preserve),
        2 => any_block().prop_map(Operation::Unpreserve),
        3 => any_run().prop_map(Operation::PreserveRun),
        1 => any_run().prop_map(Operation::UnpreserveRun),
        3 => any_adjacent().prop_map(Operation::PreserveRange),
        2 => any_adjacent().prop_map(Operation::UnpreserveRange),
        2 => (0..8_usize).prop_map(Operation::Fail),
    ]
}

fn folios(adjacent: FolioRange) -> Vec<Block> {
    let first = Key::of(adjacent.first()).get();
    (first..first + adjacent.count()).map(|key| Key::new(key).block().unwrap()).collect()
}

/// A set of blocks by key, with the tracker's rules.
#[derive(Default)]
struct Model(BTreeSet<Key>);

impl Model {
    fn preserve(&mut self, blocks: &[Block]) -> Result<(), Error> {
        if let Some(&block) = blocks.iter().find(|b| self.0.contains(&Key::of(**b))) {
            return Err(Error::AlreadyPreserved { block });
        }
        self.0.extend(blocks.iter().map(|b| Key::of(*b)));
        Ok(())
    }

    fn unpreserve(&mut self, blocks: &[Block]) -> Result<(), Error> {
        if let Some(&block) = blocks.iter().find(|b| !self.0.contains(&Key::of(**b))) {
            return Err(Error::NotPreserved { block });
        }
        for block in blocks {
            self.0.remove(&Key::of(*block));
        }
        Ok(())
    }

    fn blocks(&self) -> impl Iterator<Item = Block> {
        self.0.iter().map(|key| key.block().unwrap())
    }

    fn gaps(&self, within: Run) -> Vec<Run> {
        let mut spans: Vec<_> =
            self.blocks().map(|b| (b.run().start().get(), b.run().end().get())).collect();
        spans.sort_unstable();
        spans.push((within.end().get(), u64::MAX));
        let mut gaps = Vec::new();
        let mut at = within.start().get();
        for (start, end) in spans {
            if start.min(within.end().get()) > at {
                gaps.push(run(at, start.min(within.end().get()) - at));
            }
            at = at.max(end);
        }
        gaps
    }

    fn adjacent(&self) -> Vec<(Block, u64)> {
        let mut rows: Vec<(Block, u64)> = Vec::new();
        for b in self.blocks() {
            match rows.last_mut() {
                Some((first, count))
                    if first.order() == b.order()
                        && first.pfn().get() + (*count << b.order().get()) == b.pfn().get() =>
                {
                    *count += 1;
                }
                _ => rows.push((b, 1)),
            }
        }
        rows
    }
}

fn apply(tracker: &Tracker, ram: &Ram, model: &mut Model, operation: Operation) {
    let used = ram.used();
    let undo = model.0.clone();
    let (found, expected) = match operation {
        Operation::Preserve(b) => (tracker.preserve(ram, b), model.preserve(&[b])),
        Operation::Unpreserve(b) => (tracker.unpreserve(ram, b), model.unpreserve(&[b])),
        Operation::PreserveRun(r) => {
            let blocks: Vec<_> = r.blocks().collect();
            (tracker.preserve_run(ram, r), model.preserve(&blocks))
        }
        Operation::UnpreserveRun(r) => {
            let blocks: Vec<_> = r.blocks().collect();
            (tracker.unpreserve_run(ram, r), model.unpreserve(&blocks))
        }
        Operation::PreserveRange(a) => (tracker.preserve_range(ram, a), model.preserve(&folios(a))),
        Operation::UnpreserveRange(a) => {
            (tracker.unpreserve_range(ram, a), model.unpreserve(&folios(a)))
        }
        Operation::Fail(after) => return ram.fail_after(after),
    };
    if found == Err(ram.full()) {
        model.0 = undo;
    } else {
        assert_eq!(found, expected, "{operation:?}");
    }
    if found.is_err() {
        assert_eq!(ram.used(), used, "a failed {operation:?} takes no memory");
    }
    ram.fail_after(usize::MAX);
}

fn compare(tracker: &Tracker, ram: &Ram, model: &Model) {
    let tree = tracker.tree(ram);
    assert_eq!(tree.folios().collect::<Vec<_>>(), model.blocks().collect::<Vec<_>>());
    let rows: Vec<_> = tree.folio_ranges().map(|a| (a.first(), a.count())).collect();
    assert_eq!(rows, model.adjacent());
    let mut words = BTreeSet::new();
    for word in tree.words() {
        assert_ne!(word.mask, 0);
        for bit in (0..64).filter(|bit| word.mask >> bit & 1 != 0) {
            let pfn = word.first.get() + (bit << word.order.get());
            words.insert(Key::of(block(word.order.get(), pfn)));
        }
    }
    assert_eq!(words, model.0);
    let counts = tree.counts();
    assert_eq!(counts.total(), model.0.len() as u64);
    for o in 0..=Order::MAX.get() {
        let order = Order::new(o).unwrap();
        let of_order = model.blocks().filter(|b| b.order() == order).count();
        assert_eq!(counts.folios(order), of_order as u64);
    }
    assert_eq!(counts.nodes(), ram.used() as u64);
    assert_eq!(tree.nodes().count(), ram.used());
    let windows = [run(0, Pfn::LIMIT.get()), run(30, 90), run(Pfn::LIMIT.get() - 4000, 4000)];
    for within in windows {
        let gaps = model.gaps(within);
        assert_eq!(tree.gaps(within).collect::<Vec<_>>(), gaps);
        let large = gaps.iter().copied().find(|gap| gap.frames() >= 40);
        assert_eq!(tree.next_gap(within, 40), large);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_tracker_is_a_set_of_blocks(
        operations in prop::collection::vec(operation(), 1..60),
        asked in prop::collection::vec(any_block(), 40),
    ) {
        let ram = Ram::new(1500);
        let (tracker, mut model) = (Tracker::new(), Model::default());
        for operation in operations {
            apply(&tracker, &ram, &mut model, operation);
        }
        for block in asked {
            let expected = model.0.contains(&Key::of(block));
            prop_assert_eq!(tracker.contains(&ram, block), expected);
            prop_assert_eq!(tracker.tree(&ram).contains(block), expected);
        }
        compare(&tracker, &ram, &model);
    }

    /// The check agrees with a ledger kept by hand, and never fails on a tree without overlap.
    #[test]
    fn the_check_refuses_exactly_what_overlaps(
        blocks in prop::collection::btree_set(any_block().prop_map(Key::of), 0..30),
    ) {
        let ram = Ram::new(800);
        let tracker = Tracker::new();
        let root = tracker.ensure_root(&ram).unwrap();
        for key in &blocks {
            tracker.preserve(&ram, key.block().unwrap()).unwrap();
        }
        let mut book = Book::over(run(0, Pfn::LIMIT.get()));
        let found = check(root, &ram, &mut book);
        let mut spans: Vec<_> =
            blocks.iter().map(|key| key.block().unwrap().run()).collect();
        spans.extend(tracker.tree(&ram).nodes().map(|node| run(node.addr.pfn().get(), 1)));
        spans.sort_unstable_by_key(|r| r.start());
        let sound = spans.windows(2).all(|pair| pair[0].end() <= pair[1].start());
        match found {
            Ok(counts) => {
                prop_assert!(sound);
                prop_assert_eq!(counts, tracker.tree(&ram).counts());
                let frames: u64 = book.taken.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(frames, counts.frames() + counts.nodes());
            }
            Err(error) => {
                let overlap = matches!(error.reason, TreeFault::Overlap { .. });
                prop_assert!(!sound && overlap, "{}", error);
            }
        }
    }
}
