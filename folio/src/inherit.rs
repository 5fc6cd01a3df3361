//! What a predecessor left: taking its tree over, claiming what is in it, and ending it.
//!
//! The predecessor's tree shrinks: claiming a block takes its bit out, atomically, so a block is
//! claimed once, and what is left at the end is what nobody wanted.

use crate::addr::{Block, Order, Pfn, PhysAddr, Run};
use crate::error::{Error, TreeFault};
use crate::gate::HeldInheritance;
use crate::kinds::{self, FrameState, Kind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::prefetch::{prefetch, prefetch_at};
use crate::ranges::{Range, Whose};
use crate::sync::{AtomicU64, Relaxed, Release};
use crate::tracker::{Counts, Geometry, Key, Ledger, Spot, Tracker, TreeNode, check_counting};

/// What becomes of a block that the predecessor preserved and nobody claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its frames are free memory.
    Free,
    /// It is preserved again, for the next kernel, and owned by nobody in this one.
    Keep,
}

impl<M: Machine> Memory<M> {
    /// Takes over a predecessor's tree: checks every table, then holds every block and node in
    /// it reserved until it is claimed or [`Memory::disinherit`] disposes of it.
    ///
    /// All ranges must have been added, and what the predecessor may not have used reserved
    /// (scratch, above all): a tree that names any of it is refused. Costs what reading the tables
    /// costs.
    ///
    /// # Errors
    /// [`Error::Tree`]: what is wrong, and where. The memory is lost then, as some frames are
    /// held; build a new one to go on without the predecessor.
    pub fn inherit(mut self, root: PhysAddr) -> Result<(Self, Counts), Error> {
        let counts = self.take_over(root, |counts| *counts)?;
        Ok((self, counts))
    }

