//! A program run next to the model, from the first kernel to the last.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use heirloom::folio::{Cpus, FrameType, Memory};
use heirloom::kho::{Block, Order, PhysAddr};
use heirloom::restore::{Error, SealPolicy};
use heirloom::slab::internal::DirectoryPart;
use heirloom_testkit::{Kernel, TestMachine, is_full};

use super::caches::CACHES;
use super::state::{Figures, LeftRoot, ModelKind, ModelObject, State};
use super::step::{Op, Step, generate, minimise};

/// What a program runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The seed of the memory's shape, and of [`generate`].
    pub seed: u64,
    /// About how many frames there are.
    pub frames: u64,
}

/// A kernel that has just begun, as the model has it.
pub(crate) fn begin(state: &mut State, machine: &TestMachine, kernel: &Kernel<'_>) {
    let entry = kernel.entry();
    let mut header = None;
    let each = |name: &str, addr, _| {
        if name == "heirloom" {
            header = Some(addr);
        }
    };
    kernel.for_each_subtree(each).expect("our own root page");
    let header = header.expect("every kernel leaves its own subtree");
    let page = |addr: PhysAddr| Block::containing(addr.pfn(), Order::ZERO);
    state.tables = [entry.root, entry.scratch, header].map(page).to_vec();
    state.asked.clear();
    state.reserved = vec![machine.scratch()];
}

/// A kernel ends: nothing of it is used any more.
#[expect(clippy::drop_non_drop, reason = "it has no destructor, which is the point")]
fn end(kernel: Kernel<'_>) {
    drop(kernel);
}

impl State {
    /// Does one step.
    pub(crate) fn step(&mut self, machine: &TestMachine, kernel: &Kernel<'_>, step: Step) {
        let Step { op, a, b } = step;
        let single =
            |thing: &ModelObject| !matches!(thing.what, ModelKind::Area(_) | ModelKind::Records(_));
        match op {
            Op::Cpu => machine.run_on((a % (machine.count() as u64 + 1)) as u32),
            Op::Hold => machine.hold(if a.is_multiple_of(2) { 0 } else { (b % 16) as u32 }),
            Op::AddRange => self.add_range(machine, kernel),
            Op::Folio => self.folio(kernel, a, b),
            Op::At => self.at(kernel, a, b),
            Op::Run => self.run(kernel, a, b),
            Op::Resize => self.resize(kernel, a, b),
            Op::Reserve => self.reserve(kernel, a, b),
            Op::Free => self.free(kernel, a, b),
            Op::Misuse => {
                if let Some(i) = self.pick(a, single) {
                    match self.owned[i].what {
                        ModelKind::Folio(_) | ModelKind::Run => self.misuse_frames(kernel, i, b),
                        _ => self.misuse_object(kernel, i, b),
                    }
                }
            }
            Op::Preserve => {
                if let Some(i) = self.pick(a, single) {
                    match self.owned[i].what {
                        ModelKind::Folio(_) | ModelKind::Run => self.preserve_frames(kernel, i, b),
                        _ => self.preserve_object(kernel, i),
                    }
                }
            }
            Op::Unpreserve => {
                if let Some(i) = self.pick(a, single) {
                    self.drop_subtree(kernel, self.owned[i].addr);
                    match self.owned[i].what {
                        ModelKind::Folio(_) | ModelKind::Run => {
                            self.unpreserve_frames(kernel, i, b);
                        }
                        _ => self.unpreserve_object(kernel, i),
                    }
                }
            }
            Op::PreserveAll => self.many(kernel, a, b, true),
            Op::UnpreserveAll => self.many(kernel, a, b, false),
            Op::Row => self.row(kernel, a, b),
            Op::Area => self.area(kernel, a, b),
            Op::Records => self.records(kernel),
            Op::Push => self.push(kernel, a, b),
            Op::Buffer => self.buffer(kernel, a, b),
            Op::Realloc => self.realloc(kernel, a, b),
            Op::Object => self.object(kernel, a, b),
            Op::Publish => self.publish(kernel, a, b),
            Op::Unpublish => self.unpublish(kernel, a),
            Op::Subtree => self.subtree(kernel, a, b),
            Op::ClaimRoot => self.claim_root(kernel, a, b),
            Op::Claim => self.claim(kernel, a),
            Op::Forge => self.forge(kernel, a, b),
            Op::Adopt => self.adopt(kernel, a, b),
            Op::Resume => self.resume(kernel, a, b),
            Op::Upgrade => self.upgrade(kernel, a, b),
            Op::Finish => self.finish(kernel, a, b),
            Op::Shrink => _ = kernel.slabs().shrink(),
            Op::Squeeze => self.squeeze(kernel, a),
            Op::Relax => self.relax(kernel, a),
            Op::Seal => self.seal_or_not(kernel, a),
            // The caller's.
            Op::Jump => {}
        }
        self.dirty |= !matches!(op, Op::Seal | Op::Jump);
    }

