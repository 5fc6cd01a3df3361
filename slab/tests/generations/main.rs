//! Across jumps: what was preserved is claimed once, as what it was, and nothing else blocks
//! memory.

#[path = "../common/mod.rs"]
mod common;
mod layouts;
mod model;

use core::alloc::Layout;
use core::cell::Cell;

use common::{addr, fill, filled, ptr, slab_frames, slabs, successor, wrong};
use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition};
use heirloom_kho::{PAGE_SIZE, PhysAddr};
use heirloom_slab::{Action, AllocOptions, CacheSpec, Error, ObjectState, Slabs, Unclaimed};

const FRAMES: u64 = 8192;

/// What a handle to an object holds, and what must be there.
#[derive(Clone, Copy, Debug)]
struct Kept {
    addr: PhysAddr,
    size: usize,
    reuse_tag: u8,
    seed: u8,
}

/// The handle of an object, whose contents `seed` determines from here on.
fn keep(slabs: &Slabs<Ram>, object: core::ptr::NonNull<u8>, seed: u8) -> Kept {
    let (reuse_tag, size) = slabs.reuse_tag_of(object).unwrap();
    // SAFETY: every caller owns the object.
    unsafe { fill(object, size, seed) };
    Kept { addr: addr(slabs, object), size, reuse_tag, seed }
}

/// Claims an object and checks what is in it.
fn claim(slabs: &Slabs<Ram>, kept: &Kept) -> core::ptr::NonNull<u8> {
    let object = slabs.claim(kept.addr, kept.size as u64, kept.reuse_tag).unwrap();
    // SAFETY: claimed just now.
    assert!(unsafe { filled(object, kept.size, kept.seed) }, "{kept:?}");
    object
}

/// Ends the inheritance: everything that nobody claimed is freed. How much that was.
fn finish(slabs: &Slabs<Ram>) -> (u64, u64) {
    let (mut whole, mut single) = (0, 0);
    let done = slabs.finish_inherited(|unclaimed| {
        match unclaimed {
            Unclaimed::Slab { .. } => whole += 1,
            Unclaimed::Object { .. } => single += 1,
        }
        Disposition::Free
    });
    done.unwrap();
    slabs.memory().predecessor().finish(|_| Disposition::Free);
    (whole, single)
}

fn spec(preserving: bool) -> CacheSpec {
    CacheSpec::new(if preserving { "always" } else { "some" }, 120).preserving(preserving)
}

#[test]
fn what_was_preserved_is_claimed_once_and_freed_by_a_plain_free() {
    for preserving in [false, true] {
        let slabs = slabs(FRAMES);
        let cache = slabs.cache(spec(preserving)).unwrap();
        let mut kept = Vec::new();
        for i in 0..1000_u32 {
            let object = cache.alloc().unwrap();
            let handle = keep(&slabs, object, i as u8);
            if preserving {
                kept.push(handle);
            } else if i % 3 == 0 {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { cache.preserve(object) }.unwrap();
                kept.push(handle);
            }
        }
        let slabs = successor(slabs, FRAMES).unwrap();
        let (cache, adopted) = slabs.adopt(spec(preserving)).unwrap();
        assert_eq!(adopted.unclaimed, kept.len() as u64);
        assert_eq!(cache.stats().unclaimed, kept.len() as u64);
        let name = cache.name();
        for handle in &kept {
            let Kept { addr, size, reuse_tag, .. } = *handle;
            let bytes = size as u64;
            let long = slabs.claim(addr, bytes + 1, reuse_tag);
            let (expected, found) = (bytes + 1, bytes);
            assert_eq!(long, Err(Error::WrongLength { cache: name, addr, expected, found }));
            let stale = slabs.claim(addr, bytes, reuse_tag ^ 1);
            let (expected, found) = (reuse_tag ^ 1, reuse_tag);
            assert_eq!(stale, Err(Error::Stale { cache: name, addr, expected, found }));
            let inside = PhysAddr::new(addr.get() + 8);
            let interior = slabs.claim(inside, bytes, reuse_tag);
            assert_eq!(interior, Err(Error::Interior { cache: name, addr: inside, start: addr }));
            // SAFETY: refused, as it is nobody's.
            let early = unsafe { cache.free(ptr(&slabs, addr)) };
            assert_eq!(early, wrong(name, addr, Action::Free, ObjectState::Unclaimed));
            let object = claim(&slabs, handle);
            let again = slabs.claim(addr, bytes, reuse_tag);
            let (action, found) = (
                Action::Claim,
                if cache.is_preserving() { ObjectState::Live } else { ObjectState::Held },
            );
            assert_eq!(again, wrong(name, addr, action, found));
            // SAFETY: claimed above.
            unsafe { cache.free(object) }.unwrap();
        }
        assert_eq!(finish(&slabs), (0, 0));
        slabs.shrink();
        assert_eq!(slab_frames(&slabs), 0);
    }
}

