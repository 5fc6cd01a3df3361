//! A few CPUs, and a lock, as the program or a model checker wants them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool as Plain, AtomicU32};

use heirloom::folio::CpuId;
use heirloom::kho::sync::{Acquire, AtomicBool, Release};

/// The most CPUs.
pub(crate) const MOST: usize = 4;

/// CPUs of which the program says which one runs; under a model checker, each thread has its own.
/// Single CPUs can be kept busy, so that no other CPU works on their state.
#[derive(Debug)]
pub(crate) struct Few {
    count: u32,
    /// How many nodes they are on, in turn.
    nodes: u16,
    /// The one that runs; none of this number: no CPU's state can be had.
    current: AtomicU32,
    /// CPUs that are never idle, a bit each.
    held: AtomicU32,
    busy: [Busy; MOST],
    /// Whether CPUs work on each other's state.
    shared: bool,
}

impl Few {
    pub(crate) fn new(count: u32, nodes: u16, shared: bool) -> Self {
        assert!(count as usize <= MOST, "a few");
        let held = AtomicU32::new(if shared { 0 } else { u32::MAX });
        Self { count, nodes, current: AtomicU32::new(0), held, busy: Default::default(), shared }
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn run_on(&self, cpu: u32) {
        self.current.store(cpu, Relaxed);
    }

    pub(crate) fn hold(&self, cpus: u32) {
        self.held.store(cpus, Relaxed);
    }

    pub(crate) fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }

    pub(crate) const fn node(&self, cpu: CpuId) -> u16 {
        (cpu.0 % self.nodes as u32) as u16
    }

    /// The CPU that runs, and whether a model checker says so.
    fn current(&self) -> (u32, bool) {
        #[cfg(heirloom_model)]
        if let Some(checker) = super::checker::current() {
            return ((checker.thread() % self.count as usize) as u32, true);
        }
        (self.current.load(Relaxed), false)
    }

    fn enter(&self, cpu: u32) -> Option<On<'_>> {
        On::enter(self.busy[..self.count as usize].get(cpu as usize)?, self.shared)
    }

    /// As [`Cpus::with_cpu`](heirloom::folio::Cpus::with_cpu).
    pub(crate) fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        let (cpu, _) = self.current();
        let on = self.enter(cpu);
        f(on.is_some().then_some(CpuId(cpu)))
    }

    /// As [`Cpus::with_offline_cpu`](heirloom::folio::Cpus::with_offline_cpu).
    pub(crate) fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        let runs = self.current() == (cpu.0, false);
        if runs || self.held() & 1_u32.checked_shl(cpu.0).unwrap_or(0) != 0 {
            return false;
        }
        let on = self.enter(cpu.0);
        let free = on.is_some();
        if free {
            f();
        }
        free
    }
}

/// Whether a closure runs on a CPU.
#[derive(Debug, Default)]
struct Busy {
    /// Where a thread has its CPU for good. Not watched: the machine is not what is checked.
    own: Plain,
    /// Where CPUs work on each other's state: then what one wrote there reaches the next by this
    /// word.
    shared: AtomicBool,
}

/// A CPU that is in use until this is dropped.
struct On<'a>(&'a Busy, bool);

impl<'a> On<'a> {
    fn enter(busy: &'a Busy, shared: bool) -> Option<Self> {
        // Acquire pairs with the Release in `drop`.
        let before =
            if shared { busy.shared.swap(true, Acquire) } else { busy.own.swap(true, Relaxed) };
        // Not `then_some`: what it does not return it drops, and that leaves the CPU.
        (!before).then(|| Self(busy, shared))
    }
}

impl Drop for On<'_> {
    fn drop(&mut self) {
        let Self(busy, shared) = self;
        if *shared {
            // Release pairs with the Acquire in `enter`.
            busy.shared.store(false, Release);
        } else {
            busy.own.store(false, Relaxed);
        }
    }
}

#[cfg(heirloom_model)]
pub use turn::Turn;

#[cfg(heirloom_model)]
mod turn {
    use heirloom::kho::sync::{Acquire, AtomicBool, Release};

    use crate::checker;

    /// A lock whose waiters let others run.
    #[derive(Debug)]
    pub struct Turn(AtomicBool);

    // SAFETY: the thread that finds `false` and sets it has the lock until it stores `false`.
    unsafe impl lock_api::RawMutex for Turn {
        #[expect(clippy::declare_interior_mutable_const, reason = "the trait's")]
        const INIT: Self = Self(AtomicBool::new(false));
        type GuardMarker = lock_api::GuardSend;

        fn lock(&self) {
            let at = std::ptr::from_ref(self).addr();
            if checker::current().is_some_and(|checker| checker.lock(at)) {
                return;
            }
            while !self.try_lock() {
                checker::current().expect("a lock that no thread will give back").pause();
            }
        }

        fn try_lock(&self) -> bool {
            // Acquire pairs with the Release in `unlock`.
            !self.0.swap(true, Acquire)
        }

        unsafe fn unlock(&self) {
            let at = std::ptr::from_ref(self).addr();
            if checker::current().is_some_and(|checker| checker.unlock(at)) {
                return;
            }
            // Release pairs with the Acquire in `try_lock`.
            self.0.store(false, Release);
        }
    }
}
