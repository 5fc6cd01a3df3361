//! The port: all that heirloom asks of a kernel.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use heirloom::folio::{Interrupts, Masked};
use heirloom::{CpuId, Cpus, DirectMap, Machine, PhysAddr};

use crate::cpu::{self, CPUS};

/// Memory that the page tables show, in GiB.
pub const MAPPED: u64 = 16;

/// The machine, of either architecture: memory is mapped at its own addresses.
#[derive(Clone, Copy, Debug)]
pub struct Port;

// ANCHOR: lock
/// A lock that keeps interrupts out: handlers of the timer allocate.
pub type Lock = Masked<spin::Mutex<()>, Port>;
// ANCHOR_END: lock

// ANCHOR: map
// SAFETY: page tables show the memory below `MAPPED` GiB at its own addresses, writable, for as long as the kernel
// runs; the map that is handed to heirloom ends there. Frame 0 is in no map.
unsafe impl DirectMap for Port {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(addr.get() as usize))
            .unwrap_or(NonNull::dangling())
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        let addr = ptr.expose_provenance().get() as u64;
        (addr < MAPPED << 30).then_some(PhysAddr::new(addr))
    }
}
// ANCHOR_END: map

// ANCHOR: cpus
// SAFETY: a closure runs with a CPU's number if it found the CPU's flag down, which it raises until it is done; a
// handler in its middle, or a call within it, finds the flag up. Nothing moves between CPUs. `this` is below `CPUS`.
unsafe impl Cpus for Port {
    fn count(&self) -> usize {
        CPUS
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        let cpu = cpu::this();
        if cpu.pinned.swap(true, Acquire) {
            cpu.unpinned.fetch_add(1, Relaxed);
            return f(None);
        }
        let result = f(Some(CpuId(cpu.number.load(Relaxed))));
        cpu.pinned.store(false, Release);
        result
    }
}
// ANCHOR_END: cpus

// ANCHOR: interrupts
// SAFETY: each CPU counts its own, and nothing moves between CPUs.
unsafe impl Interrupts for Port {
    fn mask() {
        let came = cpu::mask();
        cpu::this().masked.enter(came);
    }

    fn unmask() {
        if cpu::this().masked.leave() {
            cpu::unmask();
        }
    }
}
// ANCHOR_END: interrupts

// ANCHOR: machine
impl Machine for Port {
    type Lock = Lock;
    type Mutex = spin::Mutex<()>;

    /// An NMI comes in the middle of what holds a lock.
    fn may_wait(&self) -> bool {
        !cpu::this().in_nmi.load(Relaxed)
    }

    /// An interrupt has no time for a pass over all caches.
    fn may_reclaim(&self) -> bool {
        self.may_wait() && !cpu::this().in_interrupt.load(Relaxed)
    }
}
// ANCHOR_END: machine
