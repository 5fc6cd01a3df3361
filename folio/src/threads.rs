//! Threads as CPUs: a slot for each live thread.
//!
//! Picture a row of numbered slots, one row for the whole process. A thread takes the lowest free
//! slot when it first needs one, keeps it while it lives, and gives it back when it ends; the
//! slot's number is the CPU that the thread runs on. As a slot has one owner and an owner runs one
//! thing at a time, entering it takes no atomic read-modify-write: a look at a word of the
//! thread's own, and a store.
//!
//! ```text
//! row      0  1  2  3  4  5 …        one bit each, in the process
//!          A  B  .  C  .  .          threads A, B and C live
//! instance |---------|               an instance of count 4 uses the first four
//! ```
//!
//! The row is the one static here, because threads belong to the process and not to an instance.
//! Instances share nothing through it but numbers.

mod lock;

use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, compiler_fence};
use std::thread::available_parallelism;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{u32_to_usize, usize_to_u32};
pub use lock::{YieldingMutex, YieldingSpinlock};

use crate::machine::{CpuId, Cpus, DirectMap, Machine};

/// Slots in the process. Threads beyond them do without per-CPU state.
pub const LIMIT: usize = 256;

/// Stands for the slot of a thread that has none. No count reaches it.
const NONE: u32 = u32::MAX;

/// Which slots have an owner, a bit each.
struct Row([AtomicU64; LIMIT / 64]);

static ROW: Row = Row::new();

impl Row {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; LIMIT / 64])
    }

    /// Takes `slot` if it is free. Returns whether it was.
    fn take(&self, slot: u32) -> bool {
        let (word, bit) = Self::place(slot);
        // Acquire pairs with the Release in `give_back`: what the last owner wrote under this slot
        // is visible to the next.
        self.0.get(word).is_some_and(|word| word.fetch_or(bit, Acquire) & bit == 0)
    }

    /// Takes the lowest free slot below `limit`.
    fn take_below(&self, limit: u32) -> Option<u32> {
        for (first, word) in (0..limit).step_by(64).zip(&self.0) {
            let below = if limit - first < 64 { (1 << (limit - first)) - 1 } else { u64::MAX };
            loop {
                let free = !word.load(Relaxed) & below;
                if free == 0 {
                    break;
                }
                let slot = first + free.trailing_zeros();
                if self.take(slot) {
                    return Some(slot);
                }
            }
        }
        None
    }

    /// Gives back a slot that the caller owns.
    fn give_back(&self, slot: u32) {
        let (word, bit) = Self::place(slot);
        if let Some(word) = self.0.get(word) {
            // Release pairs with the Acquire in `take`.
            word.fetch_and(!bit, Release);
        }
    }

    const fn place(slot: u32) -> (usize, u64) {
        (u32_to_usize(slot) / 64, 1 << (slot % 64))
    }
}

/// What a thread knows of itself. Only the thread and its signal handlers touch it; atomics,
/// because a handler may come between any two instructions.
///
/// A closure runs under the slot while there is a slot and it is not ready.
struct Own {
    /// The slot that can be entered, or [`NONE`]: what every call looks at and nothing else.
    ready: AtomicU32,
    /// The slot that the thread owns, or [`NONE`]. Changes only while `moving`.
    slot: AtomicU32,
    /// The slot is being exchanged, or the thread has ended.
    moving: AtomicBool,
}

/// Gives the slot back when the thread ends.
struct AtExit;

std::thread_local! {
    // No destructor, so that a look at it is a load and it can be asked until the very end.
    static OWN: Own = const { Own::new() };
    static AT_EXIT: AtExit = const { AtExit };
}

impl Drop for AtExit {
    fn drop(&mut self) {
        OWN.with(|own| {
            // A thread that exits within a closure keeps its slot for good: no other thread is to
            // see what the closure left half done.
            if !own.is_inside() {
                // Never cleared again: from here on the thread has no slot and takes none.
                own.start_moving();
                let slot = own.slot.load(Relaxed);
                if slot != NONE {
                    ROW.give_back(slot);
                }
            }
        });
    }
}

