//! The page allocator against a simple model: a list of who owns which frames.

#![cfg(feature = "std")]

mod common;

use common::owned::Owned as _;
use common::{
    add_range, base, block, check, check_zeroes, free, free_run, grow_run, order, preserve_as,
    shrink_run, unpreserve_as, write,
};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Error, FrameState, FrameType, Memory, NodeId, Request};
use heirloom_kho::{Block, Order, Pfn, Run};
use proptest::prelude::*;

/// Two nodes, a hole between them, frames that do not start at a round number.
fn two_nodes() -> Memory<Ram> {
    let low = Run::new(base().add(5), 700).unwrap();
    let high = Run::new(base().add(1024), 1000).unwrap();
    Ram::memory(&[(low, NodeId(0)), (high, NodeId(1))]).unwrap()
}

#[test]
fn every_misuse_of_free_is_told_apart() {
    let memory = Ram::memory(&Ram::frames(4096)).unwrap();
    let free = |block, kind| free(&memory, block, kind);
    let b = memory.alloc(Request::new(order(3))).unwrap();
    let pfn = b.pfn();

    let smaller = Block::new(pfn, order(1)).unwrap();
    let wrong = Error::WrongOrder { pfn, expected: order(1), found: order(3) };
    assert_eq!(free(smaller, FrameType::Folio), Err(wrong));
    let wrong = Error::WrongType { pfn, expected: FrameType::Slab, found: FrameType::Folio };
    assert_eq!(free(b, FrameType::Slab), Err(wrong));
    let tail = Block::new(pfn.add(4), order(2)).unwrap();
    let inside = Error::TailFrame { pfn: pfn.add(4), of: b };
    assert_eq!(free(tail, FrameType::Folio), Err(inside));
    memory.keep(b).unwrap();
    assert_eq!(free(b, FrameType::Folio), Err(Error::Preserved { block: b }));
    memory.let_go(b).unwrap();
    assert_eq!(free(b, FrameType::Folio), Ok(()));
    assert_eq!(free(b, FrameType::Folio), Err(Error::DoubleFree { block: b }));
    let never = block(4000, 0);
    assert_eq!(free(never, FrameType::Folio), Err(Error::NeverAllocated { pfn: never.pfn() }));
    let outside = Block::new(Pfn::new(1), Order::ZERO).unwrap();
    assert_eq!(free(outside, FrameType::Folio), Err(Error::NotMemory { pfn: Pfn::new(1) }));

    let run = memory.alloc_run(7, Request::new(Order::ZERO)).unwrap();
    let short = Run::new(run.start(), 6).unwrap();
    let length = Error::WrongLength { pfn: run.start(), expected: 6, found: 7 };
    assert_eq!(free_run(&memory, short, FrameType::Run), Err(length));
    assert!(matches!(
        free(Block::new(run.start(), order(2)).unwrap(), FrameType::Folio),
        Err(Error::WrongType { found: FrameType::Run, .. })
    ));
    let inner = Block::new(run.start().add(4), order(1)).unwrap();
    assert!(matches!(free(inner, FrameType::Folio), Err(Error::TailFrame { .. })));
    assert_eq!(free_run(&memory, run, FrameType::Run), Ok(()));
    assert!(matches!(free_run(&memory, run, FrameType::Run), Err(Error::DoubleFree { .. })));
    assert_eq!(
        memory.stats().used(),
        memory.preserved().counts().nodes(),
        "only the tracker's nodes are left"
    );
}

#[test]
fn kinds_and_orders_that_cannot_be_are_told_apart() {
    let start = Pfn::new(1 << 20);
    let memory = Ram::memory(&[(Run::new(start, 64).unwrap(), NodeId(0))]).unwrap();
    let (b, huge) = (Block::containing(start, Order::ZERO), Block::containing(start, order(19)));
    memory.alloc_at(b).unwrap();
    let wrong = Error::WrongOrder { pfn: huge.pfn(), expected: order(19), found: Order::ZERO };
    assert_eq!(free(&memory, huge, FrameType::Folio), Err(wrong));
    let no_run = Err(Error::BadRequest { frames: 1 });
    assert_eq!(free_run(&memory, b.run(), FrameType::Folio), no_run);
    assert_eq!(preserve_as(&memory, b.run(), FrameType::Folio), no_run);
    memory.keep(b).unwrap();
    assert_eq!(unpreserve_as(&memory, b.run(), FrameType::Folio), no_run);
    assert!(memory.preserved().contains(b));
}

