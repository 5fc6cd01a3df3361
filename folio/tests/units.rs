//! Units at their ends: every constructor and every safe call with frames, addresses, orders and
//! lengths up to the last and beyond gives the answer that arithmetic without a limit gives, or
//! refuses. What is expected is reckoned here with 128 bits, so the same holds where overflow is
//! not checked.

mod common;

use std::ops::RangeInclusive;

use common::owned::Owned as _;
use common::{base, claim_as, order, preserve_as, unpreserve_as};
use heirloom_folio::harness::Ram;
use heirloom_folio::internal::BlockMatcher;
use heirloom_folio::{CpuId, Disposition, Error, FrameType, Memory, NodeId, Request, Stats};
use heirloom_kho::tree::{FolioRange, FramesOf, Geometry, Key, Tree};
use heirloom_kho::{Block, Order, PAGE_SHIFT, PAGE_SIZE, Pages, Pfn, PhysAddr, Run};

const LIMIT: u64 = Pfn::LIMIT.get();
const FRAMES: u64 = 512;
const ORDERS: RangeInclusive<u8> = 0..=63;
const KINDS: [FrameType; 6] = [
    FrameType::Folio,
    FrameType::Run,
    FrameType::Slab,
    FrameType::Buffer,
    FrameType::Table,
    FrameType::Tail,
];

/// Numbers at which something ends, none of them a frame of the memory.
fn ends() -> Vec<u64> {
    let mut ends = vec![base().get() - 1, base().get() + FRAMES];
    for middle in [0, 64, 1 << 18, LIMIT / 2, LIMIT - 64, LIMIT, 1 << 52, 1 << 60, 1 << 63] {
        ends.extend([middle, middle.wrapping_sub(1), middle + 1]);
    }
    ends.extend([u64::MAX - 1, (1 << 52) | base().get(), (1 << 63) | base().get()]);
    // With some page sizes the memory begins at one of them.
    ends.retain(|&n| !(base().get()..base().get() + FRAMES).contains(&n));
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn orders() -> Vec<Order> {
    let orders: Vec<_> = ORDERS.filter_map(Order::new).collect();
    assert_eq!(orders.len(), 64 - PAGE_SHIFT as usize);
    orders
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for (pfn, order) in ends().into_iter().flat_map(|n| orders().into_iter().map(move |o| (n, o))) {
        blocks.push(Block::containing(Pfn::new(pfn), order));
        blocks.extend(Block::new(Pfn::new(pfn), order));
    }
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

fn runs() -> Vec<Run> {
    let pairs = || ends().into_iter().flat_map(|a| ends().into_iter().map(move |b| (a, b)));
    let mut runs: Vec<_> = pairs().filter_map(|(a, b)| Run::new(Pfn::new(a), b)).collect();
    runs.extend(pairs().filter_map(|(a, b)| Run::between(Pfn::new(a), Pfn::new(b))));
    runs.extend(pairs().filter_map(|(a, b)| Run::covering(PhysAddr::new(a), b)));
    runs.extend(blocks().into_iter().map(Block::run));
    runs.sort_unstable_by_key(|run| (run.start(), run.frames()));
    runs.dedup();
    runs
}

/// The frames from the first up to the end, without a limit.
fn span(run: Run) -> (u128, u128) {
    let start = u128::from(run.start().get());
    (start, start + u128::from(run.frames()))
}

#[test]
fn addresses_frames_and_orders() {
    for n in ends() {
        let (addr, pfn) = (PhysAddr::new(n), Pfn::new(n));
        assert_eq!(addr.pfn().get(), n / PAGE_SIZE as u64);
        assert_eq!(addr.offset_in_page() as u64, n % PAGE_SIZE as u64);
        let bytes = u128::from(n) * PAGE_SIZE as u128;
        assert_eq!(pfn.addr().get(), u64::try_from(bytes).unwrap_or(u64::MAX), "{n:#x}");
        for m in ends() {
            assert_eq!(addr.checked_add(m).map(PhysAddr::get), n.checked_add(m));
            assert_eq!(pfn.add(m).get(), n.saturating_add(m));
        }
        for order in orders() {
            let frames = 1_u128 << order.get();
            assert_eq!(u128::from(order.frames()), frames);
            assert_eq!(u128::from(order.bytes()), frames * PAGE_SIZE as u128);
            assert_eq!(u128::from(pfn.align_down(order).get()), u128::from(n) / frames * frames);
            assert_eq!(pfn.is_aligned(order), u128::from(n).is_multiple_of(frames));
        }
        let fits = |order: &&Order| u128::from(n) <= 1 << order.get();
        let least = orders().iter().find(fits).copied().filter(|_| n != 0);
        assert_eq!(Order::for_frames(n), least, "{n:#x}");
    }
    for n in ORDERS {
        assert_eq!(Order::new(n).is_some(), u32::from(n) < 64 - PAGE_SHIFT);
    }
}

#[test]
fn blocks_and_their_keys() {
    for block in blocks() {
        let (start, end) = span(block.run());
        assert!(start.is_multiple_of(1 << block.order().get()) && end <= u128::from(LIMIT));
        assert_eq!(end - start, 1 << block.order().get());
        assert_eq!(u128::from(block.addr().get()), start * PAGE_SIZE as u128);
        assert_eq!(Key::of(block).block(), Some(block));
    }
    let mut keys: Vec<_> = blocks().into_iter().map(Key::of).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), blocks().len(), "no two blocks have one key");
    for (n, order) in ends().into_iter().flat_map(|n| orders().into_iter().map(move |o| (n, o))) {
        let (pfn, frames) = (Pfn::new(n), 1 << order.get());
        let there = n < LIMIT && n % frames == 0;
        assert_eq!(Block::new(pfn, order).is_some(), there, "{n:#x} {order}");
        let around = Block::containing(pfn, order);
        assert_eq!(around.run().contains(pfn), n < LIMIT, "{n:#x} {order}");
        assert_eq!(around.pfn().get(), n.min(LIMIT - 1) / frames * frames);
        let key = Key::new(n);
        assert!(key.block().is_none_or(|block| Key::of(block) == key));
        for level in 0..Geometry::BUILD.levels {
            assert!(key.index(level) < PAGE_SIZE * 8);
        }
    }
    for shift in [0, 3, 11, 12, 16, 17, 63, 64, u32::MAX] {
        assert_eq!(Geometry::new(shift), Geometry::new(shift.clamp(12, 16)));
    }
}

