//! Caches that are resumed: what survived in them is in use as it was, without a claim, and each slab
//! becomes ours when it is first used.

#[path = "../common/mod.rs"]
mod common;
mod holes;
mod lives;

use core::alloc::Layout;
use core::ptr::NonNull;
use std::collections::{BTreeMap, BTreeSet};

use common::{addr, copy, fill, filled, ptr, slab_frames, slabs, successor};
use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Order, PhysAddr};
use heirloom_slab::internal::SlabFault;
use heirloom_slab::{Action, AllocOptions, Cache, CacheSpec, Error, ObjectState, SlabError, Slabs};

const FRAMES: u64 = 4096;

fn spec(preserving: bool) -> CacheSpec {
    let name = if preserving { "always" } else { "some" };
    CacheSpec::new(name, 200).order(Order::ZERO).preserving(preserving)
}

/// An object, by what its owner knows of it.
#[derive(Clone, Copy, Debug)]
struct Thing {
    seed: u8,
    reuse_tag: u8,
    /// Whether it is to be let go before it can be freed.
    pinned: bool,
}

/// Allocates an object that survives, with content.
fn leave(cache: &Cache<'_, Ram>, seed: u8) -> (PhysAddr, Thing) {
    let (slabs, pinned) = (cache.slabs(), !cache.is_preserving());
    let object = cache.alloc().unwrap();
    // SAFETY: allocated just now.
    unsafe {
        fill(object, cache.object_size(), seed);
        if pinned {
            cache.preserve(object).unwrap();
        }
    }
    let (reuse_tag, _) = slabs.reuse_tag_of(object).unwrap();
    (addr(slabs, object), Thing { seed, reuse_tag, pinned })
}

/// What each of these objects is, is there.
fn check(slabs: &Slabs<Ram>, cache: &Cache<'_, Ram>, all: &BTreeMap<PhysAddr, Thing>) {
    for (at, thing) in all {
        // SAFETY: in use, and the test's.
        assert!(unsafe { filled(ptr(slabs, *at), cache.object_size(), thing.seed) }, "{at}");
        assert_eq!(cache.at(*at, thing.reuse_tag), Ok(ptr(slabs, *at)));
    }
    let told: BTreeSet<_> = cache.preserved().collect();
    let known: BTreeSet<_> = all.iter().map(|(at, thing)| (*at, thing.reuse_tag)).collect();
    assert_eq!(told, known);
}

/// Frees an object, as its kind of cache has it.
fn free(cache: &Cache<'_, Ram>, at: PhysAddr, thing: Thing) {
    let object = ptr(cache.slabs(), at);
    // SAFETY: in use, the test's, and not used again.
    unsafe {
        if thing.pinned {
            assert!(
                matches!(
                    cache.free(object),
                    Err(Error::WrongState {
                        action: Action::Free,
                        found: ObjectState::Preserved,
                        ..
                    })
                ),
                "{at}"
            );
            cache.unpreserve(object).unwrap();
        }
        cache.free(object).unwrap();
    }
}

/// A call that names an object of a slab that was not swept: whether it found it.
type First = fn(&Slabs<Ram>, NonNull<u8>) -> bool;

#[test]
fn what_survived_is_in_use_at_once_and_nothing_is_to_be_claimed() {
    for preserving in [false, true] {
        let first = slabs(FRAMES);
        let cache = first.cache(spec(preserving)).unwrap();
        let count = 25 * cache.objects_per_slab();
        let mut all: BTreeMap<_, _> = (0..count).map(|i| leave(&cache, i as u8)).collect();
        // Some places are free.
        for at in all.keys().copied().step_by(3).collect::<Vec<_>>() {
            free(&cache, at, all.remove(&at).unwrap());
        }
        let second = successor(first, FRAMES).unwrap();
        let cache = second.resume(spec(preserving)).unwrap();
        let stats = cache.stats();
        assert_eq!((stats.slabs, stats.live), (0, 0), "nothing was looked at");
        assert!(stats.unswept > 20);
        // A single one is used: its slab alone is swept.
        let (at, thing) = all.iter().map(|(at, thing)| (*at, *thing)).nth(100).unwrap();
        assert_eq!(second.size_of(ptr(&second, at)), Some(200));
        assert_eq!(second.reuse_tag_of(ptr(&second, at)), Ok((thing.reuse_tag, 200)));
        assert_eq!(cache.stats().unswept, stats.unswept - 1);
        // There is nothing to claim, discard, adopt, pass on or be told of.
        let refused = [
            second.claim(at, 200, thing.reuse_tag).map(|_| ()),
            cache.claim(at).map(|_| ()),
            cache.discard(at),
        ];
        for refused in refused {
            assert!(
                matches!(refused, Err(Error::WrongState { action: Action::Claim, .. })),
                "{refused:?}"
            );
        }
        let (again, adopted) = second.adopt(spec(preserving)).unwrap();
        assert_eq!((again.stats().slabs, adopted.slabs), (1, 0));
        assert_eq!(second.inherited(cache.name().as_str()), None);
        second.for_each_inherited(|record| panic!("{record:?}"));
        second.finish_inherited(|unclaimed| panic!("{unclaimed:?}")).unwrap();
        check(&second, &cache, &all);
        assert_eq!(cache.stats().unswept, 0);
        assert_eq!(cache.stats().live, all.len() as u64);
        for (at, thing) in &all {
            free(&cache, *at, *thing);
        }
        second.shrink();
        assert_eq!(slab_frames(&second), 0);
        second.memory().audit().unwrap();
    }
}

