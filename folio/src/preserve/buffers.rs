//! Large buffers that survive: preserved by a call, or held from birth or since they were claimed.
//!
//! What is held is preserved for as long as it is not freed, and is freed without being let go first. The byte of
//! its first block says so, and a free knows what to do from the look that it takes anyway:
//!
//! ```text
//! alloc_held      a block from the CPU's cache    byte: held     set its bit of the tree
//! free_buffer     its bit of the tree cleared     byte: freed    the block into the CPU's cache
//! ```
//!
//! The tree is exact at every instant: what is free is not in it. So a pair costs the two atomic operations more
//! that change the tree, and nothing else.
//!
//! The byte is stored before the bit is set: a bit without it would be what a predecessor left
//! ([`FrameState::Never`](crate::FrameState::Never)), there to be claimed.
//!
//! Most buffers are one block of the first range: each call looks for that, and for anything else where it is
//! not.

use core::ptr::NonNull;

use heirloom_kho::sync::{AtomicU8, Relaxed};
use heirloom_kho::{Block, Order, Pfn, Run};

use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;
use crate::request::Request;
use crate::tracker::LeafBit;

/// A buffer that is one block.
struct Single<'m> {
    range: &'m Range,
    byte: &'m AtomicU8,
    /// What the byte says.
    now: u8,
    block: Block,
}

