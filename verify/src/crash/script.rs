//! What the old kernel does before it is ended: the same each time, or at random.

use heirloom::folio::Disposition;
use heirloom::kho::PAGE_SIZE;
use heirloom_testkit::{Kernel, ObjectKind, Rng, TestMachine, TestObject};

use super::actor::{Actor, LAST, Op, random};
use super::caches::{MANY, SLABS, spec};
use super::journal::{Journal, LOGS, Line};
use super::takeover::{Plan, boot, heir, leave_own, revive};
use super::{Failure, arena, step};

mod ops;

use ops::{
    BEHIND, BESIDE, BRIEF, EVERYTHING, IDLE, IN_BETWEEN, LIFE, MOVED_LIFE, PLAIN_LIFE, SEALS,
    SHORT, SHORT_LIFE,
};

/// A run of a kernel that is the same each time: what is stepped through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Script {
    /// Boot, and then everything once, what is large as well as what is small.
    Life,
    /// One thing of each sort: not stepped through by itself.
    ShortLife,
    /// The pages of the cache directory fill, and others are added: the last objects of hundreds.
    Slabs,
    /// The same for caches.
    Caches,
    /// A seal, and each sort of change that breaks it.
    Seals,
    /// Memory is full but for what a successor needs.
    Full,
    /// A successor takes over from a life, keeps what it does not claim, and goes on.
    TakeOver,
    /// The same, freeing what it does not claim.
    Sweep,
    /// A few of everything, over a life that was short: what is stepped through again and again.
    Brief,
    /// Nothing is claimed but an object: `finish` tells all else, one of each sort, and frees it.
    Rest,
    /// A kernel claims half, and hands over; its successor claims the other half.
    Relay,
    /// Everything is claimed, and things come and go: in the end all is as before.
    Idle,
    /// One of each but for a seal: before [`Script::Layout`].
    MovedLife,
    /// The same without caches: before [`Script::Make`].
    PlainLife,
    /// A successor goes on beside a root page of another layout of heirloom's, and ends its entry.
    Layout,
    /// The same beside one that tells of no heirloom: Linux's.
    Make,
}

