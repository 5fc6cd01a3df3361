//! What ends where nothing can be refused: drops, an allocator's `dealloc`, a caller's panic in the
//! middle. None of them asserts what another call can make false, and nothing is lost.

mod common;

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{slabs, successor};
use heirloom_folio::{DirectMap, Disposition, FrameType};
use heirloom_kho::Block;
use heirloom_slab::{Action, AllocOptions, CacheSpec, Error, ObjectState, Owner, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug)]
#[repr(C)]
struct Thing {
    words: [u64; 8],
}
persist!(Thing { words });

#[test]
fn an_object_that_was_preserved_behind_its_handle_is_dropped_and_stays() {
    let slabs = slabs(256);
    let things = slabs.typed::<Thing>("thing", false).unwrap();
    let thing = things.insert(Thing { words: [1; 8] }).unwrap();
    let at = thing.handle_parts().0;
    let ptr = slabs.memory().machine().ptr(at);
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { slabs.preserve(ptr) }.unwrap();
    drop(thing);
    assert_eq!(slabs.refused_frees(), 1);
    let state = match slabs.owner_at(at) {
        Some(Owner::Object { state, .. }) => state,
        other => panic!("{other:?}"),
    };
    assert_eq!(state, ObjectState::Preserved);
    // SAFETY: its handle is gone, and nothing else frees it.
    unsafe {
        slabs.unpreserve(ptr).unwrap();
        slabs.free(ptr).unwrap();
    }
    assert_eq!(things.cache().stats().live, 0);
}

#[test]
fn an_allocator_does_not_unwind_over_a_buffer_that_was_preserved() {
    let slabs = slabs(1024);
    let heap = slabs.heap(false);
    for (i, bytes) in [64, 40_000].into_iter().enumerate() {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        // SAFETY: the layout has a size.
        let ptr = unsafe { heap.alloc(layout) };
        let buffer = core::ptr::NonNull::new(ptr).unwrap();
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { slabs.preserve(buffer) }.unwrap();
        // SAFETY: allocated above with this layout.
        let moved = unsafe { heap.realloc(ptr, layout, 8 * bytes) };
        assert!(moved.is_null(), "it is preserved where it is");
        // SAFETY: as above; not used by its owner again.
        unsafe { heap.dealloc(ptr, layout) };
        assert_eq!(slabs.refused_frees(), i as u64 + 1);
        // SAFETY: its owner is gone, and nothing else frees it.
        unsafe {
            slabs.unpreserve(buffer).unwrap();
            slabs.free(buffer).unwrap();
        }
    }
}

#[test]
fn a_slab_whose_frames_are_refused_is_no_slab_lost() {
    let slabs = slabs(256);
    let memory = slabs.memory();
    let cache = slabs.cache(CacheSpec::new("thing", 64)).unwrap();
    let object = cache.alloc().unwrap();
    let at = memory.machine().phys(object).unwrap();
    let slab = Block::containing(at.pfn(), cache.slab_order());
    let wrong = heirloom_folio::Error::WrongType {
        pfn: slab.pfn(),
        expected: FrameType::Folio,
        found: FrameType::Slab,
    };
    // SAFETY: no folio, and refused.
    assert_eq!(unsafe { memory.preserve(slab) }, Err(wrong));
    // SAFETY: it is not freed; what the layer above makes of it is what is tried here.
    unsafe { memory.preserve_as(slab, FrameType::Slab) }.unwrap();
    // SAFETY: allocated above, and not used again.
    unsafe { cache.free(object) }.unwrap();
    assert_eq!((slabs.shrink(), cache.stats().slabs), (0, 1));
    // It is used like before, and goes once it can.
    let again = cache.alloc().unwrap();
    assert_eq!(cache.stats().slabs, 1);
    // SAFETY: allocated above, and not used again.
    unsafe { cache.free(again) }.unwrap();
    // SAFETY: preserved above.
    unsafe { memory.unpreserve_as(slab, FrameType::Slab) }.unwrap();
    assert_eq!((slabs.shrink(), cache.stats().slabs), (1, 0));
    memory.audit().unwrap();
}

#[test]
fn a_slab_stays_while_a_reader_is_in_and_goes_afterwards() {
    for preserving in [false, true] {
        let slabs = slabs(256);
        let cache = slabs.cache(CacheSpec::new("thing", 64).preserving(preserving)).unwrap();
        let object = cache.alloc().unwrap();
        // SAFETY: allocated above, and not used again.
        unsafe { cache.free(object) }.unwrap();
        assert_eq!(slabs.memory().reading(|| slabs.shrink()), 0);
        assert_eq!(cache.stats().slabs, 1);
        assert_eq!(
            slabs.owner_of(object).map(|owner| matches!(owner, Owner::Object { .. })),
            Ok(true)
        );
        assert_eq!(slabs.shrink(), 1);
        assert!(matches!(slabs.owner_of(object), Err(Error::NotAnObject { .. })));
        let audit = slabs.memory().audit().unwrap();
        assert_eq!(audit.allocated[FrameType::Slab as usize], 0);
    }
}

