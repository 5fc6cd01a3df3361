//! What the model knows: lists and sets, and nothing clever.

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::{DirectMap, FrameType};
use heirloom::kho::{Block, Handle, Order, PAGE_SIZE, PhysAddr, Run};
use heirloom::slab::Name;
use heirloom_testkit::{Kernel, TestMachine, is_stamped, stamp};

use super::frames::{Frames, walk};

/// Bytes of a frame.
pub(super) const PAGE: u64 = PAGE_SIZE as u64;

/// What something is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ModelKind {
    /// A folio.
    Folio(Order),
    /// A run.
    Run,
    /// A large buffer.
    Large {
        /// Whether a plain free frees it though it is preserved: from birth, or as it was claimed.
        born: bool,
    },
    /// An object, or a small buffer.
    Object(Object),
    /// An area, of blocks of this order. The first part is its chunk page.
    Area(Order),
    /// A list with so many entries. The parts are its blocks.
    Records(u64),
}

/// What is known of an object beside its address.
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    /// Its cache.
    pub cache: Name,
    /// Whether that one's objects are preserved from birth.
    pub preserving: bool,
    /// Whether it was claimed, and survives until a plain free.
    pub held: bool,
    /// Of what is left: whether its owner preserved it, and no kernel has adopted its slab since.
    pub pinned: bool,
    /// Whether that one is a size class.
    pub class: bool,
    /// Bytes in front that are as constructed.
    pub(super) constructed: u64,
    /// Its slab.
    pub slab: Block,
    /// Bytes that it has room for.
    pub size: u64,
    /// Whether its slab is one of this kernel's (of what the predecessor left).
    pub adopted: bool,
}

/// Something that this kernel owns, or that the predecessor left.
#[derive(Clone, Debug)]
pub(crate) struct ModelObject {
    /// What it is.
    pub what: ModelKind,
    /// Its first byte.
    pub addr: PhysAddr,
    /// How many bytes somebody wrote.
    pub bytes: u64,
    /// Whether it survives.
    pub preserved: bool,
    /// What the bytes are made of.
    pub seed: u64,
    /// The handle it had when it was preserved.
    pub handle: Option<Handle>,
    /// The blocks of an area or a list.
    pub parts: Vec<Block>,
}

impl ModelObject {
    /// Whether it is preserved until a plain free: from birth, or because it was claimed. In a preserving
    /// cache no other call changes that.
    pub(super) fn born(&self) -> bool {
        match &self.what {
            ModelKind::Large { born } => *born,
            ModelKind::Object(object) => object.preserving || object.held,
            _ => false,
        }
    }

