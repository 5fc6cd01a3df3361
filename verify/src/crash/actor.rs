//! One thread of a kernel: it calls the library and writes around each call what that promises.

mod many;
mod single;
mod tables;

use std::cell::Cell;

use heirloom::folio::{NodeId, Request};
use heirloom::kho::{Order, PAGE_SIZE};
use heirloom::restore::Error;
use heirloom_testkit::{Kernel, ObjectKind, Rng, TestObject};

use super::caches::CACHES;
use super::journal::{Call, Line, Log, Slack};
use super::promises::{Promises, Ways};
use super::step;

/// Frames of the largest slab there is here.
pub(crate) const SLAB: u64 = 32;

/// What any call may leave that needs a table's page or a slab: a page of the cache directory, and a slab that
/// is preserved and not entered.
const ROLL: Slack = Slack { blocks: 3, frames: 2 + SLAB, objects: 0 };

pub(crate) const fn slack(blocks: u64, frames: u64, objects: u64) -> Slack {
    Slack { blocks: ROLL.blocks + blocks, frames: ROLL.frames + frames, objects }
}

/// A thing that the kernel has, or that its predecessor left.
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Owned {
    pub(crate) id: u32,
    pub(crate) thing: TestObject,
    /// It survives.
    pub(crate) kept: bool,
    /// It survives until a plain free: from birth, or because it was claimed.
    pub(crate) held: bool,
    /// The predecessor left it, and it is not claimed yet.
    pub(crate) left: bool,
    /// A name leads to it: it stays as it is.
    pub(crate) pinned: bool,
}

impl Owned {
    /// Whether it is preserved so that no plain free frees it.
    pub(crate) const fn singly(&self) -> bool {
        self.kept && !self.held
    }
}

/// One thread of a kernel, and what it has.
pub(crate) struct Actor<'k, 'a> {
    pub(crate) kernel: &'k Kernel<'a>,
    pub(crate) log: Option<Log<'k>>,
    pub(crate) owned: Vec<Owned>,
    /// What a call that never returned may have left in several ways.
    pub(crate) unsure: Vec<(u32, Ways)>,
    /// The number of the next thing.
    next: u32,
    /// Whether a call is under way.
    in_call: Cell<bool>,
}

/// Chooses the thing that was got last.
pub(crate) const LAST: u64 = u64::MAX;

/// What is asked for: everything that the library does for an owner. A number chooses among
/// the things that there are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Op {
    Folio(u8),
    FolioAfar(u8),
    Run(u64),
    Buffer(usize, bool),
    Object(u8),
    Insert(bool),
    Preserve(u64),
    Unpreserve(u64),
    Free(u64),
    Realloc(u64, usize),
    PreserveAll(u8),
    UnpreserveAll,
    PreserveRange(u8),
    Area(u64, u8),
    AreaGone(u64),
    Records,
    Push(u64, u64),
    RecordsGone(u64),
    Publish(u8, u64),
    Unpublish(u8),
    Subtree(u64),
    SubtreeGone(u64),
    Seal,
    Unseal,
    Shrink,
}

/// Whether an error says that there is no memory, or no room in a table.
pub(crate) fn is_full(error: &Error) -> bool {
    heirloom_testkit::is_full(error) || matches!(error, Error::RootFull { .. })
}

impl<'k, 'a> Actor<'k, 'a> {
    /// Numbers of things that one thread may use.
    const IDS: u32 = 1 << 20;

    /// Numbers of things that are names: below all others of the thread.
    const NAMES: u32 = 16;

    /// Whether a thing of this number was made by the first thread of the first kernel.
    pub(crate) const fn is_of_the_first(id: u32) -> bool {
        id / Self::IDS == 1
    }

    /// One that has nothing. No two have the same `base`, in all generations.
    pub(crate) fn new(kernel: &'k Kernel<'a>, log: Option<Log<'k>>, base: u32) -> Self {
        let (owned, unsure) = (Vec::new(), Vec::new());
        let (next, in_call) = (base * Self::IDS + Self::NAMES, Cell::new(false));
        Self { kernel, log, owned, unsure, next, in_call }
    }

    /// One that has what the predecessor left, by its journal.
    pub(crate) fn heir(
        kernel: &'k Kernel<'a>,
        log: Option<Log<'k>>,
        base: u32,
        promises: &Promises,
    ) -> Self {
        let mut actor = Self::new(kernel, log, base);
        for (&id, ways) in &promises.things {
            match ways[..] {
                [Some(thing)] => {
                    let (kept, held, left, pinned) = (true, false, true, false);
                    actor.owned.push(Owned { id, thing, kept, held, left, pinned });
                }
                [None] => {}
                _ => actor.unsure.push((id, ways.clone())),
            }
        }
        actor
    }

    pub(crate) fn write(&self, line: Line) {
        if let Some(log) = self.log {
            log.write(line);
        }
    }

    pub(crate) fn open(&self, call: Call, slack: Slack) {
        self.in_call.set(true);
        self.write(Line::Open(call, slack, step::counted()));
    }

    pub(crate) fn may(&self, id: u32, way: Option<TestObject>) {
        self.write(Line::May(id, way));
    }

    pub(crate) fn is(&self, id: u32, way: Option<TestObject>) {
        self.write(Line::Is(id, way));
    }

    /// The call that is under way, if one is, has returned.
    pub(crate) fn close(&self) {
        if self.in_call.replace(false) {
            self.write(Line::Close);
        }
    }

