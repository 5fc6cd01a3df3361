//! Turning a table into a slab, which lookups find, and back.

use heirloom_kho::sync::{Relaxed, Release};
use heirloom_kho::{Block, Order};

use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Makes a slab of an allocated block, of order at most [`Order::MAX_FOLIO`], that was a
    /// [`FrameType::Table`] so far; it stays preserved if it was. From now on [`Memory::lookup`] finds it.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed.
    ///
    /// # Safety
    /// The caller owns the block, and it begins with what the layer that looks for slabs in this
    /// memory will believe there.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{FrameState, FrameType, Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let block = memory.alloc(Request::new(Order::ZERO).frame_type(FrameType::Table))?;
    /// // SAFETY: allocated just now, and nothing looks for slabs in this memory.
    /// unsafe { memory.make_slab(block) }?;
    /// let slab = FrameState::Head { kind: FrameType::Slab, order: Order::ZERO, preserved: false };
    /// assert_eq!(memory.state(block.pfn())?, slab);
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    #[doc(hidden)]
    pub unsafe fn make_slab(&self, block: Block) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.turn(block, FrameType::Table, frame_type::slab_from_table) }
    }

    /// Turns a block of kind `from`, preserved or not, into one of another.
    ///
    /// # Safety
    /// The caller owns the block; and if a slab comes of it, see [`Memory::make_slab`].
    pub(crate) unsafe fn turn(
        &self,
        block: Block,
        from: FrameType,
        to: fn(u8) -> u8,
    ) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        let single = block.order() <= Order::MAX_FOLIO;
        let byte = if single { range.byte(block.pfn()) } else { None };
        let right = |now| {
            let kinds = [false, true].map(|kept| frame_type::encode(from, block.order(), kept));
            kinds.contains(&now)
        };
        match byte.map(|byte| (byte, byte.load(Relaxed))) {
            Some((byte, now)) if right(now) => {
                // Release pairs with the Acquire in `Range::lookup`: a caller that takes it for a
                // slab finds what it begins with.
                byte.store(to(now), Release);
                Ok(())
            }
            _ => Err(self.refuse(range, block, from)),
        }
    }

    /// Makes a table again of what [`Memory::make_slab`] made a slab; it stays preserved if it was.
    /// From now on [`Memory::lookup`] does not find it as a slab, but for those that are
    /// [reading](Memory::reading) already.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed.
    ///
    /// # Safety
    /// The caller owns the block.
    #[doc(hidden)]
    pub unsafe fn hide_slab(&self, block: Block) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.turn(block, FrameType::Slab, frame_type::table_from_slab) }
    }
}
