//! Callers' code that heirloom runs may use heirloom: it is the process's allocator here, and each
//! closure and constructor allocates the first buffer of every size class.
//!
//! A call that waits for itself is found by a watchdog, which ends the process.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use common::{Kernel, World, keep_buffer, keep_folio, stamped_at};
use heirloom::folio::harness::Ram;
use heirloom::folio::{DirectMap, Disposition};
use heirloom::restore::Unclaimed;
use heirloom::slab::{CacheSpec, Global};

const FRAMES: u64 = 4096;
const THREADS: usize = 2;
const PLAIN: CacheSpec = CacheSpec::new("things", 72);

/// An instance for each test, where it lies, and how far it reaches.
struct Heap {
    buffers: Global<&'static Ram>,
    start: AtomicUsize,
    end: AtomicUsize,
}

static HEAPS: [Heap; 8] = [const {
    Heap { buffers: Global::new(), start: AtomicUsize::new(0), end: AtomicUsize::new(0) }
}; 8];

std::thread_local! {
    /// Which instance this thread allocates from; none outside of closures.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The process's allocator: heirloom where a thread says so.
struct Switch;

impl Switch {
    fn of(ptr: *mut u8) -> &'static dyn GlobalAlloc {
        let within = |heap: &&Heap| {
            (heap.start.load(Ordering::Relaxed)..heap.end.load(Ordering::Relaxed))
                .contains(&ptr.addr())
        };
        match HEAPS.iter().find(within) {
            Some(heap) => &heap.buffers,
            None => &System,
        }
    }
}

// SAFETY: both allocators are sound, and memory goes back to the one that it came from.
unsafe impl GlobalAlloc for Switch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match HERE.get() {
            // SAFETY: the caller's promise.
            Some(n) => unsafe { HEAPS[n].buffers.alloc(layout) },
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Self::of(ptr).dealloc(ptr, layout) };
    }
}

#[global_allocator]
static SWITCH: Switch = Switch;

/// Runs `f` with heirloom as the allocator.
fn within<R>(n: usize, f: impl FnOnce() -> R) -> R {
    let before = HERE.replace(Some(n));
    let result = f();
    HERE.set(before);
    result
}

/// Pushes into an empty `Vec` of each size class, and of some that take whole pages.
fn push_everywhere() {
    let sizes = (1..=128).step_by(8).chain((128..5000).step_by(64));
    let vecs: Vec<Vec<u8>> = sizes
        .map(|bytes| {
            let mut vec = Vec::with_capacity(bytes);
            vec.push(1);
            vec
        })
        .collect();
    assert!(vecs.iter().all(|vec| vec == &[1]));
}

/// A kernel that revived: test `n`'s instance. Its predecessor left what `leave` made.
fn heirs<T>(n: usize, leave: impl FnOnce(&Kernel<'_>) -> T) -> (&'static Kernel<'static>, T) {
    let world: &'static World = Box::leak(Box::new(World::new(FRAMES)));
    let first = world.boot();
    let left = leave(&first);
    let kernel: &'static Kernel<'static> = Box::leak(Box::new(world.jump(first)));
    let all = world.map()[0].0;
    let start = kernel.memory().machine().ptr(all.addr()).addr().get();
    HEAPS[n].start.store(start, Ordering::Relaxed);
    HEAPS[n].end.store(start + all.bytes() as usize, Ordering::Relaxed);
    assert!(HEAPS[n].buffers.set(kernel.slabs()).is_ok());
    (kernel, left)
}

/// Runs a closure on two threads at once; ends the process if they do not come back.
fn together(work: impl Fn(usize) + Sync) {
    let (done, watched) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = Err(mpsc::RecvTimeoutError::Timeout);
        if watched.recv_timeout(Duration::from_secs(60)) == late {
            eprintln!("a closure that allocates does not come back");
            std::process::abort();
        }
    });
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (work, start) = (&work, &start);
            scope.spawn(move || {
                start.wait();
                work(thread);
            });
        }
    });
    drop(done);
    watchdog.join().unwrap();
}

/// Objects of a plain cache, preserved; how many.
fn leave_things(kernel: &Kernel<'_>) -> u64 {
    let things = kernel.slabs().cache(PLAIN).unwrap();
    for _ in 0..200 {
        // SAFETY: allocated just now.
        unsafe { kernel.preserve(things.alloc().unwrap()) }.unwrap();
    }
    200
}

