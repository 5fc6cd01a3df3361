//! Where a takeover is: told to the supervisor of `--crash`, and where one that is to end there ends.

use std::cell::Cell;
use std::fmt;
use std::mem::zeroed;
use std::ptr::null_mut;
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

/// Where a process is to end: so many nanoseconds after it came to a step of a stage. The steps of a
/// stage are counted from 0, over all of its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EndAt {
    pub(crate) stage: Stage,
    pub(crate) step: u64,
    pub(crate) nanos: u32,
}

impl fmt::Display for EndAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.stage, self.step, self.nanos)
    }
}

impl FromStr for EndAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        let [stage, step, nanos] = *parts else { return Err("not STAGE:STEP:NANOS".to_owned()) };
        let no_number = |error: std::num::ParseIntError| error.to_string();
        let step = step.parse().map_err(no_number)?;
        Ok(Self { stage: stage.parse()?, step, nanos: nanos.parse().map_err(no_number)? })
    }
}

/// The steps of this process's takeover.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// There is a supervisor at the other end of the standard output.
    supervised: bool,
    /// Where this process ends; at the latest, when it is done.
    end_at: Option<EndAt>,
    stage: Cell<Option<Stage>>,
    /// How many steps of each stage there were.
    counts: [Cell<u64>; Stage::ALL.len()],
}

impl Steps {
    /// Returns the steps of a successor that has a supervisor. [`Steps::default`] says nothing.
    pub(crate) fn supervised(end_at: Option<EndAt>) -> Self {
        Self { supervised: true, end_at, ..Self::default() }
    }

    /// Notes that the next step is one of `stage`. This process may end here.
    pub(crate) fn at(&self, stage: Stage) {
        let count = &self.counts[stage as usize];
        let step = count.get();
        count.set(step + 1);
        if let Some(before) = self.stage.replace(Some(stage)).filter(|before| *before != stage) {
            let steps = self.counts[before as usize].get();
            self.tell(format_args!("stage {stage} {steps}"));
        }
        match self.end_at {
            Some(_) if stage == Stage::Done => end_in(0),
            Some(end) if (end.stage, end.step) == (stage, step) => end_in(end.nanos),
            _ => {}
        }
    }

    /// Tells the supervisor a line, whole or not at all: it is written by one call.
    pub(crate) fn tell(&self, line: fmt::Arguments<'_>) {
        if self.supervised {
            println!("{line}");
        }
    }
}

/// Ends this process so many nanoseconds from now, in whatever call it is then: no destructor runs,
/// nothing is flushed, nothing is given back.
fn end_in(nanos: u32) {
    // A timer of zero never expires.
    if nanos == 0 || !kill_in(nanos) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Starts a timer of the kernel's, which sends a signal that cannot be handled; whether there is one.
fn kill_in(nanos: u32) -> bool {
    // SAFETY: all zeroes are an event, and a time.
    let (mut event, mut time) = unsafe { zeroed::<(libc::sigevent, libc::itimerspec)>() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    time.it_value.tv_nsec = nanos.into();
    let mut timer = null_mut();
    // SAFETY: what the pointers lead to lives as long as the call, which writes `timer` alone.
    if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0 {
        return false;
    }
    // SAFETY: a timer that was made just now; the time lives as long as the call.
    unsafe { libc::timer_settime(timer, 0, &raw const time, null_mut()) == 0 }
}
