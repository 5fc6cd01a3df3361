//! The check after each step: everything that can be seen from outside, held against the model.

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::{FrameType, NodeId};
use heirloom::kho::{Block, Pfn, Run};
use heirloom::slab::internal::DirectoryPart;
use heirloom::slab::{Cache, CacheStats, Name};
use heirloom_testkit::{Kernel, mix};

use super::frames::{Frames, walk};
use super::state::{ModelObject, State};

/// What the caches of one name hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    live: u64,
    preserved: u64,
    unclaimed: u64,
}

impl State {
    /// Checks everything but contents, and a few of those.
    ///
    /// # Panics
    /// If anything is not as the model has it.
    pub(crate) fn check(&mut self, kernel: &Kernel<'_>, step: u64) {
        let slabs = self.check_owners(kernel);
        self.check_preserved(kernel);
        self.check_inherited(kernel);
        self.check_figures(kernel, slabs);
        self.check_caches(kernel);
        self.check_subtrees(kernel);
        for i in 0..5 {
            let at = mix(step * 8 + i);
            for list in [&self.owned, &self.left] {
                if let Some(thing) = list.get(at as usize % list.len().max(1)) {
                    thing.check_content(kernel.memory().machine(), u64::MAX);
                }
            }
            if let Some(thing) = self.owned.get(at as usize % self.owned.len().max(1)) {
                Self::check_object(kernel, thing);
                Self::check_table(kernel, thing);
            }
        }
    }

    /// Checks every content, object and table.
    ///
    /// # Panics
    /// As for [`State::check`].
    pub(super) fn check_contents(&self, kernel: &Kernel<'_>) {
        for thing in &self.owned {
            Self::check_object(kernel, thing);
            Self::check_table(kernel, thing);
        }
        for thing in self.owned.iter().chain(&self.left) {
            thing.check_content(kernel.memory().machine(), u64::MAX);
        }
    }

    /// Every frame has the owner that the model knows, or is the library's own. Returns the frames
    /// of this kernel's slabs, and takes note of who has what.
    fn check_owners(&mut self, kernel: &Kernel<'_>) -> u64 {
        let memory = kernel.memory();
        let mut expected: BTreeMap<Pfn, (Run, FrameType, bool)> = BTreeMap::new();
        let mut put = |run: Run, kind, preserved| {
            let before = expected.insert(run.start(), (run, kind, preserved));
            assert_eq!(before, None, "{run} has two owners");
        };
        for thing in &self.owned {
            thing.holds().into_iter().for_each(|(run, kind)| put(run, kind, thing.preserved));
        }
        self.hog.iter().for_each(|block| put(block.run(), FrameType::Folio, false));
        for block in self.known_tables() {
            put(block.run(), FrameType::Table, true);
        }
        for (block, label) in &self.inherited {
            if let Some(kind) = label {
                put(block.run(), *kind, true);
            }
        }
        let mut frames = Frames::new(memory);
        let mut slabs = 0;
        walk(memory, |run, kind, preserved| {
            frames.take(run);
            match expected.remove(&run.start()) {
                Some(due) => assert_eq!((run, kind, preserved), due),
                None if kind == FrameType::Slab => slabs += run.frames(),
                None => assert_eq!(kind, FrameType::Table, "{run} is nobody's"),
            }
        });
        assert!(expected.is_empty(), "not there: {expected:?}");
        self.take_hidden(&mut frames);
        self.figures.frames += frames.count();
        self.frames = frames;
        slabs
    }

    /// The pages of this kernel's own tables, but for the cache directory and the nodes.
    fn known_tables(&self) -> impl Iterator<Item = Block> {
        let published = self.published.values().map(|published| published.block);
        self.tables.iter().copied().chain(self.seal.iter().copied()).chain(published)
    }

