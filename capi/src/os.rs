//! The kernel flavour: what the kernel provides, as the machine that heirloom runs on.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int};
use core::ptr::NonNull;

use ::heirloom::folio::Linear;
use ::heirloom::{CpuId, Cpus, DirectMap, NodeId, PhysAddr};

/// Room for a lock of the kernel's: 32 bytes, all zeroes before it is locked for the first time, and at the same place as
/// long as it is used. A lock that needs more is made at the first call, and a pointer to it kept here.
#[repr(C)]
pub struct heirloom_lock {
    words: UnsafeCell<[u64; 4]>,
}

/// Room for a mutex of the kernel's: 64 bytes, as a heirloom_lock.
#[repr(C)]
pub struct heirloom_mutex {
    words: UnsafeCell<[u64; 8]>,
}

unsafe extern "C" {
    /// Stays on this CPU until heirloom_os_unpin(), and returns its number, less than `cpus` of the heirloom_config.
    /// Until then no other call on this CPU gets a number from this function: not a task, not an interrupt handler,
    /// not one nested. Less than 0: not now, and heirloom_os_unpin() is not called for it.
    ///
    /// As a rule: preemption off, and a flag of this CPU's that says whether the number is given out. In every allocation
    /// and free, so this is to be short. In between heirloom takes no lock and calls heirloom_os_node() alone. What
    /// was written on a CPU in between is seen by the next call on it.
    pub fn heirloom_os_pin() -> c_int;

    /// Ends what heirloom_os_pin() began, with the number that it returned.
    pub fn heirloom_os_unpin(cpu: c_int);

    /// Returns the NUMA node that is nearest to a CPU, which never changes: 0 where there is one alone.
    pub fn heirloom_os_node(cpu: u32) -> u16;

    /// Takes a lock, which is held for moments. Where interrupt handlers call heirloom, it keeps them out while it is held.
    pub fn heirloom_os_lock(lock: *mut heirloom_lock);

    /// Takes a lock if it is free. Returns whether it did: 0 or 1.
    pub fn heirloom_os_try_lock(lock: *mut heirloom_lock) -> c_int;

    /// Releases a lock, on the CPU that took it. Locks are released in the reverse order.
    pub fn heirloom_os_unlock(lock: *mut heirloom_lock);

    /// Takes a mutex, which is held for passes over whole tables: its holder and those that wait may sleep. Calls that
    /// take one say so: they are for where one may sleep.
    pub fn heirloom_os_mutex_lock(mutex: *mut heirloom_mutex);

    /// Takes a mutex if it is free. Returns whether it did: 0 or 1.
    pub fn heirloom_os_mutex_try_lock(mutex: *mut heirloom_mutex) -> c_int;

    /// Releases a mutex, by the task that took it.
    pub fn heirloom_os_mutex_unlock(mutex: *mut heirloom_mutex);

    /// Returns whether the caller may wait for a heirloom_lock: 0 where it came in the middle of a call that holds
    /// one and that cannot go on before it returns, in an interrupt that the lock does not keep out. Where the lock keeps
    /// all out that call heirloom: 1.
    pub fn heirloom_os_may_wait() -> c_int;

    /// Returns whether the caller can afford a pass over every cache, which gives memory back where there is no more: 0
    /// in interrupt handlers, where the call is refused for want of memory instead.
    pub fn heirloom_os_may_reclaim() -> c_int;

    /// Is called where `pages` pages in a row were wanted and there are none, in the context of the call that wants them,
    /// with no heirloom_lock held. It may bring memory: heirloom_online(), heirloom_add_range(). Returns whether it did: then
    /// the call is tried once more. 0: it fails for want of memory.
    pub fn heirloom_os_grow(pages: u64) -> c_int;

    /// Is called with a text where heirloom found itself at fault; does not return. The text has `bytes` bytes
    /// and a zero byte behind them.
    pub fn heirloom_os_panic(text: *const c_char, bytes: usize) -> !;
}

/// The kernel, as far as heirloom needs it.
pub(crate) struct Os {
    map: Linear,
    cpus: u32,
}

impl Os {
    pub(crate) const fn new(map: Linear, cpus: u32) -> Self {
        Self { map, cpus }
    }
}

// SAFETY: the map's.
unsafe impl DirectMap for Os {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.map.ptr(addr)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.map.phys(ptr)
    }
}

// SAFETY: the kernel's promises, in `heirloom_os_pin`: a number is given to one call at a time, on its CPU, and what was
// written under it is seen by the next. One that is too high is given back, and not used.
unsafe impl Cpus for Os {
    fn count(&self) -> usize {
        self.cpus as usize
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        // SAFETY: the kernel provides it, for any caller.
        let number = unsafe { heirloom_os_pin() };
        let Ok(cpu) = u32::try_from(number) else { return f(None) };
        let result = f((cpu < self.cpus).then_some(CpuId(cpu)));
        // SAFETY: pinned above, by this number.
        unsafe { heirloom_os_unpin(number) };
        result
    }

    fn node_of(&self, cpu: CpuId) -> NodeId {
        // SAFETY: the kernel provides it, for each of its CPUs.
        NodeId(unsafe { heirloom_os_node(cpu.0) })
    }
}

impl ::heirloom::Machine for Os {
    type Lock = heirloom_lock;
    type Mutex = heirloom_mutex;

    fn may_wait(&self) -> bool {
        // SAFETY: the kernel provides it, for any caller.
        unsafe { heirloom_os_may_wait() != 0 }
    }

    fn may_reclaim(&self) -> bool {
        // SAFETY: as above.
        unsafe { heirloom_os_may_reclaim() != 0 }
    }

    fn grow(&self, frames: u64) -> bool {
        // SAFETY: as above.
        unsafe { heirloom_os_grow(frames) != 0 }
    }
}

// SAFETY: the words are the kernel's functions' alone to touch, which are made for it.
unsafe impl Sync for heirloom_lock {}
// SAFETY: as above.
unsafe impl Sync for heirloom_mutex {}

// SAFETY: the kernel's promise: from `heirloom_os_lock`, or the other where it returned 1, until `heirloom_os_unlock`
// nothing else gets the lock.
unsafe impl lock_api::RawMutex for heirloom_lock {
    const INIT: Self = Self { words: UnsafeCell::new([0; 4]) };
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        // SAFETY: a lock, which stays where it is as long as it is used.
        unsafe { heirloom_os_lock(core::ptr::from_ref(self).cast_mut()) };
    }

    fn try_lock(&self) -> bool {
        // SAFETY: as above.
        unsafe { heirloom_os_try_lock(core::ptr::from_ref(self).cast_mut()) != 0 }
    }

    unsafe fn unlock(&self) {
        // SAFETY: as above, and held (contract).
        unsafe { heirloom_os_unlock(core::ptr::from_ref(self).cast_mut()) };
    }
}

// SAFETY: as for `heirloom_lock`.
unsafe impl lock_api::RawMutex for heirloom_mutex {
    const INIT: Self = Self { words: UnsafeCell::new([0; 8]) };
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        // SAFETY: a mutex, which stays where it is as long as it is used.
        unsafe { heirloom_os_mutex_lock(core::ptr::from_ref(self).cast_mut()) };
    }

    fn try_lock(&self) -> bool {
        // SAFETY: as above.
        unsafe { heirloom_os_mutex_try_lock(core::ptr::from_ref(self).cast_mut()) != 0 }
    }

    unsafe fn unlock(&self) {
        // SAFETY: as above, and held (contract).
        unsafe { heirloom_os_mutex_unlock(core::ptr::from_ref(self).cast_mut()) };
    }
}