    /// Adds the late range.
    fn add_range(&mut self, machine: &TestMachine, kernel: &Kernel<'_>) {
        let (run, node) = machine.late();
        let space = machine.space(Memory::<&TestMachine>::range_bytes(run));
        // SAFETY: the machine covers the range, nobody uses it before, and the space lives as long
        // as the machine.
        let added = unsafe { kernel.memory().add_range(run, node, space) };
        assert_eq!(added.is_ok(), !self.all, "{added:?}");
        self.all = true;
    }

    /// Frees whatever it is.
    fn free(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let Some(i) = self.pick(a, |_| true) else { return };
        if !self.owned[i].preserved || self.owned[i].born() {
            self.drop_subtree(kernel, self.owned[i].addr);
        }
        match self.owned[i].what {
            ModelKind::Folio(_) | ModelKind::Run => self.free_frames(kernel, i, b),
            ModelKind::Large { .. } | ModelKind::Object(_) => self.free_object(kernel, i, b),
            ModelKind::Area(_) => self.free_area(kernel, i, b),
            ModelKind::Records(_) => self.free_records(kernel, i),
        }
    }

    /// The kernel ends, whatever it was at, and another takes over: that needs no memory that is not
    /// there.
    ///
    /// # Panics
    /// Where the library and the model differ.
    pub(crate) fn jump<'g>(
        &mut self,
        machine: &'g TestMachine,
        kernel: Kernel<'g>,
        a: u64,
    ) -> Kernel<'g> {
        if a.is_multiple_of(3) {
            self.seal(&kernel);
        }
        self.check_contents(&kernel);
        self.inherit(&kernel);
        let entry = kernel.entry();
        let sealed = kernel.is_sealed();
        let (mut nodes, frames) = (0, self.frames.count());
        kernel.memory().preserved().for_each_node(|_| nodes += 1);
        assert!(sealed || self.seal.is_empty());
        let generation = kernel.generation();
        end(kernel);
        let next = match (sealed, self.dirty) {
            (true, false) => {
                self.opened = true;
                machine.try_revive_with(entry, SealPolicy::SealedOnly, self.all)
            }
            (true, true) => match machine.try_revive_with(entry, SealPolicy::Checked, self.all) {
                // Refused, it can be tried again.
                Err(Error::Broken(_) | Error::Table(_)) => {
                    self.opened = false;
                    machine.try_revive_with(entry, SealPolicy::Ignored, self.all)
                }
                revived => {
                    self.opened = true;
                    revived
                }
            },
            (false, _) => {
                let opened = self.opened;
                let refused =
                    machine.try_revive_with(entry, SealPolicy::SealedOnly, self.all).err();
                assert_eq!(refused, Some(Error::NotSealed { opened }));
                let required = machine.try_revive_with(entry, SealPolicy::Required, self.all);
                if opened {
                    required
                } else {
                    let refused = Some(Error::NotSealed { opened });
                    assert_eq!(required.err(), refused);
                    machine.try_revive_with(entry, SealPolicy::Checked, self.all)
                }
            }
        };
        let next = match next {
            Ok(next) => next,
            Err(error) if is_full(&error) => {
                let theirs = self.inherited.keys().map(|block| block.order().frames());
                let free = frames - machine.scratch().frames() - nodes - theirs.sum::<u64>();
                panic!("{error}: a kernel that goes on needs none, and {free} are not preserved");
            }
            Err(error) => panic!("what this kernel left: {error}"),
        };
        assert_eq!(next.generation(), generation + 1);
        self.seal.clear();
        begin(self, machine, &next);
        self.figures.generations += 1;
        next
    }

    /// What is this kernel's becomes the predecessor's: all that is preserved, whether it was claimed or
    /// not.
    fn inherit(&mut self, kernel: &Kernel<'_>) {
        // The next kernel has these from the beginning, and the seal's go.
        // The cache directory is gone on with, so its pages are the kernel's as they were its predecessor's.
        let mut own: BTreeSet<_> = self.tables.iter().take(3).chain(&self.seal).copied().collect();
        kernel.slabs().for_each_table(|part| {
            if let DirectoryPart::Page(page) = part {
                own.insert(Block::containing(page.pfn(), Order::ZERO));
            }
        });
        self.inherited.clear();
        kernel.memory().preserved().for_each(|block| {
            if own.contains(&block) {
                return;
            }
            let slab =
                matches!(kernel.memory().owning_block(block.pfn()), Some((_, FrameType::Slab, _)));
            self.inherited.insert(block, slab.then_some(FrameType::Slab));
        });
        self.owned.retain(|thing| thing.preserved);
        for thing in &mut self.owned {
            if let ModelKind::Object(object) = &mut thing.what {
                object.pinned = !object.preserving && !object.held;
            }
        }
        self.adopts.clear();
        self.left.append(&mut self.owned);
        for thing in &mut self.left {
            match &mut thing.what {
                ModelKind::Object(object) => (object.adopted, object.held) = (false, false),
                ModelKind::Large { born } => *born = false,
                _ => {}
            }
        }
        let each = |name: &str, addr, length| {
            let before = self.left_roots.get(name).and_then(|left| left.bytes.clone());
            let bytes = self.published.get(name).map(|published| published.bytes.clone());
            let left = LeftRoot { addr, length, bytes: bytes.or(before) };
            if name != "heirloom" {
                self.left_roots.insert(name.to_owned(), left);
            }
        };
        kernel.for_each_subtree(each).expect("our own root page");
        self.published.clear();
        self.subtrees.clear();
        self.hog.clear();
    }

    /// Claims, lets go and frees all there is.
    fn give_back(&mut self, kernel: &Kernel<'_>) {
        self.relax(kernel, 1);
        for n in 0..CACHES as u64 {
            self.adopt(kernel, n, 1);
        }
        for n in 0..5 {
            self.claim_root(kernel, n, 1);
        }
        let mut tries = self.left.len();
        while !self.left.is_empty() && tries > 0 {
            self.claim(kernel, 0);
            tries -= 1;
        }
        self.finish(kernel, 0, 0);
        for n in 0..5 {
            self.unpublish(kernel, n);
        }
        let addrs: Vec<_> = self.subtrees.values().map(|(addr, _)| *addr).collect();
        for addr in addrs {
            self.drop_subtree(kernel, addr);
        }
        while !self.owned.is_empty() {
            let i = self.owned.len() - 1;
            if self.owned[i].preserved && !self.owned[i].born() {
                match self.owned[i].what {
                    ModelKind::Folio(_) | ModelKind::Run => self.unpreserve_frames(kernel, i, 0),
                    ModelKind::Large { .. } | ModelKind::Object(_) => {
                        self.unpreserve_object(kernel, i);
                    }
                    ModelKind::Area(_) | ModelKind::Records(_) => {}
                }
            }
            self.free(kernel, i as u64, 0);
        }
        while self.reserved.len() > 1 {
            self.reserve(kernel, 0, 1);
        }
        kernel.unseal().expect("our own seal");
        self.seal.clear();
    }
}

