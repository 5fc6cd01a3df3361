//! The page allocator: folios and runs, taken and given back, with every misuse told apart.

use core::ptr::NonNull;

use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::sync::{Relaxed, written};
use heirloom_kho::{Block, Order, Pfn, Run};

use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::node_backend::source_of;
use crate::range::Range;
use crate::request::Request;

impl<M: Machine> Memory<M> {
    /// Allocates a block.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: no such block is free where the request allows. (What another CPU
    /// keeps in its cache is not found until that CPU's next call, which gives it back; see
    /// [`Memory::drain`]. At most 192 single frames a CPU, and of no order more than an eighth of
    /// memory on all CPUs.)
    /// [`Error::BadRequest`]: the order is above [`Order::MAX_FOLIO`], or [`FrameType::Tail`] or
    /// [`FrameType::Slab`] was asked for.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few loads and stores: a call costs as much again")]
    pub fn alloc(&self, request: Request) -> Result<Block, Error> {
        if request.order() > Order::MAX_FOLIO || !nameable(request.use_for()) {
            return Err(Error::BadRequest { frames: request.order().frames() });
        }
        let Some(pfn) = self.alloc_fast(request) else { return self.alloc_slow(request) };
        let block = Block::aligned(pfn, request.order());
        self.mark(block, request.use_for());
        if request.wants_zeroes() {
            self.clear(block.run());
        }
        Ok(block)
    }

    /// Allocates a block where the CPU keeps none.
    #[inline(never)]
    fn alloc_slow(&self, request: Request) -> Result<Block, Error> {
        let block = self.take_slow(request)?;
        self.mark(block, request.use_for());
        if request.wants_zeroes() {
            self.clear(block.run());
        }
        Ok(block)
    }

    /// Allocates exactly this block.
    pub(crate) fn alloc_block_at(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        if block.order() > Order::MAX_FOLIO || !nameable(kind) {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        self.take_run_at(block.run())?;
        self.note_use();
        self.mark(block, kind);
        Ok(())
    }

    /// Frees a block of `kind`, or a run that is as long as one.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few loads and stores: a call costs as much again")]
    pub(crate) unsafe fn free_block(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        if kind.is_run() {
            // SAFETY: the same contract.
            return unsafe { self.free_run(block.run(), kind) };
        }
        match range.byte(block.pfn()) {
            Some(byte)
                if block.order() <= Order::MAX_FOLIO
                    && byte.load(Relaxed) == frame_type::encode(kind, block.order(), false) =>
            {
                byte.store(frame_type::FREED, Relaxed);
                self.give_block(range, block)
            }
            _ => Err(self.refuse(range, block, kind)),
        }
    }

    /// Frees the run of `kind` that starts where `ptr` leads, if it is one block in the range that
    /// was added first and not preserved. Returns whether it did. If not, nothing is changed, and
    /// [`Memory::free_as`] frees it or says why not.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn free_single(&self, ptr: NonNull<u8>, kind: FrameType) -> bool {
        let Some(range) = self.ranges.first() else { return false };
        let of_kind = |byte| frame_type::order_of(byte, kind);
        let Some((byte, _, block)) = range.single(ptr, of_kind) else {
            return false;
        };
        byte.store(frame_type::FREED, Relaxed);
        if !self.free_fast(range, block) {
            let given = self.free_slow(range, block);
            debug_assert!(given.is_ok(), "its byte said that it was in use: {given:?}");
        }
        true
    }

    /// Takes a block from this CPU's cache or from the shared bits. Its byte is not set yet.
    #[inline]
    pub(crate) fn take(&self, request: Request) -> Result<Block, Error> {
        match self.alloc_fast(request) {
            Some(pfn) => Ok(Block::aligned(pfn, request.order())),
            None => self.take_slow(request),
        }
    }

    /// Takes a block that this CPU keeps, if that is all there is to do: a call more on this path
    /// would cost as much again. (A frame number and not a block: two registers, not a copy.)
    #[inline]
    fn alloc_fast(&self, request: Request) -> Option<Pfn> {
        self.machine().try_with_cpu(|cpu| {
            let cpu = self.slots.with_slot(cpu)?;
            // SAFETY: pinned to `cpu`; nothing below comes back here.
            unsafe {
                self.slots.slot(cpu).with(|mut list| {
                    let here =
                        request.node().is_none_or(|node| node == self.machine().node_of(cpu));
                    if here && list.is_ready() { list.pop(request.order()) } else { None }
                })
            }
        })
    }

    /// Gives a block to this CPU's cache or to the shared bits. Its byte is cleared already.
    #[inline]
    pub(crate) fn give_block(&self, range: &Range, block: Block) -> Result<(), Error> {
        if self.free_fast(range, block) { Ok(()) } else { self.free_slow(range, block) }
    }

    /// Keeps a freed block in this CPU's cache, if that is all there is to do. Returns whether it did.
    #[inline]
    fn free_fast(&self, range: &Range, block: Block) -> bool {
        self.machine().try_with_cpu(|cpu| {
            let Some(cpu) = self.slots.with_slot(cpu) else { return false };
            // SAFETY: pinned to `cpu`; nothing below comes back here.
            unsafe {
                self.slots
                    .slot(cpu)
                    .with(|mut list| list.is_ready_for(source_of(range)) && list.push(block))
            }
        })
    }

    /// Writes the byte of an allocated block.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "one store behind a look at the range")]
    pub(crate) fn mark(&self, block: Block, kind: FrameType) {
        if let Some(byte) = self.byte(block.pfn()) {
            byte.store(frame_type::encode(kind, block.order(), false), Relaxed);
        }
    }

    /// Fills `run` with zeroes.
    pub(crate) fn clear(&self, run: Run) {
        // SAFETY: callers own every frame of `run`, which lies in one stretch of memory.
        unsafe { self.machine().ptr(run.addr()).write_bytes(0, u64_to_usize(run.bytes())) };
        written(self.machine().ptr(run.addr()), u64_to_usize(run.bytes()));
    }
}

/// Returns whether a caller may allocate blocks of this kind.
const fn nameable(kind: FrameType) -> bool {
    !matches!(kind, FrameType::Tail | FrameType::Slab)
}
