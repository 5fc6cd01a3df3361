//! What survives, against a simple model, over several generations on one machine; and running
//! out of memory at every frame that an operation asks for.

#![cfg(feature = "std")]

mod common;

use std::collections::BTreeMap;

use common::owned::Owned as _;
use common::{
    base, block, check, claim_as, free, free_run, grow_run, label, nodes_of, order, preserve_as,
    run, starve, unpreserve_as, write,
};
use heirloom_folio::harness::Ram;
use heirloom_folio::internal::BlockMatcher;
use heirloom_folio::{
    DirectMap, Disposition, Error, FrameState, FrameType, Memory, NodeId, Request,
};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Pfn, Run};
use proptest::prelude::*;

const LOW: u64 = 900;
const HIGH: u64 = 1500;

/// Two nodes, a hole between them, frames that do not start at a round number.
fn ranges() -> [(Run, NodeId); 2] {
    [(run(5, LOW), NodeId(0)), (run(1024, HIGH), NodeId(1))]
}

/// The successor of `memory`: over the same frames, knowing nothing but the root of its tree.
fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Memory<Ram> {
    let root = memory.preserved().tree_root().unwrap();
    let (next, _) = memory.into_machine().attach(ranges).unwrap().take_over(root).unwrap();
    next
}

fn preserved(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.preserved().for_each(|b| blocks.push(b));
    blocks.sort();
    blocks
}

fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.predecessor().for_each(|b| blocks.push(b));
    blocks.sort();
    blocks
}

#[test]
fn a_predecessor_and_a_successor() {
    let memory = Ram::memory(&ranges()).unwrap();
    let mut folio = memory.alloc_folio(Request::new(order(3))).unwrap();
    folio.bytes_mut().fill(7);
    let lost = memory.alloc_folio(Request::new(order(4))).unwrap();
    let b = folio.preserve().unwrap().into_raw();
    let run = memory.alloc_owned_run(11, Request::new(Order::ZERO).on(NodeId(1))).unwrap();
    let run = run.preserve().unwrap().into_raw();
    assert!(lost.bytes().iter().all(|byte| *byte == 0));
    let _lost = lost.into_raw();
    let (root, before) = (memory.preserved().tree_root().unwrap(), memory.preserved().counts());

    let memory = successor(memory, &ranges());
    // It goes on with the tree.
    assert_eq!((memory.preserved().tree_root(), memory.preserved().counts()), (Ok(root), before));
    assert_eq!(memory.stats().preserved, 8 + 11);
    let smaller = block(b.pfn().get() - base().get(), 2);
    for wrong in [smaller, Block::containing(b.pfn().add(1), Order::ZERO)] {
        assert_eq!(memory.claim_owned(wrong).err(), Some(Error::NotPreserved { block: wrong }));
    }
    assert_eq!(memory.predecessor().block_at(b.pfn().add(5)), Some(b));
    let kept = memory.claim_owned(b).unwrap();
    assert!(kept.bytes().iter().all(|byte| *byte == 7));
    assert!(memory.preserved().contains(b) && !memory.predecessor().contains(b));
    assert_eq!(memory.predecessor().block_at(b.pfn().add(5)), None);
    assert_eq!(memory.claim(b), Err(Error::NotPreserved { block: b }));
    let too_long = Run::new(run.start(), 12).unwrap();
    assert!(matches!(memory.claim(too_long), Err(Error::NotPreserved { .. })));
    claim_as(&memory, run, FrameType::Buffer).unwrap();
    assert_eq!(memory.run_at(run.start(), FrameType::Buffer), Ok(run));
    assert_eq!(memory.predecessor().finish(|_| unreachable!("all was claimed")), (0, 0));
    // What is claimed survives as before; what is let go is free.
    assert_eq!(
        (memory.preserved().counts(), memory.stats().used()),
        (before, 8 + 11 + before.nodes())
    );
    let refused = free_run(&memory, run, FrameType::Buffer);
    assert!(matches!(refused, Err(Error::Preserved { .. })), "{refused:?}");
    // SAFETY: claimed above.
    unsafe { memory.unpreserve_as(run, FrameType::Buffer) }.unwrap();
    free_run(&memory, run, FrameType::Buffer).unwrap();
    drop(kept.unpreserve().unwrap());
    assert_eq!(memory.stats().used(), before.nodes());

    // And the nodes that lead to nothing go with a generation: all but the root.
    let mut memory = successor(memory, &ranges());
    assert_eq!((memory.preserved().counts().nodes(), memory.stats().used()), (1, 1));
    memory.drain_all();
    let fresh = Ram::memory(&ranges()).unwrap();
    fresh.alloc_at(Block::containing(root.pfn(), Order::ZERO)).unwrap();
    fresh.drain();
    assert_eq!(memory.stats(), fresh.stats(), "whole again");
}

