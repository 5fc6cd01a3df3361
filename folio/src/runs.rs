//! Runs: any number of frames in a row, as a head block and the tails after it.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Order, Pfn, Run};

use crate::error::Error;
use crate::frame_type::{self, FrameState, FrameType};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::range::Range;
use crate::request::Request;

impl<M: Machine> Memory<M> {
    /// Allocates exactly `frames` frames in a row, aligned to the request's order, as a run.
    ///
    /// They come from the smallest power-of-two block that holds them, and what it has beyond
    /// them is free again at once; where no such block is free, from wherever they fit, which
    /// costs a look at the bits of each part of memory that may hold half as large a block.
    ///
    /// # Errors
    /// [`Error::NoRun`]: no such run is free where the request allows (see [`Memory::alloc`] for
    /// what other CPUs keep). [`Error::BadRequest`]: zero frames, an alignment above
    /// [`Order::MAX_FOLIO`], or a request for a table.
    pub fn alloc_run(&self, frames: u64, request: Request) -> Result<Run, Error> {
        let kind = match request.use_for() {
            // Where nothing was said: for one block, that is a folio.
            FrameType::Folio => FrameType::Run,
            named => named,
        };
        let refused = Error::BadRequest { frames };
        if !kind.is_run() || request.order() > Order::MAX_FOLIO {
            return Err(refused);
        }
        let order = Order::for_frames(frames).ok_or(refused)?.max(request.order());
        let taken = if order <= Order::MAX_FOLIO {
            self.take(request.with_order(order)).ok().map(Block::run)
        } else {
            self.take_large(frames, request)
        };
        let taken = taken.or_else(|| self.take_anywhere(frames, request));
        let taken = taken.ok_or(Error::NoRun { frames })?;
        self.note_use();
        let run = Run::new(taken.start(), frames).ok_or(Error::BadRequest { frames })?;
        self.mark_run(run, kind);
        if let Some(tail) = Run::between(run.end(), taken.end()) {
            self.give_run(tail);
        }
        if request.wants_zeroes() {
            self.clear(run);
        }
        Ok(run)
    }

    /// Allocates exactly these frames.
    pub(crate) fn alloc_run_at(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        if run.is_empty() || !kind.is_run() {
            return Err(Error::BadRequest { frames: run.frames() });
        }
        self.take_run_at(run)?;
        self.note_use();
        self.mark_run(run, kind);
        Ok(())
    }

