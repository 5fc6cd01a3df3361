//! Caches against a model: whatever is done, objects keep their contents, and the figures add up.

mod common;

use core::ptr::NonNull;

use common::{addr, config, fill, filled, ptr, slab_frames, slabs, wrong};
use heirloom_kho::{Order, PAGE_SIZE, PhysAddr};
use heirloom_slab::{Action, CacheSpec, Error, Field, ObjectState, Owner, persist};
use proptest::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(usize),
    Free(usize, usize),
    Preserve(usize, usize),
    Unpreserve(usize, usize),
    Shrink(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let cache = 0..SIZES.len();
    prop_oneof![
        8 => cache.clone().prop_map(Step::Alloc),
        6 => (cache.clone(), any::<usize>()).prop_map(|(c, i)| Step::Free(c, i)),
        2 => (cache.clone(), any::<usize>()).prop_map(|(c, i)| Step::Preserve(c, i)),
        2 => (cache.clone(), any::<usize>()).prop_map(|(c, i)| Step::Unpreserve(c, i)),
        1 => cache.prop_map(Step::Shrink),
    ]
}

/// Sizes, alignments, and whether the cache is preserving.
const SIZES: [(usize, usize, bool); 5] =
    [(24, 8, false), (100, 64, true), (640, 16, false), (5000, 8, false), (3000, 1024, true)];

#[derive(Clone, Copy)]
struct Live {
    ptr: NonNull<u8>,
    seed: u8,
    preserved: bool,
}

proptest! {
    #![proptest_config(config(48, 0xb1ec7))]
    #[test]
    fn objects_keep_their_contents_and_the_figures_add_up(
        steps in prop::collection::vec(step(), 1..1500),
    ) {
        let slabs = slabs(2048);
        let caches: Vec<_> = SIZES
            .iter()
            .enumerate()
            .map(|(i, (size, align, preserving))| {
                let spec = CacheSpec::new(&format!("cache {i}"), *size).align(*align);
                slabs.cache(spec.preserving(*preserving)).unwrap()
            })
            .collect();
        let mut live: Vec<Vec<Live>> = vec![Vec::new(); SIZES.len()];
        let mut seed = 0_u8;
        for step in steps {
            match step {
                Step::Alloc(c) => {
                    let ptr = caches[c].alloc().unwrap();
                    prop_assert_eq!(ptr.addr().get() % SIZES[c].1, 0);
                    seed = seed.wrapping_add(1);
                    // SAFETY: allocated just now.
                    unsafe { fill(ptr, SIZES[c].0, seed) };
                    live[c].push(Live { ptr, seed, preserved: false });
                }
                Step::Free(c, i) if !live[c].is_empty() => {
                    let i = i % live[c].len();
                    let object = live[c][i];
                    // SAFETY: ours.
                    let kept = unsafe { filled(object.ptr, SIZES[c].0, object.seed) };
 prop_assert!(kept);
                    let (cache, at) = (caches[c].name(), addr(&slabs, object.ptr));
                    // SAFETY: ours, and given up if it succeeds.
                    let freed = unsafe { caches[c].free(object.ptr) };
                    if object.preserved {
                        prop_assert_eq!(freed, wrong(cache, at, Action::Free, ObjectState::Preserved));
                    } else {
                        prop_assert_eq!(freed, Ok(()));
                        // SAFETY: refused, as it is free.
                        let again = unsafe { caches[c].free(object.ptr) };
                        prop_assert_eq!(again, wrong(cache, at, Action::Free, ObjectState::Free));
                        live[c].swap_remove(i);
                    }
                }
                Step::Preserve(c, i) if !live[c].is_empty() => {
                    let i = i % live[c].len();
                    let object = &mut live[c][i];
                    // SAFETY: in use, and nothing frees it meanwhile.
                    let done = unsafe { caches[c].preserve(object.ptr) };
                    prop_assert_eq!(done.is_ok(), !object.preserved && !SIZES[c].2);
                    object.preserved |= done.is_ok();
                }
                Step::Unpreserve(c, i) if !live[c].is_empty() => {
                    let i = i % live[c].len();
                    let object = &mut live[c][i];
                    // SAFETY: in use, and nothing frees it meanwhile.
                    let done = unsafe { caches[c].unpreserve(object.ptr) };
                    prop_assert_eq!(done.is_ok(), object.preserved);
                    object.preserved = false;
                }
                Step::Shrink(c) => {
                    caches[c].shrink();
                }
                _ => {}
            }
        }
        for (c, cache) in caches.iter().enumerate() {
            let stats = cache.stats();
            prop_assert_eq!(stats.live, live[c].len() as u64);
            let preserving = SIZES[c].2;
            let preserved = live[c].iter().filter(|o| o.preserved || preserving).count();
            prop_assert_eq!(stats.preserved, preserved as u64);
            let all = stats.slabs * u64::from(cache.objects_per_slab());
            prop_assert_eq!(all, stats.live + stats.free + stats.cached);
        }
        for (c, object) in live.iter().enumerate().flat_map(|(c, l)| l.iter().map(move |o| (c, o))) {
            // SAFETY: ours.
            let kept = unsafe { filled(object.ptr, SIZES[c].0, object.seed) };
 prop_assert!(kept);
            if object.preserved {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { caches[c].unpreserve(object.ptr) }.unwrap();
            }
            // SAFETY: ours, and not used again.
            unsafe { caches[c].free(object.ptr) }.unwrap();
        }
        slabs.shrink();
        // Nothing is live: no slab is left, and none is preserved.
        prop_assert_eq!(slab_frames(&slabs), 0);
        let mut left = 0;
        slabs.memory().preserved().for_each(|block| left += u64::from(block.order() > Order::ZERO));
        prop_assert_eq!(left, 0);
    }
}

