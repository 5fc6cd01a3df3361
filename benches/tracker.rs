//! The tracker through the memory it belongs to: preserving costs what a caller pays, the check
//! that the block is allocated and the frame's byte included.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use heirloom_benches::{
    Dice, GIB, World, base, block, group, order, per_operation, rmw, time, world,
};
use heirloom_folio::tracker::Adjacent;
use heirloom_folio::{Block, Kind, Order, Run};

/// Allocates these blocks, which must be free.
fn take(memory: &World, blocks: &[Block]) {
    for block in blocks {
        memory.alloc_at(*block, Kind::Folio).expect("free");
    }
}

fn preserve(memory: &World, blocks: &[Block]) {
    for block in blocks {
        memory.preserve(*block).expect("allocated");
    }
}

fn unpreserve(memory: &World, blocks: &[Block]) {
    for block in blocks {
        memory.unpreserve(*block).expect("preserved");
    }
}

/// Preserving, unpreserving and walking a set of single frames.
fn set(c: &mut Criterion, name: &str, memory: &World, blocks: &[Block]) {
    let mut g = group(c, name);
    rmw(&mut g);
    // The nodes are there: what a block costs, not what its part of a tree does.
    preserve(memory, blocks);
    unpreserve(memory, blocks);
    let count = blocks.len() as u64;
    g.bench_function("preserve", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, ()) = time(|| preserve(memory, blocks));
                unpreserve(memory, blocks);
                (took, count)
            })
        });
    });
    g.bench_function("unpreserve", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                preserve(memory, blocks);
                let (took, ()) = time(|| unpreserve(memory, blocks));
                (took, count)
            })
        });
    });
    preserve(memory, blocks);
    g.bench_function("walk by key", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let mut sum = 0;
                let (took, ()) = time(|| {
                    memory.for_each_preserved(|block| sum += block.pfn().get());
                });
                black_box(sum);
                (took, count)
            })
        });
    });
    g.bench_function("walk as rows", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let mut sum = 0;
                let (took, ()) = time(|| memory.for_each_row(|row| sum += row.count()));
                assert_eq!(sum, count);
                (took, count)
            })
        });
    });
    unpreserve(memory, blocks);
    g.finish();
}

fn contiguous(c: &mut Criterion) {
    let memory = world(5 * GIB);
    let blocks: Vec<Block> = (0..4 * GIB).map(|i| block(i, Order::ZERO)).collect();
    take(&memory, &blocks);
    set(c, "tracker, 4 GiB contiguous", &memory, &blocks);

    let mut g = group(c, "tracker, 64 adjacent");
    rmw(&mut g);
    for o in [0, 3] {
        let memory = world(5 * GIB);
        let blocks: Vec<Block> = (0..1 << 16).map(|i| block(i << o, order(o))).collect();
        take(&memory, &blocks);
        let rows: Vec<Adjacent> =
            blocks.iter().step_by(64).filter_map(|first| Adjacent::new(*first, 64)).collect();
        g.bench_function(format!("preserve and unpreserve, order {o}, a folio"), |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, ()) = time(|| {
                        for row in &rows {
                            memory.preserve_adjacent(*row).expect("allocated");
                        }
                        for row in &rows {
                            memory.unpreserve_adjacent(*row).expect("preserved");
                        }
                    });
                    (took, 2 * blocks.len() as u64)
                })
            });
        });
    }
    g.finish();
}

fn terabyte(c: &mut Criterion) {
    let memory = world(1024 * GIB);
    // A million random frames: one of each thousand or so.
    let mut dice = Dice::new(17);
    let mut blocks: Vec<Block> =
        (0..1 << 20).map(|i| block(i * GIB / 1024 + dice.roll(GIB / 1024), Order::ZERO)).collect();
    take(&memory, &blocks);
    dice.shuffle(&mut blocks);
    set(c, "tracker, 1 TiB random", &memory, &blocks);

    let memory = world(64 * GIB);
    let mut g = group(c, "tracker, a run of 16 GiB");
    rmw(&mut g);
    let whole = Run::new(base().add(16 * GIB), 16 * GIB).expect("in memory");
    let frayed = Run::new(base().add(40 * GIB + 12_345), 16 * GIB - 6_789).expect("in memory");
    for (name, run) in [("aligned", whole), ("misaligned at both ends", frayed)] {
        memory.alloc_run_at(run, Kind::Run).expect("free");
        g.bench_function(format!("preserve and unpreserve, {name}"), |b| {
            b.iter(|| {
                memory.preserve_run(run, Kind::Run).expect("allocated");
                memory.unpreserve_run(run, Kind::Run).expect("preserved");
            });
        });
    }
    g.finish();
}

criterion_group!(benches, contiguous, terabyte);
criterion_main!(benches);
