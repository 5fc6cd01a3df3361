//! A kernel that takes over: what it claims, adopts, keeps and gives back, with a word to the journal
//! around each.
//!
//! It goes on with its predecessor's handover, under the same entry. What was promised before it began is
//! promised still, whether it has claimed it or not, until it lets it go.

use heirloom::folio::{DirectMap, Disposition};
use heirloom::kho::PhysAddr;
use heirloom::restore::Unclaimed;
use heirloom::slab::{self, OldObject};
use heirloom_testkit::{Kernel, ObjectKind, Rng, TestMachine, TestObject};

use super::actor::{Actor, Op, Owned, SLAB, is_full, slack};
use super::caches::{CHANGED, cache_name, name, preserving, root_bytes, spec};
use super::check::Names;
use super::journal::{Call, Journal, Line, Part, Slack};
use super::promises::{Promises, Ways};
use super::step;

/// What a takeover does with what was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// Of so many things one is not claimed.
    pub(crate) spare: u64,
    /// What nobody claimed is left as it is, or freed; `None`: nobody asks.
    pub(crate) disposition: Option<Disposition>,
}

/// Leaves a kernel's entry, and says so before.
pub(crate) fn leave(machine: &TestMachine, journal: &Journal, kernel: &Kernel<'_>) {
    let entry = kernel.entry();
    journal.log(0).write(Line::Leaving(entry.root.get()));
    machine.arena().leave(entry).expect("the first page can be written");
}

/// Boots, and leaves the entry.
pub(crate) fn boot<'g>(machine: &'g TestMachine, journal: &Journal) -> Kernel<'g> {
    journal.log(0).write(Line::Open(Call::Boot, Slack::default(), step::counted()));
    let kernel = machine.boot();
    leave(machine, journal, &kernel);
    journal.log(0).write(Line::Close);
    kernel
}

/// Revives from the entry that is there, which stays the same, unless the root page is of another make.
pub(crate) fn revive<'g>(machine: &'g TestMachine, journal: &Journal) -> Kernel<'g> {
    let entry = machine.arena().entry().expect("the first page is sound").expect("an entry");
    journal.log(0).write(Line::From(entry.root.get()));
    let foreign = Promises::of(journal).came_by_another_make();
    // The blocks of a seal's table; and the pages of an entry of this kernel's own.
    let pages = if foreign { 12 } else { 6 };
    let slack = Slack { blocks: pages, frames: pages, objects: 0 };
    journal.log(0).write(Line::Open(Call::Revive, slack, step::counted()));
    let kernel = machine.revive(entry);
    assert_eq!(kernel.entry() != entry, foreign, "the entry stays the same in one's own page");
    assert_eq!(kernel.names_left_behind(), 0);
    if foreign {
        journal.log(0).write(Line::Moved(kernel.entry()));
    }
    journal.log(0).write(Line::Close);
    journal.began();
    kernel
}

/// Leaves the entry of a kernel that goes on beside a root page of another make: the predecessor's is about
/// to end.
pub(crate) fn leave_own(machine: &TestMachine, kernel: &Kernel<'_>) {
    machine.arena().leave(kernel.entry()).expect("the first page can be written");
}

/// Who has what was left to a kernel that has just revived.
pub(crate) fn heir<'k, 'a>(
    kernel: &'k Kernel<'a>,
    journal: &'k Journal,
    base: u32,
) -> Actor<'k, 'a> {
    Actor::heir(kernel, Some(journal.log(0)), base, &Promises::of(journal))
}

/// What stands for whatever is in a cache.
const fn in_cache(cache: u8) -> TestObject {
    TestObject::named(ObjectKind::Object, cache, 0, 0)
}

/// The caches that the successor has with the layout that its predecessor had.
fn same_layout() -> impl Iterator<Item = u8> {
    (0..super::caches::ALL).filter(|cache| *cache != CHANGED)
}

impl Actor<'_, '_> {
    fn left(&self) -> impl Iterator<Item = &Owned> {
        self.owned.iter().filter(|owned| owned.left)
    }

