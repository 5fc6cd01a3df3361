//! Slabs that a predecessor left: adopted beside claims, discards, a finish and a shrink.

use std::sync::Mutex;

use heirloom::Heirloom;
use heirloom::folio::{DirectMap, Disposition, FrameType};
use heirloom::kho::{Handle, PhysAddr};
use heirloom_testkit::TestMachine;
use heirloom_verify::races::Model;

use super::CACHE;

/// A kernel that is about to adopt a cache, and one object that the predecessor left in it.
struct Adopting {
    kernel: Heirloom<&'static TestMachine>,
    at: PhysAddr,
    discarded: Mutex<Option<bool>>,
}

impl Adopting {
    fn build() -> Self {
        let machine = TestMachine::pooled(96, 2, false);
        let kernel = machine.boot();
        let object = kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
        // SAFETY: in use, and no thread frees it.
        unsafe { kernel.preserve(object) }.unwrap();
        let at = kernel.memory().machine().phys(object).unwrap();
        let kernel = machine.revive(kernel.entry());
        kernel.slabs().cache(CACHE).unwrap();
        Self { kernel, at, discarded: Mutex::default() }
    }

    fn adopt(&self) {
        self.kernel.slabs().adopt(CACHE).unwrap();
    }

    fn discard(&self) {
        let cache = self.kernel.slabs().caches().find(|cache| cache.name().as_str() == "objects");
        *self.discarded.lock().unwrap() = Some(cache.unwrap().discard(self.at).is_ok());
    }
}

