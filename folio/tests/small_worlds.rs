//! Every sequence of a few operations on a memory of a few frames, against a list of owners.
//!
//! Where memory is this small each operation runs into another: frames lie in a CPU's cache, no
//! aligned block is left, the tracker finds no page for a node. With one thread nothing is out of
//! reach, so the model knows exactly what must succeed.

#![cfg(feature = "std")]

mod common;

use common::owned::Owned as _;
use common::{base, free, free_run, grow_run, order, run, shrink_run};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Error, FrameType, Memory, NodeId, Request};
use heirloom_kho::{Block, Order, Pfn, Run};

#[derive(Clone, Copy, Debug)]
enum Op {
    Alloc(u8),
    Run(u64),
    At(u64),
    /// Of the owners, the one that came first or last.
    Free(bool),
    Preserve(bool),
    Resize(i64),
    Drain,
}

const OPS: [Op; 14] = [
    Op::Alloc(0),
    Op::Alloc(1),
    Op::Alloc(2),
    Op::Run(3),
    Op::Run(5),
    Op::At(2),
    Op::At(5),
    Op::Free(true),
    Op::Free(false),
    Op::Preserve(true),
    Op::Preserve(false),
    Op::Resize(1),
    Op::Resize(-1),
    Op::Drain,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owned {
    run: Run,
    kind: FrameType,
    preserved: bool,
}

struct World {
    memory: Memory<Ram>,
    owned: Vec<Owned>,
    /// The frames in use and the tracker's nodes.
    taken: Vec<Run>,
}

impl World {
    fn new(ranges: &[(Run, NodeId)]) -> Self {
        Self { memory: Ram::memory(ranges).unwrap(), owned: Vec::new(), taken: Vec::new() }
    }

    fn is_free(&self, run: Run) -> bool {
        self.memory.contains(run) && self.taken.iter().all(|taken| !taken.overlaps(run))
    }

    /// Whether there is such a run; nothing is allocated across a border but by its address.
    fn fits(&self, frames: u64, align: Order) -> bool {
        let in_range = |range: Run, start: u64| {
            let run = Run::new(Pfn::new(start), frames).unwrap();
            run.start().is_aligned(align) && range.covers(run) && self.is_free(run)
        };
        let mut ranges = self.memory.ranges().map(|(range, _)| range);
        ranges.any(|r| (r.start().get()..r.end().get()).any(|start| in_range(r, start)))
    }

    fn add(&mut self, run: Run, kind: FrameType) {
        assert!(self.is_free(run), "{run} has two owners");
        self.owned.push(Owned { run, kind, preserved: false });
    }

    fn pick(&mut self, first: bool) -> Option<&mut Owned> {
        if first { self.owned.first_mut() } else { self.owned.last_mut() }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Alloc(o) => {
                let fits = self.fits(1 << o, order(o));
                match self.memory.alloc(Request::new(order(o))) {
                    Ok(b) => self.add(b.run(), FrameType::Folio),
                    Err(e) => {
                        assert_eq!(e, Error::OutOfMemory { order: order(o), node: None });
                        assert!(!fits);
                    }
                }
            }
            Op::Run(n) => {
                let fits = self.fits(n, Order::ZERO);
                match self.memory.alloc_run(n, Request::new(Order::ZERO)) {
                    Ok(run) => {
                        assert_eq!(run.frames(), n);
                        self.add(run, FrameType::Run);
                    }
                    Err(e) => {
                        assert_eq!(e, Error::NoRun { frames: n });
                        assert!(!fits);
                    }
                }
            }
            Op::At(frame) => {
                let b = Block::containing(base().add(frame), order(1));
                let free = self.is_free(b.run());
                assert_eq!(self.memory.alloc_at(b).is_ok(), free, "{b}");
                if free {
                    self.add(b.run(), FrameType::Folio);
                }
            }
            Op::Free(first) => {
                let Some(it) = self.pick(first).copied() else { return };
                let b = it.run.blocks().next().unwrap();
                let freed = match it.kind {
                    FrameType::Run => free_run(&self.memory, it.run, it.kind),
                    _ => free(&self.memory, b, it.kind),
                };
                if it.preserved {
                    assert_eq!(freed, Err(Error::Preserved { block: b }));
                    return;
                }
                assert_eq!(freed, Ok(()));
                let again = match it.kind {
                    FrameType::Run => free_run(&self.memory, it.run, it.kind),
                    _ => free(&self.memory, b, it.kind),
                };
                let double = Block::containing(b.pfn(), Order::ZERO);
                let double = if it.kind == FrameType::Run { double } else { b };
                assert_eq!(again, Err(Error::DoubleFree { block: double }));
                self.owned.retain(|owned| *owned != it);
            }
            Op::Preserve(first) => {
                let Some(it) = self.pick(first).copied() else { return };
                let b = it.run.blocks().next().unwrap();
                let done = match (it.kind, it.preserved) {
                    (FrameType::Run, false) => self.memory.keep(it.run),
                    (FrameType::Run, true) => self.memory.let_go(it.run),
                    (_, false) => self.memory.keep(b),
                    (_, true) => self.memory.let_go(b),
                };
                match done {
                    Ok(()) => {
                        let it = self.pick(first).unwrap();
                        it.preserved = !it.preserved;
                    }
                    Err(Error::OutOfMemory { .. }) => assert!(!it.preserved),
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Resize(by) => {
                let Some(it) = self.pick(false).copied() else { return };
                let frames = it.run.frames().wrapping_add_signed(by);
                let done = if by > 0 {
                    grow_run(&self.memory, it.run, frames, FrameType::Run)
                } else {
                    shrink_run(&self.memory, it.run, frames, FrameType::Run)
                };
                let next = Run::new(it.run.end(), 1).unwrap();
                let may = it.kind == FrameType::Run && !it.preserved;
                let in_one = self.memory.contains(Run::new(it.run.start(), frames).unwrap());
                let room = if by > 0 { in_one && self.is_free(next) } else { frames > 0 };
                assert_eq!(done.is_ok(), may && room, "{it:?} to {frames}: {done:?}");
                if let Ok(run) = done {
                    assert_eq!((run.start(), run.frames()), (it.run.start(), frames));
                    self.pick(false).unwrap().run = run;
                }
            }
            Op::Drain => {
                self.memory.drain();
                assert_eq!(self.memory.stats().cached, 0);
            }
        }
    }

    /// Checks everything that can be asked about the memory.
    fn check(&mut self) {
        self.taken = self.owned.iter().map(|owned| owned.run).collect();
        let taken = &mut self.taken;
        self.memory.preserved().for_each_node(|node| taken.extend(Run::new(node.addr.pfn(), 1)));
        let used: u64 = self.taken.iter().map(|run| run.frames()).sum();
        let stats = self.memory.stats();
        assert_eq!(stats.used(), used);
        assert_eq!(stats.free() + stats.cached + stats.used(), stats.frames);
        let preserved = self.owned.iter().filter(|owned| owned.preserved);
        assert_eq!(stats.preserved, preserved.map(|owned| owned.run.frames()).sum::<u64>());
        let audit = self.memory.audit().unwrap();
        assert_eq!((audit.free, audit.cached, audit.reserved), (stats.free(), stats.cached, 0));
        for it in &self.owned {
            for frame in it.run.start().get()..it.run.end().get() {
                let holder = self.memory.owning_block(Pfn::new(frame));
                assert_eq!(holder, Some((it.run, it.kind, it.preserved)));
            }
        }
    }
}

/// Runs each sequence of `depth` operations.
fn every_sequence(ranges: &[(Run, NodeId)], depth: u32) {
    for number in 0..OPS.len().pow(depth) {
        let digit = |i: u32| OPS[number / OPS.len().pow(i) % OPS.len()];
        let ops: Vec<Op> = (0..depth).map(digit).collect();
        let mut world = World::new(ranges);
        for (i, op) in ops.iter().enumerate() {
            world.step(*op);
            // What comes before the last step is the last of another sequence.
            if i + 1 == ops.len() || matches!(op, Op::Preserve(_)) {
                world.check();
            } else {
                world.taken = world.owned.iter().map(|owned| owned.run).collect();
                let taken = &mut world.taken;
                world
                    .memory
                    .preserved()
                    .for_each_node(|node| taken.extend(Run::new(node.addr.pfn(), 1)));
            }
        }
    }
}

#[test]
fn eight_aligned_frames() {
    every_sequence(&[(run(0, 8), NodeId(0))], 4);
}

#[test]
fn seven_frames_across_the_end_of_a_word() {
    every_sequence(&[(run(60, 7), NodeId(0))], 4);
}

#[test]
fn two_ranges_that_meet_within_a_block() {
    every_sequence(&[(run(0, 3), NodeId(0)), (run(3, 5), NodeId(0))], 4);
}

#[test]
fn two_nodes_of_three_frames() {
    every_sequence(&[(run(1, 3), NodeId(0)), (run(5, 3), NodeId(1))], 4);
}