#[test]
fn a_constructor_that_panics_loses_neither_slab_nor_magazine() {
    static BROKEN: AtomicBool = AtomicBool::new(true);
    let slabs = slabs(256);
    let spec = CacheSpec::new("built", 1000).constructor(|_| {
        assert!(!BROKEN.load(Relaxed), "as the test wants");
    });
    let cache = slabs.cache(spec).unwrap();
    let attempt = || catch_unwind(AssertUnwindSafe(|| cache.alloc())).is_err();
    assert!(attempt());
    let before = slabs.memory().audit().unwrap();
    assert!((0..20).all(|_| attempt()));
    assert_eq!(cache.stats().slabs, 0);
    assert_eq!(slabs.memory().audit().unwrap().allocated, before.allocated);
    BROKEN.store(false, Relaxed);
    let object = cache.alloc().unwrap();
    // SAFETY: allocated above, as constructed, and not used again.
    unsafe { cache.free(object) }.unwrap();
}

#[test]
fn a_panic_between_claims_loses_nothing() {
    let old = slabs(1024);
    let things = old.typed::<Thing>("thing", true).unwrap();
    for i in 0..10 {
        things.insert(Thing { words: [i; 8] }).unwrap().leak();
    }
    let new = successor(old, 1024).unwrap();
    let (things, _) = new.adopt_typed::<Thing>("thing", true).unwrap();
    let mut kept = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        for thing in things.claim_all() {
            assert_ne!(kept.len(), 4, "as the test wants");
            kept.push(thing);
        }
    }));
    assert!(panicked.is_err());
    // The one in the hands of whoever panicked was dropped by it: freed, as its owner said.
    assert_eq!(things.cache().unclaimed().count(), 5);
    kept.extend(things.claim_all());
    let mut values: Vec<u64> = kept.iter().map(|thing| thing.words[0]).collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 9);
}

#[test]
fn a_claim_that_is_undone_is_there_for_the_next_in_this_kernel_and_the_one_behind() {
    for preserving in [true, false] {
        let old = slabs(1024);
        let things = old.typed::<Thing>("thing", preserving).unwrap();
        let left = [1, 2].map(|n| {
            let thing = things.insert(Thing { words: [n; 8] }).unwrap();
            let parts = thing.handle_parts();
            if preserving {
                thing.leak();
            } else {
                thing.preserve().unwrap().into_raw();
            }
            parts
        });
        let new = successor(old, 1024).unwrap();
        let (things, _) = new.adopt_typed::<Thing>("thing", preserving).unwrap();
        for (addr, tag) in left {
            things.claim(addr, tag).unwrap().unclaim().unwrap();
        }
        assert_eq!((things.cache().unclaimed().count(), things.cache().stats().live), (2, 0));
        let (addr, tag) = left[0];
        let thing = things.claim(addr, tag).unwrap();
        assert_eq!(thing.words, [1; 8]);
        assert!(matches!(things.claim(addr, tag), Err(Error::WrongState { .. })));
        thing.unclaim().unwrap();

        let new = successor(new, 1024).unwrap();
        let (things, _) = new.adopt_typed::<Thing>("thing", preserving).unwrap();
        drop(things.claim(left[1].0, left[1].1).unwrap());
        new.finish_inherited(|_| Disposition::Free).unwrap();
        assert_eq!((things.cache().unclaimed().count(), things.cache().stats().live), (0, 0));
    }
}

#[test]
fn a_buffer_that_moves_is_freed_once_or_stays() {
    let slabs = slabs(1024);
    let layout = Layout::from_size_align(100, 8).unwrap();
    let buffer = slabs.alloc(layout, AllocOptions::default()).unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { slabs.preserve(buffer) }.unwrap();
    let larger = Layout::from_size_align(1000, 8).unwrap();
    // SAFETY: refused: it is preserved.
    let moved = unsafe { slabs.realloc(buffer, larger) };
    assert!(
        matches!(
            moved,
            Err(Error::WrongState { action: Action::Free, found: ObjectState::Preserved, .. })
        ),
        "{moved:?}"
    );
    // SAFETY: in use, and not used again.
    unsafe {
        slabs.unpreserve(buffer).unwrap();
        slabs.free(buffer).unwrap();
    }
    assert_eq!(slabs.caches().map(|cache| cache.stats().live).sum::<u64>(), 0);
}

#[test]
fn dealloc_by_a_size_frees_what_is_of_another_class_and_refuses_what_is_not_to_be_freed() {
    for preserving in [false, true] {
        let slabs = slabs(256);
        let heap = slabs.heap(preserving);
        let [large, small] = [112, 80].map(|size| Layout::from_size_align(size, 8).unwrap());
        // Many, so that magazines fill and run empty between.
        let all: Vec<_> = (0..=u8::MAX)
            .cycle()
            .take(600)
            .map(|n| {
                // SAFETY: the layouts have a size; the old pointer is not used again.
                unsafe {
                    let ptr = heap.alloc(large);
                    ptr.write(n);
                    // In place: it keeps the larger class.
                    let shrunk = heap.realloc(ptr, large, small.size());
                    assert_eq!((shrunk, shrunk.read()), (ptr, n));
                    shrunk
                }
            })
            .collect();
        for ptr in &all {
            // SAFETY: allocated above, resized to this layout; the second time it is refused.
            unsafe {
                heap.dealloc(*ptr, small);
                let before = slabs.refused_frees();
                heap.dealloc(*ptr, small);
                // Into the middle of an object.
                heap.dealloc(ptr.add(8), small);
                assert_eq!(slabs.refused_frees(), before + 2);
            }
        }
        assert_eq!(slabs.refused_frees(), 1200);
        assert!(slabs.caches().all(|cache| cache.stats().live == 0));
    }
}
