//! The folio layer in a memory of at most 16 frames, metadata beside it.

mod act;
mod check;

use core::ptr::NonNull;
use std::collections::BTreeSet;

use heirloom::folio::{Disposition, Error, FrameType, Memory, NodeId};
use heirloom::kho::tree::Geometry;
use heirloom::kho::{Block, Order, PAGE_SIZE, Pfn, Run};
use heirloom_testkit::TestMachine;
use xxhash_rust::xxh3::Xxh3;

use super::image::{Bytes, Image, Place};
use super::search::World;

/// The first frame: the end of a word of 64 is 16 frames behind it.
const START: u64 = (4 << 20) + 48;
/// Frames for metadata, behind a hole.
const META: u64 = 4;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Allocate a folio.
    Alloc(u8),
    /// Allocate a run of three.
    Run,
    /// Free what is owned, by number.
    Free(usize),
    /// Preserve it.
    Preserve(usize),
    /// Let it go.
    Unpreserve(usize),
    /// A run with one frame more, or less.
    Resize(usize, bool),
    /// Empty the CPU's cache.
    Drain,
    /// Another kernel.
    Jump,
    /// Claim what was left, by number.
    Claim(usize),
    /// Claim a run's first block as a folio.
    ClaimPart(usize),
    /// Free what nobody claimed, or leave it.
    Finish(Disposition),
}

/// Frames that somebody has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    run: Run,
    kind: FrameType,
    preserved: bool,
}

impl Extent {
    fn head(&self) -> Block {
        self.run.blocks().next().unwrap_or(Block::containing(self.run.start(), Order::ZERO))
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    owned: Vec<Extent>,
    /// Preserved, and not claimed.
    left: Vec<Extent>,
    /// The blocks that are so, whatever they were a part of.
    inherited: BTreeSet<Block>,
}

/// A memory of a few frames with a model of it.
#[derive(Debug)]
pub struct Frames<'b> {
    machine: &'b TestMachine,
    ranges: Vec<(Run, NodeId)>,
    memory: Place<Memory<&'b TestMachine>>,
    image: Image,
    model: Model,
}

/// A copy of it.
#[derive(Debug)]
pub struct Saved {
    image: Bytes,
    memory: Bytes,
    model: Model,
}

/// The memory over these ranges, its metadata in the frames behind them.
fn attach<'b>(machine: &'b TestMachine, ranges: &[(Run, NodeId)]) -> Memory<&'b TestMachine> {
    use heirloom::folio::{Cpus, DirectMap};
    let mut at = machine.ptr(meta().addr());
    let mut left = meta().bytes() as usize;
    let mut space = |bytes: usize| {
        left = left.checked_sub(bytes).expect("enough for 16 frames");
        let space = NonNull::slice_from_raw_parts(at, bytes);
        // SAFETY: within the frames for metadata, as was just checked.
        at = unsafe { at.add(bytes) };
        space
    };
    let cpus = space(Memory::<&TestMachine>::cpu_bytes(machine.count()));
    // SAFETY: the space is in frames that are in no range and that only one memory uses.
    let memory = unsafe { Memory::new(machine, cpus) }.expect("enough space");
    for (run, node) in ranges {
        let space = space(Memory::<&TestMachine>::range_bytes(*run));
        // SAFETY: as above; the machine covers the range.
        unsafe { memory.add_range(*run, *node, space) }.expect("a few frames");
    }
    memory
}

/// The frames for metadata.
fn meta() -> Run {
    Run::new(Pfn::new(START + 32), META).expect("a few frames")
}

impl<'b> Frames<'b> {
    /// The machine for ranges of frames, each its first frame (of at most 24) and its length.
    ///
    /// # Panics
    /// If they are more than 16 frames.
    pub fn machine(ranges: &[(u64, u64)]) -> (TestMachine, Vec<(Run, NodeId)>) {
        let run = |(first, frames): &(u64, u64)| Run::new(Pfn::new(START + first), *frames);
        let ranges: Vec<_> = ranges.iter().filter_map(run).map(|run| (run, NodeId(0))).collect();
        assert!(ranges.iter().map(|(run, _)| run.frames()).sum::<u64>() <= 16);
        let first = Run::new(Pfn::new(START), 1).map(|run| (run, NodeId(0)));
        let all: Vec<_> =
            ranges.iter().copied().chain(first).chain([(meta(), NodeId(0))]).collect();
        (TestMachine::bare(&all), ranges)
    }

    /// The world on such a machine.
    ///
    /// # Panics
    /// Never: there is space for the metadata.
    pub fn new(machine: &'b TestMachine, ranges: &[(Run, NodeId)]) -> Self {
        let memory = Place::new(attach(machine, ranges));
        let all = Run::between(Pfn::new(START), meta().end()).expect("memory");
        let image = Image::new(machine, all);
        Self { machine, ranges: ranges.to_vec(), memory, image, model: Model::default() }
    }

    /// The frames that nobody has.
    fn is_free(&self, run: Run) -> bool {
        let memory = self.memory.get();
        let mut taken = self.model.inherited.iter().map(|block| block.run());
        let within = self.ranges.iter().any(|(range, _)| range.covers(run));
        let mut frames = (0..run.frames()).map(|i| run.start().add(i));
        within
            && taken.all(|taken| !taken.overlaps(run))
            && frames.all(|f| memory.owning_block(f).is_none())
    }

    fn fits(&self, frames: u64, align: Order) -> bool {
        let starts = self.ranges.iter().flat_map(|(r, _)| r.start().get()..r.end().get());
        starts.map(Pfn::new).any(|start| {
            start.is_aligned(align) && Run::new(start, frames).is_some_and(|run| self.is_free(run))
        })
    }

