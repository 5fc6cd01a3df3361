//! Many threads on one cache: objects have one owner each, whichever CPU frees them.

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;
use std::sync::{Barrier, Mutex};

use common::{fill, filled};
use heirloom_folio::threads::{Host, ThreadSlots};
use heirloom_folio::{Cpus, Linear, Memory, NodeId};
use heirloom_kho::{PAGE_SIZE, PhysAddr, Run};
use heirloom_slab::{AllocOptions, CacheSpec, Slabs};

type Machine = Host<Linear>;

/// An instance over `frames` frames with so many slots; its memory is never given back.
fn slabs(frames: u64, slots: usize) -> Slabs<Machine> {
    let start = PhysAddr::new(1 << 32);
    let space = |bytes: usize| {
        let space = vec![0_u128; bytes / 16 + PAGE_SIZE].leak();
        NonNull::slice_from_raw_parts(NonNull::from(space).cast::<u8>(), bytes + PAGE_SIZE)
    };
    let bytes = frames as usize * PAGE_SIZE;
    let ram = space(bytes).cast::<u8>();
    // SAFETY: the space is a page longer than its first `bytes`.
    let ram = unsafe { ram.add(ram.align_offset(PAGE_SIZE)) };
    let run = Run::new(start.pfn(), frames).unwrap();
    // SAFETY: leaked, each used for one thing alone.
    let memory = unsafe {
        let map = Linear::new(ram, start, bytes);
        let machine = Host::new(map).with_slots(ThreadSlots::new(slots));
        let cpus = machine.count();
        let memory = Memory::new(machine, space(Memory::<Machine>::cpu_bytes(cpus))).unwrap();
        memory.add_range(run, NodeId(0), space(Memory::<Machine>::range_bytes(run))).unwrap();
        memory
    };
    Slabs::new(memory).unwrap()
}

/// A pointer that another thread may free.
struct Sent(NonNull<u8>, usize, u8);

// SAFETY: the objects are plain bytes, and a value has one owner.
unsafe impl Send for Sent {}

/// A small generator, different for each seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % below
    }
}

/// `threads` threads allocate, free what any of them allocated, and preserve now and then.
fn shared_work(mut slabs: Slabs<Machine>, threads: u64, steps: usize) {
    let cache = slabs.cache(CacheSpec::new("shared", 64)).unwrap();
    let always = slabs.cache(CacheSpec::new("always", 200).preserving(true)).unwrap();
    let pool: Mutex<Vec<Sent>> = Mutex::new(Vec::new());
    let start = Barrier::new(threads as usize);
    std::thread::scope(|s| {
        let work = |thread| {
            let (slabs, pool, start) = (&slabs, &pool, &start);
            s.spawn(move || {
                let mut random = Random(0x9e37_79b9 + thread * 0x1234_5677);
                let mut own: Vec<Sent> = Vec::new();
                start.wait();
                for step in 0..steps {
                    let seed = (step as u8).wrapping_add(thread as u8);
                    match random.next(10) {
                        0..5 => {
                            let (ptr, size) = match random.next(4) {
                                0 => (always.alloc().unwrap(), 200),
                                1 => {
                                    let size = 1 + random.next(2 * PAGE_SIZE);
                                    let layout = Layout::from_size_align(size, 8).unwrap();
                                    (slabs.alloc(layout, AllocOptions::default()).unwrap(), size)
                                }
                                _ => (cache.alloc().unwrap(), 64),
                            };
                            // SAFETY: allocated just now.
                            unsafe { fill(ptr, size, seed) };
                            own.push(Sent(ptr, size, seed));
                        }
                        5..7 if !own.is_empty() => {
                            // To whoever comes first, and one from there.
                            let i = random.next(own.len());
                            let sent = own.swap_remove(i);
                            let mut pool = pool.lock().unwrap();
                            pool.push(sent);
                            let i = random.next(pool.len());
                            own.push(pool.swap_remove(i));
                        }
                        7 if !own.is_empty() => {
                            let object = &own[random.next(own.len())];
                            // SAFETY: in use, and nothing frees it meanwhile.
                            if unsafe { slabs.preserve(object.0) }.is_ok() {
                                // SAFETY: refused.
                                assert!(unsafe { slabs.free(object.0) }.is_err());
                                // SAFETY: in use, and nothing frees it meanwhile.
                                unsafe { slabs.unpreserve(object.0) }.unwrap();
                            }
                        }
                        8 if random.next(50) == 0 => {
                            cache.shrink();
                        }
                        _ if !own.is_empty() => {
                            let i = random.next(own.len());
                            let Sent(ptr, size, seed) = own.swap_remove(i);
                            // SAFETY: ours since we took it from the pool, or always.
                            unsafe {
                                assert!(filled(ptr, size, seed));
                                slabs.free(ptr).unwrap();
                            }
                        }
                        _ => {}
                    }
                }
                for Sent(ptr, size, seed) in own {
                    // SAFETY: as above.
                    unsafe {
                        assert!(filled(ptr, size, seed));
                        slabs.free(ptr).unwrap();
                    }
                }
            })
        };
        for thread in 0..threads {
            work(thread);
        }
    });
    for Sent(ptr, size, seed) in pool.into_inner().unwrap() {
        // SAFETY: in the pool it was nobody's.
        unsafe {
            assert!(filled(ptr, size, seed));
            slabs.free(ptr).unwrap();
        }
    }
    for cache in slabs.caches() {
        let stats = cache.stats();
        let all = stats.slabs * u64::from(cache.objects_per_slab());
        assert_eq!((stats.live, stats.preserved), (0, 0), "{cache:?}");
        assert_eq!(all, stats.free + stats.cached, "{cache:?}");
    }
    // All CPUs': a slot of a thread that has ended may be that of another test's by now.
    slabs.shrink_all();
    for cache in slabs.caches() {
        assert_eq!(cache.stats().slabs, 0, "{cache:?}");
    }
    slabs.memory().audit().unwrap();
}

