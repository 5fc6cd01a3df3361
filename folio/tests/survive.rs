//! What survives, against a simple model, over several generations on one machine; and running
//! out of memory at every frame that an operation asks for.

#![cfg(feature = "std")]

mod common;

use common::owned::Owned as _;
use std::collections::BTreeMap;

use common::{
    base, block, check, claim_as, free, free_run, grow_run, label, order, preserve_as, run, starve,
    unpreserve_as, write,
};

use heirloom_folio::harness::Ram;
use heirloom_folio::{
    Adjacent, Block, DirectMap, Error, Expected, Fate, FrameState, Kind, Memory, NodeId, Order,
    Pfn, Request, Run,
};
use proptest::prelude::*;

const LOW: u64 = 900;
const HIGH: u64 = 1500;

/// Two nodes, a hole between them, frames that do not start at a round number.
fn ranges() -> [(Run, NodeId); 2] {
    [(run(5, LOW), NodeId(0)), (run(1024, HIGH), NodeId(1))]
}

/// The successor of `memory`: over the same frames, knowing nothing but the root of its tree.
fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Memory<Ram> {
    let root = memory.tree_root().unwrap();
    let (next, _) = memory.into_machine().attach(ranges).unwrap().inherit(root).unwrap();
    next
}

fn preserved(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.for_each_preserved(|b| blocks.push(b));
    blocks.sort();
    blocks
}

fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.for_each_inherited(|b| blocks.push(b));
    blocks.sort();
    blocks
}

#[test]
fn a_predecessor_and_a_successor() {
    let memory = Ram::memory(&ranges()).unwrap();
    let mut folio = memory.folio(Request::new(order(3))).unwrap();
    folio.bytes_mut().fill(7);
    let lost = memory.folio(Request::new(order(4))).unwrap();
    let b = folio.preserve().unwrap().into_raw();
    let run = memory.run(11, Request::new(Order::ZERO).on(NodeId(1))).unwrap();
    let run = run.preserve().unwrap().into_raw();
    assert!(lost.bytes().iter().all(|byte| *byte == 0));
    let _lost = lost.into_raw();

    let memory = successor(memory, &ranges());
    let nodes = memory.counts().nodes();
    assert_eq!(nodes, 0);
    let smaller = block(b.pfn().get() - base().get(), 2);
    for wrong in [smaller, Block::containing(b.pfn().add(1), Order::ZERO)] {
        assert_eq!(memory.claim_folio(wrong).err(), Some(Error::NotPreserved { block: wrong }));
    }
    assert_eq!(memory.inherited_block(b.pfn().add(5)), Some(b));
    let folio = memory.claim_folio(b).unwrap();
    assert!(folio.bytes().iter().all(|byte| *byte == 7));
    assert_eq!(memory.claim(b, Kind::Folio), Err(Error::NotPreserved { block: b }));
    let too_long = Run::new(run.start(), 12).unwrap();
    assert!(matches!(memory.claim_run(too_long, Kind::Run), Err(Error::NotPreserved { .. })));
    memory.claim_run(run, Kind::Buffer).unwrap();
    assert_eq!(memory.run_at(run.start(), Kind::Buffer), Ok(run));
    assert_eq!(memory.disinherit(|_| Fate::Keep), Ok((0, 0)));
    assert_eq!(memory.stats().used(), 8 + 11);
    free_run(&memory, run, Kind::Buffer).unwrap();
    drop(folio);
    assert_eq!(memory.stats().used(), 0);
    memory.drain();
    assert_eq!(memory.stats(), Ram::memory(&ranges()).unwrap().stats(), "whole again");
}

#[test]
fn what_was_allocated_before_inheriting_does_not_stand_in_the_way() {
    let memory = Ram::memory(&ranges()).unwrap();
    let mut all: Vec<_> =
        (0..100).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()).collect();
    let first = all[0];
    all.sort();
    for b in &all[50..] {
        memory.keep(*b).unwrap();
    }
    let root = memory.tree_root().unwrap();
    let next = memory.into_machine().attach(&ranges()).unwrap();
    // Takes a whole word of frames into this CPU's cache, some of them the predecessor's.
    let early = next.alloc(Request::new(Order::ZERO)).unwrap();
    assert!(early == first && all[..50].contains(&first));
    let (next, counts) = next.inherit(root).unwrap();
    assert_eq!(counts.total(), 50);
    assert_eq!(inherited(&next), all[50..]);
}

