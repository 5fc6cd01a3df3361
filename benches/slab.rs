//! Object caches and buffers, plain and preserving, and the allocators of user space.
//!
//! `heirloom` is a cache of the size, or the buffers where a row says so; `heirloom, preserving` is
//! a cache whose objects are preserved as they are allocated.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use heirloom_benches::frames_of::{Alone, Locked};
use heirloom_benches::objects_of::{Objects, Preserving, SYSTEM, Slabmalloc, slabs, talc};
use heirloom_benches::{Dice, per_operation, row, time, twice};
use heirloom_slab::{AllocOptions, CacheSpec};

type Row<'c> = BenchmarkGroup<'c, WallTime>;

/// Objects in the bulk rows.
const BULK: usize = 1 << 20;

/// One function of a row for each allocator of user space.
macro_rules! mallocs {
    ($row:expr, $bench:ident $(, $argument:expr)*) => {{
        #[cfg(feature = "native-peers")]
        {
            use heirloom_benches::objects_of::Malloc;
            $bench($row, "mimalloc", &Malloc(mimalloc::MiMalloc) $(, $argument)*);
            $bench($row, "snmalloc", &Malloc(snmalloc_rs::SnMalloc) $(, $argument)*);
            $bench($row, "jemalloc", &Malloc(tikv_jemallocator::Jemalloc) $(, $argument)*);
        }
        $bench($row, "glibc", &SYSTEM $(, $argument)*);
    }};
}

/// A cache of heirloom's, plain and preserving, and the buffers.
macro_rules! heirlooms {
    ($row:expr, $bench:ident, $layout:expr $(, $argument:expr)*) => {{
        let slabs = slabs(2);
        let spec = CacheSpec::new("plain", $layout.size());
        let cache = slabs.cache(spec).expect("a new cache");
        $bench($row, "heirloom", &cache, $layout $(, $argument)*);
        let spec = CacheSpec::new("preserving", $layout.size()).preserving(true);
        let cache = slabs.cache(spec).expect("a new cache");
        $bench($row, "heirloom, preserving", &cache, $layout $(, $argument)*);
        $bench($row, "heirloom, buffer", &slabs, $layout $(, $argument)*);
    }};
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a power of two")
}

fn name_of(size: usize) -> String {
    if size < 1024 { format!("{size} B") } else { format!("{} KiB", size / 1024) }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
fn once(peer: &impl Objects, layout: Layout) {
    let object = peer.alloc(layout);
    // SAFETY: allocated just now, and not used again.
    unsafe { peer.free(black_box(object), layout) };
}

/// Fills `into`, whose room is there already: a vector that grows would be timed too.
fn alloc_all(peer: &impl Objects, layout: Layout, into: &mut Vec<NonNull<u8>>, count: usize) {
    into.clear();
    into.extend((0..count).map(|_| peer.alloc(layout)));
}

fn free_all(peer: &impl Objects, layout: Layout, objects: &[NonNull<u8>]) {
    for object in objects {
        // SAFETY: the rows free what they allocated from the peer, once.
        unsafe { peer.free(*object, layout) };
    }
}

fn pair(row: &mut Row<'_>, name: &str, peer: &impl Objects, layout: Layout) {
    row.bench_function(name, |b| b.iter(|| once(peer, layout)));
}

/// 64 objects and then their frees, so often that looking at the clock does not count.
fn batches(row: &mut Row<'_>, name: &str, peer: &impl Objects, layout: Layout) {
    const BATCHES: u64 = 256;
    let mut objects = Vec::with_capacity(64);
    row.bench_function(name, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, ()) = time(|| {
                    for _ in 0..BATCHES {
                        alloc_all(peer, layout, &mut objects, 64);
                        free_all(peer, layout, &objects);
                    }
                });
                (took, BATCHES * 64)
            })
        });
    });
}

fn bulk_alloc(row: &mut Row<'_>, name: &str, peer: &impl Objects, layout: Layout) {
    let mut objects = Vec::with_capacity(BULK);
    row.bench_function(name, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, ()) = time(|| alloc_all(peer, layout, &mut objects, BULK));
                free_all(peer, layout, &objects);
                (took, BULK as u64)
            })
        });
    });
}

fn bulk_free(row: &mut Row<'_>, name: &str, peer: &impl Objects, layout: Layout, random: bool) {
    let mut objects = Vec::with_capacity(BULK);
    let mut dice = Dice::new(5);
    row.bench_function(name, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                alloc_all(peer, layout, &mut objects, BULK);
                if random {
                    dice.shuffle(&mut objects);
                }
                (time(|| free_all(peer, layout, &objects)).0, BULK as u64)
            })
        });
    });
}

