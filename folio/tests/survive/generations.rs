//! What survives, against a simple model, over several generations.

use std::collections::BTreeMap;

use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Error, FrameType, Memory, Request};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Run};
use proptest::prelude::*;

use super::common::owned::Owned as _;
use super::common::{check, free, free_run, nodes_of, order, write};
use super::{blocks_of, inherited, preserved, ranges, snapshot, successor};

#[derive(Clone, Debug)]
enum Op {
    Alloc(u8),
    Run(u64),
    Row(u8, u64),
    /// Preserve, or let go what is preserved, claimed or not.
    Preserve(usize),
    Free(usize),
    Claim(usize),
    Unclaim(usize),
    /// Free some of what is unclaimed, as the bits say.
    Disinherit(u64),
    /// The next kernel begins, whatever is claimed and disposed of; and dies at once, so often.
    Jump(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0_u8..8).prop_map(Op::Alloc),
        3 => (1_u64..150).prop_map(Op::Run),
        2 => (0_u8..3, 1_u64..100).prop_map(|(o, n)| Op::Row(o, n)),
        9 => any::<usize>().prop_map(Op::Preserve),
        5 => any::<usize>().prop_map(Op::Free),
        6 => any::<usize>().prop_map(Op::Claim),
        2 => any::<usize>().prop_map(Op::Unclaim),
        1 => any::<u64>().prop_map(Op::Disinherit),
        2 => (0_u8..3).prop_map(Op::Jump),
    ];
    prop::collection::vec(op, 1..200)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Folio,
    Run,
    /// Folios of this order in a row, preserved together.
    Row(Order),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owned {
    run: Run,
    what: What,
    preserved: bool,
    /// Claimed in this kernel, and preserved since.
    claimed: bool,
    stamp: u64,
}

impl Owned {
    fn adjacent(&self, order: Order) -> FolioRange {
        let first = Block::new(self.run.start(), order).unwrap();
        FolioRange::new(first, self.run.frames() >> order.get()).unwrap()
    }

    /// The blocks that the tracker should know it by.
    fn blocks(&self) -> Vec<Block> {
        match self.what {
            What::Folio => vec![self.run.blocks().next().unwrap()],
            What::Run => self.run.blocks().collect(),
            What::Row(order) => (0..self.run.frames() >> order.get())
                .map(|i| Block::new(self.run.start().add(i << order.get()), order).unwrap())
                .collect(),
        }
    }

    fn preserve(&mut self, memory: &Memory<Ram>) -> Result<(), Error> {
        match (self.what, self.preserved) {
            (What::Folio, false) => memory.keep(self.blocks()[0]),
            (What::Folio, true) => memory.let_go(self.blocks()[0]),
            (What::Run, false) => memory.keep(self.run),
            (What::Run, true) => memory.let_go(self.run),
            (What::Row(o), false) => memory.keep(self.adjacent(o)),
            (What::Row(o), true) => memory.let_go(self.adjacent(o)),
        }?;
        self.preserved = !self.preserved;
        self.claimed = false;
        Ok(())
    }

    fn free(&self, memory: &Memory<Ram>) -> Result<(), Error> {
        match self.what {
            What::Run => free_run(memory, self.run, FrameType::Run),
            What::Folio | What::Row(_) => {
                self.blocks().into_iter().try_for_each(|b| free(memory, b, FrameType::Folio))
            }
        }
    }

    /// Claims what a predecessor preserved.
    fn claim(&self, memory: &Memory<Ram>) -> Result<(), Error> {
        match self.what {
            What::Run => memory.claim(self.run),
            What::Folio => memory.claim(self.blocks()[0]),
            What::Row(_) => memory.claim(&self.blocks()[..]),
        }
    }

    /// Takes the claim back.
    fn unclaim(&self, memory: &Memory<Ram>) -> Result<(), Error> {
        // SAFETY: claimed in this kernel, and nothing was written.
        unsafe {
            match self.what {
                What::Run => memory.unclaim_as(self.run, FrameType::Run),
                What::Folio | What::Row(_) => {
                    let mut blocks = self.blocks().into_iter();
                    blocks.try_for_each(|b| memory.unclaim_as(b, FrameType::Folio))
                }
            }
        }
    }
}

fn all_blocks<'o>(things: impl IntoIterator<Item = &'o Owned>) -> Vec<Block> {
    let mut blocks: Vec<_> = things.into_iter().flat_map(Owned::blocks).collect();
    blocks.sort();
    blocks
}

/// A kernel, and what it and its predecessors have.
struct Life {
    memory: Memory<Ram>,
    /// What has an owner.
    live: Vec<Owned>,
    /// What is still to be claimed.
    left: Vec<Owned>,
}

