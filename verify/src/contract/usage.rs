//! What a kernel does all day, after whatever it was left.

use crate::world::Owned as _;
use std::slice;

use heirloom::folio::{Block, DirectMap, Error as FolioError, Kind, Order, Request, Run};
use heirloom::restore::{Error, Parts};

use super::{Owners, bounded};
use crate::world::{
    Kernel, PAGE, PLAIN, THINGS, World, keep_area, keep_buffer, keep_folio, keep_records, keep_run,
    stamped,
};

/// Allocates all free memory, writes to every frame of it, and gives it back: nothing that has an
/// owner is among it, and nothing that has one changes.
pub(super) fn fill(world: &World, kernel: &Kernel<'_>) {
    kernel.slabs().shrink();
    let memory = kernel.memory();
    let owners = Owners::of(world, kernel).sorted();
    let before: Vec<_> = owners
        .runs()
        .filter(|(_, who)| *who != "scratch")
        .map(|(run, _)| (run, bytes_of(world, run).to_vec()))
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
        assert!(bytes_of(world, run) == bytes, "{run} changed when free memory was written to");
    }
    // With nothing left, an operation succeeds or changes nothing.
    if let Some(block) = taken.first() {
        match memory.keep(*block) {
            Ok(()) => memory.let_go(*block).expect("preserved just now"),
            Err(FolioError::OutOfMemory { .. }) => assert!(!memory.is_preserved(*block)),
            Err(other) => panic!("{block}: {other}"),
        }
    }
    for (i, block) in (0..).zip(taken) {
        let page = [mark(i); PAGE as usize];
        let same = bytes_of(world, block.run()).chunks(page.len()).all(|bytes| bytes == page);
        assert!(same, "{block} has two owners");
        // SAFETY: allocated above, and nobody uses it.
        unsafe { memory.free(block, Kind::Folio) }.expect("ours");
    }
    memory.drain();
    memory.audit().expect("consistent after all was allocated and freed");
}

/// A byte for the `i`-th of many blocks, not that of its neighbours.
const fn mark(i: u64) -> u8 {
    (i % 251) as u8 + 1
}

fn bytes_of(world: &World, run: Run) -> &[u8] {
    let start = world.ram().ptr(run.addr());
    // SAFETY: memory that nobody writes while the slice is in use: callers compare or copy it.
    unsafe { slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) }
}

/// What was made and preserved after the takeover.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    kept: Vec<crate::world::Kept>,
    frames: Vec<Run>,
}

impl Fresh {
    /// What of it is in use and not preserved.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Run, &'static str)> + '_ {
        self.frames.iter().map(|run| (*run, "allocated"))
    }

    /// The successor finds it with its content.
    pub(super) fn assert_there(&self, next: &Kernel<'_>) {
        for kept in &self.kept {
            let handle = kept.handle;
            match handle.parts().expect("made here") {
                Parts::Folio(_) => {
                    let folio = next.claim_folio(handle).expect("preserved");
                    assert!(stamped(folio.bytes(), kept.seed));
                }
                Parts::Run(_) => {
                    let run = next.claim_run(handle).expect("preserved");
                    assert!(stamped(run.bytes(), kept.seed));
                }
                Parts::Buffer { bytes, .. } | Parts::Object { bytes, .. } => {
                    let ptr = next.restore(handle).expect("preserved");
                    // SAFETY: claimed just now.
                    let content = unsafe { slice::from_raw_parts(ptr.as_ptr(), bytes as usize) };
                    assert!(stamped(content, kept.seed));
                    // SAFETY: as above; it is not used again.
                    unsafe { next.free(ptr) }.expect("ours");
                }
                Parts::Area(info) => {
                    let area = next.claim_area(handle).expect("preserved");
                    assert_eq!(area.into_raw(), info);
                }
                Parts::Records { .. } => {
                    let records = next.claim_records::<[u64; 2]>(handle).expect("preserved");
                    let mut seen = 0;
                    records
                        .for_each(|entry| {
                            assert_eq!(entry, [kept.seed, seen]);
                            seen += 1;
                        })
                        .expect("sound");
                    assert_eq!(seen, records.len());
                }
                Parts::Blob { .. } => panic!("{handle:?}"),
            }
            assert!(next.claim_folio(handle).is_err() && next.restore(handle).is_err());
        }
    }
}

/// Nothing but a lack of memory keeps a kernel from doing this.
fn unless_full<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Folio(FolioError::OutOfMemory { .. } | FolioError::NoRun { .. })) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Allocates, preserves and publishes something of each kind.
pub(super) fn work(world: &World, kernel: &Kernel<'_>, whim: u64) -> Fresh {
    let mut fresh = Fresh::default();
    let memory = kernel.memory();
    let mut keep = |kept| fresh.kept.extend(unless_full(kept));
    keep(keep_folio(kernel, 1, 201));
    keep(keep_run(kernel, 3, 202));
    keep(keep_buffer(kernel, 48, false, 203));
    keep(keep_buffer(kernel, 700, true, 204));
    keep(keep_buffer(kernel, 2 * PAGE as usize + 5, false, 205));
    keep(keep_area(kernel, 2, 0, 206));
    keep(keep_records(kernel, 3, 207));
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
    let published = bounded(world, "publish", || kernel.publish(name, &whim.to_le_bytes()));
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