#[test]
fn a_memory_with_a_tree_of_its_own_takes_none_over() {
    let memory = Ram::memory(&ranges()).unwrap();
    let b = memory.alloc(Request::new(order(2))).unwrap();
    memory.keep(b).unwrap();
    let root = memory.preserved().tree_root().unwrap();
    // Its own, or any other.
    for other in [root, b.addr()] {
        let mut next = Ram::memory(&ranges()).unwrap();
        let own = next.preserved().tree_root().unwrap();
        let block = Block::containing(own.pfn(), Order::ZERO);
        assert_eq!(next.take_over_in_place(other, |_| ()), Err(Error::AlreadyPreserved { block }));
        // Nothing was changed.
        let kept = next.alloc(Request::new(order(3))).unwrap();
        next.keep(kept).unwrap();
        assert_eq!(preserved(&next), [kept]);
        let refused = next.take_over(other).map(drop);
        assert_eq!(refused.unwrap_err(), Error::AlreadyPreserved { block });
    }
    let memory = successor(memory, &ranges());
    let block = Block::containing(root.pfn(), Order::ZERO);
    assert_eq!(memory.take_over(root).map(drop).unwrap_err(), Error::AlreadyPreserved { block });
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
    let root = memory.preserved().tree_root().unwrap();
    let next = memory.into_machine().attach(&ranges()).unwrap();
    // Takes a whole word of frames into this CPU's cache, some of them the predecessor's.
    let early = next.alloc(Request::new(Order::ZERO)).unwrap();
    assert!(early == first && all[..50].contains(&first));
    let (next, counts) = next.take_over(root).unwrap();
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
    assert_eq!(label(&memory, other, FrameType::Slab), Err(Error::NotPreserved { block: other }));
    label(&memory, b, FrameType::Slab).unwrap();
    let wrong =
        Error::WrongType { pfn: b.pfn(), expected: FrameType::Table, found: FrameType::Slab };
    assert_eq!(label(&memory, b, FrameType::Table), Err(wrong));
    let no_folio =
        Error::WrongType { pfn: b.pfn(), expected: FrameType::Folio, found: FrameType::Slab };
    assert_eq!(memory.claim_owned(b).err(), Some(no_folio));
    let wrong = Error::WrongType { pfn: b.pfn(), expected: FrameType::Run, found: FrameType::Slab };
    assert_eq!(memory.claim(b.run()), Err(wrong));
    // Until it is claimed it is no caller's to preserve, let go or free.
    assert_eq!(memory.keep(b), Err(no_folio));
    assert_eq!(memory.let_go(b), Err(no_folio));
    let preserved = preserve_as(&memory, b, FrameType::Slab);
    assert_eq!(preserved, Err(Error::AlreadyPreserved { block: b }));
    let let_go = unpreserve_as(&memory, b, FrameType::Slab);
    assert_eq!(let_go, Err(Error::NotPreserved { block: b }));
    assert_eq!(free(&memory, b, FrameType::Slab), Err(Error::Preserved { block: b }));
    assert_eq!(memory.predecessor().label_of(b), Some(FrameType::Slab));
    // Nothing that looks for slabs finds it, before it is claimed and made one.
    let there = memory.machine().ptr(b.addr());
    let slab = BlockMatcher::new(FrameType::Slab, order(2));
    assert_eq!(memory.lookup(there, &slab), None);
    claim_as(&memory, b, FrameType::Slab).unwrap();
    assert_eq!(memory.lookup(there, &slab), None);
    // SAFETY: claimed just now.
    unsafe { memory.predecessor().unclaim_labelled(b, FrameType::Table, FrameType::Slab) }.unwrap();
    assert_eq!(memory.claim_owned(b).err(), Some(no_folio));
    assert_eq!(memory.predecessor().label_of(b), Some(FrameType::Slab));
    claim_as(&memory, b, FrameType::Slab).unwrap();
    assert_eq!(memory.predecessor().label_of(b), None);
    let again = preserve_as(&memory, b, FrameType::Table);
    assert_eq!(again, Err(Error::AlreadyPreserved { block: b }), "a claim leaves it preserved");
    // SAFETY: claimed just now; nothing looks for slabs here.
    unsafe { memory.make_slab(b) }.unwrap();
    assert_eq!(memory.lookup(there, &slab).map(|found| found.head), Some(there));
    unpreserve_as(&memory, b, FrameType::Slab).unwrap();
    assert_eq!(memory.lookup(there, &slab).map(|found| found.head), Some(there));
    // SAFETY: refused, as it is one.
    let again = unsafe { memory.make_slab(b) };
    assert_eq!(
        again,
        Err(Error::WrongType { pfn: b.pfn(), expected: FrameType::Table, found: FrameType::Slab })
    );
    assert_eq!(free(&memory, b, FrameType::Slab), Ok(()));
    // SAFETY: refused, as it is free.
    let gone = unsafe { memory.make_slab(b) };
    assert_eq!(gone, Err(Error::DoubleFree { block: b }));
}

