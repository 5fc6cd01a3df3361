//! Counts of blocks that found an owner in this kernel: see `predecessor/settled`.

use heirloom_kho::sync::{Acquire, AtomicU64, Relaxed, Release};

/// How many blocks were settled, or put back, by one CPU or by several.
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts more; one call at a time.
    #[inline]
    pub(crate) fn add_alone(&self, more: u64) {
        // Release pairs with the Acquire in `get`: what was put back before is counted there too.
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Release);
    }

    pub(crate) fn add(&self, more: u64) {
        // Release as in `add_alone`.
        self.0.fetch_add(more, Release);
    }

    fn get(&self) -> u64 {
        // Acquire pairs with the Release in `add_alone` and `add`.
        self.0.load(Acquire)
    }
}

/// The tallies of calls without a CPU's own.
pub(crate) struct Tallies {
    pub(super) settled: Tally,
    pub(super) put_back: Tally,
}

impl Tallies {
    pub(crate) fn new() -> Self {
        Self { settled: Tally::new(), put_back: Tally::new() }
    }

    /// Returns how many blocks are settled, if `own` are the CPUs' tallies: never more than there are.
    pub(crate) fn settled<'t>(&self, own: impl Iterator<Item = &'t Tally>) -> u64 {
        let settled = own.fold(self.settled.get(), |sum, tally| sum.wrapping_add(tally.get()));
        // After those: what was settled twice was put back in between.
        settled.wrapping_sub(self.put_back.get())
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::Tallies;

    #[test]
    fn a_block_that_is_settled_twice_counts_once() {
        loom::model(|| {
            let tallies = Arc::new((Tallies::new(), super::Tally::new()));
            let other = Arc::clone(&tallies);
            let claims = thread::spawn(move || {
                let (shared, own) = &*other;
                own.add_alone(1);
                shared.put_back.add(1);
                own.add_alone(1);
            });
            let (shared, own) = &*tallies;
            let settled = shared.settled([own].into_iter());
            // As a difference: what was put back and is not settled yet may be seen first.
            assert!(settled.wrapping_add(1) <= 2, "{settled}");
            claims.join().unwrap();
            assert_eq!(shared.settled([own].into_iter()), 1);
        });
    }
}