#[test]
fn runs_and_their_blocks() {
    for run in runs() {
        let (start, end) = span(run);
        assert!(end <= u128::from(LIMIT));
        assert_eq!(u128::from(run.end().get()), end);
        let bytes = (end - start) * PAGE_SIZE as u128;
        assert_eq!(run.bytes(), u64::try_from(bytes).unwrap_or(u64::MAX));
        for limit in [Order::ZERO, order(3), Order::MAX_FOLIO, Order::MAX] {
            let mut at = start;
            for block in run.blocks_up_to(limit).take(300) {
                assert_eq!(u128::from(block.pfn().get()), at);
                assert!(block.order() <= limit && run.covers(block.run()));
                at += 1 << block.order().get();
            }
            assert!(at == end || limit < Order::MAX);
        }
        for n in ends() {
            let pfn = u128::from(n);
            assert_eq!(run.contains(Pfn::new(n)), start <= pfn && pfn < end, "{run} {n:#x}");
        }
        if let Some(words) = FramesOf::words(run) {
            assert!(words as u128 <= (end - start) / 64 * 3 + 6);
        }
        for other in runs().into_iter().step_by(7) {
            let (from, to) = span(other);
            assert_eq!(run.covers(other), start <= from && to <= end);
            let common = end.min(to).saturating_sub(start.max(from));
            assert_eq!(u128::from(run.common(other)), common);
            assert_eq!(run.overlaps(other), common > 0);
        }
    }
    for (a, b) in ends().into_iter().flat_map(|a| ends().into_iter().map(move |b| (a, b))) {
        let (from, more) = (u128::from(a), u128::from(b));
        let fits = from + more <= u128::from(LIMIT);
        assert_eq!(Run::new(Pfn::new(a), b).is_some(), fits);
        let between = from <= more && more <= u128::from(LIMIT);
        assert_eq!(Run::between(Pfn::new(a), Pfn::new(b)).is_some(), between);
        assert_eq!(Run::covering(PhysAddr::new(a), b).is_some(), from + more < 1 << 64);
    }
}

#[test]
fn rows_of_folios() {
    for first in blocks() {
        for count in ends() {
            let end = u128::from(first.pfn().get()) + (u128::from(count) << first.order().get());
            let row = FolioRange::new(first, count);
            assert_eq!(row.is_some(), end <= u128::from(LIMIT), "{count:#x} from {first}");
            if let Some(row) = row {
                assert_eq!(u128::from(row.run().end().get()), end);
            }
        }
    }
}

