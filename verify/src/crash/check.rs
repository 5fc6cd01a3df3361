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
//!    └─ jump        all of it is there for the next kernel too, and given back by that;
//!                   the one after that has all memory but its own tables
//! ```

use std::collections::{BTreeMap, BTreeSet};

use heirloom::folio::{DirectMap, Disposition, FrameType, Request};
use heirloom::kho::tree::{Geometry, Key};
use heirloom::kho::{Block, Fault, Order, PAGE_SIZE, PhysAddr, Table, TableError};
use heirloom::restore::{Error, SealPolicy, Unclaimed};
use heirloom::slab::internal::DirectoryPart;
use heirloom_testkit::{Kernel, ObjectKind, TestMachine, TestObject};

use super::actor::is_full;
use super::arena;
use super::caches::{ALL, cache_name, name, root_bytes, spec};
use super::journal::{Journal, Slack};
use super::promises::{Ended, Promises};
use super::script::exercise;

/// Pages of a handover beside the tracker's nodes and the cache directory: root, scratch list, header.
const OWN: u64 = 3;

/// What a successor found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// No entry: a fresh kernel boots.
    Nothing,
    /// All that was promised: so many things.
    Whole(u64),
    /// The entry has ended, and says so.
    Ended,
}

impl Verdict {
    /// Whether nothing is missing that was promised.
    pub(crate) const fn is_whole(self) -> bool {
        matches!(self, Self::Nothing | Self::Whole(_))
    }
}

/// Claims what is promised. `further`: exercise and jump, too.
///
/// # Panics
/// If anything is not as it was promised.
pub(crate) fn check(machine: &TestMachine, journal: &Journal, further: bool) -> Verdict {
    let entry = machine.arena().entry().expect("at any instant the first page is sound");
    let promises = Promises::of(journal);
    let promises = match entry {
        Some(entry) => promises.through(entry.root.get()),
        None => promises,
    };
    let Some(entry) = entry else {
        assert!(!promises.booted, "an entry that was left is there");
        let kernel = machine.boot();
        live_on(machine, kernel, &[], Vec::new(), further);
        return Verdict::Nothing;
    };
    let ended = match &promises.before {
        Some(before) if before.root == entry.root.get() => before.ended,
        _ => Ended::No,
    };
    let kernel = match (machine.try_revive(entry, SealPolicy::Checked), ended) {
        (Ok(kernel), Ended::No | Ended::May) => kernel,
        (Err(error), Ended::May | Ended::Yes) if is_ended(&error) => return Verdict::Ended,
        // Something else may have been written to its page since.
        (Err(error), Ended::Long)
            if is_ended(&error) || !arena::is_ended_page(machine, entry.root) =>
        {
            return Verdict::Ended;
        }
        (Ok(_), _) => panic!("taken, although it has ended"),
        (Err(error), _) => panic!("refused: {error}; {ended:?}"),
    };
    // One that ended in its takeover may have said so in the handover, or not.
    let generations = 1 + promises.began..=1 + promises.set_out;
    let foreign = promises.came_by_nothing_of_ours();
    let generations = if foreign { 1..=1 } else { generations };
    assert!(
        generations.contains(&kernel.generation()),
        "{} of {generations:?}",
        kernel.generation()
    );
    let roots = names(&kernel, &promises);
    let ways = promises.things.iter().map(|(id, ways)| (*id, ways.as_slice()));
    let (things, given_back) = claim_all(&kernel, &ways.collect::<Vec<_>>());
    let found = things.len() as u64 + given_back;
    let strays = finish(&kernel);
    let Slack { blocks, frames, objects } = promises.slack;
    assert!(
        strays.blocks <= blocks && strays.frames <= frames && strays.objects <= objects,
        "{strays:?} of nobody's, while {:?} was under way, which may leave {:?}",
        promises.open,
        promises.slack,
    );
    live_on(machine, kernel, &things, roots, further);
    Verdict::Whole(found)
}

/// Whether an error says that the entry was ended by a successor.
fn is_ended(error: &Error) -> bool {
    matches!(error, Error::Table(TableError { table: Table::Root, fault: Fault::Ended, .. }))
}

/// The names in the root page, and where they lead.
pub(crate) struct Names(BTreeMap<String, (PhysAddr, u64)>);

