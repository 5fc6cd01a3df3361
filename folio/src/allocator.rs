//! The page allocator: folios and runs, taken and given back, with every misuse told apart.

use core::ptr::NonNull;

use crate::columns::{Group, Hints};
use crate::error::Error;
use crate::kinds::{self, FrameState, Kind};
use crate::machine::{CpuId, Machine, NodeId};
use crate::memory::Memory;
use crate::percpu::{Behind, Held, MAX_CACHED};
use crate::ranges::Range;
use crate::request::Request;
use heirloom_kho::sync::{Relaxed, Release};
use heirloom_kho::{Block, Order, Pfn, Run};

/// The shared bits of one node, behind a CPU's cache.
struct Home<'m, M: Machine> {
    memory: &'m Memory<M>,
    node: NodeId,
}

impl<M: Machine> Home<'_, M> {
    fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.memory.ranges.iter().filter(|range| range.node() == self.node)
    }
}

impl<M: Machine> Behind for Home<'_, M> {
    fn take_word(&self, hints: &mut Hints) -> Option<Group> {
        self.ranges().find_map(|range| range.columns().take_word(hints))
    }

    fn is_one_block(&self, word: Block) -> bool {
        self.memory.ranges.covering(word.run()).is_some()
    }

    fn take(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group> {
        self.ranges().find_map(|range| range.columns().take_group(order, most, hints))
    }

    fn home(&self) -> usize {
        // A node without memory has a number too, and no frames.
        self.ranges().next().map_or(1, number)
    }

    fn share(&self) -> u64 {
        // The same on every CPU: an eighth of the node.
        let frames: u64 = self.ranges().map(|range| range.run().frames()).sum();
        frames / 8 / self.memory.cpu_count() as u64
    }

    fn give_frames(&self, frames: &[Pfn]) -> u32 {
        let mut frames = frames.iter().copied().peekable();
        let mut row = 0;
        while let Some(&first) = frames.peek() {
            let Some(range) = self.memory.ranges.find(first) else { break };
            // Mostly all of them: one range is looked up, and not one a frame.
            let these = core::iter::from_fn(|| frames.next_if(|pfn| range.run().contains(*pfn)));
            row = range.columns().give_frames(these);
        }
        row
    }

    #[inline]
    fn give(&self, order: Order, group: Group) {
        let first = self.memory.ranges.find(group.any(order));
        let whole = first.filter(|range| group.word(order).is_some_and(|w| range.run().covers(w)));
        let given = match whole {
            Some(range) => range.columns().give_group(order, group),
            // Two ranges may meet within a word, or within a block.
            None => group.blocks(order).try_for_each(|block| self.memory.give_block(block)),
        };
        // Two frees of one block that raced: one of them is refused here, too late to say so.
        debug_assert!(given.is_ok(), "a cached block is in no other place");
    }
}

/// A range's number among all: its address, which is never zero and never followed.
fn number(range: &Range) -> usize {
    core::ptr::from_ref(range).addr()
}

impl<M: Machine> Memory<M> {
    /// Allocates a block.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: no such block is free where the request allows. (What another CPU
    /// keeps in its cache is not found until that CPU's next call, which gives it back; see
    /// [`Memory::drain`]. At most 192 single frames a CPU, and of no order more than an eighth of
    /// memory on all CPUs.)
    /// [`Error::BadRequest`]: the order is above [`Order::MAX_FOLIO`], or [`Kind::Tail`] or
    /// [`Kind::Slab`] was asked for.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few loads and stores: a call costs as much again")]
    pub fn alloc(&self, request: Request) -> Result<Block, Error> {
        if request.order() > Order::MAX_FOLIO || !Self::nameable(request.use_for()) {
            return Err(Error::BadRequest { frames: request.order().frames() });
        }
        let Some(pfn) = self.take_kept(request) else { return self.alloc_more(request) };
        let block = Block::aligned(pfn, request.order());
        self.mark(block, request.use_for());
        if request.wants_zeroes() {
            self.clear(block.run());
        }
        Ok(block)
    }