    /// Writes a content. What an owner writes into its own memory is no step of the library's.
    pub(crate) fn stamp(&self, thing: &TestObject, seed: u64) {
        let _quiet = step::Pause::new();
        thing.stamp(self.kernel, seed);
    }

    /// The number of a new thing, and the seed of its content: room for 256 parts.
    pub(crate) fn id(&mut self) -> (u32, u64) {
        self.next += 1;
        (self.next, u64::from(self.next) << 8)
    }

    pub(crate) fn own(&mut self, id: u32, thing: TestObject, kept: bool) {
        let (held, left, pinned) = (kept && thing.born, false, false);
        self.owned.push(Owned { id, thing, kept, held, left, pinned });
    }

    /// A thing that `fits`, by a number.
    fn pick(&self, number: u64, fits: impl Fn(&Owned) -> bool) -> Option<usize> {
        let fitting = |owned: &&Owned| !owned.left && !owned.pinned && fits(owned);
        let count = self.owned.iter().filter(fitting).count() as u64;
        let which =
            if number == LAST { count.checked_sub(1)? } else { number.checked_rem(count)? };
        let indices = (0..).zip(&self.owned).filter(|(_, owned)| fitting(owned));
        indices.map(|(i, _)| i).nth(which as usize)
    }

    /// A thing of a kind, by a number.
    fn pick_kind(&self, number: u64, kind: ObjectKind) -> Option<usize> {
        self.pick(number, |owned| owned.thing.kind == kind)
    }

    /// Does one after another.
    pub(crate) fn act_all(&mut self, ops: &[Op]) {
        for op in ops {
            self.act(*op);
        }
    }

    /// Does what is asked for, if there is something to do it to and memory enough.
    pub(crate) fn act(&mut self, op: Op) {
        let done = match op {
            Op::Folio(order) => self.folio(Request::new(at_most(order))),
            Op::FolioAfar(order) => self.folio(Request::new(at_most(order)).on(NodeId(1))),
            Op::Run(frames) => self.run(frames),
            Op::Buffer(bytes, born) => self.buffer(bytes, born),
            Op::Object(cache) => self.object(cache),
            Op::Insert(preserving) => self.insert(preserving),
            Op::Preserve(number) => self.preserve(number),
            Op::Unpreserve(number) => self.unpreserve(number),
            Op::Free(number) => self.free(number),
            Op::Realloc(number, bytes) => self.realloc(number, bytes),
            Op::PreserveAll(count) => self.preserve_all(count),
            Op::UnpreserveAll => self.unpreserve_all(),
            Op::PreserveRange(order) => self.preserve_range(at_most(order)),
            Op::Area(blocks, order) => self.area(blocks, at_most(order)),
            Op::AreaGone(number) => self.area_gone(number),
            Op::Records => self.new_records(),
            Op::Push(number, entries) => self.push(number, entries),
            Op::RecordsGone(number) => self.records_gone(number),
            Op::Publish(which, bytes) => self.publish(which, bytes),
            Op::Unpublish(which) => self.unpublish(which),
            Op::Subtree(number) => self.subtree(number),
            Op::SubtreeGone(number) => self.subtree_gone(number),
            Op::Seal => self.seal(),
            Op::Unseal => self.unseal(),
            Op::Shrink => {
                self.shrink();
                Ok(())
            }
        };
        done.err().into_iter().for_each(|error| assert!(is_full(&error), "{op:?}: {error}"));
        self.close();
    }
}

fn at_most(order: u8) -> Order {
    Order::new(order).unwrap_or(Order::ZERO)
}

/// What a thread does next; the choice leans to what changes what survives.
pub(crate) fn random(rng: &mut Rng) -> Op {
    let number = rng.next();
    let small = |rng: &mut Rng| 8 + rng.below(3000) as usize;
    let large = |rng: &mut Rng| PAGE_SIZE + rng.below(5 * PAGE_SIZE as u64) as usize;
    match rng.below(64) {
        0..4 => Op::Folio(rng.below(4) as u8),
        4 => Op::FolioAfar(rng.below(3) as u8),
        5..7 => Op::Run(2 + rng.below(9)),
        7..10 => Op::Buffer(small(rng), rng.below(2) == 0),
        10..12 => Op::Buffer(large(rng), rng.below(2) == 0),
        12..18 => Op::Object(rng.below(u64::from(CACHES)) as u8),
        18..20 => Op::Insert(rng.below(2) == 0),
        20..32 => Op::Preserve(number),
        32..37 => Op::Unpreserve(number),
        37..45 => Op::Free(number),
        45 => Op::Realloc(number, small(rng)),
        46 => Op::Realloc(number, large(rng)),
        47 => Op::PreserveAll(2 + rng.below(4) as u8),
        48 => Op::PreserveRange(rng.below(2) as u8),
        49 => Op::UnpreserveAll,
        50 | 51 => Op::Area(1 + rng.below(4), rng.below(2) as u8),
        52 => Op::AreaGone(number),
        53 => Op::Records,
        54..57 => Op::Push(number, 1 + rng.below(40)),
        57 => Op::RecordsGone(number),
        58 | 59 => Op::Publish(rng.below(4) as u8, rng.below(6000)),
        60 => Op::Unpublish(rng.below(4) as u8),
        61 => Op::Subtree(number),
        62 => Op::SubtreeGone(number),
        _ => Op::Shrink,
    }
}