impl Names {
    /// Those that a kernel leaves, but for its own.
    pub(crate) fn of(kernel: &Kernel<'_>) -> Self {
        let mut names = BTreeMap::new();
        let each = |name: &str, addr, bytes| {
            names.insert(name.to_owned(), (addr, bytes));
        };
        kernel.for_each_subtree(each).expect("our own root page");
        assert!(names.remove("heirloom").is_some(), "heirloom's own subtree");
        Self(names)
    }

    /// Whether the name of a thing is there, and leads to what it should.
    pub(crate) fn has(&self, kernel: &Kernel<'_>, id: u32, thing: &TestObject) -> bool {
        let Some((addr, bytes)) = self.0.get(&name(thing.kind, id)) else { return false };
        let seed = thing.seed.unwrap_or(0);
        if *bytes != thing.bytes {
            return false;
        }
        if thing.kind == ObjectKind::Subtree {
            return addr.get() == seed;
        }
        let start = kernel.memory().machine().ptr(*addr);
        // SAFETY: published bytes, which nobody writes.
        let found = unsafe { std::slice::from_raw_parts(start.as_ptr(), *bytes as usize) };
        found == root_bytes(seed, *bytes)
    }
}

/// Whether the names are those that were promised, and lead to what they should. Roots are claimed.
fn names(kernel: &Kernel<'_>, promises: &Promises) -> Roots {
    let (mut found, mut roots) = (Names::of(kernel), Roots::new());
    for (id, ways) in &promises.things {
        let is_name = |t: &TestObject| matches!(t.kind, ObjectKind::Root | ObjectKind::Subtree);
        let Some(any) = ways.iter().flatten().find(|thing| is_name(thing)) else { continue };
        let name = name(any.kind, *id);
        let fits = ways.iter().flatten().find(|thing| found.has(kernel, *id, thing));
        if found.0.remove(&name).is_none() {
            assert!(ways.contains(&None), "a name is lost: {ways:?}");
            continue;
        }
        let thing = fits.unwrap_or_else(|| panic!("a name leads elsewhere: {ways:?}"));
        if thing.kind == ObjectKind::Root {
            let bytes = root_bytes(thing.seed.unwrap_or(0), thing.bytes);
            assert_eq!(kernel.claim_root(&name).expect("published").bytes(), bytes);
            roots.push((name, bytes));
        }
    }
    assert!(found.0.is_empty(), "names that nobody gave: {:?}", found.0);
    roots
}

/// Names that were claimed, and what is published under them.
type Roots = Vec<(String, Vec<u8>)>;

