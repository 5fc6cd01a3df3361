//! Slabs before they are: what is left once all that can fail is done.

use heirloom_folio::{Kind, Machine, Memory, PhysAddr};

use crate::error::Error;
use crate::roll::{Part, Roll, RollView};
use crate::slabs::Slabs;

/// All that [`Slabs`] are made from: the memory, and the roll in it.
///
/// Slabs are nearly a kilobyte, and a kernel's stack is small: each function that they are returned
/// through has a place for them there. So a layer that goes on to fill its own tables does so over
/// this, and makes the slabs last.
#[doc(hidden)]
pub struct NewSlabs<M: Machine> {
    pub(crate) memory: Memory<M>,
    /// The first page of the roll: a new one, or the predecessor's, which was checked.
    pub(crate) roll: PhysAddr,
}

impl<M: Machine> NewSlabs<M> {
    /// Returns what [`Slabs::new`] makes the slabs from.
    ///
    /// # Errors
    /// As for [`Slabs::new`].
    pub fn new(memory: Memory<M>) -> Result<Self, Error> {
        let roll = Roll::first_page(&memory)?;
        Ok(Self { memory, roll })
    }

    /// Checks the roll at `roll`, and returns what [`Slabs::revive`] makes the slabs from.
    ///
    /// # Errors
    /// As for [`Slabs::revive`].
    pub fn revive(memory: Memory<M>, roll: PhysAddr) -> Result<Self, Error> {
        // SAFETY: the memory is ours alone, so nothing writes to any of it.
        let view = unsafe { RollView::left(&memory, roll) };
        // SAFETY: this layer reads the roll, which names the block. Its pages are ours from now on, and
        // slabs are to be taken by this layer alone. The pages of slab tables keep a label, by which
        // they are known: see `Slabs::named`.
        let take = |block, part| unsafe {
            match part {
                Part::Records => memory.claim_as(block, Kind::Table),
                Part::Table => memory.label(block, Kind::Table),
                Part::Slab => memory.label(block, Kind::Slab),
            }
        };
        view.check(take, Err, |_, _| Ok(()))?;
        Ok(Self { memory, roll })
    }

    /// Takes out of the tracker's tree what leads to nothing, now that the handover is changed.
    pub fn prune(&mut self) {
        self.memory.prune();
    }

    /// The memory underneath.
    pub const fn memory(&self) -> &Memory<M> {
        &self.memory
    }

    /// Where [`Slabs::roll`] will be.
    pub const fn roll(&self) -> PhysAddr {
        self.roll
    }

    /// The slabs.
    #[inline]
    pub fn into_slabs(self) -> Slabs<M> {
        Slabs::over(self.memory, self.roll)
    }
}

impl<M: Machine> Slabs<M> {
    /// Caches and buffers over `memory`: none yet.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory for the roll's page and the tracker's nodes.
    pub fn new(memory: Memory<M>) -> Result<Self, Error> {
        Ok(NewSlabs::new(memory)?.into_slabs())
    }
}
