//! What a predecessor left: going on with its tree, claiming what is in it, disposing of the rest.
//!
//! A successor goes on with the predecessor's tree: it checks it, and from then on preserves in it
//! and lets go in it as if it had made it. What is in it and has no owner here is *unclaimed*.
//!
//! A claim writes nothing that a successor reads: what is claimed is preserved until its owner lets it
//! go, as if it had just been preserved. All frame types are zeroes when a memory begins, so everything
//! that was preserved is unclaimed at first, however many kernels began to claim it and died. Which caller
//! gets a block is decided by one exchange of its byte, in `exchange`.
//!
//! ```text
//! take_over ── holding    checks the tree; takes its blocks and nodes out of the free bits
//!           └─ prune      nodes that lead to nothing become free memory
//! claim, label, finish ── exchange
//! ```

mod exchange;
mod holding;
mod settled;
mod tally;
mod unclaimed;
mod view;

use exchange::{Disposal, Places};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::prefetch::{prefetch, prefetch_at};
use heirloom_kho::sync::{AtomicU8, AtomicU64, Relaxed};
use heirloom_kho::tree::{Counts, Key, check_counting};
use heirloom_kho::{Block, Order, PhysAddr, Run};
use holding::Holding;
pub(crate) use tally::{Tallies, Tally};
pub use view::{Disposition, Predecessor};

use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;
use crate::tracker::{LeafBit, Tracker};

impl<M: Machine> Memory<M> {
    /// Takes over a predecessor's tree, and goes on with it: checks every table, and holds every block
    /// in it reserved until it is claimed or [`Predecessor::finish`] disposes of it. Its nodes are this
    /// memory's; those that lead to nothing become free memory.
    ///
    /// All ranges must have been added, and what the predecessor may not have used reserved
    /// (scratch, above all): a tree that names any of it is refused. Costs what reading the tables
    /// costs.
    ///
    /// # Errors
    /// [`Error::Tree`]: what is wrong, and where. The memory is lost then, as some frames are
    /// held; build a new one to go on without the predecessor. [`Error::AlreadyPreserved`]: this
    /// memory has a tree of its own, and the error names its root.
    pub fn take_over(mut self, root: PhysAddr) -> Result<(Self, Counts), Error> {
        let counts = self.take_over_in_place(root, |counts| *counts)?;
        self.prune();
        Ok((self, counts))
    }

    /// Does what [`Memory::take_over`] does, where the memory lies, and returns what `of` makes of what
    /// is in the tree. A kernel's stack is small: while the tree is walked, neither is there twice.
    /// Nothing is written but in this memory's own metadata: [`Memory::prune`] is the caller's to call.
    ///
    /// # Errors
    /// As for [`Memory::take_over`]; the memory is of no use then.
    #[doc(hidden)]
    #[inline(never)]
    pub fn take_over_in_place<R>(
        &mut self,
        root: PhysAddr,
        of: impl FnOnce(&Counts) -> R,
    ) -> Result<R, Error> {
        if let Some(own) = self.tracker.root() {
            return Err(Error::AlreadyPreserved {
                block: Block::containing(own.pfn(), Order::ZERO),
            });
        }
        // What lies in a cache would seem to be in use; what was freed, to be claimed.
        self.drain_all();
        self.begin_anew();
        let mut counts = Counts::NONE;
        let mut holding = Holding { memory: self, empty: false };
        check_counting(root, &self.tables(), &mut holding, &mut counts)?;
        self.hollow = holding.empty;
        self.taken_over = counts.total();
        self.tracker = Tracker::adopt(root);
        Ok(of(&counts))
    }

    /// Takes out of the tree the nodes that lead to nothing: they are free memory. To be called before
    /// anything is preserved.
    #[doc(hidden)]
    #[inline(never)]
    pub fn prune(&mut self) {
        if !core::mem::take(&mut self.hollow) {
            return;
        }
        let mut tracker = core::mem::replace(&mut self.tracker, Tracker::new());
        tracker.prune(&self.tables(), |page, leaf| {
            // Something may have been looked for in it since the tree was checked.
            if let Some(first) = leaf {
                self.ranges.slots_of_leaf(first).for_each(|slot| slot.store(0, Relaxed));
            }
            let run = Block::containing(page.pfn(), Order::ZERO).run();
            self.unmark_run(run);
            self.give_run(run);
        });
        self.tracker = tracker;
    }

    /// Claims a block that a predecessor preserved, as `kind`.
    #[inline]
    pub(crate) fn claim_block(&self, block: Block, kind: FrameType) -> Result<(), Error> {
        if block.order() > Order::MAX_FOLIO || kind.is_run() || kind == FrameType::Tail {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        let range = self.range(block.pfn())?;
        self.prefetch_claim(range, block);
        exchange::take(&Here { memory: self, range }, block, kind)?;
        // What has a label was counted when it got it: only a slab can have one.
        if kind != FrameType::Slab {
            self.settle(1);
        }
        Ok(())
    }

    /// Returns whether the tree has exactly this block, its first frame being of `range`.
    #[inline]
    fn has_bit(&self, range: &Range, block: Block) -> bool {
        // Mostly the leaf is known, as `take_over` came by it.
        match self.leaf_in(range, block).and_then(|leaf| LeafBit::of(leaf, block)) {
            Some(leaf_bit) => leaf_bit.is_set(),
            None => self.tracker.contains(&self.tables(), block),
        }
    }

    /// Asks for the two lines that a claim waits for, which are far apart.
    #[inline]
    fn prefetch_claim(&self, range: &Range, block: Block) {
        let leaf = range.slot(block).map_or(0, |slot| slot.load(Relaxed));
        if leaf != 0 {
            let words = self.machine().ptr(PhysAddr::new(leaf)).cast::<AtomicU64>();
            prefetch_at(words.as_ptr().wrapping_add(Key::of(block).index(0) / 64));
        }
        if let Some(byte) = range.byte(block.pfn()) {
            prefetch(byte);
        }
    }

    /// Undoes a claim: the block, which is of `kind` by now and preserved, is there for the next claim;
    /// for one as `label` alone, if it had a label.
    ///
    /// # Safety
    /// As for [`Memory::unclaim_as`].
    pub(crate) unsafe fn unclaim_block(
        &self,
        block: Block,
        kind: FrameType,
        label: Option<FrameType>,
    ) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        let byte = range.byte(block.pfn()).filter(|byte| {
            block.order() <= Order::MAX_FOLIO
                && byte.load(Relaxed) == frame_type::encode(kind, block.order(), true)
        });
        let byte = byte.ok_or_else(|| self.refuse_single(range, block, kind, true))?;
        let back = label.and_then(|kind| frame_type::encode_label(kind, block.order()));
        if back.is_none() {
            self.unsettle(1);
        }
        exchange::put_back(byte, back.unwrap_or(frame_type::NEVER));
        Ok(())
    }