    /// Frees a run.
    ///
    /// # Safety
    /// As for [`Memory::free`].
    pub(crate) unsafe fn free_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        self.check_run(run, kind)?;
        self.unmark_run(run);
        self.give_run(run);
        Ok(())
    }

    /// Keeps the first `frames` frames of a run and frees the rest. Returns the run that is left.
    ///
    /// # Errors
    /// As for [`Memory::free`]; [`Error::BadRequest`] for zero frames or more than there are.
    ///
    /// # Safety
    /// As for [`Memory::free`], for the frames given up.
    pub unsafe fn shrink_run(&self, run: Run, frames: u64) -> Result<Run, Error> {
        // SAFETY: the same contract.
        unsafe { self.shrink_run_as(run, frames, FrameType::Run) }
    }

    /// Shortens a run of `kind`: [`Memory::shrink_run`] for what a layer above keeps.
    ///
    /// # Errors
    /// As for [`Memory::shrink_run`]; [`Error::BadRequest`] for a kind that is no run's.
    ///
    /// # Safety
    /// As for [`Memory::shrink_run`].
    #[doc(hidden)]
    pub unsafe fn shrink_run_as(
        &self,
        run: Run,
        frames: u64,
        kind: FrameType,
    ) -> Result<Run, Error> {
        self.check_run(run, kind)?;
        let kept = Run::new(run.start(), frames).filter(|k| !k.is_empty() && run.covers(*k));
        let kept = kept.ok_or(Error::BadRequest { frames })?;
        self.unmark_run(run);
        self.mark_run(kept, kind);
        if let Some(tail) = Run::between(kept.end(), run.end()) {
            self.give_run(tail);
        }
        Ok(kept)
    }

    /// Lengthens a run to `frames` frames in place. Returns the run that results.
    ///
    /// # Errors
    /// As for [`Memory::free`]; [`Error::NotFree`] if the frames after it are not free;
    /// [`Error::BadRequest`] for fewer frames than there are.
    ///
    /// # Safety
    /// As for [`Memory::free`]: no other call changes the run at the same time.
    pub unsafe fn grow_run(&self, run: Run, frames: u64) -> Result<Run, Error> {
        // SAFETY: the same contract.
        unsafe { self.grow_run_as(run, frames, FrameType::Run) }
    }

    /// Lengthens a run of `kind` in place: [`Memory::grow_run`] for what a layer above keeps.
    ///
    /// # Errors
    /// As for [`Memory::grow_run`]; [`Error::BadRequest`] for a kind that is no run's.
    ///
    /// # Safety
    /// As for [`Memory::grow_run`].
    #[doc(hidden)]
    pub unsafe fn grow_run_as(&self, run: Run, frames: u64, kind: FrameType) -> Result<Run, Error> {
        self.check_run(run, kind)?;
        let grown = Run::new(run.start(), frames).filter(|g| g.covers(run));
        let grown = grown.ok_or(Error::BadRequest { frames })?;
        if let Some(more) = Run::between(run.end(), grown.end()).filter(|m| !m.is_empty()) {
            if !self.ranges.holds(grown) {
                return Err(Error::NotFree { run: more });
            }
            self.take_run_at(more)?;
            self.unmark_run(run);
            self.mark_run(grown, kind);
        }
        Ok(grown)
    }

    /// Returns the run of `kind` that starts at `pfn`, its length read back from the frame types.
    ///
    /// # Errors
    /// As for [`Memory::free`], without [`Error::Preserved`]; [`Error::BadRequest`] for a kind
    /// that is no run's.
    #[doc(hidden)]
    pub fn run_at(&self, pfn: Pfn, kind: FrameType) -> Result<Run, Error> {
        let range = self.range(pfn)?;
        if !kind.is_run() {
            return Err(Error::BadRequest { frames: 1 });
        }
        match range.state(pfn) {
            FrameState::Head { kind: found, order, .. } if found == kind => {
                Ok(self.run_from(Block::containing(pfn, order)))
            }
            _ => Err(self.refuse(range, Block::containing(pfn, Order::ZERO), kind)),
        }
    }

    /// Returns the run of `kind` that starts with a frame, and whether it is preserved: what
    /// [`Memory::run_at`] returns, without a reason where there is none.
    #[doc(hidden)]
    #[inline]
    pub fn find_run_at(&self, pfn: Pfn, kind: FrameType) -> Option<(Run, bool)> {
        match self.range(pfn).ok()?.state(pfn) {
            FrameState::Head { kind: found, order, preserved }
                if found == kind && kind.is_run() =>
            {
                Some((self.run_from(Block::containing(pfn, order)), preserved))
            }
            _ => None,
        }
    }

    /// Takes a run above the largest folio: whole chunks of it, more than `frames` maybe.
    fn take_large(&self, frames: u64, request: Request) -> Option<Run> {
        let chunks = frames.div_ceil(Order::MAX_FOLIO.frames());
        let take = |range: &Range| range.freemap().take_chunks(chunks);
        let start = self.nearest(request, take).or_else(|| {
            self.drain();
            self.nearest(request, take)
        })?;
        Run::new(start, chunks * Order::MAX_FOLIO.frames())
    }

    /// Takes `frames` frames in a row from wherever they are free, once no block could be had.
    #[cold]
    fn take_anywhere(&self, frames: u64, request: Request) -> Option<Run> {
        self.nearest(request, |range| {
            // Others may take part of what was found; then it is looked for once more.
            let mut found = (0..2).map_while(|_| {
                let start = range.freemap().find_run(frames, request.order())?;
                Run::new(start, frames)
            });
            found.find(|run| self.take_run_at(*run).is_ok())
        })
    }

    /// Returns what `take` gets from a range of the node asked for, else of any that the request allows.
    fn nearest<T>(&self, request: Request, take: impl Fn(&Range) -> Option<T>) -> Option<T> {
        let near = |range: &&Range| request.node().is_none_or(|wanted| wanted == range.node());
        let nearest = self.ranges.iter().filter(near).find_map(&take);
        if nearest.is_some() || request.only_node().is_some() {
            return nearest;
        }
        self.ranges.iter().filter(|range| !near(range)).find_map(&take)
    }

    /// Gives frames, their bytes cleared already, to the shared bits.
    pub(crate) fn give_run(&self, run: Run) {
        for (range, part) in self.ranges.parts(run).into_iter().flatten() {
            for block in part.blocks_up_to(Order::MAX_FOLIO) {
                let given = range.freemap().give(block);
                debug_assert!(given.is_ok(), "the frames were ours");
            }
        }
    }

    /// Writes the bytes of a run: a head block and its tails.
    pub(crate) fn mark_run(&self, run: Run, kind: FrameType) {
        let mut kind = kind;
        for block in run.blocks_up_to(Order::MAX_FOLIO) {
            self.mark(block, kind);
            kind = FrameType::Tail;
        }
    }

    pub(crate) fn unmark_run(&self, run: Run) {
        for block in run.blocks_up_to(Order::MAX_FOLIO) {
            if let Some(byte) = self.byte(block.pfn()) {
                byte.store(frame_type::FREED, Relaxed);
            }
        }
    }

    /// Returns the run that begins with `head`, its tails followed.
    pub(crate) fn run_from(&self, head: Block) -> Run {
        let mut end = head.run().end();
        while let Ok(FrameState::Head { kind: FrameType::Tail, order, .. }) = self.state(end) {
            end = end.add(order.frames());
        }
        Run::between(head.pfn(), end).unwrap_or(head.run())
    }

    /// Returns whether `run` is a whole run of `kind`, (not) preserved.
    ///
    /// The bytes it must have are compared, and not read one after the other as they say where the
    /// next one is: of a large run each is a miss, and so all come together.
    pub(crate) fn is_run(&self, run: Run, kind: FrameType, preserved: bool) -> bool {
        kind.is_run() && self.is_run_from(run, |order| frame_type::encode(kind, order, preserved))
    }

    /// Returns whether `run` is a whole buffer that is held.
    pub(crate) fn is_held_run(&self, run: Run) -> bool {
        self.is_run_from(run, frame_type::held)
    }

    /// Returns whether `run` is a whole run: its first block has the byte that `head` gives for the
    /// block's order, and tails follow to its end.
    fn is_run_from(&self, run: Run, head: impl Fn(Order) -> u8) -> bool {
        if run.is_empty() || !self.ranges.holds(run) {
            return false;
        }
        let says = |block: Block, what: u8| {
            self.byte(block.pfn()).is_some_and(|byte| byte.load(Relaxed) == what)
        };
        let mut blocks = run.blocks_up_to(Order::MAX_FOLIO);
        // The head first: without it there is nothing to go through.
        blocks.next().is_some_and(|block| says(block, head(block.order())))
            && blocks.fold(true, |all, block| {
                all & says(block, frame_type::encode(FrameType::Tail, block.order(), false))
            })
            && self.byte(run.end()).is_none_or(|next| !frame_type::is_tail(next.load(Relaxed)))
    }

    /// Checks that `run` is a whole run of `kind`, not preserved.
    pub(crate) fn check_run(&self, run: Run, kind: FrameType) -> Result<(), Error> {
        if self.is_run(run, kind, false) {
            return Ok(());
        }
        let range = self.range(run.start())?;
        let found = self.run_at(run.start(), kind)?;
        if found != run {
            let (expected, found) = (run.frames(), found.frames());
            return Err(Error::WrongLength { pfn: run.start(), expected, found });
        }
        match range.state(run.start()) {
            FrameState::Head { order, preserved: true, .. } => {
                Err(Error::Preserved { block: Block::containing(run.start(), order) })
            }
            _ => Ok(()),
        }
    }
}
