//! What a test does at each instant at which a kernel may end.

use std::cell::Cell;

std::thread_local! {
    static LINES: Cell<u64> = const { Cell::new(0) };
}

/// Notes that a line of a bucket is looked at.
pub(crate) fn line() {
    LINES.set(LINES.get() + 1);
}

/// Returns how many lines of buckets this thread has looked at.
pub(crate) fn lines() -> u64 {
    LINES.get()
}

/// A closure, and how it is called.
type Watcher = (*const (), unsafe fn(*const ()));

std::thread_local! {
    static WATCHER: Cell<Option<Watcher>> = const { Cell::new(None) };
}

/// Calls what [`during`] was told, if it runs.
pub(crate) fn point() {
    if let Some(watcher) = WATCHER.take() {
        // SAFETY: `during` keeps the closure borrowed until it takes it back, on this thread.
        unsafe { watcher.1(watcher.0) };
        WATCHER.set(Some(watcher));
    }
}

/// Calls `watcher` at each instant of `f` at which a kernel may end. Within itself another may watch, but not this one.
pub(crate) fn during<F: Fn(), R>(watcher: &F, f: impl FnOnce() -> R) -> R {
    let before = WATCHER.replace(Some((core::ptr::from_ref(watcher).cast(), call::<F>)));
    let done = f();
    WATCHER.set(before);
    done
}

std::thread_local! {
    static FOLLOWER: Cell<Option<Watcher>> = const { Cell::new(None) };
}

/// Calls what [`once_followed`] was told, if it runs and was not called before.
pub(crate) fn followed() {
    if let Some(follower) = FOLLOWER.take() {
        // SAFETY: `once_followed` keeps the closure borrowed until it takes it back, on this thread.
        unsafe { follower.1(follower.0) };
    }
}

/// Calls `next` in the middle of `f`: once, behind the first look at whether what a link leads to is in use.
pub(crate) fn once_followed<F: Fn(), R>(next: &F, f: impl FnOnce() -> R) -> R {
    FOLLOWER.set(Some((core::ptr::from_ref(next).cast(), call::<F>)));
    let done = f();
    assert!(FOLLOWER.take().is_none(), "no link was followed");
    done
}

/// Calls the closure of a watcher.
///
/// # Safety
/// It is one of this type.
unsafe fn call<F: Fn()>(watcher: *const ()) {
    // SAFETY: the caller's promise.
    unsafe { (*watcher.cast::<F>())() };
}
