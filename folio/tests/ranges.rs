//! Ranges: any number of them, and blocks across the border of two that touch on one node.

mod common;

use common::owned::Owned as _;
use common::{add_range, base, block, check, claim_as, free, free_run, order, run, write};
use heirloom_folio::harness::Ram;
use heirloom_folio::internal::BlockMatcher;
use heirloom_folio::{
    DirectMap, Disposition, Error, FrameState, FrameType, Memory, NodeId, Request,
};
use heirloom_kho::tree::{FolioRange, TreeFault};
use heirloom_kho::{Block, Order, PAGE_SIZE, Pfn, PhysAddr, Run};

/// Numbers that look random and are the same in every run (`SplitMix64`). Not the test kit's `Rng`: the kit
/// stands on crates above this one, whose tests need none of them.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

const NODE: NodeId = NodeId(0);

fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Result<Memory<Ram>, Error> {
    let root = memory.preserved().tree_root().unwrap();
    Ok(memory.into_machine().attach(ranges)?.take_over(root)?.0)
}

#[test]
fn a_thousand_ranges() {
    const RANGES: u64 = 1000;
    // Three frames each, a frame between two; they come in any order, most of them at run time.
    let mut numbers = Numbers(7);
    let mut ranges: Vec<_> = (0..RANGES).map(|i| (run(4 * i, 3), NodeId(i as u16 % 2))).collect();
    numbers.shuffle(&mut ranges);
    let span = [(run(0, 4 * RANGES), NODE)];
    let memory = Ram::over(&span).attach(&ranges[..10]).unwrap();
    let mut taken: Vec<_> =
        (0..9).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()).collect();
    for &(run, node) in &ranges[10..] {
        add_range(&memory, run, node, Memory::<Ram>::range_bytes(run)).unwrap();
    }
    assert_eq!(memory.ranges().collect::<Vec<_>>(), ranges, "in the order in which they came");
    assert_eq!(memory.stats().frames, 3 * RANGES);
    for i in 0..4 * RANGES {
        let (pfn, hole) = (base().add(i), i % 4 == 3);
        let expected =
            if hole { Err(Error::NotMemory { pfn }) } else { Ok(NodeId((i / 4) as u16 % 2)) };
        assert_eq!(memory.node_of(pfn), expected);
        assert_eq!(memory.contains(run(i, 1)), !hole);
        assert!(!memory.contains(run(i, 4)));
    }
    for at in [0, 3, 1998, 3996] {
        let wrong = run(at, 3);
        let bytes = Memory::<Ram>::range_bytes(wrong);
        let refused = add_range(&memory, wrong, NODE, bytes);
        let overlaps = matches!(refused, Err(Error::RangeOverlaps { run, with })
            if run == wrong && with.overlaps(run));
        assert!(overlaps, "{refused:?}");
    }
    // Every frame once, and found by its address.
    let table = Request::new(Order::ZERO).frame_type(FrameType::Table);
    let mut tables: Vec<_> = std::iter::from_fn(|| memory.alloc(table).ok()).collect();
    assert_eq!(tables.len() as u64, 3 * RANGES - 9);
    let expected = BlockMatcher::new(FrameType::Table, Order::ZERO);
    for block in &tables {
        let head = memory.ptr(block.run()).unwrap();
        // SAFETY: within the frame.
        let found = memory.lookup(unsafe { head.add(100) }, &expected);
        assert_eq!(found.map(|found| (found.head, found.offset)), Some((head, 100)), "{block}");
    }
    for block in &taken {
        assert_eq!(memory.lookup(memory.ptr(block.run()).unwrap(), &expected), None);
    }
    numbers.shuffle(&mut tables);
    for block in tables {
        free(&memory, block, FrameType::Table).unwrap();
    }
    // What was preserved anywhere comes back from anywhere.
    taken.extend((0..500).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()));
    memory.keep(&taken[..]).unwrap();
    assert_eq!(memory.stats().preserved, taken.len() as u64);
    memory.audit().unwrap();
    numbers.shuffle(&mut ranges);
    let memory = successor(memory, &ranges).unwrap();
    memory.claim(&taken[..]).unwrap();
    assert_eq!(memory.predecessor().finish(|_| unreachable!("all were claimed")), (0, 0));
    memory.let_go(&taken[..]).unwrap();
    for block in taken {
        free(&memory, block, FrameType::Folio).unwrap();
    }
    memory.drain();
    assert_eq!(memory.audit().unwrap().free + memory.preserved().counts().nodes(), 3 * RANGES);
}

