//! Object caches and buffers, plain and preserving.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use heirloom_benches::{Dice, group, per_operation, rmw, time};
use heirloom_folio::PAGE_SIZE;
use heirloom_folio::harness::Ram;
use heirloom_slab::{Buffers, Cache, CacheSpec, Slabs};

/// Objects in the bulk rows.
const BULK: usize = 1 << 20;

fn slabs() -> Slabs<Ram> {
    let memory = Ram::memory(&Ram::frames(1 << 16)).expect("a fresh memory");
    Slabs::new(memory).expect("memory for the roll")
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
fn free(cache: Cache<'_, Ram>, object: NonNull<u8>) {
    // SAFETY: allocated from this cache by the bench, and not used again.
    unsafe { cache.free(object) }.expect("a live object");
}

/// Fills `into`, whose room is there already: a vector that grows would be timed too.
fn alloc_all(cache: Cache<'_, Ram>, into: &mut Vec<NonNull<u8>>, count: usize) {
    into.clear();
    into.extend((0..count).map(|_| cache.alloc().expect("memory is free")));
}

fn free_all(cache: Cache<'_, Ram>, objects: &[NonNull<u8>]) {
    for object in objects {
        free(cache, *object);
    }
}

/// 64 objects and then their frees, so often that looking at the clock does not count.
fn batches(cache: Cache<'_, Ram>, into: &mut Vec<NonNull<u8>>) -> (Duration, u64) {
    const BATCHES: u64 = 256;
    let (took, ()) = time(|| {
        for _ in 0..BATCHES {
            alloc_all(cache, into, 64);
            free_all(cache, into);
        }
    });
    (took, BATCHES * 64)
}

fn caches(c: &mut Criterion) {
    let slabs = slabs();
    let mut g = group(c, "slab");
    rmw(&mut g);
    let mut objects = Vec::with_capacity(BULK);
    for (kind, preserving) in [("plain", false), ("preserving", true)] {
        for size in [64, 256, 1024, 4096] {
            let name = format!("{kind}-{size}");
            let spec = CacheSpec::new(&name, size).preserving(preserving);
            let cache = slabs.cache(spec).expect("a new cache");
            g.bench_function(format!("{kind} {size} B/pair"), |b| {
                b.iter(|| free(cache, black_box(cache.alloc().expect("memory is free"))));
            });
            g.bench_function(format!("{kind} {size} B/64 allocs, 64 frees"), |b| {
                b.iter_custom(|n| per_operation(n, || batches(cache, &mut objects)));
            });
        }
        let spec = CacheSpec::new(kind, 64).preserving(preserving);
        let cache = slabs.cache(spec).expect("a new cache");
        g.bench_function(format!("{kind} 64 B/a million, alloc"), |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, ()) = time(|| alloc_all(cache, &mut objects, BULK));
                    free_all(cache, &objects);
                    (took, BULK as u64)
                })
            });
        });
        for (order, shuffled) in [("in order", false), ("random", true)] {
            let mut dice = Dice::new(5);
            g.bench_function(format!("{kind} 64 B/a million, free {order}"), |b| {
                b.iter_custom(|n| {
                    per_operation(n, || {
                        alloc_all(cache, &mut objects, BULK);
                        if shuffled {
                            dice.shuffle(&mut objects);
                        }
                        (time(|| free_all(cache, &objects)).0, BULK as u64)
                    })
                });
            });
        }
    }
    let cache = slabs.cache(CacheSpec::new("single", 64)).expect("a new cache");
    let [object, other] = [(); 2].map(|()| cache.alloc().expect("memory is free"));
    let pair = || {
        slabs.preserve(object).expect("a live object");
        slabs.unpreserve(object).expect("a preserved object");
    };
    g.bench_function("one object/preserve, unpreserve", |b| b.iter(pair));
    slabs.preserve(other).expect("a live object");
    g.bench_function("one object/preserve, unpreserve beside a preserved one", |b| b.iter(pair));
}

fn buffers(c: &mut Criterion) {
    let slabs = slabs();
    let mut g = group(c, "buffers");
    rmw(&mut g);
    for size in [64, 1024, 4096, 16_384, 65_536] {
        let layout = Layout::from_size_align(size, 16).expect("a power of two");
        g.bench_function(format!("{size} B/pair"), |b| {
            b.iter(|| {
                let buffer = slabs.alloc(layout, Buffers::default()).expect("memory is free");
                // SAFETY: allocated just now, and not used again.
                unsafe { slabs.free(black_box(buffer)) }.expect("a live buffer");
            });
        });
    }
}

/// 10,000 buffers of 64 to 4096 bytes, of which one at a time is replaced.
fn churn(c: &mut Criterion) {
    const LIVE: u64 = 10_000;
    let slabs = slabs();
    let mut g = group(c, "churn");
    rmw(&mut g);
    let mut dice = Dice::new(7);
    let mut step = || {
        let size = 64 + dice.roll(4096 - 64 + 1) as usize;
        let layout = Layout::from_size_align(size, 8).expect("a power of two");
        (dice.roll(LIVE) as usize, layout)
    };
    let alloc = |layout| slabs.alloc(layout, Buffers::default()).expect("memory is free");
    let mut live: Vec<_> = (0..LIVE).map(|_| alloc(step().1)).collect();
    // Rolled in advance; as many that a predictor does not learn them.
    let steps: Vec<_> = (0..1 << 18).map(|_| step()).collect();
    let mut steps = steps.iter().cycle();
    g.bench_function("64 B to 4096 B, 10,000 live", |b| {
        b.iter(|| {
            let (i, layout) = *steps.next().expect("endless");
            // SAFETY: allocated by the bench, and replaced here.
            unsafe { slabs.free(live[i]) }.expect("a live buffer");
            live[i] = alloc(layout);
        });
    });
}

/// Says, once, what 64 MiB of 64-byte objects take.
fn overhead(_: &mut Criterion) {
    let slabs = slabs();
    let before = slabs.memory().stats().used();
    let cache = slabs.cache(CacheSpec::new("overhead", 64)).expect("a new cache");
    for _ in 0..BULK {
        cache.alloc().expect("memory is free");
    }
    let (live, taken) = (BULK * 64, (slabs.memory().stats().used() - before) as usize * PAGE_SIZE);
    let over = (taken - live) * 10_000 / live;
    let (whole, part) = (over / 100, over % 100);
    println!(
        "overhead of {live} bytes of 64 B objects: {whole}.{part:02} % ({taken} bytes of frames)"
    );
}

criterion_group!(benches, caches, buffers, churn, overhead);
criterion_main!(benches);
