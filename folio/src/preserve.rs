//! What survives: preserving what is allocated, and letting it go.
//!
//! Preserving is two stores, a bit of the tree and the frame's byte, and freeing looks at the byte
//! alone. So whatever names a block by its address here is `unsafe`: the block's owner calls it,
//! and nothing else changes the block meanwhile. The handles, which own what they name, are safe.
//!
//! There is one tree, from a first kernel to the last: a successor goes on with its predecessor's
//! (`inherit`), in which blocks stay until they are claimed or disposed of.

mod adjacent;
mod batch;
mod runs;

use heirloom_kho::sync::{AtomicU8, Relaxed, Release};
use heirloom_kho::{Block, Order};

use crate::error::Error;
use crate::frame_type::{self, Kind};
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
    /// Makes an allocated folio survive a jump.
    ///
    /// [`Folio::preserve`](crate::Folio::preserve) is the safe call, for an owned folio. What a layer
    /// above keeps, a [`Kind::Table`] or a [`Kind::Slab`], is refused: [`Memory::preserve_as`] is for
    /// its owner.
    ///
    /// # Errors
    /// [`Error::AlreadyPreserved`]; [`Error::NeverAllocated`], [`Error::DoubleFree`] (it is
    /// free), [`Error::TailFrame`], [`Error::WrongOrder`]: it is no allocated block;
    /// [`Error::WrongKind`]: it is no folio; [`Error::NotMemory`]; [`Error::OutOfMemory`] for a
    /// node.
    ///
    /// # Safety
    /// The caller owns the block, if it is allocated as a folio: nothing else frees it, preserves it,
    /// lets it go or resizes it while the call runs, and no handle ([`Folio`](crate::Folio)) owns it.
    /// A block that is none is refused.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Order, Request};
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let block = memory.alloc(Request::new(Order::ZERO))?;
    /// // SAFETY: allocated just now, and told to nothing else.
    /// unsafe { memory.preserve(block) }?;
    /// assert!(memory.is_preserved(block));
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub unsafe fn preserve(&self, block: Block) -> Result<(), Error> {
        self.preserve_kind(block, Kind::Folio)
    }

    /// Makes an allocated block of `kind` survive a jump, a table or a slab too.
    ///
    /// # Errors
    /// As for [`Memory::preserve`]; [`Error::BadRequest`] for a run's kind.
    ///
    /// # Safety
    /// As for [`Memory::preserve`]; the caller owns the block, a table or a slab of its own, or a folio.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Kind, Order, Request};
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let table = memory.alloc(Request::new(Order::ZERO).kind(Kind::Table))?;
    /// // SAFETY: allocated just now.
    /// let refused = unsafe { memory.preserve(table) };
    /// assert!(matches!(refused, Err(Error::WrongKind { .. })));
    /// // SAFETY: as above.
    /// unsafe { memory.preserve_as(table, Kind::Table) }?;
    /// assert!(memory.is_preserved(table));
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(hidden)]
    #[inline]
    pub unsafe fn preserve_as(&self, block: Block, kind: Kind) -> Result<(), Error> {
        self.preserve_kind(block, kind)
    }

    /// [`Memory::preserve_as`] for what has made sure of its contract.
    #[inline]
    pub(crate) fn preserve_kind(&self, block: Block, kind: Kind) -> Result<(), Error> {
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
    fn preserve_slow(&self, block: Block, kind: Kind) -> Result<(), Error> {
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
        kind: Kind,
        preserved: bool,
    ) -> Option<(LeafBit<'_>, &AtomicU8, u8)> {
        let range = self.ranges.find(block.pfn())?;
        let leaf_bit = LeafBit::of(self.leaf_in(range, block)?, block)?;
        // The tracker's word and the frame's byte are far apart, and each may be far away.
        leaf_bit.prefetch();
        let byte = range.byte(block.pfn()).filter(|_| block.order() <= Order::MAX_FOLIO)?;
        let now = byte.load(Relaxed);
        frame_type::is_single(now, kind, block.order(), preserved).then_some((leaf_bit, byte, now))
    }

    /// Lets a preserved folio go: it no longer survives, and can be freed.
    ///
    /// # Errors
    /// [`Error::NotPreserved`], and as for [`Memory::preserve`].
    ///
    /// # Safety
    /// As for [`Memory::preserve`], but that it is preserved; no
    /// [`PreservedFolio`](crate::PreservedFolio) owns it, and it is no area's.
    #[inline]
    pub unsafe fn unpreserve(&self, block: Block) -> Result<(), Error> {
        self.unpreserve_kind(block, Kind::Folio)
    }

    /// Lets a preserved block of `kind` go, a table or a slab too.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`]; [`Error::BadRequest`] for a run's kind.
    ///
    /// # Safety
    /// As for [`Memory::preserve_as`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn unpreserve_as(&self, block: Block, kind: Kind) -> Result<(), Error> {
        self.unpreserve_kind(block, kind)
    }

    /// [`Memory::unpreserve_as`] for what has made sure of its contract.
    #[inline]
    pub(crate) fn unpreserve_kind(&self, block: Block, kind: Kind) -> Result<(), Error> {
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
    fn unpreserve_slow(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let (byte, now) = self.single(self.range(block.pfn())?, block, kind, true)?;
        self.tracker.unpreserve(&self.tables(), block)?;
        store_byte(byte, frame_type::without_preserved(now));
        Ok(())
    }

    #[inline]
    pub(crate) fn mark_preserved(&self, block: Block, kind: Kind, preserved: bool) {
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
        kind: Kind,
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
