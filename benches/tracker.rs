//! The tracker through the memory it belongs to, and the sets that one might take instead.
//!
//! Preserving costs what a caller pays, the check that the block is allocated and the frame's byte
//! included; the peers check nothing.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use heirloom_benches::frames_of::{Alone, Locked, Reach as _};
use heirloom_benches::sets_of::{BTree, Frames, Hash, Ranges, Roaring, walk_rows};
use heirloom_benches::{
    Dice, GIB, World, base, block, order, per_operation, row, time, twice, world,
};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Run};

type Row<'c> = BenchmarkGroup<'c, WallTime>;

/// One function of a row for each set.
macro_rules! sets {
    ($row:expr, $reach:ident, $bench:ident, $memory:expr, $blocks:expr) => {{
        $bench::<World>($row, $memory, $blocks);
        $bench::<Roaring<$reach<_>>>($row, &Frames::new(), $blocks);
        $bench::<BTree<$reach<_>>>($row, &Frames::new(), $blocks);
        $bench::<Hash<$reach<_>>>($row, &Frames::new(), $blocks);
        $bench::<Ranges<$reach<_>>>($row, &Frames::new(), $blocks);
    }};
}

/// Allocates these blocks, which must be free.
fn take(memory: &World, blocks: &[Block]) {
    for block in blocks {
        memory.alloc_at(*block).expect("free");
    }
}

fn preserve_all(set: &impl Frames, blocks: &[Block]) {
    for block in blocks {
        set.preserve(*block);
    }
}

fn unpreserve_all(set: &impl Frames, blocks: &[Block]) {
    for block in blocks {
        set.unpreserve(*block);
    }
}

fn preserve<F: Frames>(row: &mut Row<'_>, set: &F, blocks: &[Block]) {
    // The nodes are there: what a block costs, not what its part of a tree does.
    preserve_all(set, blocks);
    unpreserve_all(set, blocks);
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, ()) = time(|| preserve_all(set, blocks));
                unpreserve_all(set, blocks);
                (took, blocks.len() as u64)
            })
        });
    });
}

fn unpreserve<F: Frames>(row: &mut Row<'_>, set: &F, blocks: &[Block]) {
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                preserve_all(set, blocks);
                let (took, ()) = time(|| unpreserve_all(set, blocks));
                (took, blocks.len() as u64)
            })
        });
    });
}

fn walk<F: Frames>(row: &mut Row<'_>, set: &F, blocks: &[Block]) {
    preserve_all(set, blocks);
    let folded = blocks.iter().fold(0, |a, block| a ^ block.pfn().get());
    assert_eq!(set.walk(), folded, "the set's frames, all of them");
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, folded) = time(|| set.walk());
                black_box(folded);
                (took, blocks.len() as u64)
            })
        });
    });
    unpreserve_all(set, blocks);
}

/// A call for all of them in place of one each.
fn at_once(c: &mut Criterion, name: &str, memory: &World, blocks: &[Block]) {
    let count = blocks.len() as u64;
    // SAFETY: allocated by this bench, and told to nothing else.
    let keep = || unsafe { memory.preserve(blocks) }.expect("allocated");
    // SAFETY: allocated by this bench, and told to nothing else.
    let let_go = || unsafe { memory.unpreserve(blocks) }.expect("preserved");
    let mut one = row(c, &format!("{name}: preserve, all at once"));
    one.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, ()) = time(keep);
                let_go();
                (took, count)
            })
        });
    });
    one.finish();
    let mut back = row(c, &format!("{name}: unpreserve, all at once"));
    back.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                keep();
                (time(let_go).0, count)
            })
        });
    });
}

fn preserve_twice<F: Frames>(row: &mut Row<'_>, set: &F, blocks: &[Block]) {
    let halves = blocks.split_at(blocks.len() / 2);
    let halves = [halves.0, halves.1];
    preserve_all(set, blocks);
    unpreserve_all(set, blocks);
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let took = twice(|i| preserve_all(set, halves[i]));
                unpreserve_all(set, blocks);
                (took, blocks.len() as u64 / 2)
            })
        });
    });
}

