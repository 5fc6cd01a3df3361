//! A model checker that runs the threads of a program in turns on one thread.

use std::cell::Cell;

use heirloom::kho::sync::{self, Watcher};

/// What a machine asks of what runs the threads.
pub trait Checker: Watcher + 'static {
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

/// Returns the checker under which this thread runs, if there is one.
pub(crate) fn current() -> Option<&'static dyn Checker> {
    CHECKER.get()
}

/// From here on threads run under `checker`.
pub fn under<C: Checker>(checker: Option<&'static C>) {
    CHECKER.set(checker.map(|checker| checker as &dyn Checker));
    sync::watch(checker.map(|checker| checker as &dyn Watcher));
}
