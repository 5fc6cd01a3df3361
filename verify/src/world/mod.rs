//! Small machines whose memory outlives the kernels that run on it, and handovers of every kind in
//! them.
//!
//! ```text
//! ram      the machine: heap memory, every address that is looked at is counted and in range
//! mod      the world: a memory map, scratch, kernels that follow each other, bytes put and saved
//! keep     one preserved thing of each kind, stamped
//! dump     what Linux left, as a dump of memory has it
//! left     whole handovers: what was left, and every table that a successor reads
//! ```

mod dump;
mod keep;
mod left;
#[path = "../../../folio/tests/common/owned.rs"]
mod owned;
mod ram;

use heirloom::folio::sync::AtomicU64;
use heirloom::folio::{DirectMap, NodeId, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom::restore::{Entry, Image, SealPolicy};
use heirloom::{Heirloom, MemoryMap};

pub use dump::Dump;
#[cfg(feature = "image")]
pub(crate) use dump::{ELF, segments};
pub use keep::{
    Kept, keep_area, keep_buffer, keep_folio, keep_object, keep_records, keep_run, stamp, stamped,
};
pub use left::{Left, PLAIN, Place, Shape, THINGS, TableAt, tables_of};
pub(crate) use owned::Owned;
pub use ram::CountedRam;

/// A kernel on a world's machine.
pub type Kernel<'w> = Heirloom<&'w CountedRam>;

/// Bytes of a page.
pub const PAGE: u64 = PAGE_SIZE as u64;

/// A machine whose memory outlives the kernels that run on it.
#[derive(Debug)]
pub struct World {
    ram: CountedRam,
    ranges: Vec<(Run, NodeId)>,
    scratch: Run,
}

impl World {
    /// `frames` frames from 4 GiB on, scratch at their end: just what the metadata needs.
    ///
    /// # Panics
    /// If there are too few frames for the metadata.
    pub fn new(frames: u64) -> Self {
        let start = PhysAddr::new(4 << 30).pfn();
        let all = Run::new(start, frames).expect("frames above 4 GiB");
        let ranges = vec![(all, NodeId(0))];
        let ram = CountedRam::over(&ranges);
        let cpus = heirloom::folio::Cpus::count(&ram);
        let bytes = Heirloom::<&CountedRam>::scratch_bytes(&ranges, cpus) as u64;
        let first = all.end().get().saturating_sub(bytes / PAGE);
        assert!(first > start.get(), "{frames} frames are too few for {bytes} bytes of scratch");
        let scratch = Run::new(Pfn::new(first), bytes / PAGE).expect("scratch is in the range");
        Self { ram, ranges, scratch }
    }

    /// One range of `frames` frames from address 0 on, with scratch where the caller wants it.
    ///
    /// # Panics
    /// If there are no frames.
    pub fn from_zero(frames: u64, scratch: Run) -> Self {
        let ranges = vec![(Run::new(Pfn::new(0), frames).expect("frames"), NodeId(0))];
        Self { ram: CountedRam::over(&ranges), ranges, scratch }
    }

    /// The memory map.
    pub fn map(&self) -> MemoryMap<'_> {
        &self.ranges
    }

    /// All of memory.
    pub fn all(&self) -> Run {
        self.ranges[0].0
    }

    /// The machine.
    pub const fn ram(&self) -> &CountedRam {
        &self.ram
    }

    /// The scratch area.
    pub const fn scratch(&self) -> Run {
        self.scratch
    }

    /// A kernel without a predecessor.
    ///
    /// # Panics
    /// If the world is too small for one.
    pub fn boot(&self) -> Kernel<'_> {
        // SAFETY: the machine covers the ranges, and one kernel at a time runs on it.
        let booted = unsafe { Heirloom::boot(&self.ram, &self.ranges, &[self.scratch], "test") };
        booted.expect("a world that holds a kernel")
    }

    /// The kernel that follows, if it takes what its predecessor left.
    ///
    /// # Errors
    /// As for [`Heirloom::revive`].
    pub fn try_revive(
        &self,
        entry: Entry,
        seal: SealPolicy,
    ) -> Result<Kernel<'_>, heirloom::Error> {
        // SAFETY: as for `boot`; the predecessor was dropped.
        unsafe { Heirloom::revive(&self.ram, &self.ranges, entry, "test", seal) }
    }

    /// The kernel that follows.
    ///
    /// # Panics
    /// If it refuses.
    pub fn revive(&self, entry: Entry) -> Kernel<'_> {
        self.try_revive(entry, SealPolicy::Checked).unwrap_or_else(|e| panic!("refused: {e}"))
    }

    /// The kernel ends here, in the middle of whatever it does, and the next takes over.
    pub fn jump<'w>(&'w self, old: Kernel<'w>) -> Kernel<'w> {
        self.revive(end(old))
    }

    /// The address of frame `n` of the memory.
    pub fn frame(&self, n: u64) -> PhysAddr {
        self.all().start().add(n % self.all().frames()).addr()
    }

    fn bytes(&self) -> *mut [u8] {
        let run = self.all();
        let start = self.ram.ptr(run.addr());
        std::ptr::slice_from_raw_parts_mut(start.as_ptr(), run.bytes() as usize)
    }

    /// A copy of all memory, while no kernel runs.
    pub fn save(&self) -> Vec<u8> {
        // SAFETY: one range, which the machine covers; callers run no kernel meanwhile.
        unsafe { &*self.bytes() }.to_vec()
    }

    /// Puts a copy back, while no kernel runs.
    ///
    /// # Panics
    /// If it is a copy of another world's memory.
    pub fn load(&self, saved: &[u8]) {
        // SAFETY: as for `save`.
        unsafe { &mut *self.bytes() }.copy_from_slice(saved);
    }

    /// Writes `bytes` from `addr` on, as far as that is memory, while no kernel runs.
    pub fn write(&self, addr: PhysAddr, bytes: &[u8]) {
        let start = self.all().addr().get();
        // SAFETY: as for `save`.
        let all = unsafe { &mut *self.bytes() };
        let Some(at) = addr.get().checked_sub(start).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        for (to, from) in all.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// `bytes` bytes from `addr` on, while no kernel runs.
    ///
    /// # Panics
    /// If they are not in memory.
    pub fn read(&self, addr: PhysAddr, bytes: usize) -> &[u8] {
        let at = (addr.get() - self.all().addr().get()) as usize;
        // SAFETY: as for `save`; callers keep the slice no longer than until the next write.
        unsafe { &(&*self.bytes())[at..at + bytes] }
    }

    /// The word at `addr`, while no kernel runs; 0 where there is no memory.
    pub fn word(&self, addr: PhysAddr) -> u64 {
        let inside = Run::covering(addr, 8).is_some_and(|run| self.all().covers(run));
        if !inside {
            return 0;
        }
        let bytes = self.read(addr, 8).first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(bytes)
    }

    /// Writes the word at `addr`, while no kernel runs.
    pub fn put(&self, addr: PhysAddr, value: u64) {
        self.write(addr, &value.to_le_bytes());
    }

    /// The words of `bytes` bytes at `addr`, while no kernel runs.
    pub fn words(&self, addr: PhysAddr, bytes: usize) -> Vec<u64> {
        (0..bytes.div_ceil(8) as u64)
            .map(|i| self.word(PhysAddr::new(addr.get() + i * 8)))
            .collect()
    }

    /// Turns one bit over, while no kernel runs.
    pub fn flip(&self, addr: PhysAddr, bit: usize) {
        let addr = PhysAddr::new(addr.get() + bit as u64 / 8);
        let byte = self.read(addr, 1)[0];
        self.write(addr, &[byte ^ 1 << (bit % 8)]);
    }
}

/// The kernel ends here, with whatever its caches hold: what its successor is told.
pub fn end(kernel: Kernel<'_>) -> Entry {
    kernel.into_handover().entry()
}

/// The memory as an image, while no kernel runs: what [`survey`](heirloom::restore::survey) reads.
impl Image for World {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let whole = bytes.checked_next_multiple_of(8)?;
        let inside = self.all().covers(Run::covering(addr, whole as u64)?);
        if !inside || !addr.get().is_multiple_of(8) {
            return None;
        }
        // A reader that asks for many bytes reads them: a hash over a block is not one look.
        self.ram.looked_on(bytes as u64 / PAGE);
        let first = self.ram.ptr(addr).cast::<AtomicU64>();
        // SAFETY: in memory, aligned, and touched by nobody while no kernel runs.
        Some(unsafe { std::slice::from_raw_parts(first.as_ptr(), whole / 8) })
    }

    fn is_memory(&self, run: Run) -> bool {
        self.all().covers(run)
    }
}
