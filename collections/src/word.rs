//! A word of memory that survives: little-endian, and changed by one store.

use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Acquire, Relaxed, Release};

/// A word that a successor may read at any instant.
#[repr(transparent)]
pub(crate) struct Word(AtomicU64);

impl Word {
    /// Returns what it holds. Acquire pairs with the Release in [`Word::set`]: what a link leads to is seen as it was linked.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        u64::from_le(self.0.load(Acquire))
    }

    /// Stores a value, after everything that this thread stored before. Release pairs with the Acquire in [`Word::get`], and
    /// with whatever a successor reads the memory by.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        point();
        self.0.store(value.to_le(), Release);
    }

    /// Stores a value if the word holds `expected` still. Returns whether it did. Release pairs as in [`Word::set`].
    #[inline]
    pub(crate) fn replace(&self, expected: u64, value: u64) -> bool {
        point();
        self.0.compare_exchange(expected.to_le(), value.to_le(), Release, Relaxed).is_ok()
    }
}

/// Orders everything stored so far before what another layer stores next: an object's state byte, which knows nothing of it.
#[inline]
pub(crate) fn settle() {
    point();
    // Pairs with a successor's first look, as `Word::set` does.
    core::sync::atomic::fence(Release);
}

/// An instant at which a kernel may end: tests look at what a successor would find then.
#[cfg(not(test))]
#[inline]
pub(crate) const fn point() {}

#[cfg(test)]
pub(crate) use crate::watch::point;
