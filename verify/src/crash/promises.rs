//! What the journal says: what a successor must find, what it may find, and what it must not.
//!
//! Where a root page is of another make, there are two entries for a while. What holds through the
//! predecessor's is kept beside what holds through the other, from the moment on at which that root page is
//! laid out:
//!
//! ```text
//!                   through the predecessor's      through the kernel's own
//!  names            as the predecessor left them   as this kernel makes them
//!  caches           if the predecessor had a cache directory  yes
//!  all other things yes                            yes
//!                   until it is ended              from `revive` on
//! ```
//!
//! A kernel that starts with the predecessor's entry once more makes another of its own, and ends the
//! predecessor's in `finish`; one that starts with the other ends it in `revive`, and goes on in place.

use std::collections::BTreeMap;

use heirloom::kho::PAGE_SIZE;
use heirloom::restore::Entry;
use heirloom_testkit::{ObjectKind, TestObject};

use super::journal::{Call, Journal, LOGS, Line, Slack};

/// The ways in which a thing may be found; `None`: not at all.
pub(crate) type Ways = Vec<Option<TestObject>>;

/// What the journal says: what a successor must find, however many kernels were ended before it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Promises {
    /// A kernel has left its entry, and gone on.
    pub(crate) booted: bool,
    /// Kernels that took over, and said so.
    pub(crate) began: u64,
    /// Kernels that set out to.
    pub(crate) set_out: u64,
    /// Things, by number.
    pub(crate) things: BTreeMap<u32, Ways>,
    /// Calls that were under way when the last kernel ended.
    pub(crate) open: Vec<Call>,
    /// What all calls that never returned may have left.
    pub(crate) slack: Slack,
    /// The root page of another make, if there is one.
    pub(crate) before: Option<Before>,
    /// The entry of the kernel at work, where it is not the one that the first kernel left.
    entry: Option<Entry>,
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    No,
    /// The call that ends it is under way.
    May,
    Yes,
    /// And another call was made since: there may be anything in its page.
    Long,
}

/// A root page of another make, and what holds through its entry.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Before {
    pub(crate) root: u64,
    /// It names heirloom's header.
    own: bool,
    pub(crate) ended: Ended,
    /// The kernel at work came by it.
    current: bool,
    /// Kernels came by the other since: nothing leads to its pages but itself.
    deserted: bool,
    things: BTreeMap<u32, Ways>,
    slack: Slack,
}

impl Before {
    /// The call that ends the entry.
    fn ender(&self) -> Call {
        if self.current { Call::Finish } else { Call::Revive }
    }
}

/// A call that has not returned: its slack, and the stores before it.
type Opened = (Call, Slack, u64);

impl Promises {
    /// What holds for a successor.
    pub(crate) fn of(journal: &Journal) -> Self {
        let mut of = Self::default();
        let logs: [_; LOGS] = std::array::from_fn(|log| journal.lines(log));
        let (mut calls, mut read) = ([None::<Opened>; LOGS], [0; LOGS]);
        for line in &logs[0] {
            // Of each kernel all logs, before those of the next: a thing goes from one log to another.
            if let Line::Began(others) | Line::Died(_, others) = line {
                of.read_others(&logs, *others, &mut read, &mut calls);
            }
            if let Line::Died(stop, _) = line {
                for call in &mut calls {
                    of.cut_short(call.take(), *stop);
                }
            }
            of.read(*line, &mut calls[0]);
        }
        let all = std::array::from_fn(|log| logs[log + 1].len() as u64);
        of.read_others(&logs, all, &mut read, &mut calls);
        of
    }

    /// What holds for a successor that starts with the entry of the root page at `root`.
    pub(crate) fn through(mut self, root: u64) -> Self {
        self.start_with(root);
        self
    }

    /// The entries by which a successor may start, where the first kernel left this one; and whether it
    /// is good until something is done about it.
    pub(crate) fn entries(&self, first: Entry) -> Vec<(Entry, bool)> {
        match (&self.before, self.entry) {
            (None, entry) => Vec::from([(entry.unwrap_or(first), true)]),
            (Some(before), new) => {
                let old = (first, before.ended == Ended::No);
                new.map(|new| (new, true)).into_iter().chain([old]).collect()
            }
        }
    }

