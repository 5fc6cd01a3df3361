//! No program of safe calls alone reaches memory of another owner: threads that look objects up, claim
//! and discard by stale addresses and handles, beside an owner of the frames that the slab had.
#![forbid(unsafe_code)]

mod attack {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use heirloom_folio::harness::Ram;
    use heirloom_folio::{DirectMap, Request};
    use heirloom_kho::{Order, PAGE_SIZE, PhysAddr};
    use heirloom_slab::{Slabs, TypedCache, persist};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug)]
    #[repr(C)]
    pub(super) struct Thing {
        words: [u64; 64],
    }
    persist!(Thing { words });

    pub(super) type World = Slabs<Ram>;
    pub(super) type Things<'s> = TypedCache<'s, Thing, Ram>;

    /// What a thread does again and again with an address that leads to an object now and then.
    pub(super) type Call = fn(&World, &Things<'_>, PhysAddr);

    /// Rounds of the owner: few where an interpreter runs it.
    const ROUNDS: usize = if cfg!(miri) { 12 } else { 8000 };

    /// Where a slab's header has the address of its entry in the cache directory.
    const ENTRY: usize = 112;
    /// Where it counts objects that keep it preserved.
    const PRESERVED: usize = 124;
    /// Where the bytes of its objects begin. 3 is one to be claimed, whose reuse tag is 0.
    const STATES: usize = 128;

    /// Runs `calls` against a slab that comes and goes. Whenever it is gone its frames are a folio's
    /// whose bytes read like a slab with objects to claim, and the cache directory's entry at `victim`: none of
    /// them may change.
    pub(super) fn beside_an_owner(calls: &[Call]) {
        let slabs = Slabs::new(Ram::memory(&Ram::frames(256)).unwrap()).unwrap();
        let things = slabs.typed::<Thing>("thing", false).unwrap();
        let memory = slabs.memory();
        let first = things.insert(Thing { words: [7; 64] }).unwrap();
        let at = first.handle_parts().0;
        drop(first);
        things.cache().shrink();
        // Nothing is ever done with it.
        let mut victim = memory.alloc_folio(Request::new(Order::ZERO)).unwrap();
        victim.bytes_mut().fill(0xA5);
        let victim_at = victim.extent().addr().get() + 0x100;
        let order = things.cache().slab_order();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for call in calls {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        (0..8).for_each(|_| call(&slabs, &things, at));
                        // A thread that is stopped while it looks keeps the slab.
                        thread::yield_now();
                    }
                });
            }
            let owner = scope.spawn(|| {
                let mut same = 0;
                for round in 0..ROUNDS {
                    let thing = things.insert(Thing { words: [7; 64] }).unwrap();
                    let slab = PhysAddr::new(thing.handle_parts().0.get() & !(order.bytes() - 1));
                    drop(thing);
                    things.cache().shrink();
                    let Ok(mut folio) = memory.alloc_folio(Request::new(order)) else { continue };
                    same += usize::from(folio.extent().addr() == slab);
                    let like = |i: usize| match i {
                        ENTRY..120 => victim_at.to_le_bytes()[i - ENTRY],
                        PRESERVED => 1,
                        STATES.. => 3,
                        _ => 0,
                    };
                    let head = 256;
                    for (i, byte) in folio.bytes_mut().iter_mut().take(head).enumerate() {
                        *byte = like(i);
                    }
                    for _ in 0..if cfg!(miri) { 2 } else { 50 } {
                        let bytes = folio.bytes().iter().take(head).enumerate();
                        let other = bytes.into_iter().find(|(i, byte)| **byte != like(*i));
                        if let Some((i, byte)) = other {
                            done.store(true, Ordering::Relaxed);
                            panic!("byte {i} of {folio:?} is {byte:#x}, round {round}");
                        }
                    }
                }
                done.store(true, Ordering::Relaxed);
                same
            });
            let same = owner.join();
            done.store(true, Ordering::Relaxed);
            let same = same.unwrap();
            assert!(same > 0, "the owner never had the slab's frames");
            println!("{ROUNDS} rounds, {same} with the slab's own frames");
        });
        assert!(
            victim.bytes().iter().all(|byte| *byte == 0xA5),
            "a word of the victim was written"
        );
        drop(victim);
        slabs.shrink();
        memory.audit().unwrap();
        assert_eq!(things.cache().stats().live, 0);
    }

    pub(super) fn pointer(slabs: &World, at: PhysAddr) -> std::ptr::NonNull<u8> {
        slabs.memory().machine().ptr(at)
    }

    const _: () = assert!(PAGE_SIZE >= 256);
}

use attack::{Call, beside_an_owner, pointer};

#[test]
fn a_stale_claim_changes_no_owners_bytes() {
    let claim: Call = |slabs, _, at| {
        // Nothing was left to be claimed.
        slabs.claim(at, 512, 0).unwrap_err();
    };
    beside_an_owner(&[claim, claim]);
}

#[test]
fn a_stale_claim_through_a_cache_changes_no_owners_bytes() {
    let typed: Call = |_, things, at| {
        things.claim(at, 0).unwrap_err();
    };
    let raw: Call = |_, things, at| {
        things.cache().claim(at).unwrap_err();
    };
    beside_an_owner(&[typed, raw, raw]);
}

#[test]
fn a_stale_discard_changes_no_owners_bytes() {
    let discard: Call = |_, things, at| {
        things.cache().discard(at).unwrap_err();
    };
    beside_an_owner(&[discard, discard]);
}

#[test]
fn looking_up_whose_memory_it_is_races_with_no_owner() {
    let look: Call = |slabs, _, at| {
        let ptr = pointer(slabs, at);
        let _ =
            (slabs.owner_at(at), slabs.owner_of(ptr), slabs.size_of(ptr), slabs.reuse_tag_of(ptr));
    };
    let all: Call = |_, things, _| assert_eq!(things.claim_all().count(), 0);
    beside_an_owner(&[look, all]);
}
