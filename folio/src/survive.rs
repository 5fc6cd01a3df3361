//! What survives: preserving what is allocated, and letting it go.
//!
//! Preserving is two stores, a bit of the tree and the frame's byte, and freeing looks at the byte
//! alone. So whatever names a block by its address here is `unsafe`: the block's owner calls it,
//! and nothing else changes the block meanwhile. The handles, which own what they name, are safe.
//!
//! There is one tree, from a first kernel to the last: a successor goes on with its predecessor's
//! (`inherit`), in which blocks stay until they are claimed or disposed of.

use crate::error::Error;
use crate::kinds::{self, Kind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::octets;
use crate::ranges::Range;
use crate::request::Request;
use crate::tracker::{Nodes, Spot};
use heirloom_kho::sync::{Acquire, AtomicU8, AtomicU64, Relaxed, Release};
use heirloom_kho::tree::{Adjacent, Counts, Tables, TreeNode};
use heirloom_kho::{Block, Order, Pfn, PhysAddr, Run};

/// The memory as the tracker sees it: pages for nodes, and the directory of leaves.
pub(crate) struct Pages<'m, M: Machine> {
    memory: &'m Memory<M>,
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
        self.memory.leaf_in(self.memory.ranges.find(block.pfn())?, block)
    }

    fn learn(&self, block: Block, leaf: PhysAddr) {
        let range = self.memory.ranges.find(block.pfn());
        if let Some(slot) = range.and_then(|range| range.slot(block)) {
            // Release pairs with the Acquire in `leaf`.
            slot.store(leaf.get(), Release);
        }
    }
}

/// Stores what the byte of a block says from now on.
#[inline]
fn say(byte: &AtomicU8, now: u8) {
    // Release pairs with the Acquire in `Range::within`, in place of the one in `make_slab`: a
    // caller that reads this byte, and not the one that said first that the block is a slab, finds
    // all the same what it begins with.
    byte.store(now, Release);
}

