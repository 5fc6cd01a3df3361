//! Kernels of tests: one ends at any instant, and the next goes on with what it left.

use std::string::String;
use std::vec::Vec;

use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Request};
use heirloom_kho::{Block, Order, PhysAddr};
use heirloom_slab::Slabs;

/// What a kernel left when it ended.
pub(crate) struct World {
    ram: Ram,
    frames: u64,
    map: PhysAddr,
    directory: PhysAddr,
}

/// The first kernel.
pub(crate) fn boot(frames: u64) -> Slabs<Ram> {
    Slabs::new(Ram::memory(&Ram::frames(frames)).unwrap()).unwrap()
}

/// Returns the memory as it is at this instant.
pub(crate) fn stop(slabs: &Slabs<Ram>, frames: u64) -> World {
    let ranges = Ram::frames(frames);
    let (run, ram) = (ranges[0].0, Ram::over(&ranges));
    let from = slabs.memory().machine().ptr(run.addr());
    // SAFETY: both have these frames, and nothing else runs.
    unsafe { ram.ptr(run.addr()).copy_from_nonoverlapping(from, run.bytes() as usize) };
    World {
        ram,
        frames,
        map: slabs.memory().preserved().tree_root().unwrap(),
        directory: slabs.cache_directory(),
    }
}

impl World {
    /// Returns the kernel that goes on with it.
    pub(crate) fn revive(self) -> Slabs<Ram> {
        let memory = self.ram.attach(&Ram::frames(self.frames)).unwrap();
        let (memory, _) = memory.take_over(self.map).unwrap();
        Slabs::revive(memory, self.directory).unwrap()
    }
}

/// Returns how many objects of containers are in use, but heads.
pub(crate) fn in_use(slabs: &Slabs<Ram>) -> usize {
    let is_ours = |name: &str| name.starts_with("collections-") && name != "collections-heads";
    let mut names: Vec<(String, usize)> = Vec::new();
    for cache in slabs.caches() {
        if is_ours(cache.name().as_str()) {
            names.push((cache.name().as_str().into(), cache.preserved().count()));
        }
    }
    names.iter().map(|(_, count)| count).sum()
}

/// All memory that was free, in frames.
pub(crate) struct Rest<'s> {
    slabs: &'s Slabs<Ram>,
    blocks: Vec<Block>,
}

impl<'s> Rest<'s> {
    pub(crate) fn take(slabs: &'s Slabs<Ram>) -> Self {
        let mut blocks = Vec::new();
        for order in [Order::new(4).unwrap(), Order::ZERO] {
            while let Ok(block) = slabs.memory().alloc(Request::new(order)) {
                blocks.push(block);
            }
        }
        Self { slabs, blocks }
    }

    /// Gives back a little: first the frames, then sixteen at a time.
    pub(crate) fn give(&mut self) {
        let block = self.blocks.pop().expect("there is memory for one operation");
        // SAFETY: allocated in `take`, and not used.
        unsafe { self.slabs.memory().free(block) }.unwrap();
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        while !self.blocks.is_empty() {
            self.give();
        }
    }
}

/// Numbers that look random, the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }
}
