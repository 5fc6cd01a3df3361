//! Every store into the shared memory, counted; and the end of the process before the n-th.
//!
//! The compiler's thread sanitizer pass makes a call of every store and every atomic operation,
//! and of every `memset` and `memcpy`; forced on all functions, it does so on a stable compiler,
//! behind the optimiser, so that what runs is what is shipped. A program built with it and `--cfg
//! heirloom_step` answers those calls itself (`pass`): a store whose address lies in the arena is
//! counted, and the one that is asked for is not made, as the process is killed before it. A
//! `memset` or a copy is as many stores as it writes words; a long one, between its first two and its
//! last two lines of the cache, as many as it writes lines, as the machine's own instructions write
//! 16 to 64 bytes at once.
//!
//! ```text
//! RUSTFLAGS="--cfg heirloom_step -C passes=forceattrs -C llvm-args=-force-attribute=sanitize_thread
//!     -C passes=tsan -C llvm-args=-tsan-instrument-func-entry-exit=0"
//!     CARGO_PROFILE_RELEASE_LTO=off cargo build --release --target x86_64-unknown-linux-gnu
//! ```
//!
//! Stores become visible in the order in which this counts them, the program's own, on a machine
//! that keeps it (x86). Elsewhere what must come first is what the Release stores and operations
//! say; that those are enough is the model checker's to show, not this one's.

#[cfg(heirloom_step)]
mod pass;

use heirloom_testkit::TestMachine;
#[cfg(heirloom_step)]
pub(crate) use pass::Frame;

#[cfg(heirloom_step)]
use super::arena;

/// Whether this program was built to count stores.
pub(crate) const COUNTING: bool = cfg!(heirloom_step);

/// Begins to count the stores into `machine`, as this process sees it, and ends the process before
/// the store number `stop`. In a program of one thread.
pub(crate) fn count(machine: &TestMachine, stop: u64) {
    #[cfg(heirloom_step)]
    {
        let (start, bytes) = arena::window(machine);
        pass::begin(start.addr(), bytes, stop);
    }
    #[cfg(not(heirloom_step))]
    let _ = (machine, stop);
}

/// The same, but of the stores alone that a successor can see: those to what is preserved when they are
/// made, and to the tree itself. What lies elsewhere is free memory to a successor, whatever is in it: that
/// the kernel ends before a store there or before the next one is the same.
pub(crate) fn count_visible(machine: &TestMachine, stop: u64) {
    #[cfg(heirloom_step)]
    pass::watch(machine);
    count(machine, stop);
}

/// How many stores were counted.
pub(crate) fn counted() -> u64 {
    #[cfg(heirloom_step)]
    return pass::counted();
    #[cfg(not(heirloom_step))]
    return 0;
}

/// As long as it lives nothing is counted: what an owner writes into his own memory is no step of
/// the library's.
pub(crate) struct Pause;

impl Pause {
    pub(crate) fn new() -> Self {
        #[cfg(heirloom_step)]
        pass::pause(1);
        Self
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        #[cfg(heirloom_step)]
        pass::pause(-1);
    }
}
