//! What the tests of this layer share: frames at a base, raw calls, and stamped contents.
//!
//! The raw calls are unsafe because the allocator takes their word for who owns what. In a test
//! the model keeps the books; a misuse on purpose is one that is refused.

// Each test program uses its part.
#![allow(dead_code)]

pub(crate) mod owned;

use std::collections::BTreeSet;

use heirloom_folio::harness::Ram;
use heirloom_folio::{Allocation, Error, FrameType, Memory, NodeId};
use heirloom_kho::tree::{Geometry, Key};
use heirloom_kho::{Block, Order, PAGE_SIZE, Pfn, Run};

pub(crate) fn order(o: u8) -> Order {
    Order::new(o).unwrap()
}

/// The first frame of [`Ram`].
pub(crate) fn base() -> Pfn {
    Ram::frames(1)[0].0.start()
}

/// The block of order `o` at `frame` from the base.
pub(crate) fn block(frame: u64, o: u8) -> Block {
    Block::new(base().add(frame), order(o)).unwrap()
}

/// `frames` frames from `frame` from the base.
pub(crate) fn run(frame: u64, frames: u64) -> Run {
    Run::new(base().add(frame), frames).unwrap()
}

pub(crate) fn free(memory: &Memory<Ram>, block: Block, kind: FrameType) -> Result<(), Error> {
    // SAFETY: the test owns the block, or expects to be refused.
    unsafe { memory.free_as(block, kind) }
}

/// Says what a block is that the predecessor preserved, as the layer above does that reads it.
pub(crate) fn label(memory: &Memory<Ram>, block: Block, kind: FrameType) -> Result<(), Error> {
    // SAFETY: nothing reads tables or slabs here.
    unsafe { memory.predecessor().label(block, kind) }
}

/// Claims a block with a label.
pub(crate) fn claim_as<E: Allocation>(
    memory: &Memory<Ram>,
    extent: E,
    kind: FrameType,
) -> Result<(), Error> {
    // SAFETY: nothing reads tables or slabs here.
    unsafe { memory.claim_as(extent, kind) }
}

pub(crate) fn preserve_as<E: Allocation>(
    memory: &Memory<Ram>,
    extent: E,
    kind: FrameType,
) -> Result<(), Error> {
    // SAFETY: the test owns it, or expects to be refused.
    unsafe { memory.preserve_as(extent, kind) }
}

pub(crate) fn unpreserve_as<E: Allocation>(
    memory: &Memory<Ram>,
    extent: E,
    kind: FrameType,
) -> Result<(), Error> {
    // SAFETY: the test owns it, or expects to be refused.
    unsafe { memory.unpreserve_as(extent, kind) }
}

pub(crate) fn free_run(memory: &Memory<Ram>, run: Run, kind: FrameType) -> Result<(), Error> {
    // SAFETY: the test owns the run, or expects to be refused.
    unsafe { memory.free_as(run, kind) }
}

pub(crate) fn shrink_run(
    memory: &Memory<Ram>,
    run: Run,
    frames: u64,
    kind: FrameType,
) -> Result<Run, Error> {
    // SAFETY: the test owns the run, or expects to be refused.
    unsafe { memory.shrink_run_as(run, frames, kind) }
}

pub(crate) fn grow_run(
    memory: &Memory<Ram>,
    run: Run,
    frames: u64,
    kind: FrameType,
) -> Result<Run, Error> {
    // SAFETY: the test owns the run, or expects to be refused.
    unsafe { memory.grow_run_as(run, frames, kind) }
}

/// Adds a range that the machine was made for, with fresh space for its metadata.
pub(crate) fn add_range(
    memory: &Memory<Ram>,
    run: Run,
    node: NodeId,
    bytes: usize,
) -> Result<(), Error> {
    let space = memory.machine().space(bytes);
    // SAFETY: the machine owns the space and lives as long as the memory.
    unsafe { memory.add_range(run, node, space) }
}

/// Takes and keeps every free frame but `left`; the frames taken.
pub(crate) fn starve(memory: &Memory<Ram>, left: usize) -> Vec<Block> {
    let mut taken = Vec::new();
    while let Ok(b) = memory.alloc(heirloom_folio::Request::new(Order::ZERO)) {
        taken.push(b);
    }
    assert!(taken.len() >= left);
    for b in taken.drain(..left) {
        free(memory, b, FrameType::Folio).unwrap();
    }
    taken
}

/// Writes to the first and the last word of every frame of `run` what only `stamp` would.
pub(crate) fn write(memory: &Memory<Ram>, run: Run, stamp: u64) {
    for (at, value) in words(run, stamp) {
        // SAFETY: the test owns the run, in which the word lies.
        unsafe { memory.ptr(run).unwrap().add(at).cast::<u64>().write(value) };
    }
}

/// Checks that the run is as [`write`] left it.
pub(crate) fn check(memory: &Memory<Ram>, run: Run, stamp: u64) {
    for (at, expected) in words(run, stamp) {
        // SAFETY: the test owns the run, in which the word lies.
        let found = unsafe { memory.ptr(run).unwrap().add(at).cast::<u64>().read() };
        assert_eq!(found, expected, "byte {at} of {run} was written by somebody else");
    }
}

/// Checks that every byte of the run is zero.
pub(crate) fn check_zeroes(memory: &Memory<Ram>, run: Run) {
    let start = memory.ptr(run).unwrap();
    // SAFETY: the test owns the run, which nothing writes meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) };
    assert!(bytes.iter().all(|byte| *byte == 0));
}

/// Places in `run` and what belongs there: by frame, so that a part of a run keeps its contents.
fn words(run: Run, stamp: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..run.frames()).flat_map(move |i| {
        let first = i as usize * PAGE_SIZE;
        let value = stamp ^ (run.start().get() + i);
        [(first, value), (first + PAGE_SIZE - 8, !value)]
    })
}

/// The nodes of a tree that has these blocks and never had others: the root, and on each level below
/// it one for each stretch of keys.
pub(crate) fn nodes_of(blocks: &[Block]) -> u64 {
    let g = Geometry::BUILD;
    let stretches = |level: u32| {
        let bits = g.leaf_log2 + level * g.table_log2;
        blocks.iter().map(|b| Key::of(*b).get() >> bits).collect::<BTreeSet<_>>().len() as u64
    };
    1 + (0..g.levels - 1).map(stretches).sum::<u64>()
}
