//! Links lead to what they were made for, or are refused.

use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::PhysAddr;
use heirloom_slab::{Action, CacheSpec, Error, Link, ObjectState, Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Node {
    next: Link<Node>,
    value: u64,
}
persist!(Node { next, value });

fn slabs() -> Slabs<Ram> {
    Slabs::new(Ram::memory(&Ram::frames(1024)).unwrap()).unwrap()
}

#[test]
fn what_is_no_object_of_the_cache_in_use_is_refused() {
    let slabs = slabs();
    let nodes = slabs.typed::<Node>("nodes", true).unwrap();
    let other = slabs.cache(CacheSpec::new("others", 16).preserving(true)).unwrap();
    let node = nodes.insert(Node { next: Link::NULL, value: 7 }).unwrap();
    let link = node.link();
    assert_eq!(
        nodes.follow(link).map(std::ptr::NonNull::cast),
        Ok(slabs.memory().machine().ptr(link.addr()))
    );
    assert!(matches!(nodes.follow(Link::NULL), Err(Error::NotAnObject { .. })));
    for offset in [1, 4, 8, 15] {
        let inside = Link::from_bits(link.bits() + offset);
        assert!(matches!(nodes.follow(inside), Err(Error::Interior { .. })), "{offset}");
    }
    let foreign = other.alloc().unwrap();
    let foreign = slabs.memory().machine().phys(foreign).unwrap();
    assert!(matches!(nodes.follow(Link::to(foreign)), Err(Error::WrongCache { .. })));
    drop(node);
    let free = nodes.follow(link);
    assert!(
        matches!(
            free,
            Err(Error::WrongState { action: Action::Name, found: ObjectState::Free, .. })
        ),
        "{free:?}"
    );
    // Any word at all, of which most lead out of memory.
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..10_000 {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        assert!(nodes.follow(Link::from_bits(bits >> (bits % 40))).is_err());
    }
}

#[test]
fn an_object_is_named_before_it_is_in_use() {
    let slabs = slabs();
    let cache = slabs.cache(CacheSpec::new("named", 48).preserving(true)).unwrap();
    let phys = |object| slabs.memory().machine().phys(object).unwrap_or(PhysAddr::new(0));
    // From a slab, from a magazine, and from what was freed.
    for _ in 0..200 {
        let mut named = None;
        let before = cache.preserved().count();
        let object = cache.alloc_noted(|object| {
            named = Some(object);
            assert!(cache.in_use_at(phys(object)).is_err());
            assert_eq!(cache.preserved().count(), before);
        });
        let object = object.unwrap();
        assert_eq!(named, Some(object));
        assert_eq!(cache.in_use_at(phys(object)), Ok(object));
        if before > 50 {
            // SAFETY: allocated above, and not used again.
            unsafe { cache.free(object) }.unwrap();
        }
    }
}

#[test]
fn a_panic_while_an_object_is_named_leaves_it_free() {
    let slabs = slabs();
    let cache = slabs.cache(CacheSpec::new("named", 48).preserving(true)).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let written = cache.alloc_noted(|object| {
            // SAFETY: an object of 48 bytes, this closure's.
            unsafe { object.write_bytes(1, 48) };
            panic!("by the caller");
        });
        written.map(drop)
    }));
    assert!(panicked.is_err());
    assert_eq!(cache.stats().live, 0);
    let object = cache.alloc().unwrap();
    // SAFETY: allocated above, and not used again.
    unsafe { cache.free(object) }.unwrap();
    slabs.shrink();
    assert_eq!(cache.stats().slabs, 0);
}
