//! Trees as no sound predecessor leaves them: each fault is found and named.

use std::collections::BTreeMap;
use std::vec::Vec;

use heirloom_kho::sync::Relaxed;
use heirloom_kho::tree::{TreeError, TreeFault, *};
use heirloom_kho::{Block, Order, Pfn, PhysAddr, Run};
use proptest::prelude::*;

use super::model_tests::config;
use super::ram::{Ram, block, run};
use super::*;

/// A ledger as a map of what is taken.
pub(super) struct Book {
    memory: Run,
    /// Starts and ends of what is taken.
    pub(super) taken: BTreeMap<u64, u64>,
    leaves: Vec<(Block, PhysAddr)>,
}

impl Book {
    pub(super) fn over(memory: Run) -> Self {
        Self { memory, taken: BTreeMap::new(), leaves: Vec::new() }
    }
}

impl Ledger for Book {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        if !self.memory.covers(block.run()) {
            return Err(TreeFault::OutsideMemory { addr: block.addr() });
        }
        let (start, end) = (block.run().start().get(), block.run().end().get());
        if self.taken.range(..end).next_back().is_some_and(|(_, &last)| last > start) {
            return Err(TreeFault::Overlap { block });
        }
        self.taken.insert(start, end);
        Ok(())
    }

    fn leaf(&mut self, first: Block, leaf: PhysAddr) {
        self.leaves.push((first, leaf));
    }
}

proptest! {
    #![proptest_config(config())]

    /// Any bytes at all in the pages of a tree: the check ends, with a reading or an error.
    #[test]
    fn garbage_is_read_or_refused(
        stores in prop::collection::vec(
            (0..12_u64, 0..64_usize, 0..12_u64, any::<u64>(), 0..4_u8),
            0..24,
        ),
    ) {
        let ram = Ram::new(12);
        let tracker = Tracker::new();
        tracker.preserve(&ram, block(0, 1)).unwrap();
        tracker.preserve(&ram, block(3, 8)).unwrap();
        for (page, index, target, noise, what) in stores {
            let page = ram.run().start().add(page).addr();
            let value = match what {
                0 => ram.run().start().add(target).addr().get(),
                1 => 0,
                2 => 1 << (noise % 64),
                _ => noise,
            };
            ram.words(page).unwrap()[index].store(value, Relaxed);
        }
        let mut book = Book::over(run(0, 1 << 30));
        let first = check(tracker.root().unwrap(), &ram, &mut book);
        let again = check(tracker.root().unwrap(), &ram, &mut Book::over(run(0, 1 << 30)));
        prop_assert_eq!(first, again);
        if let Ok(counts) = first {
            prop_assert_eq!(counts, tracker.tree(&ram).counts());
            prop_assert_eq!(counts.total(), tracker.tree(&ram).folios().count() as u64);
        }
    }
}

/// A tree with one folio of order 0 and one of order 9, and the pages on the way to the first.
fn small() -> (Ram, Tracker, Vec<PhysAddr>) {
    let ram = Ram::new(40);
    let tracker = Tracker::new();
    tracker.preserve(&ram, block(0, 77)).unwrap();
    tracker.preserve(&ram, block(9, 512)).unwrap();
    let tree = tracker.tree(&ram);
    let key = Key::of(block(0, 77)).get();
    let path = (0..Geometry::BUILD.levels).map(|l| tree.seek(l, key).unwrap().addr).collect();
    (ram, tracker, path)
}

fn entry<'a>(
    ram: &'a Ram,
    path: &[PhysAddr],
    level: u32,
) -> (&'a heirloom_kho::sync::AtomicU64, usize) {
    let index = Key::of(block(0, 77)).index(level);
    (&ram.words(path[level as usize]).unwrap()[index], index)
}

fn verdict(ram: &Ram, tracker: &Tracker) -> Result<Counts, TreeError> {
    check(tracker.root().unwrap(), ram, &mut Book::over(run(0, 1 << 32)))
}

#[test]
fn a_sound_tree_passes_and_shows_its_leaves() {
    let (ram, tracker, path) = small();
    let mut book = Book::over(run(0, 1 << 32));
    let counts = check(tracker.root().unwrap(), &ram, &mut book).unwrap();
    assert_eq!(counts, tracker.tree(&ram).counts());
    assert_eq!((counts.total(), counts.frames()), (2, 513));
    assert_eq!(counts.nodes_at(0), 2);
    assert_eq!(counts.nodes(), ram.used() as u64);
    let high = tracker.tree(&ram).leaf(Key::of(block(9, 512))).unwrap().addr;
    assert_eq!(book.leaves, [(block(9, 0), high), (block(0, 0), path[0])]);
}

#[test]
fn the_first_leaf_has_many_orders_and_is_shown_for_none() {
    let ram = Ram::new(16);
    let tracker = Tracker::new();
    tracker.preserve(&ram, block(Order::MAX.get() - 3, 0)).unwrap();
    let mut book = Book::over(run(0, Pfn::LIMIT.get()));
    let error = check(tracker.root().unwrap(), &ram, &mut book).unwrap_err();
    assert!(matches!(error.reason, TreeFault::Overlap { .. }), "it covers its own nodes");
    tracker.unpreserve(&ram, block(Order::MAX.get() - 3, 0)).unwrap();
    tracker.preserve(&ram, block(Order::MAX.get(), 1 << Order::MAX.get())).unwrap();
    let mut book = Book::over(run(0, Pfn::LIMIT.get()));
    assert_eq!(check(tracker.root().unwrap(), &ram, &mut book).unwrap().total(), 1);
    assert_eq!(book.leaves, []);
}

