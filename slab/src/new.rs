//! Slabs before they are: what is left once all that can fail is done.

use heirloom_folio::{FrameType, Machine, Memory};
use heirloom_kho::PhysAddr;

use crate::directory::{CacheDirectory, DirectoryView, Part};
use crate::error::Error;
use crate::slabs::Slabs;

/// All that [`Slabs`] are made from: the memory, and the cache directory in it.
///
/// Slabs are nearly a kilobyte, and a kernel's stack is small: each function that they are returned
/// through has a place for them there. So a layer that goes on to fill its own tables does so over
/// this, and makes the slabs last.
#[doc(hidden)]
pub struct NewSlabs<M: Machine> {
    pub(crate) memory: Memory<M>,
    /// The first page of the cache directory: a new one, or the predecessor's, which was checked.
    pub(crate) directory: PhysAddr,
}

impl<M: Machine> NewSlabs<M> {
    /// Returns what [`Slabs::new`] makes the slabs from.
    ///
    /// # Errors
    /// As for [`Slabs::new`].
    pub fn new(memory: Memory<M>) -> Result<Self, Error> {
        let directory = CacheDirectory::first_page(&memory)?;
        Ok(Self { memory, directory })
    }

    /// Checks the cache directory at `directory`, and returns what [`Slabs::revive`] makes the slabs from.
    ///
    /// # Errors
    /// As for [`Slabs::revive`].
    pub fn revive(memory: Memory<M>, directory: PhysAddr) -> Result<Self, Error> {
        // SAFETY: the memory is ours alone, so nothing writes to any of it.
        let view = unsafe { DirectoryView::left(&memory, directory) };
        // SAFETY: this layer reads the cache directory, which names the block. Its pages are ours from now on, and
        // slabs are to be taken by this layer alone. The pages of slab tables keep a label, by which
        // they are known: see `Slabs::named`.
        let take = |block, part| unsafe {
            match part {
                Part::Records => memory.claim_as(block, FrameType::Table),
                Part::Table => memory.predecessor().label(block, FrameType::Table),
                Part::Slab => memory.predecessor().label(block, FrameType::Slab),
            }
        };
        view.check(take, Err, |_, _| Ok(()))?;
        Ok(Self { memory, directory })
    }

    /// Takes out of the tracker's tree what leads to nothing, now that the handover is changed.
    pub fn prune(&mut self) {
        self.memory.prune();
    }

    /// Returns the memory underneath.
    pub const fn memory(&self) -> &Memory<M> {
        &self.memory
    }

    /// Returns where [`Slabs::cache_directory`] will be.
    pub const fn cache_directory(&self) -> PhysAddr {
        self.directory
    }

    /// Returns the slabs.
    #[inline]
    pub fn into_slabs(self) -> Slabs<M> {
        Slabs::over(self.memory, self.directory)
    }
}

impl<M: Machine> Slabs<M> {
    /// Makes the slab layer over `memory`: without caches or buffers yet.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory for the cache directory's page and the tracker's nodes.
    pub fn new(memory: Memory<M>) -> Result<Self, Error> {
        Ok(NewSlabs::new(memory)?.into_slabs())
    }
}
