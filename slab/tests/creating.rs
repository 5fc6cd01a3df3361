//! Caches are created without a lock: of two that come together one stays, and the other's frames
//! come back.

mod common;

use core::alloc::Layout;
use std::sync::Barrier;

use common::slabs;
use heirloom_slab::{AllocOptions, CacheSpec, Error};

const FRAMES: u64 = 16 << 10;
const THREADS: usize = 4;

#[test]
fn threads_that_create_the_same_caches_get_the_same() {
    for round in 0..20 {
        let mut slabs = slabs(FRAMES);
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            let spawn = |thread| {
                let (slabs, start) = (&slabs, &start);
                scope.spawn(move || {
                    start.wait();
                    for n in 0..100 {
                        let n = if thread % 2 == 0 { n } else { 99 - n };
                        let name = format!("cache-{n}");
                        let spec = CacheSpec::new(&name, 64);
                        let cache = slabs.cache(spec).unwrap();
                        assert_eq!(cache.name().as_str(), name);
                        let other = slabs.cache(CacheSpec::new(&name, 72));
                        assert!(matches!(other, Err(Error::Mismatch { .. })));
                        let layout = Layout::from_size_align(8 + 40 * n, 8).unwrap();
                        let preserving = thread < 2;
                        let opts = AllocOptions { preserving, zeroed: false };
                        let buffer = slabs.alloc(layout, opts).unwrap();
                        // SAFETY: allocated just now.
                        unsafe { slabs.free(buffer) }.unwrap();
                    }
                })
            };
            for thread in 0..THREADS {
                spawn(thread);
            }
        });
        let mut names: Vec<String> = slabs.caches().map(|cache| cache.name().to_string()).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "round {round}");
        assert_eq!(names.iter().filter(|name| name.starts_with("cache-")).count(), 100);
        // No frame more than caches need that hold nothing. All CPUs': a slot of a thread that has
        // ended may be that of another test's by now.
        slabs.shrink_all();
        let audit = slabs.memory().audit().unwrap();
        assert_eq!(audit.allocated[heirloom_folio::FrameType::Slab as usize], 0);
    }
}

#[test]
fn too_many_caches_are_refused_and_the_size_classes_are_there_all_the_same() {
    let slabs = slabs(64 << 10);
    let mut count = 0;
    let limit = loop {
        match slabs.cache(CacheSpec::new(&format!("cache-{count}"), 64)) {
            Ok(_) => count += 1,
            Err(Error::TooManyCaches { limit }) => break limit,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(count, limit);
    let used = slabs.memory().stats().used();
    assert!(slabs.cache(CacheSpec::new("one more", 64)).is_err());
    assert_eq!(slabs.memory().stats().used(), used, "a refused cache costs nothing");
    for bytes in (8..4096).step_by(8) {
        for preserving in [false, true] {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            let buffer = slabs.alloc(layout, AllocOptions { preserving, zeroed: false }).unwrap();
            // SAFETY: allocated just now.
            unsafe { slabs.free(buffer) }.unwrap();
        }
    }
}
