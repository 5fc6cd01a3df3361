//! What survives, from one kernel to the next on one machine.

#![cfg(feature = "std")]

#[path = "../common/mod.rs"]
mod common;
mod exhausted;
mod generations;
mod labels;

use common::owned::Owned as _;
use common::{base, block, claim_as, free, free_run, order, preserve_as, run, unpreserve_as};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Error, FrameState, FrameType, Memory, NodeId, Request};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Pfn, Run};

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

fn blocks_of(row: FolioRange) -> impl Iterator<Item = Block> {
    (0..row.count()).map(move |i| {
        let order = row.first().order();
        Block::new(row.first().pfn().add(i << order.get()), order).unwrap()
    })
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
    assert_eq!(common::label(&memory, largest, FrameType::Table), Err(refused));
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
