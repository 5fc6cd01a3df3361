//! Folios and runs: what is asked of the page allocator, and what it must answer.

use heirloom::folio::{
    Allocation, Error, Folio, FrameType, Memory, NodeId, Owned, OwnedRun, Preserved,
    PreservedFolio, PreservedRun, Request,
};
use heirloom::kho::{Block, Order, Run};
use heirloom_testkit::{Kernel, TestMachine};

use super::state::{ModelKind, ModelObject, PAGE, State};
use crate::world::Owned as _;

/// Folios of up to 64 frames, small ones more often.
fn order(n: u64) -> Order {
    Order::new([0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7][(n % 12) as usize]).unwrap_or_default()
}

/// A request's node, and whether no other will do.
const fn placed(request: Request, b: u64) -> (Request, Option<NodeId>) {
    let node = NodeId((b / 8 % 3) as u16);
    match b % 8 {
        0 => (request.on(node).strict(), Some(node)),
        1 => (request.on(node), None),
        _ => (request, None),
    }
}

/// Whether a frame's worth of zeroes stands everywhere.
fn zeroed(kernel: &Kernel<'_>, run: Run) -> bool {
    let start = kernel.memory().ptr(run).expect("allocated in one range");
    // SAFETY: allocated just now, and nobody else's.
    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) };
    bytes.iter().all(|byte| *byte == 0)
}

/// Preserves frames of the model's that are not preserved, by their type.
fn preserve_typed<E: Allocation>(memory: &Memory<&TestMachine>, extent: E) -> Result<(), Error> {
    // SAFETY: the model owns them, not preserved, and lets the handle go again.
    match unsafe { Owned::from_raw(memory, extent) }.preserve() {
        Ok(kept) => {
            kept.into_raw();
            Ok(())
        }
        Err(refused) => {
            refused.value.into_raw();
            Err(refused.error)
        }
    }
}

/// Lets preserved frames of the model's go, by their type.
fn unpreserve_typed<E: Allocation>(memory: &Memory<&TestMachine>, extent: E) -> Result<(), Error> {
    // SAFETY: the model owns them, preserved, and lets the handle go again.
    let let_go = unsafe { Preserved::from_raw(memory, extent) }.unpreserve();
    let_go.map(|owned| _ = owned.into_raw()).map_err(|refused| refused.error)
}

pub(super) const fn frames_of(what: ModelKind, run: Run, seed: u64) -> ModelObject {
    let (addr, bytes) = (run.addr(), run.bytes());
    ModelObject { what, addr, bytes, preserved: false, seed, handle: None, parts: Vec::new() }
}

impl State {
    /// Allocates a folio: where one is free it is had, and where none is it is refused.
    pub(super) fn folio(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        let request = Request::new(order(a));
        let request = if b & 64 != 0 { request.zeroed() } else { request };
        let (request, only) = placed(request, b / 128);
        let order = request.order();
        let fits = self.frames.fits(order.frames(), order, only);
        match memory.alloc_folio(request) {
            Ok(folio) => {
                let run = folio.into_raw().run();
                assert!(fits && self.frames.is_free(run), "{run} was not free");
                assert!(only.is_none_or(|node| memory.node_of(run.start()) == Ok(node)));
                assert!(b & 64 == 0 || zeroed(kernel, run), "{run} is not zeroed");
                let seed = self.next_seed();
                self.own(kernel, frames_of(ModelKind::Folio(order), run, seed));
            }
            Err(error) => {
                assert_eq!(error, Error::OutOfMemory { order, node: only });
                assert!(!fits || !memory.machine().all_within_reach(), "{error}");
                self.figures.starved += 1;
            }
        }
    }

    /// Allocates a folio or a run at an address.
    pub(super) fn at(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        let pfn = self.frames.nth(a);
        let as_run = b & 1 == 1;
        let block = Block::containing(pfn, order(b / 2));
        let run = Run::new(pfn, 1 + b / 2 % 9).expect("frames of this memory");
        let (run, done) = if as_run {
            (run, memory.alloc_at(run))
        } else {
            (block.run(), memory.alloc_at(block))
        };
        let free = self.frames.is_free(run);
        match done {
            Ok(()) => {
                assert!(free, "{run} was not free");
                let what = if as_run { ModelKind::Run } else { ModelKind::Folio(block.order()) };
                let seed = self.next_seed();
                self.own(kernel, frames_of(what, run, seed));
            }
            Err(Error::NotMemory { .. }) => assert!(!memory.contains(run)),
            Err(error) => {
                assert_eq!(error, Error::NotFree { run });
                assert!(memory.contains(run));
                assert!(!free || !memory.machine().all_within_reach(), "{error}");
                self.refused();
            }
        }
    }

