//! The successor, in a fresh process: everything that was promised is there, nothing else is,
//! nothing has two owners, and life goes on.
//!
//! ```text
//! revive ── names ── adopt ── claim every thing, in the way it was promised ── finish
//!    │                                                  what is listed is within the slack of
//!    │                                                  the calls that did not return
//!    ├─ accounts    frames by kind are those of the things; free + cached + used is all
//!    ├─ fill        every free frame is allocated and written over: the things are whole
//!    ├─ exercise    every operation, on memory that is given back again
//!    └─ jump        everything preserved again, claimed by the next kernel, given back;
//!                   the one after that has all memory but its own tables
//! ```

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::{DirectMap, Fate, Kind, Order, PAGE_SIZE, Request};
use heirloom::restore::{Entry, Unclaimed};

use super::actor::is_full;
use super::caches::{ALL, cache_name, spec};
use super::ground::{Ground, Kernel};
use super::journal::{Journal, Slack};
use super::promises::Promises;
use super::script::exercise;
use super::things::{Sort, Thing, name, root_bytes};

/// Pages of a handover beside the tracker's nodes: root, scratch list, header, roll.
const OWN: u64 = 4;

/// What a successor found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// No entry: a fresh kernel boots.
    Nothing,
    /// All that was promised: so many things.
    Whole(u64),
    /// The predecessor had begun to take over and left no entry: what was left of the tree of the
    /// one before it, consistent.
    Rest(u64),
    /// The same, refused with an error.
    Refused,
}

/// Claims what is promised. `further`: exercise and jump, too.
///
/// # Panics
/// If anything is not as it was promised.
pub(crate) fn check(ground: &Ground, journal: &Journal, further: bool) -> Verdict {
    let entry = ground.arena().entry().expect("at any instant the first page is sound");
    let promises = Promises::of(journal, entry.map(|entry| entry.root.get()));
    let Some(entry) = entry else {
        assert_eq!(promises.kernels, 0, "an entry that was left is there");
        afresh(ground, further);
        return Verdict::Nothing;
    };
    let rest = promises.claiming;
    let kernel = match ground.revive(entry) {
        Ok(kernel) => kernel,
        Err(_) if rest => {
            afresh(ground, further);
            return Verdict::Refused;
        }
        Err(error) => panic!("refused: {error}"),
    };
    assert_eq!(kernel.generation(), promises.kernels);
    names(&kernel, &promises);
    let ways = promises.things.iter().map(|(id, ways)| (*id, ways.as_slice()));
    let (things, given_back) = claim_all(&kernel, &ways.collect::<Vec<_>>(), rest);
    let found = things.len() as u64 + given_back;
    let strays = finish(&kernel);
    if !rest {
        let Slack { blocks, frames, objects } = promises.slack;
        assert!(
            strays.blocks <= blocks && strays.frames <= frames && strays.objects <= objects,
            "{strays:?} of nobody's, while {:?} was under way, which may leave {:?}",
            promises.open,
            promises.slack,
        );
    }
    live_on(ground, kernel, things, further);
    if rest { Verdict::Rest(found) } else { Verdict::Whole(found) }
}

/// A kernel that starts without a predecessor.
fn afresh(ground: &Ground, further: bool) {
    let kernel = ground.boot().expect("memory to boot in");
    live_on(ground, kernel, Vec::new(), further);
}