/// Fails if a slab can be found before it is in its cache's lists.
#[test]
fn an_object_is_discarded_while_its_slab_is_adopted() {
    Model {
        name: "an object is discarded while its slab is adopted",
        preemptions: 2,
        build: Adopting::build,
        threads: &[Adopting::discard, Adopting::adopt],
        after: |world| {
            let discarded = world.discarded.lock().unwrap().unwrap();
            let cache = world.kernel.slabs().caches().next().unwrap();
            assert_eq!(cache.stats().unclaimed, u64::from(!discarded));
            let again = cache.discard(world.at);
            assert_eq!(again.is_ok(), !discarded);
            assert_eq!(cache.shrink(), 1);
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

impl Adopting {
    /// Frees what nobody claimed.
    fn finish(&self) {
        self.kernel.finish(|_| Disposition::Free).unwrap();
    }

    /// Adopts what is there still.
    fn adopt_late(&self) {
        self.kernel.slabs().adopt_or_create(CACHE).unwrap();
    }
}

/// Fails if a slab is freed without the turn, or its entry struck out after the bit.
#[test]
fn a_slab_is_adopted_beside_a_finish_that_frees() {
    Model {
        name: "a slab is adopted while what is left is freed",
        preemptions: 2,
        build: Adopting::build,
        threads: &[Adopting::adopt_late, Adopting::finish],
        after: |world| {
            let cache = world.kernel.slabs().caches().next().unwrap();
            // Adopted between the two looks, it is asked about by the next call.
            assert!(cache.stats().unclaimed <= 1);
            world.finish();
            assert_eq!(cache.stats().unclaimed, 0);
            assert!(cache.shrink() <= 1);
            let mut left = 0;
            world.kernel.memory().predecessor().for_each(|block| {
                left += u32::from(
                    world.kernel.memory().predecessor().label_of(block) != Some(FrameType::Table),
                );
            });
            assert_eq!(left, 0);
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// What became of an object that several want.
#[derive(Default)]
struct Ends {
    claimed: Mutex<usize>,
    discarded: Mutex<usize>,
}

/// A kernel to which two objects in one slab were left.
struct Pair {
    kernel: Heirloom<&'static TestMachine>,
    handles: [Handle; 2],
    at: [PhysAddr; 2],
    /// The first object's.
    ends: Ends,
}

impl Pair {
    fn build(adopted: bool) -> Self {
        let machine = TestMachine::pooled(96, 2, false);
        let kernel = machine.boot();
        let cache = kernel.slabs().cache(CACHE).unwrap();
        let objects = [0, 1].map(|_| cache.alloc().unwrap());
        // SAFETY: in use, and no thread frees them.
        let handles = objects.map(|object| unsafe { kernel.preserve(object) }.unwrap());
        let at = objects.map(|object| kernel.memory().machine().phys(object).unwrap());
        let kernel = machine.revive(kernel.entry());
        if adopted {
            kernel.slabs().adopt(CACHE).unwrap();
        } else {
            kernel.slabs().cache(CACHE).unwrap();
        }
        Self { kernel, handles, at, ends: Ends::default() }
    }

    fn claim(&self) {
        let claimed = self.kernel.restore(self.handles[0]).is_ok();
        *self.ends.claimed.lock().unwrap() += usize::from(claimed);
    }

    fn cache(&self) -> heirloom::slab::Cache<'_, &'static TestMachine> {
        let mut caches = self.kernel.slabs().caches();
        caches.find(|cache| cache.name().as_str() == "objects").unwrap()
    }

    fn discard(&self) {
        let discarded = self.cache().discard(self.at[0]).is_ok();
        *self.ends.discarded.lock().unwrap() += usize::from(discarded);
    }

    fn adopt(&self) {
        self.kernel.slabs().adopt(CACHE).unwrap();
    }

    /// Frees what was not claimed, and counts it.
    fn finish(&self) {
        let freed = self.kernel.finish(|_| Disposition::Free).unwrap().objects;
        *self.ends.discarded.lock().unwrap() += usize::try_from(freed).unwrap();
    }
}

/// Fails if a state byte is stored in place of exchanged, by a claim or by what discards; and if an
/// object that is discarded is counted among the preserved ones still.
#[test]
fn an_object_is_claimed_twice_beside_a_finish_that_frees() {
    Model {
        name: "an object is claimed twice while what is left of its slab is freed",
        preemptions: 2,
        build: || Pair::build(true),
        threads: &[Pair::claim, Pair::claim, Pair::finish],
        after: |world| {
            let claimed = *world.ends.claimed.lock().unwrap();
            let freed = *world.ends.discarded.lock().unwrap();
            assert!(claimed <= 1, "claimed {claimed} times");
            // The other one is claimed by none.
            assert_eq!(claimed + freed, 2);
            let stats = world.cache().stats();
            let both = (stats.live, stats.preserved, stats.unclaimed);
            assert_eq!(both, (claimed as u64, claimed as u64, 0));
            if claimed == 0 {
                assert_eq!(world.cache().shrink(), 1);
            }
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// Fails if a slab names its owner and is shown before its states are this kernel's; and if a state byte is
/// stored in place of exchanged.
#[test]
fn an_object_is_claimed_and_discarded_while_its_slab_is_adopted() {
    Model {
        name: "an object is claimed and discarded while its slab is adopted",
        preemptions: 2,
        build: || Pair::build(false),
        threads: &[Pair::claim, Pair::discard, Pair::adopt],
        after: |world| {
            let claimed = *world.ends.claimed.lock().unwrap();
            let discarded = *world.ends.discarded.lock().unwrap();
            assert!(claimed + discarded <= 1, "{claimed} {discarded}");
            let stats = world.cache().stats();
            let both = (stats.live as usize, stats.preserved, stats.unclaimed as usize);
            assert_eq!(both, (claimed, claimed as u64, 2 - claimed - discarded));
            // The next one finds what is there, once.
            assert_eq!(world.kernel.restore(world.handles[0]).is_ok(), claimed + discarded == 0);
            world.kernel.restore(world.handles[1]).unwrap();
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// A kernel that adopted a slab with one object, which is discarded while the cache gives back what it
/// does not need.
struct Shrinking {
    adopting: Adopting,
    given_back: Mutex<u64>,
}

impl Shrinking {
    fn build() -> Self {
        let adopting = Adopting::build();
        adopting.adopt();
        Self { adopting, given_back: Mutex::default() }
    }

    fn shrink(&self) {
        *self.given_back.lock().unwrap() += self.adopting.kernel.slabs().shrink();
    }

    fn discard(&self) {
        self.adopting.discard();
    }
}

/// Fails if an object that is discarded is counted among the preserved ones still.
#[test]
fn a_slabs_last_object_is_discarded_while_its_cache_shrinks() {
    Model {
        name: "a slab's last object is discarded while its cache shrinks",
        preemptions: 2,
        build: Shrinking::build,
        threads: &[Shrinking::shrink, Shrinking::discard],
        after: |world| {
            assert_eq!(*world.adopting.discarded.lock().unwrap(), Some(true));
            world.shrink();
            assert_eq!(*world.given_back.lock().unwrap(), 1);
            let kernel = &world.adopting.kernel;
            let stats = kernel.slabs().caches().next().unwrap().stats();
            assert_eq!((stats.slabs, stats.unclaimed, stats.preserved), (0, 0, 0));
            assert_eq!(kernel.memory().audit().unwrap().allocated[FrameType::Slab as usize], 0);
        },
    }
    .check();
}
