//! What a kernel does all day, after whatever it was left.

use std::slice;

use heirloom::folio::{DirectMap, Error as FolioError, Request};
use heirloom::kho::{Block, Order, Run};
use heirloom::restore::Error;
use heirloom_testkit::is_full;

use super::{Owners, bounded};
use crate::world::{Kernel, Owned as _, PAGE, PLAIN, Recipe, THINGS, TestMachine, TestObject};

/// Allocates all free memory, writes to every frame of it, and gives it back: nothing that has an
/// owner is among it, and nothing that has one changes.
pub(super) fn fill(machine: &TestMachine, kernel: &Kernel<'_>) {
    kernel.slabs().shrink();
    let memory = kernel.memory();
    let owners = Owners::of(machine, kernel).sorted();
    let before: Vec<_> = owners
        .runs()
        .filter(|(_, who)| *who != "scratch")
        .map(|(run, _)| (run, bytes_of(machine, run).to_vec()))
        .collect();
    let mut taken: Vec<Block> = Vec::new();
    for n in [3, 1, 0] {
        let request = Request::new(Order::new(n).expect("an order"));
        taken.extend(std::iter::from_fn(|| memory.alloc(request).ok()));
    }
    for (i, block) in (0..).zip(&taken) {
        assert!(!owners.own(block.run()), "{block} was handed out and has an owner");
        let start = memory.machine().ptr(block.addr());
        // SAFETY: allocated just now.
        unsafe { start.write_bytes(mark(i), block.run().bytes() as usize) };
    }
    for (run, bytes) in before {
        assert!(bytes_of(machine, run) == bytes, "{run} changed when free memory was written to");
    }
    // With nothing left, an operation succeeds or changes nothing.
    if let Some(block) = taken.first() {
        match memory.keep(*block) {
            Ok(()) => memory.let_go(*block).expect("preserved just now"),
            Err(FolioError::OutOfMemory { .. }) => assert!(!memory.preserved().contains(*block)),
            Err(other) => panic!("{block}: {other}"),
        }
    }
    for (i, block) in (0..).zip(taken) {
        let page = [mark(i); PAGE as usize];
        let same = bytes_of(machine, block.run()).chunks(page.len()).all(|bytes| bytes == page);
        assert!(same, "{block} has two owners");
        // SAFETY: allocated above, and nobody uses it.
        unsafe { memory.free(block) }.expect("ours");
    }
    memory.drain();
    memory.audit().expect("consistent after all was allocated and freed");
}

/// A byte for the `i`-th of many blocks, not that of its neighbours.
const fn mark(i: u64) -> u8 {
    (i % 251) as u8 + 1
}

fn bytes_of(machine: &TestMachine, run: Run) -> &[u8] {
    let start = machine.ptr(run.addr());
    // SAFETY: memory that nobody writes while the slice is in use: callers compare or copy it.
    unsafe { slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) }
}

/// What was made and preserved after the takeover.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    kept: Vec<TestObject>,
    frames: Vec<Run>,
}

impl Fresh {
    /// What of it is in use and not preserved.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Run, &'static str)> + '_ {
        self.frames.iter().map(|run| (*run, "allocated"))
    }

    /// The successor finds it with its content, once, and can give it back.
    pub(super) fn assert_there(&self, next: &Kernel<'_>) {
        for kept in &self.kept {
            kept.take(next).expect("preserved");
            kept.drop(next).expect("ours");
        }
    }
}

/// Nothing but a lack of memory keeps a kernel from doing this.
fn unless_full<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(is_full(&error), "{error}");
            None
        }
    }
}

/// Allocates, preserves and publishes something of each kind.
pub(super) fn work(machine: &TestMachine, kernel: &Kernel<'_>, whim: u64) -> Fresh {
    let mut fresh = Fresh::default();
    let memory = kernel.memory();
    let recipes = [
        Recipe::Folio(1),
        Recipe::Run(3),
        Recipe::Buffer(48, false),
        Recipe::Buffer(700, true),
        Recipe::Buffer(2 * PAGE as usize + 5, false),
        Recipe::Area(2, 0),
        Recipe::Records(3),
    ];
    for (recipe, seed) in recipes.into_iter().zip(201..) {
        fresh.kept.extend(unless_full(TestObject::keep(kernel, recipe, seed)));
    }
    for spec in [THINGS, PLAIN] {
        // Refused where the predecessor's cache of that name is another.
        let Ok(cache) = kernel.slabs().cache(spec) else { continue };
        let Ok(object) = cache.alloc() else { continue };
        // SAFETY: allocated just now, and not used afterwards.
        unsafe {
            object.write_bytes(0xa5, cache.object_size());
            cache.free(object)
        }
        .expect("ours");
    }
    if let Some(ptr) = unless_full(kernel.alloc(3 * PAGE as usize)) {
        let addr = memory.machine().phys(ptr).expect("memory");
        fresh.frames.extend(Run::covering(addr, 3 * PAGE));
    }
    if let Ok(block) = memory.alloc(Request::new(Order::ZERO)) {
        if memory.keep(block).is_ok() {
            assert!(memory.keep(block).is_err(), "{block} was preserved twice");
            memory.let_go(block).expect("preserved just now");
        }
        assert!(memory.let_go(block).is_err());
        fresh.frames.push(block.run());
    }
    let name = "fresh";
    let published = bounded(machine, "publish", || kernel.publish(name, &whim.to_le_bytes()));
    unless_full(published);
    if seal(kernel) {
        assert!(kernel.is_sealed());
        kernel.unseal().expect("sealed");
    }
    memory.audit().expect("consistent after work");
    fresh
}

/// Seals what is left so far, if there is memory for it.
pub(super) fn seal(kernel: &Kernel<'_>) -> bool {
    let sealed = unless_full(kernel.seal()).is_some();
    assert_eq!(kernel.is_sealed(), sealed);
    sealed
}
