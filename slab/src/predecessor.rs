//! What the predecessor left in caches, and the turn in which a call takes slabs of it.
//!
//! A successor goes on with its predecessor's cache directory: a slab that is not adopted stays in it, and out of
//! use, as long as nothing takes it. Nothing here ends.
//!
//! ```text
//! reading it           no lock: its pages stay, and entries are words
//! adopting a slab      the turn, for one slab: whether it is left, its check, the claim, and what
//!                      makes it ours
//! setting one aside    the turn twice: the slab is claimed, and later given up or put back
//! all of a record      the turn, once its slabs were adopted one by one: refused while one of them
//!                      is set aside; once more if a slab was put back unseen
//! disposing of one     the turn, for one slab
//! resuming a cache     the turn, once: whether one of its slabs was adopted, or is set aside
//! sweeping a slab      the turn, for one slab
//! ```
//!
//! The turn is a [`Machine::Mutex`], held for one slab at a time (for a look at all of a record's
//! only while one is set aside) and never while a caller's code runs. So of two calls that come to a
//! slab together the second waits until it is wholly adopted, and finds it then.

use heirloom_folio::Machine;
use heirloom_kho::PhysAddr;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::sync::{AtomicBool, AtomicU64};
use lock_api::{Mutex, MutexGuard};

/// The turn to take what the predecessor left.
pub(crate) struct Predecessor<M: Machine> {
    turn: Mutex<M::Mutex, Turn>,
    /// Slabs that were struck out of the cache directory and were no cache's, ever.
    pub(crate) struck_out: AtomicU64,
    /// Whether any cache resumes what was left.
    resumed: AtomicBool,
}

/// Held by whichever call claims a slab of the predecessor's.
pub(crate) struct Turn {
    /// Slabs that are claimed, and may be put back.
    pub(crate) aside: u64,
    /// Slabs that were put back, ever.
    pub(crate) put_back: u64,
}

impl Turn {
    /// Returns whether a slab is claimed that may be put back.
    pub(crate) const fn any_aside(&self) -> bool {
        self.aside > 0
    }

    /// Returns how many slabs were put back so far.
    pub(crate) const fn put_back(&self) -> u64 {
        self.put_back
    }
}

impl<M: Machine> Predecessor<M> {
    pub(crate) const fn new() -> Self {
        let turn = Mutex::new(Turn { aside: 0, put_back: 0 });
        Self { turn, struck_out: AtomicU64::new(0), resumed: AtomicBool::new(false) }
    }

    /// Returns how many entries of slab tables were struck out that no cache knows of.
    pub(crate) fn struck_out(&self) -> u64 {
        self.struck_out.load(Relaxed)
    }

    /// Returns whether any cache resumes what was left to it. In turn, it stays so.
    pub(crate) fn any_resumed(&self) -> bool {
        self.resumed.load(Relaxed)
    }

    /// Notes that a cache resumes what was left to it.
    pub(crate) fn note_resumed(&self, _: &Turn) {
        self.resumed.store(true, Relaxed);
    }

    /// Waits for the turn.
    pub(crate) fn turn(&self) -> MutexGuard<'_, M::Mutex, Turn> {
        self.turn.lock()
    }
}

/// A slab of the predecessor's, and where the cache directory names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) slab: PhysAddr,
    /// The address of its entry.
    pub(crate) entry: PhysAddr,
}
