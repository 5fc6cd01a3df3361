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
//! inherit ── holding    checks the tree; takes its blocks and nodes out of the free bits
//!         └─ prune      nodes that lead to nothing become free memory
//! claim, claim_run, label, disinherit ── exchange
//! ```

mod exchange;
mod holding;
mod settled;
mod tally;
mod unclaimed;

use exchange::{Disposal, Places};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::prefetch::{prefetch, prefetch_at};
use heirloom_kho::sync::{AtomicU8, AtomicU64, Relaxed};
use heirloom_kho::tree::{Counts, Key, check_counting};
use heirloom_kho::{Block, Order, Pfn, PhysAddr, Run};
use holding::Holding;
pub(crate) use tally::{Tallies, Tally};

use crate::error::Error;
use crate::frame_type::{self, Kind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;
use crate::tracker::{LeafBit, Tracker};

/// What becomes of a block that the predecessor preserved and that was not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its frames are free memory.
    Free,
    /// It stays as it is: preserved, and there to be claimed, in this kernel or the next.
    Keep,
}

impl<M: Machine> Memory<M> {
    /// Takes over a predecessor's tree, and goes on with it: checks every table, and holds every block
    /// in it reserved until it is claimed or [`Memory::disinherit`] disposes of it. Its nodes are this
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
    pub fn inherit(mut self, root: PhysAddr) -> Result<(Self, Counts), Error> {
        let counts = self.take_over(root, |counts| *counts)?;
        self.prune();
        Ok((self, counts))
    }

