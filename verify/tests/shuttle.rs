//! Whole operations of three and four threads in random schedules.

#![cfg(heirloom_model)]

use std::sync::Mutex;

use heirloom::folio::{Disposition, Error as FolioError, Request};
use heirloom::kho::Order;
use heirloom::restore::Error;
use heirloom_testkit::{Kernel, Rng, TestMachine, TestObject, is_full};
use heirloom_verify::races::{Owned, PLAIN, THINGS, Worker, programs, schedules};

/// A kernel on which threads work, what they pass on, and what they own in the end.
struct World {
    machine: &'static TestMachine,
    kernel: Kernel<'static>,
    passed: Mutex<Vec<Owned>>,
    owned: Mutex<Vec<Owned>>,
    /// What a predecessor preserved, and how often it was claimed.
    left: Vec<TestObject>,
    claims: Mutex<Vec<usize>>,
    refusals: Mutex<Vec<(TestObject, Error)>>,
    seed: u64,
}

impl World {
    /// Two CPUs for three or four threads: some find their CPU in use.
    fn new(machine: &'static TestMachine, kernel: Kernel<'static>, seed: u64) -> Self {
        Self {
            machine,
            kernel,
            passed: Mutex::default(),
            owned: Mutex::default(),
            left: Vec::new(),
            claims: Mutex::default(),
            refusals: Mutex::default(),
            seed,
        }
    }

    fn work(&self, number: usize, steps: usize) {
        let seed = self.seed << 8 | number as u64;
        let owned = Worker::new(&self.kernel, &self.passed, seed).work(steps);
        self.owned.lock().unwrap().extend(owned);
    }

    /// Everything has one owner and the content that its owner wrote, and the books are right.
    fn assert_sound(&self) -> Vec<Owned> {
        let mut things = std::mem::take(&mut *self.owned.lock().unwrap());
        things.append(&mut self.passed.lock().unwrap());
        things.sort_by_key(|thing| thing.object.addr());
        for pair in things.windows(2) {
            let [Some((a, bytes)), Some((b, _))] = [0, 1].map(|i| pair[i].object.extent()) else {
                panic!("{pair:?} are nowhere")
            };
            assert!(a.get() + bytes <= b.get(), "{pair:?} share bytes");
        }
        things.iter().for_each(|thing| thing.object.check(&self.kernel));
        let memory = self.kernel.memory();
        let (audit, stats) = (memory.audit().unwrap(), memory.stats());
        let allocated: u64 = audit.allocated.iter().sum();
        assert_eq!(audit.free + audit.cached + allocated + audit.reserved, stats.frames);
        assert_eq!(audit.free, stats.free());
        things
    }

    /// All of it is freed.
    fn empty(self) {
        for thing in self.assert_sound() {
            thing.free(&self.kernel);
        }
        self.kernel.slabs().shrink();
        self.assert_sound();
    }

    /// The next kernel has what was preserved, and nothing else.
    fn jump(self) {
        let things = self.assert_sound();
        let kept = things.iter().filter(|thing| thing.is_preserved());
        let left: Vec<_> = kept.map(|thing| thing.object).collect();
        let entry = self.kernel.entry();
        let kernel = self.machine.revive(entry);
        adopt(&kernel);
        claim_all(&kernel, left);
        kernel.finish(|_| Disposition::Free).unwrap();
        kernel.memory().audit().unwrap();
    }
}

/// Claims and frees what was left. An object whose slab is still to be adopted waits for memory,
/// if the kernel before left none.
fn claim_all(kernel: &Kernel<'_>, mut left: Vec<TestObject>) {
    while !left.is_empty() {
        let before = left.len();
        left.retain(|object| match Owned::restore(kernel, *object) {
            Ok(owned) => {
                owned.free(kernel);
                false
            }
            Err(error) => {
                assert!(is_full(&error), "{object:?}: {error}");
                true
            }
        });
        assert!(left.len() < before, "no memory for {left:?}");
    }
}

fn adopt(kernel: &Kernel<'_>) {
    for spec in [PLAIN, THINGS] {
        kernel.slabs().adopt_or_create(spec).unwrap();
    }
}

fn fresh(frames: u64, seed: u64) -> World {
    let machine = TestMachine::pooled(frames, 2, true);
    World::new(machine, machine.boot(), seed)
}

