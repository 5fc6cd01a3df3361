//! What survives: preserving what is allocated, and claiming what a predecessor preserved.
//!
//! Two trees stand side by side. Ours grows as blocks are preserved and is what this kernel hands
//! over. The predecessor's shrinks: claiming a block takes its bit out, atomically, so a block is
//! claimed once, and what is left at the end is what nobody wanted.

use crate::addr::{Block, Order, Pfn, PhysAddr, Run};
use crate::error::{Error, TreeFault};
use crate::kinds::{self, FrameState, Kind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::prefetch::prefetch;
use crate::ranges::{Range, Whose};
use crate::request::Request;
use crate::sync::{Acquire, AtomicU8, AtomicU64, Relaxed, Release};
use crate::tracker::{
    Adjacent, Counts, Geometry, Ledger, Nodes, Spot, Tables, Tracker, TreeNode, check,
};

/// The memory as the tracker sees it: pages for nodes, and one tree's directory.
pub(crate) struct Pages<'m, M: Machine> {
    memory: &'m Memory<M>,
    whose: Whose,
}

impl<M: Machine> Tables for Pages<'_, M> {
    #[inline]
    fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]> {
        self.memory.words_of(node)
    }
}

impl<M: Machine> Nodes for Pages<'_, M> {
    fn allocate(&self) -> Result<PhysAddr, Error> {
        let request = Request::new(Order::ZERO).kind(Kind::Table).zeroed();
        let block = self.memory.alloc(request)?;
        // A node survives without a bit of its own. Marked so, it can neither be freed nor
        // preserved, which would give its frame two uses in the successor's eyes.
        self.memory.mark_preserved(block, Kind::Table, true);
        Ok(block.addr())
    }

    fn release(&self, node: PhysAddr) {
        let block = Block::containing(node.pfn(), Order::ZERO);
        self.memory.mark_preserved(block, Kind::Table, false);
        // SAFETY: the tracker gives back a page that it got from `allocate` and never linked.
        let freed = unsafe { self.memory.free(block, Kind::Table) };
        debug_assert!(freed.is_ok(), "an unlinked node is free to go: {freed:?}");
    }

    #[inline]
    fn leaf(&self, block: Block) -> Option<&[AtomicU64]> {
        self.memory.leaf_in(self.memory.ranges.find(block.pfn())?, self.whose, block)
    }

    fn learn(&self, block: Block, leaf: PhysAddr) {
        let range = self.memory.ranges.find(block.pfn());
        if let Some(slot) = range.and_then(|range| range.slot(self.whose, block)) {
            // Release pairs with the Acquire in `leaf`.
            slot.store(leaf.get(), Release);
        }
    }
}

/// How many blocks ahead of the one at hand are asked for: so many misses that a processor has
/// under way at once.
const AHEAD: usize = 16;

/// What becomes of a block that the predecessor preserved and nobody claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its frames are free memory.
    Free,
    /// It is preserved again, for the next kernel, and owned by nobody in this one.
    Keep,
}