    /// The object, if it is one.
    pub(super) const fn object(&self) -> Option<&Object> {
        match &self.what {
            ModelKind::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The folio, if it is one.
    pub(super) fn folio(&self) -> Option<Block> {
        match self.what {
            ModelKind::Folio(order) => Some(Block::containing(self.addr.pfn(), order)),
            _ => None,
        }
    }

    /// The frames, of what has some to itself and in a row.
    pub(super) fn run(&self) -> Option<Run> {
        match self.what {
            ModelKind::Folio(_) | ModelKind::Run | ModelKind::Large { .. } => {
                Run::new(self.addr.pfn(), self.frames())
            }
            _ => None,
        }
    }

    /// How many frames that is.
    fn frames(&self) -> u64 {
        match self.what {
            ModelKind::Folio(order) => order.frames(),
            _ => self.bytes.div_ceil(PAGE),
        }
    }

    /// Whose frames they are in the eyes of the page allocator: all of its blocks, each with its
    /// kind. An object has none.
    pub(super) fn holds(&self) -> Vec<(Run, FrameType)> {
        let part = |(i, block): (usize, &Block)| {
            let chunk = i == 0 || matches!(self.what, ModelKind::Records(_));
            (block.run(), if chunk { FrameType::Table } else { FrameType::Folio })
        };
        let kind = match self.what {
            ModelKind::Folio(_) => FrameType::Folio,
            ModelKind::Run => FrameType::Run,
            ModelKind::Large { .. } => FrameType::Buffer,
            ModelKind::Object(_) => return Vec::new(),
            ModelKind::Area(_) | ModelKind::Records(_) => {
                return self.parts.iter().enumerate().map(part).collect();
            }
        };
        self.run().into_iter().map(|run| (run, kind)).collect()
    }

    /// The blocks that stand in the tracker while it is preserved.
    pub(super) fn blocks(&self) -> Vec<Block> {
        self.holds().iter().flat_map(|(run, _)| run.blocks()).collect()
    }

    /// The stretches of memory that its content is in.
    fn stretches(&self) -> Vec<(PhysAddr, u64, u64)> {
        match &self.what {
            ModelKind::Area(order) => {
                let blocks = self.parts.iter().skip(1);
                blocks.zip(self.seed..).map(|(b, seed)| (b.addr(), order.bytes(), seed)).collect()
            }
            ModelKind::Records(_) => Vec::new(),
            ModelKind::Object(object) => {
                let skip = object.constructed.min(self.bytes);
                vec![(PhysAddr::new(self.addr.get() + skip), self.bytes - skip, self.seed)]
            }
            _ => vec![(self.addr, self.bytes, self.seed)],
        }
    }

    /// Writes its content.
    pub(super) fn stamp(&self, kernel: &Kernel<'_>) {
        for (addr, bytes, seed) in self.stretches() {
            let start = kernel.memory().machine().ptr(addr);
            // SAFETY: the model owns these bytes, and no reference to them is alive.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes as usize) };
            stamp(bytes, seed);
        }
    }

    /// Checks that its first `limit` bytes are as they were written.
    ///
    /// # Panics
    /// If they are not.
    pub(super) fn check_content(&self, machine: &TestMachine, limit: u64) {
        for (addr, bytes, seed) in self.stretches() {
            let start = machine.ptr(addr);
            let bytes = bytes.min(limit) as usize;
            // SAFETY: the model owns these bytes (or the predecessor did), and nobody writes them.
            let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
            assert!(is_stamped(bytes, seed), "the content of {self:?} is not what was written");
        }
    }
}

/// Bytes that were published.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// The folio they are in.
    pub block: Block,
    /// They.
    pub bytes: Vec<u8>,
}

/// What the predecessor left under a name.
#[derive(Clone, Debug)]
pub(crate) struct LeftRoot {
    /// Where.
    pub addr: PhysAddr,
    /// How many bytes.
    pub length: u64,
    /// What they are, unless they are something else's too.
    pub bytes: Option<Vec<u8>>,
}

/// What was counted over a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Programs.
    pub programs: u64,
    /// Steps.
    pub steps: u64,
    /// Jumps.
    pub generations: u64,
    /// What was allocated or built.
    pub made: u64,
    /// What was claimed.
    pub claimed: u64,
    /// What was resumed.
    pub resumed: u64,
    /// Refusals for want of memory.
    pub starved: u64,
    /// Refusals of what was wrong.
    pub refused: u64,
    /// Frames whose owner was compared.
    pub frames: u64,
}

impl Figures {
    /// Both together.
    pub const fn add(&mut self, other: &Self) {
        self.programs += other.programs;
        self.steps += other.steps;
        self.generations += other.generations;
        self.made += other.made;
        self.claimed += other.claimed;
        self.resumed += other.resumed;
        self.starved += other.starved;
        self.refused += other.refused;
        self.frames += other.frames;
    }
}

/// All that the model knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// This kernel's.
    pub owned: Vec<ModelObject>,
    /// The predecessor's, not claimed.
    pub left: Vec<ModelObject>,
    /// The caches that somebody asked for.
    pub asked: BTreeSet<usize>,
    /// The caches of which a slab was adopted.
    pub adopts: BTreeSet<Name>,
    /// What is preserved and unclaimed, with its label.
    pub inherited: BTreeMap<Block, Option<FrameType>>,
    /// What this kernel published, or claimed of what was published.
    pub published: BTreeMap<String, Published>,
    /// Subtrees of our own.
    pub subtrees: BTreeMap<String, (PhysAddr, u64)>,
    /// What the predecessor published or added, and is neither claimed nor taken over.
    pub left_roots: BTreeMap<String, LeftRoot>,
    /// The handover's own pages: root, scratch list, header; and what was published under two names,
    /// of which one is gone.
    pub tables: Vec<Block>,
    /// The seal's.
    pub seal: Vec<Block>,
    /// Something was done since it was sealed.
    pub dirty: bool,
    /// It was found whole by its seal, and not sealed again since.
    pub opened: bool,
    /// Out of use, scratch first.
    pub reserved: Vec<Run>,
    /// Taken so that memory is short.
    pub hog: Vec<Block>,
    /// Handles whose memory is not theirs any more.
    pub stale: Vec<Handle>,
    /// Whether the late range is there.
    pub all: bool,
    /// Who has which frame, as of the last check.
    pub frames: Frames,
    /// What a seed and the next are apart; 0 makes all contents alike, so that they tell nothing
    /// of what came before.
    pub apart: u64,
    /// The last seed given out.
    pub seed: u64,
    /// What was counted.
    pub figures: Figures,
}

