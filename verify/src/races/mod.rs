//! Threads in every order, or in very many: the library as it ships, under two checkers.
//!
//! ```text
//! ground   the machine: memory at the same addresses each time, CPUs that are threads, a lock
//! all      loom: every interleaving up to a bound, and every value that a load may find
//! some     shuttle: whole operations of several threads in random schedules
//! things   what a thread of a random program owns, and does
//! ```
//!
//! Built with `--cfg heirloom_model`: the library's atomics then ask a watcher before each
//! operation (`heirloom_folio::sync`). Nothing else in it changes.

mod all;
mod ground;
mod some;
mod things;

use std::cell::Cell;

use heirloom::folio::sync::Watcher;

pub use all::{All, on};
pub use ground::{Ground, Turn, run};
pub use some::{Dice, Program, programs, schedules};
pub use things::{Kernel, PLAIN, THINGS, Thing, Worker, is_full};

/// What the machine asks of whoever runs the threads.
trait Checker: Watcher + 'static {
    /// The number of the running thread.
    fn thread(&self) -> usize;
    /// The running thread cannot go on before another does something.
    fn pause(&self);
    /// Takes a lock of the checker's own in place of the one at this address, if it has such.
    fn lock(&self, _: usize) -> bool {
        false
    }
    /// Gives it back.
    fn unlock(&self, _: usize) -> bool {
        false
    }
}

std::thread_local! {
    static CHECKER: Cell<Option<&'static dyn Checker>> = const { Cell::new(None) };
}

/// From here on threads run under `checker`.
fn under<C: Checker>(checker: Option<&'static C>) {
    CHECKER.set(checker.map(|checker| checker as &dyn Checker));
    heirloom::folio::sync::watch(checker.map(|checker| checker as &dyn Watcher));
}
