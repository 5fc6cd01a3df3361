//! Running out of memory, at every frame that an operation asks for, changes nothing.

use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Error, FrameState, FrameType, Memory, NodeId, Request};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Run};

use super::common::owned::Owned as _;
use super::common::{block, claim_as, free, grow_run, label, nodes_of, order, run, starve};
use super::{blocks_of, inherited, preserved, ranges, snapshot, successor};

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
