//! What the predecessor left as a whole: its caches adopted, its objects passed on, and its end.

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::{DirectMap, Disposition, FrameType};
use heirloom::kho::{Block, Parts, PhysAddr, Run};
use heirloom::restore::{Finished, Unclaimed};
use heirloom::slab::Error as SlabError;
use heirloom_testkit::{Kernel, mix};

use super::caches::{self, CACHES, NAMES};
use super::state::{ModelKind, ModelObject, Object, State};

impl State {
    /// Adopts a cache, or asks for another of its name.
    pub(super) fn adopt(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let n = a as usize % CACHES;
        let name = NAMES[n];
        let waiting = |state: &Self| {
            let of = |thing: &&ModelObject| {
                thing.object().is_some_and(|o| o.cache.as_str() == name && !o.adopted)
            };
            state.left.iter().filter(of).count() as u64
        };
        if b.is_multiple_of(6) {
            if self.asked.contains(&n) || kernel.slabs().inherited(name).is_some() {
                let refused = kernel.slabs().adopt(caches::other_spec(n));
                assert!(matches!(refused, Err(SlabError::Mismatch { .. })), "{refused:?}");
                self.refused();
            }
            return;
        }
        let before = waiting(self);
        let done = caches::adopt(kernel, n);
        self.learn_adopted(kernel);
        match done {
            Ok(adopted) => {
                assert_eq!(adopted.unclaimed, before, "{name}");
                self.asked.insert(n);
                assert_eq!(waiting(self), 0, "{name}");
            }
            Err(error) => self.starved(kernel, error.into(), 24 + 6 * 16),
        }
    }

    /// Resumes a cache, or those of all classes: what they left is in use as it was.
    pub(super) fn resume(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let n = a as usize % (CACHES + 2);
        let done = match NAMES.get(n) {
            Some(_) => caches::resume(kernel, n),
            None => kernel.slabs().resume_buffers(),
        };
        let whole = done.is_ok();
        match done {
            Ok(()) => _ = NAMES.get(n).map(|_| self.asked.insert(n)),
            // A class among them; those before it are resumed.
            Err(SlabError::Adopted { cache }) => {
                assert!(self.adopts.contains(&cache), "{cache}");
                self.refused();
            }
            Err(error) => self.starved(kernel, error.into(), 24 + 6 * 70),
        }
        // Each is found once it is looked for; some by what looks at all of a cache's slabs.
        let (some, rest): (Vec<_>, Vec<_>) =
            (0..self.left.len()).partition(|i| !mix(b ^ *i as u64).is_multiple_of(3));
        let mut found = BTreeMap::new();
        let look = |of: &[usize], state: &Self, found: &mut BTreeMap<PhysAddr, bool>| {
            for thing in of.iter().map(|i| &state.left[*i]) {
                let Some(object) = thing.object().filter(|object| !object.adopted) else {
                    continue;
                };
                let at = kernel.memory().machine().ptr(thing.addr);
                if let Some(size) = kernel.slabs().size_of(at) {
                    assert_eq!(size as u64, object.size, "{thing:?}");
                    found.insert(thing.addr, object.pinned);
                }
            }
        };
        look(&some, self, &mut found);
        kernel.slabs().caches().for_each(|cache| _ = cache.sweep(u64::MAX).expect("it may wait"));
        look(&rest, self, &mut found);
        let adopts = self.adopts.clone();
        self.learn_adopted(kernel);
        self.adopts = adopts;
        for i in (0..self.left.len()).rev() {
            let Some(pinned) = found.get(&self.left[i].addr) else { continue };
            let mut thing = self.left.remove(i);
            let ModelKind::Object(object) = &mut thing.what else { panic!("{thing:?} is found") };
            assert!(object.adopted && !self.adopts.contains(&object.cache), "{thing:?}");
            object.held = !object.preserving && !pinned;
            thing.check_content(kernel.memory().machine(), u64::MAX);
            Self::check_object(kernel, &thing);
            let handle = thing.handle.expect("it was preserved");
            assert_eq!(kernel.find(handle), Ok(kernel.memory().machine().ptr(thing.addr)));
            self.figures.resumed += 1;
            self.owned.push(thing);
        }
        let missed = |thing: &&ModelObject| {
            let of = |object: &Object| match NAMES.get(n) {
                Some(name) => object.cache.as_str() == *name,
                None => object.class,
            };
            whole && thing.object().is_some_and(|object| !object.adopted && of(object))
        };
        assert_eq!(self.left.iter().filter(missed).count(), 0, "left behind");
    }

