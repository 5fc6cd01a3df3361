//! What the cross-layer tests share: a machine of heap memory over which generation follows
//! generation in one process, contents that can be told apart, and everything that can be seen of
//! a kernel's memory in one value.
#![allow(dead_code)]

use std::alloc::Layout;
use std::collections::BTreeMap;

use heirloom::folio::harness::Ram;
use heirloom::folio::internal::Audit;
use heirloom::folio::{
    DirectMap, Error as FolioError, Folio, FrameType, NodeId, PreservedFolio, PreservedRun, Request,
};
use heirloom::kho::{Block, Handle, Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom::restore::{Entry, Error, PreservedArea, SealPolicy, Unclaimed};
use heirloom::slab::{AllocOptions, CacheStats};
use heirloom::{Heirloom, MemoryMap};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

pub(crate) type Kernel<'r> = Heirloom<&'r Ram>;

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// `cases` cases, the same ones in every run.
pub(crate) fn proptest_config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x6865_6972_6c6f_6f6d),
        ..Config::default()
    }
}

pub(crate) fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

/// A machine whose memory outlives the kernels that run on it.
pub(crate) struct World {
    ram: Ram,
    ranges: Vec<(Run, NodeId)>,
    scratch: Run,
}

impl World {
    /// `frames` frames from 4 GiB on, scratch at their end.
    pub(crate) fn new(frames: u64) -> Self {
        let ranges = Ram::frames(frames).to_vec();
        let ram = Ram::over(&ranges);
        let cpus = heirloom::folio::Cpus::count(&ram);
        let bytes = Heirloom::<&Ram>::scratch_bytes(&ranges, cpus) as u64;
        let end = ranges[0].0.end();
        let scratch = Run::new(Pfn::new(end.get() - bytes / PAGE), bytes / PAGE).unwrap();
        Self { ram, ranges, scratch }
    }

    /// One range of memory from 0 on, with scratch where the caller wants it.
    pub(crate) fn from_zero(frames: u64, scratch: Run) -> Self {
        let ranges = vec![(Run::new(Pfn::new(0), frames).unwrap(), NodeId(0))];
        Self { ram: Ram::over(&ranges), ranges, scratch }
    }

    /// Writes bytes into memory, while no kernel runs.
    pub(crate) fn write(&self, addr: PhysAddr, bytes: &[u8]) {
        let run = Run::covering(addr, bytes.len() as u64).unwrap();
        assert!(self.ranges[0].0.covers(run));
        let start = self.ram.ptr(addr);
        // SAFETY: in the range, and no kernel runs.
        unsafe { start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    pub(crate) fn map(&self) -> MemoryMap<'_> {
        &self.ranges
    }

    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    pub(crate) fn scratch(&self) -> Run {
        self.scratch
    }

    pub(crate) fn boot(&self) -> Kernel<'_> {
        // SAFETY: the machine covers the ranges, and one kernel at a time runs on it.
        unsafe { Heirloom::boot(&self.ram, &self.ranges, &[self.scratch], "test") }.unwrap()
    }

    pub(crate) fn try_revive(&self, entry: Entry, seal: SealPolicy) -> Result<Kernel<'_>, Error> {
        // SAFETY: as for `boot`; the predecessor was dropped.
        unsafe { Heirloom::revive(&self.ram, &self.ranges, entry, "test", seal) }
    }

    pub(crate) fn revive(&self, entry: Entry) -> Kernel<'_> {
        self.try_revive(entry, SealPolicy::Checked).unwrap()
    }

    /// The kernel ends here, in the middle of whatever it does, and the next takes over.
    pub(crate) fn jump<'w>(&'w self, old: Kernel<'w>) -> Kernel<'w> {
        let entry = old.entry();
        drop(old);
        self.revive(entry)
    }

    fn bytes(&self) -> *mut [u8] {
        let run = self.ranges[0].0;
        let start = self.ram.ptr(run.addr());
        std::ptr::slice_from_raw_parts_mut(start.as_ptr(), run.bytes() as usize)
    }

    /// A copy of all memory, while no kernel runs.
    pub(crate) fn save(&self) -> Vec<u8> {
        // SAFETY: one range, which the machine covers; callers run no kernel meanwhile.
        unsafe { &*self.bytes() }.to_vec()
    }

    /// Puts a copy back, while no kernel runs.
    pub(crate) fn load(&self, saved: &[u8]) {
        // SAFETY: as for `save`.
        unsafe { &mut *self.bytes() }.copy_from_slice(saved);
    }

    /// The words of `bytes` bytes at `addr`, while no kernel runs.
    pub(crate) fn words(&self, addr: PhysAddr, bytes: usize) -> Vec<u64> {
        let first = self.ram.ptr(addr).cast::<u64>();
        // SAFETY: callers name memory, aligned to 8, and run no kernel meanwhile.
        (0..bytes.div_ceil(8)).map(|i| unsafe { first.add(i).read() }).collect()
    }

    /// Turns one bit over, while no kernel runs.
    pub(crate) fn flip(&self, addr: PhysAddr, bit: usize) {
        let byte = self.ram.ptr(PhysAddr::new(addr.get() + bit as u64 / 8));
        // SAFETY: callers name memory, and run no kernel meanwhile.
        unsafe { byte.write(byte.read() ^ 1 << (bit % 8)) };
    }
}

