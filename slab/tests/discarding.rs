//! What is discarded while another thread adopts its slab has one owner.

mod common;

use std::collections::BTreeSet;
use std::sync::Barrier;

use common::{addr, slabs, successor};
use heirloom_kho::Order;
use heirloom_slab::CacheSpec;

const FRAMES: u64 = 2048;

/// One thread adopts a cache with a constructor, another discards in its slabs while places in them
/// are put in order: each place is made available once.
#[test]
fn what_is_discarded_while_a_slab_is_put_in_order_has_one_owner() {
    fn construct(object: core::ptr::NonNull<u8>) {
        // SAFETY: a place of the cache, which is this call's.
        unsafe { object.write_bytes(0x77, 64) };
        for _ in 0..200 {
            core::hint::spin_loop();
        }
    }
    for round in 0..60_u64 {
        let first = slabs(FRAMES);
        let spec = CacheSpec::new("built", 64).order(Order::ZERO);
        let cache = first.cache(spec).unwrap();
        let mut left = Vec::new();
        for i in 0..300 {
            let object = cache.alloc().unwrap();
            if i % 2 == 0 {
                // SAFETY: allocated just now.
                unsafe { first.preserve(object) }.unwrap();
                left.push(addr(&first, object));
            }
        }
        let second = successor(first, FRAMES).unwrap();
        let spec = spec.constructor(construct);
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (second, start, left) = (&second, &start, &left);
                scope.spawn(move || {
                    let cache = second.cache(spec).unwrap();
                    start.wait();
                    if thread == 0 {
                        second.adopt(spec).unwrap();
                        return;
                    }
                    for at in left.iter().skip(thread - 1).step_by(2) {
                        // Until its slab is adopted.
                        while cache.discard(*at).is_err() {
                            core::hint::spin_loop();
                        }
                    }
                });
            }
        });
        let cache = second.cache(spec).unwrap();
        let stats = cache.stats();
        let places = stats.slabs * u64::from(cache.objects_per_slab());
        assert_eq!((stats.live, stats.unclaimed, stats.quarantined), (0, 0, 0));
        assert_eq!(stats.free + stats.cached, places, "round {round}");
        let all: BTreeSet<_> = (0..places).map(|_| addr(&second, cache.alloc().unwrap())).collect();
        assert_eq!(all.len() as u64, places, "one owner each");
        assert_eq!(cache.stats().slabs, stats.slabs);
    }
}