impl<M: Machine> Memory<M> {
    /// Allocates a buffer of one block that survives for as long as it is not freed, by
    /// [`Memory::free_buffer`]. The request says of which order, where, and whether it is zeroed.
    ///
    /// One atomic operation, where the CPU keeps a block and the directory knows its leaf.
    ///
    /// # Errors
    /// As for [`Memory::alloc`]; [`Error::OutOfMemory`] for a node of the tree too. Nothing is allocated then.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{DirectMap, Error, Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let buffer = memory.alloc_held(Request::new(Order::ZERO))?;
    /// assert!(memory.is_held(buffer.pfn()) && memory.preserved().contains(buffer));
    /// // SAFETY: nothing uses it any more.
    /// unsafe { memory.free_buffer(memory.machine().ptr(buffer.addr())) }.unwrap()?;
    /// assert!(!memory.preserved().contains(buffer));
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(hidden)]
    #[inline]
    pub fn alloc_held(&self, request: Request) -> Result<Block, Error> {
        if request.order() > Order::MAX_FOLIO {
            return Err(Error::BadRequest { frames: request.order().frames() });
        }
        let block = self.take(request)?;
        if request.wants_zeroes() {
            self.clear(block.run());
        }
        let range = self.range(block.pfn())?;
        if let Some(byte) = range.byte(block.pfn()) {
            byte.store(frame_type::held(block.order()), Relaxed);
        }
        match self.leaf_bit(range, block).map(|leaf_bit| leaf_bit.preserve(block)) {
            Some(Ok(())) => Ok(block),
            _ => self.hold_slow(block.run()).map(|()| block),
        }
    }

    /// Allocates `frames` frames in a row as a buffer that survives for as long as it is not freed, as
    /// [`Memory::alloc_run`] does.
    ///
    /// # Errors
    /// As for [`Memory::alloc_run`]; [`Error::OutOfMemory`] for a node of the tree too. Nothing is allocated then.
    #[doc(hidden)]
    pub fn alloc_held_run(&self, frames: u64, request: Request) -> Result<Run, Error> {
        let run = self.alloc_run(frames, request.frame_type(FrameType::Buffer))?;
        self.mark_held(run);
        self.hold_slow(run).map(|()| run)
    }

    /// Enters a buffer in the tree of which the bytes say that it is held, or frees it.
    #[cold]
    #[inline(never)]
    fn hold_slow(&self, run: Run) -> Result<(), Error> {
        self.tracker.preserve_new_run(&self.tables(), run).inspect_err(|_| {
            self.unmark_run(run);
            self.give_run(run);
        })
    }

    /// Frees the buffer that starts where `ptr` leads, which may be held. `None`: no buffer starts there.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed; [`Error::NotPreserved`]: it is held and the tree
    /// does not have all of it, as after a stray write.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[doc(hidden)]
    pub unsafe fn free_buffer(&self, ptr: NonNull<u8>) -> Option<Result<(), Error>> {
        // SAFETY: the caller's promise.
        if unsafe { self.free_single_buffer(ptr) } {
            return Some(Ok(()));
        }
        // SAFETY: the caller's promise; nothing was freed.
        unsafe { self.free_buffer_slow(ptr) }
    }

    /// Frees the buffer that starts where `ptr` leads, which may be held, if it is one block. Returns whether it did.
    /// If not, nothing is changed, and [`Memory::free_buffer`] frees it or says why not.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn free_single_buffer(&self, ptr: NonNull<u8>) -> bool {
        let Some(Single { range, byte, now, block }) = self.single_buffer(ptr) else {
            return false;
        };
        let held = frame_type::is_held(now);
        let gone = if held {
            self.leaf_bit(range, block).is_some_and(|leaf_bit| leaf_bit.unpreserve(block).is_ok())
        } else {
            now == frame_type::encode(FrameType::Buffer, block.order(), false)
        };
        if gone {
            byte.store(frame_type::FREED, Relaxed);
            let given = self.give_block(range, block);
            debug_assert!(given.is_ok(), "its byte said that it was in use: {given:?}");
        }
        gone
    }

    /// Frees a buffer of several blocks, or of one whose leaf is not known, or says why not.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[cold]
    #[inline(never)]
    unsafe fn free_buffer_slow(&self, ptr: NonNull<u8>) -> Option<Result<(), Error>> {
        let (run, preserved) = self.buffer_at(ptr)?;
        let held = preserved && self.is_held(run.start());
        if preserved && !held {
            let block = run.blocks_up_to(Order::MAX_FOLIO).next()?;
            return Some(Err(Error::Preserved { block }));
        }
        if held && let Err(error) = self.tracker.unpreserve_each(&self.tables(), run) {
            return Some(Err(error));
        }
        self.unmark_run(run);
        self.give_run(run);
        Some(Ok(()))
    }

    /// Preserves the buffer that starts where `ptr` leads, on its owner's behalf; one that is held has to be let
    /// go from then on before it is freed. Returns what `name` returns for its frames, which is called
    /// before anything is changed. `None`: no buffer starts there.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], and those of `name`. Nothing is changed then.
    ///
    /// # Safety
    /// As for [`Memory::preserve`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn preserve_buffer<R, E: From<Error>>(
        &self,
        ptr: NonNull<u8>,
        name: impl FnOnce(Run) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let Some(Single { range, byte, now, block }) = self.single_buffer(ptr) else {
            return self.preserve_buffer_slow(ptr, name);
        };
        Some(name(block.run()).and_then(|named| {
            let preserved = frame_type::encode(FrameType::Buffer, block.order(), true);
            if now == preserved {
                return Err(Error::AlreadyPreserved { block }.into());
            }
            // What is held is in the tree.
            if !frame_type::is_held(now) {
                match self.leaf_bit(range, block) {
                    Some(leaf_bit) => leaf_bit.preserve(block)?,
                    None => self.tracker.preserve(&self.tables(), block)?,
                }
            }
            byte.store(preserved, Relaxed);
            Ok(named)
        }))
    }

    /// Preserves a buffer of several blocks.
    #[cold]
    #[inline(never)]
    fn preserve_buffer_slow<R, E: From<Error>>(
        &self,
        ptr: NonNull<u8>,
        name: impl FnOnce(Run) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let (run, _) = self.buffer_at(ptr)?;
        Some(name(run).and_then(|named| {
            self.preserve_run(run, FrameType::Buffer)?;
            Ok(named)
        }))
    }

    /// Lets the buffer go that starts where `ptr` leads, on its owner's behalf. `None`: no buffer starts there.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`]. Nothing is changed then.
    ///
    /// # Safety
    /// As for [`Memory::unpreserve`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn unpreserve_buffer(&self, ptr: NonNull<u8>) -> Option<Result<(), Error>> {
        if let Some(Single { range, byte, now, block }) = self.single_buffer(ptr) {
            let plain = frame_type::encode(FrameType::Buffer, block.order(), false);
            if now != plain
                && let Some(leaf_bit) = self.leaf_bit(range, block)
            {
                let gone = leaf_bit.unpreserve(block);
                return Some(gone.map(|()| byte.store(plain, Relaxed)));
            }
        }
        let (run, _) = self.buffer_at(ptr)?;
        Some(self.unpreserve_run(run, FrameType::Buffer))
    }

    /// Returns the frames of the buffer that starts where `ptr` leads.
    #[doc(hidden)]
    #[inline]
    pub fn buffer_of(&self, ptr: NonNull<u8>) -> Option<Run> {
        match self.single_buffer(ptr) {
            Some(single) => Some(single.block.run()),
            None => self.buffer_at(ptr).map(|(run, _)| run),
        }
    }

    /// Returns whether a buffer starts at a frame that survives for as long as it is not freed.
    #[doc(hidden)]
    pub fn is_held(&self, pfn: Pfn) -> bool {
        self.byte(pfn).is_some_and(|byte| frame_type::is_held(byte.load(Relaxed)))
    }

    /// Says of a buffer that it is held.
    pub(crate) fn mark_held(&self, run: Run) {
        if let Some(block) = run.blocks_up_to(Order::MAX_FOLIO).next()
            && let Some(byte) = self.byte(block.pfn())
        {
            byte.store(frame_type::held(block.order()), Relaxed);
        }
    }

    /// Returns the buffer that starts where `ptr` leads, if it is one block.
    #[inline]
    fn single_buffer(&self, ptr: NonNull<u8>) -> Option<Single<'_>> {
        let first = self.ranges.first().filter(|range| range.holds(ptr));
        let range = first.or_else(|| self.range_of(ptr))?;
        let (byte, now, block) = range.single(ptr, frame_type::buffer_order_of)?;
        Some(Single { range, byte, now, block })
    }

    /// Returns the range that a pointer leads into.
    #[cold]
    #[inline(never)]
    fn range_of(&self, ptr: NonNull<u8>) -> Option<&Range> {
        self.ranges.find(self.machine().phys(ptr)?.pfn())
    }

    /// Returns the buffer that starts where `ptr` leads, and whether it is preserved, or held.
    #[cold]
    #[inline(never)]
    fn buffer_at(&self, ptr: NonNull<u8>) -> Option<(Run, bool)> {
        let addr = self.machine().phys(ptr).filter(|addr| addr.is_page_aligned())?;
        self.find_run_at(addr.pfn(), FrameType::Buffer)
    }

    /// Returns the bit of a block of `range`, if the directory knows its leaf.
    #[inline]
    fn leaf_bit(&self, range: &Range, block: Block) -> Option<LeafBit<'_>> {
        LeafBit::of(self.leaf_in(range, block)?, block)
    }
}