/// Fills memory with what only `seed` gives.
pub(crate) fn stamp(bytes: &mut [u8], seed: u64) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = stamp_byte(seed, i);
    }
}

/// Whether memory is as [`stamp`] left it.
pub(crate) fn stamped(bytes: &[u8], seed: u64) -> bool {
    bytes.iter().enumerate().all(|(i, byte)| *byte == stamp_byte(seed, i))
}

fn stamp_byte(seed: u64, i: usize) -> u8 {
    let x = (seed ^ (i as u64 / 64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8 ^ i as u8
}

/// Writes a stamp where a pointer of the kernel's leads.
pub(crate) fn stamp_at(kernel: &Kernel<'_>, addr: PhysAddr, bytes: usize, seed: u64) {
    let start = kernel.memory().machine().ptr(addr);
    // SAFETY: callers own that many bytes there.
    stamp(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }, seed);
}

/// Whether the stamp is there.
pub(crate) fn stamped_at(kernel: &Kernel<'_>, addr: PhysAddr, bytes: usize, seed: u64) -> bool {
    let start = kernel.memory().machine().ptr(addr);
    // SAFETY: callers own that many bytes there.
    stamped(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) }, seed)
}

/// Everything that can be seen of a kernel's memory from outside, at rest.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct State {
    pub(crate) audit: Audit,
    pub(crate) free: u64,
    pub(crate) preserved: Vec<Block>,
    pub(crate) inherited: Vec<(Block, Option<FrameType>)>,
    pub(crate) subtrees: Vec<(String, PhysAddr, u64)>,
    pub(crate) caches: BTreeMap<String, (u64, u64, u64)>,
    pub(crate) sealed: bool,
}

impl State {
    /// What the caches hold back is given back first.
    ///
    pub(crate) fn of(kernel: &Kernel<'_>) -> Self {
        kernel.slabs().shrink();
        let memory = kernel.memory();
        let (mut preserved, mut inherited) = (Vec::new(), Vec::new());
        memory.preserved().for_each(|block| preserved.push(block));
        memory
            .predecessor()
            .for_each(|block| inherited.push((block, memory.predecessor().label_of(block))));
        let mut subtrees = Vec::new();
        kernel
            .for_each_subtree(|name, addr, bytes| subtrees.push((name.to_owned(), addr, bytes)))
            .unwrap();
        let caches = kernel.slabs().caches().map(|cache| {
            let CacheStats { live, preserved, unclaimed, .. } = cache.stats();
            (cache.name().as_str().to_owned(), (live, preserved, unclaimed))
        });
        // Nodes of the tracker stay once they are linked: they count as free here.
        let nodes = memory.preserved().counts().nodes();
        let mut audit = memory.audit().unwrap();
        audit.allocated[FrameType::Table as usize] -= nodes;
        audit.free += nodes;
        Self {
            audit,
            free: free_frames(kernel) + nodes,
            preserved,
            inherited,
            subtrees,
            caches: caches.filter(|(_, counts)| *counts != (0, 0, 0)).collect(),
            sealed: kernel.is_sealed(),
        }
    }
}

impl State {
    /// Frames of tables, the tracker's nodes aside.
    pub(crate) fn tables(&self) -> u64 {
        self.audit.allocated[FrameType::Table as usize]
    }

    /// The same with tables taken for free frames.
    pub(crate) fn but_tables(&self, kernel: &Kernel<'_>) -> Self {
        let mut state = self.clone();
        let tables = std::mem::take(&mut state.audit.allocated[FrameType::Table as usize]);
        state.audit.free += tables;
        state.free += tables;
        let table = |b: &Block| {
            matches!(kernel.memory().owning_block(b.pfn()), Some((_, FrameType::Table, _)))
        };
        state.preserved.retain(|block| !table(block));
        state
    }
}

pub(crate) fn free_frames(kernel: &Kernel<'_>) -> u64 {
    let stats = kernel.memory().stats();
    stats.free() + stats.cached
}

/// Allocates every frame that is left but `but`, and returns what was allocated.
pub(crate) fn fill(kernel: &Kernel<'_>, but: usize) -> Vec<Block> {
    kernel.slabs().shrink();
    let request = Request::new(Order::ZERO);
    let mut taken: Vec<_> = std::iter::from_fn(|| kernel.memory().alloc(request).ok()).collect();
    taken.sort_unstable();
    let kept = taken.len().saturating_sub(but);
    unfill(kernel, taken.drain(kept..));
    kernel.memory().drain();
    taken
}