#[test]
fn a_label_is_that_of_a_slab_or_a_table() {
    let memory = Ram::memory(&ranges()).unwrap();
    let [b, other] = [0; 2].map(|_| memory.alloc(Request::new(order(2))).unwrap());
    memory.keep(&[b, other]).unwrap();
    let memory = successor(memory, &ranges());
    for kind in [FrameType::Folio, FrameType::Run, FrameType::Buffer, FrameType::Tail] {
        assert_eq!(label(&memory, b, kind), Err(Error::BadRequest { frames: 4 }), "{kind:?}");
        assert_eq!(memory.predecessor().label_of(b), None);
    }
    let part = Block::containing(b.pfn(), order(1));
    assert_eq!(label(&memory, part, FrameType::Slab), Err(Error::NotPreserved { block: part }));
    memory.claim(b).unwrap();
    assert_eq!(label(&memory, b, FrameType::Slab), Err(Error::NotPreserved { block: b }));
    // What is asked about may get a label, and is its layer's from then on.
    let asked = memory.predecessor().finish(|asked| {
        assert_eq!(asked, other);
        label(&memory, asked, FrameType::Slab).unwrap();
        Disposition::Free
    });
    assert_eq!((asked, memory.predecessor().label_of(other)), ((0, 0), Some(FrameType::Slab)));
    assert_eq!(memory.predecessor().finish(|_| unreachable!("it has a label")), (0, 0));
    claim_as(&memory, other, FrameType::Slab).unwrap();
    unpreserve_as(&memory, other, FrameType::Table).unwrap();
    free(&memory, other, FrameType::Table).unwrap();
    memory.let_go(b).unwrap();
    assert_eq!(label(&memory, b, FrameType::Slab), Err(Error::NotPreserved { block: b }));
    free(&memory, b, FrameType::Folio).unwrap();
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
}

#[test]
fn a_label_is_of_an_order_that_such_things_have() {
    let ranges = Ram::frames((1 << 17) + 200);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks: Vec<_> = (0..=16).map(|o| block(1 << o, o)).collect();
    for b in &blocks {
        memory.alloc_at(*b).unwrap();
    }
    memory.keep(&blocks[..]).unwrap();
    let memory = successor(memory, &ranges);
    for b in &blocks {
        let o = b.order().get();
        let too_large = Error::BadRequest { frames: b.order().frames() };
        for (kind, most) in [(FrameType::Slab, 9), (FrameType::Table, 14)] {
            let done = label(&memory, *b, kind);
            if o > most {
                assert_eq!(
                    (done, memory.predecessor().label_of(*b)),
                    (Err(too_large), None),
                    "{b}, {kind:?}"
                );
                continue;
            }
            assert_eq!(
                (done, memory.predecessor().label_of(*b)),
                (Ok(()), Some(kind)),
                "{b}, {kind:?}"
            );
            // A slab is still to be claimed; a table is taken, and known by its label.
            assert_eq!(memory.predecessor().contains(*b), kind == FrameType::Slab);
            // A label of another order does not speak of this block.
            let half = Order::new(o.wrapping_sub(1)).map(|half| Block::containing(b.pfn(), half));
            assert!(half.is_none_or(|half| memory.predecessor().label_of(half).is_none()));
            let wrong = Error::WrongType { pfn: b.pfn(), expected: FrameType::Folio, found: kind };
            assert_eq!(memory.claim(*b), Err(wrong));
            if kind == FrameType::Table {
                let gone = Error::NotPreserved { block: *b };
                assert_eq!(claim_as(&memory, *b, kind), Err(gone));
                assert!(matches!(
                    unpreserve_as(&memory, *b, kind),
                    Err(Error::NotPreserved { .. })
                ));
                continue;
            }
            claim_as(&memory, *b, kind).unwrap();
            // Without it, for the label after this one.
            // SAFETY: claimed just now, and not written.
            unsafe { memory.unclaim_as(*b, FrameType::Table) }.unwrap();
            assert_eq!(memory.predecessor().label_of(*b), None);
        }
    }
    // What has a label is not asked about: the two largest alone have none.
    assert_eq!(inherited(&memory), blocks[15..]);
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (2, 0));
    memory.audit().unwrap();
}