#[test]
fn objects_have_one_owner_each() {
    shared_work(slabs(32768, 16), 4, 30_000);
}

#[test]
fn threads_without_a_slot_do_without_magazines() {
    shared_work(slabs(32768, 1), 4, 10_000);
}

/// Every slot has an owner that lives and works on something else, so `shrink` alone would find none
/// idle.
#[test]
fn what_is_left_in_slots_with_new_owners_is_had_by_the_only_user() {
    const SLOTS: usize = 16;
    let [mut slabs, others] = [(); 2].map(|()| slabs(4096, SLOTS));
    let work = |slabs: &Slabs<Machine>| {
        let cache = slabs.cache(CacheSpec::new("left", 64)).unwrap();
        // SAFETY: allocated just now.
        unsafe { cache.free(cache.alloc().unwrap()) }.unwrap();
    };
    let left =
        |slabs: &Slabs<Machine>| slabs.caches().map(|cache| cache.stats().slabs).sum::<u64>();
    std::thread::scope(|s| {
        s.spawn(|| work(&slabs));
    });
    let (born, end) = (Barrier::new(SLOTS + 1), Barrier::new(SLOTS + 1));
    std::thread::scope(|s| {
        for _ in 0..SLOTS {
            s.spawn(|| {
                work(&others);
                born.wait();
                end.wait();
            });
        }
        born.wait();
        slabs.shrink_all();
        end.wait();
    });
    assert_eq!(left(&slabs), 0);
}

#[test]
fn a_cache_is_created_once() {
    let slabs = slabs(4096, 16);
    let start = Barrier::new(4);
    let numbers: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                s.spawn(|| {
                    start.wait();
                    (0..20)
                        .map(|i| {
                            let spec = CacheSpec::new(&format!("cache {i}"), 8 + i * 8);
                            let cache = slabs.cache(spec).unwrap();
                            // SAFETY: allocated just now.
                            unsafe { cache.free(cache.alloc().unwrap()) }.unwrap();
                            cache.name()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(numbers.iter().all(|names| *names == numbers[0]));
    assert_eq!(slabs.caches().count(), 20);
}

#[test]
fn an_object_is_claimed_by_one_thread() {
    use common::{addr, successor};
    let first = common::slabs(4096);
    let spec = CacheSpec::new("raced", 64);
    let cache = first.cache(spec).unwrap();
    let handles: Vec<_> = (0..2000)
        .map(|_| {
            let object = cache.alloc().unwrap();
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { cache.preserve(object) }.unwrap();
            (addr(&first, object), first.reuse_tag_of(object).unwrap().0)
        })
        .collect();
    let second = successor(first, 4096).unwrap();
    second.adopt(spec).unwrap();
    let start = Barrier::new(4);
    let claimed: usize = std::thread::scope(|s| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                s.spawn(|| {
                    start.wait();
                    let claim =
                        |(addr, reuse_tag): &(_, _)| second.claim(*addr, 64, *reuse_tag).is_ok();
                    handles.iter().filter(|handle| claim(handle)).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(claimed, handles.len());
    let stats = second.cache(spec).unwrap().stats();
    assert_eq!((stats.live, stats.unclaimed, stats.preserved), (2000, 0, 2000));
    // All survive until they are freed, by all threads at once.
    std::thread::scope(|s| {
        for thread in 0..4 {
            let (second, handles, start) = (&second, &handles, &start);
            s.spawn(move || {
                start.wait();
                for (addr, _) in handles.iter().skip(thread).step_by(4) {
                    // SAFETY: claimed above, and this thread's to free.
                    unsafe { second.free(common::ptr(second, *addr)) }.unwrap();
                }
            });
        }
    });
    let stats = second.cache(spec).unwrap().stats();
    assert_eq!((stats.live, stats.unclaimed, stats.preserved), (0, 0, 0));
    // Nothing is preserved any more, so no slab is.
    let mut preserved = 0;
    second.memory().preserved().for_each(|block| preserved += block.order().index());
    assert_eq!(preserved, 0);
}
