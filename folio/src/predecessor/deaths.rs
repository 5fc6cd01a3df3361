//! Every sequence of a few operations of a successor in a memory of a few frames, with a death after
//! each store that the next kernel reads; which goes on with the sequence, and dies as well.
//!
//! Before a store to a frame, and after each operation, the frames are copied: what is in them is what
//! a kernel that ended there leaves behind. The next begins over the copy.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::vec;
use std::vec::Vec;

use heirloom_kho::sync::{Op as Access, Orders, Watcher, watch};

use super::tests::{inherited, nodes_of};
use super::*;
use crate::harness::Ram;
use crate::machine::{DirectMap, NodeId};
use crate::request::Request;
use heirloom_kho::PAGE_SIZE;

/// What a successor does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Op {
    /// Of the blocks that are left, the first or the last.
    Claim(bool),
    /// What was preserved as a run.
    ClaimRun,
    /// Of what was claimed, the last.
    Unclaim,
    /// Let the last of what is preserved go.
    LetGo,
    /// Free the first of the blocks that are left, or the last.
    Dispose(bool),
    Alloc(u8),
    Run,
    /// Preserve the last of what is not.
    Preserve,
    /// Free it.
    Free,
}

const OPS: [Op; 12] = [
    Op::Claim(true),
    Op::Claim(false),
    Op::ClaimRun,
    Op::Unclaim,
    Op::LetGo,
    Op::Dispose(true),
    Op::Dispose(false),
    Op::Alloc(0),
    Op::Alloc(1),
    Op::Run,
    Op::Preserve,
    Op::Free,
];

/// Operations of a sequence, if no more are asked for. Larger frames take longer to copy, and the tree is
/// no other.
const DEPTH: u32 = match PAGE_SIZE {
    _ if cfg!(miri) => 1,
    4096 => 3,
    0x4000 => 2,
    _ => 1,
};
/// Kernels that die in it.
const DEATHS: u32 = 2;

/// Operations of a sequence: `HEIRLOOM_DEPTH` more, as in the other small worlds.
fn depth() -> u32 {
    let more = std::env::var("HEIRLOOM_DEPTH").ok().and_then(|value| value.parse().ok());
    DEPTH + more.unwrap_or(0)
}

/// Blocks that are preserved, and what is written in each.
type Kept = BTreeMap<Block, u64>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Thing {
    run: Run,
    kind: FrameType,
    preserved: bool,
    claimed: bool,
    stamp: u64,
}

impl Thing {
    fn block(&self) -> Block {
        self.run.blocks().next().unwrap()
    }
}

/// Copies the frames before each store to them.
#[derive(Default)]
struct Copies {
    /// Where the frames are.
    at: Cell<usize>,
    bytes: Cell<usize>,
    made: RefCell<Vec<Vec<u64>>>,
}

impl Copies {
    fn begin(&'static self, memory: &Memory<Ram>) {
        self.at.set(memory.ptr(all()).unwrap().expose_provenance().get());
        self.bytes.set(all().bytes() as usize);
        watch(Some(self));
    }

    fn end(&self) -> Vec<Vec<u64>> {
        watch(None);
        self.copy();
        self.made.take()
    }

    fn copy(&self) {
        let words = core::ptr::with_exposed_provenance::<u64>(self.at.get());
        // SAFETY: the frames of the memory that is watched, which this thread alone uses.
        let now = unsafe { core::slice::from_raw_parts(words, self.bytes.get() / 8) };
        let mut copies = self.made.borrow_mut();
        if copies.last().is_none_or(|last| last != now) {
            copies.push(now.to_vec());
        }
    }
}

impl Watcher for Copies {
    fn word(
        &self,
        at: *const (),
        _: usize,
        _: u64,
        access: Access<u64>,
        _: Orders,
    ) -> Option<Result<u64, u64>> {
        let within = at.addr().wrapping_sub(self.at.get()) < self.bytes.get();
        if within && access != Access::Load {
            self.copy();
        }
        None
    }
}

/// Returns the number of frames that a tree with blocks of order 0 and 1 needs, and ten more.
fn all() -> Run {
    let start = Ram::frames(1)[0].0.start();
    let [one, two] = [0, 1].map(|o| Block::new(start, Order::new(o).unwrap()).unwrap());
    Run::new(start, nodes_of(&[one, two]) + 10).unwrap()
}

fn ranges() -> [(Run, NodeId); 1] {
    [(all(), NodeId(0))]
}