impl Script {
    pub(crate) const ALL: [Self; 12] = [
        Self::Life,
        Self::Slabs,
        Self::Caches,
        Self::Seals,
        Self::Full,
        Self::TakeOver,
        Self::Sweep,
        Self::Brief,
        Self::Rest,
        Self::Relay,
        Self::Layout,
        Self::Make,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Life => "life",
            Self::ShortLife => "short life",
            Self::Slabs => "slabs",
            Self::Caches => "caches",
            Self::Seals => "seals",
            Self::Full => "full",
            Self::TakeOver => "takeover",
            Self::Sweep => "sweep",
            Self::Brief => "brief",
            Self::Rest => "rest",
            Self::Relay => "relay",
            Self::Idle => "idle",
            Self::MovedLife => "life before another layout",
            Self::PlainLife => "life before another make",
            Self::Layout => "another layout",
            Self::Make => "another make",
        }
    }

    /// Of its stores one in so many is stopped before, where one in `stride` of the others' is.
    pub(crate) const fn stride(self, stride: u64) -> u64 {
        // Where a seal is untrue for a few stores, all of them matter.
        if matches!(self, Self::Seals) { 1 } else { stride }
    }

    /// Those in which a successor takes over: first those that are short.
    pub(crate) const TAKEOVERS: [Self; 8] = [
        Self::Brief,
        Self::Rest,
        Self::Relay,
        Self::Idle,
        Self::Layout,
        Self::Make,
        Self::TakeOver,
        Self::Sweep,
    ];

    /// Those that go on in their predecessor's root page: any of them may follow any other.
    pub(crate) const IN_PLACE: [Self; 6] =
        [Self::Brief, Self::Rest, Self::Relay, Self::Idle, Self::TakeOver, Self::Sweep];

    /// What a kernel does that takes over from one that was stopped in this: with the entry that the first
    /// kernel left, or not.
    pub(crate) fn next(self, by_the_first: bool) -> Self {
        if self.finds_another().is_some() && !by_the_first { Self::Brief } else { self }
    }

    /// Of the stores of a takeover one in so many is stopped before, where of the longest ones' it is one in
    /// `stride`.
    pub(crate) const fn step(self, stride: u64) -> u64 {
        match self {
            Self::TakeOver | Self::Sweep => stride,
            Self::Layout | Self::Make => stride.div_ceil(4),
            Self::Relay => stride.div_ceil(40),
            _ => 1,
        }
    }

    /// Whether the root page that it finds is laid out anew, and names heirloom's header still.
    pub(crate) const fn finds_another(self) -> Option<bool> {
        match self {
            Self::Layout => Some(true),
            Self::Make => Some(false),
            _ => None,
        }
    }

    /// The life that comes before it, if one does.
    pub(crate) const fn after(self) -> Option<Self> {
        match self {
            Self::TakeOver | Self::Sweep => Some(Self::Life),
            Self::Brief | Self::Rest | Self::Relay | Self::Idle => Some(Self::ShortLife),
            Self::Layout => Some(Self::MovedLife),
            Self::Make => Some(Self::PlainLife),
            _ => None,
        }
    }

    /// Runs it; the process ends before the store number `stop`.
    pub(crate) fn run(self, machine: &TestMachine, journal: &Journal, stop: u64) {
        match self {
            Self::Life => {
                step::count(machine, stop);
                live(&boot(machine, journal), journal);
            }
            Self::Slabs => {
                let kernel = boot(machine, journal);
                fill_slabs(machine, journal, &kernel, stop);
            }
            Self::Caches => {
                let kernel = boot(machine, journal);
                fill_caches(machine, journal, &kernel, stop);
            }
            Self::Seals => {
                let kernel = boot(machine, journal);
                let mut actor = Actor::new(&kernel, Some(journal.log(0)), 1);
                let before =
                    [Op::Folio(1), Op::Preserve(LAST), Op::Buffer(99, true), Op::Publish(0, 100)];
                for op in before {
                    actor.act(op);
                }
                step::count(machine, stop);
                for op in SEALS {
                    actor.act(*op);
                }
            }
            Self::Full => {
                let kernel = boot(machine, journal);
                fill_up(machine, journal, &kernel, stop);
            }
            Self::ShortLife => live_by(SHORT_LIFE, machine, journal),
            Self::MovedLife => live_by(MOVED_LIFE, machine, journal),
            Self::PlainLife => live_by(PLAIN_LIFE, machine, journal),
            _ => {
                step::count(machine, stop);
                drop(self.take_over(machine, journal));
            }
        }
        journal.note(step::counted());
    }

    /// The same of a takeover, whatever was before it: as [`Script::run`], but of the stores alone that a
    /// successor can see.
    pub(crate) fn run_visible(self, machine: &TestMachine, journal: &Journal, stop: u64) {
        step::count_visible(machine, stop);
        drop(self.take_over(machine, journal));
        journal.note(step::counted());
    }

    /// What is done to the memory that a life has left, before it begins.
    pub(crate) fn prepare(self, machine: &TestMachine, journal: &Journal) -> Result<(), Failure> {
        if let Some(own) = self.finds_another() {
            let entry = arena::lay_out(machine, own)?;
            journal.log(0).write(Line::Relaid(entry.root.get(), own));
        }
        Ok(())
    }

    /// A kernel takes over, and goes on for a while.
    fn take_over<'g>(self, machine: &'g TestMachine, journal: &Journal) -> Kernel<'g> {
        let kernel = revive(machine, journal);
        let mut actor = heir(&kernel, journal, base(journal));
        let then = match self {
            Self::Brief => {
                actor.take_over_all();
                BRIEF
            }
            Self::Idle => {
                actor.take_over_all();
                IDLE
            }
            Self::Rest => {
                // Of one cache the slabs are left, of another an object.
                actor.take_over_some(|thing| thing.kind == ObjectKind::Object && thing.index == 1);
                actor.adopt(2);
                actor.finish(Disposition::Free);
                SHORT
            }
            Self::Relay => {
                actor.take_over_some(is_first_half);
                actor.act_all(IN_BETWEEN);
                drop(actor);
                drop(kernel);
                return Self::Brief.take_over(machine, journal);
            }
            Self::Layout | Self::Make => {
                // Of each kind one is not: it is told, and goes.
                actor.take_over_some(|thing| match thing.kind {
                    ObjectKind::Root => thing.index != 2,
                    ObjectKind::Folio => thing.frames() != 4,
                    ObjectKind::Object => thing.index != 3,
                    _ => true,
                });
                actor.act_all(BESIDE);
                leave_own(machine, &kernel);
                actor.finish(Disposition::Free);
                BEHIND
            }
            _ => {
                let disposition =
                    if self == Self::Sweep { Disposition::Free } else { Disposition::Keep };
                let plan = Plan { spare: 4, disposition: Some(disposition) };
                actor.take_over(&mut Rng::new(12), plan);
                SHORT
            }
        };
        actor.act_all(then);
        drop(actor);
        kernel
    }
}

/// Numbers that no kernel before has given.
pub(super) fn base(journal: &Journal) -> u32 {
    2 + journal.kernels() as u32
}

/// What a kernel claims that hands the rest on.
const fn is_first_half(thing: &TestObject) -> bool {
    match thing.kind {
        ObjectKind::Folio | ObjectKind::Area | ObjectKind::Subtree => true,
        ObjectKind::Object => thing.index == 2,
        _ => false,
    }
}

fn live_by(ops: &[Op], machine: &TestMachine, journal: &Journal) {
    let kernel = boot(machine, journal);
    Actor::new(&kernel, Some(journal.log(0)), 1).act_all(ops);
}

pub(crate) fn live(kernel: &Kernel<'_>, journal: &Journal) {
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    for op in LIFE {
        actor.act(*op);
    }
}

