//! Atomics that lie in memory as core's do, and ask a watcher what becomes of each operation.
//!
//! ```text
//!   library ── load, store, swap, … ──> AtomicU64 ── Op ──> Watcher
//!                                          │                  │ None: in memory, now
//!                                          v                  │ Some: what the watcher says it read
//!                                     the word in memory      v
//!                                     (zeroed pages serve)   a scheduler, or a model of memory
//! ```
//!
//! A model checker's own atomics are larger than words and cannot lie in zeroed pages, where most of
//! this library's words are. These can, so that a checker sees the code as it ships: one that lets
//! threads take turns comes between any two operations, and one that models memory keeps a word of
//! its own for each address.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic;
pub use core::sync::atomic::Ordering;

/// What is done to a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<V> {
    /// Read.
    Load,
    /// Written.
    Store(V),
    /// Written, and what was there is returned.
    Swap(V),
    /// Added to, wrapping around.
    Add(V),
    /// Subtracted from, wrapping around.
    Sub(V),
    /// Some bits cleared.
    And(V),
    /// Some bits set.
    Or(V),
    /// Changed to the second if it is the first.
    Exchange(V, V),
}

/// With which orderings: the second where an exchange finds another value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Orders(pub Ordering, pub Ordering);

/// Is asked before each atomic operation of a thread.
pub trait Watcher {
    /// Returns an operation on the word of `bytes` bytes at `at`, which holds `now` as far as
    /// memory knows.
    ///
    /// `None`: it is done in memory. Otherwise what it reads, an `Err` for an exchange that failed.
    fn word(
        &self,
        at: *const (),
        bytes: usize,
        now: u64,
        op: Op<u64>,
        orders: Orders,
    ) -> Option<Result<u64, u64>>;

    /// Does what [`Watcher::word`] does, for a pointer. Unless it is watched too, it is done in memory.
    fn pointer(
        &self,
        _at: *const (),
        _now: *mut (),
        _op: Op<*mut ()>,
        _orders: Orders,
    ) -> Option<Result<*mut (), *mut ()>> {
        None
    }

    /// Plain stores wrote `bytes` bytes at `at`. Of interest to a watcher that keeps memory of its own.
    fn written(&self, _at: *const (), _bytes: usize) {}
}

std::thread_local! {
    static WATCHER: Cell<Option<&'static dyn Watcher>> = const { Cell::new(None) };
}

/// From here on `watcher` is asked before each operation of this thread (and of all that a checker
/// runs on it).
pub fn watch(watcher: Option<&'static dyn Watcher>) {
    WATCHER.set(watcher);
}

/// Says that plain stores wrote these bytes, which only atomics touch from here on: a watcher does
/// not see them otherwise.
pub fn written(at: NonNull<u8>, bytes: usize) {
    if let Some(watcher) = WATCHER.get() {
        watcher.written(at.as_ptr().cast(), bytes);
    }
}