#[test]
fn ranges_that_meet_within_a_word_stay_apart() {
    let low = Run::new(base(), 33).unwrap();
    let high = Run::new(base().add(33), 95).unwrap();
    let memory = Ram::memory(&[(low, NodeId(0)), (high, NodeId(0))]).unwrap();
    let all: Vec<_> =
        (0..128).map(|_| memory.alloc_folio(Request::new(Order::ZERO)).unwrap()).collect();
    drop(all);
    memory.drain();
    // 32 + 1 frames, and 1 + 2 + 4 + 8 + 16 + 64.
    assert_eq!(memory.stats().free_blocks[..7], [2, 1, 1, 1, 1, 1, 1]);
    for o in 0..6 {
        let mut taken = Vec::new();
        while let Ok(folio) = memory.alloc_folio(Request::new(order(o))) {
            assert!(memory.contains(folio.extent().run()), "{folio:?} lies in two ranges");
            taken.push(folio);
        }
    }
    assert_eq!(memory.audit().unwrap().free + memory.stats().cached, 128);
}

#[test]
fn preserved_neighbours_on_two_nodes_count_for_each() {
    let low = Run::new(base(), 64).unwrap();
    let high = Run::new(base().add(64), 64).unwrap();
    let memory = Ram::memory(&[(low, NodeId(0)), (high, NodeId(1))]).unwrap();
    for frame in 62..67 {
        memory.alloc_at(block(frame, 0)).unwrap();
        memory.keep(block(frame, 0)).unwrap();
    }
    let preserved = |node| memory.node_stats(NodeId(node)).preserved;
    assert_eq!((preserved(0), preserved(1), memory.stats().preserved), (2, 3, 5));
}

#[test]
fn a_run_has_exactly_the_frames_asked_for() {
    let memory = Ram::memory(&Ram::frames(1 << 15)).unwrap();
    for frames in [1, 2, 3, 5, 7, 100, 513, 4097, 20_000] {
        let before = memory.stats();
        let run = memory.alloc_owned_run(frames, Request::new(Order::ZERO)).unwrap();
        assert_eq!(run.extent().frames(), frames);
        assert_eq!(memory.stats().used(), before.used() + frames);
        assert_eq!(memory.run_at(run.extent().start(), FrameType::Run), Ok(run.extent()));
        let last = run.extent().start().add(frames - 1);
        assert_eq!(memory.owning_block(last), Some((run.extent(), FrameType::Run, false)));
        drop(run);
        assert_eq!(memory.stats().used(), before.used());
    }
}

#[test]
fn a_run_is_found_where_no_aligned_block_is_free() {
    let low = Run::new(base().add(3), 150).unwrap();
    let high = Run::new(base().add(1024), 1000).unwrap();
    let memory = Ram::memory(&[(low, NodeId(0)), (high, NodeId(1))]).unwrap();
    let request = Request::new(Order::ZERO).frame_type(FrameType::Run);
    let all = memory.alloc_run(150, request.on(NodeId(0)).strict()).unwrap();
    assert_eq!(all, low);
    assert_eq!(
        memory.alloc_run(1, request.on(NodeId(0)).strict()),
        Err(Error::NoRun { frames: 1 })
    );
    let most = memory.alloc_run(999, request).unwrap();
    assert_eq!(memory.node_of(most.start()), Ok(NodeId(1)));
    assert_eq!(memory.alloc_run(2, request), Err(Error::NoRun { frames: 2 }));
    for run in [all, most] {
        assert_eq!(memory.run_at(run.start(), FrameType::Run), Ok(run));
        free_run(&memory, run, FrameType::Run).unwrap();
    }
    let aligned = memory.alloc_run(700, Request::new(order(5))).unwrap();
    assert!(aligned.start().is_aligned(order(5)));
    assert_eq!(memory.stats().used(), 700);
}