impl<M: Machine> Memory<M> {
    pub(crate) const fn tables(&self) -> Pages<'_, M> {
        Pages { memory: self }
    }

    /// The root node of the tree that this kernel hands over: its predecessor's, or one that is
    /// allocated at the first call.
    ///
    /// It stays where it is as long as the memory lives.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] at the first call.
    pub fn tree_root(&self) -> Result<PhysAddr, Error> {
        self.tracker.ensure_root(&self.tables())
    }

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
    #[inline]
    pub unsafe fn preserve_as(&self, block: Block, kind: Kind) -> Result<(), Error> {
        self.preserve_kind(block, kind)
    }

    /// [`Memory::preserve_as`] for what has made sure of its contract.
    #[inline]
    pub(crate) fn preserve_kind(&self, block: Block, kind: Kind) -> Result<(), Error> {
        match self.at_hand(block, kind, false) {
            Some((spot, byte, now)) => {
                spot.preserve(block)?;
                say(byte, kinds::with_preserved(now));
                Ok(())
            }
            None => self.preserve_more(block, kind),
        }
    }

    /// Preserves a block whose leaf is not known or not there, or says why not.
    #[cold]
    #[inline(never)]
    fn preserve_more(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let (byte, now) = self.single(self.range(block.pfn())?, block, kind, false)?;
        self.tracker.preserve(&self.tables(), block)?;
        say(byte, kinds::with_preserved(now));
        Ok(())
    }

    /// The spot of a block of `kind` that is allocated and (not) preserved, its byte, and what that
    /// says, if the directory knows the leaf.
    #[inline]
    fn at_hand(
        &self,
        block: Block,
        kind: Kind,
        preserved: bool,
    ) -> Option<(Spot<'_>, &AtomicU8, u8)> {
        let range = self.ranges.find(block.pfn())?;
        let spot = Spot::of(self.leaf_in(range, block)?, block)?;
        // The tracker's word and the frame's byte are far apart, and each may be far away.
        spot.prefetch();
        let byte = range.byte(block.pfn()).filter(|_| block.order() <= Order::MAX_FOLIO)?;
        let now = byte.load(Relaxed);
        kinds::is_single(now, kind, block.order(), preserved).then_some((spot, byte, now))
    }

    /// The leaf of a block that the directory knows.
    #[inline]
    pub(crate) fn leaf_in(&self, range: &Range, block: Block) -> Option<&[AtomicU64]> {
        // Acquire pairs with the Release in `learn`: the leaf is as its linking left it.
        let leaf = range.slot(block)?.load(Acquire);
        // SAFETY: `learn` is told of leaves only, which are pages of memory.
        (leaf != 0).then(|| unsafe { self.node_words(PhysAddr::new(leaf)) })
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
    #[inline]
    pub unsafe fn unpreserve_as(&self, block: Block, kind: Kind) -> Result<(), Error> {
        self.unpreserve_kind(block, kind)
    }

    /// [`Memory::unpreserve_as`] for what has made sure of its contract.
    #[inline]
    pub(crate) fn unpreserve_kind(&self, block: Block, kind: Kind) -> Result<(), Error> {
        match self.at_hand(block, kind, true) {
            Some((spot, byte, now)) => {
                spot.unpreserve(block)?;
                say(byte, kinds::without_preserved(now));
                Ok(())
            }
            None => self.unpreserve_more(block, kind),
        }
    }

    /// Lets go a block whose leaf is not known, or says why not.
    #[cold]
    #[inline(never)]
    fn unpreserve_more(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let (byte, now) = self.single(self.range(block.pfn())?, block, kind, true)?;
        self.tracker.unpreserve(&self.tables(), block)?;
        say(byte, kinds::without_preserved(now));
        Ok(())
    }

    /// Makes a whole run survive, tracked as its few largest aligned blocks. A buffer, which a
    /// layer above keeps, is refused: [`Memory::preserve_run_as`] is for its owner.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], and [`Error::WrongLength`]; [`Error::WrongKind`]: it is no
    /// [`Kind::Run`], or another was named. All or nothing.
    ///
    /// # Safety
    /// The caller owns the run, if it is allocated: nothing else frees it, preserves it, lets it go
    /// or resizes it while the call runs, and no handle ([`FolioRun`](crate::FolioRun)) owns it.
    pub unsafe fn preserve_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        no_buffer(run, kind)?;
        self.preserve_run_kind(run, kind)
    }

    /// Makes a whole run of `kind` survive, a buffer too.
    ///
    /// # Errors
    /// As for [`Memory::preserve_run`]; [`Error::BadRequest`] for a kind that is no run's.
    ///
    /// # Safety
    /// As for [`Memory::preserve_run`].
    pub unsafe fn preserve_run_as(&self, run: Run, kind: Kind) -> Result<(), Error> {
        self.preserve_run_kind(run, kind)
    }

    /// [`Memory::preserve_run_as`] for what has made sure of its contract.
    pub(crate) fn preserve_run_kind(&self, run: Run, kind: Kind) -> Result<(), Error> {
        if kind == Kind::Buffer && self.is_held_run(run) {
            self.mark_run_preserved(run, kind, true);
            return Ok(());
        }
        self.preserve_plain_run(run, kind)?;
        self.mark_run_preserved(run, kind, true);
        Ok(())
    }

    /// Preserves a run that is not preserved. Its byte does not say so yet.
    fn preserve_plain_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        self.check_run(run, kind).map_err(|error| match error {
            Error::Preserved { block } => Error::AlreadyPreserved { block },
            other => other,
        })?;
        self.tracker.preserve_run(&self.tables(), run)
    }

    /// Makes a whole buffer survive for as long as it is not freed: its owner frees it without letting
    /// it go first, by [`Memory::free_held`].
    ///
    /// [`Memory::preserve_run_as`] makes an ordinary preserved buffer of it, which costs a store.
    ///
    /// # Errors
    /// As for [`Memory::preserve_run`].
    ///
    /// # Safety
    /// As for [`Memory::preserve_run_as`].
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Error, Kind, Order, Request};
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let buffer = memory.alloc_run(5, Request::new(Order::ZERO).kind(Kind::Buffer))?;
    /// // SAFETY: allocated just now.
    /// unsafe { memory.hold_buffer(buffer) }?;
    /// assert!(memory.is_held(buffer.start()));
    /// // SAFETY: nothing uses it any more.
    /// unsafe { memory.free_held(buffer) }?;
    /// assert_eq!(memory.counts().total(), 0);
    /// # Ok::<(), Error>(())
    /// ```
    pub unsafe fn hold_buffer(&self, run: Run) -> Result<(), Error> {
        self.preserve_plain_run(run, Kind::Buffer)?;
        self.mark_held(run);
        Ok(())
    }

    /// Says of a preserved buffer that it is held.
    pub(crate) fn mark_held(&self, run: Run) {
        if let Some(block) = run.blocks_up_to(Order::MAX_FOLIO).next()
            && let Some(byte) = self.byte(block.pfn())
        {
            byte.store(kinds::held(block.order()), Relaxed);
        }
    }

    /// Whether a buffer starts at a frame that survives for as long as it is not freed.
    pub fn is_held(&self, pfn: Pfn) -> bool {
        self.byte(pfn).is_some_and(|byte| kinds::is_held(byte.load(Relaxed)))
    }

    /// Lets a held buffer go and frees it.
    ///
    /// # Errors
    /// As for [`Memory::free_run`]; [`Error::NotPreserved`]: it is not held. Nothing is changed then.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    pub unsafe fn free_held(&self, run: Run) -> Result<(), Error> {
        if !self.is_held_run(run) {
            self.check_run(run, Kind::Buffer)?;
            return Err(Error::NotPreserved { block: Block::containing(run.start(), Order::ZERO) });
        }
        self.tracker.unpreserve_run(&self.tables(), run)?;
        self.unmark_run(run);
        self.give_run(run);
        Ok(())
    }

    /// Lets a preserved run go.
    ///
    /// # Errors
    /// [`Error::NotPreserved`], and as for [`Memory::preserve_run`]. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::preserve_run`], but that it is preserved.
    pub unsafe fn unpreserve_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        no_buffer(run, kind)?;
        self.unpreserve_run_kind(run, kind)
    }

    /// Lets a preserved run of `kind` go, a buffer too.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve_run`]; [`Error::BadRequest`] for a kind that is no run's.
    ///
    /// # Safety
    /// As for [`Memory::preserve_run_as`].
    pub unsafe fn unpreserve_run_as(&self, run: Run, kind: Kind) -> Result<(), Error> {
        self.unpreserve_run_kind(run, kind)
    }

    /// [`Memory::unpreserve_run_as`] for what has made sure of its contract.
    pub(crate) fn unpreserve_run_kind(&self, run: Run, kind: Kind) -> Result<(), Error> {
        let held = kind == Kind::Buffer && self.is_held_run(run);
        if !held && !self.is_run(run, kind, true) {
            match self.check_run(run, kind) {
                Err(Error::Preserved { .. }) => {}
                Err(other) => return Err(other),
                Ok(()) => {
                    let block = Block::containing(run.start(), Order::ZERO);
                    return Err(Error::NotPreserved { block });
                }
            }
        }
        self.tracker.unpreserve_run(&self.tables(), run)?;
        self.mark_run_preserved(run, kind, false);
        Ok(())
    }

    /// Makes folios of one order in a row survive: up to 64 at a time with
    /// one atomic operation, and still each a folio of its own.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], naming the first at fault. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::preserve`], for each of them.
    pub unsafe fn preserve_adjacent(&self, folios: Adjacent) -> Result<(), Error> {
        let alike = self.each_adjacent(folios, false)?;
        self.tracker.preserve_adjacent(&self.tables(), folios)?;
        self.mark_adjacent(folios, alike, true);
        Ok(())
    }

    /// Lets preserved folios of one order in a row go.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`], naming the first at fault. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::unpreserve`], for each of them.
    pub unsafe fn unpreserve_adjacent(&self, folios: Adjacent) -> Result<(), Error> {
        let alike = self.each_adjacent(folios, true)?;
        self.tracker.unpreserve_adjacent(&self.tables(), folios)?;
        self.mark_adjacent(folios, alike, false);
        Ok(())
    }

    /// Whether exactly this block is preserved: in the tracker, by its order.
    pub fn is_preserved(&self, block: Block) -> bool {
        self.tracker.contains(&self.tables(), block)
    }

    /// Calls `each` with every preserved block, order by order, by address within an order.
    ///
    /// Nothing is held meanwhile: `each` may call everything, and blocks that are preserved or let
    /// go since the call began may be among them or not.
    pub fn for_each_preserved(&self, each: impl FnMut(Block)) {
        self.tracker.tree(&self.tables()).folios().for_each(each);
    }

    /// Calls `each` with every row of preserved blocks that lie side by side and have one order:
    /// the same as [`Memory::for_each_preserved`] and much faster where blocks are many.
    pub fn for_each_row(&self, each: impl FnMut(Adjacent)) {
        self.tracker.tree(&self.tables()).adjacent().for_each(each);
    }

    /// Calls `each` with every frame that the tracker's own nodes occupy.
    pub fn for_each_node(&self, each: impl FnMut(TreeNode)) {
        self.tracker.tree(&self.tables()).nodes().for_each(each);
    }

    /// How many blocks of which order are preserved, and in how many nodes.
    pub fn counts(&self) -> Counts {
        self.tracker.tree(&self.tables()).counts()
    }

    /// The first `frames` frames in a row within `within` of which none is preserved.
    pub fn next_gap(&self, frames: u64, within: Run) -> Option<Run> {
        self.tracker.tree(&self.tables()).next_gap(within, frames)
    }

    #[inline]
    pub(crate) fn mark_preserved(&self, block: Block, kind: Kind, preserved: bool) {
        if let Some(byte) = self.byte(block.pfn()) {
            byte.store(kinds::head(kind, block.order(), preserved), Relaxed);
        }
    }

    /// Only the head says it; a tail is what it belongs to. The kind is the caller's and is not read
    /// again: what another call made of the frames meanwhile, a slab say, is not to be written back.
    pub(crate) fn mark_run_preserved(&self, run: Run, kind: Kind, preserved: bool) {
        if let Some(block) = run.blocks_up_to(Order::MAX_FOLIO).next() {
            self.mark_preserved(block, kind, preserved);
        }
    }

    /// Checks that the folios are allocated and (not) preserved: the bytes of their frames, if they
    /// lie in one range and all say so at a first look.
    fn each_adjacent(
        &self,
        folios: Adjacent,
        preserved: bool,
    ) -> Result<Option<&[AtomicU8]>, Error> {
        let mut blocks = blocks(folios);
        let Some(first) = blocks.next() else { return Ok(None) };
        let range = self.range(first.pfn())?;
        let (_, said) = self.single(range, first, Kind::Folio, preserved)?;
        // Mostly all of them: no look at each, and no branch.
        let bytes = range.bytes_of(folios.run());
        if let Some(bytes) = bytes.filter(|bytes| alike(bytes, first.order(), said)) {
            return Ok(Some(bytes));
        }
        for block in blocks {
            self.single(self.range(block.pfn())?, block, Kind::Folio, preserved)?;
        }
        Ok(None)
    }

    fn mark_adjacent(&self, folios: Adjacent, alike: Option<&[AtomicU8]>, preserved: bool) {
        let order = folios.first().order();
        if let Some(bytes) = alike {
            return store_all(bytes, order, kinds::head(Kind::Folio, order, preserved));
        }
        for block in blocks(folios) {
            self.mark_preserved(block, Kind::Folio, preserved);
        }
    }

    /// The byte of an allocated block of `kind` that is no part of a run and (not) preserved, and
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
            if kinds::is_single(now, kind, block.order(), preserved) {
                return Ok((byte, now));
            }
        }
        Err(self.refuse_single(range, block, kind, preserved))
    }

    /// Why the block is none of `kind` to preserve, or to let go if it should be `preserved`.
    #[cold]
    #[inline(never)]
    pub(crate) fn refuse_single(
        &self,
        range: &Range,
        block: Block,
        kind: Kind,
        preserved: bool,
    ) -> Error {
        let order = block.order();
        if kind.is_run() || kind == Kind::Tail {
            return Error::BadRequest { frames: order.frames() };
        }
        let byte = range.byte(block.pfn()).map_or(kinds::NEVER, |byte| byte.load(Relaxed));
        let small = order <= Order::MAX_FOLIO;
        // What is still to be claimed is preserved, and goes by `Memory::disinherit` alone.
        let left = small && kinds::labelled(byte) == Some((kind, order));
        if left || small && byte == kinds::head(kind, order, !preserved) {
            return if preserved {
                Error::NotPreserved { block }
            } else {
                Error::AlreadyPreserved { block }
            };
        }
        self.refuse(range, block, kind)
    }
}