#[test]
fn a_labelled_block_stays_what_it_is() {
    for disposition in [Disposition::Keep, Disposition::Free] {
        let memory = Ram::memory(&ranges()).unwrap();
        let b = memory.alloc(Request::new(order(2))).unwrap();
        memory.keep(b).unwrap();
        let memory = successor(memory, &ranges());
        label(&memory, b, FrameType::Slab).unwrap();
        let state = memory.state(b.pfn());
        let done = memory.predecessor().finish(|_| disposition);
        // Whatever is decided: it has its label, and can be claimed, here and in the next kernel.
        assert_eq!((done, memory.state(b.pfn())), ((0, 0), state));
        assert_eq!(
            (memory.predecessor().label_of(b), preserved(&memory)),
            (Some(FrameType::Slab), vec![b])
        );
        let no_folio =
            Error::WrongType { pfn: b.pfn(), expected: FrameType::Folio, found: FrameType::Slab };
        assert_eq!(memory.let_go(b), Err(no_folio));
        assert_eq!(memory.claim(b), Err(no_folio));
        let next = successor(memory, &ranges());
        assert_eq!((next.predecessor().label_of(b), inherited(&next)), (None, vec![b]));
    }
}

#[test]
fn a_run_that_is_put_back_is_there_for_the_next_claim() {
    let memory = Ram::memory(&ranges()).unwrap();
    let all =
        memory.alloc_run(21, Request::new(Order::ZERO).frame_type(FrameType::Buffer)).unwrap();
    let no_run =
        Error::WrongType { pfn: all.start(), expected: FrameType::Run, found: FrameType::Buffer };
    assert_eq!(memory.keep(all), Err(no_run));
    // SAFETY: allocated above.
    unsafe { memory.preserve_as(all, FrameType::Buffer) }.unwrap();
    assert_eq!(memory.let_go(all), Err(no_run));
    let memory = successor(memory, &ranges());
    let put_back = |run: Run, kind: FrameType| {
        // SAFETY: what was not claimed so is refused; nobody uses the rest.
        unsafe { memory.unclaim_as(run, kind) }
    };
    assert!(put_back(all, FrameType::Buffer).is_err());
    claim_as(&memory, all, FrameType::Buffer).unwrap();
    let part = Run::new(all.start(), 20).unwrap();
    let wrong = Error::WrongLength { pfn: all.start(), expected: 20, found: 21 };
    assert_eq!(put_back(part, FrameType::Buffer), Err(wrong));
    let wrong =
        Error::WrongType { pfn: all.start(), expected: FrameType::Run, found: FrameType::Buffer };
    assert_eq!(put_back(all, FrameType::Run), Err(wrong));
    let none_is_left = || {
        let bytes = (0..21).map(|i| memory.state(all.start().add(i)).unwrap());
        all.blocks()
            .all(|b| memory.predecessor().contains(b) && memory.predecessor().label_of(b).is_none())
            && bytes.into_iter().all(|state| state == FrameState::Never)
    };
    put_back(all, FrameType::Buffer).unwrap();
    assert!(none_is_left());
    // As a buffer that is held, too.
    memory.claim_buffer(all).unwrap();
    assert!(memory.is_held(all.start()) && !none_is_left());
    assert_eq!(put_back(all, FrameType::Run), Err(no_run));
    put_back(all, FrameType::Buffer).unwrap();
    assert!(none_is_left() && !memory.is_held(all.start()));
    // A claim of all that fails at the last block leaves nothing behind either.
    let last = all.blocks().next_back().unwrap();
    memory.claim(last).unwrap();
    let gone = Err(Error::NotPreserved { block: last });
    assert_eq!(memory.claim(all), gone);
    // SAFETY: claimed above, and not written.
    unsafe { memory.unclaim_as(last, FrameType::Folio) }.unwrap();
    assert!(none_is_left());
    memory.claim(all).unwrap();
    assert_eq!(memory.predecessor().finish(|_| unreachable!("all of it was claimed")), (0, 0));
    memory.let_go(all).unwrap();
    let gone = Error::NotPreserved { block: Block::containing(all.start(), Order::ZERO) };
    assert_eq!(put_back(all, FrameType::Run), Err(gone));
    free_run(&memory, all, FrameType::Run).unwrap();
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
}