#[test]
fn each_call_that_names_an_object_may_be_the_first() {
    let layout = Layout::from_size_align(200, 8).unwrap();
    let first = slabs(FRAMES);
    let born = first.alloc(layout, AllocOptions { preserving: true, zeroed: false }).unwrap();
    let kept = first.alloc(layout, AllocOptions::default()).unwrap();
    // SAFETY: allocated just now.
    unsafe { first.preserve(kept) }.unwrap();
    let at = [addr(&first, born), addr(&first, kept)];
    let second = successor(first, FRAMES).unwrap();
    // SAFETY of each: in use, the test's, and not used again.
    let calls: [(&str, usize, First); 10] = [
        ("size_of", 0, |slabs, object| slabs.size_of(object).is_some()),
        ("owner_of", 0, |slabs, object| slabs.owner_of(object).is_ok()),
        ("reuse_tag_of", 0, |slabs, object| slabs.reuse_tag_of(object).is_ok()),
        ("claim", 0, |slabs, object| {
            let claimed = slabs.claim(addr(slabs, object), 224, 0);
            matches!(claimed, Err(Error::WrongState { action: Action::Claim, .. }))
        }),
        // SAFETY: see above.
        ("free", 0, |slabs, object| unsafe { slabs.free(object) }.is_ok()),
        ("free by its cache", 0, |slabs, object| {
            let mut caches = slabs.caches();
            let cache = caches.find(Cache::is_preserving).unwrap();
            // SAFETY: see above.
            unsafe { cache.free(object) }.is_ok()
        }),
        ("realloc", 0, |slabs, object| {
            let layout = Layout::from_size_align(500, 8).unwrap();
            // SAFETY: see above.
            unsafe { slabs.realloc(object, layout) }.is_ok()
        }),
        ("preserve", 1, |slabs, object| {
            // SAFETY: see above.
            let again = unsafe { slabs.preserve(object) };
            matches!(again, Err(Error::WrongState { action: Action::Preserve, .. }))
        }),
        // SAFETY: see above.
        ("unpreserve", 1, |slabs, object| unsafe { slabs.unpreserve(object) }.is_ok()),
        ("unpreserve by its cache", 1, |slabs, object| {
            let mut caches = slabs.caches();
            let cache = caches.find(|cache| !cache.is_preserving()).unwrap();
            // SAFETY: see above.
            unsafe { cache.unpreserve(object) }.is_ok()
        }),
    ];
    for (name, which, call) in calls {
        let third = copy(&second, FRAMES);
        third.resume_buffers().unwrap();
        let unswept = || third.caches().map(|cache| cache.stats().unswept).sum::<u64>();
        assert_eq!(unswept(), 2);
        assert!(call(&third, ptr(&third, at[which])), "{name}");
        assert_eq!(unswept(), 1, "{name}");
        third.memory().audit().unwrap();
    }
}

#[test]
fn a_cache_adopts_or_resumes_and_not_both() {
    let first = slabs(FRAMES);
    for preserving in [false, true] {
        leave(&first.cache(spec(preserving)).unwrap(), 1);
    }
    let second = successor(first, FRAMES).unwrap();
    assert!(matches!(
        second.resume(CacheSpec::new("mistyped", 200)),
        Err(Error::NotInherited { .. })
    ));
    assert!(matches!(
        second.resume(CacheSpec::new("some", 300)),
        Err(Error::Mismatch { inherited: true, .. })
    ));
    assert!(matches!(
        second.resume(CacheSpec::new("buffer-64", 64)),
        Err(Error::ReservedName { .. })
    ));
    let fresh = second.resume_or_create(CacheSpec::new("fresh", 64)).unwrap();
    assert_eq!(fresh.stats().unswept, 0);
    let (cache, adopted) = second.adopt(spec(false)).unwrap();
    assert_eq!(adopted.unclaimed, 1);
    let refused = second.resume(spec(false)).unwrap_err();
    assert_eq!(refused, Error::Adopted { cache: cache.name() });
    assert!(refused.to_string().contains("claim its objects"), "{refused}");
    // While an upgrade has a slab, it is not resumed; and once it is resumed, nothing is passed on.
    let record = second.inherited("always").unwrap();
    let stop = Error::BadLayout { size: 1, align: 3 };
    let enough = second.upgrade(&record, |_| {
        let refused = second.resume(spec(true)).unwrap_err();
        assert_eq!(refused, Error::Folio(heirloom_folio::Error::PredecessorBusy));
        Err(stop)
    });
    assert_eq!(enough, Err(stop));
    second.resume(spec(true)).unwrap();
    second.resume(spec(true)).unwrap();
    assert_eq!(second.upgrade(&record, |old| panic!("{old:?}")), Ok(0));
}