/// Frees what [`fill`] allocated.
pub(crate) fn unfill(kernel: &Kernel<'_>, blocks: impl IntoIterator<Item = Block>) {
    for block in blocks {
        // SAFETY: allocated by `fill`, and nobody has used it.
        unsafe { kernel.memory().free(block) }.unwrap();
    }
}

/// Whether an error says that there is no memory.
pub(crate) fn out_of_memory(error: &Error) -> bool {
    matches!(error, Error::Folio(FolioError::OutOfMemory { .. } | FolioError::NoRun { .. }))
}

/// A preserved folio, stamped: its handle.
pub(crate) fn keep_folio(kernel: &Kernel<'_>, n: u8, seed: u64) -> Result<Handle, Error> {
    let mut folio = kernel.memory().alloc_folio(Request::new(order(n)))?;
    stamp(folio.bytes_mut(), seed);
    let folio = folio.preserve().map_err(|refused| refused.error)?;
    let handle = kernel.folio_handle(&folio)?;
    folio.into_raw();
    Ok(handle)
}

/// A preserved run, stamped: its handle.
pub(crate) fn keep_run(kernel: &Kernel<'_>, frames: u64, seed: u64) -> Result<Handle, Error> {
    let mut run = kernel.memory().alloc_owned_run(frames, Request::new(Order::ZERO))?;
    stamp(run.bytes_mut(), seed);
    let run = run.preserve().map_err(|refused| refused.error)?;
    let handle = kernel.run_handle(&run)?;
    run.into_raw();
    Ok(handle)
}

/// A preserved buffer, stamped: its handle. `born`: preserved from birth.
pub(crate) fn keep_buffer(
    kernel: &Kernel<'_>,
    bytes: usize,
    born: bool,
    seed: u64,
) -> Result<Handle, Error> {
    let layout = Layout::from_size_align(bytes, 8).unwrap();
    let opts = AllocOptions { preserving: born, zeroed: false };
    let ptr = kernel.slabs().alloc(layout, opts)?;
    let addr = kernel.memory().machine().phys(ptr).unwrap();
    stamp_at(kernel, addr, bytes, seed);
    // SAFETY: in use, and nothing frees it meanwhile.
    let handle = if born { kernel.handle_of(ptr) } else { unsafe { kernel.preserve(ptr) } };
    handle.inspect_err(|_| {
        // SAFETY: allocated above, and nobody has it.
        unsafe { kernel.free(ptr) }.unwrap();
    })
}

/// A preserved area of `blocks` blocks, each stamped with a seed of its own: its handle.
pub(crate) fn keep_area(
    kernel: &Kernel<'_>,
    blocks: u64,
    n: u8,
    seed: u64,
) -> Result<Handle, Error> {
    let mut folios = Vec::new();
    for i in 0..blocks {
        let mut folio = kernel.memory().alloc_folio(Request::new(order(n)))?;
        stamp(folio.bytes_mut(), seed + i);
        folios.push(folio);
    }
    let list = folios.iter().map(Folio::extent);
    // SAFETY: allocated by this test, and told to nothing else.
    let area = unsafe { PreservedArea::preserve(kernel.memory(), list, order(n), false) }?;
    for folio in folios {
        folio.into_raw();
    }
    Ok(Handle::new(heirloom::kho::Parts::Area(area.into_raw()))?)
}

/// Frees a folio that was claimed.
pub(crate) fn free_folio(folio: PreservedFolio<'_, &Ram>) {
    drop(folio.unpreserve().map_err(|refused| refused.error).unwrap());
}

/// Frees a run that was claimed.
pub(crate) fn free_run(run: PreservedRun<'_, &Ram>) {
    drop(run.unpreserve().map_err(|refused| refused.error).unwrap());
}

/// Takes back all names that were claimed or published.
pub(crate) fn unpublish_all(kernel: &Kernel<'_>) {
    let mut names = Vec::new();
    kernel.for_each_subtree(|name, _, _| names.push(name.to_owned())).unwrap();
    for name in names {
        let _others = kernel.unpublish(&name);
    }
}

/// Lets an area go and frees its blocks, which must be as [`keep_area`] stamped them.
pub(crate) fn free_area(kernel: &Kernel<'_>, area: PreservedArea<'_, &Ram>, seed: u64) {
    let mut blocks = Vec::new();
    area.unpreserve(|block| blocks.push(block)).unwrap();
    for (i, block) in (0..).zip(blocks) {
        // SAFETY: the area's block, which is ours since it was let go.
        let folio = unsafe { Folio::from_raw(kernel.memory(), block) };
        assert!(stamped(folio.bytes(), seed + i));
    }
}

/// Frees what was not claimed: what that was.
pub(crate) fn finish_freeing(kernel: &Kernel<'_>) -> Vec<Unclaimed> {
    let mut left = Vec::new();
    kernel
        .finish(|unclaimed| {
            left.push(unclaimed);
            heirloom::folio::Disposition::Free
        })
        .unwrap();
    left
}
