//! What the predecessor left as a whole: its caches adopted, its objects passed on, and its end.

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::{Fate, Kind};
use heirloom::restore::{Error, Finished, Parts, Unclaimed};
use heirloom::slab::Error as SlabError;

use super::board::Kernel;
use super::caches::{self, CACHES, NAMES};
use super::numbers::mix;
use super::state::{State, Thing};

impl State {
    /// Adopts a cache, or asks for another of its name.
    pub(super) fn adopt(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let n = a as usize % CACHES;
        let name = NAMES[n];
        let waiting = |state: &Self| {
            let of = |thing: &&Thing| {
                thing.object().is_some_and(|o| o.cache.as_str() == name && !o.adopted)
            };
            state.left.iter().filter(of).count() as u64
        };
        if b.is_multiple_of(6) {
            // A cache that keeps what nobody claimed is in nobody's way.
            if self.loose.iter().any(|loose| loose.as_str() == name) {
                return;
            }
            if self.asked.contains(&n)
                || kernel.slabs().inherited(name).expect("it has not ended").is_some()
            {
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

    /// Passes the objects of a predecessor's cache to a function, which may have enough of it.
    pub(super) fn upgrade(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let name = NAMES[a as usize % CACHES];
        let inherited = kernel.slabs().inherited(name).expect("it has not ended");
        let Some(record) = inherited else { return };
        let enough = b % 12;
        let mut seen = Vec::new();
        let stop = SlabError::BadLayout { size: 1, align: 3 };
        let left = &self.left;
        let done = kernel.slabs().upgrade(&record, |old| {
            let thing = left.iter().find(|thing| thing.addr == old.addr);
            let thing = thing.unwrap_or_else(|| panic!("{old:?} did not survive"));
            assert!(thing.object().is_some_and(|o| !o.adopted && o.cache.as_str() == name));
            let tag = thing.handle.and_then(|handle| handle.parts().ok());
            assert!(matches!(tag, Some(Parts::Object { tag, .. }) if tag == old.tag));
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
        let mut gone = BTreeSet::new();
        self.inherited.retain(|block, label| {
            let stays = *label != Some(Kind::Slab) || kernel.memory().is_inherited(*block);
            if !stays {
                gone.insert(*block);
            }
            stays
        });
        self.left.retain(|thing| {
            let goes = thing.object().is_some_and(|object| gone.contains(&object.slab));
            assert!(!goes || seen.contains(&thing.addr), "{thing:?} was not passed on");
            !goes
        });
        let of = |thing: &Thing| thing.object().is_some_and(|o| o.cache == record.name());
        if done.is_ok() {
            // Of two caches of one name only the first is gone.
            assert!(seen.iter().all(|at| self.left.iter().all(|t| t.addr != *at || !of(t))));
        }
    }

    /// Ends the inheritance.
    pub(super) fn finish(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let fate = |at: u64| match a % 4 {
            0 => Fate::Free,
            1 => Fate::Keep,
            _ if mix(b ^ at) & 1 == 0 => Fate::Keep,
            _ => Fate::Free,
        };
        let mut before = Finished::default();
        if let Err(error) = self.finish_by(kernel, &mut before, fate) {
            self.starved(kernel, error, 24 + 6 * 16);
            let again = self.finish_by(kernel, &mut before, |_| Fate::Free);
            assert_eq!(again, Ok(()), "nothing is kept");
        }
    }

    /// `before` is what calls that were refused did.
    fn finish_by(
        &mut self,
        kernel: &Kernel<'_>,
        before: &mut Finished,
        fate: impl Fn(u64) -> Fate,
    ) -> Result<(), Error> {
        let mut log = Vec::new();
        let done = kernel.finish(|unclaimed| {
            let at = match unclaimed {
                Unclaimed::Folio(block) => block.addr(),
                Unclaimed::Slab { slab, .. } => slab.addr(),
                Unclaimed::Object { addr, .. } => addr,
                other => panic!("{other:?}"),
            };
            let fate = fate(at.get());
            log.push((unclaimed, fate));
            fate
        });
        self.check_finish(&log, done.is_ok());
        if let Ok(finished) = done
            && self.past
        {
            let count = |like: fn(&Unclaimed) -> bool| log.iter().filter(|(u, _)| like(u)).count();
            let [folios, slabs, objects] = [
                count(|u| matches!(u, Unclaimed::Folio(_))),
                count(|u| matches!(u, Unclaimed::Slab { .. })),
                count(|u| matches!(u, Unclaimed::Object { .. })),
            ];
            assert_eq!(finished.folios, before.folios + folios as u64);
            assert_eq!(finished.slabs, before.slabs + slabs as u64);
            assert_eq!(finished.objects, before.objects + objects as u64);
        }
        // Where there was no memory, it was for the last one that was asked about.
        log.truncate(log.len() - usize::from(done.is_err()));
        for (unclaimed, fate) in &log {
            match (unclaimed, fate) {
                (Unclaimed::Folio(_), _) => before.folios += 1,
                (Unclaimed::Slab { .. }, Fate::Free) => before.slabs += 1,
                (Unclaimed::Object { .. }, Fate::Free) => before.objects += 1,
                // Asked about again.
                _ => {}
            }
        }
        for (unclaimed, fate) in log {
            match (unclaimed, fate) {
                (Unclaimed::Object { addr, .. }, Fate::Free) => {
                    self.left.retain(|thing| thing.addr != addr);
                }
                (Unclaimed::Slab { slab, .. }, Fate::Free) => {
                    self.inherited.remove(&slab);
                    let there = |thing: &Thing| thing.object().is_some_and(|o| o.slab == slab);
                    self.left.retain(|thing| !there(thing));
                }
                (Unclaimed::Folio(block), Fate::Free) => _ = self.inherited.remove(&block),
                (Unclaimed::Folio(block), Fate::Keep) => {
                    self.inherited.remove(&block);
                    self.kept_blocks.insert(block);
                }
                // Adopted: see below.
                (Unclaimed::Slab { slab, .. }, Fate::Keep) => {
                    let objects = self.left.iter().filter_map(Thing::object);
                    let names = objects.filter(|object| object.slab == slab).map(|o| o.cache);
                    self.loose.extend(names);
                }
                _ => {}
            }
        }
        self.learn_adopted(kernel);
        if let Err(error) = done {
            // Tables that came before it are gone.
            self.inherited.retain(|block, _| kernel.memory().is_inherited(*block));
            return Err(error);
        }
        if !self.past {
            return Ok(());
        }
        let left = std::mem::take(&mut self.left);
        for thing in left {
            if thing.object().is_some_and(|object| object.adopted) {
                self.left.push(thing);
            } else if !thing.blocks().is_empty()
                && thing.blocks().iter().all(|block| self.kept_blocks.contains(block))
            {
                self.kept.push(thing);
            }
        }
        self.inherited.clear();
        self.nodes.clear();
        self.left_roots.clear();
        self.past = false;
        Ok(())
    }

    /// Checks that it was asked about what is left, all of it if it came to the end, and about
    /// nothing else, once each.
    fn check_finish(&self, log: &[(Unclaimed, Fate)], ended: bool) {
        let (mut objects, mut slabs, mut blocks) =
            (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for thing in &self.left {
            match thing.object() {
                Some(object) if object.adopted => {
                    objects.insert(thing.addr, object.size);
                }
                Some(object) => *slabs.entry(object.slab).or_insert(0_u32) += 1,
                None => {}
            }
        }
        blocks.extend(self.inherited.iter().filter(|(_, label)| label.is_none()).map(|(b, _)| *b));
        if !self.past {
            return assert!(log.is_empty(), "{log:?}");
        }
        for (unclaimed, _) in log {
            let expected = match unclaimed {
                Unclaimed::Object { addr, size, .. } => {
                    objects.remove(addr) == Some(u64::from(*size))
                }
                Unclaimed::Slab { slab, objects, .. } => slabs.remove(slab) == Some(*objects),
                Unclaimed::Folio(block) => blocks.remove(block),
                _ => false,
            };
            assert!(expected, "{unclaimed:?} is not left");
        }
        let all = objects.is_empty() && slabs.is_empty() && blocks.is_empty();
        assert!(all || !ended, "not asked about {objects:?} {slabs:?} {blocks:?}");
    }
}