#[test]
fn a_wrong_pointer_is_told_apart() {
    let slabs = slabs(1024);
    let cache = slabs.cache(CacheSpec::new("one", 48)).unwrap();
    let other = slabs.cache(CacheSpec::new("other", 48)).unwrap();
    let object = cache.alloc().unwrap();
    let (one, at) = (cache.name(), addr(&slabs, object));
    // SAFETY: within the object.
    let inside = unsafe { object.add(8) };
    let interior = Error::Interior { cache: one, addr: PhysAddr::new(at.get() + 8), start: at };
    let start = PhysAddr::new(at.get() & !0xffff);
    let header = ptr(&slabs, start);
    let mut local = 0_u8;
    let foreign = NonNull::from(&mut local);
    let nothing = |ptr: NonNull<u8>| Error::NotAnObject { ptr: ptr.addr().get() };
    let folio = slabs.memory().alloc_folio(heirloom_folio::Request::new(Order::ZERO)).unwrap();
    let page = ptr(&slabs, folio.extent().addr());
    // SAFETY: every one of these is refused.
    unsafe {
        assert_eq!(cache.free(inside), Err(interior));
        assert_eq!(slabs.free(inside), Err(interior));
        assert_eq!(cache.free(header), Err(Error::Interior { cache: one, addr: start, start }));
        assert_eq!(cache.free(foreign), Err(nothing(foreign)));
        assert_eq!(slabs.free(foreign), Err(nothing(foreign)));
        assert_eq!(cache.free(page), Err(nothing(page)));
        assert_eq!(slabs.free(page), Err(nothing(page)));
        let elsewhere = Error::WrongCache { addr: at, expected: other.name(), found: one };
        assert_eq!(other.free(object), Err(elsewhere));
        assert_eq!(other.preserve(object), Err(elsewhere));
        // The object is as it was.
        assert_eq!(cache.free(object), Ok(()));
        assert_eq!(slabs.free(object), wrong(one, at, Action::Free, ObjectState::Free));
    }
    // SAFETY: free, in a slab that is not given back, as nothing else runs.
    let done = unsafe { cache.preserve(object) };
    assert_eq!(done, wrong(one, at, Action::Preserve, ObjectState::Free));
    // SAFETY: in use, and nothing frees it meanwhile.
    let done = unsafe { cache.unpreserve(object) };
    assert_eq!(done, wrong(one, at, Action::Unpreserve, ObjectState::Free));
}

#[test]
fn whose_it_is_and_how_large() {
    let slabs = slabs(1024);
    let cache = slabs.cache(CacheSpec::new("inode", 640)).unwrap();
    let object = cache.alloc().unwrap();
    assert_eq!(slabs.size_of(object), Some(640));
    // SAFETY: within the object.
    let inside = unsafe { object.add(100) };
    assert_eq!(slabs.size_of(inside), None);
    let (reuse_tag, size) = slabs.reuse_tag_of(object).unwrap();
    assert_eq!(size, 640);
    let owner = |state, preserved| Owner::Object {
        cache: cache.name(),
        addr: addr(&slabs, object),
        size: 640,
        state,
        preserved,
        reuse_tag,
    };
    assert_eq!(slabs.owner_of(inside), Ok(owner(ObjectState::Live, false)));
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { cache.preserve(object) }.unwrap();
    assert_eq!(slabs.owner_of(inside), Ok(owner(ObjectState::Preserved, true)));
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { cache.unpreserve(object) }.unwrap();
    // SAFETY: ours.
    unsafe { cache.free(object) }.unwrap();
    assert_eq!(slabs.owner_of(object), Ok(owner(ObjectState::Free, false)));
    assert_eq!(slabs.size_of(object), None);
    // The next object in the place has another reuse tag.
    while cache.alloc().unwrap() != object {}
    assert_ne!(slabs.reuse_tag_of(object).unwrap().0, reuse_tag);
}

