//! Reviving over scattered folios, claiming them, adopting slabs, finishing, sealing.

#![expect(clippy::drop_non_drop, reason = "it says where a kernel ends and its successor starts")]

#[path = "restore/finishing.rs"]
mod finishing;
#[path = "restore/going_on.rs"]
mod going_on;
#[path = "restore/objects.rs"]
mod objects;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use heirloom::kho::tree::FolioRange;
use heirloom::kho::{
    Block, Handle, Header, Name, Order, PAGE_SIZE, Pages, Parts, Pfn, RootView, SUBTREE, SealInfo,
};
use heirloom::restore::{Inherited, verify};
use heirloom::slab::CacheSpec;
use heirloom_benches::kernels::{
    Kernel, Lie, Machine, Map, boot, machine, preserve, revive, scratch,
};
use heirloom_benches::{GIB, once_for_all, per_operation, row, time};

fn revived(
    row: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    (map, ram): &(Map, Machine),
    leave: impl Fn(&Kernel<'_>),
) {
    // Left once, by a row that is asked for.
    let mut left = None;
    row.bench_function(name, |b| {
        let entry = *left.get_or_insert_with(|| {
            let kernel = boot(ram, map);
            leave(&kernel);
            kernel.entry()
        });
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, kernel) = time(|| revive(ram, map, entry));
                drop(kernel);
                (took, 1)
            })
        });
    });
}

fn metadata(row: &mut BenchmarkGroup<'_, WallTime>, (map, ram): &(Map, Machine), name: &str) {
    row.bench_function(name, |b| {
        // Backed from here on: a page fault is the machine's, not the metadata's.
        drop(boot(ram, map));
        b.iter_custom(|n| per_operation(n, || (time(|| drop(black_box(boot(ram, map)))).0, 1)));
    });
}

fn reviving(c: &mut Criterion) {
    let mut pages = row(c, "revive, 1 TiB");
    let machine_of = machine;
    let machine = machine(1024);
    metadata(&mut pages, &machine, "metadata alone");
    for (name, lie) in
        [("scattered", Lie::Scattered), ("contiguous", Lie::Contiguous), ("mixed", Lie::Mixed)]
    {
        for count in [1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 19, 1 << 20] {
            revived(&mut pages, &format!("{name} {count}"), &machine, |kernel| {
                preserve(kernel, &machine.0, lie, count);
            });
        }
    }
    // What survives is all but the first gibibyte behind the scratch, and the tracker's nodes.
    revived(&mut pages, "every frame", &machine, |kernel| {
        let memory = kernel.memory();
        let whole = machine.0[0].0;
        let mut first = scratch(&machine.1, &machine.0).end().get().next_multiple_of(64) + GIB;
        while first < whole.end().get() {
            let frames = (0..64).map(|i| Block::containing(Pfn::new(first + i), Order::ZERO));
            let taken: Vec<_> = frames.filter(|frame| memory.alloc_at(*frame).is_ok()).collect();
            if let [head, .., _] = taken[..]
                && taken.len() == 64
            {
                let row = FolioRange::new(head, 64).expect("aligned");
                // SAFETY: allocated by this bench, and told to nothing else.
                unsafe { memory.preserve(row) }.expect("memory for nodes");
            } else {
                // Some are the tracker's own nodes, or a CPU's.
                for frame in taken {
                    // SAFETY: allocated by this bench, and told to nothing else.
                    unsafe { memory.preserve(frame) }.expect("memory for nodes");
                }
            }
            first += 64;
        }
    });
    pages.finish();

    let mut sizes = row(c, "revive, 65536 scattered");
    for gib in [16, 64, 256, 1024] {
        let machine = machine_of(gib);
        metadata(&mut sizes, &machine, &format!("{gib} GiB, metadata alone"));
        revived(&mut sizes, &format!("{gib} GiB"), &machine, |kernel| {
            preserve(kernel, &machine.0, Lie::Scattered, 1 << 16);
        });
    }
}

/// What a kernel of the claiming rows left. A claim is for once, so every round has its own.
struct Left<'r> {
    kernel: Kernel<'r>,
    folios: Vec<Handle>,
    objects: Vec<Handle>,
    large: Vec<Handle>,
    slabs: u64,
}

const COUNT: u64 = 20_000;
const SPEC: CacheSpec = CacheSpec::new("claimed", 64).preserving(true);