    /// Passes the objects of a predecessor's cache to a function, which may have enough of it.
    pub(super) fn upgrade(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let name = NAMES[a as usize % CACHES];
        let Some(record) = kernel.slabs().inherited(name) else { return };
        let enough = b % 12;
        let mut seen = Vec::new();
        let stop = SlabError::BadLayout { size: 1, align: 3 };
        let left = &self.left;
        let done = kernel.slabs().upgrade(&record, |old| {
            let thing = left.iter().find(|thing| thing.addr == old.addr);
            let thing = thing.unwrap_or_else(|| panic!("{old:?} did not survive"));
            assert!(thing.object().is_some_and(|o| !o.adopted && o.cache.as_str() == name));
            let tag = thing.handle.and_then(|handle| handle.parts().ok());
            assert!(matches!(tag, Some(Parts::Object { tag, .. }) if tag == old.reuse_tag));
            thing.check_content(kernel.memory().machine(), u64::MAX);
            if seen.len() as u64 == enough {
                return Err(stop);
            }
            seen.push(old.addr);
            Ok(())
        });
        match done {
            Ok(count) => assert_eq!(count, seen.len() as u64),
            Err(error) => {
                assert_eq!((error, seen.len() as u64), (stop, enough));
                self.refused();
            }
        }
        let of = |thing: &ModelObject| {
            thing.object().is_some_and(|o| !o.adopted && o.cache == record.name())
        };
        if done.is_ok() {
            // Of two caches of one name only the first is gone.
            assert!(!seen.is_empty() || !self.left.iter().any(of), "{name}: nothing was passed on");
        }
        // What was taken is gone, each by itself.
        self.left.retain(|thing| !seen.contains(&thing.addr));
        self.inherited.retain(|block, label| {
            *label != Some(FrameType::Slab) || kernel.memory().predecessor().contains(*block)
        });
        let inherited = &self.inherited;
        for object in self.left.iter().filter_map(ModelObject::object) {
            assert!(
                object.adopted || inherited.contains_key(&object.slab),
                "not passed on: {object:?}"
            );
        }
    }

    /// Asks what nobody claimed: everything is left as it is, or freed, or some of it.
    pub(super) fn finish(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let disposition = |at: u64| match a % 4 {
            0 => Disposition::Free,
            1 => Disposition::Keep,
            _ if mix(b ^ at) & 1 == 0 => Disposition::Keep,
            _ => Disposition::Free,
        };
        let mut log = Vec::new();
        let done = kernel.finish(|unclaimed| {
            let at = match unclaimed {
                Unclaimed::Folio(block) => block.addr(),
                Unclaimed::Slab { slab, .. } => slab.addr(),
                // Another number than the block's at the same place.
                Unclaimed::Subtree { addr, .. } => PhysAddr::new(addr.get() + 1),
                Unclaimed::Object { addr, .. } => addr,
                other => panic!("{other:?}"),
            };
            let disposition = disposition(at.get());
            log.push((unclaimed, disposition));
            disposition
        });
        let finished = done.unwrap_or_else(|error| panic!("freeing needs no memory: {error}"));
        self.check_finish(&log, finished);
        if !kernel.is_sealed() {
            self.seal.clear();
        }
        // Names were asked about first: what is asked about later they name no more.
        for (unclaimed, disposition) in log {
            let Disposition::Free = disposition else { continue };
            match unclaimed {
                Unclaimed::Subtree { name, addr, .. } => {
                    self.left_roots.remove(name.as_str());
                    let block = self.blob_at(addr);
                    if let Some(block) = block.filter(|block| !self.is_named(*block)) {
                        self.inherited.remove(&block);
                    }
                }
                Unclaimed::Object { addr, .. } => self.left.retain(|thing| thing.addr != addr),
                Unclaimed::Slab { slab, .. } => {
                    self.inherited.remove(&slab);
                    let there =
                        |thing: &ModelObject| thing.object().is_some_and(|o| o.slab == slab);
                    self.left.retain(|thing| !there(thing));
                }
                Unclaimed::Folio(block) => _ = self.inherited.remove(&block),
                other => panic!("{other:?}"),
            }
        }
        // Slabs in which nothing survived are not worth a question.
        let used: BTreeSet<_> =
            self.left.iter().filter_map(ModelObject::object).map(|o| o.slab).collect();
        self.inherited
            .retain(|block, label| *label != Some(FrameType::Slab) || used.contains(block));
        self.prune();
    }

