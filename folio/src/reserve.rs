//! Exact frames: reserving them, releasing them, and taking them out of the free map.

use heirloom_kho::{Block, Order, Run};

use crate::error::Error;
use crate::frame_type::FrameState;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;

impl<M: Machine> Memory<M> {
    /// Takes these frames out of use for good: firmware's, a device's, scratch.
    ///
    /// # Errors
    /// As for [`Memory::alloc_at`].
    pub fn reserve(&self, run: Run) -> Result<(), Error> {
        self.take_run_at(run)
    }

    /// Makes reserved frames free memory.
    ///
    /// # Errors
    /// [`Error::NotMemory`]; [`Error::TailFrame`] with the first frame that is allocated,
    /// [`Error::DoubleFree`] with the first that is free, or [`Error::Absent`] with the first that is
    /// absent. Nothing is changed then.
    ///
    /// # Safety
    /// The frames were [reserved](Memory::reserve), by the caller, and nothing uses them any more.
    pub unsafe fn release(&self, run: Run) -> Result<(), Error> {
        let parts = self.ranges.parts(run).ok_or(Error::NotMemory { pfn: run.start() })?;
        for (range, part) in parts {
            for i in 0..part.frames() {
                let pfn = part.start().add(i);
                if let Some((of, ..)) = self.holding(range, pfn) {
                    return Err(Error::TailFrame { pfn, of });
                }
                if range.state(pfn) == FrameState::Absent {
                    return Err(Error::Absent { pfn });
                }
                if range.freemap().is_free(pfn) {
                    return Err(Error::DoubleFree { block: Block::containing(pfn, Order::ZERO) });
                }
            }
        }
        self.give_run(run);
        Ok(())
    }

    /// Takes exactly `run`, all or nothing: nothing, not even for a moment, where part of it is in use as the call begins.
    pub(crate) fn take_run_at(&self, run: Run) -> Result<(), Error> {
        let parts = self.ranges.parts(run).ok_or(Error::NotMemory { pfn: run.start() })?;
        let blocks = |part: Run| part.blocks_up_to(Order::MAX_FOLIO);
        let attempt = || {
            // What is taken in vain is missing elsewhere until it is given back: a look at all of it comes first.
            let has = |range: &Range, part| blocks(part).all(|b| range.freemap().has_block(b));
            if !parts.clone().all(|(range, part)| has(range, part)) {
                return Err(Error::NotFree { run });
            }
            for (range, part) in parts.clone() {
                for block in blocks(part) {
                    if !range.freemap().take_at(block) {
                        if let Some(taken) = Run::between(run.start(), block.pfn()) {
                            self.give_run(taken);
                        }
                        return Err(Error::NotFree { run });
                    }
                }
            }
            Ok(())
        };
        attempt().or_else(|_| {
            self.drain();
            attempt()
        })
    }
}
