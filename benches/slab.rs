//! Object caches and buffers, plain and preserving.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;

use criterion::{Criterion, criterion_group, criterion_main};
use heirloom_benches::{Dice, group, per_operation, rmw, time};
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

fn alloc_all(cache: Cache<'_, Ram>, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.alloc().expect("memory is free")).collect()
}

fn free_all(cache: Cache<'_, Ram>, objects: &[NonNull<u8>]) {
    for object in objects {
        free(cache, *object);
    }
}

fn caches(c: &mut Criterion) {
    let slabs = slabs();
    let mut g = group(c, "slab");
    rmw(&mut g);
    for (kind, preserving) in [("plain", false), ("preserving", true)] {
        for size in [64, 256, 1024] {
            let name = format!("{kind}-{size}");
            let spec = CacheSpec::new(&name, size).preserving(preserving);
            let cache = slabs.cache(spec).expect("a new cache");
            g.bench_function(format!("{kind} {size} B/pair"), |b| {
                b.iter(|| free(cache, black_box(cache.alloc().expect("memory is free"))));
            });
            g.bench_function(format!("{kind} {size} B/64 allocs, 64 frees"), |b| {
                b.iter_custom(|n| {
                    per_operation(n, || {
                        let round = || free_all(cache, &alloc_all(cache, 64));
                        (time(round).0, 64)
                    })
                });
            });
        }
        let spec = CacheSpec::new(kind, 64).preserving(preserving);
        let cache = slabs.cache(spec).expect("a new cache");
        g.bench_function(format!("{kind} 64 B/a million, alloc"), |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, objects) = time(|| alloc_all(cache, BULK));
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
                        let mut objects = alloc_all(cache, BULK);
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
    let object = cache.alloc().expect("memory is free");
    g.bench_function("one object/preserve, unpreserve", |b| {
        b.iter(|| {
            slabs.preserve(object).expect("a live object");
            slabs.unpreserve(object).expect("a preserved object");
        });
    });
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

criterion_group!(benches, caches, buffers);
criterion_main!(benches);
