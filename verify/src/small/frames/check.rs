//! The check after each operation.

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::FrameType;
use heirloom::kho::{Block, Order, Pfn, Run};

use super::{Frames, Model};

impl Frames<'_> {
    /// Checks everything that can be asked about the memory.
    pub(super) fn check(&self) {
        let memory = self.memory.get();
        let Model { owned, left, inherited } = &self.model;
        let mut holders: BTreeMap<Pfn, (Run, FrameType, bool)> = BTreeMap::new();
        let mut put = |run: Run, kind, preserved| {
            for i in 0..run.frames() {
                let before = holders.insert(run.start().add(i), (run, kind, preserved));
                assert_eq!(before, None, "{run} has two owners");
            }
        };
        for thing in owned {
            put(thing.run, thing.kind, thing.preserved);
        }
        memory.preserved().for_each_node(|node| {
            put(Block::containing(node.addr.pfn(), Order::ZERO).run(), FrameType::Table, true);
        });
        let mut hidden: BTreeSet<Pfn> = BTreeSet::new();
        for run in inherited.iter().map(|block| block.run()) {
            for i in 0..run.frames() {
                let frame = run.start().add(i);
                assert!(hidden.insert(frame) && !holders.contains_key(&frame), "{frame} twice");
            }
        }
        let frames = self.ranges.iter().flat_map(|(r, _)| r.start().get()..r.end().get());
        let mut all = 0;
        for frame in frames.map(Pfn::new) {
            assert_eq!(memory.owning_block(frame), holders.get(&frame).copied(), "{frame}");
            all += 1;
        }
        let used = (holders.len() + hidden.len()) as u64;
        let stats = memory.stats();
        assert_eq!((stats.frames, stats.free() + stats.cached), (all, all - used));
        let audit = memory.audit().expect("no frame has two states");
        assert_eq!((audit.free, audit.cached), (stats.free(), stats.cached));
        assert_eq!(audit.reserved, hidden.len() as u64);
        let mut due: BTreeSet<Block> = inherited.clone();
        for thing in owned.iter().filter(|thing| thing.preserved) {
            due.extend(thing.run.blocks());
        }
        let mut found = BTreeSet::new();
        memory.preserved().for_each(|block| _ = found.insert(block));
        assert_eq!(found, due);
        assert_eq!(stats.preserved, due.iter().map(|block| block.order().frames()).sum::<u64>());
        found.clear();
        memory.predecessor().for_each(|block| _ = found.insert(block));
        assert_eq!(found, *inherited);
        for thing in owned.iter().chain(left) {
            for i in 0..thing.run.frames() {
                let frame = thing.run.start().add(i);
                // SAFETY: nobody else's, and nobody writes it now.
                assert_eq!(unsafe { self.first_word(frame).read() }, frame.get());
            }
        }
    }
}
