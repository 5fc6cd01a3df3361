//! Resumed caches over generations, by their classes, types and threads.

use core::alloc::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Barrier, Mutex};

use heirloom_kho::PhysAddr;
use heirloom_slab::{Action, AllocOptions, Error, ObjectState, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::common::{addr, copy, fill, filled, ptr, slab_frames, slabs, successor, wrong};
use super::{FRAMES, Thing, check, free, leave, spec};

/// Random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Generations that resume, adopt or die in the middle, with a model of what is in use.
#[test]
fn generations_resume_what_others_left() {
    for (seed, preserving) in (1..=40_u64).flat_map(|seed| [(seed, false), (seed, true)]) {
        println!("seed {seed}, preserving: {preserving}");
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut kernel = slabs(FRAMES);
        let mut all: BTreeMap<PhysAddr, Thing> = BTreeMap::new();
        kernel.cache(spec(preserving)).unwrap();
        for _ in 0..6 {
            let cache = kernel.resume_or_create(spec(preserving)).unwrap();
            for _ in 0..dice.below(400) {
                let any = all.keys().nth(dice.below(all.len().max(1))).copied();
                match (dice.below(16), any) {
                    (0..6, _) | (_, None) => {
                        let (at, thing) = leave(&cache, dice.below(256) as u8);
                        assert!(all.insert(at, thing).is_none(), "{at} has two owners");
                    }
                    (6..10, Some(at)) => free(&cache, at, all.remove(&at).unwrap()),
                    (10, Some(at)) => {
                        let thing = all[&at];
                        let object = ptr(&kernel, at);
                        // SAFETY: in use, and the test's.
                        let again = unsafe { cache.preserve(object) };
                        // What was claimed is only held: it becomes preserved.
                        let wrong = |found| wrong(cache.name(), at, Action::Preserve, found);
                        let was = match thing.pinned {
                            true => wrong(ObjectState::Preserved),
                            false if preserving => wrong(ObjectState::Live),
                            false => Ok(()),
                        };
                        assert_eq!(again, was);
                        all.get_mut(&at).unwrap().pinned |= !preserving;
                    }
                    (11, Some(at)) => {
                        let thing = all[&at];
                        assert_eq!(
                            cache.at(at, thing.reuse_tag ^ 1),
                            Err(Error::Stale {
                                cache: cache.name(),
                                addr: at,
                                expected: thing.reuse_tag ^ 1,
                                found: thing.reuse_tag,
                            })
                        );
                    }
                    (12, _) => _ = cache.sweep(dice.below(4) as u64).unwrap(),
                    (13, _) if dice.below(8) == 0 => _ = kernel.shrink(),
                    (14, _) if dice.below(8) == 0 => check(&kernel, &cache, &all),
                    // Not to be found by the next, where it is not preserving.
                    (15, _) if !preserving => _ = cache.alloc().unwrap(),
                    _ => {}
                }
            }
            // It ends here; what a kernel in between claims, the next resumes like the rest.
            kernel = successor(kernel, FRAMES).unwrap();
            if dice.below(3) == 0 {
                let (cache, adopted) = kernel.adopt_or_create(spec(preserving)).unwrap();
                assert_eq!(adopted.unclaimed, all.len() as u64);
                for (at, thing) in &mut all {
                    if dice.below(2) == 0 {
                        kernel.claim(*at, 200, thing.reuse_tag).unwrap();
                    }
                    // Claimed, or resumed as unclaimed: freed by a plain free.
                    thing.pinned = false;
                }
                assert!(cache.stats().unswept == 0);
                kernel = successor(kernel, FRAMES).unwrap();
            }
        }
        let cache = kernel.resume_or_create(spec(preserving)).unwrap();
        check(&kernel, &cache, &all);
        kernel.memory().audit().unwrap();
        for (at, thing) in &all {
            free(&cache, *at, *thing);
        }
        kernel.shrink();
        assert_eq!(slab_frames(&kernel), 0);
    }
}

#[test]
fn small_buffers_are_resumed_by_their_classes() {
    let first = slabs(FRAMES);
    let mut all = Vec::new();
    for (i, size) in (1..2000).step_by(37).enumerate() {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let opts = AllocOptions { preserving: i % 2 == 0, zeroed: false };
        let buffer = first.alloc(layout, opts).unwrap();
        // SAFETY: allocated just now.
        unsafe {
            fill(buffer, size, i as u8);
            if !opts.preserving {
                first.preserve(buffer).unwrap();
            }
        }
        let (reuse_tag, bytes) = first.reuse_tag_of(buffer).unwrap();
        all.push((addr(&first, buffer), size, bytes as u64, reuse_tag, i as u8));
    }
    let second = successor(first, FRAMES).unwrap();
    // One that was claimed shows that its class is adopted.
    let claimed = copy(&second, FRAMES);
    let (at, _, bytes, reuse_tag, _) = all[0];
    claimed.claim(at, bytes, reuse_tag).unwrap();
    assert!(matches!(claimed.resume_buffers(), Err(Error::Adopted { .. })));
    second.resume_buffers().unwrap();
    second.resume_buffers().unwrap();
    for (at, size, bytes, reuse_tag, seed) in all {
        let buffer = second.at(at, bytes, reuse_tag).unwrap();
        assert_eq!(buffer, ptr(&second, at));
        assert!(matches!(second.at(at, bytes + 8, reuse_tag), Err(Error::WrongLength { .. })));
        assert!(matches!(
            second.claim(at, bytes, reuse_tag),
            Err(Error::WrongState { action: Action::Claim, .. })
        ));
        let larger = Layout::from_size_align(size * 3, 8).unwrap();
        // SAFETY: in use, and the test's.
        unsafe {
            assert!(filled(buffer, size, seed));
            if seed % 2 == 1 {
                second.unpreserve(buffer).unwrap();
            }
            let moved = second.realloc(buffer, larger).unwrap();
            assert!(filled(moved, size, seed));
            second.free(moved).unwrap();
        }
        assert!(second.at(at, bytes, reuse_tag).is_err());
    }
    second.shrink();
    assert_eq!(slab_frames(&second), 0);
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug)]
#[repr(C)]
struct Node {
    next: u64,
    value: u64,
}
persist!(Node { next, value });