impl Life {
    /// Jumps: whatever was preserved, and not let go of, is there to be claimed, once.
    fn jump(self) -> Self {
        let Self { memory, live, mut left } = self;
        left.extend(live.into_iter().filter(|owned| owned.preserved));
        for owned in &mut left {
            owned.claimed = false;
        }
        let expected = all_blocks(&left);
        assert_eq!(preserved(&memory), expected);
        if memory.preserved().tree_root().is_err() {
            // Nothing was preserved, and there is no frame for a root.
            assert!(expected.is_empty());
            return Self { memory, live: Vec::new(), left };
        }
        let memory = successor(memory, &ranges());
        assert_eq!((preserved(&memory), inherited(&memory)), (expected.clone(), expected.clone()));
        // Everything else is free again, the nodes that lead to nothing too.
        assert_eq!(memory.preserved().counts().nodes(), nodes_of(&expected));
        let held: u64 = expected.iter().map(|b| b.order().frames()).sum();
        assert_eq!(memory.stats().used(), held + nodes_of(&expected));
        for owned in &left {
            check(&memory, owned.run, owned.stamp);
        }
        Self { memory, live: Vec::new(), left }
    }

    fn claim(&mut self, i: usize) {
        if self.left.is_empty() {
            return;
        }
        let owned = self.left.swap_remove(i % self.left.len());
        owned.claim(&self.memory).unwrap();
        let first = Error::NotPreserved { block: owned.blocks()[0] };
        assert_eq!(owned.claim(&self.memory), Err(first), "once");
        assert!(owned.blocks().iter().all(|b| self.memory.preserved().contains(*b)));
        self.live.push(Owned { preserved: true, claimed: true, ..owned });
    }

    fn unclaim(&mut self, i: usize) {
        let claimed: Vec<_> = (0..self.live.len()).filter(|i| self.live[*i].claimed).collect();
        if claimed.is_empty() {
            return;
        }
        let owned = self.live.swap_remove(claimed[i % claimed.len()]);
        owned.unclaim(&self.memory).unwrap();
        assert!(owned.blocks().iter().all(|b| self.memory.predecessor().contains(*b)));
        self.left.push(Owned { claimed: false, ..owned });
    }

