//! A lock for threads that may be preempted while they hold it.
//!
//! It knows which thread holds it, so that a call that could only wait for itself is told apart
//! from one that waits for another thread: a signal handler that comes while its thread holds a
//! lock cannot be waited for by the lock's holder, which goes on when the handler returns.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicUsize, compiler_fence};

use crossbeam_utils::Backoff;

/// Stands for the holder of a lock that has none. No address is zero.
const NONE: usize = 0;

std::thread_local! {
    /// How many [`YieldingSpinlock`] locks the thread holds or is about to take. The address names the
    /// thread.
    ///
    /// No destructor, so that it can be asked until the very end. An atomic, because a handler may
    /// come between any two instructions; the thread alone changes it.
    static HELD: AtomicUsize = const { AtomicUsize::new(0) };
}

/// A lock that spins for a moment and then gives its processor to others until it is free.
///
/// It neither parks nor queues: waiting lists need memory, which an allocator's lock cannot ask
/// for. It is therefore not fair, and meant for critical sections of microseconds.
///
/// A thread that locks it while it holds it would wait for itself: the process says so and aborts.
///
/// # Examples
/// ```
/// use heirloom_folio::threads::YieldingSpinlock;
///
/// let sum = lock_api::Mutex::<YieldingSpinlock, u32>::new(0);
/// assert!(YieldingSpinlock::may_wait());
/// {
///     let mut sum = sum.lock();
///     *sum += 1;
///     assert!(!YieldingSpinlock::may_wait());
/// }
/// assert!(YieldingSpinlock::may_wait());
/// ```
#[derive(Debug)]
pub struct YieldingSpinlock(Turns<true>);

/// A lock as [`YieldingSpinlock`] is, for passes over whole tables ([`Machine::Mutex`](crate::Machine::Mutex)).
/// While a thread holds it, it may wait for a [`YieldingSpinlock`], and not the other way round.
#[derive(Debug)]
pub struct YieldingMutex(Turns<false>);

/// Which thread's turn it is. `COUNTED`: the thread knows that it holds the lock.
#[derive(Debug)]
struct Turns<const COUNTED: bool> {
    /// Names the thread that holds the lock, or [`NONE`].
    holder: AtomicUsize,
}

impl<const COUNTED: bool> Turns<COUNTED> {
    const fn new() -> Self {
        Self { holder: AtomicUsize::new(NONE) }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        HELD.with(|held| {
            if COUNTED {
                // Counted first: a handler that finds the lock held must find it counted.
                held.store(held.load(Relaxed) + 1, Relaxed);
                // Program order is all that a handler on this thread needs.
                compiler_fence(Release);
            }
            // Acquire pairs with the Release in `unlock`.
            let taken = self.holder.compare_exchange(NONE, this(held), Acquire, Relaxed).is_ok();
            if COUNTED && !taken {
                held.store(held.load(Relaxed) - 1, Relaxed);
            }
            taken
        })
    }

    #[inline]
    fn unlock(&self) {
        // Release pairs with the Acquire in `try_lock`.
        self.holder.store(NONE, Release);
        if COUNTED {
            // As in `try_lock`: counted until it is free.
            compiler_fence(Release);
            HELD.with(|held| held.store(held.load(Relaxed) - 1, Relaxed));
        }
    }

    #[cold]
    fn wait(&self) {
        let me = HELD.with(this);
        let backoff = Backoff::new();
        loop {
            match self.holder.load(Relaxed) {
                NONE if self.try_lock() => return,
                holder if holder == me => waits_for_itself(),
                _ if backoff.is_completed() => std::thread::yield_now(),
                _ => backoff.snooze(),
            }
        }
    }
}

/// Returns what names the thread that this count belongs to.
fn this(held: &AtomicUsize) -> usize {
    core::ptr::from_ref(held).addr()
}

