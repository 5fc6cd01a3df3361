//! Threads at work on one kernel, and threads that claim in the next.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};

use heirloom::folio::{FrameType, Request};
use heirloom::restore::Finished;
use heirloom_testkit::Rng;

use super::endless::{File, PLAIN, make, try_take};
use crate::common::{Kernel, World, order};

const THREADS: usize = 4;
const FILES: u64 = 80;

/// Runs a closure with its number on each of several threads, which begin together.
fn together(work: impl Fn(usize) + Sync) {
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let spawn = |thread| {
            let (work, start) = (&work, &start);
            scope.spawn(move || {
                start.wait();
                work(thread);
            })
        };
        for thread in 0..THREADS {
            spawn(thread);
        }
    });
}

/// What does not survive, and has an owner all the same.
fn churn(kernel: &Kernel<'_>, rng: &mut Rng) {
    let stamp = rng.next();
    let mut folio = kernel.memory().alloc_folio(Request::new(order(rng.below(3) as u8))).unwrap();
    folio.bytes_mut()[..8].copy_from_slice(&stamp.to_ne_bytes());
    let ptr = kernel.alloc(8 + rng.below(600) as usize).unwrap().cast::<u64>();
    // SAFETY: a buffer of ours, of eight bytes or more, aligned to eight.
    unsafe { ptr.write(stamp) };
    if rng.below(8) == 0 {
        kernel.slabs().shrink();
    }
    assert_eq!(folio.bytes()[..8], stamp.to_ne_bytes());
    // SAFETY: as above.
    assert_eq!(unsafe { ptr.read() }, stamp);
    // SAFETY: ours, and used no more.
    unsafe { kernel.free(ptr.cast()) }.unwrap();
}

/// All threads want all files, each in another order; those for which `keep` says so stay.
fn claim_all(kernel: &Kernel<'_>, files: &[File], keep: impl Fn(&File) -> bool + Sync) {
    kernel.slabs().adopt(PLAIN).unwrap();
    let granted: Vec<_> = files.iter().map(|_| AtomicU32::new(0)).collect();
    together(|thread| {
        let mut rng = Rng::new(77 + thread as u64);
        for i in 0..files.len() {
            let i = if thread % 2 == 0 { i } else { files.len() - 1 - i };
            let i = (i + thread * files.len() / THREADS) % files.len();
            if try_take(kernel, &files[i], keep(&files[i])).is_ok() {
                granted[i].fetch_add(1, Ordering::Relaxed);
            }
            churn(kernel, &mut rng);
        }
    });
    for (file, granted) in files.iter().zip(granted) {
        assert_eq!(granted.into_inner(), 1, "file {:#x}", file.seed);
    }
    let ended = kernel.finish(|unclaimed| panic!("{unclaimed:?} was claimed by nobody"));
    assert_eq!(ended.unwrap(), Finished::default());
    kernel.memory().audit().unwrap();
}

#[test]
fn threads_hand_over_to_threads() {
    let world = World::new(16 << 10);
    let kernel = world.boot();
    let files: Mutex<Vec<File>> = Mutex::default();
    together(|thread| {
        let mut rng = Rng::new(1 + thread as u64);
        for n in 0..FILES {
            let file = make(&kernel, &mut rng, (thread as u64) << 32 | n);
            files.lock().unwrap().push(file);
            churn(&kernel, &mut rng);
            if n % 16 == 0 {
                kernel.publish(&format!("thread-{thread}"), &n.to_ne_bytes()).unwrap();
            }
        }
    });
    kernel.seal().unwrap();
    let mut files = files.into_inner().unwrap();
    files.sort_by_key(|file| file.seed);
    let stays = |file: &File| file.seed.is_multiple_of(2);

    let second = world.jump(kernel);
    for thread in 0..THREADS {
        let name = format!("thread-{thread}");
        assert_eq!(second.claim_root(&name).unwrap().bytes().len(), 8);
        second.unpublish(&name).unwrap();
    }
    claim_all(&second, &files, stays);
    let mut third = world.jump(second);
    files.retain(stays);
    claim_all(&third, &files, |_| false);
    // All CPUs': a slot of a thread that has ended may be that of another test's by now.
    third.shrink_all();
    let audit = third.memory().audit().unwrap();
    for kind in [FrameType::Folio, FrameType::Run, FrameType::Buffer, FrameType::Slab] {
        assert_eq!(audit.allocated[kind as usize], 0, "{kind:?}: {audit:?}");
    }
}
