//! The folio layer: frames, and the tree of what survives.

use std::sync::Mutex;

use heirloom::folio::Memory;
use heirloom::kho::Block;
use heirloom::kho::tree::Geometry;
use heirloom_testkit::TestMachine;
use heirloom_verify::races::{Model, on};

use super::{ruin, single};

/// A folio layer, and what threads took of it. (The lock is the host's, held for no operation of
/// the library.)
struct Frames {
    memory: Memory<&'static TestMachine>,
    there: Vec<Block>,
    taken: Mutex<Vec<Block>>,
    done: Mutex<usize>,
}

/// Memory in which `there` frames are in use.
fn frames(frames: u64, there: usize) -> Frames {
    frames_of(2, frames, there)
}

fn frames_of(cpus: usize, frames: u64, there: usize) -> Frames {
    let memory = TestMachine::pooled(frames, cpus, false).memory();
    let there = (0..there).map(|_| memory.alloc(single()).expect("room")).collect();
    memory.drain();
    Frames { memory, there, taken: Mutex::default(), done: Mutex::default() }
}

impl Frames {
    fn preserve(&self, n: usize) -> Result<(), heirloom::folio::Error> {
        // SAFETY: nothing here frees a block that is there, and of two that preserve it one is refused.
        unsafe { self.memory.preserve(self.there[n]) }
    }

    fn unpreserve(&self, n: usize) -> Result<(), heirloom::folio::Error> {
        // SAFETY: one thread alone does anything to the block.
        unsafe { self.memory.unpreserve(self.there[n]) }
    }

    fn take(&self) {
        if let Ok(block) = self.memory.alloc(single()) {
            self.taken.lock().unwrap().push(block);
        }
    }

    fn give(&self, n: usize) {
        // SAFETY: allocated in the beginning, and each thread frees another.
        unsafe { self.memory.free(self.there[n]) }.unwrap();
    }

    fn count(&self, ok: bool) {
        *self.done.lock().unwrap() += usize::from(ok);
    }

    /// Whether every frame has one owner or is free, and as many are in use as should be.
    fn assert_sound(mut self, in_use: u64) {
        let mut taken = self.taken.into_inner().unwrap();
        taken.sort_by_key(|block| block.pfn());
        let all = taken.len();
        taken.dedup();
        assert_eq!(taken.len(), all, "a frame was handed out twice");
        let audit = self.memory.audit().unwrap();
        let frames = self.memory.stats().frames;
        let nodes = self.memory.preserved().counts().nodes();
        assert_eq!(audit.free + audit.cached + in_use + all as u64 + nodes, frames);
        self.memory.drain_all();
        assert_eq!(self.memory.audit().unwrap().cached, 0);
        while self.memory.alloc(single()).is_ok() {}
        assert_eq!(self.memory.stats().used(), frames, "a frame was lost");
    }
}

/// Fails if a word of free bits is taken by a load and a store in place of one operation.
#[test]
fn two_cpus_refill_from_one_word() {
    Model {
        name: "two CPUs refill from one word",
        preemptions: 2,
        build: || frames(40, 0),
        threads: &[Frames::take, Frames::take],
        after: |world| world.assert_sound(0),
    }
    .check();
}

/// Fails if a CPU that was asked does not give back what it keeps.
#[test]
fn a_cache_is_asked_back_while_its_cpu_allocates_and_frees() {
    Model {
        name: "a CPU is asked for what it keeps",
        preemptions: 3,
        build: || frames(40, 2),
        threads: &[
            |world| {
                world.take();
                world.give(0);
            },
            |world| world.memory.drain(),
        ],
        after: |world| {
            world.memory.drain();
            on(0, || world.give(1));
            assert_eq!(world.memory.audit().unwrap().cached, 1, "what it kept was asked for");
            world.assert_sound(0);
        },
    }
    .check();
}

/// Fails if a word of free bits is taken, or given to, by a load and a store.
#[test]
fn a_word_is_emptied_while_another_cpu_gives_to_it() {
    Model {
        name: "a word is emptied while another gives to it",
        preemptions: 3,
        build: || frames_of(3, 8, 7),
        threads: &[
            |world| {
                world.give(3);
                world.memory.drain();
            },
            Frames::take,
        ],
        // The third CPU has never been at that word, and goes by the hints alone.
        after: |world| on(2, || world.assert_sound(6)),
    }
    .check();
}

