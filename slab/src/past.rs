//! What the predecessor left in caches, and whose turn it is to take slabs of it.
//!
//! A successor goes on with its predecessor's roll: a slab that is not adopted stays in it, and out of
//! use, as long as nothing takes it. Nothing here ends.
//!
//! ```text
//! reading the roll     no lock: its pages stay, and entries are words
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

use heirloom_folio::sync::{AtomicBool, AtomicU64, Ordering::Relaxed};
use heirloom_folio::{Block, Kind, Machine, PhysAddr};
use lock_api::{Mutex, MutexGuard};

use crate::error::Error;
use crate::roll::SlabTable;
use crate::slabs::Slabs;

/// Whose turn it is to take what the predecessor left.
pub(crate) struct Past<M: Machine> {
    turn: Mutex<M::Mutex, Turn>,
    /// Slabs that were struck out of the roll and were no cache's, ever.
    struck_out: AtomicU64,
    /// Whether any cache resumes what was left.
    resumed: AtomicBool,
}

/// Held by whichever call claims a slab of the predecessor's.
pub(crate) struct Turn {
    /// Slabs that are claimed, and may be put back.
    aside: u64,
    /// Slabs that were put back, ever.
    put_back: u64,
}

impl Turn {
    /// Whether a slab is claimed that may be put back.
    pub(crate) const fn any_aside(&self) -> bool {
        self.aside > 0
    }

    /// How many slabs were put back so far.
    pub(crate) const fn put_back(&self) -> u64 {
        self.put_back
    }
}

impl<M: Machine> Past<M> {
    pub(crate) const fn new() -> Self {
        let turn = Mutex::new(Turn { aside: 0, put_back: 0 });
        Self { turn, struck_out: AtomicU64::new(0), resumed: AtomicBool::new(false) }
    }

    /// How many entries of slab tables were struck out that no cache knows of.
    pub(crate) fn struck_out(&self) -> u64 {
        self.struck_out.load(Relaxed)
    }

    /// Whether any cache resumes what was left to it. In turn, it stays so.
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

/// A slab of the predecessor's, and where the roll names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) slab: PhysAddr,
    /// The address of its entry.
    pub(crate) entry: PhysAddr,
}

/// A slab of the predecessor's that is claimed: its holder's alone. Dropped, by an error or a panic
/// too, it is there for the next call, with what was not taken out of it.
pub(crate) struct Aside<'s, M: Machine> {
    slabs: &'s Slabs<M>,
    block: Block,
    entry: PhysAddr,
}

impl<'s, M: Machine> Aside<'s, M> {
    /// Claims a slab that is left.
    ///
    /// # Errors
    /// As for [`Memory::claim_as`].
    pub(crate) fn claim(
        slabs: &'s Slabs<M>,
        turn: &mut Turn,
        block: Block,
        entry: PhysAddr,
    ) -> Result<Self, Error> {
        // SAFETY: labelled by this layer; what else looks for it does so in turn.
        unsafe { slabs.memory().claim_as(block, Kind::Slab) }?;
        turn.aside += 1;
        Ok(Self { slabs, block, entry })
    }

    /// Gives it up: it is struck out of the roll, and free memory.
    pub(crate) fn free(self) -> Result<(), Error> {
        let (slabs, block, entry) = (self.slabs, self.block, self.entry);
        core::mem::forget(self);
        slabs.past.turn().aside -= 1;
        give_up(slabs, block, entry)
    }
}

impl<M: Machine> Drop for Aside<'_, M> {
    fn drop(&mut self) {
        let mut turn = self.slabs.past.turn();
        // SAFETY: claimed as a slab, a table until it is shown; of what it holds nothing was changed
        // but the bytes of objects that are gone.
        let undone =
            unsafe { self.slabs.memory().unclaim(self.block, Kind::Table, Some(Kind::Slab)) };
        debug_assert!(undone.is_ok(), "a claim can be undone: {undone:?}");
        turn.aside -= 1;
        turn.put_back += 1;
    }
}

/// Strikes out of the roll, lets go and frees a slab that was claimed and not made one of ours.
pub(crate) fn give_up<M: Machine>(
    slabs: &Slabs<M>,
    block: Block,
    entry: PhysAddr,
) -> Result<(), Error> {
    let memory = slabs.memory();
    SlabTable::strike_out(memory, entry);
    slabs.past.struck_out.fetch_add(1, Relaxed);
    // SAFETY: claimed by the caller alone; a table, as it was not made a slab of ours.
    unsafe {
        memory.unpreserve_as(block, Kind::Table)?;
        Ok(memory.free(block, Kind::Table)?)
    }
}
