//! Caches that are resumed: what survived in them is in use as it was, without a claim, and each slab
//! becomes ours when it is first used.

mod common;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Barrier, Mutex};

use common::{addr, copy, fill, filled, ptr, slab_frames, slabs, successor, wrong};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Request};
use heirloom_kho::{Order, PhysAddr};
use heirloom_slab::internal::SlabFault;
use heirloom_slab::{
    Action, AllocOptions, Cache, CacheSpec, Constructor, Error, ObjectState, SlabError, Slabs,
    persist,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const FRAMES: u64 = 4096;

fn spec(preserving: bool) -> CacheSpec {
    let name = if preserving { "always" } else { "some" };
    CacheSpec::new(name, 200).order(Order::ZERO).preserving(preserving)
}

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

/// A call that names an object of a slab that was not swept: whether it found it.
type First = fn(&Slabs<Ram>, NonNull<u8>) -> bool;

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
fn free_places_of_resumed_slabs_are_allocated_before_new_slabs() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let mut all: BTreeMap<_, _> = (0..2000_u32).map(|i| leave(&cache, i as u8)).collect();
    for at in all.keys().copied().step_by(2).collect::<Vec<_>>() {
        free(&cache, at, all.remove(&at).unwrap());
    }
    let places = cache.stats().slabs * u64::from(cache.objects_per_slab());
    let second = successor(first, FRAMES).unwrap();
    let cache = second.resume(spec(true)).unwrap();
    let used = second.memory().stats().used();
    for i in all.len() as u64..places {
        let (at, thing) = leave(&cache, i as u8);
        assert!(all.insert(at, thing).is_none(), "{at} has two owners");
    }
    // Magazines are all that is new.
    assert!(second.memory().stats().used() < used + 16, "no new slab");
    check(&second, &cache, &all);
}

