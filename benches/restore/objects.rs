//! Claiming objects by their handles: a thousand that the processor has in its caches, and a million in
//! random order, beside what it takes to wait for the lines that they lie in, in the same order.

use std::hint::black_box;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use criterion::Criterion;
use heirloom::folio::DirectMap;
use heirloom::kho::{Handle, PAGE_SIZE, Parts, PhysAddr};
use heirloom::slab::CacheSpec;
use heirloom_benches::kernels::{Kernel, Machine, Map, boot, machine, revive};
use heirloom_benches::{Dice, once_for_all, per_operation, row, time, twice};

const SIZE: usize = 64;
/// Bytes of a slab of such objects, and where its state bytes start.
const SLAB: u64 = 16 * PAGE_SIZE as u64;
const STATES: u64 = 128;

/// Which objects: those of a preserving cache, or such as were preserved one by one.
const KINDS: [(&str, CacheSpec, bool); 2] = [
    ("heirloom", CacheSpec::new("preserving", SIZE).preserving(true), true),
    ("heirloom, plain cache", CacheSpec::new("plain", SIZE), false),
];

const MILLION: usize = 1 << 20;

/// A kernel that took over `count` objects of a cache, which it adopted, and their handles: in the order in
/// which they were made, or in another.
fn left<'r>(
    ram: &'r Machine,
    map: &Map,
    (_, spec, preserving): (&str, CacheSpec, bool),
    count: usize,
    mut dice: Option<Dice>,
) -> (Kernel<'r>, Vec<Handle>) {
    let old = boot(ram, map);
    let cache = old.slabs().cache(spec).expect("a new cache");
    let object = |_| {
        let object = cache.alloc().expect("memory is free");
        // SAFETY: allocated just now.
        unsafe { object.write_bytes(1, SIZE) };
        if preserving {
            return old.handle_of(object).expect("a live object");
        }
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { old.preserve(object) }.expect("memory for the slab's entry")
    };
    let mut handles: Vec<_> = (0..count).map(object).collect();
    if let Some(dice) = &mut dice {
        dice.shuffle(&mut handles);
    }
    let entry = old.entry();
    drop(old);
    let kernel = revive(ram, map, entry);
    kernel.slabs().adopt(spec).expect("sound");
    (kernel, handles)
}

fn claim(kernel: &Kernel<'_>, handles: &[Handle]) {
    for handle in handles {
        black_box(kernel.restore(*handle).expect("once"));
    }
}

/// The first byte of each object, and its state.
fn bytes<'k>(kernel: &'k Kernel<'_>, handles: &[Handle]) -> [Vec<&'k AtomicU8>; 2] {
    let addr = |handle: &Handle| match handle.parts() {
        Ok(Parts::Object { addr, .. }) => addr.get(),
        other => panic!("no object: {other:?}"),
    };
    let objects: Vec<u64> = handles.iter().map(addr).collect();
    let first = objects.iter().map(|addr| addr % SLAB).min().expect("objects");
    let state = |addr: &u64| addr - addr % SLAB + STATES + (addr % SLAB - first) / SIZE as u64;
    let states = objects.iter().map(state).collect();
    let machine = kernel.memory().machine();
    [objects, states].map(|addrs: Vec<u64>| {
        let byte = |addr| machine.ptr(PhysAddr::new(addr)).as_ptr();
        // SAFETY: in a slab, which stays as long as the kernel; not read but as an atomic.
        addrs.into_iter().map(|addr| unsafe { AtomicU8::from_ptr(byte(addr)) }).collect()
    })
}

/// Loads the bytes, one after the other: each address is known when the load before has ended.
fn load(bytes: &[&AtomicU8]) {
    // Zero, which the compiler does not know.
    let none = black_box(0);
    let end = bytes.iter().fold(0, |before, byte| {
        let byte = std::ptr::from_ref(*byte).wrapping_add(usize::from(before & none));
        // SAFETY: `none` is zero: the byte that the reference is to.
        unsafe { &*byte }.load(Relaxed)
    });
    black_box(end);
}

/// Writes the bytes as they are, each by a read-modify-write at an address that is known once the one before
/// has ended.
fn modify(bytes: &[&AtomicU8]) {
    let none = black_box(0);
    let end = bytes.iter().fold(0, |before, byte| {
        let byte = std::ptr::from_ref(*byte).wrapping_add(usize::from(before & none));
        // SAFETY: as in `load`.
        unsafe { &*byte }.fetch_add(none, Relaxed)
    });
    black_box(end);
}

/// The time of `work` on all of them for one: on one thread, or on two that have a half each.
fn shared<T: Sync>(threads: usize, all: &[T], work: impl Fn(&[T]) + Sync) -> (Duration, u64) {
    let (first, second) = all.split_at(all.len() / threads);
    if threads == 1 {
        return (time(|| work(first)).0, first.len() as u64);
    }
    (twice(|i| work(if i == 0 { first } else { second })), first.len() as u64)
}

/// What is done to bytes.
type Work = fn(&[&AtomicU8]);

pub(crate) fn claiming(c: &mut Criterion) {
    let (map, ram) = machine(1);
    let mut named = row(c, "the handle of an object");
    for kind in KINDS {
        let (kernel, handles) = left(&ram, &map, kind, 1, None);
        let object = kernel.restore(handles[0]).expect("left by the first kernel");
        named.bench_function(kind.0, |b| b.iter(|| kernel.handle_of(black_box(object))));
    }
    named.finish();
    let mut hot = row(c, "claim an object by handle, 1000 hot");
    for kind in KINDS {
        hot.bench_function(kind.0, |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (kernel, handles) = left(&ram, &map, kind, 1000, None);
                    // The handles too are to be there.
                    load(&bytes(&kernel, &handles)[1]);
                    (time(|| claim(&kernel, &handles)).0, handles.len() as u64)
                })
            });
        });
    }
    hot.finish();
    for (threads, name) in [
        (1, "claim an object by handle, a million at random"),
        (2, "2T: claim an object by handle, a million at random"),
    ] {
        let mut random = row(c, name);
        for kind in KINDS {
            random.bench_function(kind.0, |b| {
                b.iter_custom(|n| {
                    once_for_all(n, || {
                        let (kernel, handles) =
                            left(&ram, &map, kind, MILLION, Some(Dice::new(11)));
                        shared(threads, &handles, |some| claim(&kernel, some))
                    })
                });
            });
        }
        let works: [(&str, usize, Work); 3] = [
            ("a load of its state", 1, load),
            ("a read-modify-write of its state", 1, modify),
            ("a load of it", 0, load),
        ];
        for (what, which, work) in works {
            random.bench_function(what, |b| {
                b.iter_custom(|n| {
                    once_for_all(n, || {
                        let (kernel, handles) =
                            left(&ram, &map, KINDS[0], MILLION, Some(Dice::new(11)));
                        shared(threads, &bytes(&kernel, &handles)[which], work)
                    })
                });
            });
        }
        random.finish();
    }
}