    /// The unclaimed block without a label that begins at an address.
    fn blob_at(&self, addr: PhysAddr) -> Option<Block> {
        let at =
            |(block, label): &(&Block, &Option<FrameType>)| label.is_none() && block.addr() == addr;
        self.inherited.iter().find(at).map(|(block, _)| *block)
    }

    /// Whether any name in the root page names a frame of a block.
    pub(super) fn is_named(&self, block: Block) -> bool {
        let left = self.left_roots.values().map(|left| (left.addr, left.length));
        let published = self.published.values();
        let published = published.map(|root| (root.block.addr(), root.bytes.len() as u64));
        let mut all = left.chain(published).chain(self.subtrees.values().copied());
        all.any(|(addr, bytes)| {
            Run::covering(addr, bytes).is_some_and(|run| run.overlaps(block.run()))
        })
    }

    /// Checks that it was asked about what is left, all of it, and about nothing else, once each.
    fn check_finish(&self, log: &[(Unclaimed, Disposition)], finished: Finished) {
        let (mut objects, mut slabs) = (BTreeMap::new(), BTreeMap::new());
        for thing in &self.left {
            match thing.object() {
                Some(object) if object.adopted => {
                    objects.insert(thing.addr, object.size);
                }
                Some(object) => *slabs.entry(object.slab).or_insert(0_u32) += 1,
                None => {}
            }
        }
        let mut names: BTreeMap<_, _> = self.left_roots.clone();
        let mut then = Self { left_roots: names.clone(), ..Self::default() };
        then.published.clone_from(&self.published);
        then.subtrees.clone_from(&self.subtrees);
        then.inherited.clone_from(&self.inherited);
        for (unclaimed, disposition) in log {
            if let Unclaimed::Subtree { name, addr, bytes } = unclaimed {
                let left = names.remove(name.as_str());
                let left = left.unwrap_or_else(|| panic!("{name} is not left"));
                assert_eq!((left.addr, Some(left.length)), (*addr, *bytes));
                if *disposition == Disposition::Free {
                    then.left_roots.remove(name.as_str());
                    let block = then.blob_at(*addr);
                    if let Some(block) = block.filter(|block| !then.is_named(*block)) {
                        then.inherited.remove(&block);
                    }
                }
            }
        }
        assert!(names.is_empty(), "not asked about {names:?}");
        // What a name that stays leads to stays with it.
        let under_a_name = |block: &Block| {
            let mut names = then.left_roots.values();
            names.any(|left| {
                Run::covering(left.addr, left.length).is_some_and(|run| run.overlaps(block.run()))
            })
        };
        let blocks =
            then.inherited.iter().filter(|(block, label)| label.is_none() && !under_a_name(block));
        let mut blocks: BTreeSet<_> = blocks.map(|(block, _)| *block).collect();
        let mut counts = Finished::default();
        for (unclaimed, _) in log {
            let expected = match unclaimed {
                Unclaimed::Subtree { .. } => {
                    counts.subtrees += 1;
                    true
                }
                Unclaimed::Object { addr, size, .. } => {
                    counts.objects += 1;
                    objects.remove(addr) == Some(u64::from(*size))
                }
                Unclaimed::Slab { slab, objects, .. } => {
                    counts.slabs += 1;
                    slabs.remove(slab) == Some(*objects)
                }
                Unclaimed::Folio(block) => {
                    counts.folios += 1;
                    counts.frames += block.order().frames();
                    blocks.remove(block)
                }
                _ => false,
            };
            assert!(expected, "{unclaimed:?} is not left");
        }
        let all = objects.is_empty() && slabs.is_empty() && blocks.is_empty();
        assert!(all, "not asked about {objects:?} {slabs:?} {blocks:?}");
        assert_eq!(finished, counts);
    }
}