fn words(run: Run, stamp: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..run.frames()).flat_map(move |i| {
        let first = i as usize * PAGE_SIZE;
        let value = stamp ^ (run.start().get() + i);
        [(first, value), (first + PAGE_SIZE - 8, !value)]
    })
}

/// A kernel, and what its predecessors left and it has.
struct World {
    memory: Memory<Ram>,
    root: PhysAddr,
    left: Kept,
    live: Vec<Thing>,
    copies: &'static Copies,
    stamps: u64,
    /// The frames before each store of its takeover, and after the last.
    took: Vec<Vec<u64>>,
}

impl World {
    /// Returns the first kernel: a folio of one frame, one of two, a run of three.
    fn first(copies: &'static Copies) -> Self {
        let memory = Ram::memory(&ranges()).unwrap();
        let root = memory.preserved().tree_root().unwrap();
        let mut world = Self {
            memory,
            root,
            left: Kept::new(),
            live: vec![],
            copies,
            stamps: 1 << 32,
            took: vec![],
        };
        for op in [Op::Alloc(0), Op::Alloc(1), Op::Run] {
            world.step(op);
        }
        for _ in 0..3 {
            world.step(Op::Preserve);
        }
        assert_eq!(world.kept().len(), 4, "the run is of two blocks");
        world
    }

    /// Returns what must survive.
    fn kept(&self) -> Kept {
        let mut kept = self.left.clone();
        for thing in self.live.iter().filter(|thing| thing.preserved) {
            kept.extend(thing.run.blocks().map(|block| (block, thing.stamp)));
        }
        kept
    }

    /// Returns the kernel that begins over these frames, where the one before began an operation with
    /// `before` and would have ended it with `after`.
    fn next(
        frames: &[u64],
        root: PhysAddr,
        copies: &'static Copies,
        before: &Kept,
        after: &Kept,
    ) -> Self {
        let ram = Ram::over(&ranges());
        let to = ram.ptr(all().addr()).cast::<u64>();
        // SAFETY: as many words as the frames have, which nothing else uses yet.
        unsafe {
            to.copy_from_nonoverlapping(core::ptr::NonNull::from(frames).cast(), frames.len());
        }
        let memory = ram.attach(&ranges()).unwrap();
        copies.begin(&memory);
        let taken_over = memory.take_over(root);
        let took = copies.end();
        let (memory, counts) = taken_over.expect("the tree is whole at any time");
        let mut left = Kept::new();
        for block in inherited(&memory) {
            let stamp = before.get(&block).or(after.get(&block));
            let stamp = stamp.unwrap_or_else(|| panic!("{block} was not preserved"));
            left.insert(block, *stamp);
            check(&memory, block.run(), *stamp);
        }
        for (block, _) in before.iter().filter(|(block, _)| after.contains_key(block)) {
            assert!(left.contains_key(block), "{block} is lost");
        }
        assert_eq!(counts.total(), left.len() as u64);
        let world = Self { memory, root, left, live: vec![], copies, stamps: 1 << 48, took };
        let blocks: Vec<_> = world.left.keys().copied().collect();
        assert_eq!(world.memory.preserved().counts().nodes(), nodes_of(&blocks));
        world.check();
        world
    }

    /// Checks all that can be asked.
    fn check(&self) {
        let memory = &self.memory;
        let mut left = inherited(memory);
        left.sort();
        assert!(left.iter().eq(self.left.keys()), "{left:?}");
        let mut kept = Vec::new();
        memory.preserved().for_each(|block| kept.push(block));
        kept.sort();
        assert!(kept.iter().eq(self.kept().keys()), "{kept:?}");
        let mut frames: u64 = left.iter().map(|block| block.order().frames()).sum();
        for thing in &self.live {
            frames += thing.run.frames();
            let holder = Some((thing.run, thing.kind, thing.preserved));
            assert_eq!(memory.owning_block(thing.run.start()), holder);
            check(memory, thing.run, thing.stamp);
        }
        assert_eq!(memory.stats().used(), frames + memory.preserved().counts().nodes());
        memory.audit().unwrap();
    }