    /// Whether the kernel at work came by a root page of another make.
    pub(crate) fn came_by_another_make(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.current)
    }

    /// And by one that tells of no kernel of heirloom's.
    pub(crate) fn came_by_nothing_of_ours(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.current && !before.own)
    }

    /// Reads the logs behind the first so far.
    fn read_others(
        &mut self,
        logs: &[Vec<Line>; LOGS],
        to: [u64; LOGS - 1],
        read: &mut [usize; LOGS],
        calls: &mut [Option<Opened>; LOGS],
    ) {
        for (log, to) in (1..).zip(to) {
            for line in &logs[log][read[log]..to as usize] {
                self.read(*line, &mut calls[log]);
            }
            read[log] = to as usize;
        }
    }

    /// A call never returned.
    fn cut_short(&mut self, call: Option<Opened>, stop: u64) {
        let Some((call, slack, stores)) = call else { return };
        self.open.push(call);
        // A call that has stored nothing yet leaves nothing.
        if stop != stores {
            self.slack.add(slack);
            self.beside(slack);
        }
    }

    /// What a call may have left that only the kernel's own entry leads to.
    fn beside(&mut self, slack: Slack) {
        if let Some(before) = self.before.as_mut().filter(|before| before.current) {
            before.slack.add(slack);
        }
    }

    fn read(&mut self, line: Line, call: &mut Option<Opened>) {
        match line {
            Line::Open(opened, slack, stores) => {
                if matches!(opened, Call::Boot | Call::Revive) {
                    self.open.clear();
                }
                self.set_out += u64::from(opened == Call::Revive);
                *call = Some((opened, slack, stores));
                if let Some(before) = self.before.as_mut() {
                    match before.ended {
                        Ended::No if opened == before.ender() => before.ended = Ended::May,
                        Ended::Yes => before.ended = Ended::Long,
                        _ => {}
                    }
                }
            }
            Line::Close => {
                self.booted |= call.is_some_and(|(call, ..)| call == Call::Boot);
                if let Some((closed, slack, _)) = call.take() {
                    self.beside(slack);
                    if let Some(before) =
                        self.before.as_mut().filter(|before| before.ended == Ended::May)
                    {
                        before.ended = match closed {
                            _ if closed == before.ender() => Ended::Yes,
                            // A kernel came by it.
                            Call::Revive => Ended::No,
                            _ => Ended::May,
                        };
                    }
                }
            }
            Line::May(id, way) => {
                self.change(id, |ways| {
                    if !ways.contains(&way) {
                        ways.push(way);
                    }
                });
            }
            Line::Is(id, way) => self.change(id, |ways| *ways = vec![way]),
            Line::Began(_) => self.began += 1,
            Line::Swept => self.slack = Slack::default(),
            Line::Relaid(root, own) => {
                if !own {
                    // Nothing leads to the first kernel's header, nor to its roll.
                    self.slack.add(Slack { blocks: 2, frames: 2, objects: 0 });
                }
                let (things, slack) = (self.things.clone(), self.slack);
                let ended = Ended::No;
                let (current, deserted) = (false, false);
                self.before = Some(Before { root, own, ended, current, deserted, things, slack });
            }
            Line::From(root) => self.start_with(root),
            Line::Moved(entry) => self.entry = Some(entry),
            Line::Leaving(_)
            | Line::Died(..)
            | Line::Part(_)
            | Line::Told(_)
            | Line::About(..)
            | Line::Together(_) => {}
        }
    }

    /// Changes what is said of a thing, through each entry by which it is found.
    fn change(&mut self, id: u32, change: impl Fn(&mut Ways)) {
        let new = || vec![None];
        change(self.things.entry(id).or_insert_with(new));
        let Some(before) = self.before.as_mut() else { return };
        let all = self.things.get(&id).into_iter().chain(before.things.get(&id));
        let mut all = all.flatten().flatten();
        let beside = |thing: &TestObject| match thing.kind {
            ObjectKind::Root | ObjectKind::Subtree => true,
            _ => thing.is_small() && !before.own,
        };
        if !all.any(beside) {
            change(before.things.entry(id).or_insert_with(new));
        }
    }

    /// A kernel starts with the entry of the root page at `root`.
    fn start_with(&mut self, root: u64) {
        let Some(before) = self.before.as_mut() else { return };
        before.current = before.root == root;
        if !before.current {
            if matches!(before.ended, Ended::No | Ended::May) && !before.deserted {
                before.deserted = true;
                // Nothing leads to its root page, scratch list and header then, nor to what it names alone.
                self.slack.add(Slack { blocks: 3, frames: 3, objects: 0 });
                let names = before.things.values().flatten().flatten();
                for name in names.filter(|thing| thing.kind == ObjectKind::Root) {
                    let frames = name.bytes.max(1).div_ceil(PAGE_SIZE as u64).next_power_of_two();
                    self.slack.add(Slack { blocks: 1, frames, objects: 0 });
                }
            }
            return;
        }
        before.deserted = false;
        if !before.own {
            (self.began, self.set_out) = (0, 0);
        }
        self.entry = None;
        self.slack = before.slack;
        self.things = before.things.clone();
        // A name whose folio its owner let go is taken out.
        let is_there = |addr: u64| {
            before.things.values().any(|ways| {
                let folio = |thing: &TestObject| {
                    thing.kind == ObjectKind::Folio && thing.block().addr().get() == addr
                };
                matches!(ways[..], [Some(thing)] if folio(&thing))
            })
        };
        for ways in self.things.values_mut() {
            let name = ways.iter().flatten().find(|thing| thing.kind == ObjectKind::Subtree);
            if name.is_some_and(|name| !is_there(name.seed.unwrap_or(0))) && !ways.contains(&None) {
                ways.push(None);
            }
        }
    }
}