impl Own {
    const fn new() -> Self {
        let [ready, slot] = [const { AtomicU32::new(NONE) }; 2];
        Self { ready, slot, moving: AtomicBool::new(false) }
    }

    /// Enters the slot if it is ready and below `count`.
    #[inline]
    fn enter(&self, count: u32) -> Option<Entered<'_>> {
        let slot = self.ready.load(Relaxed);
        if slot >= count {
            return None;
        }
        // A handler between the look and the mark enters and leaves before we go on.
        self.ready.store(NONE, Relaxed);
        // A handler runs on this thread, so program order is all it needs. Pairs with the fence in
        // `Entered::drop`.
        compiler_fence(Acquire);
        Some(Entered { own: self, cpu: CpuId(slot) })
    }

    /// Enters a slot below `count` that the thread gets for the one it has, or for none; unless it
    /// is in its slot already.
    ///
    /// A thread that got a high slot while many ran thus moves to a lower one once they have ended.
    #[cold]
    #[inline(never)]
    fn enter_another(&self, count: u32) -> Option<Entered<'_>> {
        if self.is_inside() {
            return None;
        }
        self.start_moving();
        let entered = self.take_below(count);
        if entered.is_none() {
            self.ready.store(self.slot.load(Relaxed), Relaxed);
        }
        compiler_fence(Release);
        self.moving.store(false, Relaxed);
        entered
    }

    fn take_below(&self, count: u32) -> Option<Entered<'_>> {
        // The first time registers the destructor. No slot without one.
        AT_EXIT.try_with(|_| ()).ok()?;
        let slot = ROW.take_below(count)?;
        let before = self.slot.swap(slot, Relaxed);
        if before != NONE {
            ROW.give_back(before);
        }
        Some(Entered { own: self, cpu: CpuId(slot) })
    }

    /// Returns whether a closure runs under the slot, or the slot is not to be had for good.
    fn is_inside(&self) -> bool {
        let entered = self.slot.load(Relaxed) != NONE && self.ready.load(Relaxed) == NONE;
        entered || self.moving.load(Relaxed)
    }

    /// Keeps handlers out, before anything that they must not see half done.
    fn start_moving(&self) {
        self.moving.store(true, Relaxed);
        self.ready.store(NONE, Relaxed);
        // Program order is all a handler needs; pairs with the Release fence behind the move.
        compiler_fence(Acquire);
    }
}

/// The thread is in its slot as long as this lives.
struct Entered<'a> {
    own: &'a Own,
    cpu: CpuId,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        // Pairs with the fence in `Own::enter`.
        compiler_fence(Release);
        self.own.ready.store(self.cpu.0, Relaxed);
    }
}

/// A thread's slot as the CPU it runs on. For processes; needs the feature `std`.
///
/// - Any number of threads may come and go. While more live than there are slots, those without
///   one run with `None`, and take one when it becomes free.
/// - A call of [`with_cpu`](Cpus::with_cpu) within another on the same thread gets `None`, also if the
///   two belong to different instances, and also from a signal handler. A thread's first call
///   registers a destructor, which may allocate: a handler that uses heirloom should find its
///   thread with a slot.
/// - In the destructors of a thread's other thread-locals, `None` is to be expected.
///
/// # Examples
/// ```
/// use heirloom_folio::Cpus;
/// use heirloom_folio::threads::ThreadSlots;
///
/// let slots = ThreadSlots::new(8);
/// slots.with_cpu(|cpu| {
///     let here = cpu.expect("one thread, eight slots");
///     let there = std::thread::scope(|s| s.spawn(|| slots.with_cpu(|cpu| cpu)).join().unwrap());
///     assert_ne!(Some(here), there);
/// });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ThreadSlots {
    count: u32,
}

impl ThreadSlots {
    /// The most slots that [`ThreadSlots::default`] gives, on any machine: what a memory should have
    /// metadata for if its successor may run where there are more processors.
    pub const MOST: usize = 64;

    /// Makes an instance that uses the process's first `count` slots, of 1 to [`LIMIT`].
    ///
    /// Per-CPU state is per slot, so more slots cost memory and let more threads go without
    /// shared state.
    pub const fn new(count: usize) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self { count: if count > LIMIT { usize_to_u32(LIMIT) } else { usize_to_u32(count) } }
    }
}

