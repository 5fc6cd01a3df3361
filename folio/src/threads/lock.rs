//! A lock for threads that may be preempted while they hold it.

use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};

use crossbeam_utils::Backoff;

/// A lock that spins for a moment and then gives its processor to others until it is free.
///
/// It neither parks nor queues: waiting lists need memory, which an allocator's lock cannot ask
/// for. It is therefore not fair, and meant for critical sections of microseconds.
#[derive(Debug)]
pub struct Patient {
    held: AtomicBool,
}

// SAFETY: only one `try_lock` turns `held` from false to true, and `unlock`, which only the holder
// may call, turns it back; so there is one holder at a time.
unsafe impl lock_api::RawMutex for Patient {
    const INIT: Self = Self { held: AtomicBool::new(false) };

    type GuardMarker = lock_api::GuardSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // Acquire pairs with the Release in `unlock`.
        self.held.compare_exchange(false, true, Acquire, Relaxed).is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        // Release pairs with the Acquire in `try_lock`.
        self.held.store(false, Release);
    }
}

impl Patient {
    #[cold]
    fn wait(&self) {
        use lock_api::RawMutex as _;
        let backoff = Backoff::new();
        while self.held.load(Relaxed) || !self.try_lock() {
            if backoff.is_completed() {
                std::thread::yield_now();
            } else {
                backoff.snooze();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let sum = lock_api::Mutex::<Patient, u32>::new(0);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..5_000 {
                        let mut sum = sum.lock();
                        let seen = *sum;
                        core::hint::black_box(&mut sum);
                        *sum = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*sum.lock(), 40_000);
    }

    #[test]
    fn a_held_lock_is_not_taken() {
        let lock = lock_api::Mutex::<Patient, ()>::new(());
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
    }
}
