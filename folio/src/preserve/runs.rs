//! Preserving runs, tracked as their few largest aligned blocks.

use heirloom_kho::{Block, Order, Run};

use crate::error::Error;
use crate::frame_type::FrameType;
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
