//! A takeover is no phase: nothing has to be claimed and nothing finished before the next jump, and
//! what is claimed is preserved until its owner lets it go.

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;

use common::{addr, copy, fill, filled, ptr, slab_frames, slabs, successor, wrong};
use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_kho::{PAGE_SIZE, PhysAddr, Run};
use heirloom_slab::{
    Action, AllocOptions, CacheSpec, Error, ObjectState, Owner, Slabs, Unclaimed, persist,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const FRAMES: u64 = 4096;
const LARGE: usize = 3 * PAGE_SIZE;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Handle {
    addr: PhysAddr,
    size: u64,
    reuse_tag: u8,
    seed: u8,
}

const PLAIN: CacheSpec = CacheSpec::new("some", 120);
const ALWAYS: CacheSpec = CacheSpec::new("always", 250).preserving(true);

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

fn handle(slabs: &Slabs<Ram>, object: NonNull<u8>, seed: u8) -> Handle {
    let (reuse_tag, size) = slabs.reuse_tag_of(object).unwrap();
    // SAFETY: every caller owns the object.
    unsafe { fill(object, size, seed) };
    Handle { addr: addr(slabs, object), size: size as u64, reuse_tag, seed }
}

/// Objects of two caches and of size classes, half of them from birth; and large buffers.
fn leave(slabs: &Slabs<Ram>) -> (Vec<Handle>, Vec<PhysAddr>) {
    let (plain, always) = (slabs.cache(PLAIN).unwrap(), slabs.cache(ALWAYS).unwrap());
    let (mut objects, mut large) = (Vec::new(), Vec::new());
    for seed in 0..200_u8 {
        let born = AllocOptions { preserving: true, zeroed: false };
        let each = [
            (plain.alloc().unwrap(), false),
            (always.alloc().unwrap(), true),
            (slabs.alloc(layout(48), AllocOptions::default()).unwrap(), false),
            (slabs.alloc(layout(700), born).unwrap(), true),
        ];
        for (object, survives) in each {
            if !survives && seed % 3 == 0 {
                // Not preserved: it ends with this kernel.
                continue;
            }
            if !survives {
                // SAFETY: allocated just now.
                unsafe { slabs.preserve(object) }.unwrap();
            }
            objects.push(handle(slabs, object, seed));
        }
    }
    for preserving in [false, true] {
        let buffer =
            slabs.alloc(layout(LARGE), AllocOptions { preserving, zeroed: false }).unwrap();
        if !preserving {
            // SAFETY: allocated just now.
            unsafe { slabs.preserve(buffer) }.unwrap();
        }
        large.push(addr(slabs, buffer));
    }
    (objects, large)
}

/// Claims an object and looks at what is in it.
fn claim(slabs: &Slabs<Ram>, handle: &Handle) -> NonNull<u8> {
    let object = slabs.claim(handle.addr, handle.size, handle.reuse_tag).unwrap();
    // SAFETY: claimed just now.
    assert!(unsafe { filled(object, handle.size as usize, handle.seed) }, "{handle:?}");
    object
}

/// What a kernel finds that is started now, beside this one: all objects, once each.
fn found(slabs: &Slabs<Ram>) -> Vec<PhysAddr> {
    let next = copy(slabs, FRAMES);
    for spec in [PLAIN, ALWAYS] {
        next.adopt_or_create(spec).unwrap();
    }
    let mut found = Vec::new();
    let done = next.finish_inherited(|unclaimed| {
        match unclaimed {
            Unclaimed::Object { addr, .. } => found.push(addr),
            // Of a size class: its objects are claimed by their handles.
            Unclaimed::Slab { objects, .. } => assert!(objects > 0),
        }
        Disposition::Keep
    });
    done.unwrap();
    found.sort();
    assert!(found.windows(2).all(|two| two[0] < two[1]), "once each");
    let mut frames = 0;
    next.memory().predecessor().finish(|block| {
        frames += block.order().frames();
        Disposition::Keep
    });
    assert_eq!(frames, 6, "two large buffers");
    found
}

fn of_caches(handles: &[Handle]) -> Vec<PhysAddr> {
    let named = handles.iter().filter(|handle| [120, 250].contains(&handle.size));
    let mut all: Vec<_> = named.map(|handle| handle.addr).collect();
    all.sort();
    all
}

#[test]
fn jumps_without_a_claim_and_without_an_end_lose_nothing() {
    let mut slabs = slabs(FRAMES);
    let (objects, large) = leave(&slabs);
    let caches = of_caches(&objects);
    for jump in 0..7 {
        slabs = successor(slabs, FRAMES).unwrap();
        assert_eq!(found(&slabs), caches);
        let mut records = 0;
        slabs.for_each_inherited(|_| records += 1);
        assert_eq!(records, 4);
        match jump % 3 {
            0 => {}
            1 => {
                for spec in [PLAIN, ALWAYS] {
                    slabs.adopt(spec).unwrap();
                }
            }
            // A cache of the name that nobody adopts for.
            _ => {
                let object = slabs.cache(PLAIN).unwrap().alloc().unwrap();
                assert!(objects.iter().all(|handle| handle.addr != addr(&slabs, object)));
            }
        }
        assert_eq!(found(&slabs), caches);
    }
    let used = slabs.memory().stats().used();
    for spec in [PLAIN, ALWAYS] {
        let (cache, adopted) = slabs.adopt(spec).unwrap();
        let expected = objects.iter().filter(|h| h.size == cache.object_size() as u64).count();
        assert_eq!((adopted.unclaimed, cache.unclaimed().count()), (expected as u64, expected));
    }
    for handle in &objects {
        let object = claim(&slabs, handle);
        let again = slabs.claim(handle.addr, handle.size, handle.reuse_tag);
        assert!(matches!(again, Err(Error::WrongState { action: Action::Claim, .. })), "{again:?}");
        // SAFETY: claimed above.
        unsafe { slabs.free(object) }.unwrap();
    }
    for at in large {
        let buffer = slabs.claim_large(at, LARGE as u64).unwrap();
        assert!(slabs.claim_large(at, LARGE as u64).is_err());
        // SAFETY: claimed above.
        unsafe { slabs.free(buffer) }.unwrap();
    }
    slabs.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
    assert_eq!(slabs.memory().predecessor().finish(|_| Disposition::Free), (0, 0));
    slabs.shrink();
    assert_eq!(slab_frames(&slabs), 0);
    assert!(slabs.memory().stats().used() < used);
    let last = successor(slabs, FRAMES).unwrap();
    assert_eq!(last.inherited("some"), None);
    assert_eq!(slab_frames(&last), 0);
}

#[test]
fn what_is_claimed_and_what_is_not_survive_alike_and_what_is_freed_does_not() {
    let mut slabs = slabs(FRAMES);
    let (mut objects, large) = leave(&slabs);
    for round in 0..4 {
        slabs = successor(slabs, FRAMES).unwrap();
        for spec in [PLAIN, ALWAYS] {
            slabs.adopt(spec).unwrap();
        }
        let buffer = slabs.claim_large(large[round % 2], LARGE as u64).unwrap();
        assert_eq!(slabs.size_of(buffer), Some(LARGE));
        for handle in objects.iter().skip(round % 2).step_by(2) {
            claim(&slabs, handle);
        }
        assert_eq!(found(&slabs), of_caches(&objects));
        if round == 1 {
            // A jump in the middle of it: the claims are the next kernel's to make.
            slabs = successor(slabs, FRAMES).unwrap();
            assert_eq!(found(&slabs), of_caches(&objects));
            for spec in [PLAIN, ALWAYS] {
                slabs.adopt(spec).unwrap();
            }
            for handle in objects.iter().skip(1).step_by(2) {
                claim(&slabs, handle);
            }
        }
        // Each third of the claimed ones is freed: those are gone, no other.
        let mut index = 6 - round % 2;
        let mut gone = Vec::new();
        objects.retain(|handle| {
            let free = index.is_multiple_of(6);
            index += 1;
            if free {
                // SAFETY: claimed above.
                unsafe { slabs.free(ptr(&slabs, handle.addr)) }.unwrap();
                gone.push(*handle);
            }
            !free
        });
        assert!(gone.len() > 40, "{}", gone.len());
        assert_eq!(found(&slabs), of_caches(&objects));
        let next = copy(&slabs, FRAMES);
        for spec in [PLAIN, ALWAYS] {
            next.adopt(spec).unwrap();
        }
        for handle in &gone {
            let refused = next.claim(handle.addr, handle.size, handle.reuse_tag);
            let gone = matches!(
                refused,
                Err(Error::WrongState { action: Action::Claim, .. } | Error::NotAnObject { .. })
            );
            assert!(gone, "{refused:?}");
        }
        for handle in &objects {
            claim(&next, handle);
        }
        next.finish_inherited(|left| panic!("{left:?} was claimed")).unwrap();
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Thing {
    words: [u64; 15],
}
persist!(Thing { words });

/// Whether an object is there in a kernel that starts now.
fn survives(slabs: &Slabs<Ram>, handle: &Handle) -> bool {
    let next = copy(slabs, FRAMES);
    let _ = next.adopt(PLAIN);
    match next.claim(handle.addr, handle.size, handle.reuse_tag) {
        Ok(object) => {
            // SAFETY: claimed just now.
            assert!(unsafe { filled(object, handle.size as usize, handle.seed) });
            true
        }
        Err(Error::WrongState { action: Action::Claim, .. } | Error::NotAnObject { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

fn state(slabs: &Slabs<Ram>, at: PhysAddr) -> (ObjectState, bool) {
    match slabs.owner_at(at) {
        Some(Owner::Object { state, preserved, .. }) => (state, preserved),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claimed_object_is_like_a_preserved_one_that_can_be_freed() {
    let first = slabs(FRAMES);
    let cache = first.cache(PLAIN).unwrap();
    let kept: Vec<_> = (0..8)
        .map(|seed| {
            let object = cache.alloc().unwrap();
            // SAFETY: allocated just now.
            unsafe { first.preserve(object) }.unwrap();
            handle(&first, object, seed)
        })
        .collect();
    let slabs = successor(first, FRAMES).unwrap();
    let (cache, _) = slabs.adopt(PLAIN).unwrap();
    let name = cache.name();
    let [plain, again, let_go, preserved, grown, shrunk, freed, other] = kept[..] else {
        panic!("{kept:?}")
    };

    // What it is.
    let object = claim(&slabs, &plain);
    assert_eq!(slabs.size_of(object), Some(120));
    assert_eq!(slabs.reuse_tag_of(object), Ok((plain.reuse_tag, 120)));
    assert_eq!(state(&slabs, plain.addr), (ObjectState::Held, true));
    let inside = PhysAddr::new(plain.addr.get() + 9);
    assert_eq!(state(&slabs, inside), (ObjectState::Held, true));
    let stats = cache.stats();
    assert_eq!((stats.live, stats.preserved, stats.unclaimed), (1, 1, 7));
    let refused = slabs.claim(plain.addr, 120, plain.reuse_tag);
    assert_eq!(refused, wrong(name, plain.addr, Action::Claim, ObjectState::Held));
    assert_eq!(
        cache.discard(plain.addr),
        wrong(name, plain.addr, Action::Claim, ObjectState::Held)
    );
    assert!(survives(&slabs, &plain));

    // Preserved: it survives, and cannot be freed any more. Let go: the other way round.
    let object = claim(&slabs, &again);
    // SAFETY: claimed above, and nothing frees it meanwhile.
    unsafe {
        slabs.preserve(object).unwrap();
        let twice = wrong(name, again.addr, Action::Preserve, ObjectState::Preserved);
        assert_eq!(slabs.preserve(object), twice);
        assert_eq!(state(&slabs, again.addr), (ObjectState::Preserved, true));
        assert_eq!(
            slabs.free(object),
            wrong(name, again.addr, Action::Free, ObjectState::Preserved)
        );
        assert!(survives(&slabs, &again));
        slabs.unpreserve(object).unwrap();
        assert!(!survives(&slabs, &again));
        slabs.free(object).unwrap();
    }
    let object = claim(&slabs, &let_go);
    // SAFETY: claimed above, and nothing frees it meanwhile.
    unsafe {
        slabs.unpreserve(object).unwrap();
        assert_eq!(state(&slabs, let_go.addr), (ObjectState::Live, false));
        assert!(!survives(&slabs, &let_go));
        let not = wrong(name, let_go.addr, Action::Unpreserve, ObjectState::Live);
        assert_eq!(slabs.unpreserve(object), not);
        slabs.preserve(object).unwrap();
        assert!(survives(&slabs, &let_go));
        slabs.unpreserve(object).unwrap();
        slabs.free(object).unwrap();
        assert_eq!(slabs.free(object), wrong(name, let_go.addr, Action::Free, ObjectState::Free));
    }

    // Of another size: where it is, or elsewhere; it survives all the same.
    let object = claim(&slabs, &shrunk);
    // SAFETY: claimed above.
    assert_eq!(unsafe { slabs.realloc(object, layout(80)) }, Ok(object));
    assert_eq!(state(&slabs, shrunk.addr), (ObjectState::Held, true));
    // SAFETY: as above; a place of the right size is taken.
    let small = unsafe { slabs.realloc(object, layout(16)) }.unwrap();
    assert_ne!(small, object);
    assert!(!survives(&slabs, &shrunk));
    let (reuse_tag, size) = slabs.reuse_tag_of(small).unwrap();
    let small = Handle { addr: addr(&slabs, small), size: size as u64, reuse_tag, ..shrunk };
    assert!(survives(&slabs, &small));
    let object = claim(&slabs, &grown);
    // SAFETY: claimed above; the old place is not used again.
    let large = unsafe { slabs.realloc(object, layout(1000)) }.unwrap();
    // SAFETY: the caller's.
    assert!(unsafe { filled(large, 120, grown.seed) });
    let large = handle(&slabs, large, grown.seed);
    assert!(!survives(&slabs, &grown) && survives(&slabs, &large));
    // SAFETY: moved there above.
    unsafe { slabs.free(ptr(&slabs, large.addr)) }.unwrap();
    assert!(!survives(&slabs, &large));
    // One that is preserved singly does not move.
    let object = claim(&slabs, &preserved);
    // SAFETY: claimed above.
    unsafe {
        slabs.preserve(object).unwrap();
        let refused = slabs.realloc(object, layout(1000));
        assert_eq!(refused, wrong(name, preserved.addr, Action::Free, ObjectState::Preserved));
    }

    // Freed, by whichever call.
    let object = claim(&slabs, &freed);
    // SAFETY: claimed above.
    unsafe { cache.free(object) }.unwrap();
    // SAFETY: refused.
    let twice = unsafe { cache.free(object) };
    assert_eq!(twice, wrong(name, freed.addr, Action::Free, ObjectState::Free));
    assert!(!survives(&slabs, &freed) && survives(&slabs, &other));

    // The slab stays as long as one survives in it, and no longer.
    cache.discard(other.addr).unwrap();
    // SAFETY: in use, and given up.
    unsafe {
        slabs.free(ptr(&slabs, plain.addr)).unwrap();
        slabs.unpreserve(ptr(&slabs, preserved.addr)).unwrap();
    }
    let mut preserved_slabs = 0;
    slabs.memory().preserved().for_each(|block| {
        let at = block.addr();
        let of = slabs.owner_at(at);
        preserved_slabs +=
            u64::from(matches!(of, Some(Owner::Slab { cache, .. }) if cache == name));
    });
    assert_eq!((preserved_slabs, cache.stats().preserved, cache.stats().live), (0, 0, 1));
    assert_eq!(copy(&slabs, FRAMES).inherited("some"), None);
}

#[test]
fn a_typed_object_that_is_claimed_survives_until_it_is_dropped() {
    let first = slabs(FRAMES);
    let things = first.typed::<Thing>("thing", false).unwrap();
    let name = |value| {
        let kept = things.insert(Thing { words: [value; 15] }).unwrap().preserve().unwrap();
        kept.handle_parts()
    };
    let names: Vec<_> = (0..4).map(name).collect();
    let slabs = successor(first, FRAMES).unwrap();
    let (things, _) = slabs.adopt_typed::<Thing>("thing", false).unwrap();
    let values = || {
        let next = copy(&slabs, FRAMES);
        let Ok((things, _)) = next.adopt_typed::<Thing>("thing", false) else { return Vec::new() };
        let mut all: Vec<_> = things
            .claim_all()
            .map(|thing| {
                let value = thing.words[0];
                thing.leak();
                value
            })
            .collect();
        all.sort_unstable();
        all
    };
    let claimed: Vec<_> =
        names.iter().map(|(addr, reuse_tag)| things.claim(*addr, *reuse_tag).unwrap()).collect();
    assert_eq!(values(), [0, 1, 2, 3]);
    let mut claimed = claimed.into_iter();
    drop(claimed.next());
    assert_eq!(values(), [1, 2, 3]);
    let kept = claimed.next().unwrap().preserve().unwrap();
    claimed.next().unwrap().leak();
    assert_eq!(values(), [1, 2, 3]);
    let live = kept.unpreserve().unwrap();
    assert_eq!((live.words[3], values()), (1, vec![2, 3]));
    let again = live.preserve().unwrap();
    assert_eq!(values(), [1, 2, 3]);
    again.into_raw();
    drop(claimed);
    assert_eq!((values(), slabs.refused_frees()), (vec![1, 2], 0));
}

#[test]
fn a_freed_buffer_is_out_of_the_tree() {
    let tree = |slabs: &Slabs<Ram>| {
        let mut blocks = Vec::new();
        slabs.memory().preserved().for_each(|block| blocks.push(block));
        blocks
    };
    let slabs = slabs(FRAMES);
    let there = |at: PhysAddr, bytes: usize| copy(&slabs, FRAMES).claim_large(at, bytes as u64);
    for bytes in [1, 2, 3, 5, 16, 21].map(|pages| pages * PAGE_SIZE) {
        for zeroed in [false, true] {
            let options = AllocOptions { preserving: true, zeroed };
            // Twice the same, as the CPU keeps what was freed.
            for round in 0..2 {
                let before = tree(&slabs);
                let buffer = slabs.alloc(layout(bytes), options).unwrap();
                let at = addr(&slabs, buffer);
                let run = Run::covering(at, bytes as u64).unwrap();
                assert!(run.blocks().all(|block| slabs.memory().preserved().contains(block)));
                // SAFETY: allocated just now.
                unsafe { fill(buffer, bytes, 3) };
                assert!(there(at, bytes).is_ok());
                // From birth, or let go and preserved by a call.
                // SAFETY: allocated above, and this test's.
                unsafe {
                    slabs.preserve(buffer).unwrap();
                    assert!(slabs.free(buffer).is_err() && there(at, bytes).is_ok());
                    slabs.unpreserve(buffer).unwrap();
                    assert_eq!(tree(&slabs), before);
                    slabs.free(buffer).unwrap();
                };
                let buffer = slabs.alloc(layout(bytes), options).unwrap();
                assert_ne!(tree(&slabs), before);
                let at = addr(&slabs, buffer);
                // SAFETY: allocated above, and not used any more.
                unsafe { slabs.free(buffer) }.unwrap();
                assert_eq!(tree(&slabs), before, "{bytes} {zeroed} {round}");
                let gone = there(at, bytes);
                assert!(matches!(
                    gone,
                    Err(Error::Folio(heirloom_folio::Error::NotPreserved { .. }))
                ));
                // SAFETY: refused.
                assert!(unsafe { slabs.free(buffer) }.is_err());
                slabs.memory().audit().unwrap();
            }
        }
    }
}

#[test]
fn a_claimed_large_buffer_is_held() {
    let first = slabs(FRAMES);
    let (_, large) = leave(&first);
    let slabs = successor(first, FRAMES).unwrap();
    let there = |at: PhysAddr| copy(&slabs, FRAMES).claim_large(at, LARGE as u64).is_ok();
    for (i, at) in large.into_iter().enumerate() {
        let buffer = slabs.claim_large(at, LARGE as u64).unwrap();
        // SAFETY: claimed above, and this test's.
        unsafe {
            fill(buffer, LARGE, 5);
            assert!(there(at));
            if i == 0 {
                // It moves as a whole, and survives at each instant.
                let moved = slabs.realloc(buffer, layout(2 * LARGE)).unwrap();
                assert!(filled(moved, LARGE, 5) && !there(at));
                let at = addr(&slabs, moved);
                assert!(copy(&slabs, FRAMES).claim_large(at, 2 * LARGE as u64).is_ok());
                slabs.free(moved).unwrap();
                continue;
            }
            slabs.preserve(buffer).unwrap();
            assert!(there(at) && slabs.preserve(buffer).is_err() && slabs.free(buffer).is_err());
            slabs.unpreserve(buffer).unwrap();
            assert!(!there(at));
            slabs.free(buffer).unwrap();
        }
    }
    slabs.memory().audit().unwrap();
}
