//! Each operation, with what it must answer.

use std::collections::BTreeSet;

use heirloom::folio::{Disposition, Error, FrameType, Request};
use heirloom::kho::{Block, Order, Run};

use super::{Extent, Frames, Model, attach};
use crate::world::Owned as _;

impl Frames<'_> {
    pub(super) fn alloc(&mut self, order: Order) {
        let fits = self.fits(order.frames(), order);
        match self.memory.get().alloc(Request::new(order)) {
            Ok(block) => {
                assert!(fits && self.was_free(block.run()), "{block} was not free");
                self.own(block.run(), FrameType::Folio);
            }
            Err(error) => {
                assert_eq!(error, Error::OutOfMemory { order, node: None });
                assert!(!fits, "{error}");
            }
        }
    }

    /// Whether nothing in the model has any of it.
    pub(super) fn was_free(&self, run: Run) -> bool {
        let Model { owned, inherited, .. } = &self.model;
        let mut own = Vec::new();
        self.memory
            .get()
            .preserved()
            .for_each_node(|node| own.extend(Run::new(node.addr.pfn(), 1)));
        let blocks = inherited.iter().map(|block| block.run());
        let all = owned.iter().map(|thing| thing.run).chain(blocks);
        all.chain(own).all(|taken| !taken.overlaps(run))
    }

    pub(super) fn alloc_run(&mut self) {
        let fits = self.fits(3, Order::ZERO);
        match self.memory.get().alloc_run(3, Request::new(Order::ZERO)) {
            Ok(run) => {
                assert!(run.frames() == 3 && fits && self.was_free(run), "{run} was not free");
                self.own(run, FrameType::Run);
            }
            Err(error) => {
                assert_eq!(error, Error::NoRun { frames: 3 });
                assert!(!fits, "{error}");
            }
        }
    }

    pub(super) fn free(&mut self, i: usize) {
        let thing = self.model.owned[i];
        let memory = self.memory.get();
        let free = || match thing.kind {
            // SAFETY: the model owns it, or it is free already, which is refused.
            FrameType::Run => unsafe { memory.free(thing.run) },
            // SAFETY: as above.
            _ => unsafe { memory.free_as(thing.head(), thing.kind) },
        };
        if thing.preserved {
            return assert_eq!(free(), Err(Error::Preserved { block: thing.head() }));
        }
        assert_eq!(free(), Ok(()));
        let twice = if thing.kind == FrameType::Run {
            Block::containing(thing.run.start(), Order::ZERO)
        } else {
            thing.head()
        };
        assert_eq!(free(), Err(Error::DoubleFree { block: twice }));
        self.model.owned.swap_remove(i);
    }

    pub(super) fn preserve(&mut self, i: usize, keep: bool) {
        let thing = self.model.owned[i];
        let memory = self.memory.get();
        let done = match (thing.kind, keep) {
            (FrameType::Run, true) => memory.keep(thing.run),
            (FrameType::Run, false) => memory.let_go(thing.run),
            (_, true) => memory.keep(thing.head()),
            (_, false) => memory.let_go(thing.head()),
        };
        match done {
            Ok(()) => {
                assert_ne!(thing.preserved, keep);
                self.model.owned[i].preserved = keep;
            }
            Err(Error::AlreadyPreserved { block }) => {
                assert!(keep && thing.preserved && block == thing.head());
            }
            Err(Error::NotPreserved { block }) => {
                assert!(!keep && !thing.preserved && block.pfn() == thing.run.start());
            }
            Err(error) => {
                assert!(keep && !thing.preserved, "{error}");
                self.starved(error, thing.run.blocks().count() as u64);
            }
        }
    }

    pub(super) fn resize(&mut self, i: usize, grow: bool) {
        let thing = self.model.owned[i];
        let memory = self.memory.get();
        let frames = if grow { thing.run.frames() + 1 } else { thing.run.frames() - 1 };
        let next = Run::new(thing.run.end(), 1).expect("a frame");
        let whole = Run::new(thing.run.start(), frames).expect("a few frames");
        let room = if grow { memory.contains(whole) && self.is_free(next) } else { frames > 0 };
        // SAFETY: the model owns the run, and goes on with what is returned.
        let done = unsafe {
            if grow {
                memory.grow_run(thing.run, frames)
            } else {
                memory.shrink_run(thing.run, frames)
            }
        };
        match done {
            Ok(run) => {
                assert!(room && !thing.preserved && run == whole);
                self.model.owned[i].run = run;
                self.mark(run);
            }
            Err(Error::Preserved { .. }) => assert!(thing.preserved),
            Err(error) => {
                let due =
                    if grow { Error::NotFree { run: next } } else { Error::BadRequest { frames } };
                assert!(error == due && !room, "{error}");
            }
        }
    }

    pub(super) fn jump(&mut self) {
        let root = match self.memory.get().preserved().tree_root() {
            Ok(root) => root,
            Err(error) => return self.starved(error, 1),
        };
        let mut preserved = BTreeSet::new();
        self.memory.get().preserved().for_each(|block| _ = preserved.insert(block));
        let (machine, ranges) = (self.machine, &self.ranges);
        self.memory.replace(|_| {
            let inherited = attach(machine, ranges).take_over(root);
            let (memory, counts) = inherited.expect("what this kernel left");
            assert_eq!(counts.total(), preserved.len() as u64);
            memory
        });
        let model = &mut self.model;
        model.owned.retain(|thing| thing.preserved);
        model.left.append(&mut model.owned);
        model.inherited = preserved;
    }

    pub(super) fn claim(&mut self, i: usize) {
        let thing = self.model.left[i];
        let memory = self.memory.get();
        let claim = || match thing.kind {
            FrameType::Run => memory.claim(thing.run),
            _ => memory.claim(thing.head()),
        };
        assert_eq!(claim(), Ok(()), "{thing:?}");
        let again = claim();
        assert_eq!(again, Err(Error::NotPreserved { block: thing.head() }));
        self.model.left.swap_remove(i);
        self.model.owned.push(thing);
        for block in thing.run.blocks() {
            self.model.inherited.remove(&block);
        }
    }

    pub(super) fn claim_part(&mut self, i: usize) {
        let thing = self.model.left[i];
        let memory = self.memory.get();
        assert_eq!(memory.claim(thing.head()), Ok(()));
        self.model.inherited.remove(&thing.head());
        self.model.left.swap_remove(i);
        let (run, kind, preserved) = (thing.head().run(), FrameType::Folio, true);
        self.model.owned.push(Extent { run, kind, preserved });
        let memory = self.memory.get();
        let rest = memory.claim(thing.run);
        assert_eq!(rest, Err(Error::NotPreserved { block: thing.head() }));
    }

    pub(super) fn finish(&mut self, disposition: Disposition) {
        let mut asked = BTreeSet::new();
        let told = self.memory.get().predecessor().finish(|block| {
            assert!(asked.insert(block), "{block} twice");
            disposition
        });
        assert_eq!(asked, self.model.inherited);
        let all = asked.len() as u64;
        assert_eq!(told, if disposition == Disposition::Free { (all, 0) } else { (0, all) });
        if disposition == Disposition::Free {
            self.model.inherited.clear();
            self.model.left.clear();
        }
    }
}
