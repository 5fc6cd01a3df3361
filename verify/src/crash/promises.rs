//! What the journal says: what a successor must find, what it may find, and what it must not.

use std::collections::BTreeMap;

use super::journal::{Call, Journal, LOGS, Line, Slack};
use super::things::Thing;

/// The ways in which a thing may be found; `None`: not at all.
pub(crate) type Ways = Vec<Option<Thing>>;

/// What the journal says: what a successor that begins with a certain entry must find.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Promises {
    /// Kernels that had left their entry: 0, nobody had booted.
    pub(crate) kernels: u64,
    /// Things, by number, in the tree that the entry leads to.
    pub(crate) things: BTreeMap<u32, Ways>,
    /// Things that the last kernel's predecessor left.
    pub(crate) before: BTreeMap<u32, Ways>,
    /// Calls under way.
    pub(crate) open: Vec<Call>,
    /// What those may leave.
    pub(crate) slack: Slack,
    /// A kernel that had not left its entry yet began to claim.
    pub(crate) claiming: bool,
}

impl Promises {
    /// What holds for a successor that finds the entry with this root, or none.
    pub(crate) fn of(journal: &Journal, root: Option<u64>) -> Self {
        let mut all = Self::default();
        for log in 0..LOGS {
            all.merge(Self::of_log(&journal.lines(log), root, journal.stopped()));
        }
        all
    }

    /// What holds for a successor of the kernel that left its entry last, at rest: its things,
    /// and those before.
    pub(crate) fn of_last(journal: &Journal) -> Self {
        let mut all = Self::default();
        for log in 0..LOGS {
            let lines = journal.recent(log);
            let root = lines.iter().rev().find_map(|line| match line {
                Line::Leaving(root) => Some(*root),
                _ => None,
            });
            all.merge(Self::of_log(&lines, root, None));
        }
        all
    }

    fn of_log(lines: &[Line], root: Option<u64>, stopped: Option<u64>) -> Self {
        let mut of = Self::default();
        let mut call = None;
        let last = lines.iter().rposition(|line| matches!(line, Line::Leaving(_)));
        for (at, line) in lines.iter().enumerate() {
            match *line {
                Line::Open(opened, slack, stores) => call = Some((opened, slack, stores)),
                Line::Close => call = None,
                Line::May(id, way) => {
                    let ways = of.things.entry(id).or_insert_with(|| vec![None]);
                    if !ways.contains(&way) {
                        ways.push(way);
                    }
                }
                Line::Is(id, way) => {
                    of.things.insert(id, vec![way]);
                }
                // All but the last had their effect, or nothing would have followed.
                Line::Leaving(left) if Some(at) != last || Some(left) == root => {
                    of.kernels += 1;
                    of.before = std::mem::take(&mut of.things);
                    of.claiming = false;
                }
                // What follows holds once the entry is there.
                Line::Leaving(_) => break,
                Line::Claiming => of.claiming = true,
            }
        }
        if let Some((call, slack, stores)) = call {
            of.open.push(call);
            // A call that has stored nothing yet leaves nothing.
            if stopped != Some(stores) {
                of.slack.add(slack);
            }
        }
        of
    }

    /// Every thing is one log's at a time, and every kernel leaves its entry in all logs.
    fn merge(&mut self, other: Self) {
        self.kernels = self.kernels.max(other.kernels);
        self.things.extend(other.things);
        self.before.extend(other.before);
        self.open.extend(other.open);
        self.slack.add(other.slack);
        self.claiming |= other.claiming;
    }
}