/// The frames of the world below.
const FRAMES: u64 = 1024;

/// What its predecessor preserved: blocks, runs, and folios side by side.
const BLOCKS: [(u64, u8); 3] = [(0, 3), (64, 6), (512, 9)];
const RUNS: [(u64, u64); 2] = [(201, 77), (300, 150)];
const ROW: (u64, u8, u64) = (132, 1, 30);

fn row() -> FolioRange {
    let (at, o, count) = ROW;
    FolioRange::new(block(at, o), count).unwrap()
}

fn row_blocks() -> impl Iterator<Item = Block> {
    let (at, o, count) = ROW;
    (0..count).map(move |i| block(at + (i << o), o))
}

/// A memory of one range in which all of that is preserved, each stamped with its number.
fn predecessor() -> Memory<Ram> {
    let memory = Ram::memory(&Ram::frames(FRAMES)).unwrap();
    for (at, o) in BLOCKS {
        memory.alloc_at(block(at, o)).unwrap();
        memory.keep(block(at, o)).unwrap();
        write(&memory, block(at, o).run(), at);
    }
    for (at, frames) in RUNS {
        memory.alloc_at(run(at, frames)).unwrap();
        memory.keep(run(at, frames)).unwrap();
        write(&memory, run(at, frames), at);
    }
    for block in row_blocks() {
        memory.alloc_at(block).unwrap();
    }
    memory.keep(row()).unwrap();
    memory
}

/// The same memory, split before each of these frames.
fn split(at: &[u64]) -> Vec<(Run, NodeId)> {
    let mut ends: Vec<_> = at.iter().copied().chain([0, FRAMES]).collect();
    ends.sort_unstable();
    ends.dedup();
    ends.windows(2).map(|ends| (run(ends[0], ends[1] - ends[0]), NODE)).collect()
}

