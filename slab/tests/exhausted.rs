//! Out of memory, at every place where memory is asked for: an error, and everything as before.

mod common;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use common::{addr, fill, filled, ptr, slabs, successor};
use heirloom_folio::harness::Ram;
use heirloom_folio::{FrameType, Request};
use heirloom_kho::{Block, Order, PAGE_SIZE, Run};
use heirloom_slab::{AllocOptions, CacheSpec, Error, Slabs};

const FRAMES: u64 = 512;

/// Takes all memory but about `left` frames in a row.
fn hog(slabs: &Slabs<Ram>, left: u64) -> Vec<Block> {
    slabs.memory().drain();
    let mut all = Vec::new();
    for order in (0..=9).rev().map(|o| Order::new(o).unwrap()) {
        while let Ok(block) = slabs.memory().alloc(Request::new(order)) {
            all.push(block);
        }
    }
    let mut given = 0;
    all.retain(|block| {
        let give = given < left && block.order().frames() <= left - given;
        if give {
            given += block.order().frames();
            // SAFETY: allocated above, used by nobody.
            unsafe { slabs.memory().free(*block) }.unwrap();
        }
        !give
    });
    all
}

fn release(slabs: &Slabs<Ram>, blocks: Vec<Block>) {
    for block in blocks {
        // SAFETY: from `hog`.
        unsafe { slabs.memory().free(block) }.unwrap();
    }
}

/// Frames in use but for the layer's own tables: a cache's control block or an empty magazine may
/// stay for the next attempt.
fn used(slabs: &Slabs<Ram>) -> [u64; 6] {
    let mut allocated = slabs.memory().audit().unwrap().allocated;
    allocated[FrameType::Table as usize] = 0;
    allocated
}

/// Preserved blocks, but for single frames: tables, that may stay as well.
fn preserved(slabs: &Slabs<Ram>) -> u64 {
    let counts = slabs.memory().preserved().counts();
    counts.total() - counts.folios(Order::ZERO)
}

