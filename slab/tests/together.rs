//! Takeovers by several threads: a cache is created, adopted and disposed of at the same time, and
//! neighbours in a slab are claimed, freed and given back.

mod common;

use core::alloc::Layout;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use std::sync::{Barrier, Mutex};

use common::{addr, fill, filled, ptr, slabs, successor};
use heirloom_folio::Disposition;
use heirloom_kho::{Order, PhysAddr};
use heirloom_slab::{AllocOptions, CacheSpec, Unclaimed};

const FRAMES: u64 = 2048;

#[test]
fn a_cache_is_created_adopted_and_disposed_of_at_the_same_time() {
    for (round, preserving) in (0..200_u64).flat_map(|round| [(round, false), (round, true)]) {
        let spec = CacheSpec::new("shared", 700).order(Order::ZERO).preserving(preserving);
        let first = slabs(FRAMES);
        let cache = first.cache(spec).unwrap();
        let left: BTreeSet<PhysAddr> = (0..60)
            .map(|_| {
                let object = cache.alloc().unwrap();
                if !preserving {
                    // SAFETY: allocated just now.
                    unsafe { first.preserve(object) }.unwrap();
                }
                addr(&first, object)
            })
            .collect();
        let second = successor(first, FRAMES).unwrap();
        let (start, told, made) = (Barrier::new(4), Mutex::new(Vec::new()), Mutex::default());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (second, start, told, made) = (&second, &start, &told, &made);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..thread * (round % 20) * 50 {
                        core::hint::spin_loop();
                    }
                    match thread {
                        // Two create it, and put objects of their own into it.
                        0 | 1 => {
                            let cache = second.cache(spec).unwrap();
                            let mine = (0..20).map(|_| {
                                let object = cache.alloc().unwrap();
                                if !preserving {
                                    // SAFETY: allocated just now.
                                    unsafe { second.preserve(object) }.unwrap();
                                }
                                addr(second, object)
                            });
                            let mine: Vec<_> = mine.collect();
                            let mut made: std::sync::MutexGuard<'_, BTreeSet<_>> =
                                made.lock().unwrap();
                            assert!(mine.into_iter().all(|at| made.insert(at)), "one owner each");
                        }
                        2 => second
                            .finish_inherited(|unclaimed| {
                                let run = match unclaimed {
                                    Unclaimed::Slab { slab, .. } => slab.run(),
                                    Unclaimed::Object { addr, size, .. } => {
                                        assert_eq!(size, 700);
                                        told.lock().unwrap().push((addr, addr));
                                        return Disposition::Free;
                                    }
                                };
                                let last = PhysAddr::new(run.addr().get() + run.bytes() - 1);
                                told.lock().unwrap().push((run.addr(), last));
                                Disposition::Free
                            })
                            .unwrap(),
                        _ => _ = second.adopt(spec).unwrap(),
                    }
                });
            }
        });
        let (cache, _) = second.adopt(spec).unwrap();
        let unclaimed: BTreeSet<_> = cache.unclaimed().map(|(at, _)| at).collect();
        let told = told.into_inner().unwrap();
        for at in left.difference(&unclaimed) {
            // It is gone because it was asked about, and by no other way.
            assert!(
                told.iter().any(|(from, to)| (from..=to).contains(&at)),
                "{at} in round {round}"
            );
        }
        assert!(unclaimed.is_subset(&left));
        let made: BTreeSet<_> = made.into_inner().unwrap();
        assert!(made.is_disjoint(&unclaimed));
        let stats = cache.stats();
        assert_eq!((stats.live, stats.unclaimed), (40, unclaimed.len() as u64));
        assert_eq!(second.caches().count(), 1);
        second.memory().audit().unwrap();
        // The cache directory is sound, and has just these.
        let third = successor(second, FRAMES).unwrap();
        let (cache, _) = third.adopt(spec).unwrap();
        let found: BTreeSet<_> = cache.unclaimed().map(|(at, _)| at).collect();
        assert_eq!(found, &made | &unclaimed);
    }
}