impl<M: Machine> Memory<M> {
    pub(crate) const fn tables(&self, whose: Whose) -> Pages<'_, M> {
        Pages { memory: self, whose }
    }

    /// The root node of the tree that this kernel hands over; allocated at the first call.
    ///
    /// It stays where it is as long as the memory lives.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] at the first call.
    pub fn tree_root(&self) -> Result<PhysAddr, Error> {
        self.own.ensure_root(&self.tables(Whose::Own))
    }

    /// Makes an allocated block survive a jump.
    ///
    /// Meant for the block's owner. Two calls for one block at the same time are told apart (one
    /// is refused), but a block must not be freed at the same time.
    ///
    /// # Errors
    /// [`Error::AlreadyPreserved`]; [`Error::NeverAllocated`], [`Error::DoubleFree`] (it is
    /// free), [`Error::TailFrame`], [`Error::WrongOrder`]: it is no allocated block;
    /// [`Error::WrongKind`]: it is a run; [`Error::NotMemory`]; [`Error::OutOfMemory`] for a node.
    #[inline]
    pub fn preserve(&self, block: Block) -> Result<(), Error> {
        match self.at_hand(block, false) {
            Some((spot, byte, now)) => {
                spot.preserve(block)?;
                byte.store(kinds::with_preserved(now), Relaxed);
                Ok(())
            }
            None => self.preserve_more(block),
        }
    }

    /// Preserves a block whose leaf is not known or not there, or says why not.
    #[cold]
    #[inline(never)]
    fn preserve_more(&self, block: Block) -> Result<(), Error> {
        let (byte, now) = Self::single(self.range(block.pfn())?, block, false)?;
        self.own.preserve(&self.tables(Whose::Own), block)?;
        byte.store(kinds::with_preserved(now), Relaxed);
        Ok(())
    }

    /// The spot of a block that is allocated and (not) preserved, its byte, and what that says, if
    /// the directory knows the leaf.
    #[inline]
    fn at_hand(&self, block: Block, preserved: bool) -> Option<(Spot<'_>, &AtomicU8, u8)> {
        let range = self.ranges.find(block.pfn())?;
        let spot = Spot::of(self.leaf_in(range, Whose::Own, block)?, block)?;
        // The tracker's word and the frame's byte are far apart, and each may be far away.
        spot.prefetch();
        let byte = range.byte(block.pfn()).filter(|_| block.order() <= Order::MAX_FOLIO)?;
        let now = byte.load(Relaxed);
        kinds::is_single(now, block.order(), preserved).then_some((spot, byte, now))
    }

    /// The leaf of a block that the directory knows.
    #[inline]
    fn leaf_in(&self, range: &Range, whose: Whose, block: Block) -> Option<&[AtomicU64]> {
        // Acquire pairs with the Release in `learn`: the leaf is as its linking left it.
        let leaf = range.slot(whose, block)?.load(Acquire);
        // SAFETY: `learn` is told of leaves only, which are pages of memory.
        (leaf != 0).then(|| unsafe { self.node_words(PhysAddr::new(leaf)) })
    }

    /// Lets a preserved block go: it no longer survives, and can be freed.
    ///
    /// # Errors
    /// [`Error::NotPreserved`], and as for [`Memory::preserve`].
    #[inline]
    pub fn unpreserve(&self, block: Block) -> Result<(), Error> {
        match self.at_hand(block, true) {
            Some((spot, byte, now)) => {
                spot.unpreserve(block)?;
                byte.store(kinds::without_preserved(now), Relaxed);
                Ok(())
            }
            None => self.unpreserve_more(block),
        }
    }

    /// Lets go a block whose leaf is not known, or says why not.
    #[cold]
    #[inline(never)]
    fn unpreserve_more(&self, block: Block) -> Result<(), Error> {
        let (byte, now) = Self::single(self.range(block.pfn())?, block, true)?;
        self.own.unpreserve(&self.tables(Whose::Own), block)?;
        byte.store(kinds::without_preserved(now), Relaxed);
        Ok(())
    }

    /// Makes many allocated blocks survive, in any order, wherever they lie.
    ///
    /// Costs what [`Memory::preserve`] costs where everything is near. Where they are scattered over
    /// much memory, so that each is a miss or two, what the next ones need comes meanwhile.
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
    /// memory.preserve_all(&[a, b, c])?;
    /// assert!(memory.is_preserved(b));
    /// memory.unpreserve(b)?;
    /// let refused = memory.unpreserve_all(&[a, b, c]);
    /// assert_eq!(refused, Err(Error::NotPreserved { block: b }));
    /// assert!(memory.is_preserved(a) && memory.is_preserved(c));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn preserve_all(&self, blocks: &[Block]) -> Result<(), Error> {
        self.each_of(blocks, Self::preserve, Self::unpreserve)
    }

    /// Lets many preserved blocks go.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`], naming the first at fault. All or nothing.
    pub fn unpreserve_all(&self, blocks: &[Block]) -> Result<(), Error> {
        self.each_of(blocks, Self::unpreserve, Self::preserve)
    }

    fn each_of(
        &self,
        blocks: &[Block],
        act: impl Fn(&Self, Block) -> Result<(), Error>,
        undo: impl Fn(&Self, Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (i, block) in blocks.iter().enumerate() {
            if let Some(ahead) = blocks.get(i + AHEAD) {
                self.prefetch(*ahead);
            }
            if let Err(error) = act(self, *block) {
                for block in blocks.iter().take(i) {
                    let undone = undo(self, *block);
                    debug_assert!(undone.is_ok(), "done just now: {undone:?}");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks for what [`Memory::preserve`] will look at.
    #[inline]
    fn prefetch(&self, block: Block) {
        let Some(range) = self.ranges.find(block.pfn()) else { return };
        if let Some(byte) = range.byte(block.pfn()) {
            prefetch(byte);
        }
        let leaf = self.leaf_in(range, Whose::Own, block);
        if let Some(spot) = leaf.and_then(|leaf| Spot::of(leaf, block)) {
            spot.prefetch();
        }
    }

    /// Makes a whole run survive, tracked as its few largest aligned blocks.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], and [`Error::WrongLength`]. All or nothing.
    pub fn preserve_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        self.check_run(run, kind).map_err(|error| match error {
            Error::Preserved { block } => Error::AlreadyPreserved { block },
            other => other,
        })?;
        self.own.preserve_run(&self.tables(Whose::Own), run)?;
        self.mark_run_preserved(run, true);
        Ok(())
    }

    /// Lets a preserved run go.
    ///
    /// # Errors
    /// [`Error::NotPreserved`], and as for [`Memory::preserve_run`]. All or nothing.
    pub fn unpreserve_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        if !self.is_run(run, kind, true) {
            match self.check_run(run, kind) {
                Err(Error::Preserved { .. }) => {}
                Err(other) => return Err(other),
                Ok(()) => {
                    let block = Block::containing(run.start(), Order::ZERO);
                    return Err(Error::NotPreserved { block });
                }
            }
        }
        self.own.unpreserve_run(&self.tables(Whose::Own), run)?;
        self.mark_run_preserved(run, false);
        Ok(())
    }

    /// Makes folios of one order in a row survive: up to 64 at a time with
    /// one atomic operation, and still each a folio of its own.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], naming the first at fault. All or nothing.
    pub fn preserve_adjacent(&self, folios: Adjacent) -> Result<(), Error> {
        let alike = self.each_adjacent(folios, false)?;
        self.own.preserve_adjacent(&self.tables(Whose::Own), folios)?;
        self.mark_adjacent(folios, alike, true);
        Ok(())
    }

    /// Lets preserved folios of one order in a row go.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`], naming the first at fault. All or nothing.
    pub fn unpreserve_adjacent(&self, folios: Adjacent) -> Result<(), Error> {
        let alike = self.each_adjacent(folios, true)?;
        self.own.unpreserve_adjacent(&self.tables(Whose::Own), folios)?;
        self.mark_adjacent(folios, alike, false);
        Ok(())
    }

    /// Whether exactly this block is preserved: in the tracker, by its order.
    pub fn is_preserved(&self, block: Block) -> bool {
        self.own.contains(&self.tables(Whose::Own), block)
    }

    /// Calls `each` with every preserved block, order by order, by address within an order.
    pub fn for_each_preserved(&self, each: impl FnMut(Block)) {
        self.own.tree(&self.tables(Whose::Own)).folios().for_each(each);
    }

    /// Calls `each` with every row of preserved blocks that lie side by side and have one order:
    /// the same as [`Memory::for_each_preserved`] and much faster where blocks are many.
    pub fn for_each_row(&self, each: impl FnMut(Adjacent)) {
        self.own.tree(&self.tables(Whose::Own)).adjacent().for_each(each);
    }

    /// Calls `each` with every frame that the tracker's own nodes occupy.
    pub fn for_each_node(&self, each: impl FnMut(TreeNode)) {
        self.own.tree(&self.tables(Whose::Own)).nodes().for_each(each);
    }

    /// How many blocks of which order are preserved, and in how many nodes.
    pub fn counts(&self) -> Counts {
        self.own.tree(&self.tables(Whose::Own)).counts()
    }

    /// The first `frames` frames in a row within `within` of which none is preserved.
    pub fn next_gap(&self, frames: u64, within: Run) -> Option<Run> {
        self.own.tree(&self.tables(Whose::Own)).next_gap(within, frames)
    }

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
        // What lies in a cache would seem to be in use.
        self.drain_all();
        let pages = self.tables(Whose::Inherited);
        let counts = check(root, &pages, &mut Holding { memory: &self })?;
        self.inherited = Tracker::adopt(root);
        Ok((self, counts))
    }

    /// Whether the predecessor preserved exactly this block, and nobody has claimed it yet.
    pub fn is_inherited(&self, block: Block) -> bool {
        self.inherited.contains(&self.tables(Whose::Inherited), block)
    }

    /// Calls `each` with every block that the predecessor preserved and nobody has claimed.
    pub fn for_each_inherited(&self, each: impl FnMut(Block)) {
        self.inherited.tree(&self.tables(Whose::Inherited)).folios().for_each(each);
    }

    /// Calls `each` with every node of the predecessor's tree.
    pub fn for_each_inherited_node(&self, each: impl FnMut(TreeNode)) {
        self.inherited.tree(&self.tables(Whose::Inherited)).nodes().for_each(each);
    }

    /// Claims a block that the predecessor preserved: from now on it is allocated, as `kind`,
    /// and freed like any other. Once: the bit in the predecessor's tree decides.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: never was, with this order, or is claimed already.
    /// [`Error::WrongKind`]: [`Memory::label`] says that it is something else.
    /// [`Error::BadRequest`]: an order above [`Order::MAX_FOLIO`] (claim it as a run), or no
    /// block's kind.
    pub fn claim(&self, block: Block, kind: Kind) -> Result<(), Error> {
        if block.order() > Order::MAX_FOLIO || kind.is_run() || kind == Kind::Tail {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        let range = self.range(block.pfn())?;
        let leaf = self.leaf_in(range, Whose::Inherited, block);
        // Mostly the leaf is known, as `inherit` came by it, and the block has no label.
        if let Some(spot) = leaf.and_then(|leaf| Spot::of(leaf, block))
            && let Some(byte) = range.byte(block.pfn())
            && kinds::is_nothing(byte.load(Relaxed))
        {
            spot.unpreserve(block)?;
            byte.store(kinds::head(kind, block.order(), false), Relaxed);
            return Ok(());
        }
        self.unlabelled(block, kind)?;
        self.inherited.unpreserve(&self.tables(Whose::Inherited), block)?;
        self.mark(block, kind);
        Ok(())
    }

    /// Says what a block that the predecessor preserved is: from now on only a claim as `kind`
    /// takes it. For slabs and tables, which are found by reading what the predecessor wrote, so
    /// that nobody gets them as plain folios.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: not a block that can be claimed. [`Error::WrongKind`]: it has a
    /// label, maybe the same one: two tables name it.
    pub fn label(&self, block: Block, kind: Kind) -> Result<(), Error> {
        if !self.is_inherited(block) || block.order() > Order::MAX_FOLIO {
            return Err(Error::NotPreserved { block });
        }
        if let Some(found) = self.label_of(block) {
            return Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found });
        }
        // As preserved, which it is by the predecessor: so nothing but a claim takes it.
        self.mark_preserved(block, kind, true);
        Ok(())
    }

    /// The block that the predecessor preserved, and nobody claimed, that holds the frame.
    pub fn inherited_block(&self, pfn: Pfn) -> Option<Block> {
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        orders.map(|order| Block::containing(pfn, order)).find(|block| self.is_inherited(*block))
    }

    /// The label of an inherited block, if it has one.
    pub fn label_of(&self, block: Block) -> Option<Kind> {
        match self.ranges.find(block.pfn())?.state(block.pfn()) {
            FrameState::Head { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// Refuses a claim as `kind` of a block that is labelled as something else.
    fn unlabelled(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        if range.byte(block.pfn()).is_some_and(|byte| kinds::is_nothing(byte.load(Relaxed))) {
            return Ok(());
        }
        match range.state(block.pfn()) {
            FrameState::Head { kind: found, .. } if found != kind && self.is_inherited(block) => {
                Err(Error::WrongKind { pfn: block.pfn(), expected: kind, found })
            }
            _ => Ok(()),
        }
    }

    /// Undoes a claim: the block is the predecessor's again, there for the next claim.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed. [`Error::OutOfMemory`] cannot happen: the
    /// predecessor's tree has the leaf.
    ///
    /// # Safety
    /// As for [`Memory::free`]; the block came from [`Memory::claim`] and its contents are as they
    /// were then.
    pub unsafe fn unclaim(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        match range.byte(block.pfn()) {
            Some(byte) if byte.load(Relaxed) == kinds::head(kind, block.order(), false) => {
                byte.store(kinds::NEVER, Relaxed);
            }
            _ => return Err(Self::refuse(range, block, kind)),
        }
        self.inherited.preserve(&self.tables(Whose::Inherited), block)
    }

    /// Claims a run, all of its blocks or none.
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    pub fn claim_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        if run.is_empty() || !kind.is_run() {
            return Err(Error::BadRequest { frames: run.frames() });
        }
        self.ranges.covering(run).ok_or(Error::NotMemory { pfn: run.start() })?;
        run.blocks_up_to(Order::MAX_FOLIO).try_for_each(|block| self.unlabelled(block, kind))?;
        self.inherited.unpreserve_run(&self.tables(Whose::Inherited), run)?;
        self.mark_run(run, kind);
        Ok(())
    }

    /// Ends the inheritance: every block that nobody claimed meets the fate that `fate` decides,
    /// and the predecessor's tree becomes free memory. Returns the blocks freed and kept.
    ///
    /// Nothing may be claimed at the same time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for a node, keeping a block. What was decided so far stands; the
    /// rest is still to be claimed, and the call can be repeated.
    pub fn disinherit(&self, mut fate: impl FnMut(Block) -> Fate) -> Result<(u64, u64), Error> {
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
            self.mark_preserved(block, kind, true);
        } else {
            self.mark_run(block.run(), Kind::Run);
            self.mark_run_preserved(block.run(), true);
        }
        Ok(())
    }

    #[inline]
    fn mark_preserved(&self, block: Block, kind: Kind, preserved: bool) {
        if let Some(byte) = self.ranges.find(block.pfn()).and_then(|r| r.byte(block.pfn())) {
            byte.store(kinds::head(kind, block.order(), preserved), Relaxed);
        }
    }

    /// Only the head says it; a tail is what it belongs to.
    fn mark_run_preserved(&self, run: Run, preserved: bool) {
        let head = run.blocks_up_to(Order::MAX_FOLIO).next();
        if let Some((block, kind)) = head.and_then(|block| Some((block, self.label_of(block)?))) {
            self.mark_preserved(block, kind, preserved);
        }
    }

    /// Checks that the folios are allocated and (not) preserved: what the bytes of all of them say,
    /// if that is the same.
    fn each_adjacent(&self, folios: Adjacent, preserved: bool) -> Result<Option<u8>, Error> {
        let mut blocks = blocks(folios);
        let Some(first) = blocks.next() else { return Ok(None) };
        let (_, said) = Self::single(self.range(first.pfn())?, first, preserved)?;
        // Mostly all of them: no look at each, and no branch.
        if self.bytes(folios).is_some_and(|bytes| alike(bytes, folios.first().order(), said)) {
            return Ok(Some(said));
        }
        for block in blocks {
            Self::single(self.range(block.pfn())?, block, preserved)?;
        }
        Ok(None)
    }

    fn mark_adjacent(&self, folios: Adjacent, alike: Option<u8>, preserved: bool) {
        let step = if preserved { kinds::with_preserved } else { kinds::without_preserved };
        if let Some((said, bytes)) = alike.zip(self.bytes(folios)) {
            return store_all(bytes, folios.first().order(), step(said));
        }
        for block in blocks(folios) {
            let range = self.ranges.find(block.pfn());
            if let Some(byte) = range.and_then(|range| range.byte(block.pfn())) {
                byte.store(step(byte.load(Relaxed)), Relaxed);
            }
        }
    }

    /// The bytes of all the folios' frames, if those are in one range.
    fn bytes(&self, folios: Adjacent) -> Option<&[AtomicU8]> {
        self.ranges.find(folios.first().pfn())?.bytes_of(folios.run())
    }

    /// The byte of an allocated block that is no part of a run and (not) preserved, and what it
    /// says now.
    #[inline]
    fn single(range: &Range, block: Block, preserved: bool) -> Result<(&AtomicU8, u8), Error> {
        if block.order() <= Order::MAX_FOLIO
            && let Some(byte) = range.byte(block.pfn())
        {
            let now = byte.load(Relaxed);
            if kinds::is_single(now, block.order(), preserved) {
                return Ok((byte, now));
            }
        }
        Err(Self::refuse_single(range, block, preserved))
    }

    /// Why the block is none to preserve, or to let go if it should be `preserved`.
    #[cold]
    #[inline(never)]
    fn refuse_single(range: &Range, block: Block, preserved: bool) -> Error {
        let byte = range.byte(block.pfn()).map_or(kinds::NEVER, |byte| byte.load(Relaxed));
        if block.order() <= Order::MAX_FOLIO && kinds::is_single(byte, block.order(), !preserved) {
            return if preserved {
                Error::NotPreserved { block }
            } else {
                Error::AlreadyPreserved { block }
            };
        }
        match (Self::refuse(range, block, Kind::Folio), range.state(block.pfn())) {
            // No kind was asked for: what is in the way is the size.
            (Error::WrongKind { pfn, found, .. }, FrameState::Head { order, .. })
                if !found.is_run() =>
            {
                Error::WrongOrder { pfn, expected: block.order(), found: order }
            }
            (other, _) => other,
        }
    }
}

/// Whether the bytes of the first frames of folios of `order` that lie side by side all say
/// `said`.
fn alike(bytes: &[AtomicU8], order: Order, said: u8) -> bool {
    let differs = |byte: &AtomicU8| byte.load(Relaxed) ^ said;
    if order != Order::ZERO {
        return bytes.iter().step_by(order.frames() as usize).fold(0, |d, b| d | differs(b)) == 0;
    }
    // Four at a time, so that one need not wait for the other.
    let (fours, rest) = bytes.as_chunks::<4>();
    let lanes = fours.iter().fold([0; 4], |d, b| core::array::from_fn(|i| d[i] | differs(&b[i])));
    rest.iter().fold(lanes.into_iter().fold(0, |d, l| d | l), |d, b| d | differs(b)) == 0
}

/// Stores `now` into the bytes of the first frames of folios of `order` that lie side by side.
fn store_all(bytes: &[AtomicU8], order: Order, now: u8) {
    if order == Order::ZERO {
        for byte in bytes {
            byte.store(now, Relaxed);
        }
    } else {
        for head in bytes.iter().step_by(order.frames() as usize) {
            head.store(now, Relaxed);
        }
    }
}

fn blocks(folios: Adjacent) -> impl Iterator<Item = Block> {
    let (first, order) = (folios.first().pfn(), folios.first().order());
    (0..folios.count()).map(move |i| Block::containing(first.add(i << order.get()), order))
}

/// The ledger of [`Memory::inherit`]: what is taken in it is taken out of the free bits, by the
/// one that owns the memory.
struct Holding<'m, M: Machine> {
    memory: &'m Memory<M>,
}

impl<M: Machine> Ledger for Holding<'_, M> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        let outside = TreeFault::OutsideMemory { addr: block.addr() };
        let range = self.memory.ranges.covering(block.run()).ok_or(outside)?;
        for part in block.run().blocks_up_to(Order::MAX_FOLIO) {
            if !range.columns().carve(part) {
                // What was taken stays so: the caller gives the whole memory up.
                return Err(TreeFault::Overlap { block });
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
        for range in self.memory.ranges.iter().filter(|range| range.run().overlaps(covers)) {
            let within = Block::containing(range.run().start().max(first.pfn()), order);
            if let Some(slot) = range.slot(Whose::Inherited, within) {
                // Release pairs with the Acquire in `Pages::leaf`.
                slot.store(leaf.get(), Release);
            }
        }
    }
}