/// Whether the names are those that were promised, and lead to what they should.
fn names(kernel: &Kernel<'_>, promises: &Promises) {
    let mut found = BTreeMap::new();
    kernel
        .for_each_inherited_subtree(|name, addr, bytes| {
            found.insert(name.to_owned(), (addr, bytes.unwrap_or(0)));
        })
        .expect("checked by revive");
    assert!(found.remove("heirloom").is_some(), "heirloom's own subtree");
    for (id, ways) in &promises.things {
        let is_name = |t: &Thing| matches!(t.sort, Sort::Root | Sort::Subtree);
        let Some(any) = ways.iter().flatten().find(|thing| is_name(thing)) else { continue };
        let Some((addr, bytes)) = found.remove(&name(any.sort, *id)) else {
            assert!(ways.contains(&None) || promises.claiming, "a name is lost: {ways:?}");
            continue;
        };
        let root = (any.sort == Sort::Root).then(|| kernel.claim_root(&name(Sort::Root, *id)));
        let fits = |thing: &Thing| {
            let seed = thing.seed.unwrap_or(0);
            match &root {
                Some(Ok(root)) => root.bytes() == root_bytes(seed, thing.bytes),
                Some(Err(_)) => false,
                None => addr.get() == seed && bytes == thing.bytes,
            }
        };
        let fits = ways.iter().flatten().any(fits);
        assert!(fits || promises.claiming, "a name leads elsewhere: {ways:?}");
    }
    assert!(found.is_empty() || promises.claiming, "names that nobody gave: {found:?}");
}

/// Adopts every cache; false if there is no memory for some.
fn adopt(kernel: &Kernel<'_>, rest: bool) -> bool {
    let mut all = true;
    for cache in 0..ALL {
        if kernel.slabs().inherited(&cache_name(cache)).expect("it has not ended").is_some() {
            let adopted = kernel.slabs().adopt(spec(cache));
            let full = adopted.as_ref().is_err_and(|error| is_full(&(*error).into()));
            assert!(adopted.is_ok() || full || rest, "{}: {adopted:?}", cache_name(cache));
            all &= !full;
        }
    }
    all
}

/// In which order things are claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// An area that is there has its blocks, which may be there alone if it is not.
    Areas,
    Others,
    /// Those of caches, which may have to wait for memory to be adopted in.
    Objects,
}

impl Turn {
    fn of(ways: &[Option<Thing>]) -> Self {
        let has = |sort| ways.iter().flatten().any(|thing| thing.sort == sort);
        match (has(Sort::Area), has(Sort::Object)) {
            (true, _) => Self::Areas,
            (_, true) => Self::Objects,
            _ => Self::Others,
        }
    }
}

/// Claims everything: what is ours then, and how much was given back meanwhile.
fn claim_all(
    kernel: &Kernel<'_>,
    all: &[(u32, &[Option<Thing>])],
    rest: bool,
) -> (Vec<(Thing, bool)>, u64) {
    let spare = all.iter().filter_map(|(id, ways)| match ways {
        [Some(thing)] if thing.claim_needs_nothing() => Some((*id, *thing)),
        _ => None,
    });
    let (spare, done) = (spare.collect(), BTreeSet::new());
    let mut claims = Claims { kernel, things: Vec::new(), spare, done, given_back: 0 };
    while !adopt(kernel, rest) {
        assert!(claims.make_room(), "no cache can be adopted, and nothing can be given back");
    }
    for turn in [Turn::Areas, Turn::Others, Turn::Objects] {
        for (id, ways) in all.iter().filter(|(_, ways)| Turn::of(ways) == turn) {
            claims.claim(*id, ways, rest);
        }
    }
    (claims.things, claims.given_back)
}

/// A successor that claims.
///
/// A kernel that ended with its memory full leaves none for its successor's tables. What is refused
/// for that is not lost: it is claimed once something else is given back.
struct Claims<'k, 'g> {
    kernel: &'k Kernel<'g>,
    things: Vec<(Thing, bool)>,
    /// What is there for certain, and claimed without any memory.
    spare: Vec<(u32, Thing)>,
    /// What is claimed and given back before its turn.
    done: BTreeSet<u32>,
    given_back: u64,
}

impl Claims<'_, '_> {
    /// Claims a thing in one of the ways in which it may be there, if it is.
    fn claim(&mut self, id: u32, ways: &[Option<Thing>], rest: bool) {
        self.spare.retain(|(spare, _)| *spare != id);
        while !self.done.contains(&id) {
            match claim(self.kernel, id, ways, rest) {
                Ok(claimed) => return self.things.extend(claimed),
                Err(Full) => assert!(self.make_room(), "{id} is lost: {ways:?}: no memory"),
            }
        }
    }

