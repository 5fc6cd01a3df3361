//! What the old kernel does before it is ended: the same each time, or at random.

use heirloom::folio::{Fate, PAGE_SIZE};

use super::actor::{Actor, LAST, Op, random};
use super::caches::{MANY, SLABS, spec};
use super::ground::{Dice, Ground, Kernel};
use super::journal::{Journal, LOGS};
use super::step;
use super::takeover::{Plan, boot, heir, revive};

/// A run of a kernel that is the same each time: what is stepped through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Script {
    /// Boot, and then everything once, what is large as well as what is small.
    Life,
    /// One thing of each sort: not stepped through by itself.
    ShortLife,
    /// The pages of the roll fill, and others are added: the last objects of hundreds.
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
}

impl Script {
    pub(crate) const ALL: [Self; 8] = [
        Self::Life,
        Self::Slabs,
        Self::Caches,
        Self::Seals,
        Self::Full,
        Self::TakeOver,
        Self::Sweep,
        Self::Brief,
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
        }
    }

    /// Of its stores one in so many is stopped before, where one in `stride` of the others' is.
    pub(crate) const fn stride(self, stride: u64) -> u64 {
        // Where a seal is untrue for a few stores, all of them matter.
        if matches!(self, Self::Seals) { 1 } else { stride }
    }

    /// Those in which a successor takes over.
    pub(crate) const TAKEOVERS: [Self; 3] = [Self::Brief, Self::TakeOver, Self::Sweep];

    /// The life that comes before it, if one does.
    pub(crate) const fn after(self) -> Option<Self> {
        match self {
            Self::TakeOver | Self::Sweep => Some(Self::Life),
            Self::Brief => Some(Self::ShortLife),
            _ => None,
        }
    }

    /// Runs it; the process ends before the store number `stop`.
    pub(crate) fn run(self, ground: &Ground, journal: &Journal, stop: u64) {
        match self {
            Self::Life => {
                step::count(ground, stop);
                live(&boot(ground, journal), journal);
            }
            Self::Slabs => {
                let kernel = boot(ground, journal);
                fill_slabs(ground, journal, &kernel, stop);
            }
            Self::Caches => {
                let kernel = boot(ground, journal);
                fill_caches(ground, journal, &kernel, stop);
            }
            Self::Seals => {
                let kernel = boot(ground, journal);
                let mut actor = Actor::new(&kernel, Some(journal.log(0)), 1);
                let before =
                    [Op::Folio(1), Op::Preserve(LAST), Op::Buffer(99, true), Op::Publish(0, 100)];
                for op in before {
                    actor.act(op);
                }
                step::count(ground, stop);
                for op in &SEALS {
                    actor.act(*op);
                }
            }
            Self::Full => {
                let kernel = boot(ground, journal);
                fill_up(ground, journal, &kernel, stop);
            }
            Self::ShortLife => {
                let kernel = boot(ground, journal);
                let mut actor = Actor::new(&kernel, Some(journal.log(0)), 1);
                for op in &SHORT_LIFE {
                    actor.act(*op);
                }
            }
            Self::TakeOver | Self::Sweep | Self::Brief => {
                step::count(ground, stop);
                drop(self.take_over(ground, journal));
            }
        }
        journal.note(step::counted());
    }

    /// The same of a takeover, whatever was before it: as [`Script::run`], but of the stores alone that a
    /// successor can see.
    pub(crate) fn run_visible(self, ground: &Ground, journal: &Journal, stop: u64) {
        step::count_visible(ground, stop);
        drop(self.take_over(ground, journal));
        journal.note(step::counted());
    }

    /// A kernel takes over, and goes on for a while.
    fn take_over<'g>(self, ground: &'g Ground, journal: &Journal) -> Kernel<'g> {
        let kernel = revive(ground, journal);
        // No two kernels give the same numbers.
        let base = 2 + journal.kernels() as u32;
        let mut actor = heir(&kernel, journal, base);
        let (spare, fate, then) = match self {
            Self::Brief => (0, Fate::Free, BRIEF.as_slice()),
            Self::Sweep => (4, Fate::Free, SHORT.as_slice()),
            _ => (4, Fate::Keep, SHORT.as_slice()),
        };
        let dice = &mut Dice(4);
        if self == Self::Brief {
            actor.take_over_all();
        } else {
            actor.take_over(dice, Plan { spare, fate: Some(fate) });
        }
        for op in then {
            actor.act(*op);
        }
        drop(actor);
        kernel
    }
}

/// One thing of each sort.
const SHORT_LIFE: [Op; 20] = [
    Op::Folio(1),
    Op::Preserve(LAST),
    Op::Run(3),
    Op::Preserve(LAST),
    Op::Buffer(2000, false),
    Op::Preserve(LAST),
    Op::Buffer(5000, true),
    Op::Object(2),
    Op::Preserve(LAST),
    Op::Object(3),
    Op::Object(6),
    Op::Preserve(LAST),
    Op::Area(2, 0),
    Op::Records,
    Op::Push(LAST, 2),
    Op::Publish(0, 100),
    Op::Folio(0),
    Op::Preserve(LAST),
    Op::Subtree(LAST),
    Op::Seal,
];

