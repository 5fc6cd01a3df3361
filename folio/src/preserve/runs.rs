//! Preserving runs, tracked as their few largest aligned blocks.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Order, Pfn, Run};

use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Preserves a run of `kind`, on its owner's behalf.
    pub(crate) fn preserve_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        if kind == FrameType::Buffer && self.is_held_run(run) {
            self.mark_run_preserved(run, kind, true);
            return Ok(());
        }
        self.preserve_plain_run(run, kind)?;
        self.mark_run_preserved(run, kind, true);
        Ok(())
    }

    /// Preserves a run that is not preserved. Its byte does not say so yet.
    fn preserve_plain_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        self.check_run(run, kind).map_err(|error| match error {
            Error::Preserved { block } => Error::AlreadyPreserved { block },
            other => other,
        })?;
        self.tracker.preserve_run(&self.tables(), run)
    }

    /// Makes a whole buffer survive for as long as it is not freed: its owner frees it without letting
    /// it go first, by [`Memory::free_held`].
    ///
    /// [`Memory::preserve_as`] makes an ordinary preserved buffer of it, which costs a store.
    ///
    /// # Errors
    /// As for [`Memory::preserve`].
    ///
    /// # Safety
    /// As for [`Memory::preserve`].
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, FrameType, Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let buffer = memory.alloc_run(5, Request::new(Order::ZERO).frame_type(FrameType::Buffer))?;
    /// // SAFETY: allocated just now.
    /// unsafe { memory.hold_buffer(buffer) }?;
    /// assert!(memory.is_held(buffer.start()));
    /// // SAFETY: nothing uses it any more.
    /// unsafe { memory.free_held(buffer) }?;
    /// assert_eq!(memory.preserved().counts().total(), 0);
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(hidden)]
    pub unsafe fn hold_buffer(&self, run: Run) -> Result<(), Error> {
        self.preserve_plain_run(run, FrameType::Buffer)?;
        self.mark_held(run);
        Ok(())
    }

    /// Says of a preserved buffer that it is held.
    pub(crate) fn mark_held(&self, run: Run) {
        if let Some(block) = run.blocks_up_to(Order::MAX_FOLIO).next()
            && let Some(byte) = self.byte(block.pfn())
        {
            byte.store(frame_type::held(block.order()), Relaxed);
        }
    }

    /// Returns whether a buffer starts at a frame that survives for as long as it is not freed.
    #[doc(hidden)]
    pub fn is_held(&self, pfn: Pfn) -> bool {
        self.byte(pfn).is_some_and(|byte| frame_type::is_held(byte.load(Relaxed)))
    }

    /// Lets a held buffer go and frees it.
    ///
    /// # Errors
    /// As for [`Memory::free`]; [`Error::NotPreserved`]: it is not held. Nothing is changed then.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[doc(hidden)]
    pub unsafe fn free_held(&self, run: Run) -> Result<(), Error> {
        if !self.is_held_run(run) {
            self.check_run(run, FrameType::Buffer)?;
            return Err(Error::NotPreserved { block: Block::containing(run.start(), Order::ZERO) });
        }
        self.tracker.unpreserve_run(&self.tables(), run)?;
        self.unmark_run(run);
        self.give_run(run);
        Ok(())
    }

    /// Lets a run of `kind` go, on its owner's behalf.
    pub(crate) fn unpreserve_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        let held = kind == FrameType::Buffer && self.is_held_run(run);
        if !held && !self.is_run(run, kind, true) {
            match self.check_run(run, kind) {
                Err(Error::Preserved { .. }) => {}
                Err(other) => return Err(other),
                Ok(()) => {
                    let block = Block::containing(run.start(), Order::ZERO);
                    return Err(Error::NotPreserved { block });
                }
            }
        }
        self.tracker.unpreserve_run(&self.tables(), run)?;
        self.mark_run_preserved(run, kind, false);
        Ok(())
    }

    /// Only the head says it; a tail is what it belongs to. The kind is the caller's and is not read
    /// again: what another call made of the frames meanwhile, a slab say, is not to be written back.
    pub(crate) fn mark_run_preserved(&self, run: Run, kind: FrameType, preserved: bool) {
        if let Some(block) = run.blocks_up_to(Order::MAX_FOLIO).next() {
            self.mark_preserved(block, kind, preserved);
        }
    }
}