#[test]
fn a_label_is_what_a_claim_must_name() {
    let memory = Ram::memory(&ranges()).unwrap();
    let b = memory.alloc(Request::new(order(2))).unwrap();
    memory.keep(b).unwrap();
    let memory = successor(memory, &ranges());
    let other = block(100, 2);
    assert_eq!(label(&memory, other, Kind::Slab), Err(Error::NotPreserved { block: other }));
    label(&memory, b, Kind::Slab).unwrap();
    let wrong = Error::WrongKind { pfn: b.pfn(), expected: Kind::Table, found: Kind::Slab };
    assert_eq!(label(&memory, b, Kind::Table), Err(wrong));
    let no_folio = Error::WrongKind { pfn: b.pfn(), expected: Kind::Folio, found: Kind::Slab };
    assert_eq!(memory.claim_folio(b).err(), Some(no_folio));
    let wrong = Error::WrongKind { pfn: b.pfn(), expected: Kind::Run, found: Kind::Slab };
    assert_eq!(memory.claim_run(b.run(), Kind::Run), Err(wrong));
    // Until it is claimed it is nobody's to preserve, let go or free.
    assert_eq!(memory.keep(b), Err(no_folio));
    assert_eq!(memory.let_go(b), Err(no_folio));
    assert_eq!(memory.claim(b, Kind::Slab), Err(no_folio));
    let preserved = preserve_as(&memory, b, Kind::Slab);
    assert_eq!(preserved, Err(Error::AlreadyPreserved { block: b }));
    let let_go = unpreserve_as(&memory, b, Kind::Slab);
    assert_eq!(let_go, Err(Error::NotPreserved { block: b }));
    assert_eq!(free(&memory, b, Kind::Slab), Err(Error::Preserved { block: b }));
    assert_eq!(memory.label_of(b), Some(Kind::Slab));
    // Nothing that looks for slabs finds it, before it is claimed and made one.
    let there = memory.machine().ptr(b.addr());
    let slab = Expected::new(Kind::Slab, order(2));
    assert_eq!(memory.within(there, &slab), None);
    claim_as(&memory, b, Kind::Slab).unwrap();
    assert_eq!(memory.within(there, &slab), None);
    // SAFETY: claimed just now.
    unsafe { memory.unclaim(b, Kind::Table, Some(Kind::Slab)) }.unwrap();
    assert_eq!(memory.claim_folio(b).err(), Some(no_folio));
    claim_as(&memory, b, Kind::Slab).unwrap();
    preserve_as(&memory, b, Kind::Table).unwrap();
    // SAFETY: claimed just now; nothing looks for slabs here.
    unsafe { memory.make_slab(b) }.unwrap();
    assert_eq!(memory.within(there, &slab).map(|found| found.head), Some(there));
    unpreserve_as(&memory, b, Kind::Slab).unwrap();
    assert_eq!(memory.within(there, &slab).map(|found| found.head), Some(there));
    // SAFETY: refused, as it is one.
    let again = unsafe { memory.make_slab(b) };
    assert_eq!(
        again,
        Err(Error::WrongKind { pfn: b.pfn(), expected: Kind::Table, found: Kind::Slab })
    );
    assert_eq!(free(&memory, b, Kind::Slab), Ok(()));
    // SAFETY: refused, as it is free.
    let gone = unsafe { memory.make_slab(b) };
    assert_eq!(gone, Err(Error::DoubleFree { block: b }));
}

#[test]
fn a_label_is_a_slab_or_a_table_that_nobody_has() {
    let memory = Ram::memory(&ranges()).unwrap();
    let [b, other] = [0; 2].map(|_| memory.alloc(Request::new(order(2))).unwrap());
    memory.keep_all(&[b, other]).unwrap();
    let memory = successor(memory, &ranges());
    for kind in [Kind::Folio, Kind::Run, Kind::Buffer, Kind::Tail] {
        assert_eq!(label(&memory, b, kind), Err(Error::BadRequest { frames: 4 }), "{kind:?}");
        assert_eq!(memory.label_of(b), None);
    }
    let part = Block::containing(b.pfn(), order(1));
    assert_eq!(label(&memory, part, Kind::Slab), Err(Error::NotPreserved { block: part }));
    memory.claim(b, Kind::Folio).unwrap();
    assert_eq!(label(&memory, b, Kind::Slab), Err(Error::NotPreserved { block: b }));
    let asked = memory.disinherit(|b| {
        assert_eq!(label(&memory, b, Kind::Slab), Err(Error::Ending));
        Fate::Free
    });
    assert_eq!(asked, Ok((1, 0)));
    assert_eq!(label(&memory, other, Kind::Slab), Err(Error::NotPreserved { block: other }));
    free(&memory, b, Kind::Folio).unwrap();
    assert_eq!(memory.stats().used(), 0);
}

