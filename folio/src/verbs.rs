//! The verbs of a memory, each for every [`Extent`]: allocate at an address, free, preserve, let go,
//! claim.
//!
//! What names frames by their address here is `unsafe` where the call cannot see that they are the
//! caller's. The handles ([`Folio`](crate::Folio)), which own what they name, are safe.

use crate::error::Error;
use crate::extent::{Allocation, Extent};
use crate::frame_type::FrameType;
use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Allocates exactly these frames.
    ///
    /// # Errors
    /// [`Error::NotFree`]: some frame is in use (or in the cache of another CPU).
    /// [`Error::NotMemory`]. [`Error::BadRequest`]: no frames, or a block above
    /// [`Order::MAX_FOLIO`](heirloom_kho::Order::MAX_FOLIO).
    pub fn alloc_at<E: Allocation>(&self, extent: E) -> Result<(), Error> {
        extent.alloc_at(self, E::KIND)
    }

    /// Allocates exactly these frames as `kind`: [`Memory::alloc_at`] for what a layer above keeps.
    ///
    /// # Errors
    /// As for [`Memory::alloc_at`]; [`Error::BadRequest`]: a kind that is not the extent's, or one
    /// that no call allocates.
    #[doc(hidden)]
    pub fn alloc_at_as<E: Allocation>(&self, extent: E, kind: FrameType) -> Result<(), Error> {
        extent.alloc_at(self, kind)
    }

    /// Frees a folio or a run that [`Memory::alloc`], [`Memory::alloc_run`] or [`Memory::alloc_at`]
    /// returned.
    ///
    /// # Errors
    /// Nothing is changed and the frames stay their owner's: [`Error::DoubleFree`],
    /// [`Error::WrongOrder`], [`Error::WrongLength`], [`Error::WrongType`], [`Error::TailFrame`],
    /// [`Error::Preserved`], [`Error::NeverAllocated`], [`Error::NotMemory`]. One byte is read to tell.
    ///
    /// # Safety
    /// The caller owns the frames: nothing will read or write them through an older pointer, and no
    /// other call frees, preserves or claims them at the same time.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few loads and stores: a call costs as much again")]
    pub unsafe fn free<E: Allocation>(&self, extent: E) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { extent.free(self, E::KIND) }
    }

    /// Frees frames of `kind`, which the request named: [`Memory::free`] for what a layer above keeps.
    ///
    /// # Errors
    /// As for [`Memory::free`]; [`Error::BadRequest`] for a run of a kind that is no run's.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as for `free`")]
    pub unsafe fn free_as<E: Allocation>(&self, extent: E, kind: FrameType) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { extent.free(self, kind) }
    }

    /// Makes allocated frames survive a jump.
    ///
    /// [`Folio::preserve`](crate::Folio::preserve) is the safe call, for an owned folio. A run is
    /// tracked as its few largest aligned blocks. Of [adjacent](heirloom_kho::tree::FolioRange) folios, up
    /// to 64 are preserved with one atomic operation, and each is still a folio of its own. Blocks in a
    /// slice may lie anywhere, in any order: it costs what a call for each costs where everything is near,
    /// and a quarter of it where they are scattered over much memory.
    ///
    /// # Errors
    /// [`Error::AlreadyPreserved`]; [`Error::NeverAllocated`], [`Error::DoubleFree`] (it is free),
    /// [`Error::TailFrame`], [`Error::WrongOrder`], [`Error::WrongLength`]: it is not allocated so;
    /// [`Error::WrongType`]: it is no folio, or no run, but what a layer above keeps;
    /// [`Error::NotMemory`]; [`Error::OutOfMemory`] for a node. Of many, the error names the first at
    /// fault (a block that is there twice is, the second time). All or nothing, but for empty nodes of
    /// the tree, which serve the next call.
    ///
    /// # Safety
    /// The caller owns the frames, if they are allocated as a folio or a run: nothing else frees them,
    /// preserves them, lets them go or resizes them while the call runs, and no handle
    /// ([`Folio`](crate::Folio)) owns them. What is not allocated so is refused.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(256))?;
    /// let blocks = [0, 3, 1].map(|order| memory.alloc(Request::new(Order::new(order).unwrap())));
    /// let [a, b, c] = blocks.map(Result::unwrap);
    /// // SAFETY: allocated just now, and told to nothing else.
    /// unsafe { memory.preserve(b) }?;
    /// // SAFETY: as above.
    /// let refused = unsafe { memory.preserve(&[a, b, c]) };
    /// assert_eq!(refused, Err(Error::AlreadyPreserved { block: b }));
    /// assert!(memory.preserved().contains(b) && !memory.preserved().contains(a));
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub unsafe fn preserve<E: Extent>(&self, extent: E) -> Result<(), Error> {
        extent.preserve(self)
    }

    /// Makes allocated frames of `kind` survive a jump: [`Memory::preserve`] for what a layer above keeps.
    ///
    /// # Errors
    /// As for [`Memory::preserve`]; [`Error::BadRequest`]: a kind that is not the extent's.
    ///
    /// # Safety
    /// As for [`Memory::preserve`].
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, FrameType, Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let table = memory.alloc(Request::new(Order::ZERO).frame_type(FrameType::Table))?;
    /// // SAFETY: allocated just now.
    /// let refused = unsafe { memory.preserve(table) };
    /// assert!(matches!(refused, Err(Error::WrongType { .. })));
    /// // SAFETY: as above.
    /// unsafe { memory.preserve_as(table, FrameType::Table) }?;
    /// assert!(memory.preserved().contains(table));
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(hidden)]
    #[inline]
    pub unsafe fn preserve_as<E: Allocation>(
        &self,
        extent: E,
        kind: FrameType,
    ) -> Result<(), Error> {
        extent.preserve_as(self, kind)
    }

    /// Lets preserved frames go: they no longer survive, and can be freed.
    ///
    /// # Errors
    /// [`Error::NotPreserved`], and as for [`Memory::preserve`]. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::preserve`], but that they are preserved; no
    /// [`PreservedFolio`](crate::PreservedFolio) owns them, and they are no area's.
    #[inline]
    pub unsafe fn unpreserve<E: Extent>(&self, extent: E) -> Result<(), Error> {
        extent.unpreserve(self)
    }

    /// Lets preserved frames of `kind` go: [`Memory::unpreserve`] for what a layer above keeps.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`]; [`Error::BadRequest`]: a kind that is not the extent's.
    ///
    /// # Safety
    /// As for [`Memory::unpreserve`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn unpreserve_as<E: Allocation>(
        &self,
        extent: E,
        kind: FrameType,
    ) -> Result<(), Error> {
        extent.unpreserve_as(self, kind)
    }

    /// Claims what a predecessor preserved: from now on it is the caller's, and still preserved, to be
    /// let go by [`Memory::unpreserve`] before it can be freed. Once: the exchange of its byte decides.
    ///
    /// [`Memory::claim_owned`] gives a handle.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: never was, with this order, or is claimed already.
    /// [`Error::WrongType`]: it is known to be a slab or a table. [`Error::BadRequest`]: no frames, or a
    /// block above [`Order::MAX_FOLIO`](heirloom_kho::Order::MAX_FOLIO) (claim it as a run). Of many,
    /// the error names the first at fault. All or nothing.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Request};
    /// use heirloom_kho::Order;
    ///
    /// let ranges = Ram::frames(256);
    /// let old = Ram::memory(&ranges)?;
    /// let blocks = [0, 3, 1].map(|order| old.alloc(Request::new(Order::new(order).unwrap())));
    /// let blocks = blocks.map(Result::unwrap);
    /// // SAFETY: allocated just now, and told to nothing else.
    /// unsafe { old.preserve(&blocks) }?;
    /// let root = old.preserved().tree_root()?;
    ///
    /// let (new, _) = old.into_machine().attach(&ranges)?.take_over(root)?;
    /// new.claim(blocks[0])?;
    /// let again = new.claim(&blocks);
    /// assert_eq!(again, Err(Error::NotPreserved { block: blocks[0] }));
    /// new.claim(&blocks[1..])?;
    /// assert!(new.preserved().contains(blocks[1]));
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub fn claim<E: Extent>(&self, extent: E) -> Result<(), Error> {
        extent.claim(self)
    }

    /// Claims what a predecessor preserved, as `kind`: [`Memory::claim`] for what a layer above keeps.
    /// (What is claimed as [`FrameType::Slab`] is a [`FrameType::Table`] until [`Memory::make_slab`].)
    ///
    /// # Errors
    /// As for [`Memory::claim`]; [`Error::WrongType`]: its [label](crate::Predecessor::label), if it has one, says
    /// that it is something else. [`Error::BadRequest`]: a kind that is not the extent's.
    ///
    /// # Safety
    /// The caller is the reader of what the label stands for: whatever else relies on a block with
    /// that label is told by the caller.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn claim_as<E: Allocation>(&self, extent: E, kind: FrameType) -> Result<(), Error> {
        extent.claim_as(self, kind)
    }

    /// Undoes a claim: the frames, which are of `kind` by now and preserved, are there for the next claim.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve_as`], and nothing is changed.
    ///
    /// # Safety
    /// As for [`Memory::free`]; the frames came from [`Memory::claim`] and their contents are as they
    /// were then.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn unclaim_as<E: Allocation>(
        &self,
        extent: E,
        kind: FrameType,
    ) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { extent.unclaim(self, kind) }
    }
}