#[test]
fn an_allocation_looks_at_a_few_full_slabs_and_no_more() {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = cache.objects_per_slab();
    for i in 0..100 * each {
        leave(&cache, i as u8);
    }
    let second = successor(first, FRAMES).unwrap();
    let cache = second.resume(spec(true)).unwrap();
    let before = cache.stats().unswept;
    cache.alloc().unwrap();
    let swept = before - cache.stats().unswept;
    assert!((1..=8).contains(&swept), "{swept} slabs for one object");
    // The rest on request.
    assert_eq!(cache.sweep(10), Ok(10));
    assert_eq!(cache.stats().unswept, before - swept - 10);
    assert_eq!(cache.sweep(u64::MAX), Ok(cache.stats().slabs - 1 - swept - 10));
    assert_eq!((cache.sweep(1), cache.stats().unswept), (Ok(0), 0));
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

std::thread_local! {
    static BUILT: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn free_places_of_a_resumed_slab_are_constructed_when_it_is_first_used() {
    fn construct(object: NonNull<u8>) {
        BUILT.set(BUILT.get() + 1);
        // SAFETY: a place of the cache, which is this call's.
        unsafe { object.write_bytes(0x77, 200) };
    }
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = cache.objects_per_slab();
    let all: BTreeMap<_, _> = (0..each).map(|i| leave(&cache, i as u8)).collect();
    let (gone, thing) = all.first_key_value().map(|(at, thing)| (*at, *thing)).unwrap();
    free(&cache, gone, thing);
    let second = successor(first, FRAMES).unwrap();
    let cache = second.resume(spec(true).constructor(construct)).unwrap();
    assert_eq!(BUILT.get(), 0);
    let object = cache.alloc().unwrap();
    assert_eq!((BUILT.get(), addr(&second, object)), (1, gone));
    // SAFETY: allocated just now, and constructed.
    assert!(unsafe { (0..200).all(|i| object.add(i).read() == 0x77) });
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

std::thread_local! {
    static KERNEL: Cell<Option<&'static Slabs<Ram>>> = const { Cell::new(None) };
    static NESTED: Cell<u32> = const { Cell::new(0) };
    static DEEPEST: Cell<u32> = const { Cell::new(0) };
}

/// Takes all the memory that there is.
fn hog(slabs: &Slabs<Ram>) {
    for order in (0..=9).rev().map(|order| Order::new(order).unwrap()) {
        while slabs.memory().alloc(Request::new(order)).is_ok() {}
    }
}

/// A kernel to which `count` slabs of a preserving cache were left, a place in each of them free, and
/// which resumed the cache.
fn resumed_with_holes(count: u64, constructor: Constructor) -> &'static Slabs<Ram> {
    let first = slabs(FRAMES);
    let cache = first.cache(spec(true)).unwrap();
    let each = u64::from(cache.objects_per_slab());
    let all: Vec<_> = (0..count * each).map(|i| leave(&cache, i as u8)).collect();
    let mut slabs_seen = BTreeSet::new();
    for (at, thing) in all {
        if slabs_seen.insert(at.pfn()) {
            free(&cache, at, thing);
        }
    }
    let second: &Slabs<Ram> = Box::leak(Box::new(successor(first, FRAMES).unwrap()));
    second.resume(spec(true).constructor(constructor)).unwrap();
    second
}

/// An allocator does not unwind: so what it does for want of memory runs no constructor of another cache.
#[test]
fn no_constructor_of_a_resumed_cache_is_run_by_an_allocation_of_another() {
    fn construct(_: NonNull<u8>) {
        panic!("a constructor");
    }
    let second = resumed_with_holes(40, construct);
    hog(second);
    let heap = second.heap(false);
    // SAFETY: the layouts have a size.
    unsafe {
        assert!(heap.alloc(Layout::from_size_align(100_000, 8).unwrap()).is_null());
        let mut small = 0;
        while !heap.alloc(Layout::from_size_align(64, 8).unwrap()).is_null() {
            small += 1;
        }
        assert!(small < 10_000);
    }
}

/// A constructor may allocate. Where there is no memory, that brings no other slab's constructors with
/// it, and theirs others', as deep as there are slabs.
#[test]
fn constructors_that_find_no_memory_do_not_nest() {
    fn construct(_: NonNull<u8>) {
        NESTED.set(NESTED.get() + 1);
        DEEPEST.set(DEEPEST.get().max(NESTED.get()));
        let slabs = KERNEL.get().unwrap();
        let large = Layout::from_size_align(100_000, 8).unwrap();
        assert!(slabs.alloc(large, AllocOptions::default()).is_err());
        NESTED.set(NESTED.get() - 1);
    }
    let second = resumed_with_holes(40, construct);
    KERNEL.set(Some(second));
    hog(second);
    let cache = second.cache(spec(true).constructor(construct)).unwrap();
    // All the free places can be had.
    for _ in 0..40 {
        cache.alloc().unwrap();
    }
    assert!(cache.alloc().is_err());
    assert_eq!((DEEPEST.get(), NESTED.get()), (1, 0));
}

/// Where there is no memory, every free place that was resumed can be had, however many full slabs stand
/// before it.
#[test]
fn free_places_behind_many_full_slabs_are_found_where_memory_is_full() {
    fn construct(_: NonNull<u8>) {}
    for constructed in [false, true] {
        let first = slabs(FRAMES);
        let cache = first.cache(spec(true)).unwrap();
        let each = u64::from(cache.objects_per_slab());
        let all: Vec<_> = (0..60 * each).map(|i| leave(&cache, i as u8)).collect();
        let (gone, thing) = *all.last().unwrap();
        free(&cache, gone, thing);
        let second = successor(first, FRAMES).unwrap();
        let like = if constructed { spec(true).constructor(construct) } else { spec(true) };
        let cache = second.resume(like).unwrap();
        hog(&second);
        assert_eq!(cache.alloc().map(|object| addr(&second, object)), Ok(gone));
        assert!(cache.alloc().is_err());
    }
}

#[test]
fn what_was_resumed_and_is_of_no_use_is_given_back_with_all_magazines() {
    for preserving in [false, true] {
        let first = slabs(FRAMES);
        let cache = first.cache(spec(preserving)).unwrap();
        let each = cache.objects_per_slab();
        let all: Vec<_> = (0..4 * each).map(|i| leave(&cache, i as u8)).collect();
        // The slabs of a preserving cache stay a while when they are empty.
        let kept = usize::from(!preserving);
        for (at, thing) in all.iter().skip(kept) {
            free(&cache, *at, *thing);
        }
        let mut second = successor(first, FRAMES).unwrap();
        second.resume(spec(preserving)).unwrap();
        second.shrink_all();
        assert_eq!(slab_frames(&second), kept as u64);
        let cache = second.resume(spec(preserving)).unwrap();
        assert_eq!((cache.stats().unswept, cache.stats().live), (0, kept as u64));
    }
}
