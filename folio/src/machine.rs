//! What the machine provides: a direct map of physical memory, the current CPU, and a lock.
//!
//! These traits are all that heirloom asks of its surroundings, so that the same code runs in a
//! kernel, in a process and under a model checker.

use core::ptr::NonNull;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{u32_to_usize, u64_to_usize, usize_to_u32, usize_to_u64};

/// Index of a CPU, or of whatever else runs one thing at a time: a thread's slot, say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u32);

impl CpuId {
    /// Returns the CPU's number as an index.
    pub const fn index(self) -> usize {
        u32_to_usize(self.0)
    }

    /// Returns the first `count` CPUs: all, of as many.
    pub fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..usize_to_u32(count)).map(Self)
    }
}

/// A NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u16);

/// Where physical memory is mapped.
///
/// # Safety
/// For every physical address `a` in memory that the implementor's user hands to heirloom:
/// - [`ptr`](DirectMap::ptr)`(a)` is valid for reads and writes up to the end of the contiguous
///   physical memory that holds `a`, for as long as the map exists, and carries provenance over
///   all of it;
/// - [`phys`](DirectMap::phys) of that pointer is `Some(a)`;
/// - the map is linear within a contiguous stretch: `ptr(a + n) == ptr(a) + n`.
pub unsafe trait DirectMap {
    /// Returns the pointer through which `addr` is reached. For an address outside mapped memory the
    /// result may be any pointer, which must not be followed.
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8>;

    /// Returns the physical address that `ptr` reaches, or `None` if it lies outside the map.
    ///
    /// Any pointer may be asked about; it is not followed.
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr>;
}

/// Which CPU this is, and how to stay on it.
///
/// # Safety
/// - [`with_cpu`](Cpus::with_cpu) and [`try_with_cpu`](Cpus::try_with_cpu) run their closure exactly once,
///   on the calling thread. While it runs with `Some(cpu)`, no other closure of the same instance
///   runs with the same `cpu`: not on another thread, not in an interrupt handler, not nested
///   within the first.
/// - What one closure wrote under a `cpu` is visible to the next one under the same `cpu`
///   (synchronises-with, as when a scheduler moves a task between processors).
/// - `cpu.index() < self.count()`, and `count` never changes.
/// - [`with_offline_cpu`](Cpus::with_offline_cpu), where it runs its closure, gives the same exclusion for that `cpu`.
pub unsafe trait Cpus {
    /// Returns how many CPUs there can be: one more than the highest index.
    fn count(&self) -> usize;

    /// Runs `f` on a CPU that nothing else uses meanwhile. `None`: no CPU's state can be had now
    /// (more threads than slots, or called from an interrupt that came in the middle); the
    /// caller then does without per-CPU state.
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R;

    /// Runs `f` as [`with_cpu`](Cpus::with_cpu) does where that is a matter of a few instructions, with `None` also where it is not (a
    /// thread's first call, say): for paths that are to stay short, where callers turn to
    /// [`with_cpu`](Cpus::with_cpu) then.
    #[inline]
    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.with_cpu(f)
    }

    /// Returns the node that is nearest to `cpu`. It never changes.
    fn node_of(&self, cpu: CpuId) -> NodeId {
        let _ = cpu;
        NodeId(0)
    }

    /// Runs `f` as if on `cpu` if nothing runs there now and nothing can until `f` is done
    /// (the slot of a thread that has ended, a processor that is offline).
    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        let _ = (cpu, f);
        false
    }
}

/// All that heirloom needs from a machine.
pub trait Machine: DirectMap + Cpus + Sync {
    /// The lock for what is short and rare: exchanging magazines, taking a slab from a list. Where
    /// interrupt handlers allocate or free, it keeps interrupts out while it is held.
    /// `spin::Mutex<()>` serves where nothing better exists.
    type Lock: lock_api::RawMutex;

    /// The lock for passes over whole tables: adopting, finishing, publishing, sealing, adding
    /// memory. Its holder and those that wait for it may sleep, so no call that takes it is one for
    /// interrupt handlers. A kernel gives its mutex; `spin::Mutex<()>` serves here too.
    type Mutex: lock_api::RawMutex;

    /// Returns whether the caller may wait for a [`Machine::Lock`]. `false` where it came in the middle of a
    /// call that holds one, which cannot go on before the caller returns: in a signal handler, or
    /// in an interrupt that the lock does not keep out. Calls that may then have to wait are
    /// refused. Asked on slow paths alone.
    fn may_wait(&self) -> bool {
        true
    }

    /// Returns whether the caller can afford a pass over every cache, which gives memory back when there
    /// is no more. `false` in interrupt handlers, where that takes too long: the call is then refused for
    /// want of memory. Asked when memory has run out.
    fn may_reclaim(&self) -> bool {
        self.may_wait()
    }

    /// Finds more memory, where `frames` frames in a row were wanted and none could be given back.
    /// Returns whether there is any now: the call that wants them is then tried once more.
    ///
    /// A machine whose memory can grow brings frames [online](crate::Memory::online) or adds a range, from
    /// within this very call, which is made with no [`Machine::Lock`] held, on no pinned CPU, in the context
    /// of the caller that allocates or preserves: where that must not sleep, the machine must not, and may
    /// have to return `false`. It must not allocate from the instance that asks.
    fn grow(&self, frames: u64) -> bool {
        let _ = frames;
        false
    }
}