/// Shows that every operation goes on working, and leaves nothing behind.
pub(crate) fn exercise(kernel: &Kernel<'_>) {
    let mut actor = Actor::new(kernel, None, 4000);
    for op in EVERYTHING {
        actor.act(*op);
    }
    for owned in &actor.owned {
        assert!(owned.thing.is_whole(kernel), "{owned:?}");
        owned.thing.release(kernel, owned.singly()).expect("what is owned can be given back");
    }
}

/// Until the first page of a cache's slab table is nearly full, one object to a slab; and then,
/// counted, until there is a second page, and the first has a hole.
fn fill_slabs(machine: &TestMachine, journal: &Journal, kernel: &Kernel<'_>, stop: u64) {
    const ENTRIES: u64 = PAGE_SIZE as u64 / 8 - 2;
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    let cache = kernel.slabs().cache(spec(SLABS)).expect("a new cache");
    assert_eq!(cache.objects_per_slab(), 1);
    while cache.stats().slabs + 3 < ENTRIES {
        actor.act(Op::Object(SLABS));
    }
    step::count(machine, stop);
    while cache.stats().slabs < ENTRIES + 3 {
        actor.act(Op::Object(SLABS));
    }
    (0..8).for_each(|_| actor.act(Op::Free(7)));
    actor.act(Op::Shrink);
    assert!(cache.stats().slabs < ENTRIES + 3, "a hole");
    (0..4).for_each(|_| actor.act(Op::Object(SLABS)));
}

/// Until a page of the cache directory is nearly full of caches; and then, counted, until there is a second.
fn fill_caches(machine: &TestMachine, journal: &Journal, kernel: &Kernel<'_>, stop: u64) {
    const RECORDS: u8 = ((PAGE_SIZE - 16) / 128) as u8;
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    for cache in 0..RECORDS + 2 {
        if cache == RECORDS - 1 {
            step::count(machine, stop);
        }
        actor.act(Op::Object(MANY + cache));
    }
}

/// Until hardly more is free than a successor needs for its tables; and then, counted, until no more
/// is. The successor has to give something back before it can adopt and claim the rest.
fn fill_up(machine: &TestMachine, journal: &Journal, kernel: &Kernel<'_>, stop: u64) {
    /// What a takeover needs, and what the largest operation here takes.
    const ROOM: u64 = 12 + 6;
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    for op in [Op::Object(0), Op::Preserve(LAST), Op::Object(1), Op::Buffer(100, true)] {
        actor.act(op);
    }
    let free = || {
        let stats = kernel.memory().stats();
        stats.free() + stats.cached
    };
    while free() > ROOM + 16 {
        actor.act(Op::Folio(0));
        actor.act(Op::Preserve(LAST));
    }
    step::count(machine, stop);
    for op in SHORT.iter().cycle().take(4 * SHORT.len()) {
        if free() > ROOM {
            actor.act(*op);
        }
    }
    assert!(free() <= ROOM);
}

/// Lives of kernel after kernel, some of several threads, until the process is ended: by itself,
/// if the journal is full.
pub(crate) fn program(machine: &TestMachine, journal: &Journal, seed: u64) {
    let mut rng = Rng::new(seed);
    // Numbers for each thread of each kernel: of the last one, those of its last line.
    let mut base = 1 + 4 * journal.kernels() as u32;
    let mut fresh = machine.arena().entry().is_ok_and(|entry| entry.is_none());
    loop {
        let kernel = if fresh { boot(machine, journal) } else { revive(machine, journal) };
        let threads = if rng.below(2) == 0 { 1 } else { 2 + rng.below(LOGS as u64 - 1) };
        let other = |thread| Actor::new(&kernel, Some(journal.log(thread)), base + thread as u32);
        let mut others: Vec<_> = (1..threads as usize).map(other).collect();
        let mut first = if fresh {
            Actor::new(&kernel, Some(journal.log(0)), base)
        } else {
            let mut actor = heir(&kernel, journal, base);
            let disposition =
                [None, Some(Disposition::Keep), Some(Disposition::Free)][rng.below(3) as usize];
            let plan = Plan { spare: 4, disposition };
            if others.is_empty() {
                actor.take_over(&mut rng, plan);
            } else {
                for other in &mut others {
                    other.owned = actor.share(threads as usize);
                }
                actor.take_over_with(&mut others, &mut rng, plan);
            }
            actor
        };
        fresh = false;
        let ops = 20 + rng.below(300);
        std::thread::scope(|scope| {
            for mut actor in others {
                let mut rng = Rng::new(rng.next());
                scope.spawn(move || (0..ops).for_each(|_| actor.act(random(&mut rng))));
            }
            (0..ops).for_each(|_| first.act(random(&mut rng)));
        });
        if rng.below(2) == 0 {
            first.act(Op::Seal);
        }
        drop(first);
        drop(kernel);
        base += 4;
    }
}

#[cfg(test)]
mod tests;