/// Adopts every cache; false if there is no memory for some.
fn adopt(kernel: &Kernel<'_>) -> bool {
    let mut all = true;
    for cache in 0..ALL {
        if kernel.slabs().inherited(&cache_name(cache)).is_some() {
            let adopted = kernel.slabs().adopt(spec(cache));
            let full = adopted.as_ref().is_err_and(|error| is_full(&(*error).into()));
            assert!(adopted.is_ok() || full, "{}: {adopted:?}", cache_name(cache));
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
    fn of(ways: &[Option<TestObject>]) -> Self {
        let has = |sort| ways.iter().flatten().any(|thing| thing.kind == sort);
        match (has(ObjectKind::Area), has(ObjectKind::Object)) {
            (true, _) => Self::Areas,
            (_, true) => Self::Objects,
            _ => Self::Others,
        }
    }
}

/// Claims everything: what is ours then, and how much was given back meanwhile.
fn claim_all(kernel: &Kernel<'_>, all: &[(u32, &[Option<TestObject>])]) -> (Vec<TestObject>, u64) {
    let spare = all.iter().filter_map(|(id, ways)| match ways {
        [Some(thing)] if !thing.is_small() && !thing.kind.is_name() => Some((*id, *thing)),
        _ => None,
    });
    let (spare, done) = (spare.collect(), BTreeSet::new());
    let mut claims = Claims { kernel, things: Vec::new(), spare, done, given_back: 0 };
    while !adopt(kernel) {
        assert!(claims.make_room(), "no cache can be adopted, and nothing can be given back");
    }
    for turn in [Turn::Areas, Turn::Others, Turn::Objects] {
        for (id, ways) in all.iter().filter(|(_, ways)| Turn::of(ways) == turn) {
            claims.claim(*id, ways);
        }
    }
    (claims.things, claims.given_back)
}

/// A successor that claims.
///
/// A kernel that ended with its memory full leaves none for its successor's caches. What is refused
/// for that is not lost: it is claimed once something else is given back.
struct Claims<'k, 'g> {
    kernel: &'k Kernel<'g>,
    things: Vec<TestObject>,
    /// What is there for certain, and claimed without any memory.
    spare: Vec<(u32, TestObject)>,
    /// What is claimed and given back before its turn.
    done: BTreeSet<u32>,
    given_back: u64,
}

impl Claims<'_, '_> {
    /// Claims a thing in one of the ways in which it may be there, if it is.
    fn claim(&mut self, id: u32, ways: &[Option<TestObject>]) {
        self.spare.retain(|(spare, _)| *spare != id);
        while !self.done.contains(&id) {
            match claim(self.kernel, id, ways) {
                Ok(claimed) => return self.things.extend(claimed),
                Err(Full) => assert!(self.make_room(), "{id} is lost: {ways:?}: no memory"),
            }
        }
    }

    /// Gives something back, claimed before or for this; false if there is nothing.
    fn make_room(&mut self) -> bool {
        let thing = if let Some((id, thing)) = self.spare.pop() {
            let claimed = thing.restore(self.kernel);
            assert!(claimed.is_ok(), "{id} is lost: {thing:?}: {claimed:?}");
            self.done.insert(id);
            thing
        } else if let Some(claimed) = self.things.pop() {
            claimed
        } else {
            return false;
        };
        assert!(thing.is_whole(self.kernel), "written by somebody else: {thing:?}");
        thing.release(self.kernel, !thing.is_held()).expect("what is ours can be given back");
        self.given_back += 1;
        true
    }
}

/// There was no memory.
struct Full;

/// Claims a thing in one of the ways in which it may be there: as what it is there.
fn claim(
    kernel: &Kernel<'_>,
    id: u32,
    ways: &[Option<TestObject>],
) -> Result<Option<TestObject>, Full> {
    let mut refused = Vec::new();
    let handled =
        ways.iter().flatten().filter(|t| !matches!(t.kind, ObjectKind::Root | ObjectKind::Subtree));
    for way in handled.clone() {
        match way.restore(kernel) {
            Ok(()) => {
                assert!(way.restore(kernel).is_err(), "{id} is claimed twice: {ways:?}");
                let mut alike = handled.clone().filter(|other| other.handle() == way.handle());
                let whole = alike.find(|thing| thing.is_whole(kernel));
                assert!(whole.is_some(), "{id}: the content is lost: {ways:?}");
                return Ok(whole.copied());
            }
            Err(error) if is_full(&error) => return Err(Full),
            Err(error) => refused.push(error),
        }
    }
    let named = handled.count() < ways.iter().flatten().count();
    assert!(ways.contains(&None) || named, "{id} is lost: {ways:?}: {refused:?}");
    Ok(None)
}

/// Frees what nobody claimed, and returns how much that was.
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
            // Compared with those that were promised; what it leads to is claimed.
            Unclaimed::Subtree { .. } => {}
            other => panic!("{other:?}"),
        }
        Disposition::Free
    });
    finished.expect("freeing needs no memory");
    strays
}

/// What a kernel that has claimed these things does from here on.
fn live_on<'g>(
    machine: &'g TestMachine,
    kernel: Kernel<'g>,
    things: &[TestObject],
    roots: Roots,
    further: bool,
) {
    apart(&kernel, things);
    accounts(machine, &kernel, things);
    fill(&kernel, things);
    if !further {
        return;
    }
    exercise(&kernel);
    whole(&kernel, things);
    let publish = kernel.publish("again", b"and again");
    publish.as_ref().err().into_iter().for_each(|error| assert!(is_full(error), "{error}"));

    // All of it is preserved still, and nothing else takes a node.
    let next = machine.jump(kernel);
    assert_eq!(next.memory().preserved().counts().nodes(), fewest_nodes(&preserved(&next)));
    let again = publish.is_ok().then(|| ("again".to_owned(), b"and again".to_vec()));
    for (name, bytes) in roots.into_iter().chain(again) {
        assert_eq!(next.claim_root(&name).expect("published").bytes(), bytes);
        next.unpublish(&name).expect("claimed");
    }
    let ways: Vec<_> = things.iter().map(|thing| [Some(*thing)]).collect();
    let ways: Vec<_> = (0..).zip(ways.iter().map(<[_; 1]>::as_slice)).collect();
    let (things, _) = claim_all(&next, &ways);
    assert_eq!(finish(&next), Slack::default());
    whole(&next, &things);
    accounts(machine, &next, &things);
    for thing in things {
        thing.release(&next, !thing.is_held()).expect("what is ours can be given back");
    }
    accounts(machine, &next, &[]);

    let last = machine.jump(next);
    assert_eq!(finish(&last), Slack::default());
    bare(machine, &last);
}

