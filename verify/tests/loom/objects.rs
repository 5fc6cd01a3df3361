//! The slab layer: caches, slabs, objects.

use std::ptr::NonNull;
use std::sync::Mutex;

use heirloom::folio::DirectMap;
use heirloom::slab::{CacheSpec, Slabs};
use heirloom_testkit::TestMachine;
use heirloom_verify::races::{Model, on};

use super::{CACHE, ruin};

/// A slab layer with some live objects of one slab.
struct Objects {
    slabs: Slabs<&'static TestMachine>,
    there: Vec<NonNull<u8>>,
    taken: Mutex<Vec<NonNull<u8>>>,
    done: Mutex<usize>,
}

// SAFETY: the objects are plain memory, and each has one owner.
unsafe impl Sync for Objects {}

fn objects(there: usize) -> Objects {
    objects_in(64, there)
}

fn objects_in(frames: u64, there: usize) -> Objects {
    let slabs = Slabs::new(TestMachine::pooled(frames, 2, false).memory()).expect("room");
    let cache = slabs.cache(CACHE).expect("room");
    let there = (0..there).map(|_| cache.alloc().expect("room")).collect();
    Objects { slabs, there, taken: Mutex::default(), done: Mutex::default() }
}

impl Objects {
    fn count(&self, ok: bool) {
        *self.done.lock().unwrap() += usize::from(ok);
    }

    fn take(&self) {
        let taken = self.slabs.cache(CACHE).unwrap().alloc().unwrap();
        self.taken.lock().unwrap().push(taken);
    }

    fn give(&self, n: usize) {
        // SAFETY: allocated in the beginning, and each thread frees another.
        unsafe { self.slabs.free(self.there[n]) }.unwrap();
    }

    fn slab_is_preserved(&self, n: usize) -> bool {
        let memory = self.slabs.memory();
        let addr = memory.machine().phys(self.there[n]).unwrap();
        memory.owning_block(addr.pfn()).unwrap().2
    }

    /// Whether `live` objects are in use, all others can be had once, and then all slabs be given
    /// back.
    fn assert_sound(&self, live: u64) {
        let cache = self.slabs.cache(CACHE).unwrap();
        // What the CPUs' magazines hold goes to the slabs.
        for cpu in 0..2 {
            on(cpu, || cache.shrink());
        }
        let stats = cache.stats();
        assert_eq!((stats.live, stats.cached), (live, 0));
        let places = stats.slabs * u64::from(cache.objects_per_slab());
        let mut more: Vec<_> = (live..places).map(|_| cache.alloc().unwrap()).collect();
        assert_eq!(cache.stats().slabs, stats.slabs, "an object was lost");
        more.sort();
        more.dedup();
        assert_eq!(more.len() as u64, places - live, "an object was handed out twice");
        self.slabs.memory().audit().unwrap();
    }

    fn tables(&self) -> usize {
        let mut slabs = 0;
        self.slabs.for_each_table(|_| slabs += 1);
        slabs
    }
}

/// Fails if a magazine is filled without the cache's lock.
#[test]
fn two_cpus_take_from_one_slab() {
    Model {
        name: "two CPUs fill their magazines",
        preemptions: 2,
        build: || {
            let world = objects(1);
            // Its objects in the slab, no magazine in a slot.
            world.slabs.shrink();
            world
        },
        threads: &[Objects::take, Objects::take],
        after: |world| {
            let taken = world.taken.into_inner().unwrap();
            assert_eq!(taken.len(), 2);
            assert!(taken[0] != taken[1] && !taken.contains(&world.there[0]));
            assert_eq!(world.slabs.caches().map(|cache| cache.stats().live).sum::<u64>(), 3);
            world.slabs.memory().audit().unwrap();
        },
    }
    .check();
}

/// Fails if a cache that shrinks empties the magazines of CPUs that are in use.
#[test]
fn one_cpu_frees_what_another_allocated_while_a_cache_shrinks() {
    Model {
        name: "a free on another CPU while the cache shrinks",
        preemptions: 2,
        build: || objects(2),
        threads: &[
            |world| {
                world.give(0);
                world.take();
            },
            |world| {
                world.slabs.shrink();
            },
        ],
        after: |world| {
            assert_ne!(world.taken.lock().unwrap()[0], world.there[1]);
            world.assert_sound(2);
        },
    }
    .check();
}