/// All rows of one set of frames.
fn rows(c: &mut Criterion, name: &str, memory: &World, blocks: &[Block]) {
    let mut one = row(c, &format!("{name}: preserve"));
    sets!(&mut one, Alone, preserve, memory, blocks);
    one.finish();
    let mut back = row(c, &format!("{name}: unpreserve"));
    sets!(&mut back, Alone, unpreserve, memory, blocks);
    back.finish();
    at_once(c, name, memory, blocks);
    let mut walks = row(c, &format!("{name}: walk by key"));
    sets!(&mut walks, Alone, walk, memory, blocks);
    walks.finish();
    let mut runs = row(c, &format!("{name}: walk as runs"));
    preserve_all(memory, blocks);
    assert_eq!(walk_rows(memory), blocks.len() as u64);
    runs.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            per_operation(n, || (time(|| black_box(walk_rows(memory))).0, blocks.len() as u64))
        });
    });
    unpreserve_all(memory, blocks);
    runs.finish();
    let mut both = row(c, &format!("2T: {name}: preserve disjoint parts"));
    sets!(&mut both, Locked, preserve_twice, memory, blocks);
}

fn contiguous(c: &mut Criterion) {
    let memory = world(5 * GIB);
    let blocks: Vec<Block> = (0..4 * GIB).map(|i| block(i, Order::ZERO)).collect();
    take(&memory, &blocks);
    rows(c, "a million contiguous", &memory, &blocks);

    let mut adjacent = row(c, "64 adjacent folios, a folio");
    for o in [0, 3] {
        let memory = world(5 * GIB);
        let blocks: Vec<Block> = (0..1 << 16).map(|i| block(i << o, order(o))).collect();
        take(&memory, &blocks);
        let rows: Vec<FolioRange> =
            blocks.iter().step_by(64).filter_map(|first| FolioRange::new(*first, 64)).collect();
        let name = if o == 0 { "heirloom".into() } else { format!("heirloom, order {o}") };
        adjacent.bench_function(name, |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, ()) = time(|| {
                        for row in &rows {
                            // SAFETY: allocated by this bench, and told to nothing else.
                            unsafe { memory.preserve(*row) }.expect("allocated");
                        }
                        for row in &rows {
                            // SAFETY: allocated by this bench, and told to nothing else.
                            unsafe { memory.unpreserve(*row) }.expect("preserved");
                        }
                    });
                    (took, 2 * blocks.len() as u64)
                })
            });
        });
    }
}

fn terabyte(c: &mut Criterion) {
    let memory = world(1024 * GIB);
    // A million random frames: one of each thousand or so.
    let mut dice = Dice::new(17);
    let mut blocks: Vec<Block> =
        (0..1 << 20).map(|i| block(i * GIB / 1024 + dice.roll(GIB / 1024), Order::ZERO)).collect();
    take(&memory, &blocks);
    dice.shuffle(&mut blocks);
    rows(c, "a million random over 1 TiB", &memory, &blocks);
}

/// Preserving and unpreserving a run, a call of either.
fn runs(c: &mut Criterion) {
    let memory = world(64 * GIB);
    let whole = Run::new(base().add(16 * GIB), 16 * GIB).expect("in memory");
    let frayed = Run::new(base().add(40 * GIB + 12_345), 16 * GIB - 6_789).expect("in memory");
    for (name, run) in [("aligned", whole), ("misaligned at both ends", frayed)] {
        memory.alloc_at(run).expect("free");
        let mut row = row(c, &format!("a run of 16 GiB, {name}"));
        row.bench_function("heirloom", |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, ()) = time(|| {
                        for _ in 0..64 {
                            // SAFETY: allocated by this bench, and told to nothing else.
                            unsafe { memory.preserve(run) }.expect("allocated");
                            // SAFETY: allocated by this bench, and told to nothing else.
                            unsafe { memory.unpreserve(run) }.expect("preserved");
                        }
                    });
                    (took, 128)
                })
            });
        });
        let set = Alone::new(rangemap::RangeSet::new());
        let keys = run.start().get()..run.end().get();
        row.bench_function("rangemap", |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, ()) = time(|| {
                        for _ in 0..64 {
                            set.with(|set| set.insert(black_box(keys.clone())));
                            set.with(|set| set.remove(black_box(keys.clone())));
                        }
                    });
                    (took, 128)
                })
            });
        });
    }
}

criterion_group!(benches, contiguous, terabyte, runs);
criterion_main!(benches);
