//! The machine: heap memory in which every look is counted, and none may lead outside.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heirloom::folio::harness::Ram;
use heirloom::folio::{CpuId, Cpus, DirectMap, Machine, NodeId, PhysAddr, Run};

/// [`Ram`] that counts how often an address is asked for.
///
/// Every page of a table that is read, and every block that is written, is asked for at least once:
/// the count is a measure of the work that does not depend on the speed of the machine.
#[derive(Debug)]
pub struct CountedRam {
    ram: Ram,
    all: Run,
    looks: AtomicU64,
}

impl CountedRam {
    /// Zeroed memory over `ranges`.
    ///
    /// # Panics
    /// As for [`Ram::over`].
    pub fn over(ranges: &[(Run, NodeId)]) -> Self {
        let start = ranges.iter().map(|(run, _)| run.start()).min().expect("a range");
        let end = ranges.iter().map(|(run, _)| run.end()).max().expect("a range");
        let all = Run::between(start, end).expect("start before end");
        Self { ram: Ram::over(ranges), all, looks: AtomicU64::new(0) }
    }

    /// How often an address was asked for.
    pub fn looks(&self) -> u64 {
        self.looks.load(Relaxed)
    }

    /// Counts frames that a reader of an image asked for at once, beyond the first.
    pub(super) fn looked_on(&self, frames: u64) {
        self.looks.fetch_add(frames, Relaxed);
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for CountedRam {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.looks.fetch_add(1, Relaxed);
        self.ram.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.ram.phys(ptr).filter(|addr| self.all.contains(addr.pfn()))
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl Cpus for CountedRam {
    fn count(&self) -> usize {
        self.ram.count()
    }

    fn pinned<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.ram.pinned(f)
    }

    fn pinned_now<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.ram.pinned_now(f)
    }

    fn idle(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.ram.idle(cpu, f)
    }
}

impl Machine for CountedRam {
    type Lock = <Ram as Machine>::Lock;
    type Mutex = <Ram as Machine>::Mutex;
}