    /// Takes over: finds out what became of calls that never returned, claims much of what was left, in
    /// any order, does this and that with it, and leaves the rest or frees it.
    pub(crate) fn take_over(&mut self, rng: &mut Rng, plan: Plan) {
        same_layout().for_each(|cache| self.adopt_or_resume(cache));
        self.resolve();
        self.upgrade();
        self.claim_much(rng, plan.spare);
        if let Some(disposition) = plan.disposition {
            self.finish(disposition);
        }
    }

    /// The same with the help of others, each of which has a share of what was left: they adopt, claim, use
    /// and let go at once, while what is left is told.
    pub(crate) fn take_over_with(&mut self, others: &mut [Self], rng: &mut Rng, plan: Plan) {
        let seeds: Vec<_> = others.iter().map(|_| rng.next()).collect();
        self.write(Line::Together(true));
        std::thread::scope(|scope| {
            for (other, seed) in others.iter_mut().zip(seeds) {
                scope.spawn(move || {
                    other.adopt_all();
                    other.claim_much(&mut Rng::new(seed), plan.spare);
                });
            }
            self.adopt_all();
            self.finish(Disposition::Keep);
            self.resolve();
            self.upgrade();
            self.claim_much(rng, plan.spare);
            self.finish(Disposition::Keep);
        });
        self.write(Line::Together(false));
        // What is left is told by one.
        for other in others {
            let (left, taken) = other.owned.drain(..).partition(|owned: &Owned| owned.left);
            other.owned = taken;
            self.owned.extend::<Vec<_>>(left);
        }
        if let Some(disposition) = plan.disposition {
            self.finish(disposition);
        }
    }

    /// Takes a share of what was left out: one of so many. What is upgraded, names with what they lead to,
    /// and areas, of which a block may have been told as a folio, stay.
    pub(crate) fn share(&mut self, among: usize) -> Vec<Owned> {
        let mut n = 0;
        // A name may be there, too, whose call never returned.
        let unsure = self.unsure.iter().flat_map(|(_, ways)| ways.iter().flatten());
        let all = self.owned.iter().map(|owned| &owned.thing).chain(unsure);
        let added = all.filter(|thing| thing.kind == ObjectKind::Subtree);
        let named: Vec<_> = added.filter_map(|thing| thing.seed).collect();
        let (shared, rest) = std::mem::take(&mut self.owned).into_iter().partition(|owned| {
            let thing = &owned.thing;
            let stays = match thing.kind {
                ObjectKind::Subtree | ObjectKind::Area => true,
                ObjectKind::Object => thing.index == CHANGED,
                ObjectKind::Folio => named.contains(&thing.block().addr().get()),
                _ => false,
            };
            n += usize::from(!stays);
            owned.left && !stays && n % among == 0
        });
        self.owned = rest;
        shared
    }

    fn adopt_all(&mut self) {
        same_layout().for_each(|cache| self.adopt(cache));
    }

    /// Claims much of what was left, in any order, and does this and that with it.
    fn claim_much(&mut self, rng: &mut Rng, spare: u64) {
        let mut left: Vec<_> = self.left().map(|owned| owned.id).collect();
        for i in (1..left.len()).rev() {
            left.swap(i, rng.below(i as u64 + 1) as usize);
        }
        for id in left {
            if rng.below(spare) > 0 {
                self.claim(id);
            }
            match rng.below(8) {
                0 | 1 => self.act(Op::Preserve(rng.next())),
                2 => self.act(Op::Unpreserve(rng.next())),
                3 => self.act(Op::Free(rng.next())),
                4 => self.act(Op::Realloc(rng.next(), 8 + rng.below(9000) as usize)),
                _ => {}
            }
        }
    }

    /// Takes over, in order, what `takes` says, and does nothing else but upgrade what has another layout.
    pub(crate) fn take_over_some(&mut self, takes: impl Fn(&TestObject) -> bool) {
        for cache in same_layout().filter(|cache| takes(&in_cache(*cache))) {
            self.adopt_or_resume(cache);
        }
        self.resolve();
        if takes(&in_cache(CHANGED)) {
            self.upgrade();
        }
        let left: Vec<_> = self.left().copied().collect();
        for owned in left.into_iter().filter(|owned| takes(&owned.thing)) {
            self.claim(owned.id);
        }
    }

