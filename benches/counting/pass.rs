//! What the sanitizer's pass calls, for a program of one thread: each access is done as a plain
//! one, and a read-modify-write is counted.

use std::cell::Cell;

#[path = "../../verify/src/crash/step/pass/atomics.rs"]
mod atomics;

std::thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How many read-modify-writes this thread has done.
pub(crate) fn count() -> u64 {
    COUNT.get()
}

/// Before each read-modify-write.
fn modifies() {
    COUNT.set(COUNT.get() + 1);
}