fn one_thread(c: &mut Criterion) {
    for size in [64, 256, 1024] {
        let (mut row, layout) = (row(c, &format!("{}, pair", name_of(size))), bytes(size));
        heirlooms!(&mut row, pair, layout);
        mallocs!(&mut row, pair, layout);
        pair(&mut row, "talc", &talc(), layout);
        pair(&mut row, "slabmalloc", &Slabmalloc::<Alone<_>>::new(), layout);
    }
    for size in [4096, 16_384, 65_536] {
        let (mut row, layout) = (row(c, &format!("{}, pair", name_of(size))), bytes(size));
        let slabs = slabs(2);
        pair(&mut row, "heirloom, buffer", &slabs, layout);
        pair(&mut row, "heirloom, buffer, preserving", &Preserving(&slabs), layout);
        mallocs!(&mut row, pair, layout);
        pair(&mut row, "talc", &talc(), layout);
    }
    for size in [64, 1024, 4096] {
        let name = format!("{}, 64 allocs then 64 frees", name_of(size));
        let (mut row, layout) = (row(c, &name), bytes(size));
        heirlooms!(&mut row, batches, layout);
        mallocs!(&mut row, batches, layout);
        batches(&mut row, "talc", &talc(), layout);
        if size < 4096 {
            batches(&mut row, "slabmalloc", &Slabmalloc::<Alone<_>>::new(), layout);
        }
    }
}

fn bulk(c: &mut Criterion) {
    let layout = bytes(64);
    let mut alloc = row(c, "64 B, a million: alloc");
    heirlooms!(&mut alloc, bulk_alloc, layout);
    mallocs!(&mut alloc, bulk_alloc, layout);
    bulk_alloc(&mut alloc, "talc", &talc(), layout);
    alloc.finish();
    for (random, how) in [(false, "in order"), (true, "in random order")] {
        let mut row = row(c, &format!("64 B, a million: free {how}"));
        heirlooms!(&mut row, bulk_free, layout, random);
        mallocs!(&mut row, bulk_free, layout, random);
        bulk_free(&mut row, "talc", &talc(), layout, random);
    }
}

/// 10,000 buffers of 64 to 4096 bytes, of which one at a time is replaced.
fn replace(row: &mut Row<'_>, name: &str, peer: &impl Objects) {
    const LIVE: u64 = 10_000;
    let mut dice = Dice::new(7);
    let mut step = || (dice.roll(LIVE) as usize, bytes(64 + dice.roll(4096 - 64 + 1) as usize));
    let alloc = |layout| (peer.alloc(layout), layout);
    let mut live: Vec<_> = (0..LIVE).map(|_| alloc(step().1)).collect();
    // Rolled in advance; as many that a predictor does not learn them.
    let steps: Vec<_> = (0..1 << 18).map(|_| step()).collect();
    let mut steps = steps.iter().cycle();
    row.bench_function(name, |b| {
        b.iter(|| {
            let (i, layout) = *steps.next().expect("endless");
            let (object, of) = live[i];
            // SAFETY: allocated by the bench with the layout, and replaced here.
            unsafe { peer.free(object, of) };
            live[i] = alloc(layout);
        });
    });
}

/// Has each of two threads replace buffers of its own.
fn replace_twice(row: &mut Row<'_>, name: &str, peer: &impl Objects) {
    const LIVE: u64 = 10_000;
    const STEPS: u64 = 1 << 18;
    row.bench_function(name, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let live = Barrier::new(2);
                let took = thread::scope(|s| {
                    let threads = [7, 11].map(|seed| {
                        let live = &live;
                        s.spawn(move || {
                            let mut dice = Dice::new(seed);
                            let mut step = || {
                                let size = 64 + dice.roll(4096 - 64 + 1) as usize;
                                (dice.roll(LIVE) as usize, bytes(size))
                            };
                            let alloc = |layout| (peer.alloc(layout), layout);
                            let mut own: Vec<_> = (0..LIVE).map(|_| alloc(step().1)).collect();
                            let steps: Vec<_> = (0..STEPS).map(|_| step()).collect();
                            live.wait();
                            let (took, ()) = time(|| {
                                for (i, layout) in steps {
                                    let (object, of) = own[i];
                                    // SAFETY: allocated by this thread with the layout, and replaced here.
                                    unsafe { peer.free(object, of) };
                                    own[i] = alloc(layout);
                                }
                            });
                            for (object, of) in own {
                                // SAFETY: allocated by this thread with the layout.
                                unsafe { peer.free(object, of) };
                            }
                            took
                        })
                    });
                    threads
                        .map(|thread| thread.join().expect("a thread that ends"))
                        .into_iter()
                        .max()
                });
                (took.unwrap_or_default(), STEPS)
            })
        });
    });
}