    /// Allocates a block where the CPU keeps none.
    #[inline(never)]
    fn alloc_more(&self, request: Request) -> Result<Block, Error> {
        let block = self.take_more(request)?;
        self.mark(block, request.use_for());
        if request.wants_zeroes() {
            self.clear(block.run());
        }
        Ok(block)
    }

    /// Allocates exactly this block.
    ///
    /// # Errors
    /// [`Error::NotFree`]: some frame of it is in use (or in the cache of another CPU).
    /// [`Error::NotMemory`]. [`Error::BadRequest`], as for [`Memory::alloc`].
    pub fn alloc_at(&self, block: Block, kind: Kind) -> Result<(), Error> {
        if block.order() > Order::MAX_FOLIO || !Self::nameable(kind) {
            return Err(Error::BadRequest { frames: block.order().frames() });
        }
        self.take_run_at(block.run())?;
        self.note_use();
        self.mark(block, kind);
        Ok(())
    }

    /// Makes a slab of an allocated block, of order at most [`Order::MAX_FOLIO`], that was a
    /// [`Kind::Table`] so far; it stays preserved if it was. From now on [`Memory::within`] finds it.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed.
    ///
    /// # Safety
    /// The caller owns the block, and it begins with what the layer that looks for slabs in this
    /// memory will believe there.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{FrameState, Kind, Order, Request};
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let block = memory.alloc(Request::new(Order::ZERO).kind(Kind::Table))?;
    /// // SAFETY: allocated just now, and nothing looks for slabs in this memory.
    /// unsafe { memory.make_slab(block) }?;
    /// let slab = FrameState::Head { kind: Kind::Slab, order: Order::ZERO, preserved: false };
    /// assert_eq!(memory.state(block.pfn())?, slab);
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    pub unsafe fn make_slab(&self, block: Block) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.turn(block, Kind::Table, kinds::slab_from_table) }
    }

    /// Turns a block of kind `from`, preserved or not, into one of another.
    ///
    /// # Safety
    /// The caller owns the block; and if a slab comes of it, see [`Memory::make_slab`].
    pub(crate) unsafe fn turn(
        &self,
        block: Block,
        from: Kind,
        to: fn(u8) -> u8,
    ) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        let byte = range.byte(block.pfn()).filter(|_| block.order() <= Order::MAX_FOLIO);
        let right = |now| {
            let kinds = [false, true].map(|kept| kinds::head(from, block.order(), kept));
            kinds.contains(&now)
        };
        match byte.map(|byte| (byte, byte.load(Relaxed))) {
            Some((byte, now)) if right(now) => {
                // Release pairs with the Acquire in `Range::within`: a caller that takes it for a
                // slab finds what it begins with.
                byte.store(to(now), Release);
                Ok(())
            }
            _ => Err(self.refuse(range, block, from)),
        }
    }

    /// Takes these frames out of use for good: firmware's, a device's, scratch.
    ///
    /// # Errors
    /// As for [`Memory::alloc_at`].
    pub fn reserve(&self, run: Run) -> Result<(), Error> {
        self.take_run_at(run)
    }

    /// Makes reserved frames free memory.
    ///
    /// # Errors
    /// [`Error::NotMemory`]; [`Error::TailFrame`] with the first frame that is allocated, or
    /// [`Error::DoubleFree`] with the first that is free. Nothing is changed then.
    ///
    /// # Safety
    /// The frames were [reserved](Memory::reserve), by the caller, and nothing uses them any more.
    pub unsafe fn release(&self, run: Run) -> Result<(), Error> {
        let parts = self.ranges.parts(run).ok_or(Error::NotMemory { pfn: run.start() })?;
        for (range, part) in parts {
            for i in 0..part.frames() {
                let pfn = part.start().add(i);
                if let Some((of, ..)) = self.holding(range, pfn) {
                    return Err(Error::TailFrame { pfn, of });
                }
                if range.columns().is_free(pfn) {
                    return Err(Error::DoubleFree { block: Block::containing(pfn, Order::ZERO) });
                }
            }
        }
        self.give_run(run);
        Ok(())
    }

    /// Frees a block that [`Memory::alloc`] or [`Memory::alloc_at`] returned.
    ///
    /// # Errors
    /// Nothing is changed and the block stays whose it was: [`Error::DoubleFree`],
    /// [`Error::WrongOrder`], [`Error::WrongKind`], [`Error::TailFrame`], [`Error::Preserved`],
    /// [`Error::NeverAllocated`], [`Error::NotMemory`]. One byte is read to tell.
    ///
    /// # Safety
    /// The caller owns the block: nothing will read or write it through an older pointer, and no
    /// other call frees, preserves or claims it at the same time.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few loads and stores: a call costs as much again")]
    pub unsafe fn free(&self, block: Block, kind: Kind) -> Result<(), Error> {
        let range = self.range(block.pfn())?;
        if kind.is_run() {
            // SAFETY: the same contract.
            return unsafe { self.free_run(block.run(), kind) };
        }
        match range.byte(block.pfn()) {
            Some(byte)
                if block.order() <= Order::MAX_FOLIO
                    && byte.load(Relaxed) == kinds::head(kind, block.order(), false) =>
            {
                byte.store(kinds::FREED, Relaxed);
                self.give(range, block)
            }
            _ => Err(self.refuse(range, block, kind)),
        }
    }

    /// Frees the run of `kind` that starts where `ptr` leads, if it is one block in the range that
    /// was added first and not preserved: whether it did. If not, nothing is changed, and
    /// [`Memory::free_run`] frees it or says why not.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    #[inline]
    pub unsafe fn free_single(&self, ptr: NonNull<u8>, kind: Kind) -> bool {
        let Some(range) = self.ranges.first() else { return false };
        let Some((byte, block)) = range.single(ptr, kind) else { return false };
        byte.store(kinds::FREED, Relaxed);
        if !self.give_kept(range, block) {
            let given = self.give_more(range, block);
            debug_assert!(given.is_ok(), "its byte said that it was in use: {given:?}");
        }
        true
    }

    /// What holds the frame: all frames of the folio, run, slab or buffer, its kind, and whether
    /// it is preserved. `None`: the frame is free, reserved, or no memory.
    pub fn holder(&self, pfn: Pfn) -> Option<(Run, Kind, bool)> {
        let (mut block, mut kind, mut preserved) = self.holding(self.ranges.find(pfn)?, pfn)?;
        while kind == Kind::Tail {
            let before = Pfn::new(block.pfn().get().checked_sub(1)?);
            (block, kind, preserved) = self.holding(self.ranges.find(before)?, before)?;
        }
        let run = if kind.is_run() { self.run_from(block) } else { block.run() };
        Some((run, kind, preserved))
    }

    /// Gives what the CPU caches hold back to the shared bits: this CPU's and those of CPUs that
    /// nothing runs on, now; the others' at their next call.
    pub fn drain(&self) {
        self.ask_all();
        self.machine().pinned(|cpu| {
            if let Some(cpu) = self.with_slot(cpu) {
                // SAFETY: pinned to `cpu`.
                unsafe { self.with_cache(cpu, |_, _| ()) };
            }
        });
        for cpu in self.cpus() {
            self.machine().idle(cpu, || {
                // SAFETY: `idle` runs this as if on `cpu`.
                unsafe { self.with_cache(cpu, |_, _| ()) };
            });
        }
    }

    /// Gives back what the caches of all CPUs hold, while nothing else uses the memory.
    pub fn drain_all(&mut self) {
        self.ask_all();
        for cpu in self.cpus() {
            // SAFETY: `self` is borrowed mutably, so nothing runs on any of its caches.
            unsafe { self.with_cache(cpu, |_, _| ()) };
        }
    }

    /// Works on the cache of `cpu`, drained first if that was asked for.
    ///
    /// # Safety
    /// Runs inside `pinned` or `idle` for `cpu`, or is the only user of the memory; `f` does not
    /// come back here. `cpu` has a slot.
    #[inline]
    unsafe fn with_cache<R>(&self, cpu: CpuId, f: impl FnOnce(Held<'_>, &Home<'_, M>) -> R) -> R {
        let home = Home { memory: self, node: self.machine().home(cpu) };
        // SAFETY: the same contract.
        unsafe {
            self.slot(cpu).with(|mut held| {
                held.make_ready(&home);
                f(held, &home)
            })
        }
    }

    /// Takes a block from this CPU's cache or from the shared bits. Its byte is not set yet.
    #[inline]
    pub(crate) fn take(&self, request: Request) -> Result<Block, Error> {
        match self.take_kept(request) {
            Some(pfn) => Ok(Block::aligned(pfn, request.order())),
            None => self.take_more(request),
        }
    }

    /// Takes a block that this CPU keeps, if that is all there is to do: a call more on this path
    /// would cost as much again. (A frame number and not a block: two registers, not a copy.)
    #[inline]
    fn take_kept(&self, request: Request) -> Option<Pfn> {
        self.machine().pinned_now(|cpu| {
            let cpu = self.with_slot(cpu)?;
            // SAFETY: pinned to `cpu`; nothing below comes back here.
            unsafe {
                self.slot(cpu).with(|mut held| {
                    let here = request.node().is_none_or(|node| node == self.machine().home(cpu));
                    if here && held.ready() { held.pop(request.order()) } else { None }
                })
            }
        })
    }

    /// Takes a block where [`Memory::take_kept`] had none: fills the cache again, or does without.
    #[inline(never)]
    fn take_more(&self, request: Request) -> Result<Block, Error> {
        let order = request.order();
        self.note_use();
        let found = self.machine().pinned(|cpu| {
            let Some(cpu) = self.with_slot(cpu) else {
                return self.take_shared(request, None, None, &mut Hints::new());
            };
            // SAFETY: pinned to `cpu`; nothing below comes back here.
            unsafe {
                self.with_cache(cpu, |mut held, home| {
                    let here = request.node().is_none_or(|node| node == home.node);
                    let tried = Some(home.node).filter(|_| here && order <= MAX_CACHED);
                    let kept = tried.and_then(|_| {
                        let pfn = held.pop(order).or_else(|| held.refill(order, home))?;
                        Some(Block::containing(pfn, order))
                    });
                    let hints = &mut held.cache.hints;
                    kept.or_else(|| self.take_shared(request, Some(home.node), tried, hints))
                })
            }
        });
        match found {
            Some(block) => Ok(block),
            None => self.take_drained(request),
        }
    }

    /// A second look once the caches within reach are empty.
    #[cold]
    #[inline(never)]
    fn take_drained(&self, request: Request) -> Result<Block, Error> {
        self.drain();
        self.take_shared(request, None, None, &mut Hints::new())
            .ok_or(Error::OutOfMemory { order: request.order(), node: request.only_node() })
    }

    /// Takes a block from the shared bits: of the node asked for, else of the home node, else,
    /// unless the request is strict, of any; but not of the node that was `tried`.
    fn take_shared(
        &self,
        request: Request,
        home: Option<NodeId>,
        tried: Option<NodeId>,
        hints: &mut Hints,
    ) -> Option<Block> {
        let first = request.node().or(home);
        let near = |range: &&Range| first.is_none_or(|node| range.node() == node);
        let ranges = || self.ranges.iter().filter(|range| tried != Some(range.node()));
        let mut take = |range: &Range| range.columns().take(request.order(), hints);
        ranges().filter(near).find_map(&mut take).or_else(|| {
            let mut others = ranges().filter(|range| !near(range));
            if request.only_node().is_some() { None } else { others.find_map(take) }
        })
    }

    /// Takes exactly `run`, all or nothing.
    pub(crate) fn take_run_at(&self, run: Run) -> Result<(), Error> {
        let parts = self.ranges.parts(run).ok_or(Error::NotMemory { pfn: run.start() })?;
        let attempt = || {
            for (range, part) in parts.clone() {
                for block in part.blocks_up_to(Order::MAX_FOLIO) {
                    if !range.columns().take_at(block) {
                        if let Some(taken) = Run::between(run.start(), block.pfn()) {
                            self.give_run(taken);
                        }
                        return Err(Error::NotFree { run });
                    }
                }
            }
            Ok(())
        };
        attempt().or_else(|_| {
            self.drain();
            attempt()
        })
    }

    /// Gives a block to this CPU's cache or to the shared bits. Its byte is cleared already.
    #[inline]
    fn give(&self, range: &Range, block: Block) -> Result<(), Error> {
        if self.give_kept(range, block) { Ok(()) } else { self.give_more(range, block) }
    }

    /// Keeps a freed block in this CPU's cache, if that is all there is to do: whether it did.
    #[inline]
    fn give_kept(&self, range: &Range, block: Block) -> bool {
        self.machine().pinned_now(|cpu| {
            let Some(cpu) = self.with_slot(cpu) else { return false };
            // SAFETY: pinned to `cpu`; nothing below comes back here.
            unsafe {
                self.slot(cpu).with(|mut held| held.ready_for(number(range)) && held.push(block))
            }
        })
    }

    /// Gives back a block that [`Memory::give_kept`] could not: makes room for it, or does without.
    #[inline(never)]
    fn give_more(&self, range: &Range, block: Block) -> Result<(), Error> {
        let order = block.order();
        let kept = order <= MAX_CACHED
            && self.machine().pinned(|cpu| {
                let Some(cpu) = self.with_slot(cpu) else { return false };
                // SAFETY: pinned to `cpu`; nothing below comes back here.
                unsafe {
                    self.with_cache(cpu, |mut held, home| {
                        // It may lie in another range of the node.
                        range.node() == home.node
                            && (held.push(block) || held.exchange(block, home))
                    })
                }
            });
        if kept {
            return Ok(());
        }
        self.give_block(block).map_err(|()| Error::DoubleFree { block })
    }

    /// Gives a block to the shared bits, of each range what it has of it.
    fn give_block(&self, block: Block) -> Result<(), ()> {
        let whole = self.ranges.find(block.pfn()).filter(|range| range.run().covers(block.run()));
        if let Some(range) = whole {
            return range.columns().give(block);
        }
        for (range, part) in self.ranges.parts(block.run()).ok_or(())? {
            part.blocks_up_to(Order::MAX_FOLIO).try_for_each(|part| range.columns().give(part))?;
        }
        Ok(())
    }

    /// Writes the byte of an allocated block.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "one store behind a look at the range")]
    pub(crate) fn mark(&self, block: Block, kind: Kind) {
        if let Some(byte) = self.byte(block.pfn()) {
            byte.store(kinds::head(kind, block.order(), false), Relaxed);
        }
    }

    /// Why `block` is not a block of `kind` that could be freed.
    #[cold]
    pub(crate) fn refuse(&self, range: &Range, block: Block, kind: Kind) -> Error {
        let pfn = block.pfn();
        match (range.state(pfn), self.holding(range, pfn)) {
            (FrameState::Head { kind: Kind::Tail, .. }, _) => {
                let mut at = pfn;
                let mut of = block;
                let before = |at: Pfn| {
                    let before = Pfn::new(at.get().checked_sub(1)?);
                    self.holding(self.ranges.find(before)?, before)
                };
                while let Some((holder, found, _)) = before(at) {
                    (at, of) = (holder.pfn(), holder);
                    if found != Kind::Tail {
                        break;
                    }
                }
                Error::TailFrame { pfn, of }
            }
            (FrameState::Head { kind: found, .. }, _) if found != kind => {
                Error::WrongKind { pfn, expected: kind, found }
            }
            (FrameState::Head { order, .. }, _) if order != block.order() => {
                Error::WrongOrder { pfn, expected: block.order(), found: order }
            }
            (FrameState::Head { .. }, _) => Error::Preserved { block },
            (_, Some((of, ..))) => Error::TailFrame { pfn, of },
            (FrameState::Freed, None) => Error::DoubleFree { block },
            (FrameState::Never, None) => Error::NeverAllocated { pfn },
        }
    }
}
