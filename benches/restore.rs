//! Reviving over scattered folios, claiming them, adopting slabs, sealing.

#![expect(clippy::drop_non_drop, reason = "it says where a kernel ends and its successor starts")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heirloom::Heirloom;
use heirloom::folio::harness::Ram;
use heirloom::folio::{Block, Cpus, Kind, NodeId, Order, PAGE_SIZE, Pfn, Run};
use heirloom::restore::{
    Entry, Handle, Header, Inherited, Pages, Parts, SUBTREE, SealInfo, SealPolicy, verify,
};
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
    for count in [1_000, 10_000, 20_000, 100_000, 200_000] {
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
fn left<'r>(ram: &'r Ram, map: &[(Run, NodeId)]) -> Left<'r> {
    let old = boot(ram, map);
    let folio = |block: Block| Handle::new(Parts::Folio(block)).expect("a folio");
    let folios = scatter(&old, COUNT).into_iter().map(folio).collect();
    let cache = old.slabs().cache(SPEC).expect("a new cache");
    let object = |_| old.handle_of(cache.alloc().expect("memory is free")).expect("a live object");
    let objects = (0..COUNT).map(object).collect();
    let buffer = |_| {
        let buffer = old.alloc(5 * PAGE_SIZE).expect("memory is free");
        old.preserve(buffer).expect("memory for nodes")
    };
    let large = (0..COUNT / 10).map(buffer).collect();
    let (slabs, entry) = (cache.stats().slabs, old.entry());
    drop(old);
    Left { kernel: revive(ram, map, entry), folios, objects, large, slabs }
}

fn claiming(c: &mut Criterion) {
    let (map, ram) = machine();
    let mut g = group(c, "claim");
    rmw(&mut g);
    g.bench_function("folio", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let Left { kernel, folios, .. } = left(&ram, &map);
                let claim = |handle: &Handle| {
                    std::mem::forget(kernel.claim_folio(*handle).expect("once"));
                };
                (time(|| folios.iter().for_each(claim)).0, folios.len() as u64)
            })
        });
    });
    g.bench_function("large buffer", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let Left { kernel, large, .. } = left(&ram, &map);
                let claim = |handle: &Handle| {
                    black_box(kernel.restore(*handle).expect("once"));
                };
                (time(|| large.iter().for_each(claim)).0, large.len() as u64)
            })
        });
    });
    g.bench_function("adopt a slab of 64 B objects", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let Left { kernel, slabs, .. } = left(&ram, &map);
                let (took, adopted) = time(|| kernel.slabs().adopt(SPEC).expect("sound").1);
                assert_eq!(adopted.slabs, slabs, "all of them");
                (took, slabs)
            })
        });
    });
    g.bench_function("small object", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
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

/// The seal that a predecessor left.
fn seal_of(tables: &Inherited<'_, &Ram>, kernel: &Kernel<'_>) -> SealInfo {
    let mut seal = None;
    let look = |name: &str, addr, _| {
        if name == SUBTREE {
            let words = tables.words(addr, Header::SIZE).expect("in memory");
            seal = Header::read(words, addr).expect("sound").seal;
        }
    };
    kernel.for_each_inherited_subtree(look).expect("sound");
    seal.expect("a sealed handover")
}

/// Of the bytes covered, the tracker's nodes are counted; the few others are not.
fn sealing(c: &mut Criterion) {
    let (map, ram) = machine();
    let kernel = boot(&ram, &map);
    scatter(&kernel, 100_000);
    let bytes = kernel.memory().counts().nodes() * PAGE_SIZE as u64;
    let mut g = group(c, "seal");
    rmw(&mut g);
    g.throughput(Throughput::Bytes(bytes));
    let plain = vec![1_u64; bytes as usize / 8];
    g.bench_function("reading as many bytes", |b| {
        b.iter(|| black_box(&plain).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
    });
    g.bench_function("seal", |b| b.iter(|| kernel.seal().expect("memory for the table")));
    let entry = kernel.entry();
    drop(kernel);
    let kernel = revive(&ram, &map, entry);
    // SAFETY: nothing is claimed or written as long as the tables are read.
    let tables = unsafe { Inherited::new(kernel.memory()) };
    let seal = seal_of(&tables, &kernel);
    g.bench_function("verify", |b| {
        b.iter(|| {
            let sound = verify(&tables, &seal, |broken| panic!("{broken}")).expect("sound");
            assert_eq!(sound, seal.entries, "all of them");
        });
    });
}

criterion_group!(benches, reviving, claiming, sealing);
criterion_main!(benches);