#[test]
fn a_cycle_is_an_overlap() {
    let (ram, tracker, path) = small();
    for level in 1..Geometry::BUILD.levels {
        for up in level..Geometry::BUILD.levels {
            let (word, index) = entry(&ram, &path, level);
            let sound = word.swap(path[up as usize].get(), Relaxed);
            let overlap = Block::containing(path[up as usize].pfn(), Order::ZERO);
            assert_eq!(
                verdict(&ram, &tracker),
                Err(TreeError {
                    node: path[level as usize],
                    level: level as u8,
                    index: index as u32,
                    reason: TreeFault::Overlap { block: overlap },
                })
            );
            word.store(sound, Relaxed);
        }
    }
    assert!(verdict(&ram, &tracker).is_ok());
}

#[test]
fn a_shared_node_is_an_overlap() {
    let (ram, tracker, path) = small();
    let (word, index) = entry(&ram, &path, 1);
    ram.words(path[1]).unwrap()[index + 1].store(word.load(Relaxed), Relaxed);
    let error = verdict(&ram, &tracker).unwrap_err();
    assert_eq!((error.node, error.level, error.index), (path[1], 1, index as u32 + 1));
    assert_eq!(
        error.reason,
        TreeFault::Overlap { block: Block::containing(path[0].pfn(), Order::ZERO) }
    );
}

#[test]
fn a_preserved_folio_over_a_node_is_an_overlap() {
    let (ram, tracker, path) = small();
    let over = Block::containing(path[0].pfn(), Order::ZERO);
    tracker.preserve(&ram, over).unwrap();
    let error = verdict(&ram, &tracker).unwrap_err();
    let index = Key::of(over).index(0) as u32;
    let node = tracker.tree(&ram).leaf(Key::of(over)).unwrap().addr;
    let reason = TreeFault::Overlap { block: over };
    assert_eq!(error, TreeError { node, level: 0, index, reason });
}

#[test]
fn folios_of_two_orders_over_one_frame_are_an_overlap() {
    let (ram, tracker, path) = small();
    tracker.preserve(&ram, block(0, 600)).unwrap();
    let reason = TreeFault::Overlap { block: block(0, 600) };
    let error = TreeError { node: path[0], level: 0, index: 600, reason };
    assert_eq!(verdict(&ram, &tracker), Err(error));
}

#[test]
fn entries_that_are_no_pages_are_named() {
    let (ram, tracker, path) = small();
    for level in 1..Geometry::BUILD.levels {
        let (word, index) = entry(&ram, &path, level);
        let sound = word.load(Relaxed);
        let outside = 1 << 62;
        let faults = [
            (sound | 8, TreeFault::Misaligned { entry: sound | 8 }),
            (u64::MAX, TreeFault::Misaligned { entry: u64::MAX }),
            (outside, TreeFault::OutsideMemory { addr: PhysAddr::new(outside) }),
        ];
        for (entry, reason) in faults {
            word.store(entry, Relaxed);
            let (node, index) = (path[level as usize], index as u32);
            let error = TreeError { node, level: level as u8, index, reason };
            assert_eq!(verdict(&ram, &tracker), Err(error));
        }
        word.store(sound, Relaxed);
    }
}

#[test]
fn a_block_outside_memory_is_named() {
    let (ram, tracker, _) = small();
    tracker.preserve(&ram, block(1, 1 << 32)).unwrap();
    let error = verdict(&ram, &tracker).unwrap_err();
    assert_eq!(error.reason, TreeFault::OutsideMemory { addr: block(1, 1 << 32).addr() });
    assert_eq!(error.level, 0);
}

#[test]
fn a_root_that_is_no_page_is_named() {
    let ram = Ram::new(1);
    let level = Geometry::BUILD.levels as u8 - 1;
    let roots = [0, 5, 1 << 62].map(PhysAddr::new);
    for root in roots {
        let error = check(root, &ram, &mut Book::over(run(0, 1 << 32))).unwrap_err();
        let reason = if root.is_page_aligned() {
            TreeFault::OutsideMemory { addr: root }
        } else {
            TreeFault::Misaligned { entry: root.get() }
        };
        assert_eq!(error, TreeError { node: root, level, index: 0, reason });
    }
}

#[test]
fn paths_without_a_key_are_refused() {
    let (ram, tracker, path) = small();
    let root = tracker.root().unwrap();
    let g = Geometry::BUILD;
    // Above the marker of order 0.
    let index = 1 << (g.key_bits - (g.leaf_log2 + (g.levels - 2) * g.table_log2));
    let word = &ram.words(root).unwrap()[index];
    word.store(path[0].get(), Relaxed);
    let error =
        |node, level, index| Err(TreeError { node, level, index, reason: TreeFault::NoKey });
    assert_eq!(verdict(&ram, &tracker), error(root, g.levels as u8 - 1, index as u32));
    word.store(0, Relaxed);
    // No marker, and the marker of an order above the largest.
    tracker.preserve(&ram, block(Order::MAX.get(), 0)).unwrap();
    let leaf = tracker.tree(&ram).leaf(Key::new(0)).unwrap();
    for bit in [0, 1] {
        leaf.words[0].store(1 << bit, Relaxed);
        assert_eq!(verdict(&ram, &tracker), error(leaf.addr, 0, bit));
        assert_eq!(tracker.tree(&ram).folios().count(), 2);
    }
}