#[test]
fn a_labelled_block_is_kept_as_what_it_is_or_becomes_free() {
    for fate in [Fate::Keep, Fate::Free] {
        let memory = Ram::memory(&ranges()).unwrap();
        let b = memory.alloc(Request::new(order(2))).unwrap();
        memory.keep(b).unwrap();
        let memory = successor(memory, &ranges());
        label(&memory, b, Kind::Slab).unwrap();
        memory.disinherit(|_| fate).unwrap();
        if fate == Fate::Keep {
            // Kept, and no slab of ours: a table that nobody knows.
            let head = FrameState::Head { kind: Kind::Table, order: order(2), preserved: true };
            assert_eq!(memory.state(b.pfn()), Ok(head));
            assert_eq!(preserved(&memory), [b]);
            let no_folio =
                Error::WrongKind { pfn: b.pfn(), expected: Kind::Folio, found: Kind::Table };
            assert_eq!(memory.let_go(b), Err(no_folio));
            unpreserve_as(&memory, b, Kind::Table).unwrap();
            free(&memory, b, Kind::Table).unwrap();
        }
        assert_eq!(memory.stats().used(), memory.counts().nodes());
    }
}

#[test]
fn a_run_that_is_put_back_is_there_for_the_next_claim() {
    let memory = Ram::memory(&ranges()).unwrap();
    let all = memory.alloc_run(21, Request::new(Order::ZERO).kind(Kind::Buffer)).unwrap();
    let no_run = Error::WrongKind { pfn: all.start(), expected: Kind::Run, found: Kind::Buffer };
    for kind in [Kind::Run, Kind::Buffer] {
        assert_eq!(memory.keep_run(all, kind), Err(no_run));
    }
    // SAFETY: allocated above.
    unsafe { memory.preserve_run_as(all, Kind::Buffer) }.unwrap();
    for kind in [Kind::Run, Kind::Buffer] {
        assert_eq!(memory.let_go_run(all, kind), Err(no_run));
    }
    let memory = successor(memory, &ranges());
    let put_back = |run: Run, kind: Kind| {
        // SAFETY: what was not claimed so is refused; nobody uses the rest.
        unsafe { memory.unclaim_run(run, kind) }
    };
    assert!(put_back(all, Kind::Buffer).is_err());
    memory.claim_run(all, Kind::Buffer).unwrap();
    let part = Run::new(all.start(), 20).unwrap();
    let wrong = Error::WrongLength { pfn: all.start(), expected: 20, found: 21 };
    assert_eq!(put_back(part, Kind::Buffer), Err(wrong));
    let wrong = Error::WrongKind { pfn: all.start(), expected: Kind::Run, found: Kind::Buffer };
    assert_eq!(put_back(all, Kind::Run), Err(wrong));
    put_back(all, Kind::Buffer).unwrap();
    assert!(all.blocks().all(|b| memory.is_inherited(b) && memory.label_of(b).is_none()));
    memory.claim_run(all, Kind::Run).unwrap();
    memory.disinherit(|_| unreachable!("all of it was claimed")).unwrap();
    let gone = Error::NotPreserved { block: Block::containing(all.start(), Order::ZERO) };
    assert_eq!(put_back(all, Kind::Run), Err(gone));
    free_run(&memory, all, Kind::Run).unwrap();
    assert_eq!(memory.stats().used(), 0);
}