/// Fails if a state byte is changed by a load and a store in place of one operation.
#[test]
fn of_two_that_preserve_an_object_one_succeeds() {
    fn preserve(world: &Objects) {
        // SAFETY: in use, and no thread frees it.
        world.count(unsafe { world.slabs.preserve(world.there[0]) }.is_ok());
    }
    Model {
        name: "one object is preserved twice",
        preemptions: 2,
        build: || {
            let world = objects(2);
            // SAFETY: in use, and no thread frees it.
            unsafe { world.slabs.preserve(world.there[1]) }.unwrap();
            world
        },
        threads: &[preserve, preserve],
        after: |world| {
            assert_eq!(*world.done.lock().unwrap(), 1);
            for object in &world.there {
                // SAFETY: in use, and no thread frees it.
                unsafe { world.slabs.unpreserve(*object) }.unwrap();
            }
            assert!(!world.slab_is_preserved(0));
        },
    }
    .check();
}

/// Fails if the last object that goes is counted before the cache's lock is taken.
#[test]
fn an_object_is_preserved_while_the_last_other_one_is_let_go() {
    Model {
        name: "a slab's first preserved object comes as its last goes",
        preemptions: 2,
        build: || {
            let world = objects(2);
            // SAFETY: in use, and no thread frees it.
            unsafe { world.slabs.preserve(world.there[1]) }.unwrap();
            world
        },
        threads: &[
            // SAFETY: in use, and no thread frees it.
            |world| unsafe { world.slabs.preserve(world.there[0]) }.unwrap(),
            // SAFETY: in use, and no thread frees it.
            |world| unsafe { world.slabs.unpreserve(world.there[1]) }.unwrap(),
        ],
        after: |world| {
            assert!(world.slab_is_preserved(0));
            let with = world.tables();
            // SAFETY: in use, and no thread frees it.
            unsafe { world.slabs.unpreserve(world.there[0]) }.unwrap();
            assert!(!world.slab_is_preserved(0));
            assert_eq!(world.tables(), with - 1, "the slab was in the cache directory once");
        },
    }
    .check();
}

/// As many objects in use as one slab has.
fn full() -> Objects {
    let mut world = objects(1);
    let cache = world.slabs.cache(CACHE).unwrap();
    for _ in 1..cache.objects_per_slab() {
        world.there.push(cache.alloc().expect("room"));
    }
    assert_eq!(cache.stats().slabs, 1);
    // The magazines are put aside, and the frames that the CPU keeps.
    world.slabs.shrink();
    ruin(world.slabs.memory());
    world
}

/// Fails if a new slab enters the cache's lists without its lock.
#[test]
fn two_cpus_need_a_new_slab() {
    Model {
        name: "two CPUs need a new slab",
        preemptions: 2,
        build: full,
        threads: &[Objects::take, Objects::take],
        after: |world| {
            {
                let taken = world.taken.lock().unwrap();
                assert!(taken[0] != taken[1] && taken.iter().all(|own| !world.there.contains(own)));
            }
            world.assert_sound(world.there.len() as u64 + 2);
        },
    }
    .check();
}

/// What two threads create under one name.
const NEW: CacheSpec = CacheSpec::new("new", 1000);

/// Fails if whoever has the lock does not look again whether the cache is there; or if the register
/// tells of a cache by a Relaxed store.
#[test]
fn two_create_a_cache_of_one_name() {
    fn create(world: &Objects) {
        let object = world.slabs.cache(NEW).unwrap().alloc().unwrap();
        assert_eq!(world.slabs.size_of(object), Some(1000));
        world.taken.lock().unwrap().push(object);
    }
    Model {
        name: "two create a cache of one name",
        preemptions: 1,
        build: || {
            let world = objects_in(250, 1);
            ruin(world.slabs.memory());
            world
        },
        threads: &[create, create],
        after: |world| {
            let names: Vec<_> = world.slabs.caches().map(|cache| cache.name()).collect();
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(world.slabs.cache(NEW).unwrap().stats().live, 2);
            let taken = world.taken.lock().unwrap();
            assert_ne!(taken[0], taken[1]);
            world.slabs.memory().audit().unwrap();
        },
    }
    .check();
}
