//! What the journal says: what a successor must find, what it may find, and what it must not.

use std::collections::BTreeMap;

use super::journal::{Call, Journal, LOGS, Line, Slack};
use super::things::Thing;

/// The ways in which a thing may be found; `None`: not at all.
pub(crate) type Ways = Vec<Option<Thing>>;

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
            }
            Line::Close => {
                self.booted |= call.is_some_and(|(call, ..)| call == Call::Boot);
                *call = None;
            }
            Line::May(id, way) => {
                let ways = self.things.entry(id).or_insert_with(|| vec![None]);
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
            Line::Is(id, way) => {
                self.things.insert(id, vec![way]);
            }
            Line::Began(_) => self.began += 1,
            Line::Swept => self.slack = Slack::default(),
            Line::Leaving(_) | Line::Died(..) => {}
        }
    }
}