/// Takes everything, uses it in each way that there is, and gives it back.
fn use_all(memory: &Memory<Ram>) {
    for (at, o) in BLOCKS {
        let block = block(at, o);
        assert!(memory.predecessor().contains(block) && memory.contains(block.run()));
        for i in 0..block.order().frames() {
            assert_eq!(memory.predecessor().block_at(block.pfn().add(i)), Some(block));
        }
        let mut kept = memory.claim_owned(block).unwrap();
        check(memory, block.run(), at);
        kept.bytes_mut().fill(9);
        assert!(kept.bytes().iter().all(|byte| *byte == 9));
        for i in 0..block.order().frames() {
            let held = Some((block.run(), FrameType::Folio, true));
            assert_eq!(memory.owning_block(block.pfn().add(i)), held);
        }
        let last = Block::containing(block.run().end().add(u64::MAX), Order::ZERO);
        let last = Block::new(Pfn::new(block.run().end().get() - 1), Order::ZERO).unwrap_or(last);
        let inside = Error::TailFrame { pfn: last.pfn(), of: block };
        assert_eq!(free(memory, last, FrameType::Folio), Err(inside));
        assert!(memory.preserved().contains(block) && !memory.predecessor().contains(block));
        let kept = kept.unpreserve().unwrap().preserve().unwrap();
        assert!(memory.preserved().contains(block));
        let folio = kept.unpreserve().unwrap();
        assert!(!memory.preserved().contains(block));
        memory.audit().unwrap();
        drop(folio);
        let gone = Error::DoubleFree { block };
        assert_eq!(free(memory, block, FrameType::Folio), Err(gone));
        // As a run, taken and reserved by address, and as a slab.
        memory.drain();
        memory.alloc_at(block.run()).unwrap();
        assert_eq!(memory.run_at(block.pfn(), FrameType::Run).map(Run::frames), Ok(1 << o));
        assert_eq!(memory.owning_block(last.pfn()), Some((block.run(), FrameType::Run, false)));
        free_run(memory, block.run(), FrameType::Run).unwrap();
        memory.reserve(block.run()).unwrap();
        // SAFETY: reserved just now.
        unsafe { memory.release(block.run()) }.unwrap();
        memory.alloc_at_as(block, FrameType::Table).unwrap();
        // SAFETY: allocated just now; nothing looks for slabs.
        unsafe { memory.make_slab(block) }.unwrap();
        let expected = BlockMatcher::new(FrameType::Slab, block.order());
        let head = memory.ptr(block.run()).unwrap();
        for at in (0..block.run().bytes() as usize).step_by(PAGE_SIZE / 2) {
            // SAFETY: within the block.
            let found = memory.lookup(unsafe { head.add(at) }, &expected).unwrap();
            assert_eq!((found.head, found.offset), (head, at));
        }
        free(memory, block, FrameType::Slab).unwrap();
        memory.audit().unwrap();
    }
    for (at, frames) in RUNS {
        let run = run(at, frames);
        memory.claim(run).unwrap();
        check(memory, run, at);
        assert_eq!(memory.run_at(run.start(), FrameType::Run), Ok(run));
        for i in 0..frames {
            assert_eq!(memory.owning_block(run.start().add(i)), Some((run, FrameType::Run, true)));
        }
        let again = memory.keep(run);
        assert!(matches!(again, Err(Error::AlreadyPreserved { .. })), "{again:?}");
        memory.let_go(run).unwrap();
        memory.keep(run).unwrap();
        memory.let_go(run).unwrap();
        // SAFETY: ours, and each part of it given up is not used any more.
        let run = unsafe {
            let less = memory.shrink_run(run, frames / 2).unwrap();
            memory.grow_run(less, frames).unwrap()
        };
        memory.audit().unwrap();
        // SAFETY: a run of several blocks, or one across a border, is for `free_as`; it says so.
        let freed = unsafe { memory.free_single(memory.ptr(run).unwrap(), FrameType::Run) };
        assert!(!freed);
        free_run(memory, run, FrameType::Run).unwrap();
    }
    for block in row_blocks() {
        memory.claim(block).unwrap();
    }
    assert_eq!(memory.stats().preserved, row().run().frames());
    let again = memory.keep(row());
    assert_eq!(again, Err(Error::AlreadyPreserved { block: row().first() }));
    memory.let_go(row()).unwrap();
    memory.keep(row()).unwrap();
    assert_eq!(memory.stats().preserved, row().run().frames());
    memory.let_go(row()).unwrap();
    memory.audit().unwrap();
    for block in row_blocks() {
        free(memory, block, FrameType::Folio).unwrap();
    }
    assert_eq!(memory.predecessor().finish(|_| unreachable!("all was claimed")), (0, 0));
    memory.drain();
    let audit = memory.audit().unwrap();
    assert_eq!(audit.free + memory.preserved().counts().nodes(), FRAMES);
}

#[test]
fn a_block_across_what_firmware_split_comes_back() {
    // One split in each kind of thing, at its edges and within; and all of them.
    let mut splits: Vec<Vec<u64>> =
        [1, 4, 65, 96, 127, 133, 134, 159, 202, 277, 301, 448, 449, 513].map(|at| vec![at]).into();
    splits.extend([vec![768], vec![1023], vec![512, 1024], vec![513, 514, 515, 1020]]);
    splits.push(splits.concat());
    splits.push((1..FRAMES).collect());
    for at in splits {
        let memory =
            successor(predecessor(), &split(&at)).unwrap_or_else(|e| panic!("{at:?}: {e}"));
        use_all(&memory);
    }
}

