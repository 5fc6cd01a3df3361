//! Claims from several threads at once: each handle is one thread's, and none is refused. What is
//! claimed survives: each round's jump is without another call.

mod common;

use core::alloc::Layout;
use std::sync::Barrier;

use common::{addr, slabs, successor};
use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Order, PAGE_SHIFT, PhysAddr};
use heirloom_slab::{AllocOptions, CacheSpec, Error, Slabs};

const FRAMES: u64 = 4096;
const OBJECTS: usize = 20_000;
const BYTES: usize = 200;

/// What a handle holds.
#[derive(Clone, Copy, Debug)]
struct Left {
    addr: PhysAddr,
    size: u64,
    reuse_tag: u8,
}

/// Runs a closure with its number on each of `threads` threads, which begin together, and collects
/// what they return.
fn together<T: Send>(threads: usize, work: impl Fn(usize) -> Vec<T> + Sync) -> Vec<T> {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let spawn = |thread| {
            let (work, start) = (&work, &start);
            scope.spawn(move || {
                start.wait();
                work(thread)
            })
        };
        let spawned: Vec<_> = (0..threads).map(spawn).collect();
        spawned.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Preserved buffers, neighbours in few slabs.
fn leave(slabs: &Slabs<Ram>, preserving: bool) -> Vec<Left> {
    let layout = Layout::from_size_align(BYTES, 8).unwrap();
    let one = |_| {
        let buffer = slabs.alloc(layout, AllocOptions { preserving, zeroed: false }).unwrap();
        let (reuse_tag, size) = slabs.reuse_tag_of(buffer).unwrap();
        if !preserving {
            // SAFETY: allocated just now.
            unsafe { slabs.preserve(buffer) }.unwrap();
        }
        Left { addr: addr(slabs, buffer), size: size as u64, reuse_tag }
    };
    (0..OBJECTS).map(one).collect()
}

/// Claims every `threads`-th handle, from `thread` on: those that are refused.
fn claim(slabs: &Slabs<Ram>, left: &[Left], thread: usize, threads: usize) -> Vec<String> {
    let mine = left.iter().skip(thread).step_by(threads);
    let claimed = mine.map(|left| slabs.claim(left.addr, left.size, left.reuse_tag));
    claimed.filter_map(Result::err).map(|error| error.to_string()).collect()
}

#[test]
fn neighbours_are_claimed_by_threads_that_come_first_to_their_slab_together() {
    for (threads, preserving) in [(2, false), (4, false), (3, true)] {
        let mut slabs = slabs(FRAMES);
        let left = leave(&slabs, preserving);
        for round in 0..40 {
            slabs = successor(slabs, FRAMES).unwrap();
            let refused = together(threads, |thread| claim(&slabs, &left, thread, threads));
            let first = refused.first();
            assert_eq!(first, None, "{} refused, {threads} threads, round {round}", refused.len());
            slabs.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
            slabs.memory().predecessor().finish(|_| Disposition::Free);
        }
    }
}

#[test]
fn what_is_claimed_while_the_rest_is_kept_is_never_refused() {
    let mut slabs = slabs(FRAMES);
    let left = leave(&slabs, false);
    for round in 0..20 {
        slabs = successor(slabs, FRAMES).unwrap();
        let refused = together(3, |thread| match thread {
            2 => {
                let kept = slabs.finish_inherited(|_| Disposition::Keep);
                kept.err().map(|error| format!("finish: {error}")).into_iter().collect()
            }
            _ => claim(&slabs, &left, thread, 2),
        });
        let first = refused.first();
        assert_eq!(first, None, "{} refused, round {round}", refused.len());
        slabs.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
        slabs.memory().predecessor().finish(|_| Disposition::Free);
    }
}

#[test]
fn each_thread_that_adopted_a_cache_may_claim_in_all_of_it() {
    const SPEC: CacheSpec = CacheSpec::new("things", BYTES);
    for preserving in [false, true] {
        let spec = SPEC.preserving(preserving);
        let mut slabs = slabs(FRAMES);
        let cache = slabs.cache(spec).unwrap();
        let one = |_| {
            let object = cache.alloc().unwrap();
            let (reuse_tag, size) = slabs.reuse_tag_of(object).unwrap();
            if !preserving {
                // SAFETY: allocated just now.
                unsafe { slabs.preserve(object) }.unwrap();
            }
            Left { addr: addr(&slabs, object), size: size as u64, reuse_tag }
        };
        let left: Vec<Left> = (0..OBJECTS / 4).map(one).collect();
        for round in 0..40 {
            slabs = successor(slabs, FRAMES).unwrap();
            let refused = together(3, |thread| {
                if let Err(error) = slabs.adopt(spec) {
                    return vec![error.to_string()];
                }
                claim(&slabs, &left, thread, 3)
            });
            let first = refused.first();
            assert_eq!(first, None, "{} refused, round {round}", refused.len());
            slabs.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
            slabs.memory().predecessor().finish(|_| Disposition::Free);
        }
    }
}

/// Two threads adopt one cache at the same time, the second at every moment of the first's call in
/// some round, and each claims its own objects as soon as its call has returned.
#[test]
fn a_call_that_adopts_finds_what_another_is_adopting() {
    const FRAMES: u64 = 8192;
    // Slabs of 256 KiB.
    let order = Order::new(18 - PAGE_SHIFT as u8).unwrap();
    let spec = CacheSpec::new("both", 16).order(order).preserving(true);
    let mut old = slabs(FRAMES);
    let cache = old.cache(spec).unwrap();
    let count = cache.objects_per_slab() * 3;
    let all: Vec<_> = (0..count).map(|_| addr(&old, cache.alloc().unwrap())).collect();
    for round in 0..300 {
        let new = successor(old, FRAMES).unwrap();
        let refused = together(2, |thread| {
            for _ in 0..thread * round * 200 {
                core::hint::spin_loop();
            }
            let (cache, _) = new.adopt(spec).unwrap();
            // From the last one on: its slab was adopted last.
            let mine = all.iter().rev().skip(thread).step_by(2);
            mine.filter_map(|addr| cache.claim(*addr).err()).collect()
        });
        assert!(refused.is_empty(), "round {round}: {} refused: {}", refused.len(), refused[0]);
        old = new;
    }
}

/// A slab that [`Slabs::upgrade`] has set aside is said to be, in the closure and by any thread; once
/// it is put back, everything is there.
#[test]
fn what_an_upgrade_has_set_aside_is_said_to_be() {
    const FRAMES: u64 = 1024;
    let spec = CacheSpec::new("aside", 64).order(Order::ZERO).preserving(true);
    let claiming = Error::Folio(heirloom_folio::Error::PredecessorBusy);
    let old = slabs(FRAMES);
    let cache = old.cache(spec).unwrap();
    let all: Vec<_> = (0..200).map(|_| addr(&old, cache.alloc().unwrap())).collect();
    let new = successor(old, FRAMES).unwrap();
    let record = new.inherited("aside").unwrap();
    let stop = Error::Constructed { cache: record.name() };
    let mut asked = 0;
    let upgraded = new.upgrade(&record, |object| {
        asked += 1;
        assert_eq!(new.adopt(spec).map(|_| ()), Err(claiming));
        assert_eq!(new.claim(object.addr, 64, object.reuse_tag), Err(claiming));
        Err(stop)
    });
    assert_eq!((upgraded, asked), (Err(stop), 1));
    let (cache, _) = new.adopt(spec).unwrap();
    assert!(all.iter().all(|addr| cache.claim(*addr).is_ok()));

    let old = slabs(FRAMES);
    let cache = old.cache(spec).unwrap();
    let all: Vec<_> = (0..200).map(|_| addr(&old, cache.alloc().unwrap())).collect();
    let mut old = Some(old);
    for round in 0..200 {
        let new = successor(old.take().unwrap(), FRAMES).unwrap();
        let record = new.inherited("aside").unwrap();
        let refused = together(2, |thread| {
            if thread == 1 {
                for _ in 0..20 {
                    let upgraded = new.upgrade(&record, |_| Err(stop));
                    assert!(upgraded == Err(stop) || upgraded == Ok(0), "{upgraded:?}");
                }
                return Vec::new();
            }
            let cache = loop {
                match new.adopt(spec) {
                    Ok((cache, _)) => break cache,
                    Err(error) => assert_eq!(error, claiming),
                }
            };
            all.iter().filter_map(|addr| cache.claim(*addr).err()).collect()
        });
        assert!(refused.is_empty(), "round {round}: {} refused: {}", refused.len(), refused[0]);
        old = Some(new);
    }
}
