//! What a predecessor left: going on with its tree, claiming what is in it, disposing of the rest.
//!
//! A successor goes on with the predecessor's tree: it checks it, and from then on preserves in it
//! and lets go in it as if it had made it. What is in it and has no owner here is *unclaimed*:
//!
//! ```text
//!               its bit in the tree   the byte of its first frame
//! unclaimed     set                   never handed out, or a label
//! claimed       set                   that of a preserved block, of the kind that it is claimed as
//! disposed of   clear                 freed
//! ```
//!
//! A claim writes nothing that a successor reads: what is claimed is preserved until its owner lets it
//! go, as if it had just been preserved. All bytes are zeroes when a memory begins, so everything that was preserved is unclaimed at
//! first, however many kernels began to claim it and died. The byte decides: of several that exchange
//! it for what they make of the block, one succeeds. It never becomes again what it was, unless the
//! one that changed it takes a claim back; and the bit of an unclaimed block is cleared only by the one
//! that has exchanged its byte. So whoever saw the bit, and then exchanges the byte, has the block.

use crate::addr::{Block, Order, Pfn, PhysAddr, Run};
use crate::error::{Error, TreeFault};
use crate::kinds::{self, FrameState, Kind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::prefetch::{prefetch, prefetch_at};
use crate::ranges::Range;
use crate::sync::{AtomicU8, AtomicU64, Relaxed, Release};
use crate::tracker::{Counts, Geometry, Key, Ledger, Spot, Tracker, check_counting};

/// What becomes of a block that the predecessor preserved and that was not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its frames are free memory.
    Free,
    /// It stays as it is: preserved, and there to be claimed, in this kernel or the next.
    Keep,
}

