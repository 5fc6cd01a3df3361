//! What survives: preserving what is allocated, and letting it go.
//!
//! Preserving is two stores, a bit of the tree and the frame's byte, and freeing looks at the byte
//! alone. So these calls are made on behalf of a block's owner, as `verbs` demands, and nothing else
//! changes the block meanwhile.
//!
//! There is one tree, from a first kernel to the last: a successor goes on with its predecessor's
//! (`take_over`), in which blocks stay until they are claimed or disposed of.

mod batch;
mod buffers;
mod folio_range;
mod runs;

use heirloom_kho::sync::{AtomicU8, Relaxed, Release};
use heirloom_kho::{Block, Order};

use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;
use crate::tracker::LeafBit;

/// Stores what the byte of a block says from now on.
#[inline]
fn store_byte(byte: &AtomicU8, now: u8) {
    // Release pairs with the Acquire in `Range::lookup`, in place of the one in `make_slab`: a
    // caller that reads this byte, and not the one that said first that the block is a slab, finds
    // all the same what it begins with.
    byte.store(now, Release);
}

impl<M: Machine> Memory<M> {
    /// Preserves a block of `kind`, on its owner's behalf.
    #[inline]
    pub(crate) fn preserve_block(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        match self.find_fast(block, kind, false) {
            Some((leaf_bit, byte, now)) => {
                leaf_bit.preserve(block)?;
                store_byte(byte, frame_type::with_preserved(now));
                Ok(())
            }
            None => self.preserve_slow(block, kind),
        }
    }

    /// Preserves a block of which the leaf is not known or not there, or says why not.
    #[cold]
    #[inline(never)]
    fn preserve_slow(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        let (byte, now) = self.single(self.range(block.pfn())?, block, kind, false)?;
        self.tracker.preserve(&self.tables(), block)?;
        store_byte(byte, frame_type::with_preserved(now));
        Ok(())
    }

    /// Returns the bit of a block of `kind` that is allocated and (not) preserved, its byte, and what that
    /// says, if the directory knows the leaf.
    #[inline]
    fn find_fast(
        &self,
        block: Block,
        kind: FrameType,
        preserved: bool,
    ) -> Option<(LeafBit<'_>, &AtomicU8, u8)> {
        let range = self.ranges.find(block.pfn())?;
        let leaf_bit = LeafBit::of(self.leaf_in(range, block)?, block)?;
        // The tracker's word and the frame's byte are far apart, and each may be far away.
        leaf_bit.prefetch();
        if block.order() > Order::MAX_FOLIO {
            return None;
        }
        let byte = range.byte(block.pfn())?;
        let now = byte.load(Relaxed);
        frame_type::is_single(now, kind, block.order(), preserved).then_some((leaf_bit, byte, now))
    }

    /// Lets a block of `kind` go, on its owner's behalf.
    #[inline]
    pub(crate) fn unpreserve_block(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        match self.find_fast(block, kind, true) {
            Some((leaf_bit, byte, now)) => {
                leaf_bit.unpreserve(block)?;
                store_byte(byte, frame_type::without_preserved(now));
                Ok(())
            }
            None => self.unpreserve_slow(block, kind),
        }
    }

    /// Lets go a block of which the leaf is not known, or says why not.
    #[cold]
    #[inline(never)]
    fn unpreserve_slow(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        let (byte, now) = self.single(self.range(block.pfn())?, block, kind, true)?;
        self.tracker.unpreserve(&self.tables(), block)?;
        store_byte(byte, frame_type::without_preserved(now));
        Ok(())
    }

    #[inline]
    pub(crate) fn mark_preserved(&self, block: Block, kind: FrameType, preserved: bool) {
        if let Some(byte) = self.byte(block.pfn()) {
            byte.store(frame_type::encode(kind, block.order(), preserved), Relaxed);
        }
    }

    /// Returns the byte of an allocated block of `kind` that is no part of a run and (not) preserved, and
    /// what it says now.
    #[inline]
    fn single<'r>(
        &self,
        range: &'r Range,
        block: Block,
        kind: FrameType,
        preserved: bool,
    ) -> Result<(&'r AtomicU8, u8), Error> {
        if block.order() <= Order::MAX_FOLIO
            && let Some(byte) = range.byte(block.pfn())
        {
            let now = byte.load(Relaxed);
            if frame_type::is_single(now, kind, block.order(), preserved) {
                return Ok((byte, now));
            }
        }
        Err(self.refuse_single(range, block, kind, preserved))
    }
}