/// Fails if a word of free bits is taken, or given to, by a load and a store.
#[test]
fn three_cpus_and_one_word() {
    Model {
        name: "two take and one gives",
        preemptions: 1,
        build: || frames_of(3, 16, 1),
        threads: &[
            Frames::take,
            |world| {
                world.give(0);
                world.memory.drain();
            },
            Frames::take,
        ],
        after: |world| world.assert_sound(0),
    }
    .check();
}

/// Fails if a leaf's bit is changed by a load and a store in place of one operation.
#[test]
fn of_two_that_preserve_a_folio_one_succeeds() {
    fn preserve(world: &Frames) {
        world.count(world.preserve(0).is_ok());
    }
    Model {
        name: "one folio is preserved twice",
        preemptions: 3,
        build: || {
            let world = frames(40, 2);
            world.preserve(1).unwrap();
            world
        },
        threads: &[preserve, preserve],
        after: |world| {
            assert_eq!(*world.done.lock().unwrap(), 1);
            assert!(world.memory.preserved().contains(world.there[0]));
            assert_eq!(world.memory.stats().preserved, 2);
            world.assert_sound(2);
        },
    }
    .check();
}

/// Fails if a leaf's bit is set or cleared by a load and a store.
#[test]
fn neighbours_are_preserved_and_let_go_while_a_third_counts() {
    Model {
        name: "a walk while neighbours come and go",
        preemptions: 2,
        build: || {
            let world = frames(40, 3);
            world.preserve(0).unwrap();
            world.preserve(2).unwrap();
            world
        },
        threads: &[
            |world| world.preserve(1).unwrap(),
            |world| {
                let mut seen = Vec::new();
                world.memory.preserved().for_each(|block| seen.push(block));
                assert!(seen.contains(&world.there[2]), "it was preserved all the time");
                assert!(seen.is_sorted() && seen.iter().all(|block| world.there.contains(block)));
            },
            |world| world.unpreserve(0).unwrap(),
        ],
        after: |world| {
            assert_eq!(world.memory.preserved().counts().total(), 2);
            world.assert_sound(3);
        },
    }
    .check();
}

/// Fails if a node is linked by a plain store, or with a Relaxed one: then a walk finds in it what
/// was in the page before it was zeroed.
#[test]
fn two_make_the_nodes_of_one_path() {
    fn preserve(world: &Frames, n: usize) {
        world.preserve(n).unwrap();
        assert!(world.memory.preserved().contains(world.there[n]));
    }
    Model {
        name: "two make the nodes of one path",
        preemptions: 1,
        build: || {
            let world = frames(140, 2);
            ruin(&world.memory);
            // Each CPU keeps frames: how they come by them is another model's.
            for cpu in 0..2 {
                on(cpu, || {
                    let block = world.memory.alloc(single()).unwrap();
                    // SAFETY: allocated just now.
                    unsafe { world.memory.free(block) }.unwrap();
                });
            }
            world
        },
        threads: &[|world| preserve(world, 0), |world| preserve(world, 1)],
        after: |world| {
            let mut seen = Vec::new();
            world.memory.preserved().for_each(|block| seen.push(block));
            assert_eq!(seen, world.there);
            assert_eq!(
                world.memory.preserved().counts().nodes(),
                u64::from(Geometry::BUILD.levels)
            );
            world.assert_sound(2);
        },
    }
    .check();
}

/// A memory of CPUs that others may work on while they idle.
fn idle_cpus(frames: u64) -> Frames {
    let memory = TestMachine::pooled(frames, 2, true).memory();
    let there = vec![memory.alloc(single()).expect("room")];
    memory.drain();
    Frames { memory, there, taken: Mutex::default(), done: Mutex::default() }
}

#[test]
fn an_idle_cpu_is_drained_while_its_owner_comes_back() {
    Model {
        name: "an idle CPU is drained while its owner comes back",
        preemptions: 2,
        build: || idle_cpus(40),
        threads: &[
            |world| {
                world.take();
                world.give(0);
            },
            |world| world.memory.drain(),
        ],
        after: |world| world.assert_sound(0),
    }
    .check();
}
