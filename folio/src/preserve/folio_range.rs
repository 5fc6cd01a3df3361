//! Preserving folios of one order side by side, up to 64 with one atomic operation.

use heirloom_kho::Order;
use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::sync::{AtomicU8, Relaxed};
use heirloom_kho::tree::FolioRange;

use crate::atomic_bytes;
use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Preserves folios of one order in a row, on their owner's behalf.
    pub(crate) fn preserve_range(&self, folios: FolioRange) -> Result<(), Error> {
        let alike = self.each_of_range(folios, false)?;
        self.tracker.preserve_range(&self.tables(), folios)?;
        self.mark_of_range(folios, alike, true);
        Ok(())
    }

    /// Lets folios of one order in a row go, on their owner's behalf.
    pub(crate) fn unpreserve_range(&self, folios: FolioRange) -> Result<(), Error> {
        let alike = self.each_of_range(folios, true)?;
        self.tracker.unpreserve_range(&self.tables(), folios)?;
        self.mark_of_range(folios, alike, false);
        Ok(())
    }

    /// Claims folios of one order in a row that a predecessor preserved, all of them or none.
    pub(crate) fn claim_range(&self, folios: FolioRange) -> Result<(), Error> {
        for block in folios.blocks() {
            if let Err(error) = self.claim_block(block, FrameType::Folio) {
                for block in folios.blocks().take_while(|before| before.pfn() < block.pfn()) {
                    // SAFETY: claimed by this call, and not written.
                    let undone = unsafe { self.unclaim_block(block, FrameType::Folio, None) };
                    debug_assert!(undone.is_ok(), "it was claimed just now: {undone:?}");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Checks that the folios are allocated and (not) preserved: the bytes of their frames, if they
    /// lie in one range and all say so at a first look.
    fn each_of_range(
        &self,
        folios: FolioRange,
        preserved: bool,
    ) -> Result<Option<&[AtomicU8]>, Error> {
        let mut blocks = folios.blocks();
        let Some(first) = blocks.next() else { return Ok(None) };
        let range = self.range(first.pfn())?;
        let (_, said) = self.single(range, first, FrameType::Folio, preserved)?;
        // Mostly all of them: no look at each, and no branch.
        let bytes = range.bytes_of(folios.run());
        if let Some(bytes) = bytes.filter(|bytes| alike(bytes, first.order(), said)) {
            return Ok(Some(bytes));
        }
        for block in blocks {
            self.single(self.range(block.pfn())?, block, FrameType::Folio, preserved)?;
        }
        Ok(None)
    }

    fn mark_of_range(&self, folios: FolioRange, alike: Option<&[AtomicU8]>, preserved: bool) {
        let order = folios.first().order();
        if let Some(bytes) = alike {
            return store_all(bytes, order, frame_type::encode(FrameType::Folio, order, preserved));
        }
        for block in folios.blocks() {
            self.mark_preserved(block, FrameType::Folio, preserved);
        }
    }
}

/// Returns whether the bytes of the first frames of folios of `order` that lie side by side all say
/// `said`.
fn alike(bytes: &[AtomicU8], order: Order, said: u8) -> bool {
    if order == Order::ZERO {
        return atomic_bytes::all_are(bytes, said);
    }
    let mut heads = bytes.iter().step_by(u64_to_usize(order.frames()));
    heads.all(|byte| byte.load(Relaxed) == said)
}

/// Stores `now` into the bytes of the first frames of folios of `order` that lie side by side.
fn store_all(bytes: &[AtomicU8], order: Order, now: u8) {
    if order == Order::ZERO {
        return atomic_bytes::store_all(bytes, now);
    }
    for head in bytes.iter().step_by(u64_to_usize(order.frames())) {
        head.store(now, Relaxed);
    }
}
