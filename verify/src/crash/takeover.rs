//! A kernel that takes over: what it claims, adopts and keeps, with a word to the journal around
//! each.
//!
//! Until a kernel has left its own entry, a successor finds its predecessor's; from then on its
//! own. Each leaves it at once (what it has not claimed is lost if it ends early), or
//! [late](Leaves::Late), after `finish` (then a successor that comes too early finds what is left
//! of the predecessor's tree, or is refused).

use heirloom::folio::Fate;
use heirloom::slab::{self, OldObject};

use super::actor::{Actor, Op, Owned, SLAB, is_full, slack};
use super::caches::{CHANGED, cache_name, spec};
use super::ground::{Dice, Ground, Kernel};
use super::journal::{Call, Journal, LOGS, Line, Slack};
use super::promises::Promises;
use super::step;
use super::things::{Sort, Thing, name, root_bytes};

/// When a kernel that takes over leaves its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaves {
    /// Before it claims anything.
    Early,
    /// When it has finished.
    Late,
}

/// Leaves a kernel's entry, and says so before. `then` is written down in between: what holds from
/// the moment that the entry is there.
pub(crate) fn leave(ground: &Ground, journal: &Journal, kernel: &Kernel<'_>, then: &[Owned]) {
    let entry = kernel.entry();
    // The first log is the last, so that all say so if that one does.
    for log in (0..LOGS).rev() {
        journal.log(log).write(Line::Leaving(entry.root.get()));
    }
    for owned in then.iter().filter(|owned| owned.kept) {
        journal.log(0).write(Line::Is(owned.id, Some(owned.thing)));
    }
    ground.arena().leave(entry).expect("the first page can be written");
}

/// Boots, and leaves the entry.
pub(crate) fn boot<'g>(ground: &'g Ground, journal: &Journal) -> Kernel<'g> {
    journal.log(0).write(Line::Open(Call::Boot, Slack::default(), step::counted()));
    let kernel = ground.boot().expect("memory to boot in");
    leave(ground, journal, &kernel, &[]);
    journal.log(0).write(Line::Close);
    kernel
}

/// Revives from the entry that is there; early, the new one is left at once.
pub(crate) fn revive<'g>(ground: &'g Ground, journal: &Journal, leaves: Leaves) -> Kernel<'g> {
    let entry = ground.arena().entry().expect("the first page is sound").expect("an entry");
    journal.log(0).write(Line::Open(Call::Revive, Slack::default(), step::counted()));
    let kernel = ground.revive(entry).expect("a predecessor that ended at rest");
    if leaves == Leaves::Early {
        leave(ground, journal, &kernel, &[]);
    }
    journal.log(0).write(Line::Close);
    kernel
}

/// Who has what the predecessor left to a kernel that has just revived.
pub(crate) fn heir<'k, 'a>(
    kernel: &'k Kernel<'a>,
    journal: &'k Journal,
    leaves: Leaves,
    base: u32,
) -> Actor<'k, 'a> {
    let mut promises = Promises::of_last(journal);
    if leaves == Leaves::Late {
        // Its predecessor's promises are still those that hold.
        promises.before = std::mem::take(&mut promises.things);
    }
    let log = (leaves == Leaves::Early).then(|| journal.log(0));
    Actor::heir(kernel, log, base, &promises)
}

impl Actor<'_, '_> {
    fn left(&self) -> impl Iterator<Item = &Owned> {
        self.owned.iter().filter(|owned| owned.left)
    }

    /// Takes over: most of what was left is claimed, much of that preserved again, and the rest
    /// kept or freed at the end.
    pub(crate) fn take_over(&mut self, dice: &mut Dice, keep: bool) {
        self.claim_names();
        for cache in 0..CHANGED {
            self.adopt(cache);
        }
        self.upgrade();
        let mut left: Vec<_> = self.left().map(|owned| owned.id).collect();
        // In any order.
        for i in (1..left.len()).rev() {
            left.swap(i, dice.below(i as u64 + 1) as usize);
        }
        for id in left {
            if dice.below(4) > 0 {
                self.claim(id);
            }
            if dice.below(2) > 0 {
                self.act(Op::Preserve(dice.next()));
            }
        }
        self.finish(keep);
    }

    fn claim_names(&mut self) {
        let mut there = Vec::new();
        let each = |name: &str, addr: heirloom::folio::PhysAddr, _| {
            there.push((name.to_owned(), addr.get()));
        };
        self.kernel.for_each_inherited_subtree(each).expect("checked by revive");
        let names = |owned: &Owned| matches!(owned.thing.sort, Sort::Root | Sort::Subtree);
        for Owned { id, thing, .. } in self.owned.extract_if(.., |o| names(o)).collect::<Vec<_>>() {
            let name = name(thing.sort, id);
            let seed = thing.seed.expect("a name is stamped");
            if thing.sort == Sort::Subtree {
                assert!(there.contains(&(name, seed)), "a name is lost: {thing:?}");
                continue;
            }
            self.open(Call::Claim, Slack::default());
            let root = self.kernel.claim_root(&name).expect("published by the predecessor");
            assert_eq!(root.bytes(), root_bytes(seed, thing.bytes));
            drop(root);
            self.close();
        }
    }