/// Refuses to take a run of the kind of a layer above.
fn no_buffer(run: Run, kind: Kind) -> Result<(), Error> {
    if kind == Kind::Buffer {
        let (pfn, expected) = (run.start(), Kind::Run);
        return Err(Error::WrongKind { pfn, expected, found: kind });
    }
    Ok(())
}

/// Whether the bytes of the first frames of folios of `order` that lie side by side all say
/// `said`.
fn alike(bytes: &[AtomicU8], order: Order, said: u8) -> bool {
    if order == Order::ZERO {
        return octets::all_are(bytes, said);
    }
    let mut heads = bytes.iter().step_by(order.frames() as usize);
    heads.all(|byte| byte.load(Relaxed) == said)
}

/// Stores `now` into the bytes of the first frames of folios of `order` that lie side by side.
fn store_all(bytes: &[AtomicU8], order: Order, now: u8) {
    if order == Order::ZERO {
        return octets::store_all(bytes, now);
    }
    for head in bytes.iter().step_by(order.frames() as usize) {
        head.store(now, Relaxed);
    }
}

fn blocks(folios: Adjacent) -> impl Iterator<Item = Block> {
    let (first, order) = (folios.first().pfn(), folios.first().order());
    (0..folios.count()).map(move |i| Block::containing(first.add(i << order.get()), order))
}
