//! Whether a cache is there, or was destroyed; and the calls that come to a cache unasked.
//!
//! ```text
//!          enter, leave: one more, one less
//!            ┌─────┐
//!   begin ──> n calls ── n == 0: condemn ──> condemned ── bury ──> over
//!            0 <──────────── drop ───────────────┘                  │
//!            └──────────────────── begin again ────────────────────┘
//! ```
//!
//! A call that is about something else, and for want of memory takes back what caches keep, comes to
//! caches that its caller knows nothing of. It counts itself in here, and the call that destroys a
//! cache finds none in, or does not begin. All other calls are those of the cache's users, of which there are
//! none then.

use heirloom_kho::sync::AtomicU32;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// A call is about to destroy it.
const CONDEMNED: u32 = 1 << 30;
/// It is destroyed. Its control block stays, for a cache of the same description.
const OVER: u32 = 1 << 31;

/// Whether a cache is there, and how many calls have come to it unasked.
pub(crate) struct Life(AtomicU32);

impl Life {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Returns whether the cache is there.
    pub(crate) fn goes_on(&self) -> bool {
        // Acquire pairs with the Release of `Condemned`: what the call that let it live did to it, its
        // constructor say, is seen.
        self.0.load(Acquire) & (CONDEMNED | OVER) == 0
    }

    /// Counts a call in that comes unasked, if the cache is there.
    pub(crate) fn enter(&self) -> Option<Visit<'_>> {
        let more = |calls: u32| (calls < CONDEMNED - 1).then_some(calls + 1);
        // Acquire pairs with the Release of `Condemned`: what the call that let it live did to it is done.
        self.0.fetch_update(Acquire, Relaxed, more).ok().map(|_| Visit(self))
    }

    /// Condemns the cache, if it is there and no call is in that came unasked.
    pub(crate) fn condemn(&self) -> Option<Condemned<'_>> {
        // Acquire pairs with the Release of `Visit`: what those calls did is done.
        self.0.compare_exchange(0, CONDEMNED, Acquire, Relaxed).ok().map(|_| Condemned(self))
    }

    /// Makes a cache that is over one that is condemned, for a call that puts another in its place.
    pub(crate) fn exhume(&self) -> Option<Condemned<'_>> {
        // AcqRel pairs with the Release of `bury`.
        self.0.compare_exchange(OVER, CONDEMNED, AcqRel, Relaxed).ok().map(|_| Condemned(self))
    }
}

/// A call that came unasked, which is out when this is dropped.
pub(crate) struct Visit<'l>(&'l Life);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `condemn`.
        self.0.0.fetch_sub(1, Release);
    }
}

/// A cache that is one call's alone. It lives on when this is dropped.
pub(crate) struct Condemned<'l>(&'l Life);

impl Condemned<'_> {
    /// Ends it.
    pub(crate) fn bury(self) {
        // Release pairs with the AcqRel in `exhume`.
        self.0.0.store(OVER, Release);
        core::mem::forget(self);
    }
}

impl Drop for Condemned<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `enter`.
        self.0.0.store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_destroyed_while_no_call_is_in_and_none_gets_in_then() {
        let life = Life::new();
        let visit = life.enter().unwrap();
        assert!(life.condemn().is_none());
        drop(visit);
        let condemned = life.condemn().unwrap();
        assert!(life.enter().is_none() && life.condemn().is_none() && !life.goes_on());
        drop(condemned);
        assert!(life.goes_on() && life.exhume().is_none());
        life.condemn().unwrap().bury();
        assert!(life.enter().is_none() && life.condemn().is_none() && !life.goes_on());
        drop(life.exhume().unwrap());
        assert!(life.goes_on() && life.enter().is_some());
    }
}