    /// Gives something back, claimed before or for this; false if there is nothing.
    fn make_room(&mut self) -> bool {
        let (thing, kept) = if let Some((id, thing)) = self.spare.pop() {
            let claimed = thing.claim(self.kernel);
            assert!(claimed.is_ok(), "{id} is lost: {thing:?}: {claimed:?}");
            self.done.insert(id);
            thing.claimed()
        } else if let Some(claimed) = self.things.pop() {
            claimed
        } else {
            return false;
        };
        assert!(thing.is_whole(self.kernel), "written by somebody else: {thing:?}");
        thing.release(self.kernel, kept).expect("what is ours can be given back");
        self.given_back += 1;
        true
    }
}

/// There was no memory.
struct Full;

/// Claims a thing in one of the ways in which it may be there: as what it is then ours, and
/// whether it is preserved again.
fn claim(
    kernel: &Kernel<'_>,
    id: u32,
    ways: &[Option<Thing>],
    rest: bool,
) -> Result<Option<(Thing, bool)>, Full> {
    let mut refused = Vec::new();
    let handled = ways.iter().flatten().filter(|t| !matches!(t.sort, Sort::Root | Sort::Subtree));
    for way in handled.clone() {
        match way.claim(kernel) {
            Ok(()) => {
                let alike = handled.clone().filter(|other| other.handle() == way.handle());
                let whole = alike.map(|thing| thing.claimed()).find(|(t, _)| t.is_whole(kernel));
                assert!(whole.is_some() || rest, "{id}: the content is lost: {ways:?}");
                return Ok(whole);
            }
            Err(error) if is_full(&error) => return Err(Full),
            Err(error) => refused.push(error),
        }
    }
    let named = handled.count() < ways.iter().flatten().count();
    assert!(ways.contains(&None) || named || rest, "{id} is lost: {ways:?}: {refused:?}");
    Ok(None)
}

/// Ends the inheritance: what nobody claimed.
fn finish(kernel: &Kernel<'_>) -> Slack {
    let mut strays = Slack::default();
    let finished = kernel.finish(|unclaimed| {
        match unclaimed {
            Unclaimed::Folio(block) => {
                strays.blocks += 1;
                strays.frames += block.order().frames();
            }
            Unclaimed::Slab { objects, .. } => strays.objects += u64::from(objects),
            Unclaimed::Object { .. } => strays.objects += 1,
            other => panic!("{other:?}"),
        }
        Fate::Free
    });
    finished.expect("freeing needs no memory");
    strays
}

/// What a kernel that has these things does from here on.
fn live_on<'g>(
    ground: &'g Ground,
    kernel: Kernel<'g>,
    mut things: Vec<(Thing, bool)>,
    further: bool,
) {
    apart(&kernel, &things);
    accounts(ground, &kernel, &things);
    fill(&kernel, &things);
    if !further {
        return;
    }
    exercise(&kernel);
    whole(&kernel, &things);
    things.retain_mut(|(thing, kept)| {
        if *kept {
            return true;
        }
        match thing.preserve(&kernel) {
            Ok(()) => *kept = true,
            Err(error) => {
                assert!(is_full(&error), "{thing:?}: {error}");
                thing.release(&kernel, false).expect("ours");
            }
        }
        *kept
    });
    let publish = kernel.publish("again", b"and again");
    publish.as_ref().err().into_iter().for_each(|error| assert!(is_full(error), "{error}"));

    let next = jump(ground, kernel);
    if publish.is_ok() {
        assert_eq!(next.claim_root("again").expect("published").bytes(), b"and again");
    }
    let ways: Vec<_> = things.iter().map(|(thing, _)| [Some(*thing)]).collect();
    let ways: Vec<_> = (0..).zip(ways.iter().map(<[_; 1]>::as_slice)).collect();
    let (things, _) = claim_all(&next, &ways, false);
    assert_eq!(finish(&next), Slack::default());
    whole(&next, &things);
    accounts(ground, &next, &things);
    for (thing, kept) in things {
        thing.release(&next, kept).expect("what is ours can be given back");
    }
    accounts(ground, &next, &[]);

    let last = jump(ground, next);
    assert_eq!(finish(&last), Slack::default());
    let stats = last.memory().stats();
    let tables = last.memory().counts().nodes() + OWN + last.reserve();
    let free = stats.free() + stats.cached;
    assert_eq!(free + tables + ground.scratch().frames(), ground.frames(), "a leak: {stats:?}");
}