    /// Allocates a run.
    pub(super) fn run(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        let frames = if a.is_multiple_of(16) { 40 + a / 16 % 90 } else { 1 + a / 16 % 21 };
        let align = Order::new((b % 16).saturating_sub(10) as u8).unwrap_or_default();
        let request = Request::new(align).frame_type(FrameType::Run);
        let request = if b & 16 != 0 { request.zeroed() } else { request };
        let (request, only) = placed(request, b / 32);
        let fits = self.frames.fits(frames, align, only);
        match memory.alloc_run(frames, request) {
            Ok(run) => {
                assert!(fits && run.frames() == frames && run.start().is_aligned(align));
                assert!(self.frames.is_free(run), "{run} was not free");
                assert!(only.is_none_or(|node| memory.node_of(run.start()) == Ok(node)));
                assert!(b & 16 == 0 || zeroed(kernel, run), "{run} is not zeroed");
                let seed = self.next_seed();
                self.own(kernel, frames_of(ModelKind::Run, run, seed));
            }
            Err(error) => {
                assert_eq!(error, Error::NoRun { frames });
                assert!(!fits || !memory.machine().all_within_reach(), "{error}");
                self.figures.starved += 1;
            }
        }
    }

    /// Shortens or lengthens a run in place.
    pub(super) fn resize(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        let Some(i) = self.pick(a, |thing| thing.what == ModelKind::Run) else { return };
        let (run, preserved) = (self.owned[i].run().expect("a run"), self.owned[i].preserved);
        let frames = b % (run.frames() * 2 + 2);
        // SAFETY: the model owns the run, and goes on with what is returned.
        let done = unsafe {
            if frames > run.frames() {
                memory.grow_run(run, frames)
            } else {
                memory.shrink_run(run, frames)
            }
        };
        let more = Run::between(run.end(), run.start().add(frames)).filter(|more| !more.is_empty());
        match done {
            _ if preserved => {
                assert!(matches!(done, Err(Error::Preserved { .. })), "{done:?}");
                self.refused();
            }
            Ok(now) => {
                assert_eq!((now.start(), now.frames()), (run.start(), frames));
                assert!(more.is_none_or(|more| self.frames.is_free(more)), "{more:?}");
                self.owned[i].check_content(kernel.memory().machine(), now.bytes());
                self.owned[i].bytes = frames * PAGE;
                self.owned[i].stamp(kernel);
            }
            Err(Error::BadRequest { .. }) => {
                assert_eq!(frames, 0);
                self.refused();
            }
            Err(error) => {
                let more = more.unwrap_or_else(|| panic!("{error}"));
                assert_eq!(error, Error::NotFree { run: more });
                let whole = Run::new(run.start(), frames).expect("frames of this memory");
                let room = memory.contains(whole) && self.frames.is_free(more);
                assert!(!room || !memory.machine().all_within_reach(), "{error}");
                self.refused();
            }
        }
    }

    /// Takes frames out of use, or brings them back.
    pub(super) fn reserve(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        if self.reserved.len() > 1 && b & 1 == 1 {
            let run = self.reserved.swap_remove(1);
            // SAFETY: reserved by this model, and never used.
            unsafe { memory.release(run) }.expect("it was reserved");
            return;
        }
        let run = Run::new(self.frames.nth(a), 1 + b / 2 % 5).expect("frames of this memory");
        let done = memory.reserve(run);
        let free = self.frames.is_free(run);
        assert!(done.is_err() || free, "{run} was not free");
        assert!(done.is_ok() || !free || !memory.machine().all_within_reach(), "{done:?}");
        if done.is_ok() {
            self.reserved.push(run);
        } else {
            self.refused();
        }
    }

    /// Frees a folio or a run, and once more.
    pub(super) fn free_frames(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let memory = kernel.memory();
        let thing = self.owned[i].clone();
        let run = thing.run().expect("frames");
        let free = || match thing.folio() {
            // SAFETY: the model owns it, or it is free already.
            Some(block) => unsafe { memory.free(block) },
            // SAFETY: as above.
            None => unsafe { memory.free(run) },
        };
        if thing.preserved {
            let head = run.blocks().next().expect("frames");
            assert_eq!(free(), Err(Error::Preserved { block: head }));
            return self.refused();
        }
        if b & 1 == 1 {
            // By its type: dropping frees.
            match thing.folio() {
                // SAFETY: the model owns it.
                Some(block) => drop(unsafe { Folio::from_raw(memory, block) }),
                // SAFETY: as above.
                None => drop(unsafe { OwnedRun::from_raw(memory, run) }),
            }
        } else {
            assert_eq!(free(), Ok(()));
        }
        self.disown(i);
        let twice = thing.folio().unwrap_or(Block::containing(run.start(), Order::ZERO));
        assert_eq!(free(), Err(Error::DoubleFree { block: twice }));
        self.refused();
    }

