//! What a predecessor left and is still to be claimed, and its end.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Order, Pfn};

use super::exchange;
use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;

/// What becomes of a block that the predecessor preserved and that was not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// Its frames are free memory.
    Free,
    /// It stays as it is: preserved, and there to be claimed, in this kernel or the next.
    Keep,
}

/// What a predecessor preserved in a memory and is still to be claimed: from [`Memory::predecessor`].
///
/// [`Memory::claim`] takes from it, and [`Predecessor::finish`] decides about the rest.
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_folio::{Disposition, Request};
/// use heirloom_kho::Order;
///
/// let ranges = Ram::frames(64);
/// let old = Ram::memory(&ranges)?;
/// let claimed = old.alloc_folio(Request::new(Order::ZERO))?.preserve()?.into_raw();
/// let forgotten = old.alloc_folio(Request::new(Order::ZERO))?.preserve()?.into_raw();
/// let root = old.preserved().tree_root()?;
///
/// let (new, _) = old.into_machine().attach(&ranges)?.take_over(root)?;
/// new.claim(claimed)?;
/// assert!(new.predecessor().contains(forgotten));
/// assert_eq!(new.predecessor().finish(|_| Disposition::Free), (1, 0));
/// assert!(new.preserved().contains(claimed) && !new.preserved().contains(forgotten));
/// # Ok::<(), heirloom_folio::Error>(())
/// ```
pub struct Predecessor<'m, M: Machine> {
    memory: &'m Memory<M>,
}

impl<M: Machine> Clone for Predecessor<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Predecessor<'_, M> {}

impl<M: Machine> Memory<M> {
    /// Returns the view of what a predecessor preserved and is still to be claimed; empty without one.
    #[inline]
    pub const fn predecessor(&self) -> Predecessor<'_, M> {
        Predecessor { memory: self }
    }
}

impl<M: Machine> Predecessor<'_, M> {
    /// Returns whether a predecessor preserved exactly this block, and it is still to be claimed.
    pub fn contains(self, block: Block) -> bool {
        self.memory.preserved().contains(block) && self.memory.is_unclaimed(block)
    }

    /// Calls `each` with every block that a predecessor preserved and that is still to be claimed.
    ///
    /// No lock is held and no CPU pinned: `each` may call anything. What is claimed or disposed of
    /// since the call began may be among them or not.
    pub fn for_each(self, each: impl FnMut(Block)) {
        self.memory.for_each_with(frame_type::is_unclaimed, each);
    }

    /// Asks about every block that is still to be claimed and has no [label](Predecessor::label), and does
    /// what `decide` decides. Returns how many blocks were freed, and how many are still to be claimed as
    /// `decide` keeps them. What has a label is left to the layer that gave it.
    ///
    /// No lock is held and no CPU pinned: `decide` may call anything, this too. What it claims, or
    /// another CPU claims meanwhile, is left to its owner and not counted. The call may be repeated, as
    /// long as anything is left; and need not be made at all: what is unclaimed stays preserved.
    pub fn finish(self, mut decide: impl FnMut(Block) -> Disposition) -> (u64, u64) {
        let (mut freed, mut kept) = (0, 0);
        if self.memory.is_settled() {
            return (freed, kept);
        }
        // A label is another byte.
        self.memory.for_each_with(
            |byte| byte == frame_type::NEVER,
            |block| match decide(block) {
                Disposition::Free => freed += u64::from(self.memory.dispose_of(block)),
                Disposition::Keep => kept += u64::from(self.memory.is_unclaimed(block)),
            },
        );
        (freed, kept)
    }

    /// Frees a block that is still to be claimed. Returns whether it was. Does what
    /// [`Predecessor::finish`] does where it is told to free one.
    #[doc(hidden)]
    pub fn dispose_of(self, block: Block) -> bool {
        self.memory.dispose_of(block)
    }

    /// Says what an unclaimed block is. A [`FrameType::Slab`]: from now on only a claim as one takes it. A
    /// [`FrameType::Table`]: it is the caller's from now on, which tells it by [`Predecessor::label_of`] from all
    /// that this kernel allocated, and never lets it go. Those are found by reading what the predecessor
    /// wrote; so no caller gets them as plain folios.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: not a block that can be claimed. [`Error::WrongType`]: it is a slab or a
    /// table already, maybe by the same label: two tables name it. [`Error::BadRequest`]: no label is of
    /// this kind, or of a block so large.
    ///
    /// # Safety
    /// The caller is the reader of what the label stands for: it found the block in what the
    /// predecessor wrote, as a table or a slab.
    #[doc(hidden)]
    pub unsafe fn label(self, block: Block, kind: FrameType) -> Result<(), Error> {
        let label = frame_type::encode_label(kind, block.order());
        let label = label.ok_or(Error::BadRequest { frames: block.order().frames() })?;
        let gone = Error::NotPreserved { block };
        let range = self.memory.range(block.pfn()).map_err(|_| gone)?;
        let byte = range.byte(block.pfn()).ok_or(gone)?;
        if !self.memory.has_bit(range, block) {
            return Err(gone);
        }
        exchange::label(byte, block, kind, label)?;
        self.memory.settle(1);
        Ok(())
    }

    /// Returns the block that a predecessor preserved, and that is still to be claimed, that holds the frame.
    #[doc(hidden)]
    pub fn block_at(self, pfn: Pfn) -> Option<Block> {
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        let mut blocks = orders.map(|order| Block::containing(pfn, order));
        blocks.find(|block| self.contains(*block))
    }

    /// Returns the label of an unclaimed block, if it has one.
    #[doc(hidden)]
    pub fn label_of(self, block: Block) -> Option<FrameType> {
        let (kind, order) = frame_type::labelled(self.memory.byte(block.pfn())?.load(Relaxed))?;
        (order == block.order()).then_some(kind)
    }

    /// Undoes a claim of a block that had a [label](Predecessor::label), which it has again: it is of `kind` by
    /// now and preserved, and there for the next claim as what the label says.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve_as`], and nothing is changed.
    ///
    /// # Safety
    /// As for [`Memory::unclaim_as`].
    #[doc(hidden)]
    pub unsafe fn unclaim_labelled(
        self,
        block: Block,
        kind: FrameType,
        label: FrameType,
    ) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.memory.unclaim_block(block, kind, Some(label)) }
    }
}