#[test]
fn the_trees_own_pages_are_nobodys() {
    let memory = Ram::memory(&ranges()).unwrap();
    let b = memory.alloc(Request::new(Order::ZERO)).unwrap();
    memory.keep(b).unwrap();
    let mut nodes = Vec::new();
    memory
        .preserved()
        .for_each_node(|node| nodes.push(Block::containing(node.addr.pfn(), Order::ZERO)));
    assert!(!nodes.is_empty());
    for block in nodes {
        let no_folio = Error::WrongType {
            pfn: block.pfn(),
            expected: FrameType::Folio,
            found: FrameType::Table,
        };
        assert_eq!(memory.keep(block), Err(no_folio));
        assert_eq!(memory.let_go(block), Err(no_folio));
        let preserved = preserve_as(&memory, block, FrameType::Table);
        assert_eq!(preserved, Err(Error::AlreadyPreserved { block }));
        let let_go = unpreserve_as(&memory, block, FrameType::Table);
        assert_eq!(let_go, Err(Error::NotPreserved { block }));
        let freed = free(&memory, block, FrameType::Table);
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
    let all = memory.alloc_run((1 << 20) + 3, Request::new(order(18))).unwrap();
    memory.keep(all).unwrap();
    let count = preserved(&memory).len();
    let memory = successor(memory, &ranges);
    assert_eq!(memory.predecessor().finish(|_| Disposition::Keep), (0, count as u64));
    let memory = successor(memory, &ranges);
    let largest = all.blocks().max_by_key(|b| b.order()).unwrap();
    assert!(largest.order() > Order::MAX_FOLIO);
    let refused = Error::BadRequest { frames: largest.order().frames() };
    assert_eq!(memory.claim(largest), Err(refused));
    assert_eq!(label(&memory, largest, FrameType::Table), Err(refused));
    assert_eq!(claim_as(&memory, largest, FrameType::Table), Err(refused));
    memory.claim(all).unwrap();
    assert_eq!(memory.run_at(all.start(), FrameType::Run), Ok(all));
    // SAFETY: claimed just now.
    unsafe { memory.unclaim_as(all, FrameType::Run) }.unwrap();
    assert_eq!(inherited(&memory).len(), count);
    for part in all.blocks_up_to(Order::MAX_FOLIO) {
        assert_eq!(memory.state(part.pfn()), Ok(FrameState::Never), "{part}");
    }
    memory.claim(all).unwrap();
    assert_eq!(memory.run_at(all.start(), FrameType::Run), Ok(all));
    assert_eq!(memory.predecessor().finish(|_| unreachable!("all was claimed")), (0, 0));
    memory.let_go(all).unwrap();
    memory.keep(all).unwrap();
    let memory = successor(memory, &ranges);
    // One by one: the largest as a run of its own, another is disposed of.
    memory.claim(largest.run()).unwrap();
    assert_eq!(memory.run_at(largest.pfn(), FrameType::Run), Ok(largest.run()));
    let mut asked = Vec::new();
    let done = memory.predecessor().finish(|b| {
        asked.push(b);
        Disposition::Free
    });
    assert_eq!(done, (count as u64 - 1, 0));
    assert!(asked.len() == count - 1 && !asked.contains(&largest));
    assert_eq!(preserved(&memory), [largest]);
    let memory = successor(memory, &ranges);
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (1, 0));
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
    memory.audit().unwrap();
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
        nodes: memory.preserved().counts().nodes(),
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
        memory.alloc_at(block(frame, o)).unwrap();
    }
    for frame in ROW.0..ROW.0 + ROW.1 {
        memory.alloc_at(block(frame, 0)).unwrap();
    }
    memory.alloc_at(run(STRIP.0, STRIP.1)).unwrap();
    memory
}