/// Everything that can be asked of a memory without owning anything, about frames that it has not.
fn ask(memory: &Memory<Ram>) {
    let here = Run::new(base(), FRAMES).unwrap();
    for block in blocks() {
        assert!(!here.covers(block.run()));
        let (pfn, run) = (block.pfn(), block.run());
        assert!(
            !memory.preserved().contains(block) && !memory.predecessor().contains(block),
            "{block}"
        );
        assert!(here.contains(pfn) || memory.predecessor().label_of(block).is_none(), "{block}");
        assert!(memory.keep(block).is_err() && memory.let_go(block).is_err());
        assert!(memory.keep(&[block]).is_err());
        assert!(memory.let_go(&[block]).is_err());
        assert!(memory.claim(&[block]).is_err());
        assert!(memory.claim_owned(block).is_err());
        for kind in KINDS {
            assert!(memory.alloc_at_as(block, kind).is_err());
            assert!(claim_as(memory, block, kind).is_err());
            assert!(memory.run_at(pfn, kind).is_err());
            let request = Request::new(block.order()).frame_type(kind);
            if block.order() > order(9) {
                assert!(memory.alloc(request).is_err());
                assert!(memory.alloc_run(1, request).is_err());
                assert!(memory.alloc_run(run.frames(), request).is_err());
            }
            let _no_such_pointer = BlockMatcher::new(kind, block.order());
        }
        for count in [0, 1, 2, 64, LIMIT] {
            if let Some(row) = FolioRange::new(block, count) {
                assert_eq!(memory.keep(row).is_err(), count > 0);
                assert_eq!(memory.let_go(row).is_err(), count > 0);
                assert_eq!(memory.claim(row).is_err(), count > 0);
            }
        }
    }
    for run in runs() {
        assert!(run.is_empty() || !here.covers(run));
        let none = run.is_empty() && here.covers(run);
        assert_eq!(memory.contains(run), none, "{run}");
        assert_eq!(memory.ptr(run).is_ok(), none, "{run}");
        assert_eq!(memory.reserve(run).is_ok(), none, "{run}");
        for kind in KINDS {
            assert!(memory.alloc_at_as(run, kind).is_err());
            assert!(preserve_as(memory, run, kind).is_err());
            assert!(unpreserve_as(memory, run, kind).is_err());
            assert!(claim_as(memory, run, kind).is_err());
        }
        for frames in ends() {
            let gap = memory.preserved().next_gap(frames, run);
            assert!(gap.is_none_or(|gap| run.covers(gap) && gap.frames() >= frames));
        }
    }
    for n in ends() {
        let pfn = Pfn::new(n);
        assert_eq!(memory.state(pfn), Err(Error::NotMemory { pfn }));
        assert_eq!(memory.node_of(pfn), Err(Error::NotMemory { pfn }));
        assert_eq!(memory.owning_block(pfn), None);
        assert_eq!(memory.predecessor().block_at(pfn), None);
        for order in [Order::ZERO, order(9)] {
            assert!(memory.alloc_run(n.max(FRAMES + 1), Request::new(order)).is_err());
        }
    }
    for node in [1, u16::MAX] {
        let strict = Request::new(Order::ZERO).on(NodeId(node)).strict();
        assert!(memory.alloc(strict).is_err());
        assert_eq!(memory.node_stats(NodeId(node)).frames, 0);
    }
}

#[test]
fn a_memory_has_no_frame_beyond_its_own() {
    let memory = Ram::memory(&Ram::frames(FRAMES)).unwrap();
    let block = memory.alloc(Request::new(order(2))).unwrap();
    memory.keep(block).unwrap();
    ask(&memory);
    let root = memory.preserved().tree_root().unwrap();
    let memory = memory.into_machine().attach(&Ram::frames(FRAMES)).unwrap();
    let (memory, counts) = memory.take_over(root).unwrap();
    assert_eq!(counts.total(), 1);
    let before = memory.audit().unwrap();
    ask(&memory);
    memory.drain();
    assert_eq!(memory.audit().unwrap(), before);
    assert!(memory.predecessor().contains(block));
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (1, 0));
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
}

#[test]
fn a_root_that_is_no_frame_is_refused() {
    for n in ends() {
        for root in [PhysAddr::new(n), Pfn::new(n).addr()] {
            let memory = Ram::memory(&Ram::frames(8)).unwrap();
            assert!(matches!(memory.take_over(root).map(drop), Err(Error::Tree(_))), "{root}");
        }
    }
}

/// Nothing is anywhere.
struct Nowhere;

impl heirloom_kho::tree::Tables for Nowhere {
    fn words(&self, _: PhysAddr) -> Option<&[std::sync::atomic::AtomicU64]> {
        None
    }
}

impl Pages for Nowhere {
    fn words(&self, _: PhysAddr, _: usize) -> Option<&[std::sync::atomic::AtomicU64]> {
        None
    }

    fn holds(&self, _: Block) -> bool {
        false
    }
}

#[test]
fn readers_of_trees_and_pages_take_any_number() {
    for n in ends() {
        let tree = Tree::new(PhysAddr::new(n), &Nowhere);
        assert_eq!(tree.counts().total(), 0);
        assert!(blocks().into_iter().all(|block| !tree.contains(block)));
        assert_eq!(Nowhere.block_around(Pfn::new(n)), None);
        assert_eq!(Nowhere.block_from(Pfn::new(n)), None);
    }
    for run in runs() {
        assert_eq!(Nowhere.first_unpreserved(run), Some(run.start()).filter(|_| !run.is_empty()));
        assert!(!Nowhere.is_memory(run));
    }
}

#[test]
fn sums_saturate() {
    let all = [u64::MAX; Order::MAX_FOLIO.index() + 1];
    let stats =
        Stats { frames: u64::MAX, absent: 0, free_blocks: all, cached: u64::MAX, preserved: 0 };
    assert_eq!((stats.free(), stats.used()), (u64::MAX, 0));
    for cpus in [0, 1, usize::MAX / 4096, usize::MAX] {
        assert!(Memory::<Ram>::cpu_bytes(cpus) >= cpus);
    }
    for run in runs().into_iter().filter(|run| usize::try_from(run.frames()).is_ok()) {
        assert!(Memory::<Ram>::range_bytes(run) as u64 >= run.frames());
    }
    assert_eq!(CpuId(u32::MAX).index(), u32::MAX as usize);
}