macro_rules! raw_mutex {
    ($lock:ident) => {
        // SAFETY: only one `try_lock` turns `holder` from `NONE` to a thread, and `unlock`, which
        // only the holder may call, turns it back; so there is one holder at a time.
        unsafe impl lock_api::RawMutex for $lock {
            const INIT: Self = Self(Turns::new());

            /// The thread counts what it holds, so the thread that locked it unlocks it.
            type GuardMarker = lock_api::GuardNoSend;

            #[inline]
            fn lock(&self) {
                if !self.0.try_lock() {
                    self.0.wait();
                }
            }

            #[inline]
            fn try_lock(&self) -> bool {
                self.0.try_lock()
            }

            // SAFETY: the caller holds the lock, as `RawMutex` demands, so the turn is its own to
            // give back.
            #[inline]
            unsafe fn unlock(&self) {
                self.0.unlock();
            }
        }
    };
}

raw_mutex!(YieldingSpinlock);
raw_mutex!(YieldingMutex);

impl YieldingSpinlock {
    /// Returns whether the calling thread holds no lock of this kind, so that no thread can be waiting for
    /// it while it waits for one. `false` in a signal handler that came while its thread held one.
    #[inline]
    pub fn may_wait() -> bool {
        HELD.with(|held| held.load(Relaxed)) == 0
    }
}

/// Ends the process: the alternative is a thread that never goes on.
#[cold]
fn waits_for_itself() -> ! {
    use std::io::Write as _;
    // No formatting and no panic: both allocate, and this may be the allocator's own lock.
    let _ = std::io::stderr().write_all(
        b"heirloom: a thread waits for a lock that it holds (a call from a signal handler, or \
          within a closure that a call was given)\n",
    );
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let sum = lock_api::Mutex::<YieldingSpinlock, u32>::new(0);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..5_000 {
                        let mut sum = sum.lock();
                        let seen = *sum;
                        core::hint::black_box(&mut sum);
                        *sum = seen + 1;
                    }
                    assert!(YieldingSpinlock::may_wait());
                });
            }
        });
        assert_eq!(*sum.lock(), 40_000);
    }

    #[test]
    fn a_held_lock_is_not_taken() {
        let lock = lock_api::Mutex::<YieldingSpinlock, ()>::new(());
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
        assert!(YieldingSpinlock::may_wait());
    }

    #[test]
    fn a_thread_that_holds_one_of_two_may_not_wait() {
        let [one, two] = [const { lock_api::Mutex::<YieldingSpinlock, ()>::new(()) }; 2];
        let first = one.lock();
        let second = two.lock();
        assert!(one.try_lock().is_none());
        drop(first);
        assert!(!YieldingSpinlock::may_wait());
        std::thread::scope(|s| {
            s.spawn(|| assert!(YieldingSpinlock::may_wait()));
        });
        drop(second);
        assert!(YieldingSpinlock::may_wait());
    }

    #[test]
    fn the_holder_of_a_long_lock_may_wait_for_a_short_one_alone() {
        let (long, short) = (
            lock_api::Mutex::<YieldingMutex, ()>::new(()),
            lock_api::Mutex::<YieldingSpinlock, ()>::new(()),
        );
        let pass = long.lock();
        assert!(YieldingSpinlock::may_wait());
        assert!(long.try_lock().is_none());
        let step = short.lock();
        assert!(!YieldingSpinlock::may_wait());
        drop((step, pass));
        assert!(YieldingSpinlock::may_wait());
    }

    /// A process of its own, which this ends.
    #[test]
    fn a_thread_that_waits_for_itself_ends_the_process_and_says_why() {
        const ROLE: &str = "HEIRLOOM_TEST_ROLE";
        if std::env::var_os(ROLE).is_some() {
            let lock = lock_api::Mutex::<YieldingSpinlock, ()>::new(());
            let _held = lock.lock();
            drop(lock.lock());
            return;
        }
        let test = "threads::lock::tests::\
                    a_thread_that_waits_for_itself_ends_the_process_and_says_why";
        let mut this = std::process::Command::new(std::env::current_exe().unwrap());
        this.args([test, "--exact", "--nocapture"]).env(ROLE, "waits");
        let output = this.output().unwrap();
        assert!(!output.status.success());
        let told = std::string::String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("a thread waits for a lock that it holds"), "{output:?}");
    }
}