    /// Takes over all there is, and frees what was not promised.
    pub(crate) fn take_over_all(&mut self) {
        self.take_over_some(|_| true);
        self.finish(Disposition::Free);
    }

    /// Finds out what calls have done that were under way when a kernel ended.
    fn resolve(&mut self) {
        let mut unsure = std::mem::take(&mut self.unsure);
        // An area that is there has its blocks, of which a call under way may have told as folios.
        if unsure.iter().any(|(_, ways)| ways.iter().flatten().any(|t| t.kind == ObjectKind::Folio))
        {
            let areas = self.left().filter(|owned| owned.thing.kind == ObjectKind::Area);
            for id in areas.map(|owned| owned.id).collect::<Vec<_>>() {
                self.claim(id);
            }
        }
        // An area that is there has its blocks, which may be there alone if it is not; a name pins a folio.
        let first = |t: &TestObject| matches!(t.kind, ObjectKind::Area | ObjectKind::Subtree);
        unsure.sort_by_key(|(_, ways)| !ways.iter().flatten().any(first));
        // What is in the cache that is not adopted shows when it is upgraded.
        let changed = |t: &TestObject| t.kind == ObjectKind::Object && t.index == CHANGED;
        let (later, now): (Vec<_>, Vec<_>) =
            unsure.into_iter().partition(|(_, ways)| ways.iter().flatten().any(changed));
        self.unsure = later;
        for (id, ways) in now {
            self.open(Call::Claim, slack(0, 0, 0));
            let found = self.look_for(id, &ways);
            self.is(id, found);
            if let Some(thing) = found {
                // An added name is still to be taken over, with the folio that it leads to.
                let left = thing.kind == ObjectKind::Subtree;
                let (kept, held) = (true, thing.is_held());
                let pinned = thing.kind == ObjectKind::Root || self.is_named(&thing);
                self.owned.push(Owned { id, thing, kept, held, left, pinned });
            }
            self.close();
        }
    }

    /// Claims a thing in one of several ways.
    fn look_for(&self, id: u32, ways: &Ways) -> Option<TestObject> {
        let mut refused = Vec::new();
        for way in ways.iter().flatten() {
            let there = match way.kind {
                ObjectKind::Root | ObjectKind::Subtree => {
                    Names::of(self.kernel).has(self.kernel, id, way)
                }
                _ => match way.restore_or_find(self.kernel) {
                    Ok(()) => {
                        let alike = ways.iter().flatten().filter(|o| o.handle() == way.handle());
                        let whole = alike.copied().find(|thing| thing.is_whole(self.kernel));
                        assert!(whole.is_some(), "{id}: the content is lost: {ways:?}");
                        return whole;
                    }
                    Err(error) => {
                        refused.push(error);
                        false
                    }
                },
            };
            if there {
                if way.kind == ObjectKind::Root {
                    let root = self.kernel.claim_root(&name(way.kind, id)).expect("it is there");
                    assert_eq!(root.bytes(), root_bytes(way.seed.unwrap_or(0), way.bytes));
                }
                return Some(*way);
            }
        }
        assert!(ways.contains(&None), "{id} is lost: {ways:?}: {refused:?}");
        None
    }

    /// Whether a name leads to a folio.
    fn is_named(&self, thing: &TestObject) -> bool {
        thing.kind == ObjectKind::Folio
            && self.owned.iter().any(|name| {
                name.thing.kind == ObjectKind::Subtree
                    && name.thing.seed == Some(thing.block().addr().get())
            })
    }

    /// Adopts a cache: what it holds survives as before.
    pub(crate) fn adopt(&mut self, cache: u8) {
        if self.kernel.slabs().inherited(&cache_name(cache)).is_none() {
            return;
        }
        self.open(Call::Adopt, slack(0, 0, 0));
        let adopted = self.kernel.slabs().adopt(spec(cache));
        adopted.err().into_iter().for_each(|error| assert!(is_full(&error.into()), "{error}"));
        self.close();
    }

