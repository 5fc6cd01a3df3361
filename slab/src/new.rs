//! Slabs before they are: what is left once all that can fail is done.

use heirloom_folio::{Machine, Memory, PhysAddr};

use crate::error::Error;
use crate::roll::{Roll, RollView};
use crate::slabs::Slabs;

/// All that [`Slabs`] are made from: the memory, this kernel's roll in it, and the predecessor's.
///
/// Slabs are nearly a kilobyte, and a kernel's stack is small: each function that they are returned
/// through has a place for them there. So a layer that goes on to fill its own tables does so over
/// this, and makes the slabs last.
#[doc(hidden)]
pub struct NewSlabs<M: Machine> {
    pub(crate) memory: Memory<M>,
    /// The first page of this kernel's roll.
    pub(crate) roll: PhysAddr,
    /// The first page of the predecessor's, which was checked.
    pub(crate) past: Option<PhysAddr>,
}

impl<M: Machine> NewSlabs<M> {
    /// Returns what [`Slabs::new`] makes the slabs from.
    ///
    /// # Errors
    /// As for [`Slabs::new`].
    pub fn new(memory: Memory<M>) -> Result<Self, Error> {
        let roll = Roll::first_page(&memory)?;
        Ok(Self { memory, roll, past: None })
    }

    /// Checks the roll at `roll`, and returns what [`Slabs::revive`] makes the slabs from.
    ///
    /// # Errors
    /// As for [`Slabs::revive`].
    pub fn revive(memory: Memory<M>, roll: PhysAddr) -> Result<Self, Error> {
        // SAFETY: the memory is ours alone, so nothing writes to any of it.
        let view = unsafe { RollView::inherited(&memory, roll) };
        // SAFETY: this layer reads the roll, which names the block.
        let label = |block, kind| unsafe { memory.label(block, kind) };
        view.check(label, Err, |_, _| Ok(()))?;
        Ok(Self { past: Some(roll), ..Self::new(memory)? })
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
        Slabs::of(self)
    }
}