#[test]
fn the_closure_of_finish_allocates() {
    let (kernel, ()) = heirs(0, |kernel| {
        leave_things(kernel);
        for seed in 0..4 {
            keep_folio(kernel, 0, seed).unwrap();
            keep_buffer(kernel, 40, false, seed).unwrap();
        }
    });
    // Some objects too, in a slab that is adopted.
    kernel.slabs().adopt(PLAIN).unwrap();
    let asked = AtomicUsize::new(0);
    together(|_| {
        let finished = kernel.finish(|_| {
            within(0, push_everywhere);
            asked.fetch_add(1, Ordering::Relaxed);
            Disposition::Free
        });
        finished.unwrap();
    });
    assert!(asked.into_inner() > 200 + 4);
    kernel.memory().audit().unwrap();
}

#[test]
fn the_closure_of_upgrade_allocates() {
    let (kernel, left) = heirs(1, leave_things);
    let record = kernel.slabs().inherited("things").unwrap();
    let seen = AtomicUsize::new(0);
    together(|_| {
        let upgraded = kernel.slabs().upgrade(&record, |object| {
            assert_eq!(object.bytes.len(), 72);
            within(1, push_everywhere);
            seen.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        upgraded.unwrap();
    });
    assert_eq!(seen.into_inner() as u64, left);
    kernel.finish(|unclaimed| panic!("{unclaimed:?} was upgraded")).unwrap();
    kernel.memory().audit().unwrap();
}

#[test]
fn a_constructor_allocates_while_its_cache_is_adopted() {
    fn construct(_: NonNull<u8>) {
        within(2, push_everywhere);
    }
    const MADE: CacheSpec = PLAIN.constructor(construct);
    let (kernel, left) = heirs(2, |kernel| {
        let things = kernel.slabs().cache(PLAIN).unwrap();
        for _ in 0..3 {
            // SAFETY: allocated just now.
            unsafe { kernel.preserve(things.alloc().unwrap()) }.unwrap();
        }
        3
    });
    together(|_| {
        let (cache, _) = kernel.slabs().adopt(MADE).unwrap();
        let object = cache.alloc().unwrap();
        // SAFETY: allocated just now, and as constructed.
        unsafe { cache.free(object) }.unwrap();
    });
    let (cache, again) = kernel.slabs().adopt(MADE).unwrap();
    assert_eq!((again.slabs, cache.stats().unclaimed), (0, left));
    kernel.memory().audit().unwrap();
}

#[test]
fn closures_of_walks_allocate() {
    let (kernel, folios) = heirs(3, |kernel| {
        leave_things(kernel);
        kernel.publish("name", b"bytes").unwrap();
        [1, 2].map(|seed| keep_folio(kernel, 0, seed).unwrap())
    });
    kernel.slabs().adopt(PLAIN).unwrap();
    together(|thread| {
        let seen = Cell::new(0);
        let see = || {
            within(3, push_everywhere);
            seen.set(seen.get() + 1);
        };
        kernel.slabs().for_each_inherited(|_| see());
        kernel.slabs().for_each_table(|_| see());
        kernel.for_each_inherited_subtree(|_, _, _| see()).unwrap();
        kernel.for_each_subtree(|_, _, _| see()).unwrap();
        kernel.memory().predecessor().for_each(|_| see());
        kernel.memory().preserved().for_each(|_| see());
        kernel
            .claim_folios(&folios[thread..=thread], |folio| {
                see();
                drop(folio.unpreserve());
            })
            .unwrap();
        for cache in kernel.slabs().caches().take(100) {
            see();
            assert!(cache.unclaimed().take(2).inspect(|_| see()).count() <= 2);
        }
        assert!(seen.get() > 10, "{}", seen.get());
    });
    kernel.memory().audit().unwrap();
}

#[test]
fn the_closure_of_finish_claims_what_it_wants() {
    let (kernel, handles) = heirs(4, |kernel| {
        (0..20).map(|seed| keep_buffer(kernel, 40, false, seed).unwrap()).collect::<Vec<_>>()
    });
    let claimed = AtomicUsize::new(0);
    together(|thread| {
        if thread == 1 {
            return within(4, push_everywhere);
        }
        let finished = kernel.finish(|unclaimed| {
            assert!(matches!(unclaimed, Unclaimed::Slab { objects: 20, .. }), "{unclaimed:?}");
            for (seed, handle) in (0..).zip(&handles) {
                let buffer = kernel.restore(*handle).unwrap();
                let addr = kernel.memory().machine().phys(buffer).unwrap();
                assert!(stamped_at(kernel, addr, 40, seed));
                claimed.fetch_add(1, Ordering::Relaxed);
            }
            Disposition::Free
        });
        assert_eq!(finished.unwrap(), heirloom::restore::Finished::default());
    });
    assert_eq!(claimed.into_inner(), 20);
    kernel.memory().audit().unwrap();
}
