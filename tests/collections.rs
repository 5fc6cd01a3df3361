//! Collections of other crates with their memory in an arena, by the feature `allocator-api2`.
#![cfg(all(feature = "std", feature = "allocator-api2", target_os = "linux"))]

use allocator_api2::vec::Vec;
use hashbrown::{DefaultHashBuilder, HashMap};
use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{DirectMap, NodeId};
use heirloom::kho::{PhysAddr, Run};
use heirloom::slab::Heap;

fn arena() -> Arena {
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    Arena::create("collections", &[range]).unwrap()
}

fn boot(arena: &Arena) -> Heirloom<&Arena> {
    let map = [(arena.ranges()[0].run(), NodeId(0))];
    let scratch = Run::covering(map[0].0.addr(), arena.scratch_bytes()).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    unsafe { Heirloom::boot(arena, &map, &[scratch], "collections") }.unwrap()
}

/// Every value is in the arena, and all of it is given back.
#[test]
fn a_map_of_hashbrown_lies_in_the_arena() {
    let arena = arena();
    let heirloom = boot(&arena);
    let heap = heirloom.slabs().heap(false);
    let live = || heirloom.slabs().caches().map(|cache| cache.stats().live).sum::<u64>();
    let before = live();
    let hasher = DefaultHashBuilder::default();
    let mut map: HashMap<u64, Vec<u8, Heap<'_, &Arena>>, _, _> =
        HashMap::with_hasher_in(hasher, heap);
    for key in 0..5_000_u64 {
        let mut value = Vec::new_in(heap);
        value.extend_from_slice(&key.to_le_bytes());
        assert!(map.insert(key, value).is_none());
    }
    // As long as the map grows and shrinks its table moves.
    map.retain(|key, _| key % 3 == 0);
    map.shrink_to_fit();
    for key in (0..5_000).step_by(3) {
        let value = &map[&key];
        assert_eq!(value[..], key.to_le_bytes());
        for at in [std::ptr::from_ref(value).cast(), value.as_ptr()] {
            assert!(arena.phys(std::ptr::NonNull::new(at.cast_mut()).unwrap()).is_some());
        }
    }
    assert_eq!(map.len(), 1_667);
    drop(map);
    heirloom.slabs().shrink();
    assert_eq!(live(), before);
    heirloom.memory().audit().unwrap();
}

/// Nothing of size zero, and nothing that is too large, goes wrong.
#[test]
fn what_a_collection_asks_for_at_the_limits_is_had_or_refused() {
    let arena = arena();
    let heirloom = boot(&arena);
    let heap = heirloom.slabs().heap(false);
    let mut nothing: Vec<(), _> = Vec::new_in(heap);
    nothing.push(());
    assert_eq!(nothing.len(), 1);
    let mut bytes: Vec<u8, _> = Vec::new_in(heap);
    assert!(bytes.try_reserve(1 << 40).is_err());
    assert!(bytes.try_reserve(usize::MAX / 2).is_err());
    bytes.extend_from_slice(b"as it was");
    assert!(bytes.try_reserve(1 << 40).is_err());
    assert_eq!(bytes[..], *b"as it was");
}
