//! How a cache takes over the slabs that were left to it.

use heirloom_kho::sync::Ordering::{Acquire, Relaxed};
use heirloom_kho::sync::{AtomicU8, AtomicU64};

use crate::predecessor::Turn;

/// How a cache takes over the slabs that were left to it, and how far it has come.
pub(crate) struct Takeover {
    /// One of the constants below. Written in turn.
    pub(crate) way: AtomicU8,
    /// Where the slab stands that is swept next: the page of the slab table, and the entry's number.
    pub(crate) next: AtomicU64,
}

/// No slab was taken over yet.
const UNDECIDED: u8 = 0;
/// A slab was adopted: what survives is there to be claimed.
pub(crate) const ADOPTS: u8 = 1;
/// What survives is in use.
pub(crate) const RESUMES: u8 = 2;

/// All slabs of a resumed cache were come by.
pub(crate) const DONE: u64 = u64::MAX;

impl Takeover {
    pub(crate) const fn new() -> Self {
        Self { way: AtomicU8::new(UNDECIDED), next: AtomicU64::new(DONE) }
    }

    /// Notes that a slab is taken over, which decides how they all are. Returns whether what survives is in
    /// use.
    pub(crate) fn adopt(&self, _: &Turn) -> bool {
        let resumes = self.resumes();
        if !resumes {
            self.way.store(ADOPTS, Relaxed);
        }
        resumes
    }

    /// Forgets how slabs were taken over, of which there are none any more, in turn.
    pub(crate) fn begin_anew(&self, _: &Turn) {
        self.next.store(DONE, Relaxed);
        self.way.store(UNDECIDED, Relaxed);
    }

    /// Returns whether the cache resumes what was left to it.
    pub(crate) fn resumes(&self) -> bool {
        // Acquire pairs with the Release in `Cache::resume`: where sweeping begins is known.
        self.way.load(Acquire) == RESUMES
    }
}