#[test]
fn the_trees_own_pages_are_nobodys() {
    let memory = Ram::memory(&ranges()).unwrap();
    let b = memory.alloc(Request::new(Order::ZERO)).unwrap();
    memory.keep(b).unwrap();
    let mut nodes = Vec::new();
    memory.for_each_node(|node| nodes.push(Block::containing(node.addr.pfn(), Order::ZERO)));
    assert!(!nodes.is_empty());
    for block in nodes {
        let no_folio =
            Error::WrongKind { pfn: block.pfn(), expected: Kind::Folio, found: Kind::Table };
        assert_eq!(memory.keep(block), Err(no_folio));
        assert_eq!(memory.let_go(block), Err(no_folio));
        let preserved = preserve_as(&memory, block, Kind::Table);
        assert_eq!(preserved, Err(Error::AlreadyPreserved { block }));
        let let_go = unpreserve_as(&memory, block, Kind::Table);
        assert_eq!(let_go, Err(Error::NotPreserved { block }));
        let freed = free(&memory, block, Kind::Table);
        assert_eq!(freed, Err(Error::Preserved { block }));
    }
    assert_eq!(inherited(&successor(memory, &ranges())), [b]);
}

// Five of the largest folios: no heap promises the 80 GiB that they are of 64 KiB frames.
#[cfg(not(heirloom_page = "64k"))]
#[test]
fn blocks_above_the_largest_folio_are_kept_and_claimed_as_runs() {
    // Never touched, so the frames cost only the metadata.
    let ranges = Ram::frames(5 << 18);
    let memory = Ram::memory(&ranges).unwrap();
    let all = memory.alloc_run((1 << 20) + 3, Request::new(order(18)).kind(Kind::Run)).unwrap();
    memory.keep_run(all, Kind::Run).unwrap();
    let count = preserved(&memory).len();
    let memory = successor(memory, &ranges);
    assert_eq!(memory.disinherit(|_| Fate::Keep), Ok((0, count as u64)));
    let memory = successor(memory, &ranges);
    let largest = all.blocks().max_by_key(|b| b.order()).unwrap();
    assert!(largest.order() > Order::MAX_FOLIO);
    let refused = Error::BadRequest { frames: largest.order().frames() };
    assert_eq!(memory.claim(largest, Kind::Folio), Err(refused));
    memory.claim_run(all, Kind::Run).unwrap();
    assert_eq!(memory.run_at(all.start(), Kind::Run), Ok(all));
    // SAFETY: claimed just now.
    unsafe { memory.unclaim_run(all, Kind::Run) }.unwrap();
    assert_eq!(inherited(&memory).len(), count);
    memory.claim_run(all, Kind::Run).unwrap();
    assert_eq!(memory.run_at(all.start(), Kind::Run), Ok(all));
    memory.disinherit(|_| Fate::Free).unwrap();
    free_run(&memory, all, Kind::Run).unwrap();
    assert_eq!(memory.stats().used(), 0);
}

/// All that must be as before when an operation fails.
#[derive(PartialEq, Eq, Debug)]
struct Snapshot {
    used: u64,
    preserved: Vec<Block>,
    inherited: Vec<Block>,
    nodes: u64,
    states: Vec<FrameState>,
}

fn snapshot(memory: &Memory<Ram>) -> Snapshot {
    let audit = memory.audit().unwrap();
    let stats = memory.stats();
    let total = audit.free + audit.cached + audit.reserved + audit.allocated.iter().sum::<u64>();
    assert_eq!(total, stats.frames, "every frame has one state");
    assert_eq!(stats.used(), audit.reserved + audit.allocated.iter().sum::<u64>());
    let frames = memory.ranges().flat_map(|(run, _)| run.start().get()..run.end().get());
    let bytes = frames.map(|f| match memory.state(Pfn::new(f)).unwrap() {
        // A frame that was a node for a moment was handed out.
        FrameState::Freed => FrameState::Never,
        other => other,
    });
    Snapshot {
        used: stats.used(),
        preserved: preserved(memory),
        inherited: inherited(memory),
        nodes: memory.counts().nodes(),
        states: bytes.collect(),
    }
}

/// Blocks of several orders far apart, and a run, taken where no tree node is.
const BLOCKS: [(u64, u8); 5] = [(64, 5), (256, 3), (300, 0), (1152, 6), (1500, 0)];
const ROW: (u64, u64) = (400, 70);
const STRIP: (u64, u64) = (1301, 29);

fn furnished() -> Memory<Ram> {
    let memory = Ram::memory(&ranges()).unwrap();
    for (frame, o) in BLOCKS {
        memory.alloc_at(block(frame, o), Kind::Folio).unwrap();
    }
    for frame in ROW.0..ROW.0 + ROW.1 {
        memory.alloc_at(block(frame, 0), Kind::Folio).unwrap();
    }
    memory.alloc_run_at(run(STRIP.0, STRIP.1), Kind::Run).unwrap();
    memory
}