#[test]
fn ranges_that_come_in_any_order_are_one_too() {
    let mut numbers = Numbers(11);
    for _ in 0..5 {
        let mut ranges = split(&[5, 80, 140, 250, 400, 600, 700]);
        numbers.shuffle(&mut ranges);
        use_all(&successor(predecessor(), &ranges).unwrap());
    }
}

#[test]
fn a_block_across_the_border_is_kept_or_freed_whole() {
    for disposition in [Disposition::Keep, Disposition::Free] {
        let halves = split(&[70, 210, 768]);
        let memory = successor(predecessor(), &halves).unwrap();
        let all = memory.preserved().counts().total();
        let done = memory.predecessor().finish(|_| disposition);
        memory.audit().unwrap();
        if disposition == Disposition::Free {
            assert_eq!(done, (all, 0));
            memory.drain();
            assert_eq!(memory.audit().unwrap().free + memory.preserved().counts().nodes(), FRAMES);
            continue;
        }
        assert_eq!(done, (0, all));
        assert_eq!(memory.state(block(512, 9).pfn()), Ok(FrameState::Never));
        assert!(memory.predecessor().contains(block(512, 9)));
        use_all(&successor(memory, &split(&[3, 100, 135, 260, 999])).unwrap());
    }
}

#[test]
fn a_block_over_two_nodes_or_a_hole_is_refused() {
    let (left, right) = (run(0, 600), run(600, FRAMES - 600));
    let short = run(601, FRAMES - 601);
    for ranges in [
        [(left, NodeId(0)), (right, NodeId(1))],
        [(right, NodeId(1)), (left, NodeId(0))],
        [(left, NodeId(0)), (short, NodeId(0))],
    ] {
        let refused = successor(predecessor(), &ranges).err();
        let Some(Error::Tree(fault)) = refused else { panic!("{refused:?}") };
        assert_eq!(fault.reason, TreeFault::OutsideMemory { addr: block(512, 9).addr() });
        let memory = Ram::over(&Ram::frames(FRAMES)).attach(&ranges).unwrap();
        let across = run(599, 3);
        assert!(!memory.contains(across));
        assert_eq!(memory.ptr(across), Err(Error::NotMemory { pfn: across.start() }));
        assert_eq!(memory.reserve(across), Err(Error::NotMemory { pfn: across.start() }));
    }
}

#[test]
fn a_claim_across_the_border_can_be_undone() {
    let memory = successor(predecessor(), &split(&[70, 210, 768])).unwrap();
    let (at, o) = BLOCKS[2];
    memory.claim(block(at, o)).unwrap();
    // SAFETY: claimed just now, and not written.
    unsafe { memory.unclaim_as(block(at, o), FrameType::Folio) }.unwrap();
    let (at, frames) = RUNS[0];
    claim_as(&memory, run(at, frames), FrameType::Buffer).unwrap();
    // SAFETY: claimed just now, and not written.
    unsafe { memory.unclaim_as(run(at, frames), FrameType::Buffer) }.unwrap();
    claim_as(&memory, block(64, 6), FrameType::Table).unwrap();
    // SAFETY: claimed just now, and not written.
    unsafe { memory.unclaim_as(block(64, 6), FrameType::Table) }.unwrap();
    use_all(&memory);
}