/// Does `act` with 0, 1, 2, … frames left until it succeeds; checks each time that it did so or
/// changed nothing.
fn at_every_place<T>(
    what: &str,
    new: impl Fn() -> Slabs<Ram>,
    act: impl Fn(&Slabs<Ram>) -> Result<T, Error>,
) {
    let mut refused = 0;
    for left in 0..100 {
        let slabs = new();
        let hogged = hog(&slabs, left);
        let before = (used(&slabs), preserved(&slabs));
        match act(&slabs) {
            Ok(_) => {
                assert!(refused > 0, "{what} asks for memory");
                return;
            }
            Err(error) => {
                assert!(matches!(error, Error::Folio(_)), "{what}: {error}");
                refused += 1;
                assert_eq!(used(&slabs), before.0, "{what} with {left} frames");
                assert_eq!(preserved(&slabs), before.1, "{what} with {left} frames");
                release(&slabs, hogged);
                assert!(act(&slabs).is_ok(), "{what}: with memory again");
            }
        }
    }
    panic!("{what} needs no hundred frames");
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

#[test]
fn a_first_object() {
    for preserving in [false, true] {
        let spec = CacheSpec::new("objects", 200).preserving(preserving);
        at_every_place("a cache", || slabs(FRAMES), |slabs| slabs.cache(spec)?.alloc());
    }
}

#[test]
fn a_further_slab() {
    for preserving in [false, true] {
        let spec = CacheSpec::new("objects", 4000).preserving(preserving);
        let full = || {
            let slabs = slabs(FRAMES);
            let cache = slabs.cache(spec).unwrap();
            for _ in 0..cache.objects_per_slab() {
                cache.alloc().unwrap();
            }
            slabs
        };
        at_every_place("a slab", full, |slabs| slabs.cache(spec)?.alloc());
    }
}

#[test]
fn preserving_an_object() {
    let spec = CacheSpec::new("objects", 200);
    let one = || {
        let slabs = slabs(FRAMES);
        slabs.cache(spec).unwrap().alloc().unwrap();
        slabs
    };
    at_every_place("preserve", one, |slabs| {
        let cache = slabs.cache(spec)?;
        // The one object there is: the next place of the slab is free.
        let next = cache.alloc()?;
        // SAFETY: in use, and nothing frees it meanwhile.
        let result = unsafe { cache.preserve(next) };
        if result.is_err() {
            assert_eq!(cache.stats().preserved, 0);
            // SAFETY: allocated above.
            unsafe { cache.free(next) }?;
        }
        result
    });
}

#[test]
fn buffers() {
    for preserving in [false, true] {
        let opts = AllocOptions { preserving, zeroed: false };
        for size in [100, 5 * PAGE_SIZE] {
            at_every_place("a buffer", || slabs(FRAMES), |slabs| slabs.alloc(layout(size), opts));
        }
    }
}

#[test]
fn moving_a_buffer() {
    for preserving in [false, true] {
        let opts = AllocOptions { preserving, zeroed: false };
        // From a class to another, to pages, and to more pages than are free behind it.
        for (from, to) in [(100, 1000), (1000, 3 * PAGE_SIZE), (PAGE_SIZE, 9 * PAGE_SIZE)] {
            for left in 0..100 {
                let slabs = slabs(FRAMES);
                let buffer = slabs.alloc(layout(from), opts).unwrap();
                // SAFETY: ours.
                unsafe { fill(buffer, from, 7) };
                hog(&slabs, left);
                let before = used(&slabs);
                // SAFETY: ours.
                let moved = unsafe { slabs.realloc(buffer, layout(to)) };
                let now = moved.unwrap_or(buffer);
                // SAFETY: ours.
                assert!(unsafe { filled(now, from, 7) });
                if moved.is_ok() {
                    break;
                }
                assert_eq!(used(&slabs), before);
                assert!(slabs.size_of(buffer).unwrap() < to);
            }
        }
    }
}

#[test]
fn shrinking_a_buffer() {
    for preserving in [false, true] {
        let opts = AllocOptions { preserving, zeroed: false };
        // To a class, from pages and from another one; to fewer pages; to a class of a large slab.
        let sizes =
            [(3 * PAGE_SIZE, 100), (1000, 100), (3 * PAGE_SIZE, 2 * PAGE_SIZE), (PAGE_SIZE, 1)];
        for (from, to) in sizes {
            let slabs = slabs(FRAMES);
            let buffer = slabs.alloc(layout(from), opts).unwrap();
            // SAFETY: ours.
            unsafe { fill(buffer, from, 7) };
            let hogged = hog(&slabs, 0);
            // SAFETY: ours; a buffer that moved is not used again.
            let now = unsafe { slabs.realloc(buffer, layout(to)) }.unwrap();
            // SAFETY: ours.
            assert!(unsafe { filled(now, to, 7) });
            assert!(slabs.size_of(now).unwrap() >= to);
            // By its layout, as the standard library's collections free.
            // SAFETY: ours, and not used again.
            unsafe { GlobalAlloc::dealloc(&slabs.heap(preserving), now.as_ptr(), layout(to)) };
            assert_eq!((slabs.refused_frees(), slabs.size_of(now)), (0, None), "{from} to {to}");
            release(&slabs, hogged);
            slabs.shrink();
            slabs.memory().drain();
            assert_eq!(used(&slabs).iter().sum::<u64>(), 0, "{from} to {to}");
        }
    }
}

/// Claims a buffer of so many frames that a predecessor left: that needs no memory at all.
fn claiming_a_large_buffer(frames: u64) {
    // Runs above the largest folio come as whole ones of those.
    let all = frames.next_multiple_of(Order::MAX_FOLIO.frames().min(frames)) + FRAMES;
    let before = slabs(all);
    let bytes = frames * PAGE_SIZE as u64;
    let opts = AllocOptions { preserving: true, zeroed: false };
    let buffer = before.alloc(layout(bytes as usize), opts).unwrap();
    let at = addr(&before, buffer);
    let slabs = successor(before, all).unwrap();
    let left = |slabs: &Slabs<Ram>| {
        let (mut blocks, run) = (Vec::new(), Run::covering(at, bytes).unwrap());
        slabs.memory().predecessor().for_each(|block| blocks.push(block));
        blocks.retain(|block| run.covers(block.run()));
        blocks
    };
    assert!(!left(&slabs).is_empty());
    let hogged = hog(&slabs, 0);
    let before = (used(&slabs), preserved(&slabs));
    slabs.claim_large(at, bytes).unwrap();
    assert_eq!(left(&slabs), []);
    // It was preserved and still is; what it is is known now.
    assert_eq!(preserved(&slabs), before.1);
    assert_eq!(used(&slabs)[FrameType::Folio as usize], before.0[FrameType::Folio as usize]);
    assert_eq!(slabs.size_of(ptr(&slabs, at)), Some(bytes as usize));
    // SAFETY: claimed above.
    unsafe { slabs.free(ptr(&slabs, at)) }.unwrap();
    release(&slabs, hogged);
    assert_eq!(slabs.memory().drain(), ());
    let all: u64 = used(&slabs).iter().sum();
    assert_eq!(all, 0);
}

#[test]
fn claiming_a_buffer() {
    claiming_a_large_buffer(21);
}

// No heap promises the 32 GiB that it is of 64 KiB frames.
#[cfg(not(heirloom_page = "64k"))]
#[test]
fn claiming_a_buffer_above_the_largest_folio() {
    // Never touched, so the frames cost only the metadata.
    claiming_a_large_buffer(2 * Order::MAX_FOLIO.frames() + 3);
}

#[test]
fn what_others_hold_is_given_back_first() {
    let slabs = slabs(FRAMES);
    let first = slabs.cache(CacheSpec::new("first", 64)).unwrap();
    let objects: Vec<_> = core::iter::from_fn(|| first.alloc().ok()).collect();
    let second = || slabs.cache(CacheSpec::new("second", 64));
    assert!(second().and_then(|cache| cache.alloc()).is_err(), "nothing is left");
    for object in objects {
        // SAFETY: ours.
        unsafe { first.free(object) }.unwrap();
    }
    // The first cache keeps some slabs and magazines for itself, until another needs them.
    let second = second().unwrap();
    let count = core::iter::from_fn(|| second.alloc().ok()).count() as u64;
    assert!(count * 64 > FRAMES / 2 * PAGE_SIZE as u64, "{count}");
    assert_eq!(first.stats().slabs, 0);
}

#[test]
fn without_memory_for_magazines_objects_are_still_had() {
    let slabs = slabs(FRAMES);
    let spec = CacheSpec::new("objects", 1000);
    let cache = slabs.cache(spec).unwrap();
    // All memory goes to slabs; then magazines are taken away from the CPU.
    let mut objects: Vec<NonNull<u8>> = core::iter::from_fn(|| cache.alloc().ok()).collect();
    let half = objects.split_off(objects.len() / 2);
    for object in half {
        // SAFETY: ours.
        unsafe { cache.free(object) }.unwrap();
    }
    let hogged = hog(&slabs, 0);
    let stats = cache.stats();
    let free = stats.free + stats.cached;
    assert_eq!(core::iter::from_fn(|| cache.alloc().ok()).count() as u64, free);
    release(&slabs, hogged);
}

#[test]
fn adopting() {
    for preserving in [false, true] {
        let spec = CacheSpec::new("objects", 200).preserving(preserving);
        let before = slabs(FRAMES);
        let cache = before.cache(spec).unwrap();
        let object = cache.alloc().unwrap();
        // SAFETY: ours.
        unsafe { fill(object, 200, 3) };
        if !preserving {
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { cache.preserve(object) }.unwrap();
        }
        let (reuse_tag, _) = before.reuse_tag_of(object).unwrap();
        let at = addr(&before, object);
        let slabs = successor(before, FRAMES).unwrap();
        let mut refused = 0;
        for left in 0..100 {
            let hogged = hog(&slabs, left);
            let adopted = slabs.adopt(spec).map(|(_, adopted)| adopted);
            release(&slabs, hogged);
            if let Ok(adopted) = adopted {
                assert_eq!(adopted.unclaimed, 1);
                break;
            }
            refused += 1;
            // Still the predecessor's, still labelled: nobody gets it as a folio.
            let block = slabs.memory().predecessor().block_at(at.pfn()).unwrap();
            assert!(slabs.memory().claim_owned(block).is_err());
        }
        assert!(refused > 0);
        let object = slabs.claim(at, 200, reuse_tag).unwrap();
        assert_eq!(object, ptr(&slabs, at));
        // SAFETY: claimed above.
        assert!(unsafe { filled(object, 200, 3) });
        // What is claimed can be freed without memory, and discarded.
        let hogged = hog(&slabs, 0);
        // SAFETY: claimed above.
        unsafe { slabs.free(object) }.unwrap();
        release(&slabs, hogged);
    }
}

/// All that a takeover of caches asks for is a control block for each of them.
#[test]
fn adopting_into_a_cache_that_is_there_needs_no_memory() {
    for preserving in [false, true] {
        let spec = CacheSpec::new("objects", 2000).preserving(preserving);
        let before = slabs(FRAMES);
        let cache = before.cache(spec).unwrap();
        let class = AllocOptions { preserving, zeroed: false };
        let mut left = Vec::new();
        for i in 0..60 {
            let object = if i % 2 == 0 {
                cache.alloc().unwrap()
            } else {
                before.alloc(layout(1000), class).unwrap()
            };
            if !preserving {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { before.preserve(object) }.unwrap();
            }
            let (reuse_tag, size) = before.reuse_tag_of(object).unwrap();
            left.push((addr(&before, object), size as u64, reuse_tag));
        }
        let slabs = successor(before, FRAMES).unwrap();
        slabs.cache(spec).unwrap();
        let throwaway = slabs.alloc(layout(1000), class).unwrap();
        let hogged = hog(&slabs, 0);
        let (cache, adopted) = slabs.adopt(spec).unwrap();
        assert_eq!(adopted.unclaimed, 30);
        for (i, (at, size, reuse_tag)) in left.iter().enumerate() {
            let object = slabs.claim(*at, *size, *reuse_tag).unwrap();
            match i % 6 {
                // SAFETY: claimed just now.
                0 | 1 => unsafe { slabs.free(object) }.unwrap(),
                // SAFETY: claimed just now.
                2 if !preserving => unsafe { slabs.preserve(object) }.unwrap(),
                // SAFETY: claimed just now.
                4 if !preserving => unsafe { slabs.unpreserve(object) }.unwrap(),
                _ => {}
            }
        }
        slabs.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
        assert_eq!(cache.stats().live, 20);
        // SAFETY: allocated above.
        unsafe { slabs.free(throwaway) }.unwrap();
        release(&slabs, hogged);
    }
}

#[test]
fn a_small_buffer_that_cannot_be_claimed_for_want_of_memory_is_there_later() {
    let before = slabs(FRAMES);
    let opts = AllocOptions { preserving: true, zeroed: false };
    let buffer = before.alloc(layout(300), opts).unwrap();
    let (reuse_tag, size) = before.reuse_tag_of(buffer).unwrap();
    let at = addr(&before, buffer);
    let slabs = successor(before, FRAMES).unwrap();
    let mut refused = 0;
    for left in 0..100 {
        let hogged = hog(&slabs, left);
        let claimed = slabs.claim(at, size as u64, reuse_tag);
        release(&slabs, hogged);
        match claimed {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::Folio(_)), "{error}"),
        }
        refused += 1;
    }
    assert!(refused > 0);
    assert_eq!(slabs.reuse_tag_of(ptr(&slabs, at)), Ok((reuse_tag, size)));
}
