//! Where a takeover is: told to the supervisor of `--crash`, and where one that is to end there ends.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use rustix::process::{Signal, getpid, kill_process};

/// What a takeover consists of. Files are stored, preserved, published and freed in several parts, all
/// else is done once, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Start,
    Revive,
    Adopt,
    Claim,
    Finish,
    Check,
    Store,
    Preserve,
    Publish,
    Free,
    Leave,
    Done,
}

impl Stage {
    pub(crate) const ALL: [Self; 12] = [
        Self::Start,
        Self::Revive,
        Self::Adopt,
        Self::Claim,
        Self::Finish,
        Self::Check,
        Self::Store,
        Self::Preserve,
        Self::Publish,
        Self::Free,
        Self::Leave,
        Self::Done,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let stage = Self::ALL.into_iter().find(|stage| stage.to_string() == name);
        stage.ok_or_else(|| format!("no stage is called {name:?}"))
    }
}

/// One step of a stage; they are counted from 0, over all of its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) stage: Stage,
    pub(crate) number: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stage, self.number)
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stage, number) = text.split_once(':').ok_or("a step is STAGE:NUMBER")?;
        let number = number.parse().map_err(|_| format!("{number:?} is no number"))?;
        Ok(Self { stage: stage.parse()?, number })
    }
}

/// The steps of this process's takeover.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// There is a supervisor at the other end of the standard output.
    supervised: bool,
    /// The step before which this process ends; at the latest, when it is done.
    end_at: Option<Step>,
    stage: Cell<Option<Stage>>,
    /// How many steps of each stage there were.
    counts: [Cell<u64>; Stage::ALL.len()],
}

impl Steps {
    /// Returns the steps of a successor that has a supervisor. [`Steps::default`] says nothing.
    pub(crate) fn supervised(end_at: Option<Step>) -> Self {
        Self { supervised: true, end_at, ..Self::default() }
    }

    /// Notes that the next step is one of `stage`. This process may end here.
    pub(crate) fn at(&self, stage: Stage) {
        let count = &self.counts[stage as usize];
        let step = Step { stage, number: count.get() };
        count.set(step.number + 1);
        if let Some(before) = self.stage.replace(Some(stage)).filter(|before| *before != stage) {
            let steps = self.counts[before as usize].get();
            self.tell(format_args!("stage {stage} {steps}"));
        }
        if self.end_at.is_some_and(|end| end == step || stage == Stage::Done) {
            // No destructor runs, nothing is flushed, nothing is given back.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// Tells the supervisor a line, whole or not at all: it is written by one call.
    pub(crate) fn tell(&self, line: fmt::Arguments<'_>) {
        if self.supervised {
            println!("{line}");
        }
    }
}