#[test]
fn neighbours_are_claimed_freed_and_given_back_at_the_same_time() {
    let layout = Layout::from_size_align(200, 8).unwrap();
    for (round, preserving) in (0..40_u64).flat_map(|round| [(round, false), (round, true)]) {
        let first = slabs(FRAMES);
        let opts = AllocOptions { preserving, zeroed: false };
        let left: Vec<_> = (0..3000_u64)
            .map(|i| {
                let buffer = first.alloc(layout, opts).unwrap();
                // SAFETY: allocated just now.
                unsafe { fill(buffer, 200, i as u8) };
                if !preserving {
                    // SAFETY: as above.
                    unsafe { first.preserve(buffer) }.unwrap();
                }
                let (reuse_tag, size) = first.reuse_tag_of(buffer).unwrap();
                (addr(&first, buffer), size as u64, reuse_tag, i as u8)
            })
            .collect();
        let second = successor(first, FRAMES).unwrap();
        let (start, done) = (Barrier::new(4), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let work = |thread: usize| {
                let (second, start, left) = (&second, &start, &left);
                scope.spawn(move || {
                    start.wait();
                    let mine = left.iter().skip(thread).step_by(3);
                    for (i, (at, size, reuse_tag, seed)) in mine.enumerate() {
                        let buffer = second.claim(*at, *size, *reuse_tag).unwrap();
                        // SAFETY: claimed just now, and this thread's.
                        unsafe {
                            assert!(filled(buffer, 200, *seed));
                            match thread {
                                // This one frees what it claims, and takes others.
                                0 => {
                                    second.free(buffer).unwrap();
                                    let own =
                                        second.alloc(layout, AllocOptions::default()).unwrap();
                                    fill(own, 200, 0xee);
                                    second.free(own).unwrap();
                                }
                                1 if i % 2 == 0 && !preserving => {
                                    second.preserve(buffer).unwrap();
                                    second.unpreserve(buffer).unwrap();
                                    second.free(buffer).unwrap();
                                }
                                1 if i % 2 == 0 => second.free(buffer).unwrap(),
                                _ => {}
                            }
                        }
                    }
                })
            };
            let workers: Vec<_> = (0..3).map(work).collect();
            scope.spawn(|| {
                start.wait();
                while !done.load(Relaxed) {
                    second.shrink();
                }
            });
            let ended: Vec<_> =
                workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Relaxed);
            for ended in ended {
                ended.unwrap();
            }
        });
        let kept = |i: usize| i % 3 == 2 || i % 3 == 1 && (i / 3) % 2 == 1;
        let count = (0..left.len()).filter(|i| kept(*i)).count() as u64;
        let stats: Vec<_> = second.caches().map(|cache| cache.stats()).collect();
        assert_eq!(stats.iter().map(|stats| stats.live).sum::<u64>(), count);
        assert_eq!(stats.iter().map(|stats| stats.preserved).sum::<u64>(), count);
        assert_eq!(stats.iter().map(|stats| stats.unclaimed).sum::<u64>(), 0);
        second.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
        second.memory().audit().unwrap();
        let third = successor(second, FRAMES).unwrap();
        for (i, (at, size, reuse_tag, seed)) in left.iter().enumerate() {
            match third.claim(*at, *size, *reuse_tag) {
                // SAFETY: claimed just now.
                Ok(buffer) => assert!(kept(i) && unsafe { filled(buffer, 200, *seed) }),
                Err(error) => assert!(!kept(i), "round {round}: {error}"),
            }
        }
        // SAFETY: claimed above.
        (0..left.len()).filter(|i| kept(*i)).for_each(|i| unsafe {
            third.free(ptr(&third, left[i].0)).unwrap();
        });
        third.shrink();
        assert_eq!(common::slab_frames(&third), 0, "round {round}");
    }
}