fn row() -> Adjacent {
    Adjacent::new(block(ROW.0, 0), ROW.1).unwrap()
}

#[test]
fn out_of_memory_at_any_node_changes_nothing() {
    type Operation = fn(&Memory<Ram>) -> Result<(), Error>;
    let operations: [Operation; 5] = [
        |m| m.tree_root().map(|_| ()),
        |m| m.keep(block(64, 5)),
        |m| m.keep(block(1500, 0)),
        |m| m.keep_run(run(STRIP.0, STRIP.1), Kind::Run),
        |m| m.keep_adjacent(row()),
    ];
    for (which, operation) in operations.into_iter().enumerate() {
        for already in [false, true] {
            let mut left = 0;
            loop {
                let memory = furnished();
                if already {
                    memory.keep(block(256, 3)).unwrap();
                }
                starve(&memory, left);
                let before = snapshot(&memory);
                match operation(&memory) {
                    Ok(()) => break,
                    Err(Error::OutOfMemory { .. }) => assert_eq!(snapshot(&memory), before),
                    Err(other) => panic!("{other}"),
                }
                // Nor does having failed stand in the way of what there is memory for.
                assert_eq!(memory.stats().free() + memory.stats().cached, left as u64);
                left += 1;
                assert!(left < 200);
            }
            assert!(left > 0 || already, "operation {which} needed a node");
        }
    }
}

#[test]
fn many_at_once_are_all_preserved_or_none() {
    let blocks = BLOCKS.map(|(frame, o)| block(frame, o));
    // Memory for nodes ends before each of them. Empty nodes may stay, but nothing else.
    for left in 0.. {
        let memory = furnished();
        starve(&memory, left);
        let before = snapshot(&memory);
        match memory.keep_all(&blocks) {
            Ok(()) => {
                assert!(left > 0);
                break;
            }
            Err(Error::OutOfMemory { .. }) => assert_eq!(preserved(&memory), before.preserved),
            Err(other) => panic!("{other}"),
        }
        assert!(blocks.iter().all(|b| {
            let state = memory.state(b.pfn()).unwrap();
            matches!(state, FrameState::Head { preserved: false, .. })
        }));
    }
    let memory = furnished();
    let [a, b, rest @ ..] = blocks;
    let twice = memory.keep_all(&[a, b, a]);
    assert_eq!(twice, Err(Error::AlreadyPreserved { block: a }));
    memory.keep_all(&[]).unwrap();
    assert_eq!(preserved(&memory), []);
    memory.keep_all(&blocks).unwrap();
    memory.let_go_all(&rest).unwrap();
    let mut kept = [a, b];
    kept.sort();
    assert_eq!(preserved(&memory), kept);
    assert_eq!(memory.let_go_all(&blocks), Err(Error::NotPreserved { block: rest[0] }));
    assert_eq!(preserved(&memory), kept);
}

#[test]
fn out_of_memory_in_allocating_changes_nothing() {
    type Operation = fn(&Memory<Ram>) -> Result<(), Error>;
    let operations: [Operation; 4] = [
        |m| m.alloc(Request::new(order(3)).zeroed()).map(|_| ()),
        |m| m.alloc_run(13, Request::new(Order::ZERO).kind(Kind::Run)).map(|_| ()),
        |m| m.alloc_run_at(run(100, 9), Kind::Run),
        |m| grow_run(m, run(STRIP.0, STRIP.1), STRIP.1 + 9, Kind::Run).map(|_| ()),
    ];
    for operation in operations {
        let memory = furnished();
        starve(&memory, 7);
        let before = snapshot(&memory);
        let refused = operation(&memory).unwrap_err();
        let expected = matches!(
            refused,
            Error::OutOfMemory { .. } | Error::NoRun { .. } | Error::NotFree { .. }
        );
        assert!(expected, "{refused}");
        assert_eq!(snapshot(&memory), before);
    }
}