/// What a kernel does that has claimed all of that.
const BRIEF: [Op; 11] = [
    Op::Free(2),
    Op::Publish(0, 40),
    Op::Publish(1, 40),
    Op::Unpublish(0),
    Op::Unpreserve(0),
    Op::Folio(0),
    Op::Preserve(LAST),
    Op::Object(2),
    Op::Preserve(LAST),
    Op::Push(0, 1),
    Op::Seal,
];

/// Everything that there is, each sort of thing in each role.
const LIFE: [Op; 106] = [
    Op::Folio(0),
    Op::Preserve(LAST),
    Op::Folio(2),
    Op::Preserve(LAST),
    Op::FolioAfar(1),
    Op::Preserve(LAST),
    Op::Folio(0),
    Op::Run(5),
    Op::Preserve(LAST),
    Op::Run(3),
    Op::Preserve(LAST),
    Op::Unpreserve(LAST),
    Op::Free(LAST),
    Op::Run(7),
    Op::Buffer(100, false),
    Op::Preserve(LAST),
    Op::Buffer(100, false),
    Op::Preserve(LAST),
    Op::Unpreserve(LAST),
    Op::Buffer(2000, true),
    Op::Buffer(300, true),
    Op::Free(LAST),
    Op::Buffer(300, true),
    Op::Buffer(9000, false),
    Op::Preserve(LAST),
    Op::Buffer(21_000, false),
    Op::Preserve(LAST),
    Op::Unpreserve(LAST),
    Op::Buffer(13_000, true),
    Op::Free(LAST),
    Op::Buffer(5000, true),
    Op::Buffer(13_000, true),
    Op::Object(0),
    Op::Preserve(LAST),
    Op::Object(0),
    Op::Preserve(LAST),
    Op::Unpreserve(LAST),
    Op::Object(1),
    Op::Object(1),
    Op::Free(LAST),
    Op::Object(1),
    Op::Object(2),
    Op::Preserve(LAST),
    Op::Unpreserve(LAST),
    Op::Preserve(LAST),
    Op::Object(3),
    Op::Object(3),
    Op::Insert(false),
    Op::Insert(false),
    Op::Unpreserve(LAST),
    Op::Insert(true),
    Op::Insert(true),
    Op::Free(LAST),
    Op::Object(6),
    Op::Preserve(LAST),
    Op::Object(6),
    Op::Preserve(LAST),
    Op::Object(6),
    Op::Publish(0, 100),
    Op::Publish(1, 5000),
    Op::Publish(0, 7000),
    Op::Unpublish(1),
    Op::Publish(1, 50),
    Op::PreserveAll(4),
    Op::UnpreserveAll,
    Op::PreserveAll(3),
    Op::PreserveAdjacent(0),
    Op::PreserveAdjacent(1),
    Op::Area(3, 1),
    Op::Area(2, 0),
    Op::AreaGone(LAST),
    Op::Area(2, 0),
    Op::Records,
    Op::Push(LAST, 3),
    Op::Records,
    Op::Push(LAST, 172),
    Op::Push(0, 1),
    Op::Records,
    Op::Push(LAST, 171),
    Op::RecordsGone(LAST),
    Op::Subtree(0),
    Op::Subtree(1),
    Op::SubtreeGone(0),
    Op::Seal,
    Op::Publish(2, 10),
    Op::Seal,
    Op::Unseal,
    Op::Unpublish(2),
    Op::Preserve(0),
    Op::Preserve(2),
    Op::Free(0),
    Op::Free(1),
    Op::Unpreserve(0),
    Op::Unpreserve(5),
    Op::Realloc(0, 700),
    Op::Realloc(1, 20_000),
    Op::Realloc(2, 4500),
    Op::Realloc(3, 60),
    Op::Realloc(4, 30_000),
    Op::Shrink,
    Op::Buffer(150, true),
    Op::Object(2),
    Op::Preserve(LAST),
    Op::Object(4),
    Op::Folio(1),
    Op::Preserve(LAST),
];

/// What becomes of a seal: untrue by each call that changes what it covers, and true again.
const SEALS: [Op; 14] = [
    Op::Seal,
    Op::Publish(1, 50),
    Op::Seal,
    Op::Publish(1, 5000),
    Op::Seal,
    Op::Unpublish(0),
    Op::Seal,
    Op::Subtree(0),
    Op::Seal,
    Op::SubtreeGone(0),
    Op::Seal,
    Op::Unseal,
    Op::Seal,
    Op::Seal,
];

/// A few of each, as a kernel does after it took over.
const SHORT: [Op; 12] = [
    Op::Folio(1),
    Op::Preserve(0),
    Op::Buffer(500, true),
    Op::Object(1),
    Op::Object(0),
    Op::Preserve(1),
    Op::Publish(0, 64),
    Op::Area(2, 0),
    Op::Records,
    Op::Push(0, 2),
    Op::Free(3),
    Op::Shrink,
];

