//! Reviving over scattered folios, claiming them, adopting slabs, sealing.

#![expect(clippy::drop_non_drop, reason = "it says where a kernel ends and its successor starts")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heirloom::Heirloom;
use heirloom::folio::harness::Ram;
use heirloom::folio::{Block, Cpus, Kind, NodeId, Order, PAGE_SIZE, Pfn, Request, Run};
use heirloom::restore::{Entry, Handle, SealPolicy};
use heirloom::slab::CacheSpec;
use heirloom_benches::{Dice, group, per_operation, rmw, time};

/// Frames of simulated memory, of which few are ever touched: 16 GiB of 4 KiB.
const FRAMES: u64 = 1 << 22;

type Kernel<'r> = Heirloom<&'r Ram>;

fn machine() -> ([(Run, NodeId); 1], Ram) {
    let map = Ram::frames(FRAMES);
    (map, Ram::over(&map))
}

fn boot<'r>(ram: &'r Ram, map: &[(Run, NodeId)]) -> Kernel<'r> {
    let bytes = Kernel::scratch_bytes(map, ram.count()) as u64;
    let scratch = Run::covering(map[0].0.addr(), bytes).expect("scratch ends in memory");
    // SAFETY: the machine's memory is used by one kernel at a time.
    unsafe { Heirloom::boot(ram, map, &[scratch], "bench") }.expect("a fresh memory")
}

fn revive<'r>(ram: &'r Ram, map: &[(Run, NodeId)], entry: Entry) -> Kernel<'r> {
    // SAFETY: as in `boot`; the kernel before was dropped.
    unsafe { Heirloom::revive(ram, map, entry, "bench", SealPolicy::Checked) }.expect("sound")
}

/// Preserves `count` single frames, far apart at random.
fn scatter(kernel: &Kernel<'_>, count: u64) -> Vec<Block> {
    let first = kernel.memory().ranges().next().expect("a range").0.start().get();
    let (mut dice, apart) = (Dice::new(3), FRAMES / 2 / count);
    // Behind the scratch, one in each stretch of `apart` frames.
    let at = |i: u64, off: u64| Pfn::new(first + FRAMES / 2 + i * apart + off);
    let blocks = (0..count).map(|i| Block::containing(at(i, dice.roll(apart)), Order::ZERO));
    let blocks: Vec<_> = blocks.collect();
    for block in &blocks {
        kernel.memory().alloc_at(*block, Kind::Folio).expect("a free frame");
        kernel.memory().preserve(*block).expect("memory for nodes");
    }
    blocks
}

fn reviving(c: &mut Criterion) {
    let (map, ram) = machine();
    let mut g = group(c, "revive");
    rmw(&mut g);
    g.bench_function("metadata alone", |b| {
        b.iter_custom(|n| per_operation(n, || (time(|| drop(black_box(boot(&ram, &map)))).0, 1)));
    });
    for count in [1_000, 10_000, 100_000, 200_000] {
        let kernel = boot(&ram, &map);
        scatter(&kernel, count);
        let entry = kernel.entry();
        drop(kernel);
        g.throughput(Throughput::Elements(count));
        g.bench_function(format!("{count} scattered folios"), |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, kernel) = time(|| revive(&ram, &map, entry));
                    drop(kernel);
                    (took, 1)
                })
            });
        });
    }
}

fn claiming(c: &mut Criterion) {
    const COUNT: u64 = 20_000;
    let (map, ram) = machine();
    let mut g = group(c, "claim");
    rmw(&mut g);
    let old = boot(&ram, &map);
    let folios = scatter(&old, COUNT);
    let spec = CacheSpec::new("claimed", 64).preserving(true);
    let cache = old.slabs().cache(spec).expect("a new cache");
    let handle = |ptr| old.handle_of(ptr).expect("a live object");
    let objects: Vec<Handle> =
        (0..COUNT).map(|_| handle(cache.alloc().expect("memory is free"))).collect();
    let large: Vec<Handle> = (0..COUNT / 10)
        .map(|_| old.preserve(old.alloc(5 * PAGE_SIZE).expect("memory is free")).expect("nodes"))
        .collect();
    let slabs = cache.stats().slabs;
    let entry = old.entry();
    drop(old);
    g.bench_function("folio", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let new = revive(&ram, &map, entry);
                let claim = |block: &Block| new.memory().claim(*block, Kind::Folio).expect("once");
                (time(|| folios.iter().for_each(claim)).0, COUNT)
            })
        });
    });
    g.bench_function("large buffer", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let new = revive(&ram, &map, entry);
                let claim = |handle: &Handle| {
                    black_box(new.restore(*handle).expect("once"));
                };
                (time(|| large.iter().for_each(claim)).0, large.len() as u64)
            })
        });
    });
    // Adopting rewrites what the slabs say of themselves, so each of these rows has one round.
    let adopt = |new: &Kernel<'_>| new.slabs().adopt(spec).map(|(_, adopted)| adopted.slabs);
    let round = |rounds: &mut u64| {
        let old = boot(&ram, &map);
        let cache = old.slabs().cache(spec).expect("a new cache");
        let handles = objects
            .iter()
            .map(|_| old.handle_of(cache.alloc().expect("memory is free")).expect("a live object"));
        let handles: Vec<_> = handles.collect();
        let entry = old.entry();
        drop(old);
        *rounds += 1;
        (handles, revive(&ram, &map, entry))
    };
    let mut rounds = 0;
    g.bench_function("adopt a slab of 64 B objects", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (_, new) = round(&mut rounds);
                let (took, adopted) = time(|| adopt(&new));
                (took, adopted.expect("sound").min(slabs))
            })
        });
    });
    g.bench_function("small object", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (handles, new) = round(&mut rounds);
                adopt(&new).expect("sound");
                let claim = |handle: &Handle| {
                    black_box(new.restore(*handle).expect("once"));
                };
                (time(|| handles.iter().for_each(claim)).0, COUNT)
            })
        });
    });
}

fn sealing(c: &mut Criterion) {
    let (map, ram) = machine();
    let kernel = boot(&ram, &map);
    scatter(&kernel, 10_000);
    let nodes = kernel.memory().counts().nodes();
    let mut g = group(c, "seal");
    g.throughput(Throughput::Bytes(nodes * PAGE_SIZE as u64));
    g.bench_function("seal", |b| b.iter(|| kernel.seal().expect("memory for the table")));
    drop(kernel.memory().folio(Request::new(Order::ZERO)));
}

criterion_group!(benches, reviving, claiming, sealing);
criterion_main!(benches);
