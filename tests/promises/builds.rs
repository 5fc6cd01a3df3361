//! Old and new need not be the same build.

use heirloom::folio::DirectMap;
use heirloom::kho::{Handle, PhysAddr};
use heirloom::slab::{Action, CacheSpec, Error as SlabError, Field, OldObject, Persist, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::common::{State, World, finish_freeing, keep_buffer, stamped_at};

mod old {
    #[derive(
        Clone, Copy, super::FromBytes, super::IntoBytes, super::Immutable, super::KnownLayout,
    )]
    #[repr(C)]
    pub(super) struct Inode {
        pub(super) number: u64,
        pub(super) links: u32,
        pub(super) flags: u32,
    }
    heirloom::slab::persist!(Inode { number, links, flags });
}

/// The same name and size; the fields have changed places.
#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Inode {
    number: u64,
    flags: u32,
    links: u32,
}
persist!(Inode { number, flags, links });

fn field<T>(result: &Result<T, SlabError>) -> (Field, u64, u64) {
    match result {
        Err(SlabError::Mismatch { field, expected, found, .. }) => (*field, *expected, *found),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a cache of another layout was adopted"),
    }
}

#[test]
fn old_and_new_need_not_be_the_same_build() {
    let spec = CacheSpec::new("things", 72).align(8).fingerprint(7);
    let world = World::new(1024);
    let kernel = world.boot();
    let things = kernel.slabs().cache(spec).unwrap();
    let handles: Vec<_> =
        // SAFETY: in use, and nothing frees it meanwhile.
        (0..3).map(|_| unsafe { kernel.preserve(things.alloc().unwrap()) }.unwrap()).collect();
    let new = world.jump(kernel);
    let before = State::of(&new);
    let adopt = |spec| field(&new.slabs().adopt(spec));
    let named = |size| CacheSpec::new("things", size).align(8).fingerprint(7);
    assert_eq!(adopt(named(80)), (Field::Size, 80, 72));
    assert_eq!(adopt(spec.align(16)), (Field::Align, 16, 8));
    assert_eq!(adopt(spec.fingerprint(8)), (Field::Fingerprint, 8, 7));
    assert_eq!(adopt(spec.preserving(true)), (Field::Preserving, 1, 0));
    assert_eq!(State::of(&new), before);
    // Who does not ask for a mismatch gets it all.
    let (_, adopted) = new.slabs().adopt(spec).unwrap();
    assert_eq!((adopted.slabs, adopted.unclaimed), (1, 3));
    for handle in handles {
        let ptr = new.restore(handle).unwrap();
        // SAFETY: claimed just now.
        unsafe { new.free(ptr) }.unwrap();
    }
    assert_eq!(finish_freeing(&new), []);
}

#[test]
fn a_cache_of_another_layout_is_handed_to_the_upgrade_function() {
    const COUNT: u64 = 500;
    for preserving in [false, true] {
        let world = World::new(1024);
        let kernel = world.boot();
        let inodes = kernel.slabs().typed::<old::Inode>("inode", preserving).unwrap();
        for number in 0..COUNT {
            let inode = inodes.insert(old::Inode { number, links: 2, flags: 9 }).unwrap();
            if preserving {
                inode.leak();
            } else {
                inode.preserve().unwrap().into_raw();
            }
        }
        let new = world.jump(kernel);
        let (expected, found) = (Inode::FINGERPRINT, old::Inode::FINGERPRINT);
        let refused = field(&new.slabs().adopt_typed::<Inode>("inode", preserving));
        assert_eq!(refused, (Field::Fingerprint, expected, found));

        let record = new.slabs().inherited("inode").unwrap();
        let mut upgraded: Vec<Inode> = Vec::new();
        let mut seen: Vec<PhysAddr> = Vec::new();
        // What the function refuses stays, and is passed again.
        let mut calls = 0;
        let stop = SlabError::BadLayout { size: 1, align: 1 };
        let mut take = |object: OldObject<'_>| {
            let old = old::Inode::read_from_bytes(object.bytes).unwrap();
            upgraded.push(Inode { number: old.number, flags: old.flags, links: old.links });
            seen.push(object.addr);
            Ok(())
        };
        let stopped = new.slabs().upgrade(&record, |object| {
            calls += 1;
            if calls == 3 { Err(stop) } else { take(object) }
        });
        assert_eq!(stopped, Err(stop));
        let taken = new.slabs().upgrade(&record, take);
        // Those that were taken are gone.
        assert_eq!(taken, Ok(COUNT - 2));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len() as u64, COUNT);
        upgraded.sort_unstable_by_key(|inode| inode.number);
        let expected = (0..COUNT).map(|number| Inode { number, flags: 9, links: 2 });
        assert_eq!(upgraded, expected.collect::<Vec<_>>());
        // The name is free for the new layout, and nothing of the old one is left.
        let inodes = new.slabs().typed::<Inode>("inode", preserving).unwrap();
        let first = inodes.insert(upgraded[0]).unwrap();
        assert_eq!(*first, upgraded[0]);
        assert_eq!(finish_freeing(&new), []);
        assert_eq!(inodes.cache().stats().live, 1);
    }
}

#[test]
fn a_claim_of_a_typed_object_is_by_address_and_tag() {
    let world = World::new(1024);
    let kernel = world.boot();
    let inodes = kernel.slabs().typed::<Inode>("inode", false).unwrap();
    let kept = inodes.insert(Inode { number: 1, flags: 2, links: 3 }).unwrap().preserve().unwrap();
    let (addr, tag) = kept.handle_parts();
    kept.into_raw();
    let new = world.jump(kernel);
    let inodes = new.adopt::<Inode>("inode", false).unwrap();
    assert!(matches!(inodes.claim(addr, tag ^ 1), Err(SlabError::Stale { .. })));
    let inode = inodes.claim(addr, tag).unwrap();
    assert_eq!(*inode, Inode { number: 1, flags: 2, links: 3 });
    assert!(matches!(
        inodes.claim(addr, tag),
        Err(SlabError::WrongState { action: Action::Claim, .. })
    ));
}

#[test]
fn buffers_of_every_size_class_are_found_without_asking_for_their_caches() {
    let world = World::new(4096);
    let kernel = world.boot();
    let sizes = || (3..13).flat_map(|log| [1 << log, (1 << log) + (1 << (log - 2))]);
    let kept: Vec<(Handle, usize)> = sizes()
        .flat_map(|bytes| [(bytes, false), (bytes, true)])
        .map(|(bytes, born)| (keep_buffer(&kernel, bytes, born, bytes as u64).unwrap(), bytes))
        .collect();
    let new = world.jump(kernel);
    for (handle, bytes) in kept {
        let ptr = new.restore(handle).unwrap();
        let addr = new.memory().machine().phys(ptr).unwrap();
        assert!(stamped_at(&new, addr, bytes, bytes as u64));
        // SAFETY: claimed just now.
        unsafe { new.free(ptr) }.unwrap();
    }
    assert_eq!(finish_freeing(&new), []);
}