    /// Does what [`Memory::inherit`] does, where the memory lies, and returns what `of` makes of what
    /// is in the tree. A kernel's stack is small: while the tree is walked, neither is there twice.
    /// Nothing is written but in this memory's own metadata: [`Memory::prune`] is the caller's to call.
    ///
    /// # Errors
    /// As for [`Memory::inherit`]; the memory is of no use then.
    #[doc(hidden)]
    #[inline(never)]
    pub fn take_over<R>(
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

    /// Returns whether a predecessor preserved exactly this block, and it is still to be claimed.
    pub fn is_inherited(&self, block: Block) -> bool {
        self.is_preserved(block) && self.is_unclaimed(block)
    }

    /// Claims a block that a predecessor preserved as a folio: from now on it is the caller's, and
    /// still preserved: to be let go by [`Memory::unpreserve`] before it can be freed. Once: the
    /// exchange of its byte decides. Tables and slabs are for [`Memory::claim_as`].
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: never was, with this order, or is claimed already.
    /// [`Error::WrongKind`]: [`Memory::label`] says that it is no folio, or `kind` is a table's or
    /// a slab's. [`Error::BadRequest`]: an order above [`Order::MAX_FOLIO`] (claim it as a run), or
    /// no block's kind.
    pub fn claim(&self, block: Block, kind: Kind) -> Result<(), Error> {
        if matches!(kind, Kind::Slab | Kind::Table) {
            let pfn = block.pfn();
            return Err(Error::WrongKind { pfn, expected: Kind::Folio, found: kind });
        }
        self.claim_kind(block, kind)
    }

    /// Claims a block that a predecessor preserved, as `kind`, a table or a slab too. (What is
    /// claimed as [`Kind::Slab`] is a [`Kind::Table`] until [`Memory::make_slab`].)
    ///
    /// # Errors
    /// As for [`Memory::claim`]; [`Error::WrongKind`]: the label, if there is one, says that it is
    /// something else.
    ///
    /// # Safety
    /// The caller is the reader of what the label stands for: whatever else relies on a block with
    /// that label is told by the caller.
    #[doc(hidden)]
    pub unsafe fn claim_as(&self, block: Block, kind: Kind) -> Result<(), Error> {
        self.claim_kind(block, kind)
    }

    #[inline]
    fn claim_kind(&self, block: Block, kind: Kind) -> Result<(), Error> {
        if block.order() > Order::MAX_FOLIO || kind.is_run() || kind == Kind::Tail {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        let range = self.range(block.pfn())?;
        self.prefetch_claim(range, block);
        exchange::take(&Here { memory: self, range }, block, kind)?;
        // What has a label was counted when it got it: only a slab can have one.
        if kind != Kind::Slab {
            self.settle(1);
        }
        Ok(())
    }

    /// Returns whether the tree has exactly this block, its first frame being of `range`.
    #[inline]
    fn has_bit(&self, range: &Range, block: Block) -> bool {
        // Mostly the leaf is known, as `inherit` came by it.
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

    /// Says what an unclaimed block is. A [`Kind::Slab`]: from now on only a claim as one takes it. A
    /// [`Kind::Table`]: it is the caller's from now on, which tells it by [`Memory::label_of`] from all
    /// that this kernel allocated, and never lets it go. Those are found by reading what the predecessor
    /// wrote; so no caller gets them as plain folios.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: not a block that can be claimed. [`Error::WrongKind`]: it is a slab or a
    /// table already, maybe by the same label: two tables name it. [`Error::BadRequest`]: no label is of
    /// this kind, or of a block so large.
    ///
    /// # Safety
    /// The caller is the reader of what the label stands for: it found the block in what the
    /// predecessor wrote, as a table or a slab.
    #[doc(hidden)]
    pub unsafe fn label(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let label = frame_type::encode_label(kind, block.order());
        let label = label.ok_or(Error::BadRequest { frames: block.order().frames() })?;
        let gone = Error::NotPreserved { block };
        let range = self.range(block.pfn()).map_err(|_| gone)?;
        let byte = range.byte(block.pfn()).filter(|_| self.has_bit(range, block)).ok_or(gone)?;
        exchange::label(byte, block, kind, label)?;
        self.settle(1);
        Ok(())
    }

    /// Returns the block that a predecessor preserved, and that is still to be claimed, that holds the frame.
    #[doc(hidden)]
    pub fn inherited_block(&self, pfn: Pfn) -> Option<Block> {
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        let mut blocks = orders.map(|order| Block::containing(pfn, order));
        blocks.find(|block| self.is_inherited(*block))
    }

    /// Returns the label of an unclaimed block, if it has one.
    #[doc(hidden)]
    pub fn label_of(&self, block: Block) -> Option<Kind> {
        let (kind, order) = frame_type::labelled(self.byte(block.pfn())?.load(Relaxed))?;
        (order == block.order()).then_some(kind)
    }

    /// Undoes a claim: the block, which is of `kind` by now and preserved, is there for the next claim;
    /// for one as `label` alone, if it had a label.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`], and nothing is changed.
    ///
    /// # Safety
    /// As for [`Memory::free`]; the block came from [`Memory::claim`] and its contents are as they
    /// were then.
    #[doc(hidden)]
    pub unsafe fn unclaim(
        &self,
        block: Block,
        kind: Kind,
        label: Option<Kind>,
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

    /// Claims a run, all of its blocks or none. It stays preserved until [`Memory::unpreserve_run`].
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    pub fn claim_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        if run.is_empty() || !kind.is_run() {
            return Err(Error::BadRequest { frames: run.frames() });
        }
        if !self.ranges.holds(run) {
            return Err(Error::NotMemory { pfn: run.start() });
        }
        // A first look at all, so that a call in vain is never in the way of another.
        for block in run.blocks() {
            if let Some(found) = self.label_of(block) {
                return Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found });
            }
            if !self.is_inherited(block) {
                let byte = self.byte(block.pfn()).filter(|_| self.is_preserved(block));
                let now = byte.map_or(frame_type::NEVER, |byte| byte.load(Relaxed));
                return Err(exchange::taken(block, kind, now));
            }
        }
        // One may have been claimed since, or disposed of.
        exchange::take_run(self, run, kind)?;
        self.settle(usize_to_u64(run.blocks().count()));
        Ok(())
    }

    /// Claims a run as a large buffer that survives for as long as it is not freed: see
    /// [`Memory::hold_buffer`].
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    #[doc(hidden)]
    pub fn claim_buffer(&self, run: Run) -> Result<(), Error> {
        self.claim_run(run, Kind::Buffer)?;
        self.mark_held(run);
        Ok(())
    }

    /// Undoes [`Memory::claim_run`], or [`Memory::claim_buffer`]: the run is there for the next claim.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve_run`], and nothing is changed.
    ///
    /// # Safety
    /// As for [`Memory::free`]; the run came from [`Memory::claim_run`] and its contents are as they
    /// were then.
    #[doc(hidden)]
    pub unsafe fn unclaim_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        let held = kind == Kind::Buffer && self.is_held_run(run);
        if !held && !self.is_run(run, kind, true) {
            self.check_run(run, kind)?;
            return Err(Error::NotPreserved { block: Block::containing(run.start(), Order::ZERO) });
        }
        self.unsettle(usize_to_u64(run.blocks().count()));
        exchange::put_back_run(self, run);
        Ok(())
    }

    /// Asks about every block that is still to be claimed and has no [label](Memory::label), and does
    /// what `fate` decides. Returns how many blocks were freed, and how many are still to be claimed as
    /// `fate` keeps them. What has a label is left to the layer that gave it.
    ///
    /// No lock is held and no CPU pinned: `fate` may call anything, this too. What it claims, or
    /// another CPU claims meanwhile, is left to its owner and not counted. The call may be repeated, as
    /// long as anything is left; and need not be made at all: what is unclaimed stays preserved.
    pub fn disinherit(&self, mut fate: impl FnMut(Block) -> Fate) -> (u64, u64) {
        let (mut freed, mut kept) = (0, 0);
        if self.is_settled() {
            return (freed, kept);
        }
        // A label is another byte.
        self.for_each_with(
            |byte| byte == frame_type::NEVER,
            |block| match fate(block) {
                Fate::Free => freed += u64::from(self.dispose_of(block)),
                Fate::Keep => kept += u64::from(self.is_unclaimed(block)),
            },
        );
        (freed, kept)
    }

    /// Frees a block that is still to be claimed. Returns whether it was. Does what
    /// [`Memory::disinherit`] does where it is told to free one.
    #[doc(hidden)]
    pub fn disinherit_block(&self, block: Block) -> bool {
        self.dispose_of(block)
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
