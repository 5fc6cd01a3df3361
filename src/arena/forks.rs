//! What a process does undivided: a forked child finds it done, or not begun.
//!
//! The C library's `fork` copies the process as it is at that moment, and of its threads the calling one alone. What another
//! thread is in the middle of is never finished in the child: a lock that it holds stays locked. So each `fork` waits for what
//! is done under the gate, and holds it shut while the process is copied. A child that is made without the C library has
//! what it has.
//!
//! Behind the gate is the descriptor by whose end a process tells that this one has ended. A child has no copy of it: it would
//! keep it open for as long as it lives.

use core::cell::Cell;
use std::os::fd::OwnedFd;

use heirloom_folio::threads::YieldingMutex;
use lock_api::RawMutex as _;

/// A descriptor that forked children have no copy of, and the process that opened it.
pub(super) type Kept = Option<(i32, OwnedFd)>;

/// (No lock that threads count: a handler of another library's, which allocates while the process is copied, is not
/// refused for it.)
static GATE: lock_api::Mutex<YieldingMutex, Kept> = lock_api::Mutex::new(None);

/// Runs `f` while the C library copies the process for no `fork`. The thread takes no signals meanwhile: a handler may
/// fork, and would wait for this thread.
pub(super) fn undivided<R>(f: impl FnOnce(&mut Kept) -> R) -> R {
    without_signals(|| f(&mut GATE.lock()))
}

/// Calls `f` while this thread takes no signals, nor does what it starts.
fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: all zeroes are a set of signals, and the calls write to these alone.
    let before = unsafe {
        let (mut all, mut before) = core::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    };
    let result = f();
    // SAFETY: reads the set alone.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, core::ptr::null_mut()) };
    result
}

std::thread_local! {
    /// How many times the handlers that come before this fork have run, less those behind it. They can be registered
    /// more than once: each registration calls all of them.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Shuts the gate before a fork. Returns whether it was open: whether this is the first of the handlers that were registered
/// for it.
pub(super) fn shut() -> bool {
    let depth = DEPTH.get();
    DEPTH.set(depth + 1);
    if depth == 0 {
        // SAFETY: unlocked by `open`, on this thread or the child's copy of it.
        unsafe { GATE.raw() }.lock();
    }
    depth == 0
}

/// Returns whether this is the last of the handlers behind a fork: then the gate is to be [opened](open).
pub(super) fn is_last() -> bool {
    let depth = DEPTH.get().saturating_sub(1);
    DEPTH.set(depth);
    depth == 0
}

/// Opens the gate again, behind a fork; in the child without what it has no part in.
///
/// # Safety
/// The gate is shut by `shut`, on this thread or on the one that it is the copy of.
pub(super) unsafe fn open(in_child: bool) {
    if in_child {
        // SAFETY: shut (contract), so nothing else has it.
        drop(unsafe { &mut *GATE.data_ptr() }.take());
    }
    // SAFETY: locked by `shut` (contract).
    unsafe { GATE.raw().unlock() };
}