    /// Adopts a cache, or, every other preserving one, goes on with it as it is: all that is in use in it is
    /// this kernel's at once, and what is no owner's, as the call for it never returned, is freed.
    fn adopt_or_resume(&mut self, cache: u8) {
        let slabs = self.kernel.slabs();
        let resumes = preserving(cache) && cache / 2 % 2 == 1;
        if !resumes || slabs.inherited(&cache_name(cache)).is_none() {
            return self.adopt(cache);
        }
        self.open(Call::Adopt, slack(0, 0, 0));
        let taken = slabs.resume(spec(cache));
        self.close();
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => return assert!(is_full(&error.into()), "{error}"),
        };
        let of = |thing: &TestObject| thing.kind == ObjectKind::Object && thing.index == cache;
        let owned = self.owned.iter().map(|owned| owned.thing);
        let unsure = self.unsure.iter().flat_map(|(_, ways)| ways.iter().flatten().copied());
        let known: Vec<_> = owned.chain(unsure).filter(of).filter_map(|t| t.addr()).collect();
        let there: Vec<_> = taken.preserved().map(|(addr, _)| addr).collect();
        for addr in there.into_iter().filter(|addr| !known.contains(addr)) {
            self.open(Call::Finish, slack(SLAB, SLAB, 1));
            let object = self.kernel.memory().machine().ptr(addr);
            // SAFETY: resumed, and no owner of this kernel's or of its predecessor's has it.
            unsafe { taken.free(object) }.unwrap_or_else(|error| panic!("{addr}: {error}"));
            self.close();
        }
        let all: Vec<_> = self.left().filter(|o| of(&o.thing)).map(|owned| owned.id).collect();
        for id in all {
            self.claim(id);
        }
    }

    /// Objects of a layout that this build has no more become others, one after another.
    fn upgrade(&mut self) {
        /// Preserving, and of larger objects.
        const TO: u8 = 1;
        let kernel = self.kernel;
        let Some(record) = kernel.slabs().inherited(&cache_name(CHANGED)) else {
            return self.none_is_left();
        };
        let Ok(to) = self.cache(TO) else { return };
        let mut last = None::<u32>;
        let done = kernel.slabs().upgrade(&record, |OldObject { addr, bytes, .. }| {
            // The one before is gone.
            if let Some(id) = last.take() {
                self.is(id, None);
                self.close();
                self.owned.retain(|owned| owned.id != id);
            }
            let of =
                |o: &&Owned| o.left && o.thing.index == CHANGED && o.thing.addr() == Some(addr);
            let mut old = self.owned.iter().find(of).copied();
            let unsure = |(_, ways): &(u32, Ways)| {
                ways.iter().flatten().any(|thing| thing.addr() == Some(addr))
            };
            if let Some(at) = self.unsure.iter().position(unsure)
                && old.is_none()
            {
                let (id, ways) = self.unsure.swap_remove(at);
                let thing = *ways.iter().flatten().next().expect("a way");
                let (kept, held, left, pinned) = (true, false, true, false);
                self.owned.push(Owned { id, thing, kept, held, left, pinned });
                old = self.owned.last().copied();
            }
            let old = old.expect("only what was preserved survives");
            self.open(Call::Upgrade, slack(1, 1, 1));
            let object = to.alloc()?;
            let (id, _) = self.id();
            let handle = kernel.handle_of(object).expect("allocated just now");
            let new = TestObject::new(ObjectKind::Object, TO, handle, old.thing.bytes).born(true);
            self.is(id, Some(new));
            let source = std::ptr::NonNull::from(bytes).cast::<u8>();
            {
                let _quiet = step::Pause::new();
                // SAFETY: the new object is the larger one, and nobody else's.
                unsafe { object.copy_from_nonoverlapping(source, bytes.len()) };
            }
            let new = new.stamped(old.thing.seed.expect("stamped before it was preserved"));
            assert!(new.is_whole(kernel), "an old object is whole: {new:?}");
            self.is(id, Some(new));
            self.own(id, new, true);
            self.may(old.id, None);
            last = Some(old.id);
            Ok::<_, slab::Error>(())
        });
        if let Some(id) = last {
            self.is(id, None);
            self.owned.retain(|owned| owned.id != id);
        }
        self.close();
        match done {
            Ok(_) => self.none_is_left(),
            Err(error) => assert!(is_full(&error.into()), "{error}"),
        }
    }

    /// What was not among the objects that were upgraded was not there.
    fn none_is_left(&mut self) {
        for (id, _) in std::mem::take(&mut self.unsure) {
            self.is(id, None);
        }
    }

    /// Claims one thing that was left, if there is memory for it: it survives as before.
    fn claim(&mut self, id: u32) {
        let at = self.owned.iter().position(|owned| owned.id == id && owned.left);
        let Some(at) = at else { return };
        let thing = self.owned[at].thing;
        self.open(Call::Claim, slack(0, 0, 0));
        self.write(Line::About(id, thing));
        let pinned = match thing.kind {
            ObjectKind::Root => {
                let root = self.kernel.claim_root(&name(ObjectKind::Root, id));
                let root = root.unwrap_or_else(|error| panic!("{id} is lost: {thing:?}: {error}"));
                assert_eq!(root.bytes(), root_bytes(thing.seed.unwrap_or(0), thing.bytes));
                true
            }
            ObjectKind::Subtree => {
                let there = Names::of(self.kernel).has(self.kernel, id, &thing);
                assert!(there, "{id} is lost: {thing:?}");
                // Taken over with the folio that it leads to, or by itself by nobody.
                let addr = PhysAddr::new(thing.seed.unwrap_or(0));
                let name = name(ObjectKind::Subtree, id);
                if self.kernel.add_subtree(&name, addr, thing.bytes).is_err() {
                    return self.close();
                }
                true
            }
            _ => match thing.restore_or_find(self.kernel) {
                Ok(()) => {
                    assert!(thing.is_whole(self.kernel), "claimed, and changed: {thing:?}");
                    self.is_named(&thing)
                }
                Err(error) => {
                    let unadopted = matches!(
                        error,
                        heirloom::restore::Error::Slab(slab::Error::NotAdopted { .. })
                    );
                    assert!(is_full(&error) || unadopted, "{id} is lost: {thing:?}: {error}");
                    return self.close();
                }
            },
        };
        let (kept, held, left) = (true, thing.is_held(), false);
        self.owned[at] = Owned { id, thing, kept, held, left, pinned };
        // As before.
        self.is(id, Some(thing));
        self.close();
    }

    /// Leaves what was not claimed as it is, or frees it.
    pub(crate) fn finish(&mut self, disposition: Disposition) {
        let left: Vec<_> = self.left().copied().collect();
        let frames = left.iter().map(|owned| owned.thing.frames()).sum::<u64>();
        let small = left.iter().filter(|owned| owned.thing.is_small()).count() as u64;
        let lists = left.iter().filter(|owned| owned.thing.kind == ObjectKind::Records);
        let tables = lists.map(|owned| 2 + owned.thing.bytes / 100).sum::<u64>() + 16;
        let freed = match disposition {
            Disposition::Keep => Slack::default(),
            Disposition::Free => slack(frames + tables, frames + tables + 4 * SLAB, small),
        };
        self.open(Call::Finish, freed);
        if disposition == Disposition::Free {
            for owned in &left {
                self.may(owned.id, None);
            }
        }
        let asked = |unclaimed| {
            self.write(Line::Part(match unclaimed {
                Unclaimed::Subtree { .. } => Part::Name,
                Unclaimed::Slab { .. } => Part::Slab,
                Unclaimed::Object { .. } => Part::Object,
                _ => Part::Block,
            }));
            disposition
        };
        self.kernel.finish(asked).expect("nothing else writes the root page");
        if disposition == Disposition::Free {
            for owned in &left {
                self.is(owned.id, None);
            }
            self.owned.retain(|owned| !owned.left);
            self.write(Line::Swept);
        }
        self.close();
    }
}
