//! What the predecessor left in caches: its roll, and whose turn it is to claim slabs.
//!
//! ```text
//! reading the roll     holds the inheritance; no lock
//! claiming a slab      the turn, for one slab: whether it is left, its check, the claim, and what
//!                      makes it ours
//! setting one aside    the turn twice: the slab is claimed, and later freed or put back
//! all of a record      the turn, once its slabs were adopted one by one: refused while one of them
//!                      is set aside; once more if a slab was put back unseen
//! ending               the turn: refused while a slab is set aside, or was put back unseen
//! ```
//!
//! The turn is a [`Machine::Mutex`], held for one slab at a time (for a look at all of a record's
//! only while one is set aside) and never while a caller's code runs. So of two calls that come to a
//! slab together the second waits until it is wholly adopted, and finds it then.

use heirloom_folio::sync::{AtomicU64, Ordering::Relaxed};

use heirloom_folio::{Block, HeldInheritance, Kind, Machine, Memory, PhysAddr};
use lock_api::{Mutex, MutexGuard};

use crate::error::Error;
use crate::slabs::Slabs;

/// The predecessor's caches, until they are ended.
pub(crate) struct Past<M: Machine> {
    /// The first page of its roll; zero if there is none, or none any more.
    roll: AtomicU64,
    turn: Mutex<M::Mutex, Turn>,
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
    pub(crate) const fn new(roll: Option<PhysAddr>) -> Self {
        let roll = match roll {
            Some(roll) => roll.get(),
            None => 0,
        };
        let turn = Mutex::new(Turn { aside: 0, put_back: 0 });
        Self { roll: AtomicU64::new(roll), turn }
    }

    /// Where the roll starts. What is read there is kept by holding the inheritance alone.
    pub(crate) fn roll(&self) -> Option<PhysAddr> {
        // Relaxed: the roll was there before the instance was.
        let roll = self.roll.load(Relaxed);
        (roll != 0).then(|| PhysAddr::new(roll))
    }

    /// Waits for the turn.
    pub(crate) fn turn(&self) -> MutexGuard<'_, M::Mutex, Turn> {
        self.turn.lock()
    }

    /// Ends the predecessor's caches, all of whose slabs were seen when `put_back` slabs had been
    /// put back. False: some may have been missed.
    ///
    /// # Errors
    /// [`Claiming`](heirloom_folio::Error::Claiming): a slab is set aside, maybe by the caller.
    pub(crate) fn end(&self, put_back: u64) -> Result<bool, Error> {
        let turn = self.turn();
        if turn.any_aside() {
            return Err(heirloom_folio::Error::Claiming.into());
        }
        if turn.put_back == put_back {
            self.roll.store(0, Relaxed);
        }
        Ok(turn.put_back == put_back)
    }
}

/// A slab of the predecessor's that is claimed and not written: its holder's alone. Dropped, by an
/// error or a panic too, it is the predecessor's again.
pub(crate) struct Aside<'s, M: Machine> {
    slabs: &'s Slabs<M>,
    block: Block,
    /// Until it is put back.
    _held: &'s HeldInheritance<'s>,
}

impl<'s, M: Machine> Aside<'s, M> {
    /// Claims a slab that is left.
    ///
    /// # Errors
    /// As for [`Memory::claim_as`].
    pub(crate) fn claim(
        slabs: &'s Slabs<M>,
        held: &'s HeldInheritance<'s>,
        turn: &mut Turn,
        block: Block,
    ) -> Result<Self, Error> {
        // SAFETY: labelled by this layer; who else looks for it does so in turn.
        unsafe { slabs.memory().claim_held_as(held, block, Kind::Slab) }?;
        turn.aside += 1;
        Ok(Self { slabs, block, _held: held })
    }

    /// Frees it.
    pub(crate) fn free(self) -> Result<(), Error> {
        let (slabs, block) = (self.slabs, self.block);
        core::mem::forget(self);
        slabs.past.turn().aside -= 1;
        free_claimed(slabs.memory(), block)
    }
}

impl<M: Machine> Drop for Aside<'_, M> {
    fn drop(&mut self) {
        let mut turn = self.slabs.past.turn();
        // SAFETY: claimed as a slab, a table until it is shown, and not written.
        let undone =
            unsafe { self.slabs.memory().unclaim(self.block, Kind::Table, Some(Kind::Slab)) };
        debug_assert!(undone.is_ok(), "a claim can be undone: {undone:?}");
        turn.aside -= 1;
        turn.put_back += 1;
    }
}

/// Frees a slab that was claimed and not made one of ours.
pub(crate) fn free_claimed<M: Machine>(memory: &Memory<M>, block: Block) -> Result<(), Error> {
    // SAFETY: claimed by the caller, and nobody else's; a table, as it was not made a slab of ours.
    Ok(unsafe { memory.free(block, Kind::Table) }?)
}
