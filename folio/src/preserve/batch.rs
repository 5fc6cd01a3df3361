//! Many blocks in one call, wherever they lie: what the next ones need comes meanwhile.
//!
//! Preserving or claiming a block is two looks, at a word of the tree and at the frame's byte. Where
//! blocks are scattered over much memory each is a miss, and a call for each block waits for its
//! own. A call for many asks ahead, and so waits for one of sixteen.

use heirloom_kho::Block;
use heirloom_kho::prefetch::prefetch;

use crate::error::Error;
use crate::frame_type::Kind;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::tracker::LeafBit;

/// How many blocks ahead of the one at hand are asked for: so many misses that a processor has
/// under way at once.
const AHEAD: usize = 16;

impl<M: Machine> Memory<M> {
    /// Makes many allocated blocks survive, in any order, wherever they lie.
    ///
    /// Costs what [`Memory::preserve`] costs where everything is near, and a quarter of it where
    /// they are scattered over much memory.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], naming the first at fault (a block that is there twice is,
    /// the second time). All or nothing, but for empty nodes of the tree, which serve the next call.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Order, Request};
    ///
    /// let memory = Ram::memory(&Ram::frames(256))?;
    /// let blocks = [0, 3, 1].map(|order| memory.alloc(Request::new(Order::new(order).unwrap())));
    /// let [a, b, c] = blocks.map(Result::unwrap);
    /// // SAFETY: allocated just now, and told to nothing else.
    /// unsafe { memory.preserve_all(&[a, b, c]) }?;
    /// assert!(memory.is_preserved(b));
    /// // SAFETY: as above.
    /// unsafe { memory.unpreserve(b) }?;
    /// // SAFETY: as above.
    /// let refused = unsafe { memory.unpreserve_all(&[a, b, c]) };
    /// assert_eq!(refused, Err(Error::NotPreserved { block: b }));
    /// assert!(memory.is_preserved(a) && memory.is_preserved(c));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Safety
    /// As for [`Memory::preserve`], for each of them.
    pub unsafe fn preserve_all(&self, blocks: &[Block]) -> Result<(), Error> {
        let ask = |block| self.ask_for(block);
        let preserve = |block| self.preserve_kind(block, Kind::Folio);
        all_or_none(blocks, ask, preserve, |block| self.unpreserve_kind(block, Kind::Folio))
    }

    /// Lets many preserved blocks go.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`], naming the first at fault. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::unpreserve`], for each of them.
    pub unsafe fn unpreserve_all(&self, blocks: &[Block]) -> Result<(), Error> {
        let ask = |block| self.ask_for(block);
        let unpreserve = |block| self.unpreserve_kind(block, Kind::Folio);
        all_or_none(blocks, ask, unpreserve, |block| self.preserve_kind(block, Kind::Folio))
    }

    /// Claims many folios that a predecessor preserved, as [`Memory::claim`] does one: they stay
    /// preserved.
    ///
    /// # Errors
    /// As for [`Memory::claim`] as [`Kind::Folio`], naming the first at fault. All or nothing.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Order, Request};
    ///
    /// let ranges = Ram::frames(256);
    /// let old = Ram::memory(&ranges)?;
    /// let blocks = [0, 3, 1].map(|order| old.alloc(Request::new(Order::new(order).unwrap())));
    /// let blocks = blocks.map(Result::unwrap);
    /// // SAFETY: allocated just now, and told to nothing else.
    /// unsafe { old.preserve_all(&blocks) }?;
    /// let root = old.tree_root()?;
    ///
    /// let (new, _) = old.into_machine().attach(&ranges)?.inherit(root)?;
    /// new.claim_all(&blocks)?;
    /// let again = new.claim_all(&blocks[1..]);
    /// assert_eq!(again, Err(Error::NotPreserved { block: blocks[1] }));
    /// assert!(new.is_preserved(blocks[1]));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn claim_all(&self, blocks: &[Block]) -> Result<(), Error> {
        let ask = |block| self.ask_for(block);
        let claim = |block| self.claim(block, Kind::Folio);
        // SAFETY: claimed by this call, and not written.
        let undo = |block| unsafe { self.unclaim(block, Kind::Folio, None) };
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