fn row() -> FolioRange {
    FolioRange::new(block(ROW.0, 0), ROW.1).unwrap()
}

#[test]
fn out_of_memory_at_any_node_changes_nothing() {
    type Operation = fn(&Memory<Ram>) -> Result<(), Error>;
    let operations: [Operation; 5] = [
        |m| m.preserved().tree_root().map(|_| ()),
        |m| m.keep(block(64, 5)),
        |m| m.keep(block(1500, 0)),
        |m| m.keep(run(STRIP.0, STRIP.1)),
        |m| m.keep(row()),
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
fn a_buffer_is_held_from_birth_or_not_allocated() {
    let alloc = |memory: &Memory<Ram>, frames: u64, node: NodeId| {
        let request = Request::new(Order::ZERO).on(node).strict();
        match Order::for_frames(frames).filter(|order| order.frames() == frames) {
            Some(order) => {
                let block = memory.alloc_held(Request::new(order).on(node).strict())?;
                Ok(block.run())
            }
            None => memory.alloc_held_run(frames, request),
        }
    };
    for (frames, node) in [(1, 0), (1, 1), (2, 0), (4, 1), (3, 0), (5, 1)] {
        let mut left = frames as usize;
        loop {
            let memory = Ram::memory(&ranges()).unwrap();
            // What is left is of one node; nodes of the tree come from the other where it is full.
            let mut rest: Vec<_> = starve(&memory, 0);
            rest.retain(|b| memory.node_of(b.pfn()) == Ok(NodeId(node)));
            // In a row, in whatever order they were handed out.
            rest.sort();
            let whole = rest.iter().position(|b| b.pfn().is_aligned(Order::new(3).unwrap()));
            for b in rest.iter().skip(whole.unwrap()).take(left) {
                free(&memory, *b, FrameType::Folio).unwrap();
            }
            memory.drain();
            let before = snapshot(&memory);
            match alloc(&memory, frames, NodeId(node)) {
                Ok(run) => {
                    assert!(left > frames as usize, "a tree has nodes");
                    assert!(memory.is_held(run.start()));
                    let kept: Vec<_> = run.blocks().collect();
                    assert_eq!(preserved(&memory), kept);
                    let ptr = memory.ptr(run).unwrap();
                    // SAFETY: allocated above; nothing uses it.
                    unsafe { memory.free_buffer(ptr) }.unwrap().unwrap();
                    assert_eq!(preserved(&memory), []);
                    // SAFETY: refused: no buffer starts there any more.
                    assert!(unsafe { memory.free_buffer(ptr) }.is_none());
                    memory.audit().unwrap();
                    break;
                }
                Err(Error::OutOfMemory { .. }) => {
                    assert!(snapshot(&memory) == before, "{frames} {node} {left}");
                }
                Err(other) => panic!("{other}"),
            }
            left += 1;
            assert!(left < 100);
        }
    }
}

#[test]
fn a_buffer_that_is_preserved_or_no_buffer_is_not_freed_as_one() {
    let memory = Ram::memory(&ranges()).unwrap();
    let ptr = |run: Run| memory.ptr(run).unwrap();
    let request = Request::new(Order::ZERO);
    let folio = memory.alloc(request).unwrap().run();
    let run = memory.alloc_run(3, request).unwrap();
    let [one, five] = [1, 5].map(|frames| {
        let buffer = memory.alloc_run(frames, request.frame_type(FrameType::Buffer)).unwrap();
        // SAFETY: allocated just now.
        let named = unsafe { memory.preserve_buffer(ptr(buffer), Ok::<_, Error>) };
        assert_eq!(named, Some(Ok(buffer)));
        buffer
    });
    let before = snapshot(&memory);
    // SAFETY: all of it is refused.
    unsafe {
        for other in [folio, run] {
            assert!(memory.free_buffer(ptr(other)).is_none());
            assert!(memory.unpreserve_buffer(ptr(other)).is_none());
            assert!(memory.preserve_buffer(ptr(other), Ok::<_, Error>).is_none());
        }
        for buffer in [one, five] {
            let block = buffer.blocks().next().unwrap();
            let kept = Err(Error::Preserved { block });
            assert_eq!(memory.free_buffer(ptr(buffer)), Some(kept));
            let twice = memory.preserve_buffer(ptr(buffer), Ok::<_, Error>);
            assert_eq!(twice, Some(Err(Error::AlreadyPreserved { block })));
            let inside = ptr(buffer).add(8);
            assert!(memory.free_buffer(inside).is_none() && memory.buffer_of(inside).is_none());
            assert_eq!(memory.buffer_of(ptr(buffer)), Some(buffer));
        }
        assert!(memory.free_buffer(ptr(five).add(4 * heirloom_kho::PAGE_SIZE)).is_none());
    }
    assert_eq!(snapshot(&memory), before);
    for buffer in [one, five] {
        // SAFETY: allocated above.
        unsafe {
            assert_eq!(memory.unpreserve_buffer(ptr(buffer)), Some(Ok(())));
            let twice = memory.unpreserve_buffer(ptr(buffer));
            assert!(matches!(twice, Some(Err(Error::NotPreserved { .. }))));
            // What has no name is not preserved.
            let nameless = |run: Run| Err::<(), _>(Error::BadRange { run });
            let refused = memory.preserve_buffer(ptr(buffer), nameless);
            assert_eq!(refused, Some(Err(Error::BadRange { run: buffer })));
            assert_eq!(memory.free_buffer(ptr(buffer)), Some(Ok(())));
        }
    }
    assert_eq!(preserved(&memory), []);
}

#[test]
fn many_at_once_are_all_preserved_or_none() {
    let blocks = BLOCKS.map(|(frame, o)| block(frame, o));
    // Memory for nodes ends before each of them. Empty nodes may stay, but nothing else.
    for left in 0.. {
        let memory = furnished();
        starve(&memory, left);
        let before = snapshot(&memory);
        match memory.keep(&blocks[..]) {
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
    let twice = memory.keep(&[a, b, a]);
    assert_eq!(twice, Err(Error::AlreadyPreserved { block: a }));
    memory.keep(&[]).unwrap();
    assert_eq!(preserved(&memory), []);
    memory.keep(&blocks[..]).unwrap();
    memory.let_go(&rest[..]).unwrap();
    let mut kept = [a, b];
    kept.sort();
    assert_eq!(preserved(&memory), kept);
    assert_eq!(memory.let_go(&blocks[..]), Err(Error::NotPreserved { block: rest[0] }));
    assert_eq!(preserved(&memory), kept);
}

#[test]
fn out_of_memory_in_allocating_changes_nothing() {
    type Operation = fn(&Memory<Ram>) -> Result<(), Error>;
    let operations: [Operation; 4] = [
        |m| m.alloc(Request::new(order(3)).zeroed()).map(|_| ()),
        |m| m.alloc_run(13, Request::new(Order::ZERO)).map(|_| ()),
        |m| m.alloc_at(run(100, 9)),
        |m| grow_run(m, run(STRIP.0, STRIP.1), STRIP.1 + 9, FrameType::Run).map(|_| ()),
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
fn a_takeover_needs_no_memory() {
    let memory = furnished();
    for (frame, o) in BLOCKS {
        memory.keep(block(frame, o)).unwrap();
    }
    memory.keep(row()).unwrap();
    memory.keep(run(STRIP.0, STRIP.1)).unwrap();
    let all = preserved(&memory);
    let nodes = memory.preserved().counts().nodes();
    let memory = successor(memory, &ranges());
    let taken = starve(&memory, 0);
    let before = snapshot(&memory);
    assert_eq!((before.preserved.clone(), before.inherited.clone()), (all.clone(), all.clone()));
    label(&memory, block(256, 3), FrameType::Slab).unwrap();
    claim_as(&memory, block(256, 3), FrameType::Slab).unwrap();
    memory.claim(block(64, 5)).unwrap();
    memory.claim(run(STRIP.0, STRIP.1)).unwrap();
    for b in blocks_of(row()) {
        memory.claim(b).unwrap();
    }
    let left: Vec<_> = [block(300, 0), block(1152, 6), block(1500, 0)].into();
    assert_eq!((preserved(&memory), inherited(&memory)), (all, left.clone()));
    // Kept is as it was; again and again.
    for _ in 0..2 {
        assert_eq!(memory.predecessor().finish(|_| Disposition::Keep), (0, 3));
        assert_eq!(inherited(&memory), left);
    }
    assert_eq!(memory.preserved().counts().nodes(), nodes);
    let part = |b: Block| if b.order() == order(6) { Disposition::Free } else { Disposition::Keep };
    assert_eq!(memory.predecessor().finish(part), (1, 2));
    assert_eq!(memory.predecessor().finish(part), (0, 2));
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (2, 0));
    assert_eq!(memory.predecessor().finish(|_| unreachable!("nothing is left")), (0, 0));
    let owned: u64 = 32 + 8 + STRIP.1 + ROW.1;
    let stats = memory.stats();
    assert_eq!((stats.preserved, stats.used()), (owned, owned + nodes + taken.len() as u64));
    let kept = preserved(&memory);
    let next = successor(memory, &ranges());
    assert_eq!(
        (inherited(&next), next.preserved().counts().nodes()),
        (kept.clone(), nodes_of(&kept))
    );
}

fn blocks_of(row: FolioRange) -> impl Iterator<Item = Block> {
    (0..row.count()).map(move |i| {
        let order = row.first().order();
        Block::new(row.first().pfn().add(i << order.get()), order).unwrap()
    })
}

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

#[test]
fn disposal_beside_walks_and_claims_on_one_thread() {
    let memory = Ram::memory(&ranges()).unwrap();
    let mut kept = [0; 4].map(|_| memory.alloc(Request::new(order(1))).unwrap());
    kept.sort();
    memory.keep(&kept[..]).unwrap();
    let memory = successor(memory, &ranges());
    // A walk does not keep anything from going.
    let mut asked = 0;
    memory.predecessor().for_each(|b| {
        assert_eq!(b, kept[0]);
        assert_eq!(
            memory.predecessor().finish(|b| if b == kept[3] {
                Disposition::Keep
            } else {
                Disposition::Free
            }),
            (3, 1)
        );
        asked += 1;
        if asked == 1 {
            assert_eq!(memory.claim(kept[0]), Err(Error::NotPreserved { block: b }));
            memory.claim(kept[3]).unwrap();
        }
    });
    assert_eq!(asked, 1, "the others are disposed of or claimed");
    assert_eq!(memory.claim(kept[1]), Err(Error::NotPreserved { block: kept[1] }));
    assert!(
        !memory.predecessor().contains(kept[1])
            && memory.predecessor().block_at(kept[1].pfn()).is_none()
    );
    // SAFETY: claimed above, and not written.
    unsafe { memory.unclaim_as(kept[3], FrameType::Folio) }.unwrap();
    assert_eq!(inherited(&memory), [kept[3]]);
    // SAFETY: refused: there is no claim to take back.
    let undone = unsafe { memory.unclaim_as(kept[3], FrameType::Folio) };
    assert!(undone.is_err() && memory.predecessor().contains(kept[3]));
    memory.claim(kept[3]).unwrap();
    memory.let_go(kept[3]).unwrap();
    // SAFETY: refused: it was let go.
    let undone = unsafe { memory.unclaim_as(kept[3], FrameType::Folio) };
    assert_eq!(undone, Err(Error::NotPreserved { block: kept[3] }));
    assert_eq!(free(&memory, kept[3], FrameType::Folio), Ok(()));
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
}

#[test]
fn a_fate_that_panics_leaves_the_rest_to_be_claimed() {
    let memory = Ram::memory(&ranges()).unwrap();
    let mut left = [0; 3].map(|_| memory.alloc(Request::new(order(1))).unwrap());
    left.sort();
    memory.keep(&left[..]).unwrap();
    let memory = successor(memory, &ranges());
    let mut asked = 0;
    let decide = std::panic::AssertUnwindSafe(|| {
        memory.predecessor().finish(|_| {
            asked += 1;
            assert!(asked < 2, "the second is not decided");
            Disposition::Free
        })
    });
    assert!(std::panic::catch_unwind(decide).is_err());
    assert_eq!(inherited(&memory), left[1..]);
    memory.claim(left[1]).unwrap();
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (1, 0));
    assert_eq!(free(&memory, left[1], FrameType::Folio), Err(Error::Preserved { block: left[1] }));
    memory.let_go(left[1]).unwrap();
    assert_eq!(free(&memory, left[1], FrameType::Folio), Ok(()));
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
}