#[test]
fn runs_grow_and_shrink_in_place() {
    let memory = Ram::memory(&Ram::frames(256)).unwrap();
    let run = memory.alloc_run(5, Request::new(order(6)).frame_type(FrameType::Buffer)).unwrap();
    let grown = grow_run(&memory, run, 40, FrameType::Buffer).unwrap();
    assert_eq!((grown.start(), grown.frames()), (run.start(), 40));
    let next = Run::new(grown.end(), 1).unwrap();
    memory.alloc_at(next).unwrap();
    let more = Run::new(grown.end(), 1).unwrap();
    let refused = grow_run(&memory, grown, 41, FrameType::Buffer);
    assert_eq!(refused, Err(Error::NotFree { run: more }));
    let shrunk = shrink_run(&memory, grown, 3, FrameType::Buffer).unwrap();
    assert_eq!(memory.run_at(run.start(), FrameType::Buffer), Ok(shrunk));
    assert_eq!(memory.stats().used(), 4);
}

#[test]
fn nodes_are_kept_apart_and_fall_back_unless_strict() {
    let memory = two_nodes();
    let on_1 = Request::new(Order::ZERO).on(NodeId(1));
    let mut taken = Vec::new();
    while let Ok(b) = memory.alloc(on_1.strict()) {
        assert_eq!(memory.node_of(b.pfn()), Ok(NodeId(1)));
        taken.push(b);
    }
    assert_eq!(taken.len(), 1000);
    let none = Error::OutOfMemory { order: Order::ZERO, node: Some(NodeId(1)) };
    assert_eq!(memory.alloc(on_1.strict()), Err(none));
    let elsewhere = memory.alloc(on_1).unwrap();
    assert_eq!(memory.node_of(elsewhere.pfn()), Ok(NodeId(0)));
    assert_eq!(memory.node_stats(NodeId(1)).used(), 1000);
    let (low, all) = (memory.node_stats(NodeId(0)), memory.stats());
    assert_eq!(low.free() + low.cached + low.used(), 700);
    assert_eq!(all.free() + all.cached + all.used(), 1700);
    for b in taken {
        free(&memory, b, FrameType::Folio).unwrap();
    }
    assert_eq!(memory.node_stats(NodeId(1)).used(), 0);
}

#[test]
fn a_range_added_later_is_used() {
    let low = Run::new(base(), 64).unwrap();
    let high = Run::new(base().add(100), 64).unwrap();
    let both = [(low, NodeId(0)), (high, NodeId(0))];
    let memory = Ram::over(&both).attach(&both[..1]).unwrap();
    let all: Vec<_> =
        (0..64).map(|_| memory.alloc_folio(Request::new(Order::ZERO)).unwrap()).collect();
    assert!(memory.alloc_folio(Request::new(Order::ZERO)).is_err());
    let bytes = Memory::<Ram>::range_bytes(high);
    let overlapping = Run::new(base().add(63), 10).unwrap();
    let refused = add_range(&memory, overlapping, NodeId(0), bytes);
    assert_eq!(refused, Err(Error::RangeOverlaps { run: overlapping, with: low }));
    add_range(&memory, high, NodeId(0), bytes).unwrap();
    let more: Vec<_> =
        (0..64).map(|_| memory.alloc_folio(Request::new(Order::ZERO)).unwrap()).collect();
    assert!(more.iter().all(|f| high.contains(f.extent().pfn())));
    drop((all, more));
    assert_eq!(memory.stats().used(), 0);
}

#[test]
fn zeroed_means_zeroed() {
    let memory = Ram::memory(&Ram::frames(16)).unwrap();
    let mut f = memory.alloc_folio(Request::new(order(4))).unwrap();
    f.bytes_mut().fill(0xa5);
    drop(f);
    let f = memory.alloc_folio(Request::new(order(4)).zeroed()).unwrap();
    assert!(f.bytes().iter().all(|b| *b == 0));
}

#[test]
fn metadata_costs_what_is_promised() {
    // From 64 MiB of the smallest pages on.
    for frames in [1 << 14, 1 << 18, 1 << 28] {
        let bytes = Memory::<Ram>::range_bytes(Run::new(base(), frames).unwrap());
        assert!(bytes as u64 * 10 <= frames * 13, "{bytes} bytes for {frames} frames");
    }
}