/// Everything once, in a kernel whose successor nobody asks: what [`exercise`] does.
const EVERYTHING: [Op; 22] = [
    Op::Folio(0),
    Op::FolioAfar(1),
    Op::Preserve(0),
    Op::Run(4),
    Op::Preserve(0),
    Op::Buffer(200, false),
    Op::Preserve(1),
    Op::Buffer(6000, true),
    Op::Object(0),
    Op::Object(1),
    Op::Preserve(2),
    Op::Insert(true),
    Op::PreserveAdjacent(0),
    Op::Area(2, 0),
    Op::Records,
    Op::Push(0, 2),
    Op::Publish(0, 40),
    Op::Seal,
    Op::Unseal,
    Op::Unpreserve(1),
    Op::Realloc(0, 9000),
    Op::Unpublish(0),
];

pub(crate) fn live(kernel: &Kernel<'_>, journal: &Journal) {
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    for op in &LIFE {
        actor.act(*op);
    }
}

/// Shows that every operation goes on working, and leaves nothing behind.
pub(crate) fn exercise(kernel: &Kernel<'_>) {
    let mut actor = Actor::new(kernel, None, 4000);
    for op in &EVERYTHING {
        actor.act(*op);
    }
    for owned in &actor.owned {
        assert!(owned.thing.is_whole(kernel), "{owned:?}");
        owned.thing.release(kernel, owned.singly()).expect("what is owned can be given back");
    }
}

/// Until the first page of a cache's slab table is nearly full, one object to a slab; and then,
/// counted, until there is a second page, and the first has a hole.
fn fill_slabs(ground: &Ground, journal: &Journal, kernel: &Kernel<'_>, stop: u64) {
    const ENTRIES: u64 = PAGE_SIZE as u64 / 8 - 2;
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    let cache = kernel.slabs().cache(spec(SLABS)).expect("a new cache");
    assert_eq!(cache.objects_per_slab(), 1);
    while cache.stats().slabs + 3 < ENTRIES {
        actor.act(Op::Object(SLABS));
    }
    step::count(ground, stop);
    while cache.stats().slabs < ENTRIES + 3 {
        actor.act(Op::Object(SLABS));
    }
    (0..8).for_each(|_| actor.act(Op::Free(7)));
    actor.act(Op::Shrink);
    assert!(cache.stats().slabs < ENTRIES + 3, "a hole");
    (0..4).for_each(|_| actor.act(Op::Object(SLABS)));
}

/// Until a page of the roll is nearly full of caches; and then, counted, until there is a second.
fn fill_caches(ground: &Ground, journal: &Journal, kernel: &Kernel<'_>, stop: u64) {
    const RECORDS: u8 = ((PAGE_SIZE - 16) / 128) as u8;
    let mut actor = Actor::new(kernel, Some(journal.log(0)), 1);
    for cache in 0..RECORDS + 2 {
        if cache == RECORDS - 1 {
            step::count(ground, stop);
        }
        actor.act(Op::Object(MANY + cache));
    }
}

/// Until hardly more is free than a successor needs for its tables; and then, counted, until no more
/// is. The successor has to give something back before it can adopt and claim the rest.
fn fill_up(ground: &Ground, journal: &Journal, kernel: &Kernel<'_>, stop: u64) {
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
    step::count(ground, stop);
    for op in SHORT.iter().cycle().take(4 * SHORT.len()) {
        if free() > ROOM {
            actor.act(*op);
        }
    }
    assert!(free() <= ROOM);
}

/// Lives of kernel after kernel, some of several threads, until the process is ended: by itself,
/// if the journal is full.
pub(crate) fn program(ground: &Ground, journal: &Journal, seed: u64) {
    let mut dice = Dice(seed);
    // Numbers for each thread of each kernel: of the last one, those of its last line.
    let mut base = 1 + 4 * journal.kernels() as u32;
    let mut fresh = ground.arena().entry().is_ok_and(|entry| entry.is_none());
    loop {
        let kernel = if fresh { boot(ground, journal) } else { revive(ground, journal) };
        let mut first = if fresh {
            Actor::new(&kernel, Some(journal.log(0)), base)
        } else {
            let mut actor = heir(&kernel, journal, base);
            let fate = [None, Some(Fate::Keep), Some(Fate::Free)][dice.below(3) as usize];
            actor.take_over(&mut dice, Plan { spare: 4, fate });
            actor
        };
        fresh = false;
        let threads = if dice.below(2) == 0 { 1 } else { 2 + dice.below(LOGS as u64 - 1) };
        let ops = 20 + dice.below(300);
        std::thread::scope(|scope| {
            for thread in 1..threads as u32 {
                let mut dice = Dice(dice.next());
                let log = Some(journal.log(thread as usize));
                let mut actor = Actor::new(&kernel, log, base + thread);
                scope.spawn(move || (0..ops).for_each(|_| actor.act(random(&mut dice))));
            }
            (0..ops).for_each(|_| first.act(random(&mut dice)));
        });
        if dice.below(2) == 0 {
            first.act(Op::Seal);
        }
        drop(first);
        drop(kernel);
        base += 4;
    }
}

#[cfg(test)]
mod tests;