/// A kernel that leaves folios, objects and large buffers, and its successor.
fn left<'r>(ram: &'r Machine, map: &Map) -> Left<'r> {
    let old = boot(ram, map);
    let folio = |block: Block| Handle::new(Parts::Folio(block)).expect("a folio");
    let folios = preserve(&old, map, Lie::Scattered, COUNT).into_iter().map(folio).collect();
    let cache = old.slabs().cache(SPEC).expect("a new cache");
    let object = |_| old.handle_of(cache.alloc().expect("memory is free")).expect("a live object");
    let objects = (0..COUNT).map(object).collect();
    let buffer = |_| {
        let buffer = old.alloc(5 * PAGE_SIZE).expect("memory is free");
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { old.preserve(buffer) }.expect("memory for nodes")
    };
    let large = (0..COUNT / 10).map(buffer).collect();
    let (slabs, entry) = (cache.stats().slabs, old.entry());
    drop(old);
    Left { kernel: revive(ram, map, entry), folios, objects, large, slabs }
}

fn claiming(c: &mut Criterion) {
    let (map, ram) = machine(16);
    let mut folio = row(c, "claim a folio");
    folio.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            once_for_all(n, || {
                let Left { kernel, folios, .. } = left(&ram, &map);
                let claim = |handle: &Handle| {
                    kernel.claim_folio(*handle).expect("once");
                };
                (time(|| folios.iter().for_each(claim)).0, folios.len() as u64)
            })
        });
    });
    folio.bench_function("heirloom, many at once", |b| {
        b.iter_custom(|n| {
            once_for_all(n, || {
                let Left { kernel, folios, .. } = left(&ram, &map);
                let claim = || kernel.claim_folios(&folios, std::mem::forget).expect("once");
                (time(claim).0, folios.len() as u64)
            })
        });
    });
    folio.finish();
    let mut large = row(c, "claim a large buffer");
    large.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            once_for_all(n, || {
                let Left { kernel, large, .. } = left(&ram, &map);
                let claim = |handle: &Handle| {
                    black_box(kernel.restore(*handle).expect("once"));
                };
                (time(|| large.iter().for_each(claim)).0, large.len() as u64)
            })
        });
    });
    large.finish();
    let mut adopt = row(c, "adopt a slab of 64 B objects");
    adopt.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            once_for_all(n, || {
                let Left { kernel, slabs, .. } = left(&ram, &map);
                let (took, adopted) = time(|| kernel.slabs().adopt(SPEC).expect("sound").1);
                assert_eq!(adopted.slabs, slabs, "all of them");
                (took, slabs)
            })
        });
    });
    adopt.finish();
    let mut small = row(c, "claim a small object");
    small.bench_function("heirloom", |b| {
        b.iter_custom(|n| {
            once_for_all(n, || {
                let Left { kernel, objects, .. } = left(&ram, &map);
                kernel.slabs().adopt(SPEC).expect("sound");
                let claim = |handle: &Handle| {
                    black_box(kernel.restore(*handle).expect("once"));
                };
                (time(|| objects.iter().for_each(claim)).0, objects.len() as u64)
            })
        });
    });
}

/// The seal of a kernel.
fn seal_of(tables: &Inherited<'_, &Machine>, kernel: &Kernel<'_>) -> SealInfo {
    let root = RootView::read(tables, kernel.entry().root).expect("sound");
    let addr = root.find(&Name::new(SUBTREE).expect("a name")).expect("heirloom's").addr;
    let words = tables.words(addr, Header::SIZE).expect("in memory");
    Header::read(words, addr).expect("sound").seal.info().expect("a sealed handover")
}

/// Of the bytes covered, the tracker's nodes are counted; the few others are not.
fn sealing(c: &mut Criterion) {
    let (map, ram) = machine(16);
    let kernel = boot(&ram, &map);
    preserve(&kernel, &map, Lie::Scattered, 100_000);
    let bytes = kernel.memory().preserved().counts().nodes() * PAGE_SIZE as u64;
    let mut g = row(c, "seal and verify");
    g.throughput(Throughput::Bytes(bytes));
    let plain = vec![1_u64; bytes as usize / 8];
    g.bench_function("reading as many bytes", |b| {
        b.iter(|| black_box(&plain).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
    });
    kernel.seal().expect("memory for the table");
    g.bench_function("seal", |b| b.iter(|| kernel.seal().expect("memory for the table")));
    // As a successor does before it opens the seal.
    // SAFETY: nothing is written as long as the tables are read.
    let tables = unsafe { Inherited::new(kernel.memory()) };
    let seal = seal_of(&tables, &kernel);
    let frames = kernel.memory().ranges().map(|(run, _)| run.frames()).sum();
    g.bench_function("verify", |b| {
        b.iter(|| {
            let sound = verify(&tables, &seal, frames, |broken| panic!("{broken}")).expect("sound");
            assert_eq!(sound, seal.entries, "all of them");
        });
    });
}

criterion_group!(
    benches,
    reviving,
    claiming,
    objects::claiming,
    going_on::from_revive,
    finishing::finishing,
    sealing
);
criterion_main!(benches);