    /// Claims a run as one of `kind`, all of its blocks or none.
    pub(crate) fn claim_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        if run.is_empty() || !kind.is_run() {
            return Err(Error::BadRequest { frames: run.frames() });
        }
        if !self.ranges.holds(run) {
            return Err(Error::NotMemory { pfn: run.start() });
        }
        // A first look at all, so that a call in vain is never in the way of another.
        for block in run.blocks() {
            if let Some(found) = self.predecessor().label_of(block) {
                return Err(Error::WrongType { pfn: block.pfn(), expected: kind, found });
            }
            if !self.predecessor().contains(block) {
                let now = match self.byte(block.pfn()) {
                    Some(byte) if self.preserved().contains(block) => byte.load(Relaxed),
                    _ => frame_type::NEVER,
                };
                return Err(exchange::taken(block, kind, now));
            }
        }
        // One may have been claimed since, or disposed of.
        exchange::take_run(self, run, kind)?;
        self.settle(usize_to_u64(run.blocks().count()));
        Ok(())
    }

    /// Claims a run as a large buffer that is held: it survives for as long as it is not freed.
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    #[doc(hidden)]
    #[inline]
    pub fn claim_buffer(&self, run: Run) -> Result<(), Error> {
        if let Some(block) = run.as_block().filter(|block| block.order() <= Order::MAX_FOLIO)
            && let Some(range) = self.ranges.find(block.pfn())
        {
            self.prefetch_claim(range, block);
            let ours = frame_type::held(block.order());
            if exchange::take_unlabelled(&Here { memory: self, range }, block, ours) {
                self.settle(1);
                return Ok(());
            }
        }
        self.claim_buffer_slow(run)
    }

    /// Claims a buffer of several blocks, or says why a buffer of one is not claimed.
    #[inline(never)]
    fn claim_buffer_slow(&self, run: Run) -> Result<(), Error> {
        self.claim_run(run, FrameType::Buffer)?;
        self.mark_held(run);
        Ok(())
    }

    /// Undoes [`Memory::claim_run`], or [`Memory::claim_buffer`]: the run is there for the next claim.
    ///
    /// # Safety
    /// As for [`Memory::unclaim_as`].
    pub(crate) unsafe fn unclaim_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        let held = kind == FrameType::Buffer && self.is_held_run(run);
        if !held && !self.is_run(run, kind, true) {
            self.check_run(run, kind)?;
            return Err(Error::NotPreserved { block: Block::containing(run.start(), Order::ZERO) });
        }
        self.unsettle(usize_to_u64(run.blocks().count()));
        exchange::put_back_run(self, run);
        Ok(())
    }

    /// Frees a block that is still to be claimed and has no label. Returns whether it was.
    pub(crate) fn dispose_of(&self, block: Block) -> bool {
        let gone = exchange::dispose_of(self, block);
        if gone {
            self.settle(1);
        }
        gone
    }

    /// Returns whether a block that was in the tree is still to be claimed: its byte tells, as its bit stays
    /// until the byte has changed.
    fn is_unclaimed(&self, block: Block) -> bool {
        self.byte(block.pfn()).is_some_and(|byte| frame_type::is_unclaimed(byte.load(Relaxed)))
    }
}

impl<M: Machine> Places for Memory<M> {
    fn byte(&self, block: Block) -> Option<&AtomicU8> {
        self.byte(block.pfn())
    }

    fn has_bit(&self, block: Block) -> bool {
        self.ranges.find(block.pfn()).is_some_and(|range| self.has_bit(range, block))
    }
}

impl<M: Machine> Disposal for Memory<M> {
    fn clear_bit(&self, block: Block) {
        let gone = self.tracker.unpreserve(&self.tables(), block);
        debug_assert!(gone.is_ok(), "it is this call's: {gone:?}");
    }

    fn free(&self, block: Block) {
        self.unmark_run(block.run());
        self.give_run(block.run());
    }
}

/// Memory, and the range of a block's first frame.
struct Here<'m, M: Machine> {
    memory: &'m Memory<M>,
    range: &'m Range,
}

impl<M: Machine> Places for Here<'_, M> {
    #[inline]
    fn byte(&self, block: Block) -> Option<&AtomicU8> {
        self.range.byte(block.pfn())
    }

    #[inline]
    fn has_bit(&self, block: Block) -> bool {
        self.memory.has_bit(self.range, block)
    }
}

#[cfg(all(test, heirloom_model))]
mod deaths;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, heirloom_model))]
mod turns;
