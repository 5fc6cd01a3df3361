//! What was preserved survives, at any instant; what was not is free memory, or listed.

use heirloom::folio::{Disposition, FrameType, Request};
use heirloom::kho::{Handle, Name, Parts};
use heirloom::restore::{Records, Unclaimed};
use heirloom::slab::CacheSpec;

use crate::common::{
    Kernel, PAGE, State, World, finish_freeing, free_area, free_folio, free_frames, free_run,
    keep_area, keep_buffer, keep_folio, keep_run, order, stamp_at, stamped, stamped_at,
};
use crate::owned::Owned as _;

type Entry = [u64; 3];

/// What a step leaves: what it is claimed by, and the seed of its stamp.
type Kept = (Handle, u64);

const STEPS: u64 = 12;

/// Pages of a handover beside the tracker's nodes: root, scratch list, header, roll.
const OWN: u64 = 4;

/// The n-th thing to preserve: a bit of everything.
fn step(kernel: &Kernel<'_>, n: u64) -> Kept {
    let seed = n * 100;
    let handle = match n {
        0 => keep_folio(kernel, 0, seed),
        1 => keep_folio(kernel, 4, seed),
        2 => keep_run(kernel, 11, seed),
        3 => keep_buffer(kernel, 24, false, seed),
        4 => keep_buffer(kernel, 2000, false, seed),
        5 => keep_buffer(kernel, 3 * PAGE as usize + 5, false, seed),
        6 => keep_buffer(kernel, 100, true, seed),
        7 => keep_buffer(kernel, 7 * PAGE as usize, true, seed),
        8 => keep_area(kernel, 3, 1, seed),
        9 => {
            let mut records = Records::<_, Entry>::new(kernel.memory()).unwrap();
            for i in 0..300 {
                records.push(&[seed, i, !i]).unwrap();
            }
            Ok(Handle::new(Parts::Records { first: records.first(), entry: 24 }).unwrap())
        }
        10 => {
            let cache = kernel.slabs().cache(CacheSpec::new("things", 72)).unwrap();
            let ptr = cache.alloc().unwrap();
            // SAFETY: in use, and nothing frees it meanwhile.
            let handle = unsafe { kernel.preserve(ptr) }.unwrap();
            let Parts::Object { addr, .. } = handle.parts().unwrap() else { panic!("{handle:?}") };
            stamp_at(kernel, addr, 72, seed);
            Ok(handle)
        }
        _ => keep_folio(kernel, 9, seed),
    };
    let handle = handle.unwrap();
    kernel.publish(&format!("step{n}"), &<[u8; 16]>::from(handle)).unwrap();
    (handle, seed)
}

/// Claims what a step left, checks every byte of it, and frees it.
fn claim(kernel: &Kernel<'_>, n: u64, (expected, seed): Kept) {
    let root = kernel.claim_root(&format!("step{n}")).unwrap();
    let handle = Handle::from(<[u8; 16]>::try_from(root.bytes()).unwrap());
    assert_eq!(handle, expected);
    match handle.parts().unwrap() {
        Parts::Folio(block) => {
            let folio = kernel.claim_folio(handle).unwrap();
            assert_eq!((folio.extent(), stamped(folio.bytes(), seed)), (block, true));
            free_folio(folio);
        }
        Parts::Run(of) => {
            let run = kernel.claim_run(handle).unwrap();
            assert_eq!((run.extent(), stamped(run.bytes(), seed)), (of, true));
            free_run(run);
        }
        Parts::Buffer { addr, bytes } | Parts::Object { addr, bytes, .. } => {
            if n == 10 {
                kernel.slabs().adopt(CacheSpec::new("things", 72)).unwrap();
            }
            let ptr = kernel.restore(handle).unwrap();
            // Of a buffer, what was asked for; its class or its frames may have more.
            let asked = [24, 2000, 3 * PAGE + 5, 100, 7 * PAGE, 0, 0, 72][n as usize - 3];
            assert!(asked <= bytes && stamped_at(kernel, addr, asked as usize, seed));
            // SAFETY: claimed just now.
            unsafe { kernel.free(ptr) }.unwrap();
        }
        Parts::Area(_) => free_area(kernel, kernel.claim_area(handle).unwrap(), seed),
        Parts::Records { .. } => {
            let records = kernel.claim_records::<Entry>(handle).unwrap();
            let mut found = Vec::new();
            records.for_each(|entry| found.push(entry)).unwrap();
            assert_eq!(found, (0..300).map(|i| [seed, i, !i]).collect::<Vec<_>>());
            records.free().unwrap();
        }
        other @ Parts::Blob { .. } => panic!("{other:?}"),
    }
}

#[test]
fn a_preserve_that_returned_ok_survives() {
    let world = World::new(4096);
    let old = world.boot();
    let kept: Vec<_> = (0..STEPS).map(|n| step(&old, n)).collect();
    let new = world.jump(old);
    for (n, kept) in (0..).zip(kept) {
        claim(&new, n, kept);
    }
    assert_eq!(finish_freeing(&new), []);
}

#[test]
fn preserve_at_any_instant() {
    // The old kernel ends after any number of steps, with things half done: allocated, and not
    // preserved; a list begun; a cache with objects that do not survive.
    for steps in 0..=STEPS {
        let world = World::new(4096);
        let old = world.boot();
        let mut kept = Vec::new();
        for n in 0..steps {
            let lost = old.memory().alloc(Request::new(order(2))).unwrap();
            stamp_at(&old, lost.addr(), PAGE as usize, n);
            old.alloc(50 + n as usize * 300).unwrap();
            kept.push(step(&old, n));
        }
        let new = world.jump(old);
        for (n, kept) in (0..).zip(kept) {
            claim(&new, n, kept);
        }
        assert!(new.claim_root(&format!("step{steps}")).is_err());
        assert_eq!(finish_freeing(&new), [], "after {steps} steps");
    }
}