#[test]
fn free_places_of_an_adopted_slab_are_used_at_once() {
    let slabs = slabs(FRAMES);
    let cache = slabs.cache(spec(true)).unwrap();
    let kept = keep(&slabs, cache.alloc().unwrap(), 1);
    let slabs = successor(slabs, FRAMES).unwrap();
    let (cache, adopted) = slabs.adopt(spec(true)).unwrap();
    assert_eq!((adopted.slabs, adopted.free), (1, u64::from(cache.objects_per_slab()) - 1));
    for _ in 0..adopted.free {
        assert_ne!(addr(&slabs, cache.alloc().unwrap()), kept.addr);
    }
    assert_eq!(cache.stats().slabs, 1);
    claim(&slabs, &kept);
}

#[test]
fn what_nobody_claimed_is_listed_and_freed_or_kept() {
    let first = slabs(FRAMES);
    let mut kept = Vec::new();
    for preserving in [false, true] {
        let cache = first.cache(spec(preserving)).unwrap();
        for i in 0..10 {
            let object = cache.alloc().unwrap();
            kept.push(keep(&first, object, i));
            if !preserving {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { cache.preserve(object) }.unwrap();
            }
        }
    }
    // One cache is adopted and a part of it claimed, the other not even adopted. Keep it all.
    let second = successor(first, FRAMES).unwrap();
    second.adopt(spec(false)).unwrap();
    let objects = Cell::new(0);
    let slabs_kept = Cell::new(0);
    claim(&second, &kept[0]);
    second
        .finish_inherited(|unclaimed| {
            match unclaimed {
                Unclaimed::Object { size: 120, .. } => objects.set(objects.get() + 1),
                Unclaimed::Slab { objects: 10, .. } => slabs_kept.set(slabs_kept.get() + 1),
                other => panic!("{other:?}"),
            }
            Disposition::Keep
        })
        .unwrap();
    assert_eq!((objects.get(), slabs_kept.get()), (9, 1));
    second.memory().predecessor().finish(|_| Disposition::Free);
    // In the third generation everything is there, what was claimed too; but what is freed is not.
    let third = successor(second, FRAMES).unwrap();
    for preserving in [false, true] {
        assert_eq!(third.adopt(spec(preserving)).unwrap().1.unclaimed, 10);
    }
    for handle in &kept {
        let object = claim(&third, handle);
        if handle.seed == 3 {
            // SAFETY: claimed just now.
            unsafe { third.free(object) }.unwrap();
        }
    }
    assert_eq!(finish(&third), (0, 0));
    let fourth = successor(third, FRAMES).unwrap();
    for preserving in [false, true] {
        assert_eq!(fourth.adopt(spec(preserving)).unwrap().1.unclaimed, 9);
    }
    for handle in &kept {
        let Kept { addr, size, reuse_tag, .. } = *handle;
        match fourth.claim(addr, size as u64, reuse_tag) {
            Ok(_) => assert_ne!(handle.seed, 3),
            Err(Error::WrongState { action: Action::Claim, .. }) => assert_eq!(handle.seed, 3),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn what_is_claimed_before_it_is_discarded_stays_claimed() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(false)).unwrap();
    let kept: Vec<_> = (0..10).map(|i| keep(&first, cache.alloc().unwrap(), i)).collect();
    for object in &kept {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { first.preserve(first.memory().machine().ptr(object.addr)) }.unwrap();
    }
    let second = successor(first, FRAMES).unwrap();
    let (cache, _) = second.adopt(spec(false)).unwrap();
    // As another thread might, after it was asked about and before it is discarded.
    let free_all = |unclaimed| {
        let Unclaimed::Object { addr, .. } = unclaimed else { panic!("{unclaimed:?}") };
        if addr == kept[3].addr {
            claim(&second, &kept[3]);
        }
        Disposition::Free
    };
    second.finish_inherited(free_all).unwrap();
    assert_eq!((cache.stats().live, cache.stats().unclaimed), (1, 0));
    second.memory().predecessor().finish(|_| Disposition::Free);
}

#[test]
fn small_buffers_are_claimed_without_naming_their_cache() {
    let slabs = slabs(FRAMES);
    let opts = AllocOptions { preserving: true, zeroed: false };
    let mut kept = Vec::new();
    for size in [8, 50, 96, 700, 3000] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        kept.push(keep(&slabs, slabs.alloc(layout, opts).unwrap(), size as u8));
        let single = slabs.alloc(layout, AllocOptions::default()).unwrap();
        kept.push(keep(&slabs, single, size as u8 + 1));
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { slabs.preserve(single) }.unwrap();
    }
    // An object of a cache, on the other hand, needs it.
    let object = slabs.cache(spec(true)).unwrap().alloc().unwrap();
    let other = keep(&slabs, object, 0);
    let slabs = successor(slabs, FRAMES).unwrap();
    for handle in &kept {
        let buffer = claim(&slabs, handle);
        // SAFETY: claimed above.
        unsafe { slabs.free(buffer) }.unwrap();
    }
    let refused = slabs.claim(other.addr, other.size as u64, other.reuse_tag);
    assert!(matches!(refused, Err(Error::NotAdopted { addr, .. }) if addr == other.addr));
    assert_eq!(finish(&slabs), (1, 0));
    slabs.shrink();
    assert_eq!(slab_frames(&slabs), 0);
}

