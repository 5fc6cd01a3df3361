//! Which block a frame belongs to, and what is wrong with a block that a caller named.
//!
//! No fast path comes here: a call that is refused says exactly why.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Order, Pfn, Run};

use crate::error::Error;
use crate::frame_type::{self, FrameState, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;

impl<M: Machine> Memory<M> {
    /// Returns what holds the frame: all frames of the folio, run, slab or buffer, its kind, and whether
    /// it is preserved. `None`: the frame is free, reserved, or no memory.
    pub fn owning_block(&self, pfn: Pfn) -> Option<(Run, FrameType, bool)> {
        let (mut block, mut kind, mut preserved) = self.holding(self.ranges.find(pfn)?, pfn)?;
        while kind == FrameType::Tail {
            let before = Pfn::new(block.pfn().get().checked_sub(1)?);
            (block, kind, preserved) = self.holding(self.ranges.find(before)?, before)?;
        }
        let run = if kind.is_run() { self.run_from(block) } else { block.run() };
        Some((run, kind, preserved))
    }

    /// Returns the allocated block that holds the frame, head or not; `range` is the frame's.
    pub(crate) fn holding(&self, range: &Range, pfn: Pfn) -> Option<(Block, FrameType, bool)> {
        range.owning_block(pfn).or_else(|| self.holding_slow(range, pfn))
    }

    /// Returns the allocated block that begins in a range before this one, and reaches up to the frame.
    #[cold]
    fn holding_slow(&self, range: &Range, pfn: Pfn) -> Option<(Block, FrameType, bool)> {
        let mut before = self.ranges.touching_before(range)?;
        loop {
            if let Some(found) = before.owning_block(pfn) {
                return Some(found);
            }
            before = self.ranges.touching_before(before)?;
        }
    }

    /// Returns why `block` is not a block of `kind` that could be freed.
    #[cold]
    pub(crate) fn refuse(&self, range: &Range, block: Block, kind: FrameType) -> Error {
        let pfn = block.pfn();
        match (range.state(pfn), self.holding(range, pfn)) {
            (FrameState::Head { kind: FrameType::Tail, .. }, _) => {
                // A tail does not say whose it is: the blocks before it are asked, up to the first that is no tail.
                let mut at = pfn;
                let mut of = block;
                let before = |at: Pfn| {
                    let before = Pfn::new(at.get().checked_sub(1)?);
                    self.holding(self.ranges.find(before)?, before)
                };
                while let Some((holder, found, _)) = before(at) {
                    (at, of) = (holder.pfn(), holder);
                    if found != FrameType::Tail {
                        break;
                    }
                }
                Error::TailFrame { pfn, of }
            }
            (FrameState::Head { kind: found, .. }, _) if found != kind => {
                Error::WrongType { pfn, expected: kind, found }
            }
            (FrameState::Head { order, .. }, _) if order != block.order() => {
                Error::WrongOrder { pfn, expected: block.order(), found: order }
            }
            (FrameState::Head { .. }, _) => Error::Preserved { block },
            (_, Some((of, ..))) => Error::TailFrame { pfn, of },
            (FrameState::Freed, None) => Error::DoubleFree { block },
            (FrameState::Never, None) => Error::NeverAllocated { pfn },
            (FrameState::Absent, _) => Error::Absent { pfn },
        }
    }

    /// Returns why the block is none of `kind` to preserve, or to let go if it should be `preserved`.
    #[cold]
    #[inline(never)]
    pub(crate) fn refuse_single(
        &self,
        range: &Range,
        block: Block,
        kind: FrameType,
        preserved: bool,
    ) -> Error {
        let order = block.order();
        if kind.is_run() || kind == FrameType::Tail {
            return Error::BadRequest { frames: order.frames() };
        }
        let byte = range.byte(block.pfn()).map_or(frame_type::NEVER, |byte| byte.load(Relaxed));
        let small = order <= Order::MAX_FOLIO;
        // What is still to be claimed is preserved, and goes by `Predecessor::finish` alone.
        let left = small && frame_type::labelled(byte) == Some((kind, order));
        if left || small && byte == frame_type::encode(kind, order, !preserved) {
            return if preserved {
                Error::NotPreserved { block }
            } else {
                Error::AlreadyPreserved { block }
            };
        }
        self.refuse(range, block, kind)
    }
}