/// Fails if a magazine is filled without the cache's lock.
#[test]
fn threads_allocate_preserve_pass_on_and_free() {
    programs("three threads, all operations", 40, schedules(20), |seed| {
        let thread = |world: &World, number| world.work(number, 25);
        (fresh(180, seed), vec![thread, thread, thread], World::jump)
    });
}

/// Fails if whoever emptied a word does not look at it again once its hint is cleared.
#[test]
fn four_threads_in_too_little_memory() {
    programs("four threads, little memory", 30, schedules(15), |seed| {
        let thread = |world: &World, number| world.work(number, 20);
        (fresh(44, seed), vec![thread; 4], World::empty)
    });
}

/// A successor whose predecessor preserved what a random program left.
fn heirs(seed: u64) -> World {
    let mut world = fresh(250, seed);
    world.work(9, 90);
    let things = world.assert_sound();
    let kept = things.iter().filter(|thing| thing.is_preserved());
    let left: Vec<_> = kept.map(|thing| thing.object).collect();
    let World { machine, kernel, .. } = world;
    let kernel = machine.revive(kernel.entry());
    world = World::new(machine, kernel, seed);
    world.claims = Mutex::new(vec![0; left.len()]);
    world.left = left;
    world
}

/// Claims of what was left all that `own` takes, in an order of its own; hands on what is refused.
fn claim_each(
    world: &World,
    number: usize,
    own: impl Fn(&TestObject) -> bool,
    refused: impl Fn(TestObject, Error),
) {
    let mut order: Vec<usize> = (0..world.left.len()).filter(|at| own(&world.left[*at])).collect();
    let mut rng = Rng::new(world.seed << 8 | number as u64);
    while !order.is_empty() {
        let at = order.swap_remove(rng.index(order.len()));
        let object = world.left[at];
        match Owned::restore(&world.kernel, object) {
            Ok(thing) => {
                world.claims.lock().unwrap()[at] += 1;
                world.owned.lock().unwrap().push(thing);
            }
            Err(error) => refused(object, error),
        }
    }
}

/// Claims all that was left.
fn claim(world: &World, number: usize) {
    let noted = |object, error| world.refusals.lock().unwrap().push((object, error));
    claim_each(world, number, |_| true, noted);
}

/// Who claims what is in a cache adopts it first, and who comes second finds that done.
///
/// Fails if a state byte is changed by a load and a store.
#[test]
fn what_was_left_is_claimed_once_while_others_adopt_and_allocate() {
    programs("two claim, one adopts, one allocates", 30, schedules(15), |seed| {
        let adopts_and_claims = |world: &World, number| {
            adopt(&world.kernel);
            claim(world, number);
        };
        let works = |world: &World, number| world.work(number, 12);
        let after = |world: World| {
            for (object, claims) in world.left.iter().zip(world.claims.lock().unwrap().iter()) {
                let refusals = world.refusals.lock().unwrap();
                let why: Vec<_> = refusals.iter().filter(|(of, _)| of == object).collect();
                assert_eq!(*claims, 1, "{object:?}: {why:?}");
            }
            world.kernel.finish(|_| Disposition::Free).unwrap();
            for thing in world.assert_sound() {
                thing.free(&world.kernel);
            }
            world.kernel.memory().audit().unwrap();
        };
        (heirs(seed), vec![adopts_and_claims, adopts_and_claims, works], after)
    });
}

/// A successor of which threads free, or leave, what the others claim.
struct Freeing {
    world: World,
}

impl Freeing {
    fn keeps(&self) -> bool {
        self.world.seed.is_multiple_of(2)
    }

    /// Asks what is left, and frees it or leaves it.
    fn finish(&self) {
        let disposition = if self.keeps() { Disposition::Keep } else { Disposition::Free };
        self.world.kernel.finish(|_| disposition).unwrap();
    }

    /// Claims what has frames of its own.
    fn claim(&self, number: usize) {
        let own = |object: &TestObject| object.run().is_some();
        claim_each(&self.world, number, own, |object, error| match error {
            // The other was first; or it was freed.
            Error::Folio(FolioError::NotPreserved { .. }) | Error::NotInherited { .. } => {}
            error => panic!("{object:?}: {error}"),
        });
    }