/// Whether a kernel that has nothing holds no more than one that never had a predecessor: its pages, the
/// roll's, of a size that the caches alone decide, and the nodes that lead to those.
fn bare(machine: &TestMachine, kernel: &Kernel<'_>) {
    let (memory, blocks) = (kernel.memory(), preserved(kernel));
    let (mut pages, mut roll) = (0, BTreeSet::new());
    kernel.slabs().for_each_table(|part| match part {
        DirectoryPart::Page(page) => {
            roll.insert(page);
            pages += 1;
        }
        DirectoryPart::Header { addr, .. } => panic!("a slab in which nothing is: {addr}"),
    });
    assert_eq!((blocks.len() as u64, roll.len() as u64), (OWN + pages, pages), "{blocks:?}");
    assert_eq!(
        memory.preserved().counts().nodes(),
        fewest_nodes(&blocks),
        "nodes that lead to nothing"
    );
    let stats = memory.stats();
    let tables = memory.preserved().counts().nodes() + OWN + pages + kernel.reserve();
    let free = stats.free() + stats.cached;
    assert_eq!(free + tables + machine.scratch().frames(), machine.frames(), "a leak: {stats:?}");
}

/// The nodes that lead to the preserved blocks, none of which is a node.
fn fewest_nodes(blocks: &[Block]) -> u64 {
    let Geometry { levels, table_log2, leaf_log2, .. } = Geometry::BUILD;
    let above =
        |level: u32, block: &Block| Key::of(*block).get() >> (leaf_log2 + level * table_log2);
    let nodes = (0..levels).map(|level| {
        blocks.iter().map(|block| above(level, block)).collect::<BTreeSet<_>>().len() as u64
    });
    nodes.sum()
}

pub(super) fn preserved(kernel: &Kernel<'_>) -> Vec<Block> {
    let mut blocks = Vec::new();
    kernel.memory().preserved().for_each(|block| blocks.push(block));
    blocks
}

/// Whether no two things share a byte.
fn apart(kernel: &Kernel<'_>, things: &[TestObject]) {
    let mut extents: Vec<_> = things.iter().flat_map(|thing| thing.extents(kernel)).collect();
    extents.sort_unstable();
    for pair in extents.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "two owners: {pair:x?}");
    }
}

fn whole(kernel: &Kernel<'_>, things: &[TestObject]) {
    for thing in things {
        assert!(thing.is_whole(kernel), "written by somebody else: {thing:?}");
    }
}

/// Whether every frame has one state, and those in use are the things', the slabs' and the tables'.
fn accounts(machine: &TestMachine, kernel: &Kernel<'_>, things: &[TestObject]) {
    kernel.slabs().shrink();
    let audit = kernel.memory().audit().expect("no frame has two owners");
    let used = |kind: FrameType| audit.allocated[kind as usize];
    let all = audit.free + audit.cached + audit.reserved + audit.allocated.iter().sum::<u64>();
    assert_eq!(all, machine.frames());
    assert_eq!(audit.reserved, machine.scratch().frames(), "{audit:?}");
    let sum = |sorts: &[ObjectKind]| {
        let of = things.iter().filter(|thing| sorts.contains(&thing.kind) && !thing.is_small());
        of.map(TestObject::frames).sum::<u64>()
    };
    assert_eq!(used(FrameType::Folio), sum(&[ObjectKind::Folio, ObjectKind::Area]), "{audit:?}");
    let runs = used(FrameType::Run) + used(FrameType::Buffer) + used(FrameType::Tail);
    assert_eq!(runs, sum(&[ObjectKind::Run, ObjectKind::Buffer]), "{audit:?}");
    let caches = || kernel.slabs().caches().map(|cache| cache.stats());
    assert_eq!(used(FrameType::Slab), caches().map(|s| s.slabs * s.slab_frames).sum::<u64>());
    let small = things.iter().filter(|thing| thing.is_small()).count() as u64;
    assert_eq!(caches().map(|s| s.live).sum::<u64>(), small);
    assert_eq!(caches().map(|s| s.unclaimed).sum::<u64>(), 0);
}

/// Writes over every free frame: what somebody owns is not among them.
fn fill(kernel: &Kernel<'_>, things: &[TestObject]) {
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
        unsafe { memory.free(block) }.expect("allocated just now");
    }
    memory.drain();
}