fn churn(c: &mut Criterion) {
    let mut row = row(c, "churn of 64 B to 4 KiB, 10000 live");
    replace(&mut row, "heirloom, buffer", &slabs(2));
    mallocs!(&mut row, replace);
    replace(&mut row, "talc", &talc());
    row.finish();
    let mut row = crate::row(c, "2T: churn of 64 B to 4 KiB, 10000 live");
    let slabs = slabs(2);
    replace_twice(&mut row, "heirloom, buffer", &slabs);
    replace_twice(&mut row, "heirloom, buffer, preserving", &Preserving(&slabs));
    mallocs!(&mut row, replace_twice);
    replace_twice(&mut row, "talc", &talc());
}

fn pair_twice(row: &mut Row<'_>, name: &str, peer: &impl Objects, layout: Layout) {
    row.bench_function(name, |b| {
        b.iter_custom(|n| {
            twice(|_| {
                for _ in 0..n {
                    once(peer, layout);
                }
            })
        });
    });
}

/// Objects that one thread allocated and another is to free.
struct Parcel(Vec<NonNull<u8>>);

// SAFETY: the objects are the parcel's alone, and their allocators serve any thread.
unsafe impl Send for Parcel {}

/// One thread allocates parcels of 256 while another frees them; the time until both are done.
fn cross(row: &mut Row<'_>, name: &str, peer: &impl Objects, layout: Layout) {
    const PARCELS: usize = 1024;
    const OBJECTS: usize = 256;
    let round = || {
        let start = Barrier::new(2);
        let (send, receive) = mpsc::sync_channel::<Parcel>(8);
        let (send_back, empty) = mpsc::channel();
        for _ in 0..16 {
            send_back.send(Parcel(Vec::with_capacity(OBJECTS))).expect("a receiver");
        }
        let took = thread::scope(|s| {
            s.spawn(|| {
                start.wait();
                for mut parcel in receive {
                    free_all(peer, layout, &parcel.0);
                    parcel.0.clear();
                    // The other may be done.
                    let _: Result<_, _> = send_back.send(parcel);
                }
            });
            start.wait();
            let begun = Instant::now();
            for _ in 0..PARCELS {
                let mut parcel = empty.recv().expect("parcels come back");
                alloc_all(peer, layout, &mut parcel.0, OBJECTS);
                send.send(parcel).expect("a receiver");
            }
            drop(send);
            begun
        })
        .elapsed();
        (took, (PARCELS * OBJECTS) as u64)
    };
    row.bench_function(name, |b| b.iter_custom(|n| -> Duration { per_operation(n, round) }));
}

fn two_threads(c: &mut Criterion) {
    for size in [64, 1024] {
        let (mut row, layout) = (row(c, &format!("2T: {}, pair", name_of(size))), bytes(size));
        heirlooms!(&mut row, pair_twice, layout);
        mallocs!(&mut row, pair_twice, layout);
        pair_twice(&mut row, "talc", &talc(), layout);
        pair_twice(&mut row, "slabmalloc, locked", &Slabmalloc::<Locked<_>>::new(), layout);
    }
    for size in [64, 1024] {
        let name = format!("2T: {}, allocated on one core, freed on the other", name_of(size));
        let (mut row, layout) = (row(c, &name), bytes(size));
        heirlooms!(&mut row, cross, layout);
        mallocs!(&mut row, cross, layout);
        cross(&mut row, "talc", &talc(), layout);
    }
}

/// What `preserve` and `unpreserve` cost an object that was allocated without.
fn preserving(c: &mut Criterion) {
    let slabs = slabs(2);
    let cache = slabs.cache(CacheSpec::new("single", 64)).expect("a new cache");
    let [object, other] = [(); 2].map(|()| cache.alloc().expect("memory is free"));
    let pair = || {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { slabs.preserve(object) }.expect("a live object");
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { slabs.unpreserve(object) }.expect("a preserved object");
    };
    let mut row = row(c, "64 B, preserve and unpreserve");
    row.bench_function("heirloom", |b| b.iter(pair));
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { slabs.preserve(other) }.expect("a live object");
    row.bench_function("heirloom, beside a preserved one", |b| b.iter(pair));
    let large = slabs.alloc(bytes(16_384), AllocOptions::default()).expect("memory is free");
    row.bench_function("heirloom, 16 KiB", |b| {
        b.iter(|| {
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { slabs.preserve(large) }.expect("a live buffer");
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { slabs.unpreserve(large) }.expect("a preserved buffer");
        });
    });
}

criterion_group!(benches, one_thread, bulk, churn, two_threads, preserving);
criterion_main!(benches);