    /// Does what [`Memory::inherit`] does, where the memory lies, and returns what `of` makes of what
    /// is in the tree. A kernel's stack is small: while the tree is walked, neither is there twice.
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
        // What lies in a cache would seem to be in use.
        self.drain_all();
        let mut counts = Counts::NONE;
        let pages = self.tables(Whose::Inherited);
        check_counting(root, &pages, &mut Holding { memory: self }, &mut counts)?;
        self.inherited = Tracker::adopt(root);
        self.open_gate();
        Ok(of(&counts))
    }

    /// Whether the predecessor preserved exactly this block, and nobody has claimed it yet. False
    /// also while the inheritance is being ended.
    pub fn is_inherited(&self, block: Block) -> bool {
        self.inside(|| self.still_inherited(block)).unwrap_or(false)
    }

    /// The same for who is in the gate.
    fn still_inherited(&self, block: Block) -> bool {
        self.inherited.contains(&self.tables(Whose::Inherited), block)
    }

    /// Calls `each` with every block that the predecessor preserved and nobody has claimed; with
    /// none, if the inheritance is being ended.
    ///
    /// No lock is held and no CPU pinned: `each` may allocate, free, preserve, claim and look up. The
    /// inheritance is held, so [`Memory::disinherit`] is refused meanwhile ([`Error::Claiming`]).
    pub fn for_each_inherited(&self, each: impl FnMut(Block)) {
        let Ok(Some(_held)) = self.hold_inheritance() else { return };
        self.inherited.tree(&self.tables(Whose::Inherited)).folios().for_each(each);
    }

    /// Calls `each` with every node of the predecessor's tree; as for
    /// [`Memory::for_each_inherited`].
    pub fn for_each_inherited_node(&self, each: impl FnMut(TreeNode)) {
        let Ok(Some(_held)) = self.hold_inheritance() else { return };
        self.inherited.tree(&self.tables(Whose::Inherited)).nodes().for_each(each);
    }

    /// Claims a block that the predecessor preserved as a folio: from now on it is allocated, and
    /// freed like any other. Once: the bit in the predecessor's tree decides. Tables and slabs are
    /// for [`Memory::claim_as`].
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: never was, with this order, or is claimed already.
    /// [`Error::WrongKind`]: [`Memory::label`] says that it is no folio, or `kind` is a table's or
    /// a slab's. [`Error::BadRequest`]: an order above [`Order::MAX_FOLIO`] (claim it as a run), or
    /// no block's kind. [`Error::Ending`]: [`Memory::disinherit`] is under way.
    pub fn claim(&self, block: Block, kind: Kind) -> Result<(), Error> {
        folios_only(block, kind)?;
        self.claim_kind(block, kind)
    }

    /// Claims a block that the predecessor preserved, as `kind`, a table or a slab too. (What is
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
        Self::claimable(block, kind)?;
        let range = self.range(block.pfn())?;
        self.prefetch_claim(range, block);
        let claimed = self.inside(|| self.claim_in(range, block, kind));
        claimed.unwrap_or_else(|| Err(self.shut_out(block)))
    }

    /// [`Memory::claim`] for a caller that holds the inheritance, and so need not ask whether it is
    /// there: for many in a row.
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    pub fn claim_held(
        &self,
        held: &HeldInheritance<'_>,
        block: Block,
        kind: Kind,
    ) -> Result<(), Error> {
        folios_only(block, kind)?;
        self.claim_held_kind(held, block, kind)
    }

    /// [`Memory::claim_as`] for a caller that holds the inheritance.
    ///
    /// # Errors
    /// As for [`Memory::claim_as`].
    ///
    /// # Safety
    /// As for [`Memory::claim_as`].
    pub unsafe fn claim_held_as(
        &self,
        held: &HeldInheritance<'_>,
        block: Block,
        kind: Kind,
    ) -> Result<(), Error> {
        self.claim_held_kind(held, block, kind)
    }

    #[inline]
    fn claim_held_kind(
        &self,
        held: &HeldInheritance<'_>,
        block: Block,
        kind: Kind,
    ) -> Result<(), Error> {
        if !held.is_of(self) {
            return self.claim_kind(block, kind);
        }
        Self::claimable(block, kind)?;
        let range = self.range(block.pfn())?;
        self.prefetch_claim(range, block);
        self.claim_in(range, block, kind)
    }

    /// Whether a block of this order can be claimed at once, and as this kind.
    #[inline]
    fn claimable(block: Block, kind: Kind) -> Result<(), Error> {
        if block.order() > Order::MAX_FOLIO || kind.is_run() || kind == Kind::Tail {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        Ok(())
    }

    /// Claims a block, in the gate.
    #[inline]
    fn claim_in(&self, range: &Range, block: Block, kind: Kind) -> Result<(), Error> {
        let leaf = self.leaf_in(range, Whose::Inherited, block);
        // Mostly the leaf is known, as `inherit` came by it, and the block has no label.
        if let Some(spot) = leaf.and_then(|leaf| Spot::of(leaf, block))
            && let Some(byte) = range.byte(block.pfn())
            && kinds::is_nothing(byte.load(Relaxed))
        {
            spot.unpreserve(block)?;
            byte.store(kinds::head(kinds::at_first(kind), block.order(), false), Relaxed);
            return Ok(());
        }
        self.unlabelled(block, kind)?;
        let theirs = self.tables(Whose::Inherited);
        self.inherited.unpreserve(&theirs, block)?;
        // Once more, as it may have been somebody's who has put it back since.
        if let Some(found) = self.label_of(block).filter(|found| *found != kind) {
            self.inherited.preserve(&theirs, block)?;
            return Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found });
        }
        self.mark(block, kinds::at_first(kind));
        Ok(())
    }

    /// Asks for the two lines that a claim waits for, which are far apart; outside the gate, as
    /// nothing is read.
    #[inline]
    fn prefetch_claim(&self, range: &Range, block: Block) {
        let leaf = range.slot(Whose::Inherited, block).map_or(0, |slot| slot.load(Relaxed));
        if leaf != 0 {
            let words = self.machine().ptr(PhysAddr::new(leaf)).cast::<AtomicU64>();
            prefetch_at(words.as_ptr().wrapping_add(Key::of(block).index(0) / 64));
        }
        if let Some(byte) = range.byte(block.pfn()) {
            prefetch(byte);
        }
    }

    /// Why nothing of the predecessor's can be claimed.
    #[cold]
    fn shut_out(&self, block: Block) -> Error {
        if self.has_inheritance() { Error::Ending } else { Error::NotPreserved { block } }
    }

    /// Whether there is a predecessor's tree, be it about to end.
    pub(crate) fn has_inheritance(&self) -> bool {
        self.inherited.root().is_some()
    }

    /// Says what a block that the predecessor preserved is, a [`Kind::Slab`] or a [`Kind::Table`]:
    /// from now on only a claim as `kind` takes it. Those are found by reading what the predecessor
    /// wrote; so nobody gets them as plain folios.
    ///
    /// To be said before there is anybody who claims: a claim that is under way may take the block
    /// as if it had no label.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: not a block that can be claimed. [`Error::WrongKind`]: it has a
    /// label, maybe the same one: two tables name it. [`Error::BadRequest`]: no label is of this
    /// kind. [`Error::Ending`]: [`Memory::disinherit`] is under way.
    ///
    /// # Safety
    /// The caller is the reader of what the label stands for: it found the block in what the
    /// predecessor wrote, as a table or a slab.
    pub unsafe fn label(&self, block: Block, kind: Kind) -> Result<(), Error> {
        if !matches!(kind, Kind::Slab | Kind::Table) {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        let gone = Error::NotPreserved { block };
        let byte = self.byte(block.pfn());
        let byte = byte.filter(|_| block.order() <= Order::MAX_FOLIO).ok_or(gone)?;
        // As preserved, which it is by the predecessor: so nothing but a claim takes it.
        let label = kinds::label(kind, block.order());
        let labelled = self.inside(|| {
            if !self.still_inherited(block) {
                return Err(gone);
            }
            let unless_taken = |now| kinds::is_nothing(now).then_some(label);
            match byte.fetch_update(Relaxed, Relaxed, unless_taken) {
                Ok(_) if self.still_inherited(block) => Ok(()),
                Ok(before) => {
                    // Claimed since: what its new owner writes, or has written, stands.
                    let _ = byte.compare_exchange(label, before, Relaxed, Relaxed);
                    Err(gone)
                }
                Err(now) => match kinds::decode(now) {
                    FrameState::Head { kind: found, .. } => {
                        Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found })
                    }
                    _ => Err(gone),
                },
            }
        });
        labelled.unwrap_or_else(|| Err(self.shut_out(block)))
    }

    /// The block that the predecessor preserved, and nobody claimed, that holds the frame. None
    /// also while the inheritance is being ended.
    pub fn inherited_block(&self, pfn: Pfn) -> Option<Block> {
        let _held = self.hold_inheritance().ok()??;
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        let mut blocks = orders.map(|order| Block::containing(pfn, order));
        blocks.find(|block| self.still_inherited(*block))
    }

    /// The label of an inherited block, if it has one.
    pub fn label_of(&self, block: Block) -> Option<Kind> {
        match self.ranges.find(block.pfn())?.state(block.pfn()) {
            FrameState::Head { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// Refuses a claim as `kind` of a block that is labelled as something else. In the gate.
    fn unlabelled(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        if range.byte(block.pfn()).is_some_and(|byte| kinds::is_nothing(byte.load(Relaxed))) {
            return Ok(());
        }
        match range.state(block.pfn()) {
            FrameState::Head { kind: found, .. }
                if found != kind && self.still_inherited(block) =>
            {
                Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found })
            }
            _ => Ok(()),
        }
    }

    /// Undoes a claim: the block, which is of `kind` by now, is the predecessor's again, there for
    /// the next claim; for one as `label` alone, if it had a label.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed. [`Error::Ending`],
    /// [`Error::NotPreserved`]: the inheritance is being ended, or has ended; not so while
    /// [`Memory::hold_inheritance`] keeps it. [`Error::OutOfMemory`] cannot happen: the
    /// predecessor's tree has the leaf.
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
        let back = self.inside(|| {
            match range.byte(block.pfn()) {
                Some(byte) if byte.load(Relaxed) == kinds::head(kind, block.order(), false) => {
                    let back = label.map_or(kinds::NEVER, |kind| kinds::label(kind, block.order()));
                    byte.store(back, Relaxed);
                }
                _ => return Err(self.refuse(range, block, kind)),
            }
            self.inherited.preserve(&self.tables(Whose::Inherited), block)
        });
        back.unwrap_or_else(|| Err(self.shut_out(block)))
    }

    /// Claims a run, all of its blocks or none.
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
        let (theirs, blocks) = (self.tables(Whose::Inherited), run.blocks_up_to(Order::MAX_FOLIO));
        let claimed = self.inside_for(run, || {
            blocks.clone().try_for_each(|block| self.unlabelled(block, kind))?;
            self.inherited.unpreserve_run(&theirs, run)?;
            // Once more, as a part of it may have been somebody's who has put it back since.
            for block in blocks {
                if let Some(found) = self.label_of(block).filter(|found| *found != kind) {
                    self.inherited.preserve_run(&theirs, run)?;
                    return Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found });
                }
            }
            self.mark_run(run, kind);
            Ok(())
        })?;
        claimed.unwrap_or_else(|| Err(self.shut_out(Block::containing(run.start(), Order::ZERO))))
    }

    /// Undoes [`Memory::claim_run`]: the run is the predecessor's again, there for the next claim.
    ///
    /// # Errors
    /// As for [`Memory::free_run`], and nothing is changed; else as for [`Memory::unclaim`].
    ///
    /// # Safety
    /// As for [`Memory::free`]; the run came from [`Memory::claim_run`] and its contents are as they
    /// were then.
    pub unsafe fn unclaim_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        let back = self.inside_for(run, || {
            self.check_run(run, kind)?;
            for block in run.blocks_up_to(Order::MAX_FOLIO) {
                if let Some(byte) = self.byte(block.pfn()) {
                    byte.store(kinds::NEVER, Relaxed);
                }
            }
            // As the blocks that the predecessor's tree had, which may be larger.
            self.inherited.preserve_run(&self.tables(Whose::Inherited), run)
        })?;
        back.unwrap_or_else(|| Err(self.shut_out(Block::containing(run.start(), Order::ZERO))))
    }

    /// [`Memory::inside`] for something about every block of a run: a CPU is not to be pinned for
    /// longer than three dozen blocks take.
    fn inside_for<R>(&self, run: Run, f: impl FnOnce() -> R) -> Result<Option<R>, Error> {
        if run.frames() <= Order::MAX_FOLIO.frames() {
            return Ok(self.inside(f));
        }
        Ok(self.hold_inheritance()?.map(|_held| f()))
    }

    /// Ends the inheritance: every block that nobody claimed meets the fate that `fate` decides,
    /// and the predecessor's tree becomes free memory. Returns the blocks freed and kept.
    ///
    /// No lock is held and no CPU pinned: `fate` may allocate, free, preserve and look up. Claims in
    /// it are refused with [`Error::Ending`], and a nested call with [`Error::Claiming`]. A panic in
    /// it leaves what was decided so far; the rest is still to be claimed, and the call can be
    /// repeated.
    ///
    /// # Errors
    /// [`Error::Claiming`]: somebody claims something at this moment, or reads what the predecessor
    /// left, or ends the inheritance too; nothing is changed, and the call can be repeated.
    /// [`Error::OutOfMemory`] for a node, keeping a block. What was decided so far stands; the
    /// rest is still to be claimed, and the call can be repeated.
    pub fn disinherit(&self, fate: impl FnMut(Block) -> Fate) -> Result<(u64, u64), Error> {
        if !self.has_inheritance() {
            return Ok((0, 0));
        }
        // While it is shut nobody else looks into the tree.
        let shut = self.shut_gate().ok_or(Error::Claiming)?;
        let ended = self.end_inheritance(fate)?;
        shut.stay();
        Ok(ended)
    }

    /// [`Memory::disinherit`], the gate being shut by this call.
    fn end_inheritance(&self, mut fate: impl FnMut(Block) -> Fate) -> Result<(u64, u64), Error> {
        let pages = self.tables(Whose::Inherited);
        let (mut freed, mut kept) = (0, 0);
        for block in self.inherited.tree(&pages).folios() {
            match fate(block) {
                Fate::Free => {
                    self.inherited.unpreserve(&pages, block)?;
                    self.unmark_run(block.run());
                    self.give_run(block.run());
                    freed += 1;
                }
                Fate::Keep => {
                    self.keep(block)?;
                    kept += 1;
                }
            }
        }
        for node in self.inherited.tree(&pages).nodes() {
            self.give_run(Block::containing(node.addr.pfn(), Order::ZERO).run());
        }
        self.inherited.forget();
        for range in self.ranges.iter() {
            range.forget(Whose::Inherited);
        }
        Ok((freed, kept))
    }

    /// Moves a block from the predecessor's tree to ours.
    fn keep(&self, block: Block) -> Result<(), Error> {
        let (ours, theirs) = (self.tables(Whose::Own), self.tables(Whose::Inherited));
        self.own.preserve(&ours, block)?;
        self.inherited.unpreserve(&theirs, block)?;
        if block.order() <= Order::MAX_FOLIO {
            let kind = self.label_of(block).unwrap_or(Kind::Folio);
            self.mark_preserved(block, kinds::at_first(kind), true);
        } else {
            self.mark_run(block.run(), Kind::Run);
            self.mark_run_preserved(block.run(), Kind::Run, true);
        }
        Ok(())
    }
}

/// Refuses to take a block as what a layer above keeps.
#[inline]
fn folios_only(block: Block, kind: Kind) -> Result<(), Error> {
    if matches!(kind, Kind::Slab | Kind::Table) {
        let pfn = block.pfn();
        return Err(Error::WrongKind { pfn, expected: Kind::Folio, found: kind });
    }
    Ok(())
}

/// The ledger of [`Memory::inherit`]: what is taken in it is taken out of the free bits, by the
/// one that owns the memory.
struct Holding<'m, M: Machine> {
    memory: &'m Memory<M>,
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
            if let Some(slot) = range.slot(Whose::Inherited, within) {
                // Release pairs with the Acquire in `Pages::leaf`.
                slot.store(leaf.get(), Release);
            }
        }
    }
}