/// Generation after generation, each with a map that is split elsewhere.
#[test]
fn generations_with_maps_of_their_own() {
    for seed in 1..=8 {
        let mut numbers = Numbers(seed);
        let mut memory = Ram::memory(&Ram::frames(FRAMES)).unwrap();
        let mut kept: Vec<(Run, Option<Block>, u64)> = Vec::new();
        for generation in 0..12 {
            let context = format!("seed {seed}, generation {generation}");
            for n in 0..40 {
                let stamp = generation * 100 + n;
                if numbers.below(2) == 0 {
                    let o = order(numbers.below(7) as u8);
                    let Ok(block) = memory.alloc(Request::new(o)) else { continue };
                    if memory.keep(block).is_err() {
                        free(&memory, block, FrameType::Folio).unwrap();
                        continue;
                    }
                    kept.push((block.run(), Some(block), stamp));
                } else {
                    let request = Request::new(Order::ZERO).frame_type(FrameType::Run);
                    let Ok(run) = memory.alloc_run(1 + numbers.below(60), request) else {
                        continue;
                    };
                    if memory.keep(run).is_err() {
                        free_run(&memory, run, FrameType::Run).unwrap();
                        continue;
                    }
                    kept.push((run, None, stamp));
                }
                let (run, _, stamp) = *kept.last().unwrap();
                write(&memory, run, stamp);
            }
            memory.audit().unwrap_or_else(|error| panic!("{context}: {error}"));
            let splits: Vec<_> = (0..numbers.below(30)).map(|_| numbers.below(FRAMES)).collect();
            let mut ranges = split(&splits);
            numbers.shuffle(&mut ranges);
            memory = successor(memory, &ranges).unwrap_or_else(|e| panic!("{context}: {e}"));
            numbers.shuffle(&mut kept);
            for (run, block, stamp) in &kept {
                match block {
                    Some(block) => memory.claim(*block),
                    None => memory.claim(*run),
                }
                .unwrap_or_else(|error| panic!("{context}: {error}"));
                check(&memory, *run, *stamp);
            }
            assert_eq!(memory.predecessor().finish(|_| unreachable!("all was claimed")), (0, 0));
            let let_go = |run: Run, block: Option<Block>| match block {
                Some(block) => memory.let_go(block),
                None => memory.let_go(run),
            };
            let gone = kept.len() / 2;
            for (run, block, _) in kept.drain(..gone) {
                let_go(run, block)
                    .and_then(|()| match block {
                        Some(block) => free(&memory, block, FrameType::Folio),
                        None => free_run(&memory, run, FrameType::Run),
                    })
                    .unwrap_or_else(|error| panic!("{context}: {error}"));
            }
            // They are preserved already; and some of them anew.
            for (i, (run, block, _)) in kept.iter().enumerate() {
                let keep = || match block {
                    Some(block) => memory.keep(*block),
                    None => memory.keep(*run),
                };
                let again = keep();
                assert!(matches!(again, Err(Error::AlreadyPreserved { .. })), "{context}");
                if i % 2 == 0 {
                    let anew = let_go(*run, *block).and_then(|()| keep());
                    anew.unwrap_or_else(|error| panic!("{context}: {error}"));
                }
            }
            memory.audit().unwrap_or_else(|error| panic!("{context}: {error}"));
            let owned: u64 = kept.iter().map(|(run, ..)| run.frames()).sum();
            assert_eq!(
                memory.stats().used(),
                owned + memory.preserved().counts().nodes(),
                "{context}"
            );
            assert_eq!(memory.stats().preserved, owned, "{context}");
        }
    }
}

#[test]
fn the_map_shows_what_touches_as_one() {
    let memory = Ram::over(&Ram::frames(FRAMES)).attach(&split(&[300])).unwrap();
    let across = run(299, 2);
    let first = memory.ptr(run(299, 1)).unwrap();
    assert_eq!(memory.ptr(across), Ok(first));
    assert_eq!(memory.machine().phys(first).map(PhysAddr::pfn), Some(across.start()));
    let [joined] = heirloom_folio::joined(&split(&[5, 300])).collect::<Vec<_>>()[..] else {
        panic!("one range")
    };
    assert_eq!(joined, (run(0, FRAMES), NODE));
}