impl Default for ThreadSlots {
    /// Four slots for each processor that the process may use: at least 4, at most
    /// [`ThreadSlots::MOST`].
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(processors.saturating_mul(4).clamp(4, Self::MOST))
    }
}

// SAFETY:
// - A slot's bit in the row is taken by one thread (or one call of `with_offline_cpu`) at a time, and a closure
//   runs with `Some(cpu)` only on the thread that owns slot `cpu`, and its `ready` is `NONE` from
//   before the closure until after it, which turns away every nested call. The slot changes only
//   while no closure runs and none can begin, so it is the owner's until the closure's end.
// - Successive closures of one owner are ordered by the thread; of different owners by the Release
//   in `give_back` and the Acquire in `take`. All changes to a word of the row are
//   read-modify-writes, so a later take synchronises with every earlier giving back.
// - `enter` and `take_below` yield numbers below the count, which is never changed. `with_offline_cpu` owns the slot's bit.
unsafe impl Cpus for ThreadSlots {
    fn count(&self) -> usize {
        u32_to_usize(self.count)
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        OWN.with(|own| match own.enter(self.count).or_else(|| own.enter_another(self.count)) {
            Some(entered) => f(Some(entered.cpu)),
            None => f(None),
        })
    }

    #[inline]
    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        OWN.with(|own| match own.enter(self.count) {
            Some(entered) => f(Some(entered.cpu)),
            None => f(None),
        })
    }

    /// Runs `f` if no live thread owns the slot.
    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        struct Taken(u32);
        impl Drop for Taken {
            fn drop(&mut self) {
                ROW.give_back(self.0);
            }
        }
        if cpu.0 >= self.count || !ROW.take(cpu.0) {
            return false;
        }
        let _until_done = Taken(cpu.0);
        f();
        true
    }
}

/// A machine for processes: a direct map, threads as CPUs, and a lock that lets others run.
///
/// # Examples
/// ```
/// use std::ptr::NonNull;
/// use heirloom_folio::{DirectMap, Linear, threads::Host};
/// use heirloom_kho::{PAGE_SIZE, PhysAddr};
///
/// let ram = NonNull::from(vec![0_u8; 4 * PAGE_SIZE].leak()).cast();
/// let start = PhysAddr::new(1 << 32);
/// // SAFETY: leaked, and used through the map alone.
/// let host = Host::new(unsafe { Linear::new(ram, start, 4 * PAGE_SIZE) });
/// assert_eq!(host.phys(host.ptr(start)), Some(start));
/// ```
#[derive(Debug)]
pub struct Host<D> {
    map: D,
    slots: ThreadSlots,
}

impl<D: DirectMap> Host<D> {
    /// Makes the machine over `map` with [`ThreadSlots::default`].
    pub fn new(map: D) -> Self {
        Self { map, slots: ThreadSlots::default() }
    }

    /// Returns this machine with other slots. Before anything is built on it: the number of CPUs changes.
    #[must_use]
    pub fn with_slots(self, slots: ThreadSlots) -> Self {
        Self { slots, ..self }
    }

    /// Returns the direct map.
    pub const fn map(&self) -> &D {
        &self.map
    }
}

// SAFETY: every method is the map's, so its guarantees carry over.
unsafe impl<D: DirectMap> DirectMap for Host<D> {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.map.ptr(addr)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.map.phys(ptr)
    }
}

// SAFETY: every method is that of `ThreadSlots`, so its guarantees carry over.
unsafe impl<D> Cpus for Host<D> {
    #[inline]
    fn count(&self) -> usize {
        self.slots.count()
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.slots.with_cpu(f)
    }

    #[inline]
    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.slots.try_with_cpu(f)
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.slots.with_offline_cpu(cpu, f)
    }
}

impl<D: DirectMap + Sync> Machine for Host<D> {
    type Lock = YieldingSpinlock;
    type Mutex = YieldingMutex;

    fn may_wait(&self) -> bool {
        YieldingSpinlock::may_wait()
    }
}

#[cfg(test)]
mod tests;