    /// Each thing was claimed once, or is there for the next kernel, or was freed.
    fn after(self) {
        let keeps = self.keeps();
        let Self { world } = self;
        let mut kept = Vec::new();
        for (object, claims) in world.left.iter().zip(&*world.claims.lock().unwrap()) {
            let Some(run) = object.run() else { continue };
            assert!(*claims <= 1, "{object:?}: claimed {claims} times");
            let memory = world.kernel.memory();
            let there = run.blocks().filter(|block| memory.predecessor().contains(*block)).count();
            match (*claims, keeps) {
                (1, _) => assert_eq!(there, 0, "{object:?} is claimed, and there to be claimed"),
                (_, true) => {
                    assert_eq!(there, run.blocks().count(), "{object:?} is lost");
                    kept.push(*object);
                }
                (_, false) => {}
            }
        }
        let things = world.assert_sound();
        // All that was claimed, and what this kernel preserved, is there for the next one, as it was.
        let mut left: Vec<_> =
            things.iter().filter(|thing| thing.is_preserved()).map(|thing| thing.object).collect();
        left.append(&mut kept);
        let kernel = world.machine.revive(world.kernel.entry());
        adopt(&kernel);
        claim_all(&kernel, left);
        kernel.finish(|_| Disposition::Free).unwrap();
        kernel.memory().audit().unwrap();
    }
}

/// Whoever claims while another frees what is left comes first, or is refused. What has frames of its
/// own alone is claimed: an object's claim beside its discard is the caller's to avoid.
///
/// Fails if a claim, or what frees, stores the byte in place of exchanging it.
#[test]
fn what_is_claimed_while_another_frees_has_one_owner() {
    programs("two claim, one frees or leaves, one allocates", 30, schedules(15), |seed| {
        let claims = |freeing: &Freeing, number| freeing.claim(number);
        let frees = |freeing: &Freeing, number| {
            let mut rng = Rng::new(freeing.world.seed << 8 | number as u64);
            if rng.below(2) == 0 {
                adopt(&freeing.world.kernel);
            }
            for _ in 0..4 {
                let steps = rng.index(4);
                freeing.world.work(number, steps);
                freeing.finish();
            }
        };
        let works = |freeing: &Freeing, number| freeing.world.work(number, 10);
        let freeing = Freeing { world: heirs(seed) };
        (freeing, vec![claims, claims, frees, works], Freeing::after)
    });
}

/// A seal that another changes what it covers meanwhile is untrue, and no more than that: the
/// handover is whole, and taken where no seal is asked for.
///
/// Fails if a leaf's bit is set by a load and a store.
#[test]
fn sealing_while_others_preserve_leaves_a_whole_handover() {
    programs("one seals, two work", 30, schedules(15), |seed| {
        let seals = |world: &World, _| {
            for _ in 0..3 {
                // No memory for the table is the one refusal.
                let _ = world.kernel.seal();
            }
        };
        let works = |world: &World, number| world.work(number, 15);
        let after = |world: World| {
            world.kernel.unseal().unwrap();
            world.jump();
        };
        (fresh(180, seed), vec![seals, works, works], after)
    });
}

/// What was published at any moment is one of the values, whole; see also the crash harness.
///
/// Fails if a publication does not take the lock.
#[test]
fn of_those_that_publish_under_one_name_one_is_last() {
    programs("three publish, one looks", 20, schedules(20), |seed| {
        let publishes = |world: &World, number: usize| {
            for round in 0..3_u8 {
                world.kernel.publish("root", &[number as u8 * 16 + round; 24]).unwrap();
            }
        };
        let looks = |world: &World, _| {
            for _ in 0..3 {
                let mut names = 0;
                world.kernel.for_each_subtree(|_, _, _| names += 1).unwrap();
                assert!((1..=2).contains(&names), "{names}");
                let order = Order::new(1).expect("an order");
                if let Ok(block) = world.kernel.memory().alloc(Request::new(order)) {
                    // SAFETY: allocated just now.
                    unsafe { world.kernel.memory().free(block) }.unwrap();
                }
            }
        };
        let after = |world: World| {
            let World { machine, kernel, .. } = world;
            let kernel = machine.revive(kernel.entry());
            let root = kernel.claim_root("root").unwrap();
            let bytes = root.bytes();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]) && bytes[0] % 16 == 2, "{bytes:?}");
            kernel.finish(|_| Disposition::Free).unwrap();
            kernel.memory().audit().unwrap();
        };
        (fresh(120, seed), vec![publishes, publishes, publishes, looks], after)
    });
}