// SAFETY: every method is the referent's, so its guarantees carry over.
unsafe impl<T: DirectMap + ?Sized> DirectMap for &T {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        (**self).ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        (**self).phys(ptr)
    }
}

// SAFETY: every method is the referent's, so its guarantees carry over.
unsafe impl<T: Cpus> Cpus for &T {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        (**self).with_cpu(f)
    }

    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        (**self).try_with_cpu(f)
    }

    fn node_of(&self, cpu: CpuId) -> NodeId {
        (**self).node_of(cpu)
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        (**self).with_offline_cpu(cpu, f)
    }
}

impl<T: Machine> Machine for &T {
    type Lock = T::Lock;
    type Mutex = T::Mutex;

    fn may_wait(&self) -> bool {
        (**self).may_wait()
    }

    fn may_reclaim(&self) -> bool {
        (**self).may_reclaim()
    }

    fn grow(&self, frames: u64) -> bool {
        (**self).grow(frames)
    }
}

/// A direct map with one offset: `length` bytes of physical memory from `start`, seen at `base`.
///
/// Holes in it are fine as long as nothing in them is handed to heirloom.
#[derive(Debug)]
pub struct Linear {
    base: NonNull<u8>,
    start: PhysAddr,
    length: usize,
}

impl Linear {
    /// Makes a map in which physical `start` is seen at `base`.
    ///
    /// # Safety
    /// - `base` carries provenance over `length` bytes and stays valid for reads and writes,
    ///   wherever memory is handed to heirloom, as long as this value or anything made from it
    ///   lives;
    /// - nothing else in the program reads or writes that memory meanwhile, but through what
    ///   heirloom returns;
    /// - `start + length` does not overflow.
    pub const unsafe fn new(base: NonNull<u8>, start: PhysAddr, length: usize) -> Self {
        Self { base, start, length }
    }

    /// Returns the first physical address of the map.
    pub const fn start(&self) -> PhysAddr {
        self.start
    }

    /// Returns how many bytes lie from the first address to the end of the map.
    pub const fn length(&self) -> usize {
        self.length
    }
}

// SAFETY: the map is plain arithmetic on a base, and `Linear::new` was promised that it is valid; the
// memory behind it is shared only as heirloom's own types allow.
unsafe impl Send for Linear {}
// SAFETY: as for `Send`: the value itself is immutable.
unsafe impl Sync for Linear {}

// SAFETY: `new` promises validity and provenance over the whole map; `ptr` and `phys` are one
// offset and its inverse, so the map is linear and they agree.
unsafe impl DirectMap for Linear {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        let offset = addr.get().wrapping_sub(self.start.get());
        let offset = u64_to_usize(offset);
        // `wrapping_add`: an address outside the map gives a pointer that no caller may follow.
        let ptr = self.base.as_ptr().wrapping_add(offset);
        NonNull::new(ptr).unwrap_or(self.base)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        let offset = ptr.addr().get().wrapping_sub(self.base.addr().get());
        (offset < self.length).then(|| PhysAddr::new(self.start.get() + usize_to_u64(offset)))
    }
}

/// A machine with one CPU, and a [`Linear`] map or another: early boot, unikernels, tests.
///
/// It is `Sync` because every call that finds the CPU taken is told so (`None`) and does without
/// per-CPU state; correct from any number of threads, fast from one.
#[derive(Debug)]
pub struct OneCpu<D = Linear> {
    map: D,
    busy: core::sync::atomic::AtomicBool,
}

impl<D> OneCpu<D> {
    /// Makes the machine over `map`.
    pub const fn new(map: D) -> Self {
        Self { map, busy: core::sync::atomic::AtomicBool::new(false) }
    }
}

// SAFETY: delegates to the map.
unsafe impl<D: DirectMap> DirectMap for OneCpu<D> {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.map.ptr(addr)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.map.phys(ptr)
    }
}

// SAFETY: `busy` is taken with Acquire before a closure runs with `Some` and given back with
// Release after it, so closures under CPU 0 exclude each other and see each other's writes.
unsafe impl<D> Cpus for OneCpu<D> {
    fn count(&self) -> usize {
        1
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        use core::sync::atomic::AtomicBool;
        use core::sync::atomic::Ordering::{Acquire, Release};
        /// Leaves the CPU, by a panic too.
        struct Left<'b>(&'b AtomicBool);
        impl Drop for Left<'_> {
            #[inline]
            fn drop(&mut self) {
                self.0.store(false, Release);
            }
        }
        // Acquire pairs with the Release above, in whichever call had the CPU before.
        if self.busy.swap(true, Acquire) {
            return f(None);
        }
        let _until_done = Left(&self.busy);
        f(Some(CpuId(0)))
    }
}

impl<D: DirectMap + Sync> Machine for OneCpu<D> {
    type Lock = spin::Mutex<()>;
    type Mutex = spin::Mutex<()>;
}