#[test]
fn too_little_space_is_refused() {
    let ranges = Ram::frames(64);
    let memory = Ram::over(&ranges).attach(&[]).unwrap();
    let needed = Memory::<Ram>::range_bytes(ranges[0].0) - 64;
    let refused = add_range(&memory, ranges[0].0, NodeId(0), needed - 1);
    assert!(matches!(refused, Err(Error::BadSpace { .. })), "{refused:?}");
}

// Five of the largest folios: no heap promises the 80 GiB that they are of 64 KiB frames.
#[cfg(not(heirloom_page = "64k"))]
#[test]
fn the_largest_folio_and_runs_beyond_it() {
    // Never touched, so the frames cost only the metadata.
    let memory = Ram::memory(&Ram::frames(5 << 18)).unwrap();
    let largest = memory.alloc_folio(Request::new(Order::MAX_FOLIO)).unwrap();
    let run = memory.alloc_run((3 << 18) - 5, Request::new(Order::ZERO)).unwrap();
    assert_eq!(memory.stats().used(), (1 << 18) + (3 << 18) - 5);
    memory.keep(run).unwrap();
    assert_eq!(memory.stats().preserved, run.frames());
    memory.let_go(run).unwrap();
    free_run(&memory, run, FrameType::Run).unwrap();
    drop(largest);
    let nodes = memory.preserved().counts().nodes();
    assert_eq!(memory.stats().used(), nodes);
}

