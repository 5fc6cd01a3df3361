//! A slab of the predecessor's, set aside by the call that claimed it: given up in the end, or put back.

use heirloom_folio::{FrameType, Machine};
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{Block, PhysAddr};

use crate::directory::SlabTable;
use crate::error::Error;
use crate::predecessor::Turn;
use crate::slabs::Slabs;

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
    /// As for [`Memory::claim_as`](heirloom_folio::Memory::claim_as).
    pub(crate) fn claim(
        slabs: &'s Slabs<M>,
        turn: &mut Turn,
        block: Block,
        entry: PhysAddr,
    ) -> Result<Self, Error> {
        // SAFETY: labelled by this layer; what else looks for it does so in turn.
        unsafe { slabs.memory().claim_as(block, FrameType::Slab) }?;
        turn.aside += 1;
        Ok(Self { slabs, block, entry })
    }

    /// Gives it up: it is struck out of the cache directory, and free memory.
    pub(crate) fn free(self) -> Result<(), Error> {
        let (slabs, block, entry) = (self.slabs, self.block, self.entry);
        core::mem::forget(self);
        slabs.predecessor.turn().aside -= 1;
        give_up(slabs, block, entry)
    }
}

impl<M: Machine> Drop for Aside<'_, M> {
    fn drop(&mut self) {
        let mut turn = self.slabs.predecessor.turn();
        // SAFETY: claimed as a slab, a table until it is published; of what it holds nothing was changed
        // but the bytes of objects that are gone.
        let undone = unsafe {
            self.slabs.memory().predecessor().unclaim_labelled(
                self.block,
                FrameType::Table,
                FrameType::Slab,
            )
        };
        debug_assert!(undone.is_ok(), "a claim can be undone: {undone:?}");
        turn.aside -= 1;
        turn.put_back += 1;
    }
}

/// Strikes out of the cache directory, lets go and frees a slab that was claimed and not made one of ours.
pub(crate) fn give_up<M: Machine>(
    slabs: &Slabs<M>,
    block: Block,
    entry: PhysAddr,
) -> Result<(), Error> {
    let memory = slabs.memory();
    SlabTable::strike_out(memory, entry);
    slabs.predecessor.struck_out.fetch_add(1, Relaxed);
    // SAFETY: claimed by the caller alone; a table, as it was not made a slab of ours.
    unsafe {
        memory.unpreserve_as(block, FrameType::Table)?;
        Ok(memory.free_as(block, FrameType::Table)?)
    }
}
