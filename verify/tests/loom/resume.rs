//! A cache that is resumed, while its slab is used for the first time by several at once.

use std::collections::BTreeSet;
use std::sync::Mutex;

use heirloom::Heirloom;
use heirloom::folio::{DirectMap, Disposition};
use heirloom::kho::PhysAddr;
use heirloom_testkit::TestMachine;
use heirloom_verify::races::Model;

use super::CACHE;

/// A kernel to which a slab was left with two objects in use.
struct Resuming {
    kernel: Heirloom<&'static TestMachine>,
    left: [PhysAddr; 2],
    /// What was allocated since.
    new: Mutex<BTreeSet<PhysAddr>>,
    resumed: Mutex<bool>,
    /// Slabs that were there once it was resumed, and not used.
    unswept: Mutex<u64>,
    adopted: Mutex<Option<u64>>,
}

impl Resuming {
    fn left() -> Self {
        let machine = TestMachine::pooled(96, 2, false);
        let kernel = machine.boot();
        let left = [(); 2].map(|()| {
            let object = kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
            // SAFETY: in use, and no thread frees it.
            unsafe { kernel.preserve(object) }.unwrap();
            kernel.memory().machine().phys(object).unwrap()
        });
        let kernel = machine.revive(kernel.entry());
        kernel.slabs().cache(CACHE).unwrap();
        let (new, resumed, adopted) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { kernel, left, new, resumed, unswept: Mutex::default(), adopted }
    }

    fn resumed() -> Self {
        let world = Self::left();
        world.resume();
        world
    }

    fn resume(&self) {
        *self.resumed.lock().unwrap() = self.kernel.slabs().resume(CACHE).is_ok();
    }

    /// Resumes the cache, if it is there still, and looks what it has.
    fn resume_late(&self) {
        let cache = self.kernel.slabs().resume_or_create(CACHE).unwrap();
        *self.unswept.lock().unwrap() = cache.stats().unswept;
    }

    fn adopt(&self) {
        let (_, adopted) = self.kernel.slabs().adopt(CACHE).unwrap();
        *self.adopted.lock().unwrap() = Some(adopted.unclaimed);
    }

    fn finish(&self) {
        self.kernel.slabs().finish_inherited(|_| Disposition::Free).unwrap();
    }

    fn free(&self, which: usize) {
        let object = self.kernel.memory().machine().ptr(self.left[which]);
        // SAFETY: in use, this thread's, and not used again.
        unsafe {
            self.kernel.slabs().unpreserve(object).unwrap();
            self.kernel.slabs().free(object).unwrap();
        }
    }

    fn alloc(&self) {
        let object = self.kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
        let at = self.kernel.memory().machine().phys(object).unwrap();
        assert!(self.new.lock().unwrap().insert(at), "{at} has two owners");
    }

    /// Objects in use are those that were not freed, and those that are new.
    fn check(&self, freed: usize) {
        let new = self.new.lock().unwrap();
        let there = &self.left[freed..];
        assert!(there.iter().all(|at| !new.contains(at)), "two owners");
        let cache = self.kernel.slabs().resume(CACHE).unwrap();
        cache.sweep(u64::MAX).unwrap();
        let stats = cache.stats();
        assert_eq!((stats.live, stats.unclaimed), ((there.len() + new.len()) as u64, 0));
        assert_eq!(stats.preserved, there.len() as u64);
        let preserved: BTreeSet<_> = cache.preserved().map(|(at, _)| at).collect();
        assert_eq!(preserved, there.iter().copied().collect());
        self.kernel.memory().audit().unwrap();
    }
}

/// Fails if a slab is shown before its states and free bits are this kernel's, or if a pointer into it
/// leads to it before it is swept.
#[test]
fn an_object_is_freed_while_another_is_allocated_in_its_slab() {
    Model {
        name: "an object of a resumed slab is freed while one is allocated",
        preemptions: 2,
        build: Resuming::resumed,
        threads: &[|world| world.free(0), Resuming::alloc],
        after: |world| world.check(1),
    }
    .check();
}

/// Fails if two sweep one slab.
#[test]
fn two_free_objects_of_one_slab_that_was_not_used_yet() {
    Model {
        name: "two objects of a resumed slab are freed",
        preemptions: 2,
        build: Resuming::resumed,
        threads: &[|world| world.free(0), |world| world.free(1)],
        after: |world| world.check(2),
    }
    .check();
}

/// Fails if what is to be freed is not asked for again, in turn, once the caller was asked.
#[test]
fn a_cache_is_resumed_beside_a_finish_that_frees() {
    Model {
        name: "a cache is resumed while what is left is freed",
        preemptions: 2,
        build: Resuming::left,
        threads: &[Resuming::resume_late, Resuming::finish],
        after: |world| {
            let cache = world.kernel.slabs().resume_or_create(CACHE).unwrap();
            // The slab was freed before, or it is in use as a whole.
            let there = cache.preserved().count() as u64;
            assert_eq!(there, 2 * *world.unswept.lock().unwrap());
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// Fails if a cache can adopt one slab and resume another.
#[test]
fn a_cache_is_resumed_beside_an_adopt() {
    Model {
        name: "a cache is resumed while it is adopted",
        preemptions: 2,
        build: Resuming::left,
        threads: &[Resuming::resume, Resuming::adopt],
        after: |world| {
            let adopted = world.adopted.lock().unwrap().unwrap();
            let resumed = *world.resumed.lock().unwrap();
            assert_eq!(adopted, if resumed { 0 } else { 2 });
            let cache = world.kernel.slabs().cache(CACHE).unwrap();
            let preserved = cache.preserved().count() as u64;
            assert_eq!((preserved, cache.stats().unclaimed), (2 - adopted, adopted));
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}