impl<M: Machine> Memory<M> {
    /// Takes over a predecessor's tree: checks every table, then holds every block and node in
    /// it reserved until it is claimed or [`Memory::disinherit`] disposes of it. Nodes that lead to
    /// nothing become free memory.
    ///
    /// All ranges must have been added, and what the predecessor may not have used reserved
    /// (scratch, above all): a tree that names any of it is refused. Costs what reading the tables
    /// costs.
    ///
    /// # Errors
    /// [`Error::Tree`]: what is wrong, and where. The memory is lost then, as some frames are
    /// held; build a new one to go on without the predecessor. [`Error::AlreadyPreserved`]: this
    /// memory has a tree of its own, whose root is named.
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
        tracker.prune(&self.tables(), |page| {
            let run = Block::containing(page.pfn(), Order::ZERO).run();
            self.unmark_run(run);
            self.give_run(run);
        });
        self.tracker = tracker;
    }

    /// Whether a predecessor preserved exactly this block, and it is still to be claimed.
    pub fn is_inherited(&self, block: Block) -> bool {
        self.is_preserved(block)
            && self.byte(block.pfn()).is_some_and(|byte| kinds::is_unclaimed(byte.load(Relaxed)))
    }

    /// Calls `each` with every block that a predecessor preserved and that is still to be claimed.
    ///
    /// No lock is held and no CPU pinned: `each` may call anything. What is claimed or disposed of
    /// since the call began may be among them or not.
    pub fn for_each_inherited(&self, mut each: impl FnMut(Block)) {
        self.for_each_preserved(|block| {
            if self.is_inherited(block) {
                each(block);
            }
        });
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
        self.take_unclaimed(range, block, kind)
    }

    /// Exchanges the byte of an unclaimed block for that of a preserved one of `kind`. From now on it
    /// is the caller's.
    #[inline]
    fn take_unclaimed(&self, range: &Range, block: Block, kind: Kind) -> Result<(), Error> {
        let gone = Error::NotPreserved { block };
        let byte = range.byte(block.pfn()).ok_or(gone)?;
        // First the bit, then the byte; see above.
        if !self.has_bit(range, block) {
            return Err(gone);
        }
        let order = block.order().min(Order::MAX_FOLIO);
        let ours = kinds::head(kinds::at_first(kind), order, kind != Kind::Tail);
        match byte.compare_exchange(kinds::NEVER, ours, Relaxed, Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => take_labelled(byte, now, ours, block, kind),
        }
    }

    /// Whether the tree has exactly this block, whose first frame is of `range`.
    #[inline]
    fn has_bit(&self, range: &Range, block: Block) -> bool {
        // Mostly the leaf is known, as `inherit` came by it.
        match self.leaf_in(range, block).and_then(|leaf| Spot::of(leaf, block)) {
            Some(spot) => spot.is_set(),
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

    /// Says what an unclaimed block is, a [`Kind::Slab`] or a [`Kind::Table`]: from now on only a
    /// claim as `kind` takes it. Those are found by reading what the predecessor wrote; so no caller
    /// gets them as plain folios.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: not a block that can be claimed. [`Error::WrongKind`]: it has a
    /// label or an owner, maybe the same one: two tables name it. [`Error::BadRequest`]: no label is of this
    /// kind, or of a block so large.
    ///
    /// # Safety
    /// The caller is the reader of what the label stands for: it found the block in what the
    /// predecessor wrote, as a table or a slab.
    pub unsafe fn label(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let label = kinds::label(kind, block.order());
        let label = label.ok_or(Error::BadRequest { frames: block.order().frames() })?;
        let gone = Error::NotPreserved { block };
        let range = self.range(block.pfn()).map_err(|_| gone)?;
        let byte = range.byte(block.pfn()).filter(|_| self.has_bit(range, block)).ok_or(gone)?;
        match byte.compare_exchange(kinds::NEVER, label, Relaxed, Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => match kinds::decode(now) {
                FrameState::Head { kind: found, .. } => {
                    Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found })
                }
                _ => Err(gone),
            },
        }
    }

    /// The block that a predecessor preserved, and that is still to be claimed, that holds the frame.
    pub fn inherited_block(&self, pfn: Pfn) -> Option<Block> {
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        let mut blocks = orders.map(|order| Block::containing(pfn, order));
        blocks.find(|block| self.is_inherited(*block))
    }

    /// The label of an unclaimed block, if it has one.
    pub fn label_of(&self, block: Block) -> Option<Kind> {
        let (kind, order) = kinds::labelled(self.byte(block.pfn())?.load(Relaxed))?;
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
    pub unsafe fn unclaim(
        &self,
        block: Block,
        kind: Kind,
        label: Option<Kind>,
    ) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        let byte = range.byte(block.pfn()).filter(|byte| {
            block.order() <= Order::MAX_FOLIO
                && byte.load(Relaxed) == kinds::head(kind, block.order(), true)
        });
        let byte = byte.ok_or_else(|| self.refuse_single(range, block, kind, true))?;
        let back = label.and_then(|kind| kinds::label(kind, block.order()));
        byte.store(back.unwrap_or(kinds::NEVER), Relaxed);
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
                return Err(Error::NotPreserved { block });
            }
        }
        let mut part = kind;
        for (taken, block) in run.blocks().enumerate() {
            let took = self.range(block.pfn());
            if let Err(error) = took.and_then(|range| self.take_unclaimed(range, block, part)) {
                // Claimed since the look, or disposed of.
                run.blocks().take(taken).for_each(|block| self.put_back(block));
                return Err(error);
            }
            part = Kind::Tail;
        }
        // What the tree has as one block may be more than one here.
        for part in run.blocks_up_to(Order::MAX_FOLIO).skip(1) {
            self.mark(part, Kind::Tail);
        }
        Ok(())
    }

    /// Claims a run as a large buffer that survives for as long as it is not freed: see
    /// [`Memory::hold_buffer`].
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    pub fn claim_buffer(&self, run: Run) -> Result<(), Error> {
        self.claim_run(run, Kind::Buffer)?;
        self.mark_held(run);
        Ok(())
    }

    /// Puts a block back, without a label, whose byte this call exchanged.
    fn put_back(&self, block: Block) {
        if let Some(byte) = self.byte(block.pfn()) {
            byte.store(kinds::NEVER, Relaxed);
        }
    }

    /// Undoes [`Memory::claim_run`]: the run is there for the next claim.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve_run`], and nothing is changed.
    ///
    /// # Safety
    /// As for [`Memory::free`]; the run came from [`Memory::claim_run`] and its contents are as they
    /// were then.
    pub unsafe fn unclaim_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        if !self.is_run(run, kind, true) {
            self.check_run(run, kind)?;
            return Err(Error::NotPreserved { block: Block::containing(run.start(), Order::ZERO) });
        }
        // As the blocks that the tree has, which may be larger. Tails first: a run whose head can be
        // claimed can be claimed whole.
        let head = run.start();
        for block in run.blocks_up_to(Order::MAX_FOLIO).filter(|block| block.pfn() != head) {
            self.put_back(block);
        }
        self.put_back(Block::containing(head, Order::ZERO));
        Ok(())
    }

    /// Asks about every block that is still to be claimed and has no [label](Memory::label), and does
    /// what `fate` decides. Returns the blocks freed and kept. What has a label is left to the layer
    /// that gave it: that may use it already.
    ///
    /// No lock is held and no CPU pinned: `fate` may call anything, this too. What it claims, or
    /// another CPU claims meanwhile, is left to its owner. The call may be repeated, as long as
    /// anything is left; and need not be made at all: what is unclaimed stays preserved.
    pub fn disinherit(&self, mut fate: impl FnMut(Block) -> Fate) -> (u64, u64) {
        let (mut freed, mut kept) = (0, 0);
        self.for_each_inherited(|block| {
            if self.label_of(block).is_some() {
                return;
            }
            match fate(block) {
                Fate::Free => freed += u64::from(self.dispose_of(block)),
                Fate::Keep => kept += 1,
            }
        });
        (freed, kept)
    }

    /// Frees a block that is still to be claimed and has no label: whether it was.
    fn dispose_of(&self, block: Block) -> bool {
        let Some(range) = self.ranges.find(block.pfn()) else { return false };
        if self.take_unclaimed(range, block, Kind::Folio).is_err() {
            return false;
        }
        // Unlinked, then released: a successor that finds the bit finds the frames as they were.
        let gone = self.tracker.unpreserve(&self.tables(), block);
        debug_assert!(gone.is_ok(), "it is this call's: {gone:?}");
        self.unmark_run(block.run());
        self.give_run(block.run());
        true
    }
}