#[test]
fn a_list_of_typed_objects_is_walked_by_its_addresses() {
    let first = slabs(FRAMES);
    let nodes = first.typed::<Node>("nodes", true).unwrap();
    let mut head = 0;
    for value in 0..1000 {
        head = nodes.insert(Node { next: head, value }).unwrap().leak().get();
    }
    let second = successor(first, FRAMES).unwrap();
    let nodes = second.resume_typed::<Node>("nodes", true).unwrap();
    for value in (0..1000).rev() {
        // SAFETY: the list's, which is this kernel's as a whole; each node is taken once.
        let node = unsafe { nodes.from_raw(PhysAddr::new(head)) };
        assert_eq!(node.value, value);
        head = node.next;
    }
    assert_eq!((head, nodes.cache().stats().live), (0, 0));
    assert!(second.resume_typed_or_create::<Node>("others", true).is_ok());
}

/// Threads free, allocate and look at objects of one cache, whose slabs are swept meanwhile.
#[test]
fn threads_use_a_resumed_cache_at_the_same_time() {
    for round in 0..20 {
        let first = slabs(FRAMES);
        let cache = first.cache(spec(round % 2 == 0)).unwrap();
        let all: Vec<_> = (0..1500_u32).map(|i| leave(&cache, i as u8)).collect();
        let second = successor(first, FRAMES).unwrap();
        let (start, owners) = (Barrier::new(3), Mutex::new(BTreeSet::new()));
        std::thread::scope(|scope| {
            for thread in 0..3_usize {
                let (second, all, start, owners) = (&second, &all, &start, &owners);
                scope.spawn(move || {
                    let mut dice = Dice(round * 3 + thread as u64 + 1);
                    start.wait();
                    let cache = second.resume(spec(round % 2 == 0)).unwrap();
                    let mut mine = Vec::new();
                    for (at, thing) in all.iter().skip(thread).step_by(3) {
                        assert_eq!(cache.at(*at, thing.reuse_tag), Ok(ptr(second, *at)));
                        // SAFETY: in use, and this thread's.
                        assert!(unsafe { filled(ptr(second, *at), 200, thing.seed) });
                        match dice.below(4) {
                            0 => mine.push((*at, *thing)),
                            1 => {
                                free(&cache, *at, *thing);
                                mine.push(leave(&cache, dice.below(256) as u8));
                            }
                            2 => {
                                free(&cache, *at, *thing);
                                cache.sweep(1).unwrap();
                            }
                            _ => free(&cache, *at, *thing),
                        }
                    }
                    for (at, thing) in mine {
                        // SAFETY: as above.
                        assert!(unsafe { filled(ptr(second, at), 200, thing.seed) });
                        assert!(owners.lock().unwrap().insert((at, thing.reuse_tag)), "two owners");
                    }
                });
            }
        });
        let cache = second.resume(spec(round % 2 == 0)).unwrap();
        let owners = owners.into_inner().unwrap();
        assert_eq!(cache.preserved().collect::<BTreeSet<_>>(), owners);
        second.memory().audit().unwrap();
        // The next finds just these.
        let third = successor(second, FRAMES).unwrap();
        let cache = third.resume(spec(round % 2 == 0)).unwrap();
        assert_eq!(cache.preserved().collect::<BTreeSet<_>>(), owners);
    }
}
