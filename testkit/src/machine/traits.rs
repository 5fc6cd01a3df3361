//! The machine as kernels and readers of an image have it.

use std::ptr::NonNull;

#[cfg(not(heirloom_model))]
use heirloom::folio::threads::{YieldingMutex, YieldingSpinlock};
use heirloom::folio::{CpuId, Cpus, DirectMap, Machine, NodeId};
use heirloom::kho::sync::AtomicU64;
use heirloom::kho::{Image, PhysAddr, Run};

use super::{Backing, PAGE, Processors, TestMachine};
#[cfg(heirloom_model)]
use crate::cpus::Turn;

// SAFETY: delegates to a map that covers the ranges, and whose memory lives as long as the value.
unsafe impl DirectMap for TestMachine {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.look(1);
        match &self.memory {
            Backing::Heap(ram) => ram.ptr(addr),
            Backing::Pool(map, ..) => map.ptr(addr),
            #[cfg(target_os = "linux")]
            Backing::Shared(arena, _) => arena.ptr(addr),
        }
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        match &self.memory {
            Backing::Heap(ram) => ram.phys(ptr),
            Backing::Pool(map, ..) => map.phys(ptr),
            #[cfg(target_os = "linux")]
            Backing::Shared(arena, _) => arena.phys(ptr),
        }
    }
}

// SAFETY: `ThreadSlots` gives each thread a slot of its own. Of a few CPUs a closure runs with one
// only between taking its word and giving it back, so one at a time; the word, where CPUs work on
// each other's state, passes on what the last closure wrote, and where not, a CPU's closures run on
// one thread. Neither counts nor nodes change.
unsafe impl Cpus for TestMachine {
    fn count(&self) -> usize {
        match &self.cpus {
            Processors::Threads(slots) => slots.count(),
            Processors::Few(few) => few.count() as usize,
        }
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        match &self.cpus {
            Processors::Threads(slots) => slots.with_cpu(f),
            Processors::Few(few) => few.with_cpu(f),
        }
    }

    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        match &self.cpus {
            Processors::Threads(slots) => slots.try_with_cpu(f),
            Processors::Few(few) => few.with_cpu(f),
        }
    }

    fn node_of(&self, cpu: CpuId) -> NodeId {
        match &self.cpus {
            // Threads move between processors, so no node is nearer than the first.
            Processors::Threads(_) => self.ranges[0].1,
            Processors::Few(few) => NodeId(few.node(cpu)),
        }
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        match &self.cpus {
            Processors::Threads(slots) => slots.with_offline_cpu(cpu, f),
            Processors::Few(few) => few.with_offline_cpu(cpu, f),
        }
    }
}

#[cfg(not(heirloom_model))]
impl Machine for TestMachine {
    type Lock = YieldingSpinlock;
    type Mutex = YieldingMutex;

    fn may_wait(&self) -> bool {
        YieldingSpinlock::may_wait()
    }
}

#[cfg(heirloom_model)]
impl Machine for TestMachine {
    type Lock = Turn;
    type Mutex = Turn;
}

/// Memory as a reader of an image has it, while no kernel writes.
impl Image for TestMachine {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let whole = bytes.checked_next_multiple_of(8)?;
        let run = Run::covering(addr, whole as u64)?;
        if !self.is_memory(run) || !addr.get().is_multiple_of(8) {
            return None;
        }
        // A reader that asks for many bytes reads them: a hash over a block is not one look.
        self.look(bytes as u64 / PAGE);
        let first = self.ptr(addr).cast::<AtomicU64>();
        // SAFETY: in memory, aligned; what is read is reached as atomics, or not written meanwhile.
        Some(unsafe { std::slice::from_raw_parts(first.as_ptr(), whole / 8) })
    }

    fn is_memory(&self, run: Run) -> bool {
        self.map(true).iter().any(|(range, _)| range.covers(run))
    }
}