#[derive(Clone, Debug)]
enum Op {
    Alloc(u8, bool),
    Run(u64, u8),
    At(u64, u8),
    Free(usize),
    Preserve(usize),
    Shrink(usize, u64),
    Grow(usize, u64),
    Drain,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0_u8..9, any::<bool>()).prop_map(|(o, z)| Op::Alloc(o, z)),
        3 => (1_u64..200, 0_u8..4).prop_map(|(n, a)| Op::Run(n, a)),
        1 => (0_u64..2200, 0_u8..6).prop_map(|(p, o)| Op::At(p, o)),
        8 => any::<usize>().prop_map(Op::Free),
        3 => any::<usize>().prop_map(Op::Preserve),
        1 => (any::<usize>(), 0_u64..200).prop_map(|(i, n)| Op::Shrink(i, n)),
        1 => (any::<usize>(), 0_u64..200).prop_map(|(i, n)| Op::Grow(i, n)),
        1 => Just(Op::Drain),
    ];
    prop::collection::vec(op, 1..300)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Live {
    run: Run,
    kind: FrameType,
    preserved: bool,
    stamp: u64,
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x666f_6c69),
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_a_list_of_owners(ops in ops()) {
        let memory = two_nodes();
        let mut live: Vec<Live> = Vec::new();
        let mut stamp = 0_u64;
        for op in ops {
            let mut new = None;
            match op {
                Op::Alloc(o, zeroed) => {
                    let request = Request::new(order(o));
                    let request = if zeroed { request.zeroed() } else { request };
                    if let Ok(b) = memory.alloc(request) {
                        prop_assert_eq!(b.order(), order(o));
                        new = Some((b.run(), FrameType::Folio));
                        if zeroed {
                            check_zeroes(&memory, b.run());
                        }
                    }
                }
                Op::Run(n, align) => {
                    let request = Request::new(order(align)).frame_type(FrameType::Run);
                    if let Ok(run) = memory.alloc_run(n, request) {
                        prop_assert_eq!(run.frames(), n);
                        prop_assert!(run.start().is_aligned(order(align)));
                        new = Some((run, FrameType::Run));
                    } else {
                        let mut taken: Vec<Run> = live.iter().map(|l| l.run).collect();
                        memory.preserved().for_each_node(|node| taken.extend(Run::new(node.addr.pfn(), 1)));
                        let fits = memory.ranges().any(|(range, _)| {
                            let starts = range.start().get()..range.end().get();
                            starts.filter_map(|s| Run::new(Pfn::new(s), n)).any(|run| {
                                run.start().is_aligned(order(align))
                                    && range.covers(run)
                                    && taken.iter().all(|t| !t.overlaps(run))
                            })
                        });
                        prop_assert!(!fits, "{} frames are free in a row", n);
                    }
                }
                Op::At(p, o) => {
                    let b = Block::containing(base().add(p), order(o));
                    let taken = live.iter().any(|l| l.run.overlaps(b.run()));
                    let nodes_there = {
                        let mut any = false;
                        memory.preserved().for_each_node(|node| any |= b.run().contains(node.addr.pfn()));
                        any
                    };
                    let got = memory.alloc_at(b);
                    let memory_there = memory.contains(b.run());
                    prop_assert_eq!(got.is_ok(), memory_there && !taken && !nodes_there, "{:?}", got);
                    if got.is_ok() {
                        new = Some((b.run(), FrameType::Folio));
                    }
                }
                Op::Free(i) if !live.is_empty() => {
                    let it = live[i % live.len()];
                    check(&memory, it.run, it.stamp);
                    let freed = match it.kind {
                        FrameType::Run => free_run(&memory, it.run, it.kind),
                        _ => free(&memory, it.run.blocks().next().unwrap(), it.kind),
                    };
                    if it.preserved {
                        let preserved = matches!(freed, Err(Error::Preserved { .. }));
                        prop_assert!(preserved, "{:?}", freed);
                    } else {
                        prop_assert_eq!(freed, Ok(()));
                        live.swap_remove(i % live.len());
                    }
                }
                Op::Preserve(i) if !live.is_empty() => {
                    let at = i % live.len();
                    let it = &mut live[at];
                    let b = it.run.blocks().next().unwrap();
                    let done = match (it.kind, it.preserved) {
                        (FrameType::Run, false) => memory.keep(it.run),
                        (FrameType::Run, true) => memory.let_go(it.run),
                        (_, false) => memory.keep(b),
                        (_, true) => memory.let_go(b),
                    };
                    match done {
                        Ok(()) => it.preserved = !it.preserved,
                        Err(Error::OutOfMemory { .. }) => {}
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                }
                Op::Shrink(i, n) | Op::Grow(i, n) if !live.is_empty() => {
                    let grow = matches!(op, Op::Grow(..));
                    let at = i % live.len();
                    let it = live[at];
                    let n = if grow { it.run.frames() + n } else { n };
                    let resize = if grow { grow_run } else { shrink_run };
                    let result = resize(&memory, it.run, n, FrameType::Run);
                    let may = it.kind == FrameType::Run && !it.preserved;
                    if let Ok(run) = result {
                        // The frames that were there before are as they were.
                        check(&memory, if grow { it.run } else { run }, it.stamp);
                        prop_assert!(may && run.frames() == n && run.start() == it.run.start());
                        live[at].run = run;
                        write(&memory, run, it.stamp);
                    } else if may {
                        prop_assert!(grow || n == 0 || n > it.run.frames(), "{result:?}");
                    }
                }
                Op::Drain => {
                    memory.drain();
                    prop_assert_eq!(memory.stats().cached, 0);
                }
                _ => {}
            }
            if let Some((run, kind)) = new {
                stamp += 1 << 32;
                let it = Live { run, kind, preserved: false, stamp };
                prop_assert!(live.iter().all(|l| !l.run.overlaps(run)), "{run} has two owners");
                write(&memory, run, stamp);
                live.push(it);
            }
            let stats = memory.stats();
            let owned: u64 = live.iter().map(|l| l.run.frames()).sum();
            prop_assert_eq!(stats.used(), owned + memory.preserved().counts().nodes());
            prop_assert_eq!(stats.free() + stats.cached + stats.used(), 1700);
            let preserved = live.iter().filter(|l| l.preserved).map(|l| l.run.frames());
            prop_assert_eq!(stats.preserved, preserved.sum::<u64>());
        }
        let audit = memory.audit().unwrap();
        prop_assert_eq!(audit.free + audit.cached + audit.reserved + audit.allocated.iter().sum::<u64>(), 1700);
        prop_assert_eq!(audit.reserved, 0);
        for it in &live {
            let state = memory.state(it.run.start()).unwrap();
            let FrameState::Head { kind, preserved, .. } = state else {
                panic!("{state:?}");
            };
            prop_assert_eq!((kind, preserved), (it.kind, it.preserved));
        }
    }
}