#[test]
fn a_slab_that_is_asked_about_when_its_cache_is_resumed_is_not_freed() {
    let first = slabs(FRAMES);
    let (at, thing) = leave(&first.cache(spec(true)).unwrap(), 1);
    let second = successor(first, FRAMES).unwrap();
    let mut asked = 0;
    second
        .finish_inherited(|_| {
            asked += 1;
            second.resume(spec(true)).unwrap();
            Disposition::Free
        })
        .unwrap();
    assert_eq!(asked, 1);
    let cache = second.resume(spec(true)).unwrap();
    check(&second, &cache, &BTreeMap::from([(at, thing)]));
}

#[test]
fn a_slab_that_is_not_sound_shows_when_it_is_used_and_keeps_what_it_has() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = u64::from(cache.objects_per_slab());
    let all: Vec<_> = (0..3 * each).map(|i| leave(&cache, i as u8)).collect();
    let second = successor(first, FRAMES).unwrap();
    let slab_of = |at: PhysAddr| at.pfn().addr();
    let slabs: BTreeSet<_> = all.iter().map(|(at, _)| slab_of(*at)).collect();
    let slabs: Vec<_> = slabs.into_iter().collect();
    // A byte of the first header, and the state of the second slab's last object.
    // SAFETY: the predecessor's, which nothing reads at the moment.
    unsafe {
        let byte = ptr(&second, slabs[0]).add(20);
        byte.write(byte.read() ^ 4);
        ptr(&second, slabs[1]).add(128 + each as usize - 1).write(7);
    }
    let cache = second.resume(spec(true)).unwrap();
    let mut sound = 0;
    for (at, thing) in &all {
        // SAFETY: in use, and the test's.
        let freed = unsafe { cache.free(ptr(&second, *at)) };
        match slabs.iter().position(|slab| *slab == slab_of(*at)) {
            Some(0) => assert!(
                matches!(
                    freed,
                    // Whose it is cannot be told.
                    Err(Error::NotAnObject { .. } | Error::Slab(SlabError { .. }))
                ),
                "{freed:?}"
            ),
            Some(1) => {
                let fault = SlabFault::State { index: each as u32 - 1, found: 7 };
                assert_eq!(freed, Err(SlabError { slab: slabs[1], fault }.into()));
            }
            _ => {
                freed.unwrap();
                sound += 1;
            }
        }
        if slab_of(*at) == slabs[1] {
            // SAFETY: as above.
            assert!(unsafe { filled(ptr(&second, *at), 200, thing.seed) });
        }
    }
    assert_eq!(sound, each);
    // Neither allocating, nor telling, nor shrinking trips over them.
    assert_eq!(cache.preserved().count(), 0);
    leave(&cache, 1);
    assert_eq!(cache.stats().unswept, 2);
    second.finish_inherited(|unclaimed| panic!("{unclaimed:?}")).unwrap();
    second.shrink();
    assert_eq!(cache.stats().unswept, 2);
    // They are given up on request alone, and no other is.
    let mine = all.iter().map(|(at, _)| slab_of(*at)).collect::<BTreeSet<_>>();
    let other = slab_of(leave(&cache, 2).0);
    for (slab, unsound) in mine.iter().map(|slab| (*slab, slabs[..2].contains(slab))) {
        // SAFETY: nothing uses what is in it.
        assert_eq!(unsafe { cache.give_up(slab) }, Ok(unsound));
        // SAFETY: as above.
        assert_eq!(unsafe { cache.give_up(slab) }, Ok(false));
    }
    // SAFETY: as above; it is sound, and of this kernel.
    assert_eq!(unsafe { cache.give_up(other) }, Ok(false));
    assert_eq!(cache.stats().unswept, 0);
    second.memory().audit().unwrap();
    let third = successor(second, FRAMES).unwrap();
    assert_eq!(third.resume(spec(true)).unwrap().preserved().count(), 2);
}

#[test]
fn whatever_survives_in_a_preserving_cache_is_freed_by_a_plain_free() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = cache.objects_per_slab() as usize;
    let all: Vec<_> = (0..each).map(|i| leave(&cache, i as u8)).collect();
    let second = successor(first, FRAMES).unwrap();
    let slab = PhysAddr::new(all[0].0.get() & !4095);
    // States that a kernel of this build leaves in such a cache, and one that it does not.
    for (index, state) in (0..each).zip([1_u8, 3, 2].into_iter().cycle()) {
        // SAFETY: the predecessor's, which nothing reads at the moment.
        let byte = unsafe { ptr(&second, slab).add(128 + index) };
        // SAFETY: as above.
        unsafe { byte.write(byte.read() & !7 | state) };
    }
    let cache = second.resume(spec(true)).unwrap();
    assert_eq!(cache.preserved().count(), each);
    for (at, _) in all {
        // SAFETY: in use, the test's, and not used again.
        unsafe { cache.free(ptr(&second, at)) }.unwrap();
    }
    assert_eq!((second.shrink(), slab_frames(&second)), (1, 0));
}