#[test]
fn what_was_unpreserved_does_not_survive() {
    let world = World::new(1024);
    let old = world.boot();
    let handle = keep_buffer(&old, 300, false, 1).unwrap();
    let Parts::Object { addr, .. } = handle.parts().unwrap() else { panic!("{handle:?}") };
    let ptr = heirloom::folio::DirectMap::ptr(world.ram(), addr);
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { old.unpreserve(ptr) }.unwrap();
    let folio = keep_folio(&old, 2, 2).unwrap();
    let Parts::Folio(block) = folio.parts().unwrap() else { panic!("{folio:?}") };
    old.memory().let_go(block).unwrap();
    old.publish("gone", b"gone").unwrap();
    old.unpublish("gone").unwrap();
    let new = world.jump(old);
    assert!(new.restore(handle).is_err());
    assert!(new.claim_folio(folio).is_err());
    assert!(new.claim_root("gone").is_err());
    assert_eq!(finish_freeing(&new), []);
}

/// A kernel that leaves things of every kind beside much that is not to survive.
fn leave(world: &World) -> Kernel<'_> {
    let old = world.boot();
    let things = CacheSpec::new("things", 72);
    let cache = old.slabs().cache(things).unwrap();
    let kept = CacheSpec::new("kept", 40).preserving(true);
    for i in 0..100_u64 {
        old.memory().alloc(Request::new(order((i % 5) as u8))).unwrap();
        old.alloc(40 * i as usize + 1).unwrap();
        let thing = cache.alloc().unwrap();
        if i % 50 == 0 {
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { old.preserve(thing) }.unwrap();
        }
    }
    let kept = old.slabs().cache(kept).unwrap();
    for _ in 0..5 {
        kept.alloc().unwrap();
    }
    keep_folio(&old, 3, 0).unwrap();
    keep_run(&old, 5, 0).unwrap();
    keep_buffer(&old, 5000, false, 0).unwrap();
    old.publish("root", b"of all").unwrap();
    world.jump(old)
}

#[test]
fn what_was_not_preserved_does_not_block_memory_and_unclaimed_is_listed() {
    let world = World::new(4096);
    let empty = {
        let boot = world.boot();
        let before = free_frames(&boot);
        before + boot.memory().preserved().counts().nodes()
    };
    for disposition in [Disposition::Free, Disposition::Keep] {
        let new = leave(&world);
        // One cache is adopted, one is not.
        let (_, adopted) = new.slabs().adopt(CacheSpec::new("things", 72)).unwrap();
        assert_eq!(adopted.unclaimed, 2);
        let (mut folios, mut names) = (Vec::new(), Vec::new());
        let (mut objects, mut slabs) = (Vec::new(), Vec::new());
        let finished = new
            .finish(|unclaimed| {
                match unclaimed {
                    Unclaimed::Subtree { name, bytes, .. } => names.push((name, bytes)),
                    Unclaimed::Folio(block) => folios.push(block),
                    Unclaimed::Slab { objects, .. } => slabs.push(objects),
                    Unclaimed::Object { size, .. } => objects.push(size),
                    other => panic!("{other:?}"),
                }
                disposition
            })
            .unwrap();
        assert_eq!(objects, [72, 72]);
        assert_eq!(slabs, [5]);
        assert_eq!(names, [(Name::new("root").unwrap(), Some(6))]);
        // The folio, the run's two blocks, the buffer's one; the root's goes with its name.
        let mut orders: Vec<_> = folios.iter().map(|block| block.order().get()).collect();
        orders.sort_unstable();
        let run_and_buffer: Vec<_> = orders.iter().copied().filter(|o| *o != 3).collect();
        assert_eq!(orders.len() - run_and_buffer.len(), 1);
        let frames: u64 = run_and_buffer.iter().map(|o| 1 << o).sum();
        assert_eq!(frames, 5 + 2);
        assert_eq!((finished.objects, finished.slabs, finished.subtrees), (2, 1, 1));
        assert_eq!((finished.folios, finished.frames), (folios.len() as u64, frames + 8));

        let state = State::of(&new);
        match disposition {
            Disposition::Free => {
                assert_eq!(state.inherited, []);
                for cache in new.slabs().caches() {
                    assert_eq!((cache.stats().live, cache.stats().unclaimed), (0, 0));
                }
                // All there is beside the handover's own pages is what two caches took to be.
                let own = OWN + new.reserve();
                let controls = state.audit.allocated[FrameType::Table as usize] - own;
                assert_eq!(state.free + controls, empty);
            }
            Disposition::Keep => {
                // It is there to be claimed still, and the next kernel finds all of it again, by the same
                // addresses.
                assert_eq!(state.inherited.len(), folios.len() + 2);
                let next = world.jump(new);
                let mut again = Vec::new();
                let left = finish_freeing(&next);
                for unclaimed in left {
                    match unclaimed {
                        Unclaimed::Subtree { name, .. } => assert_eq!(name.as_str(), "root"),
                        Unclaimed::Folio(block) => again.push(block),
                        Unclaimed::Slab { objects, .. } => assert!(objects == 5 || objects == 2),
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(again, folios);
            }
        }
    }
}