#[test]
fn a_cache_of_one_name_is_one_cache() {
    let slabs = slabs(1024);
    let spec = CacheSpec::new("same", 64);
    let first = slabs.cache(spec).unwrap();
    let object = first.alloc().unwrap();
    let again = slabs.cache(spec).unwrap();
    // SAFETY: ours.
    unsafe { again.free(object) }.unwrap();
    let cache = first.name();
    let differs =
        Error::Mismatch { cache, field: Field::Size, expected: 72, found: 64, inherited: false };
    assert_eq!(slabs.cache(CacheSpec::new("same", 72)).err(), Some(differs));
    assert_eq!(slabs.caches().count(), 1);
}

#[test]
fn objects_are_constructed_once_a_place() {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let slabs = slabs(1024);
    let spec = CacheSpec::new("built", 64).constructor(|object| {
        RUNS.fetch_add(1, Relaxed);
        // SAFETY: the place of an object of 64 bytes.
        unsafe { object.write_bytes(0xab, 64) };
    });
    let cache = slabs.cache(spec).unwrap();
    for _ in 0..10 {
        let object = cache.alloc().unwrap();
        // SAFETY: ours, and as constructed when it is freed.
        unsafe {
            assert_eq!(object.read(), 0xab);
            object.write(1);
            object.write(0xab);
            cache.free(object).unwrap();
        }
    }
    assert_eq!(RUNS.load(Relaxed), cache.objects_per_slab() as usize);
    let refused = Error::Constructed { cache: cache.name() };
    assert_eq!(cache.alloc_zeroed(), Err(refused));
}

#[test]
fn empty_slabs_go_back() {
    let slabs = slabs(4096);
    let cache = slabs.cache(CacheSpec::new("bulk", 256)).unwrap();
    let objects: Vec<_> = (0..20_000).map(|_| cache.alloc().unwrap()).collect();
    let most = slab_frames(&slabs);
    assert!(most * PAGE_SIZE as u64 >= 20_000 * 256);
    for object in objects {
        // SAFETY: ours.
        unsafe { cache.free(object) }.unwrap();
    }
    // Without being asked: all but a few.
    assert!(slab_frames(&slabs) * 4 < most);
    assert!(cache.shrink() > 0);
    assert_eq!(slab_frames(&slabs), 0);
    assert_eq!(cache.stats().slabs, 0);
}

// Red zones cost more.
#[cfg(not(feature = "debug"))]
#[test]
fn small_objects_cost_little_memory() {
    let slabs = slabs(20_000);
    let before = slabs.memory().stats().used();
    let cache = slabs.cache(CacheSpec::new("small", 64)).unwrap();
    let count = (64 << 20) / 64;
    for _ in 0..count {
        cache.alloc().unwrap();
    }
    let frames = slabs.memory().stats().used() - before;
    let overhead = frames * PAGE_SIZE as u64 - (64 << 20);
    assert!(overhead * 100 <= (64 << 20) * 3, "{overhead} bytes");
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug, PartialEq, Clone, Copy)]
#[repr(C)]
struct Inode {
    number: u64,
    parent: u64,
}
persist!(Inode { number, parent });

#[test]
fn preserved_objects_cannot_be_freed_by_accident() {
    let slabs = slabs(1024);
    let inodes = slabs.typed::<Inode>("inode", false).unwrap();
    let mut inode = inodes.insert(Inode { number: 7, parent: 1 }).unwrap();
    inode.parent = 2;
    let kept = inode.preserve().unwrap();
    let reuse_tag = kept.handle_parts().1;
    // Letting go of the handle frees nothing.
    let at = kept.into_raw();
    assert_eq!(inodes.cache().stats().preserved, 1);
    // SAFETY: refused.
    let refused = unsafe { inodes.cache().free(ptr(&slabs, at)) };
    assert_eq!(refused, wrong(inodes.cache().name(), at, Action::Free, ObjectState::Preserved));
    // SAFETY: let go above.
    let kept = unsafe { inodes.preserved_from_raw(at) };
    assert_eq!((*kept, kept.handle_parts().1), (Inode { number: 7, parent: 2 }, reuse_tag));
    drop(kept.unpreserve().unwrap());
    assert_eq!(inodes.cache().stats().live, 0);
}

#[test]
fn objects_of_a_preserving_cache_are_preserved_from_birth() {
    let slabs = slabs(1024);
    let inodes = slabs.typed::<Inode>("inode", true).unwrap();
    let inode = inodes.insert(Inode { number: 7, parent: 1 }).unwrap();
    assert_eq!(inodes.cache().stats().preserved, 1);
    let refused = inode.preserve().unwrap_err();
    assert!(matches!(refused.error, Error::WrongState { action: Action::Preserve, .. }));
    let at = refused.value.leak();
    assert_eq!(inodes.cache().stats().preserved, 1);
    // SAFETY: let go above.
    drop(unsafe { inodes.from_raw(at) });
    assert_eq!(inodes.cache().stats().preserved, 0);
}