impl State {
    /// A seed that nothing has.
    pub(super) const fn next_seed(&mut self) -> u64 {
        self.seed += self.apart;
        self.seed
    }

    /// One of those owned that are like this.
    pub(super) fn pick(&self, n: u64, like: impl Fn(&ModelObject) -> bool) -> Option<usize> {
        let those: Vec<_> = (0..self.owned.len()).filter(|i| like(&self.owned[*i])).collect();
        (!those.is_empty()).then(|| those[n as usize % those.len()])
    }

    /// Something is owned from here on.
    pub(super) fn own(&mut self, kernel: &Kernel<'_>, thing: ModelObject) {
        thing.stamp(kernel);
        self.figures.made += 1;
        self.owned.push(thing);
    }

    /// It is not, and its handle is good for nothing.
    pub(super) fn disown(&mut self, at: usize) {
        let thing = self.owned.swap_remove(at);
        self.forget(thing.handle);
    }

    /// A handle is good for nothing any more.
    pub(super) fn forget(&mut self, handle: Option<Handle>) {
        if self.stale.len() < 64 {
            self.stale.extend(handle);
        }
    }

    /// Counts a refusal that was to be.
    pub(super) const fn refused(&mut self) {
        self.figures.refused += 1;
    }

    /// All that is known of what there is, in an order that does not depend on what came before.
    pub(crate) fn summary(&self) -> impl core::fmt::Debug + use<> {
        let list = |things: &[ModelObject]| {
            let mut list: Vec<_> = things.iter().map(|thing| format!("{thing:?}")).collect();
            list.sort_unstable();
            list
        };
        let lists = [list(&self.owned), list(&self.left)];
        let inherited = self.inherited.clone();
        let names = (self.asked.clone(), self.published.clone(), self.left_roots.clone());
        (lists, inherited, names, self.tables.clone())
    }

    /// Checks that there was no memory: no block of this order is free, or no more than `need`
    /// frames.
    ///
    /// # Panics
    /// If there was.
    pub(super) fn starved(
        &mut self,
        kernel: &Kernel<'_>,
        error: heirloom::restore::Error,
        need: u64,
    ) {
        self.starved_of(kernel, error, need, Order::ZERO);
    }

    /// The same, of a run that has to be so aligned.
    ///
    /// # Panics
    /// As for [`State::starved`].
    pub(super) fn starved_of(
        &mut self,
        kernel: &Kernel<'_>,
        error: heirloom::restore::Error,
        need: u64,
        align: Order,
    ) {
        let memory = kernel.memory();
        let (frames, order, node) = match folio_error(error) {
            Some(heirloom::folio::Error::OutOfMemory { order, node }) => {
                (order.frames(), order, node)
            }
            Some(heirloom::folio::Error::NoRun { frames }) => (frames, align, None),
            _ => panic!("not for want of memory: {error}"),
        };
        let now = self.survey(kernel);
        let reach = memory.machine().all_within_reach();
        let room = now.fits(frames, order, node) && now.free(None) > need;
        assert!(!(room && reach), "{error}: but {} frames are free", now.free(None));
        self.figures.starved += 1;
    }

    /// Who has which frame now.
    pub(super) fn survey(&self, kernel: &Kernel<'_>) -> Frames {
        let mut frames = Frames::new(kernel.memory());
        walk(kernel.memory(), |run, _, _| frames.take(run));
        self.take_hidden(&mut frames);
        frames
    }

    /// Takes what the kinds bytes say nothing of.
    pub(super) fn take_hidden(&self, frames: &mut Frames) {
        let blocks = self.inherited.iter().filter(|(_, label)| label.is_none());
        let hidden = blocks.map(|(block, _)| block.run());
        for run in hidden.chain(self.reserved.iter().copied()) {
            frames.take(run);
        }
    }
}

/// The folio layer's error in one of a higher layer.
pub(super) const fn folio_error(error: heirloom::restore::Error) -> Option<heirloom::folio::Error> {
    match error {
        heirloom::restore::Error::Folio(error)
        | heirloom::restore::Error::Slab(heirloom::slab::Error::Folio(error)) => Some(error),
        _ => None,
    }
}
