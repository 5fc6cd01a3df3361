//! Many blocks in one call, wherever they lie: what the next ones need comes meanwhile.
//!
//! Preserving or claiming a block is two looks, at a word of the tree and at the frame's byte. Where
//! blocks are scattered over much memory each is a miss, and a call for each block waits for its
//! own. A call for many asks ahead, and so waits for one of sixteen.

use heirloom_kho::Block;
use heirloom_kho::prefetch::prefetch;

use crate::error::Error;
use crate::frame_type::FrameType;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::tracker::LeafBit;

/// How many blocks ahead of the one at hand are asked for: so many misses that a processor has
/// under way at once.
const AHEAD: usize = 16;

impl<M: Machine> Memory<M> {
    /// Preserves many folios, on their owner's behalf.
    pub(crate) fn preserve_all(&self, blocks: &[Block]) -> Result<(), Error> {
        let ask = |block| self.ask_for(block);
        let preserve = |block| self.preserve_block(block, FrameType::Folio);
        all_or_none(blocks, ask, preserve, |block| self.unpreserve_block(block, FrameType::Folio))
    }

    /// Lets many preserved folios go, on their owner's behalf.
    pub(crate) fn unpreserve_all(&self, blocks: &[Block]) -> Result<(), Error> {
        let ask = |block| self.ask_for(block);
        let unpreserve = |block| self.unpreserve_block(block, FrameType::Folio);
        all_or_none(blocks, ask, unpreserve, |block| self.preserve_block(block, FrameType::Folio))
    }

    /// Claims many folios that a predecessor preserved.
    pub(crate) fn claim_all(&self, blocks: &[Block]) -> Result<(), Error> {
        let ask = |block| self.ask_for(block);
        let claim = |block| self.claim_block(block, FrameType::Folio);
        // SAFETY: claimed by this call, and not written.
        let undo = |block| unsafe { self.unclaim_block(block, FrameType::Folio, None) };
        all_or_none(blocks, ask, claim, undo)
    }

    /// Asks for what preserving, letting go or claiming a block looks at.
    #[inline]
    fn ask_for(&self, block: Block) {
        let Some(range) = self.ranges.find(block.pfn()) else { return };
        if let Some(byte) = range.byte(block.pfn()) {
            prefetch(byte);
        }
        let leaf = self.leaf_in(range, block);
        if let Some(leaf_bit) = leaf.and_then(|leaf| LeafBit::of(leaf, block)) {
            leaf_bit.prefetch();
        }
    }
}

/// Does `act` to all of the blocks, or to none: then it undoes what it did.
fn all_or_none(
    blocks: &[Block],
    ask: impl Fn(Block),
    act: impl Fn(Block) -> Result<(), Error>,
    undo: impl Fn(Block) -> Result<(), Error>,
) -> Result<(), Error> {
    blocks.iter().take(AHEAD).for_each(|block| ask(*block));
    for (i, block) in blocks.iter().enumerate() {
        if let Some(ahead) = blocks.get(i + AHEAD) {
            ask(*ahead);
        }
        if let Err(error) = act(*block) {
            for block in blocks.iter().take(i) {
                let undone = undo(*block);
                debug_assert!(undone.is_ok(), "what was done just now can be undone: {undone:?}");
            }
            return Err(error);
        }
    }
    Ok(())
}