/// Exchanges the byte of a block that may have a label, `now`, for `ours`.
#[cold]
#[inline(never)]
fn take_labelled(
    byte: &AtomicU8,
    now: u8,
    ours: u8,
    block: Block,
    kind: Kind,
) -> Result<(), Error> {
    let gone = Error::NotPreserved { block };
    match kinds::labelled(now) {
        Some((found, order)) if order == block.order() => {
            if found != kind {
                return Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found });
            }
            byte.compare_exchange(now, ours, Relaxed, Relaxed).map(|_| ()).map_err(|_| gone)
        }
        _ => Err(gone),
    }
}

/// The ledger of [`Memory::inherit`]: what is taken in it is taken out of the free bits, by the
/// one that owns the memory.
struct Holding<'m, M: Machine> {
    memory: &'m Memory<M>,
    /// Whether a node leads to nothing.
    empty: bool,
}

impl<M: Machine> Ledger for Holding<'_, M> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        let outside = TreeFault::OutsideMemory { addr: block.addr() };
        for (range, part) in self.memory.ranges.parts(block.run()).ok_or(outside)? {
            for part in part.blocks_up_to(Order::MAX_FOLIO) {
                if !range.columns().carve(part) {
                    // What was taken stays so: the caller gives the whole memory up.
                    return Err(TreeFault::Overlap { block });
                }
            }
        }
        Ok(())
    }

    fn take_node(&mut self, node: Block) -> Result<(), TreeFault> {
        self.take(node)?;
        // As a node of ours: it can neither be freed nor preserved.
        self.memory.mark_preserved(node, Kind::Table, true);
        Ok(())
    }

    fn take_word(&mut self, first: Pfn, mask: u64) -> Result<(), (u32, TreeFault)> {
        let range = self.memory.ranges.find(first.add(u64::from(mask.trailing_zeros())));
        if range.is_some_and(|range| range.columns().carve_word(first, mask)) {
            return Ok(());
        }
        // One of them is at fault, or they lie in two ranges: find out one by one.
        for bit in (0..u64::BITS).filter(|bit| mask >> bit & 1 == 1) {
            let block = Block::containing(first.add(u64::from(bit)), Order::ZERO);
            self.take(block).map_err(|fault| (bit, fault))?;
        }
        Ok(())
    }

    fn take_full(&mut self, block: Block) -> bool {
        let range = self.memory.ranges.covering(block.run());
        range.is_some_and(|range| range.columns().carve(block))
    }

    fn leaf(&mut self, first: Block, leaf: PhysAddr) {
        let order = first.order();
        let keys = order.frames() << Geometry::BUILD.leaf_log2;
        let Some(covers) = Run::new(first.pfn(), keys) else { return };
        // A leaf may begin before a range, and reach over several.
        for range in self.memory.ranges.overlapping(covers) {
            let within = Block::containing(range.run().start().max(first.pfn()), order);
            if let Some(slot) = range.slot(within) {
                // Release pairs with the Acquire in `Pages::leaf`.
                slot.store(leaf.get(), Release);
            }
        }
    }

    fn empty_node(&mut self) {
        self.empty = true;
    }
}
