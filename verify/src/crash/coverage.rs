//! Which calls were under way where kernels were stopped.
//!
//! A script reaches a call only if some kernel was stopped in it: before a store that the call was about to
//! make. What a takeover consists of is listed here, and a run of the step that stops in none of some call
//! fails.
//!
//! A claim of a block (a folio, a run, an area, a list, a name, a large buffer) writes nothing that a
//! successor sees, and taking over an added name writes nothing at all. So no kernel is ever stopped in one
//! where such stores alone are counted, which is a promise, and checked too; there, stores of all kinds
//! are counted instead.

use std::collections::BTreeMap;

use heirloom_testkit::{ObjectKind, TestObject};

use super::Failure;
use super::journal::{Call, Journal, Line};

/// Calls that store what a successor sees: a kernel is stopped in each.
const SEEN: &str = "Revive, Adopt, Claim Object, Claim Buffer, Upgrade, Finish Name, Finish Block, \
    Finish Slab, Finish Object, Publish, Unpublish, Subtree, SubtreeGone, Seal, \
    Unseal, Preserve Folio, Preserve Object, Unpreserve Folio, Unpreserve Object, \
    Free Object, Free large Buffer, AllocBorn, AllocObject, Area, AreaGone, Records, \
    Push, RecordsGone, Realloc";

/// Calls that store nothing that a successor sees: none is stopped in any, unless all stores are counted.
pub(super) const UNSEEN: [&str; 6] =
    ["Claim Folio", "Claim Run", "Claim Area", "Claim Records", "Claim Root", "Claim large Buffer"];

/// A call that stores nothing.
const NO_STORE: &str = "Claim Subtree";

/// Stops, by the call that was under way.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Counts a stop in what `journal` says was under way.
    pub(crate) fn count(&mut self, journal: &Journal) {
        self.add(&under_way(&journal.lines(0)).unwrap_or_else(|| "between calls".to_owned()), 1);
    }

    pub(crate) fn add(&mut self, call: &str, stops: u64) {
        *self.0.entry(call.to_owned()).or_default() += stops;
    }

    pub(crate) fn all(&mut self, others: &Self) {
        others.0.iter().for_each(|(call, stops)| self.add(call, *stops));
    }

    /// One line for each call.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(call, stops)| (call.as_str(), *stops))
    }

    fn of(&self, call: &str) -> u64 {
        self.0.get(call).copied().unwrap_or(0)
    }

    /// Whether each call was stopped in that stores what a successor sees, and no other.
    pub(crate) fn is_whole_of_seen(&self) -> Result<(), Failure> {
        self.has_all(SEEN.split(", "))?;
        match UNSEEN.iter().chain([&NO_STORE]).find(|call| self.of(call) > 0) {
            Some(call) => Err(format!("{call} stores what a successor sees").into()),
            None => Ok(()),
        }
    }

    /// Whether each call was stopped in that stores nothing that a successor sees.
    pub(crate) fn is_whole_of_unseen(&self) -> Result<(), Failure> {
        self.has_all(UNSEEN.into_iter())
    }

    fn has_all<'c>(&self, calls: impl Iterator<Item = &'c str>) -> Result<(), Failure> {
        let missed: Vec<_> = calls.filter(|call| self.of(call) == 0).collect();
        if missed.is_empty() { Ok(()) } else { Err(format!("no stop in {missed:?}").into()) }
    }
}

/// The name of a call that a thread's log opened and did not close, and of what it was about.
fn under_way(lines: &[Line]) -> Option<String> {
    let died = lines.iter().rposition(|line| matches!(line, Line::Died(..)));
    let lines = &lines[..died.unwrap_or(lines.len())];
    let last = lines.iter().rposition(|line| matches!(line, Line::Open(..) | Line::Close))?;
    let Line::Open(call, ..) = lines[last] else { return None };
    let behind = &lines[last + 1..];
    let before = &lines[..last];
    Some(name(call, before, behind))
}

/// The calls of a log, each with how many stores came before it.
pub(super) fn calls(lines: &[Line]) -> Vec<(String, u64)> {
    let opened = (0..).zip(lines).filter_map(|(i, line)| match line {
        Line::Open(call, _, stores) => Some((i, *call, *stores)),
        _ => None,
    });
    let opened: Vec<(usize, _, _)> = opened.collect();
    let end = |i: usize| {
        let closed = lines[i..].iter().position(|line| *line == Line::Close);
        closed.map_or(lines.len(), |closed| i + closed)
    };
    let named = opened
        .iter()
        .map(|(i, call, stores)| (name(*call, &lines[..*i], &lines[i + 1..end(*i)]), *stores));
    named.collect()
}

fn name(call: Call, before: &[Line], behind: &[Line]) -> String {
    match call {
        Call::Finish => {
            let part = behind.iter().rev().find_map(|line| match line {
                Line::Part(part) => Some(format!(" {part:?}")),
                _ => None,
            });
            format!("{call:?}{}", part.unwrap_or_default())
        }
        Call::Claim | Call::Preserve | Call::Unpreserve | Call::Free => {
            let about = behind.iter().find_map(|line| match line {
                Line::May(id, way) | Line::Is(id, way) => Some((*id, *way)),
                Line::About(id, thing) => Some((*id, Some(*thing))),
                _ => None,
            });
            let thing = about.and_then(|(id, way)| way.or_else(|| last_way(before, id)));
            thing.map_or_else(|| format!("{call:?}"), |thing| of_thing(call, &thing))
        }
        _ => format!("{call:?}"),
    }
}

fn of_thing(call: Call, thing: &TestObject) -> String {
    let large = thing.kind == ObjectKind::Buffer && !thing.is_small();
    format!("{call:?} {}{:?}", if large { "large " } else { "" }, thing.kind)
}

/// What a thing was when it was there last.
fn last_way(lines: &[Line], id: u32) -> Option<TestObject> {
    lines.iter().rev().find_map(|line| match line {
        Line::May(of, way) | Line::Is(of, way) if *of == id => *way,
        _ => None,
    })
}