    /// Adopts a cache: what is not claimed yet survives again.
    fn adopt(&mut self, cache: u8) {
        if self.kernel.slabs().inherited(&cache_name(cache)).expect("it has not ended").is_none() {
            return;
        }
        self.open(Call::Adopt, slack(1, 1, 0));
        let of_it = |o: &&Owned| o.thing.sort == Sort::Object && o.thing.index == cache;
        for Owned { id, thing, .. } in self.left().filter(of_it) {
            self.may(*id, Some(*thing));
        }
        match self.kernel.slabs().adopt(spec(cache)) {
            Ok(_) => {
                for Owned { id, thing, .. } in self.left().filter(of_it) {
                    self.is(*id, Some(*thing));
                }
            }
            // Some slabs may be adopted.
            Err(error) => assert!(is_full(&error.into()), "{error}"),
        }
        self.close();
    }

    /// Objects of a layout that this build has no more become others.
    fn upgrade(&mut self) {
        /// Preserving, and of larger objects.
        const TO: u8 = 1;
        let kernel = self.kernel;
        let name = cache_name(CHANGED);
        let inherited = kernel.slabs().inherited(&name).expect("it has not ended");
        let Some(record) = inherited else { return };
        let Ok(to) = self.cache(TO) else { return };
        let mut taken = Vec::new();
        let done = kernel.slabs().upgrade(&record, |OldObject { addr, bytes, .. }| {
            let old = self.left().find(|o| o.thing.addr() == Some(addr)).copied();
            let old = old.expect("only what was preserved survives");
            self.open(Call::Upgrade, slack(1, 1, 1));
            let object = to.alloc()?;
            let (id, _) = self.id();
            let handle = kernel.handle_of(object).expect("allocated just now");
            let new = Thing::new(Sort::Object, TO, handle, old.thing.bytes);
            self.is(id, Some(new));
            let source = std::ptr::NonNull::from(bytes).cast::<u8>();
            // SAFETY: the new object is the larger one, and nobody else's.
            unsafe { object.copy_from_nonoverlapping(source, bytes.len()) };
            let new = new.stamped(old.thing.seed.expect("stamped before it was preserved"));
            assert!(new.is_whole(kernel), "an old object is whole: {new:?}");
            self.is(id, Some(new));
            self.own(id, new, true);
            self.close();
            taken.push(old.id);
            Ok::<_, slab::Error>(())
        });
        match done {
            Ok(_) => self.owned.retain(|owned| !taken.contains(&owned.id)),
            Err(error) => {
                assert!(is_full(&error.into()), "{error}");
                self.close();
            }
        }
    }

    /// Claims one thing that the predecessor left, if there is memory for it.
    fn claim(&mut self, id: u32) {
        let at = self.owned.iter().position(|owned| owned.id == id && owned.left);
        let Some(at) = at else { return };
        let thing = self.owned[at].thing;
        let frames = thing.frames();
        let lists = if thing.sort == Sort::Records { 2 + thing.bytes / 100 } else { 0 };
        self.open(Call::Claim, slack(frames + lists + 2, frames + lists + 2, 0));
        // A claim of a small buffer adopts the slab around it, and all that is in that.
        let adopts = thing.sort == Sort::Buffer && thing.small();
        for other in self.left() {
            if other.id == id && !thing.small() || adopts && other.thing.small() {
                self.may(other.id, Some(other.thing));
            }
        }
        if !thing.claimed().1 {
            self.may(id, None);
        }
        match thing.claim(self.kernel) {
            Ok(()) => {
                let (thing, kept) = thing.claimed();
                self.is(id, kept.then_some(thing));
                assert!(thing.is_whole(self.kernel), "claimed, and changed: {thing:?}");
                self.owned[at] = Owned { id, thing, kept, left: false, pinned: false };
            }
            Err(error) => {
                let unadopted = matches!(
                    error,
                    heirloom::restore::Error::Slab(
                        slab::Error::NotAdopted { .. } | slab::Error::NotAnObject { .. }
                    )
                );
                assert!(is_full(&error) || unadopted, "{thing:?}: {error}");
                if !thing.small() {
                    self.is(id, None);
                }
            }
        }
        self.close();
    }

    /// Ends the inheritance; what is kept is the next kernel's.
    fn finish(&mut self, keep: bool) {
        let left: Vec<_> = self.left().copied().collect();
        let frames = left.iter().map(|owned| owned.thing.frames()).sum::<u64>();
        let small = left.iter().filter(|owned| owned.thing.small()).count() as u64;
        let lists = left.iter().filter(|owned| owned.thing.sort == Sort::Records);
        let tables = lists.map(|owned| 2 + owned.thing.bytes / 100).sum::<u64>() + 16;
        self.open(Call::Finish, slack(frames + tables, frames + tables + 4 * SLAB, small));
        for Owned { id, thing, .. } in &left {
            self.may(*id, keep.then_some(*thing));
        }
        let fate = if keep { Fate::Keep } else { Fate::Free };
        let mut done = self.kernel.finish(|_| fate);
        if let Err(error) = done {
            assert!(keep && is_full(&error), "{error}");
            // What was decided stands; the rest goes.
            for owned in &left {
                self.may(owned.id, None);
            }
            done = self.kernel.finish(|_| Fate::Free);
        } else {
            for o in &left {
                self.is(o.id, keep.then_some(o.thing));
            }
        }
        done.expect("freeing needs no memory");
        self.owned.retain(|owned| !owned.left);
        self.close();
    }
}