    /// Names a folio or a run by what it is not. Nothing must come of it.
    pub(super) fn misuse_frames(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let memory = kernel.memory();
        let thing = &self.owned[i];
        let run = thing.run().expect("frames");
        let pfn = run.start();
        let head = run.blocks().next().expect("frames");
        let other = Order::new(head.order().get() ^ 1).unwrap_or_default();
        let wrong = Block::containing(pfn, other);
        let inside = Block::containing(pfn.add(1), Order::ZERO);
        // SAFETY: the model owns the frames, and each of these is refused.
        let (found, expected) = unsafe {
            match (thing.folio(), b % 5) {
                (Some(block), 0) if wrong.pfn() == pfn => (
                    memory.free(wrong),
                    Error::WrongOrder { pfn, expected: other, found: block.order() },
                ),
                (Some(block), 1) => (
                    memory.free_as(block, FrameType::Slab),
                    Error::WrongType { pfn, expected: FrameType::Slab, found: FrameType::Folio },
                ),
                (Some(block), 2) => (
                    memory.free_as(run, FrameType::Buffer),
                    Error::WrongType {
                        pfn: block.pfn(),
                        expected: FrameType::Buffer,
                        found: FrameType::Folio,
                    },
                ),
                (Some(block), 3) if run.frames() > 1 => {
                    (memory.free(inside), Error::TailFrame { pfn: inside.pfn(), of: block })
                }
                (Some(_), _) => (
                    memory.preserve(run),
                    Error::WrongType { pfn, expected: FrameType::Run, found: FrameType::Folio },
                ),
                (None, 0) => (
                    memory.free(head),
                    Error::WrongType { pfn, expected: FrameType::Folio, found: FrameType::Run },
                ),
                (None, 1) => (
                    memory.preserve(head),
                    Error::WrongType { pfn, expected: FrameType::Folio, found: FrameType::Run },
                ),
                (None, _) => {
                    let longer = Run::new(pfn, run.frames() + 1).expect("frames of this memory");
                    let (expected, found) = (longer.frames(), run.frames());
                    (memory.free(longer), Error::WrongLength { pfn, expected, found })
                }
            }
        };
        assert_eq!(found, Err(expected), "{thing:?}");
        self.refused();
    }

    /// Preserves a folio or a run, by the raw call or by its type.
    pub(super) fn preserve_frames(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let memory = kernel.memory();
        let thing = self.owned[i].clone();
        let run = thing.run().expect("frames");
        let typed = b & 1 == 1 && !thing.preserved;
        let head = run.blocks().next().expect("frames");
        let done = match thing.folio() {
            Some(block) if typed => preserve_typed(memory, block),
            Some(block) => memory.keep(block),
            None if typed => preserve_typed(memory, run),
            None => memory.keep(run),
        };
        match done {
            Ok(()) => {
                assert!(!thing.preserved, "{thing:?}");
                let handle = match thing.folio() {
                    Some(block) => {
                        // SAFETY: preserved just now; the handle lets go again.
                        kernel.folio_handle(&unsafe { PreservedFolio::from_raw(memory, block) })
                    }
                    // SAFETY: as above.
                    None => kernel.run_handle(&unsafe { PreservedRun::from_raw(memory, run) }),
                };
                self.owned[i].handle = Some(handle.expect("few frames"));
                self.owned[i].preserved = true;
            }
            Err(error) if thing.preserved => {
                assert_eq!(error, Error::AlreadyPreserved { block: head });
                self.refused();
            }
            Err(error) => self.starved(kernel, error.into(), 6 * run.blocks().count() as u64),
        }
    }

    /// Lets a folio or a run go.
    pub(super) fn unpreserve_frames(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let memory = kernel.memory();
        let thing = self.owned[i].clone();
        let run = thing.run().expect("frames");
        let typed = b & 1 == 1 && thing.preserved;
        let head = run.blocks().next().expect("frames");
        let done = match thing.folio() {
            Some(block) if typed => unpreserve_typed(memory, block),
            Some(block) => memory.let_go(block),
            None if typed => unpreserve_typed(memory, run),
            None => memory.let_go(run),
        };
        if thing.preserved {
            assert_eq!(done, Ok(()));
            self.let_go(i);
        } else {
            let head = if thing.folio().is_some() {
                head
            } else {
                Block::containing(head.pfn(), Order::ZERO)
            };
            assert_eq!(done, Err(Error::NotPreserved { block: head }));
            self.refused();
        }
    }

    /// Something is no longer preserved.
    pub(super) fn let_go(&mut self, i: usize) {
        let handle = self.owned[i].handle.take();
        self.owned[i].preserved = false;
        self.forget(handle);
    }

    /// Takes all memory but a few frames, so that whatever comes next runs out of it.
    pub(super) fn squeeze(&mut self, kernel: &Kernel<'_>, a: u64) {
        let memory = kernel.memory();
        kernel.slabs().shrink();
        let request = Request::new(Order::ZERO);
        self.hog.extend(std::iter::from_fn(|| memory.alloc(request).ok()));
        let keep = self.hog.len().saturating_sub((a % 14) as usize);
        for block in self.hog.drain(keep..) {
            // SAFETY: the model owns it.
            unsafe { memory.free(block) }.expect("allocated");
        }
        memory.drain();
    }

    /// Gives that back, some of it or all.
    pub(super) fn relax(&mut self, kernel: &Kernel<'_>, a: u64) {
        let keep = if a.is_multiple_of(3) { self.hog.len() / 2 } else { 0 };
        for block in self.hog.drain(keep..) {
            // SAFETY: the model owns it.
            unsafe { kernel.memory().free(block) }.expect("allocated");
        }
    }
}