fn jump<'g>(ground: &'g Ground, old: Kernel<'g>) -> Kernel<'g> {
    let entry: Entry = old.entry();
    drop(old);
    ground.revive(entry).expect("a predecessor that ended at rest")
}

/// Whether no two things share a byte.
fn apart(kernel: &Kernel<'_>, things: &[(Thing, bool)]) {
    let mut extents: Vec<_> = things.iter().flat_map(|(t, _)| t.extents(kernel)).collect();
    extents.sort_unstable();
    for pair in extents.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "two owners: {pair:x?}");
    }
}

fn whole(kernel: &Kernel<'_>, things: &[(Thing, bool)]) {
    for (thing, _) in things {
        assert!(thing.is_whole(kernel), "written by somebody else: {thing:?}");
    }
}

/// Whether every frame has one state, and those in use are the things', the slabs' and the tables'.
fn accounts(ground: &Ground, kernel: &Kernel<'_>, things: &[(Thing, bool)]) {
    kernel.slabs().shrink();
    let audit = kernel.memory().audit().expect("no frame has two owners");
    let used = |kind: Kind| audit.allocated[kind as usize];
    let all = audit.free + audit.cached + audit.reserved + audit.allocated.iter().sum::<u64>();
    assert_eq!(all, ground.frames());
    assert_eq!(audit.reserved, ground.scratch().frames(), "{audit:?}");
    let sum = |sorts: &[Sort]| {
        let of = things.iter().filter(|(t, _)| sorts.contains(&t.sort) && !t.small());
        of.map(|(t, _)| t.frames()).sum::<u64>()
    };
    assert_eq!(used(Kind::Folio), sum(&[Sort::Folio, Sort::Area]), "{audit:?}");
    let runs = used(Kind::Run) + used(Kind::Buffer) + used(Kind::Tail);
    assert_eq!(runs, sum(&[Sort::Run, Sort::Buffer]), "{audit:?}");
    let caches = || kernel.slabs().caches().map(|cache| cache.stats());
    assert_eq!(used(Kind::Slab), caches().map(|s| s.slabs * s.slab_frames).sum::<u64>());
    let small = things.iter().filter(|(thing, _)| thing.small()).count() as u64;
    assert_eq!(caches().map(|s| s.live).sum::<u64>(), small);
    assert_eq!(caches().map(|s| s.unclaimed).sum::<u64>(), 0);
}

/// Writes over every free frame: what somebody owns is not among them.
fn fill(kernel: &Kernel<'_>, things: &[(Thing, bool)]) {
    let memory = kernel.memory();
    let mut taken = Vec::new();
    while let Ok(block) = memory.alloc(Request::new(Order::ZERO)) {
        let start = memory.machine().ptr(block.addr());
        // As the C library's call, which no build counts: a store for each word would take longest
        // of all that is done here.
        // SAFETY: the block is ours, and a frame has that many bytes.
        unsafe { libc::memset(start.as_ptr().cast(), 0x5a, PAGE_SIZE) };
        taken.push(block);
    }
    whole(kernel, things);
    for block in taken {
        // SAFETY: allocated above, and nothing leads to it.
        unsafe { memory.free(block, Kind::Folio) }.expect("allocated just now");
    }
    memory.drain();
}