    fn free_frames(&self) -> u64 {
        let frames = self.ranges.iter().flat_map(|(r, _)| r.start().get()..r.end().get());
        frames.filter(|f| Run::new(Pfn::new(*f), 1).is_some_and(|run| self.is_free(run))).count()
            as u64
    }

    /// Checks that there was no memory for a node.
    fn starved(&self, error: Error, blocks: u64) {
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        let free = self.free_frames();
        assert!(free < u64::from(Geometry::BUILD.levels) * blocks, "{error}: {free} are free");
    }

    fn own(&mut self, run: Run, kind: FrameType) {
        self.model.owned.push(Extent { run, kind, preserved: false });
        self.mark(run);
    }

    /// Writes into each frame what is in no other.
    fn mark(&self, run: Run) {
        for i in 0..run.frames() {
            let frame = run.start().add(i);
            // SAFETY: the model's own frame.
            unsafe { self.first_word(frame).write(frame.get()) };
        }
    }

    fn first_word(&self, frame: Pfn) -> NonNull<u64> {
        use heirloom::folio::DirectMap;
        self.machine.ptr(frame.addr()).cast()
    }

    /// Clears what nobody has, so that what it held before makes no difference.
    fn forget_free(&self) {
        use heirloom::folio::DirectMap;
        for frame in self.ranges.iter().flat_map(|(r, _)| r.start().get()..r.end().get()) {
            if Run::new(Pfn::new(frame), 1).is_some_and(|run| self.is_free(run)) {
                let start = self.machine.ptr(Pfn::new(frame).addr());
                // SAFETY: nobody has the frame, and the library expects nothing of it.
                unsafe { start.write_bytes(0, PAGE_SIZE) };
            }
        }
    }
}

impl World for Frames<'_> {
    type Step = Step;
    type Saved = Saved;

    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Alloc(0), Step::Alloc(1), Step::Alloc(2), Step::Run];
        for (i, thing) in self.model.owned.iter().enumerate() {
            steps.extend([Step::Free(i), Step::Preserve(i), Step::Unpreserve(i)]);
            if thing.kind == FrameType::Run {
                steps.extend([Step::Resize(i, true), Step::Resize(i, false)]);
            }
        }
        steps.extend([Step::Drain, Step::Jump]);
        for (i, thing) in self.model.left.iter().enumerate() {
            steps.push(Step::Claim(i));
            if thing.kind == FrameType::Run && thing.run.frames() > 1 {
                steps.push(Step::ClaimPart(i));
            }
        }
        if !self.model.inherited.is_empty() {
            steps.extend([Step::Finish(Disposition::Free), Step::Finish(Disposition::Keep)]);
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Alloc(order) => self.alloc(Order::new(order).unwrap_or_default()),
            Step::Run => self.alloc_run(),
            Step::Free(i) => self.free(i),
            Step::Preserve(i) => self.preserve(i, true),
            Step::Unpreserve(i) => self.preserve(i, false),
            Step::Resize(i, grow) => self.resize(i, grow),
            Step::Drain => {
                self.memory.get().drain();
                assert_eq!(self.memory.get().stats().cached, 0);
            }
            Step::Jump => self.jump(),
            Step::Claim(i) => self.claim(i),
            Step::ClaimPart(i) => self.claim_part(i),
            Step::Finish(disposition) => self.finish(disposition),
        }
        self.check();
        self.forget_free();
    }

    fn save(&self) -> Saved {
        // SAFETY: the machine is borrowed, and the memory is at rest.
        let image = unsafe { self.image.save() };
        Saved { image, memory: self.memory.save(), model: self.model.clone() }
    }

    fn restore(&mut self, saved: &Saved) {
        // SAFETY: as for `save`; both were saved together.
        unsafe {
            self.image.restore(&saved.image);
            self.memory.restore(&saved.memory);
        }
        self.model.clone_from(&saved.model);
    }

    fn digest(&mut self) -> u128 {
        let mut hasher = Xxh3::new();
        // Which of the tables is the tree's root; what it contains follows.
        let mut root = None;
        self.memory.get().preserved().for_each_node(|node| _ = root.get_or_insert(node.addr.get()));
        hasher.update(&root.unwrap_or(0).to_le_bytes());
        let pages = self.ranges.iter().flat_map(|(r, _)| r.start().get()..r.end().get());
        let taken =
            pages.filter(|f| !Run::new(Pfn::new(*f), 1).is_some_and(|run| self.is_free(run)));
        let meta = meta().start().get()..meta().end().get();
        for frame in taken.chain(meta) {
            let skip = (frame - START) as usize * PAGE_SIZE;
            hasher.update(&frame.to_le_bytes());
            // SAFETY: as for `save`; the image covers the frame, and its words are zeroed or
            // written.
            let words = unsafe { self.image.words(skip, PAGE_SIZE) };
            hasher.update(zerocopy::IntoBytes::as_bytes(words));
        }
        // What the bytes do not tell: what of the predecessor's belongs together.
        let mut things = [self.model.owned.clone(), self.model.left.clone()];
        for list in &mut things {
            list.sort_unstable_by_key(|thing| (thing.run.start(), thing.kind));
            for thing in list {
                let word = thing.run.start().get() << 16 | thing.run.frames() << 8;
                let kind = u64::from(thing.kind as u8) << 1 | u64::from(thing.preserved);
                hasher.update(&(word | kind).to_le_bytes());
            }
            hasher.update(&u64::MAX.to_le_bytes());
        }
        hasher.digest128()
    }
}