    fn own(&mut self, run: Run, kind: FrameType) {
        let mut others = self.live.iter().map(|thing| thing.run);
        assert!(others.all(|other| !other.overlaps(run)), "{run} has two owners");
        assert!(self.left.keys().all(|block| !block.run().overlaps(run)), "{run} was preserved");
        self.stamps += 1 << 32;
        let to = self.memory.ptr(run).unwrap();
        for (at, value) in words(run, self.stamps) {
            // SAFETY: allocated just now.
            unsafe { to.add(at).cast::<u64>().write(value) };
        }
        let stamp = self.stamps;
        self.live.push(Thing { run, kind, preserved: false, claimed: false, stamp });
    }

    fn claim(&mut self, run: Run, kind: FrameType) {
        let stamp = self.left[&run.blocks().next().unwrap()];
        self.left.retain(|block, _| !run.covers(block.run()));
        self.live.push(Thing { run, kind, preserved: true, claimed: true, stamp });
    }

    /// Returns the last thing of which that is so.
    fn last(&self, is: impl Fn(&Thing) -> bool) -> Option<usize> {
        self.live.iter().rposition(is)
    }

    fn one_left(&self, first: bool) -> Option<Block> {
        let mut left = self.left.keys().copied();
        if first { left.next() } else { left.next_back() }
    }

    /// Returns two blocks side by side of those that are left, which are a run of three.
    fn run_left(&self) -> Option<Run> {
        let mut runs = self.left.keys().filter_map(|block| {
            let run = Run::new(block.pfn(), 3)?;
            let blocks: Vec<_> = run.blocks().collect();
            let stamp = self.left.get(&blocks[0])?;
            let whole = blocks.len() == 2 && blocks.iter().all(|b| self.left.get(b) == Some(stamp));
            whole.then_some(run)
        });
        runs.next()
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Claim(first) => {
                let Some(block) = self.one_left(first) else { return };
                self.memory.claim(block).unwrap();
                let again = self.memory.claim(block);
                assert_eq!(again, Err(Error::NotPreserved { block }));
                self.claim(block.run(), FrameType::Folio);
            }
            Op::ClaimRun => {
                let Some(run) = self.run_left() else { return };
                self.memory.claim(run).unwrap();
                assert!(self.memory.claim(run).is_err());
                self.claim(run, FrameType::Run);
            }
            Op::Unclaim => {
                let Some(i) = self.last(|thing| thing.claimed) else { return };
                let thing = self.live.remove(i);
                // SAFETY: claimed in this kernel, and as it was.
                let done = unsafe {
                    match thing.kind {
                        FrameType::Run => self.memory.unclaim_as(thing.run, FrameType::Run),
                        _ => self.memory.unclaim_as(thing.block(), FrameType::Folio),
                    }
                };
                done.unwrap();
                self.left.extend(thing.run.blocks().map(|block| (block, thing.stamp)));
            }
            Op::LetGo => {
                let Some(i) = self.last(|thing| thing.preserved) else { return };
                let thing = &mut self.live[i];
                (thing.preserved, thing.claimed) = (false, false);
                match thing.kind {
                    FrameType::Run => self.memory.unpreserve_run(thing.run, FrameType::Run),
                    _ => self.memory.unpreserve_block(thing.block(), FrameType::Folio),
                }
                .unwrap();
            }
            Op::Dispose(first) => {
                let one = self.one_left(first);
                let rest = self.left.len() as u64;
                let disposition =
                    |block| if Some(block) == one { Disposition::Free } else { Disposition::Keep };
                let done = self.memory.predecessor().finish(disposition);
                assert_eq!(done, one.map_or((0, 0), |_| (1, rest - 1)));
                one.and_then(|block| self.left.remove(&block));
            }
            Op::Alloc(o) => {
                let got = self.memory.alloc(Request::new(Order::new(o).unwrap()));
                if let Ok(block) = got {
                    self.own(block.run(), FrameType::Folio);
                }
            }
            Op::Run => {
                let got = self.memory.alloc_run(3, Request::new(Order::ZERO));
                if let Ok(run) = got {
                    self.own(run, FrameType::Run);
                }
            }
            Op::Preserve => {
                let Some(i) = self.last(|thing| !thing.preserved) else { return };
                let thing = &mut self.live[i];
                let done = match thing.kind {
                    FrameType::Run => self.memory.preserve_run(thing.run, FrameType::Run),
                    _ => self.memory.preserve_block(thing.block(), FrameType::Folio),
                };
                match done {
                    Ok(()) => thing.preserved = true,
                    Err(error) => assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
                }
            }
            Op::Free => {
                let Some(i) = self.last(|thing| !thing.preserved) else { return };
                let thing = self.live.remove(i);
                // SAFETY: the world's own.
                let done = unsafe {
                    match thing.kind {
                        FrameType::Run => self.memory.free(thing.run),
                        _ => self.memory.free(thing.block()),
                    }
                };
                done.unwrap();
            }
        }
    }

    /// Does one, and returns the frames as they were before each store to them, and after the last.
    fn copied(&mut self, op: Op) -> Vec<Vec<u64>> {
        self.copies.begin(&self.memory);
        self.step(op);
        self.copies.end()
    }
}

