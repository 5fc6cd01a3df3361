//! An arena as the machine that an allocator runs on: its map, and threads as its CPUs.

use core::ptr::NonNull;

use heirloom_folio::threads::{YieldingMutex, YieldingSpinlock};
use heirloom_folio::{CpuId, Cpus, DirectMap, Machine, NodeId, PhysAddr};

use super::Arena;

// SAFETY: every method is the host's, whose map covers all ranges of the arena.
unsafe impl DirectMap for Arena {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.host.ptr(addr)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.host.phys(ptr)
    }
}

// SAFETY: `count`, `pinned`, `pinned_now` and `idle` are the host's; `home` is never changed.
unsafe impl Cpus for Arena {
    #[inline]
    fn count(&self) -> usize {
        self.host.count()
    }

    #[inline]
    fn pinned<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.host.pinned(f)
    }

    #[inline]
    fn pinned_now<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.host.pinned_now(f)
    }

    /// Returns the node of the first range: threads move between processors, so none is nearer.
    #[inline]
    fn home(&self, _: CpuId) -> NodeId {
        self.home
    }

    fn idle(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.host.idle(cpu, f)
    }
}

impl Machine for Arena {
    type Lock = YieldingSpinlock;
    type Mutex = YieldingMutex;

    fn may_wait(&self) -> bool {
        self.host.may_wait()
    }
}
