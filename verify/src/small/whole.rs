//! The whole library in the smallest memory that lets it do anything.

use heirloom::folio::DirectMap;
use heirloom::kho::{PAGE_SIZE, Pfn, Run};
use heirloom_testkit::{Kernel, TestMachine};
use xxhash_rust::xxh3::Xxh3;

use super::image::{Bytes, Image, Place};
use super::search::World;
use crate::model::{Op, State, Step, begin};

/// A kernel with a few frames, and the reference model of it.
#[derive(Debug)]
pub struct Whole<'g> {
    machine: &'g TestMachine,
    /// None, once so much is preserved that no other can begin.
    kernel: Place<Option<Kernel<'g>>>,
    image: Image,
    state: State,
    count: u64,
}

/// A copy of it.
#[derive(Debug)]
pub struct Saved {
    image: Bytes,
    kernel: Bytes,
    state: State,
}

const fn step(op: Op, a: u64, b: u64) -> Step {
    Step { op, a, b }
}

/// What can be done at any time. The rng choose as in a program.
const ALWAYS: [Step; 12] = [
    // Folios of one, two and four frames, a run of three.
    step(Op::Folio, 0, 256),
    step(Op::Folio, 3, 256),
    step(Op::Folio, 5, 256),
    step(Op::Run, 33, 64),
    // A buffer of two frames, plain and preserved from birth.
    step(Op::Buffer, 15, 129),
    step(Op::Buffer, 15, 1),
    // An object of a plain cache, and of a preserving one.
    step(Op::Object, 6, 2),
    step(Op::Object, 7, 2),
    step(Op::Publish, 0, 1),
    step(Op::Unpublish, 0, 0),
    step(Op::Shrink, 0, 0),
    step(Op::Jump, 1, 0),
];

/// What can be done once there was a predecessor.
const PAST: [Step; 5] = [
    step(Op::Adopt, 6, 1),
    step(Op::Adopt, 7, 1),
    step(Op::ClaimRoot, 0, 0),
    step(Op::Finish, 0, 0),
    step(Op::Finish, 1, 0),
];

impl<'g> Whole<'g> {
    /// The first kernel on this machine.
    pub fn new(machine: &'g TestMachine) -> Self {
        let kernel = machine.boot();
        let mut state = State::default();
        begin(&mut state, machine, &kernel);
        state.check(&kernel, 0);
        let image = Image::new(machine, machine.all());
        Self { machine, kernel: Place::new(Some(kernel)), image, state, count: 0 }
    }

    /// The frames of all ranges, one by one.
    fn frames(&self) -> impl Iterator<Item = Pfn> + use<> {
        let span = self.machine.all();
        (0..span.frames()).map(move |i| span.start().add(i))
    }

    /// Whether somebody has the frame, or metadata lies in it.
    fn taken(&self, frame: Pfn) -> bool {
        let Some(kernel) = self.kernel.get() else { return true };
        let run = Run::new(frame, 1).filter(|run| kernel.memory().contains(*run));
        run.is_some_and(|run| !self.state.frames.is_free(run))
    }
}

impl World for Whole<'_> {
    type Step = Step;
    type Saved = Saved;

    fn steps(&self) -> Vec<Step> {
        if self.kernel.get().is_none() {
            return Vec::new();
        }
        let mut steps = ALWAYS.to_vec();
        for (i, thing) in (0..).zip(&self.state.owned) {
            steps.push(step(Op::Free, i, 0));
            if thing.preserved {
                steps.push(step(Op::Unpreserve, i, 0));
            } else {
                steps.push(step(Op::Preserve, i, 0));
            }
        }
        if self.state.figures.generations > 0 {
            steps.extend(PAST);
        }
        steps.extend((0..self.state.left.len() as u64).map(|i| step(Op::Claim, i, 0)));
        steps
    }

    fn take(&mut self, step: Step) {
        self.count += 1;
        if step.op == Op::Jump {
            let (machine, state) = (self.machine, &mut self.state);
            self.kernel.replace(|kernel| Some(state.jump(machine, kernel?, step.a)));
        } else if let Some(kernel) = self.kernel.get() {
            self.state.step(self.machine, kernel, step);
        }
        let Some(kernel) = self.kernel.get() else { return };
        self.state.check(kernel, self.count);
        // What nobody has, so that what it held before makes no difference.
        for frame in self.frames().filter(|frame| !self.taken(*frame)) {
            let start = self.machine.ptr(frame.addr());
            // SAFETY: nobody has the frame, and the library expects nothing of it.
            unsafe { start.write_bytes(0, PAGE_SIZE) };
        }
    }

    fn save(&self) -> Saved {
        // SAFETY: the machine is borrowed, and the kernel is at rest.
        let image = unsafe { self.image.save() };
        Saved { image, kernel: self.kernel.save(), state: self.state.clone() }
    }

    fn restore(&mut self, saved: &Saved) {
        // SAFETY: as for `save`; both were saved together.
        unsafe {
            self.image.restore(&saved.image);
            self.kernel.restore(&saved.kernel);
        }
        self.state.clone_from(&saved.state);
    }

    fn digest(&mut self) -> u128 {
        let mut hasher = Xxh3::new();
        let span = self.machine.all();
        for frame in self.frames().filter(|frame| self.taken(*frame)) {
            let skip = (frame.get() - span.start().get()) as usize * PAGE_SIZE;
            hasher.update(&frame.get().to_le_bytes());
            // SAFETY: as for `save`; the image covers the frame, and its words are zeroed or
            // written.
            hasher.update(zerocopy::IntoBytes::as_bytes(unsafe {
                self.image.words(skip, PAGE_SIZE)
            }));
        }
        // What the bytes do not tell: what of the predecessor's belongs together, and what the
        // kernel's own value says.
        hasher.update(format!("{:?}", self.state.summary()).as_bytes());
        hasher.digest128()
    }
}