fn check(memory: &Memory<Ram>, run: Run, stamp: u64) {
    let from = memory.ptr(run).unwrap();
    for (at, expected) in words(run, stamp) {
        // SAFETY: the frames are preserved or owned, and nothing writes to them meanwhile.
        let found = unsafe { from.add(at).cast::<u64>().read() };
        assert_eq!(found, expected, "another wrote to {run}");
    }
}

/// Tells frames apart, and what belongs to them.
fn digest(frames: &[u64], before: &Kept, after: &Kept) -> u128 {
    let kept = |kept: &Kept| {
        let words = kept
            .iter()
            .flat_map(|(b, stamp)| [b.pfn().get() << 8 | u64::from(b.order().get()), *stamp]);
        words.chain([u64::MAX]).collect::<Vec<_>>()
    };
    let all = frames.iter().copied().chain(kept(before)).chain(kept(after));
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    all.fold(start, |sum, word| {
        (sum ^ u128::from(word)).wrapping_mul(0x100_0000_0000_0000_0000_013b)
    })
}

#[derive(Default)]
struct Seen {
    /// What a next kernel began over, with what was to follow.
    begun: HashSet<(u128, Vec<Op>, u32)>,
    operations: u64,
    deaths: u64,
    takeovers: u64,
}

/// Goes on with `ops`, and dies after each store in each of them.
fn go_on(world: &mut World, ops: &[Op], deaths: u32, seen: &mut Seen) {
    let Some((op, rest)) = ops.split_first() else { return };
    let (before, live) = (world.kept(), world.live.clone());
    let copies = world.copied(*op);
    let after = world.kept();
    seen.operations += 1;
    if copies.len() == 1 && live == world.live && before == after {
        // Nothing happened: what follows is tried without it.
        return;
    }
    // Once for each beginning of a sequence.
    if rest.iter().all(|op| *op == OPS[0]) {
        world.check();
    }
    if deaths > 0 {
        for frames in copies {
            let begun = (digest(&frames, &before, &after), rest.to_vec(), deaths);
            if seen.begun.insert(begun) {
                seen.deaths += 1;
                let mut next = World::next(&frames, world.root, world.copies, &before, &after);
                // It may end while it takes over, too.
                for frames in std::mem::take(&mut next.took) {
                    let left = &next.left;
                    if seen.begun.insert((digest(&frames, left, left), vec![], 0)) {
                        seen.takeovers += 1;
                        let third = World::next(&frames, world.root, world.copies, left, left);
                        assert_eq!(third.left, *left);
                    }
                }
                go_on(&mut next, rest, deaths - 1, seen);
            }
        }
    }
    go_on(world, rest, deaths, seen);
}

#[test]
fn a_successor_dies_after_any_store_of_any_sequence() {
    let depth = depth();
    let copies: &'static Copies = Box::leak(Box::default());
    let mut first = World::first(copies);
    let kept = first.kept();
    // An operation that does nothing: the frames as they are.
    let frames = first.copied(Op::Free).pop().unwrap();
    let mut seen = Seen::default();
    for number in 0..OPS.len().pow(depth) {
        let digit = |i: u32| OPS[number / OPS.len().pow(i) % OPS.len()];
        let ops: Vec<Op> = (0..depth).map(digit).collect();
        let mut world = World::next(&frames, first.root, copies, &kept, &kept);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            go_on(&mut world, &ops, DEATHS, &mut seen);
        }));
        if let Err(panic) = tried {
            std::eprintln!("in {ops:?}");
            std::panic::resume_unwind(panic);
        }
    }
    std::println!(
        "{} sequences of {depth}, {} operations, {} deaths, each after another store, and {} in \
         takeovers",
        OPS.len().pow(depth),
        seen.operations,
        seen.deaths,
        seen.takeovers
    );
    assert!(seen.deaths >= [0, 2, 10, 100, 10_000][depth.min(4) as usize]);
}