macro_rules! integers {
    ($($name:ident: $int:ty,)*) => { $(
        /// As in [`core::sync::atomic`], and watched.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        impl $name {
            /// Does what core's does.
            pub const fn new(value: $int) -> Self {
                Self(atomic::$name::new(value))
            }

            fn asked(
                &self,
                op: Op<u64>,
                first: Ordering,
                second: Ordering,
            ) -> Option<Result<$int, $int>> {
                let watcher = WATCHER.get()?;
                let now = self.0.load(Ordering::Relaxed) as u64;
                let at = core::ptr::from_ref(self).cast();
                let said = watcher.word(at, size_of::<$int>(), now, op, Orders(first, second))?;
                Some(said.map(|value| value as $int).map_err(|value| value as $int))
            }

            fn one(&self, op: Op<u64>, order: Ordering) -> Option<$int> {
                self.asked(op, order, Ordering::Relaxed).map(|said| said.unwrap_or_else(|v| v))
            }

            /// Does what core's does.
            pub fn load(&self, order: Ordering) -> $int {
                self.one(Op::Load, order).unwrap_or_else(|| self.0.load(order))
            }

            /// Does what core's does.
            pub fn store(&self, value: $int, order: Ordering) {
                if self.one(Op::Store(value as u64), order).is_none() {
                    self.0.store(value, order);
                }
            }

            /// Does what core's does.
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                self.one(Op::Swap(value as u64), order)
                    .unwrap_or_else(|| self.0.swap(value, order))
            }

            /// Does what core's does.
            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                self.one(Op::Add(value as u64), order)
                    .unwrap_or_else(|| self.0.fetch_add(value, order))
            }

            /// Does what core's does.
            pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                self.one(Op::Sub(value as u64), order)
                    .unwrap_or_else(|| self.0.fetch_sub(value, order))
            }

            /// Does what core's does.
            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                self.one(Op::And(value as u64), order)
                    .unwrap_or_else(|| self.0.fetch_and(value, order))
            }

            /// Does what core's does.
            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                self.one(Op::Or(value as u64), order)
                    .unwrap_or_else(|| self.0.fetch_or(value, order))
            }

            /// Does what core's does.
            ///
            /// # Errors
            /// What was there, if that is not `from`.
            pub fn compare_exchange(
                &self,
                from: $int,
                to: $int,
                set: Ordering,
                fetch: Ordering,
            ) -> Result<$int, $int> {
                self.asked(Op::Exchange(from as u64, to as u64), set, fetch)
                    .unwrap_or_else(|| self.0.compare_exchange(from, to, set, fetch))
            }

            /// Does what core's does, but that it never fails without a reason.
            ///
            /// # Errors
            /// What was there, if that is not `from`.
            pub fn compare_exchange_weak(
                &self,
                from: $int,
                to: $int,
                set: Ordering,
                fetch: Ordering,
            ) -> Result<$int, $int> {
                self.compare_exchange(from, to, set, fetch)
            }

            /// Does what core's does.
            ///
            /// # Errors
            /// What was there when `change` gave nothing.
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut change: impl FnMut($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                let mut now = self.load(fetch);
                while let Some(next) = change(now) {
                    match self.compare_exchange(now, next, set, fetch) {
                        Ok(before) => return Ok(before),
                        Err(other) => now = other,
                    }
                }
                Err(now)
            }

            /// Does what core's does.
            pub fn get_mut(&mut self) -> &mut $int {
                self.0.get_mut()
            }

            /// Does what core's does.
            pub const fn as_ptr(&self) -> *mut $int {
                self.0.as_ptr()
            }

            /// Does what core's does.
            pub const fn into_inner(self) -> $int {
                self.0.into_inner()
            }
        }
    )* };
}

integers! {
    AtomicU8: u8,
    AtomicU32: u32,
    AtomicU64: u64,
    AtomicUsize: usize,
}

/// As in [`core::sync::atomic`], and watched.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct AtomicBool(AtomicU8);

impl AtomicBool {
    /// Does what core's does.
    pub const fn new(value: bool) -> Self {
        Self(AtomicU8::new(value as u8))
    }

    /// Does what core's does.
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order) != 0
    }

    /// Does what core's does.
    pub fn store(&self, value: bool, order: Ordering) {
        self.0.store(value.into(), order);
    }

    /// Does what core's does.
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value.into(), order) != 0
    }
}

/// As in [`core::sync::atomic`], and watched.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtomicPtr<T>(atomic::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    /// Does what core's does.
    pub const fn new(value: *mut T) -> Self {
        Self(atomic::AtomicPtr::new(value))
    }

    fn asked(
        &self,
        op: Op<*mut ()>,
        first: Ordering,
        second: Ordering,
    ) -> Option<Result<*mut T, *mut T>> {
        let watcher = WATCHER.get()?;
        let now = self.0.load(Ordering::Relaxed).cast();
        let at = core::ptr::from_ref(self).cast();
        let said = watcher.pointer(at, now, op, Orders(first, second))?;
        Some(said.map(<*mut ()>::cast).map_err(<*mut ()>::cast))
    }

    fn one(&self, op: Op<*mut ()>, order: Ordering) -> Option<*mut T> {
        self.asked(op, order, Ordering::Relaxed).map(|said| said.unwrap_or_else(|v| v))
    }

    /// Does what core's does.
    pub fn load(&self, order: Ordering) -> *mut T {
        self.one(Op::Load, order).unwrap_or_else(|| self.0.load(order))
    }

    /// Does what core's does.
    pub fn store(&self, value: *mut T, order: Ordering) {
        if self.one(Op::Store(value.cast()), order).is_none() {
            self.0.store(value, order);
        }
    }

    /// Does what core's does.
    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        self.one(Op::Swap(value.cast()), order).unwrap_or_else(|| self.0.swap(value, order))
    }

    /// Does what core's does.
    ///
    /// # Errors
    /// What was there, if that is not `from`.
    pub fn compare_exchange(
        &self,
        from: *mut T,
        to: *mut T,
        set: Ordering,
        fetch: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.asked(Op::Exchange(from.cast(), to.cast()), set, fetch)
            .unwrap_or_else(|| self.0.compare_exchange(from, to, set, fetch))
    }
}