    /// Frees some blocks of what is unclaimed; what is left of a run or a row is blocks.
    fn disinherit(&mut self, dice: u64) {
        let mut dice = dice;
        let mut dispositions = BTreeMap::new();
        let mut next = Vec::new();
        for owned in self.left.drain(..) {
            dice = dice.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let blocks = owned.blocks();
            let disposition = |i: usize| match dice >> 61 {
                0..=3 => Disposition::Keep,
                4 => [Disposition::Free, Disposition::Keep][i % 2],
                _ => Disposition::Free,
            };
            dispositions.extend(blocks.iter().enumerate().map(|(i, b)| (*b, disposition(i))));
            if (0..blocks.len()).all(|i| disposition(i) == Disposition::Keep) {
                next.push(owned);
            } else {
                let kept =
                    blocks.iter().enumerate().filter(|(i, _)| disposition(*i) == Disposition::Keep);
                next.extend(kept.map(|(_, b)| Owned { run: b.run(), what: What::Folio, ..owned }));
            }
        }
        let kept =
            dispositions.values().filter(|disposition| **disposition == Disposition::Keep).count()
                as u64;
        let freed = dispositions.len() as u64 - kept;
        assert_eq!(self.memory.predecessor().finish(|b| dispositions[&b]), (freed, kept));
        self.left = next;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x7375_7276),
        ..ProptestConfig::default()
    })]

    #[test]
    fn generations_agree_with_a_list_of_owners(ops in ops()) {
        let memory = Ram::memory(&ranges()).unwrap();
        let mut life = Life { memory, live: Vec::new(), left: Vec::new() };
        let mut stamps = 0_u64;
        for op in ops {
            let mut new = None;
            let memory = &life.memory;
            match op {
                Op::Alloc(o) => {
                    new = memory.alloc(Request::new(order(o))).ok().map(|b| (b.run(), What::Folio));
                }
                Op::Run(n) => {
                    let got = memory.alloc_run(n, Request::new(Order::ZERO));
                    new = got.ok().map(|run| (run, What::Run));
                }
                Op::Row(o, n) => {
                    let request = Request::new(order(o)).frame_type(FrameType::Run);
                    if let Ok(run) = memory.alloc_run(n << o, request) {
                        free_run(memory, run, FrameType::Run).unwrap();
                        let first = Block::new(run.start(), order(o)).unwrap();
                        for b in blocks_of(FolioRange::new(first, n).unwrap()) {
                            memory.alloc_at(b).unwrap();
                        }
                        new = Some((run, What::Row(order(o))));
                    }
                }
                Op::Preserve(i) if !life.live.is_empty() => {
                    let at = i % life.live.len();
                    let was = life.live[at].preserved;
                    match life.live[at].preserve(memory) {
                        Ok(()) => {}
                        Err(Error::OutOfMemory { .. }) => prop_assert!(!was),
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                    for b in life.live[at].blocks() {
                        prop_assert_eq!(memory.preserved().contains(b), life.live[at].preserved);
                    }
                }
                Op::Free(i) if !life.live.is_empty() => {
                    let owned = life.live[i % life.live.len()];
                    check(memory, owned.run, owned.stamp);
                    if owned.preserved {
                        let first = owned.run.blocks().next().unwrap();
                        let of = match owned.what {
                            What::Row(_) => owned.blocks()[0],
                            _ => first,
                        };
                        prop_assert_eq!(owned.free(memory), Err(Error::Preserved { block: of }));
                    } else {
                        prop_assert_eq!(owned.free(memory), Ok(()));
                        life.live.swap_remove(i % life.live.len());
                    }
                }
                Op::Claim(i) => life.claim(i),
                Op::Unclaim(i) => life.unclaim(i),
                Op::Disinherit(dice) => life.disinherit(dice),
                Op::Jump(deaths) => {
                    for _ in 0..=deaths {
                        life = life.jump();
                    }
                }
                _ => {}
            }
            let memory = &life.memory;
            if let Some((run, what)) = new {
                let mut all = life.live.iter().chain(&life.left);
                prop_assert!(all.all(|o| !o.run.overlaps(run)), "{} has two owners", run);
                stamps += 1 << 32;
                write(memory, run, stamps);
                let stamp = stamps;
                life.live.push(Owned { run, what, preserved: false, claimed: false, stamp });
            }
            let frames = |things: &[Owned]| things.iter().map(|o| o.run.frames()).sum::<u64>();
            let stats = memory.stats();
            let left = frames(&life.left);
            let nodes = memory.preserved().counts().nodes();
            prop_assert_eq!(stats.used(), frames(&life.live) + left + nodes);
            let kept = life.live.iter().filter(|o| o.preserved).map(|o| o.run.frames());
            prop_assert_eq!(stats.preserved, kept.sum::<u64>() + left);
            prop_assert_eq!(inherited(memory), all_blocks(&life.left));
        }
        for owned in life.live.iter().chain(&life.left) {
            check(&life.memory, owned.run, owned.stamp);
        }
        let _balanced = snapshot(&life.memory);
        life = life.jump();
        while !life.left.is_empty() {
            life.claim(0);
        }
        let Life { memory, mut live, .. } = life;
        prop_assert_eq!(memory.predecessor().finish(|_| unreachable!("all was claimed")), (0, 0));
        for owned in &mut live {
            check(&memory, owned.run, owned.stamp);
            owned.preserve(&memory).unwrap();
            prop_assert_eq!(owned.free(&memory), Ok(()));
        }
        prop_assert_eq!(memory.stats().used(), memory.preserved().counts().nodes(), "not one frame is lost");
        if memory.preserved().tree_root().is_ok() {
            prop_assert_eq!(successor(memory, &ranges()).stats().used(), 1, "but the root");
        }
    }
}

#[test]
fn a_hundred_generations_without_an_end_leave_no_nodes_behind() {
    let mut life = Life { memory: Ram::memory(&ranges()).unwrap(), live: Vec::new(), left: vec![] };
    let mut stamp = 0;
    for generation in 0..100_u64 {
        // Something elsewhere in each; what is old is claimed and let go, now and then.
        for i in 0..5 {
            let o = order(((generation + i) % 8) as u8);
            let Ok(b) = life.memory.alloc(Request::new(o)) else { continue };
            stamp += 1 << 32;
            write(&life.memory, b.run(), stamp);
            let (run, what) = (b.run(), What::Folio);
            let mut owned = Owned { run, what, preserved: false, claimed: false, stamp };
            match owned.preserve(&life.memory) {
                Ok(()) => life.live.push(owned),
                Err(error) => {
                    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
                    owned.free(&life.memory).unwrap();
                }
            }
        }
        // In three of four, what is old is claimed, and some of it let go.
        for i in 0..6 {
            if generation % 4 != 0 && !life.left.is_empty() {
                life.claim(generation as usize * 7 + i);
                if i % 3 != 0 {
                    let mut owned = life.live.pop().unwrap();
                    owned.preserve(&life.memory).unwrap();
                    owned.free(&life.memory).unwrap();
                }
            }
        }
        life = life.jump();
    }
    assert!(!life.left.is_empty());
}
