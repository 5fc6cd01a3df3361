//! Crashes: an old kernel is ended by force at any instant, and a successor finds what was
//! promised.
//!
//! Picture two shared memories. One is the machine's RAM (`arena`), in which kernels follow
//! each other, each in a process of its own. The other is a journal (`journal`) in which the
//! old kernel writes down, around each call, what it may rely on from then on. The old kernel's
//! process is killed (SIGKILL: no handler, no last word); a fresh process finds the memory by its
//! first page, revives from it, reads the journal and compares (`check`).
//!
//! ```text
//!  old process                           fresh process
//!  ───────────                           ─────────────
//!  script or program                     entry in the first page ── revive
//!    │ calls     │ promises                 │ claims      │ promises
//!    v           v                          v             v
//!  [ RAM: shared memfd ]  [ journal ]     [ RAM ]      [ journal ]
//!        ^ SIGKILL before the n-th store, or at any moment
//! ```
//!
//! It ends in two ways. **Stepping**: a build in which every store into RAM is a call (`step`)
//! ends the process before the n-th, for all n over scripts that call everything in each role. A takeover
//! is stepped through in chains, too: successors end in it one after another, by each entry that is good.
//! **Kills**: a release build, threads and generations, ended by the parent at a random moment.
//!
//! What must then hold: everything that a call returned Ok for is there, with its content, and
//! what was let go is not; what a call under way may leave is bounded; no frame has two owners;
//! free frames and those in use are all there are; each operation works, and two further jumps
//! lose nothing and leak nothing. What was not promised, an object that was allocated and never
//! preserved, must be free memory.
//!
//! RAM is never clean: before the first boot it is full of random words, plausible addresses and
//! what former kernels left, so that a table that is linked before it is cleared is found.
//!
//! That the harness finds what it is there for was tried by putting faults in, one at a time: a node
//! of the tracker linked before it is zeroed, and a slab entered in the cache directory before it is preserved.
//! Each was found by the successor of the first few dozen stops, which refused what it read.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod actor;
mod arena;
mod caches;
mod chains;
mod check;
mod containers;
mod coverage;
mod growth;
mod journal;
mod kills;
mod promises;
mod script;
mod step;
mod stepping;
mod takeover;
mod trial;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use chains::{Chains, DEPTH, FOLLOWED, takeover};
use check::{Verdict, check};
pub use containers::{Containers, containers};
use heirloom_testkit::TestMachine;
use journal::{Call, Journal, LOGS, Line};
pub use kills::{Kills, kills};
use promises::Promises;
use script::Script;
pub use stepping::{Stepping, stepping};
use trial::{Child, End, fork};

/// What went wrong, for a person.
pub type Failure = Box<dyn std::error::Error>;

/// One successor in so many is another program's image, by `exec`; the others are forked off the
/// parent, which never had a kernel.
const EXEC_EVERY: u64 = 64;

/// A memory and a journal, as they were.
type State = (Vec<u8>, [Vec<Line>; LOGS]);

/// A memory and a journal, and what both are before a trial.
struct Bench {
    machine: TestMachine,
    journal: Journal,
    /// The whole file, its memory in use by nobody and full of what others left.
    used: Vec<u8>,
    /// The program whose [`successor`] mode checks.
    program: Option<PathBuf>,
    trials: u64,
}

impl Bench {
    fn new(program: Option<&Path>) -> Result<Self, Failure> {
        let machine = arena::create()?;
        let used = arena::used(&machine);
        let program = program.map(Path::to_owned);
        Ok(Self { machine, journal: Journal::new()?, used, program, trials: 0 })
    }

    /// Checks in a fresh process, which lives on `further`, or ends when all is accounted for; how it ended, and what it found.
    fn successor(&mut self, further: bool) -> Result<(End, Option<Verdict>), Failure> {
        self.trials += 1;
        let program = self.program.as_deref().filter(|_| self.trials.is_multiple_of(EXEC_EVERY));
        let child = fork(|| match program {
            Some(program) => {
                let fds = [self.machine.file().as_raw_fd(), self.journal.descriptor()];
                for fd in fds {
                    // SAFETY: both are open, and this process has no other use for them.
                    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
                }
                let fds = fds.map(|fd| fd.to_string());
                let error = Command::new(program).arg("successor").args(fds).exec();
                eprintln!("{}: {error}", program.display());
                102
            }
            None => i32::from(look(self.machine.again(), &self.journal, further).is_err()),
        })?;
        let end = child.wait()?;
        let verdict = (end == End::WELL).then(|| decode(self.journal.noted()));
        Ok((end, verdict.flatten()))
    }

    /// A process that runs a script and ends before a store: of all, or of those alone that a successor
    /// can see.
    fn run(&self, script: Script, stop: u64, visible: bool) -> Result<End, Failure> {
        let run = if visible { Script::run_visible } else { Script::run };
        let child = self.child(|machine, journal| run(script, machine, journal, stop))?;
        Ok(child.wait()?)
    }

    /// Begins a process that runs `run` over the memory, and ends well if that returns.
    fn child(&self, run: impl FnOnce(&TestMachine, &Journal)) -> Result<Child, Failure> {
        let child = fork(|| {
            // A forked process has the memory only once it opens it.
            self.machine.again().map_or(103, |machine| {
                run(&machine, &self.journal);
                0
            })
        })?;
        Ok(child)
    }

    /// A copy of the memory and the journal, while no kernel runs.
    fn save(&self) -> State {
        (self.machine.save(), self.journal.save())
    }

    /// Puts a copy back.
    fn load(&self, (memory, lines): &State) {
        self.machine.load(memory);
        self.journal.load(lines);
    }

    /// What was under way when the old kernel ended.
    fn under_way(&self) -> Vec<Call> {
        Promises::of(&self.journal).open
    }

    /// Keeps the memory as it is now, and beside it what the journal says, for a person to look at.
    /// Returns where the memory is.
    fn dump(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = std::env::temp_dir().join(format!("heirloom-crash-{name}.arena"));
        std::fs::write(&path, self.machine.save())?;
        let lines = (0..LOGS).flat_map(|log| {
            let lines = self.journal.lines(log).into_iter();
            lines.map(move |line| format!("{log} {line:?}\n"))
        });
        std::fs::write(path.with_extension("journal"), lines.collect::<String>())?;
        Ok(path)
    }
}

/// Checks, and leaves the verdict in the journal.
fn look(machine: io::Result<TestMachine>, journal: &Journal, further: bool) -> io::Result<()> {
    journal.note(0);
    let verdict = check(&machine?, journal, further);
    journal.note(encode(verdict));
    Ok(())
}

const fn encode(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Nothing => 1,
        Verdict::Whole(things) => 2 | things << 8,
        Verdict::Ended => 3,
    }
}

const fn decode(word: u64) -> Option<Verdict> {
    match word & 0xff {
        1 => Some(Verdict::Nothing),
        2 => Some(Verdict::Whole(word >> 8)),
        3 => Some(Verdict::Ended),
        _ => None,
    }
}

/// The successor as a program of its own: `arena` and `journal` are descriptors that it was born
/// with.
///
/// # Errors
/// The descriptors are no arena and no journal.
///
/// # Panics
/// If anything is not as it was promised.
///
/// # Safety
/// Nothing else in the process owns the descriptors.
pub unsafe fn successor(arena: RawFd, journal: RawFd) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let (arena, journal) = unsafe { (OwnedFd::from_raw_fd(arena), OwnedFd::from_raw_fd(journal)) };
    Ok(look(arena::open(arena), &Journal::open(journal)?, true)?)
}
