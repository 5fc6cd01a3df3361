//! Room for what a kernel allocates before there is memory.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// `N` bytes that a [`Global`](crate::Global) allocates from until it has memory: for the message that says what is wrong with a
/// handover, a command line, a list of modules. What is freed there is not had again.
///
/// Where the kernel's own image lies, this lies: never in frames that heirloom hands out.
#[repr(C, align(64))]
pub struct EarlyRoom<const N: usize> {
    bytes: UnsafeCell<[MaybeUninit<u8>; N]>,
    used: AtomicUsize,
}

// SAFETY: the bytes are reached through pointers alone, and each is handed out once: see `EarlyBytes::take`.
unsafe impl<const N: usize> Sync for EarlyRoom<N> {}

impl<const N: usize> EarlyRoom<N> {
    /// Returns a room of which nothing is used.
    pub const fn new() -> Self {
        Self { bytes: UnsafeCell::new([MaybeUninit::uninit(); N]), used: AtomicUsize::new(0) }
    }

    /// Returns how many bytes are used, of `N`.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(crate) const fn bytes(&'static self) -> EarlyBytes {
        EarlyBytes { start: self.bytes.get().cast(), length: N, used: &self.used }
    }
}

impl<const N: usize> Default for EarlyRoom<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Debug for EarlyRoom<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyRoom").field("used", &self.used()).finish_non_exhaustive()
    }
}

/// A room of whatever length.
#[derive(Clone, Copy)]
pub(crate) struct EarlyBytes {
    start: *mut u8,
    length: usize,
    used: &'static AtomicUsize,
}

// SAFETY: the bytes belong to the program, and to no thread: each is handed out once, by an atomic number.
unsafe impl Send for EarlyBytes {}
// SAFETY: as for `Send`; what is shared is read, but for that number.
unsafe impl Sync for EarlyBytes {}

impl EarlyBytes {
    /// Takes memory that nothing had before, if there is as much left.
    pub(crate) fn take(self, layout: Layout) -> Option<NonNull<u8>> {
        let mut used = self.used.load(Relaxed);
        loop {
            let free = self.start.addr().checked_add(used)?;
            let padding = free.checked_next_multiple_of(layout.align())? - free;
            let start = used.checked_add(padding)?;
            let end = start.checked_add(layout.size()).filter(|end| *end <= self.length)?;
            // Relaxed: the bytes were never written, so there is nothing to be seen of them.
            match self.used.compare_exchange_weak(used, end, Relaxed, Relaxed) {
                Ok(_) => return NonNull::new(self.start.wrapping_add(start)),
                Err(found) => used = found,
            }
        }
    }

    /// Returns whether a pointer leads into the room.
    pub(crate) fn contains(self, ptr: *mut u8) -> bool {
        ptr.addr().wrapping_sub(self.start.addr()) < self.length
    }
}