/// Runs a program. Panics where the library and the model differ.
///
/// # Panics
/// Where they do.
pub fn run(setting: Setting, program: &[Step]) -> Figures {
    let machine = TestMachine::uneven(setting.seed, setting.frames);
    let mut kernel = machine.boot();
    let mut state = State { apart: 1000, ..State::default() };
    begin(&mut state, &machine, &kernel);
    state.check(&kernel, 0);
    let tables = |kernel: &Kernel<'_>| {
        let audit = kernel.memory().audit().expect("no frame has two states");
        let nodes = kernel.memory().preserved().counts().nodes();
        // The cache directory has a page for each cache that ever was, and keeps it.
        let mut roll = 0;
        kernel
            .slabs()
            .for_each_table(|part| roll += u64::from(matches!(part, DirectoryPart::Page(_))));
        audit.allocated[FrameType::Table as usize] - nodes - roll - kernel.reserve()
    };
    let at_first = tables(&kernel);
    for (n, step) in program.iter().enumerate() {
        if step.op == Op::Jump {
            kernel = state.jump(&machine, kernel, step.a);
        } else {
            state.step(&machine, &kernel, *step);
        }
        state.check(&kernel, n as u64 + 1);
        state.figures.steps += 1;
    }
    // Everything is given back, and nothing stays with the kernel after the next.
    machine.run_on(0);
    machine.hold(0);
    for _ in 0..2 {
        state.give_back(&kernel);
        state.check(&kernel, 0);
        kernel = state.jump(&machine, kernel, 1);
        state.check(&kernel, 0);
    }
    state.finish(&kernel, 0, 0);
    state.check(&kernel, 0);
    assert!(state.owned.is_empty() && state.left.is_empty());
    assert!(state.inherited.is_empty(), "{:?}", state.inherited);
    assert_eq!(tables(&kernel), at_first, "tables that nothing leads to");
    state.figures.programs = 1;
    state.figures
}

/// Runs the program of a seed, and where it fails, looks for a short one that does and says which.
///
/// # Panics
/// If it fails.
pub fn run_seed(setting: Setting, length: usize) -> Figures {
    let program = generate(setting.seed, length);
    let fails = |steps: &[Step]| catch_unwind(AssertUnwindSafe(|| run(setting, steps))).is_err();
    if let Ok(figures) = catch_unwind(AssertUnwindSafe(|| run(setting, &program))) {
        return figures;
    }
    eprintln!("{setting:?}: a program of {length} steps fails; looking for a shorter one");
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let shorter = minimise(program, 150, fails);
    std::panic::set_hook(quiet);
    eprintln!("{setting:?} fails in {} steps: {shorter:#?}", shorter.len());
    run(setting, &shorter)
}