#[test]
fn large_buffers_are_claimed_as_buffers() {
    let slabs = slabs(FRAMES);
    let layout = Layout::from_size_align(5 * PAGE_SIZE, 8).unwrap();
    let opts = AllocOptions { preserving: true, zeroed: true };
    let at = addr(&slabs, slabs.alloc(layout, opts).unwrap());
    let slabs = successor(slabs, FRAMES).unwrap();
    let bytes = 5 * PAGE_SIZE as u64;
    assert!(slabs.claim_large(at, bytes + 1).is_err());
    assert!(slabs.claim_large(PhysAddr::new(at.get() + 1), bytes).is_err());
    let buffer = slabs.claim_large(at, bytes).unwrap();
    // SAFETY: claimed above.
    unsafe { fill(buffer, bytes as usize, 9) };
    assert!(slabs.claim_large(at, bytes).is_err());
    finish(&slabs);
    // Still preserved: the next generation has it too, and the one after it, which does not ask.
    let slabs = successor(successor(slabs, FRAMES).unwrap(), FRAMES).unwrap();
    let buffer = slabs.claim_large(at, bytes).unwrap();
    // SAFETY: claimed above.
    assert!(unsafe { filled(buffer, bytes as usize, 9) });
    // SAFETY: claimed above.
    unsafe { slabs.free(buffer) }.unwrap();
    let slabs = successor(slabs, FRAMES).unwrap();
    assert!(slabs.claim_large(at, bytes).is_err());
    assert_eq!(finish(&slabs), (0, 0));
}

#[test]
fn generation_after_generation_no_frame_drifts() {
    let mut slabs = slabs(FRAMES);
    let mut kept: Vec<Kept> = Vec::new();
    let mut used = Vec::new();
    for generation in 0..60_u32 {
        let (cache, _) = slabs.adopt_or_create(spec(true)).unwrap();
        for handle in kept.drain(..) {
            let object = claim(&slabs, &handle);
            // SAFETY: claimed above.
            unsafe { cache.free(object) }.unwrap();
        }
        assert_eq!(finish(&slabs), (0, 0));
        for i in 0..700 {
            kept.push(keep(&slabs, cache.alloc().unwrap(), (generation + i) as u8));
        }
        cache.shrink();
        slabs.memory().drain();
        used.push(slabs.memory().stats().used());
        slabs = successor(slabs, FRAMES).unwrap();
    }
    assert!(used[2..].iter().all(|frames| *frames == used[2]), "{used:?}");
}

/// Nothing ends: whoever is asked what becomes of what is left may call everything.
#[test]
fn while_it_is_finished_everything_can_be_called() {
    let first = slabs(FRAMES);
    let (some, always) = (spec(false), spec(true));
    let object = first.cache(some).unwrap().alloc().unwrap();
    let one = keep(&first, object, 1);
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { first.preserve(object) }.unwrap();
    let all: Vec<_> =
        (0..3).map(|i| keep(&first, first.cache(always).unwrap().alloc().unwrap(), i)).collect();
    let slabs = successor(first, FRAMES).unwrap();
    assert_eq!(slabs.inherited("always").unwrap().object_size(), 120);
    slabs.adopt(some).unwrap();
    let mut asked = Vec::new();
    let done = slabs.finish_inherited(|unclaimed| {
        asked.push(unclaimed);
        let mut names = Vec::new();
        slabs.for_each_inherited(|record| names.push(record.name()));
        match unclaimed {
            Unclaimed::Object { addr, .. } => {
                assert_eq!((addr, names.len()), (one.addr, 1));
                // Again, from within: it is there still, and is freed there.
                let mut again = 0;
                slabs
                    .finish_inherited(|unclaimed| {
                        again += 1;
                        match unclaimed {
                            Unclaimed::Object { .. } => Disposition::Free,
                            Unclaimed::Slab { .. } => Disposition::Keep,
                        }
                    })
                    .unwrap();
                assert_eq!(again, 2);
            }
            Unclaimed::Slab { objects, .. } => {
                assert_eq!((objects, names.len()), (3, 1));
                assert!(slabs.inherited("always").is_some());
                // Adopted and claimed in part: then it is not freed, whatever is said.
                slabs.adopt(always).unwrap();
                claim(&slabs, &all[0]);
            }
        }
        Disposition::Free
    });
    done.unwrap();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let cache = slabs.cache(always).unwrap();
    assert_eq!((cache.stats().live, cache.unclaimed().count()), (1, 2));
    assert_eq!(slabs.inherited("always"), None);
    assert!(slabs.claim(one.addr, 120, one.reuse_tag).is_err());
    // It can be repeated.
    assert_eq!(finish(&slabs), (0, 2));
    assert_eq!(finish(&slabs), (0, 0));
    assert_eq!(cache.stats().live, 1);
}
