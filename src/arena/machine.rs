//! An arena as the machine that an allocator runs on: its map, and threads as its CPUs.

use core::ptr::NonNull;

use heirloom_folio::threads::{YieldingMutex, YieldingSpinlock};
use heirloom_folio::{CpuId, Cpus, DirectMap, Machine, NodeId};
use heirloom_kho::PhysAddr;

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

// SAFETY: `count`, `with_cpu`, `try_with_cpu` and `with_offline_cpu` are the host's; `node_of` is never changed.
unsafe impl Cpus for Arena {
    #[inline]
    fn count(&self) -> usize {
        self.host.count()
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.host.with_cpu(f)
    }

    #[inline]
    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.host.try_with_cpu(f)
    }

    /// Returns the node of the first range: threads move between processors, so none is nearer.
    #[inline]
    fn node_of(&self, _: CpuId) -> NodeId {
        self.home
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.host.with_offline_cpu(cpu, f)
    }
}

impl Machine for Arena {
    type Lock = YieldingSpinlock;
    type Mutex = YieldingMutex;

    fn may_wait(&self) -> bool {
        self.host.may_wait()
    }
}