#[test]
fn keeping_can_run_out_of_memory_at_any_node_and_be_repeated() {
    let mut left = 0;
    loop {
        let memory = furnished();
        for (frame, o) in BLOCKS {
            memory.keep(block(frame, o)).unwrap();
        }
        memory.keep_adjacent(row()).unwrap();
        memory.keep_run(run(STRIP.0, STRIP.1), Kind::Run).unwrap();
        let all = preserved(&memory);
        let frames: u64 = all.iter().map(|b| b.order().frames()).sum();
        let memory = successor(memory, &ranges());
        assert_eq!(inherited(&memory), all);
        label(&memory, block(256, 3), Kind::Slab).unwrap();
        let mut taken = starve(&memory, left);
        let mut tries = 0;
        let mut kept = 0;
        let done = loop {
            let before = snapshot(&memory);
            assert_eq!(before.preserved.len() as u64, kept);
            match memory.disinherit(|b| if b.order() == order(5) { Fate::Free } else { Fate::Keep })
            {
                Ok((freed, more)) => break (freed, more + kept),
                Err(Error::OutOfMemory { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            // Each block is in one tree, or free if that was decided.
            let after = snapshot(&memory);
            let mut either = after.preserved.clone();
            either.extend(&after.inherited);
            either.sort();
            either.dedup();
            assert_eq!(either.len(), after.preserved.len() + after.inherited.len());
            let gone: Vec<_> = all.iter().filter(|b| !either.contains(b)).collect();
            assert!(gone.iter().all(|b| b.order() == order(5)), "{gone:?}");
            for b in &after.inherited {
                assert!(!memory.is_preserved(*b) && memory.is_inherited(*b));
            }
            kept = after.preserved.len() as u64;
            tries += 1;
            let b = taken.pop().unwrap();
            free(&memory, b, Kind::Folio).unwrap();
        };
        // The freed block's frames serve as nodes once it is gone, so its own count is not asked.
        assert!(done.0 <= 1 && done.1 == all.len() as u64 - 1, "{done:?}");
        assert_eq!(inherited(&memory), []);
        let expected: Vec<_> = all.iter().copied().filter(|b| b.order() != order(5)).collect();
        assert_eq!(preserved(&memory), expected);
        assert_eq!(memory.label_of(block(256, 3)), Some(Kind::Table));
        for b in taken {
            free(&memory, b, Kind::Folio).unwrap();
        }
        assert_eq!(memory.stats().used(), frames - 32 + memory.counts().nodes());
        // And the next one finds them all.
        assert_eq!(inherited(&successor(memory, &ranges())), expected);
        if tries == 0 {
            break;
        }
        left += 1;
        assert!(left < 200);
    }
    assert!(left > 0);
}

#[derive(Clone, Debug)]
enum Op {
    Alloc(u8),
    Run(u64),
    Row(u8, u64),
    Preserve(usize),
    Free(usize),
    Jump(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0_u8..8).prop_map(Op::Alloc),
        3 => (1_u64..150).prop_map(Op::Run),
        2 => (0_u8..3, 1_u64..100).prop_map(|(o, n)| Op::Row(o, n)),
        8 => any::<usize>().prop_map(Op::Preserve),
        5 => any::<usize>().prop_map(Op::Free),
        1 => any::<u64>().prop_map(Op::Jump),
    ];
    prop::collection::vec(op, 1..150)
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
    stamp: u64,
}

impl Owned {
    fn adjacent(&self, order: Order) -> Adjacent {
        let first = Block::new(self.run.start(), order).unwrap();
        Adjacent::new(first, self.run.frames() >> order.get()).unwrap()
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
            (What::Run, false) => memory.keep_run(self.run, Kind::Run),
            (What::Run, true) => memory.let_go_run(self.run, Kind::Run),
            (What::Row(o), false) => memory.keep_adjacent(self.adjacent(o)),
            (What::Row(o), true) => memory.let_go_adjacent(self.adjacent(o)),
        }?;
        self.preserved = !self.preserved;
        Ok(())
    }

    fn free(&self, memory: &Memory<Ram>) -> Result<(), Error> {
        match self.what {
            What::Run => free_run(memory, self.run, Kind::Run),
            What::Folio | What::Row(_) => {
                self.blocks().into_iter().try_for_each(|b| free(memory, b, Kind::Folio))
            }
        }
    }

    /// Claims what a predecessor preserved.
    fn claim(&self, memory: &Memory<Ram>) -> Result<(), Error> {
        match self.what {
            What::Run => memory.claim_run(self.run, Kind::Run),
            What::Folio | What::Row(_) => {
                self.blocks().into_iter().try_for_each(|b| memory.claim(b, Kind::Folio))
            }
        }
    }
}

/// Jumps, and claims, keeps or frees what the bits of `dice` say.
fn jump(memory: Memory<Ram>, live: &mut Vec<Owned>, dice: u64) -> Memory<Ram> {
    let mut expected: Vec<_> =
        live.iter().filter(|o| o.preserved).flat_map(Owned::blocks).collect();
    expected.sort();
    assert_eq!(preserved(&memory), expected);
    if memory.tree_root().is_err() {
        return memory;
    }
    let nodes = memory.counts().nodes();
    let memory = successor(memory, &ranges());
    assert_eq!(inherited(&memory), expected);
    let held: u64 = expected.iter().map(|b| b.order().frames()).sum();
    assert_eq!(memory.stats().used(), held + nodes, "everything else is free again");

    live.retain(|o| o.preserved);
    let mut dice = dice;
    let mut fates = BTreeMap::new();
    let mut next = Vec::new();
    for owned in live.drain(..) {
        dice = dice.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match dice >> 61 {
            0..=3 => {
                owned.claim(&memory).unwrap();
                let first = Error::NotPreserved { block: owned.blocks()[0] };
                assert_eq!(owned.claim(&memory), Err(first), "once");
                next.push(Owned { preserved: false, ..owned });
            }
            4 | 5 => {
                for b in owned.blocks() {
                    fates.insert(b, Fate::Keep);
                    // Kept blocks are folios, whatever they were part of.
                    next.push(Owned { run: b.run(), what: What::Folio, ..owned });
                }
            }
            _ => fates.extend(owned.blocks().into_iter().map(|b| (b, Fate::Free))),
        }
    }
    loop {
        match memory.disinherit(|b| fates[&b]) {
            Ok(_) => break,
            // Then the rest is not kept either.
            Err(Error::OutOfMemory { .. }) => {
                for (b, fate) in &mut fates {
                    if memory.is_inherited(*b) && *fate == Fate::Keep {
                        *fate = Fate::Free;
                        next.retain(|o| o.run != b.run());
                    }
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    *live = next;
    memory
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
        let mut memory = Ram::memory(&ranges()).unwrap();
        let mut live: Vec<Owned> = Vec::new();
        let mut stamps = 0_u64;
        for op in ops {
            let mut new = None;
            match op {
                Op::Alloc(o) => {
                    new = memory.alloc(Request::new(order(o))).ok().map(|b| (b.run(), What::Folio));
                }
                Op::Run(n) => {
                    let got = memory.alloc_run(n, Request::new(Order::ZERO).kind(Kind::Run));
                    new = got.ok().map(|run| (run, What::Run));
                }
                Op::Row(o, n) => {
                    let request = Request::new(order(o)).kind(Kind::Run);
                    if let Ok(run) = memory.alloc_run(n << o, request) {
                        free_run(&memory, run, Kind::Run).unwrap();
                        let what = What::Row(order(o));
                        let owned = Owned { run, what, preserved: false, stamp: 0 };
                        for b in owned.blocks() {
                            memory.alloc_at(b, Kind::Folio).unwrap();
                        }
                        new = Some((run, what));
                    }
                }
                Op::Preserve(i) if !live.is_empty() => {
                    let at = i % live.len();
                    match live[at].preserve(&memory) {
                        Ok(()) | Err(Error::OutOfMemory { .. }) => {}
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                    for b in live[at].blocks() {
                        prop_assert_eq!(memory.is_preserved(b), live[at].preserved);
                    }
                }
                Op::Free(i) if !live.is_empty() => {
                    let owned = live[i % live.len()];
                    check(&memory, owned.run, owned.stamp);
                    if owned.preserved {
                        let first = owned.run.blocks().next().unwrap();
                        let of = match owned.what {
                            What::Row(_) => owned.blocks()[0],
                            _ => first,
                        };
                        prop_assert_eq!(owned.free(&memory), Err(Error::Preserved { block: of }));
                    } else {
                        prop_assert_eq!(owned.free(&memory), Ok(()));
                        live.swap_remove(i % live.len());
                    }
                }
                Op::Jump(dice) => memory = jump(memory, &mut live, dice),
                _ => {}
            }
            if let Some((run, what)) = new {
                prop_assert!(live.iter().all(|o| !o.run.overlaps(run)), "{} has two owners", run);
                stamps += 1 << 32;
                write(&memory, run, stamps);
                live.push(Owned { run, what, preserved: false, stamp: stamps });
            }
            let owned: u64 = live.iter().map(|o| o.run.frames()).sum();
            let stats = memory.stats();
            prop_assert_eq!(stats.used(), owned + memory.counts().nodes());
            let kept = live.iter().filter(|o| o.preserved).map(|o| o.run.frames());
            prop_assert_eq!(stats.preserved, kept.sum::<u64>());
        }
        for owned in &live {
            check(&memory, owned.run, owned.stamp);
        }
        let _balanced = snapshot(&memory);
        memory = jump(memory, &mut live, u64::MAX);
        for owned in &mut live {
            check(&memory, owned.run, owned.stamp);
            if owned.preserved {
                owned.preserve(&memory).unwrap();
            }
            prop_assert_eq!(owned.free(&memory), Ok(()));
        }
        prop_assert_eq!(memory.stats().used(), memory.counts().nodes(), "not one frame is lost");
    }
}

#[test]
fn the_inheritance_ends_while_nobody_looks_at_it() {
    let memory = Ram::memory(&ranges()).unwrap();
    let kept: Vec<_> = (0..3).map(|_| memory.alloc(Request::new(order(1))).unwrap()).collect();
    for b in &kept {
        memory.keep(*b).unwrap();
    }
    let memory = successor(memory, &ranges());
    let first = memory.hold_inheritance().unwrap().unwrap();
    let second = memory.hold_inheritance().unwrap().unwrap();
    assert_eq!(memory.disinherit(|_| unreachable!()), Err(Error::Claiming));
    drop(first);
    assert_eq!(memory.disinherit(|_| unreachable!()), Err(Error::Claiming));
    drop(second);
    memory.for_each_inherited(|_| {
        assert_eq!(memory.disinherit(|_| unreachable!()), Err(Error::Claiming));
    });
    // It is as it was.
    let held = memory.hold_inheritance().unwrap().unwrap();
    memory.claim_held(&held, kept[0], Kind::Folio).unwrap();
    drop(held);
    let mut asked = 0;
    let ended = memory.disinherit(|b| {
        assert_eq!(memory.claim(b, Kind::Folio), Err(Error::Ending));
        assert_eq!(memory.claim_run(b.run(), Kind::Run), Err(Error::Ending));
        assert_eq!(memory.hold_inheritance().err(), Some(Error::Ending));
        assert_eq!(memory.disinherit(|_| unreachable!()), Err(Error::Claiming));
        asked += 1;
        Fate::Free
    });
    assert_eq!((ended, asked), (Ok((2, 0)), 2));
    assert!(memory.hold_inheritance().unwrap().is_none());
    assert_eq!(memory.claim(kept[1], Kind::Folio), Err(Error::NotPreserved { block: kept[1] }));
    assert!(!memory.is_inherited(kept[1]) && memory.inherited_block(kept[1].pfn()).is_none());
    // SAFETY: claimed above, and nobody else's.
    let undone = unsafe { memory.unclaim(kept[0], Kind::Folio, None) };
    assert_eq!(undone, Err(Error::NotPreserved { block: kept[0] }));
    assert_eq!(free(&memory, kept[0], Kind::Folio), Ok(()));
    assert_eq!(memory.stats().used(), 0);
}

#[test]
fn a_fate_that_panics_leaves_the_rest_to_be_claimed() {
    let memory = Ram::memory(&ranges()).unwrap();
    let mut left = [0; 3].map(|_| memory.alloc(Request::new(order(1))).unwrap());
    left.sort();
    for b in &left {
        memory.keep(*b).unwrap();
    }
    let memory = successor(memory, &ranges());
    let mut asked = 0;
    let decide = std::panic::AssertUnwindSafe(|| {
        memory.disinherit(|_| {
            asked += 1;
            assert!(asked < 2, "the second is not decided");
            Fate::Free
        })
    });
    assert!(std::panic::catch_unwind(decide).is_err());
    assert_eq!(inherited(&memory), left[1..]);
    memory.claim(left[1], Kind::Folio).unwrap();
    assert_eq!(memory.disinherit(|_| Fate::Free), Ok((1, 0)));
    assert_eq!(free(&memory, left[1], Kind::Folio), Ok(()));
    assert_eq!(memory.stats().used(), 0);
}