    /// What the tree shows is what the model has preserved, claimed or not, block by block.
    fn check_preserved(&self, kernel: &Kernel<'_>) {
        let memory = kernel.memory();
        let mut found = BTreeSet::new();
        memory.preserved().for_each(|block| assert!(found.insert(block), "{block} comes twice"));
        let mut rows = 0;
        memory.preserved().for_each_range(|row| rows += row.count());
        assert_eq!(
            (rows, memory.preserved().counts().total()),
            (found.len() as u64, found.len() as u64)
        );
        let frames = found.iter().map(|block| block.order().frames()).sum::<u64>();
        assert_eq!(memory.stats().preserved, frames);
        let mut take = |block: Block| assert!(found.remove(&block), "{block} is not preserved");
        for thing in self.owned.iter().filter(|thing| thing.preserved) {
            thing.blocks().into_iter().for_each(&mut take);
        }
        self.inherited.keys().copied().for_each(&mut take);
        self.known_tables().for_each(&mut take);
        kernel.slabs().for_each_table(|part| {
            if let DirectoryPart::Page(page) = part {
                take(Block::containing(page.pfn(), heirloom::kho::Order::ZERO));
            }
        });
        let alive = self.owned.iter().filter(|thing| thing.preserved).chain(&self.left);
        let slabs: BTreeSet<_> = alive
            .filter_map(ModelObject::object)
            .filter(|object| object.adopted)
            .map(|object| (object.slab, object.preserving))
            .collect();
        for (slab, _) in &slabs {
            take(*slab);
        }
        // Of a preserving cache also those in which nothing is.
        let preserving = kernel.slabs().caches().filter(Cache::is_preserving);
        let all: u64 = preserving.map(|cache| cache.stats().slabs).sum();
        let used = slabs.iter().filter(|(_, preserving)| *preserving).count() as u64;
        assert_eq!(found.len() as u64, all - used, "preserved, and nobody's: {found:?}");
        for block in found {
            let holder = memory.owning_block(block.pfn());
            assert_eq!(holder, Some((block.run(), FrameType::Slab, true)));
        }
    }

    /// What is there to be claimed is what nobody has claimed.
    fn check_inherited(&self, kernel: &Kernel<'_>) {
        let memory = kernel.memory();
        let mut found = BTreeMap::new();
        memory.predecessor().for_each(|block| {
            found.insert(block, memory.predecessor().label_of(block));
        });
        assert_eq!(found, self.inherited);
    }

    /// The figures add up, and are those of the owners.
    fn check_figures(&self, kernel: &Kernel<'_>, slabs: u64) {
        let memory = kernel.memory();
        for node in [None, Some(NodeId(0)), Some(NodeId(1))] {
            let stats = node.map_or_else(|| memory.stats(), |node| memory.node_stats(node));
            assert_eq!(stats.free() + stats.cached, self.frames.free(node), "{node:?} {stats:?}");
        }
        let stats = memory.stats();
        assert_eq!(stats.frames, self.frames.count());
        assert_eq!(stats.free() + stats.cached + stats.used(), stats.frames);
        let audit = memory.audit().expect("no frame has two states");
        let of = |kind: FrameType| audit.allocated[kind as usize];
        let owned: u64 = self
            .owned
            .iter()
            .flat_map(ModelObject::holds)
            .filter(|(_, kind)| *kind != FrameType::Table)
            .map(|(run, _)| run.frames())
            .sum();
        let named = owned + self.hog.len() as u64;
        assert_eq!(
            of(FrameType::Folio) + of(FrameType::Run) + of(FrameType::Buffer) + of(FrameType::Tail),
            named
        );
        let hidden: u64 = self
            .inherited
            .iter()
            .filter(|(_, label)| label.is_none())
            .map(|(block, _)| block.run())
            .chain(self.reserved.iter().copied())
            .map(Run::frames)
            .sum();
        assert_eq!(audit.reserved, hidden, "{audit:?}");
        assert_eq!((audit.free, audit.cached), (stats.free(), stats.cached));
        let theirs = self.inherited.iter().filter(|(_, label)| **label == Some(FrameType::Slab));
        let theirs: u64 = theirs.map(|(block, _)| block.order().frames()).sum();
        assert_eq!(of(FrameType::Slab), slabs + theirs);
    }

    /// Each cache has the objects that the model has, in the states it has.
    fn check_caches(&self, kernel: &Kernel<'_>) {
        let mut expected: BTreeMap<Name, Counts> = BTreeMap::new();
        for (thing, left) in
            self.owned.iter().map(|t| (t, false)).chain(self.left.iter().map(|t| (t, true)))
        {
            let Some(object) = thing.object().filter(|object| object.adopted) else { continue };
            let counts = expected.entry(object.cache).or_default();
            if left {
                counts.unclaimed += 1;
            } else {
                counts.live += 1;
                counts.preserved += u64::from(thing.preserved);
            }
        }
        let mut found: BTreeMap<Name, Counts> = BTreeMap::new();
        for cache in kernel.slabs().caches() {
            let stats = cache.stats();
            let CacheStats { slabs, live, preserved, unclaimed, free, cached, .. } = stats;
            let places = slabs * u64::from(cache.objects_per_slab());
            assert_eq!(places, live + unclaimed + free + cached, "{} {stats:?}", cache.name());
            // What lies as no slab of the class does is in a cache of its own.
            let counts = found.entry(cache.name()).or_default();
            counts.live += live;
            counts.preserved += preserved;
            counts.unclaimed += unclaimed;
        }
        found.retain(|_, counts| *counts != Counts::default());
        assert_eq!(found, expected);
    }
}
