//! The supervisor of `--crash`: it keeps the memory, as a descriptor and nothing else, starts one
//! successor after the other, and ends some of them in the middle of their takeover.
//!
//! ```text
//! supervisor   stores the files, lets go of the memory, keeps its descriptor
//!   ├─ successor   takes over, checks, renews half, hands over          the files are as they were
//!   ├─ successor   revive, claim, cla✝                                  SIGKILL, by the clock
//!   ├─ successor   revive, claim, finish, check, store, publish, fr✝    SIGKILL, at a step
//!   ├─ successor   takes over, …                                        the files are as they were
//!   └─ …           the last one gives everything back                   and the memory is as a new one
//! ```
//!
//! The supervisor believes no successor about what ought to be there: it knows how many files there
//! are, a sum over all of their paths and bytes, and which edition of their index was published last.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use heirloom::Heirloom;
use heirloom::arena::Arena;
use heirloom::folio::Disposition;
use heirloom::jump::Jump;
use heirloom::kho::PAGE_SIZE;
use heirloom::restore::SealPolicy;
use rustix::process::Signal;

use crate::keeper::{Keeper, Totals};
use crate::plan::{Course, End, Plan};
use crate::report::Report;
use crate::run::{self, Args, Failure};
use crate::steps::{Stage, Steps};
use crate::store::Used;

/// What is known from outside of what the memory keeps.
struct Supervisor {
    memory: OwnedFd,
    /// What the files were when they were stored.
    stored: Report,
    /// How many pages the cache directory has in the end where no successor is ended.
    undisturbed_roll: u64,
    totals: Totals,
    /// The edition of the index that was published last, as far as it was told.
    edition: u64,
    /// Whether the successor before came to its own end, and so left nothing but what is named.
    whole: bool,
    /// Whether a successor had begun to give everything back.
    giving_back: bool,
}

/// How a successor ended.
enum Outcome {
    /// By itself.
    Whole,
    /// By the signal that was meant for it.
    Ended,
    /// In another way: it could not take over.
    Failed(String),
}

/// Stores the files, and has successors take them over that end at random instants.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut plan = Plan::new(args.seed);
    let mut supervisor = Supervisor::store(args)?;
    let bar = run::progress(args.generations() - 1, "taking over");
    let mut generation = 1;
    while generation < args.generations() && supervisor.is_sound() {
        let last = generation + 1 == args.generations();
        let mut course = Course::begin(plan.next());
        match supervisor.successor(&mut course, last)? {
            Outcome::Whole => generation += 1,
            Outcome::Ended => {}
            Outcome::Failed(how) => {
                eprintln!("lost: a successor could not take over: {how}");
                supervisor.totals.lost = supervisor.stored.files.max(1);
            }
        }
        plan.learn(&course, supervisor.whole);
        bar.set_position(generation - 1);
    }
    bar.finish_and_clear();
    if supervisor.is_sound() && supervisor.giving_back {
        supervisor.compare_with_new(args)?;
    }
    println!("{plan}");
    println!("{}", run::summary(args, &supervisor.stored, supervisor.totals));
    Ok(run::verdict(supervisor.totals))
}

impl Supervisor {
    /// Stores the files, as generation 0, and keeps the descriptor.
    fn store(args: &Args) -> Result<Self, Failure> {
        let arena = run::new_arena(args)?;
        let (steps, mut stored) = (Steps::default(), Report::default());
        let keeper = run::first(args, &arena, &steps, &mut stored)?;
        keeper.check(&mut stored, |_| {})?;
        keeper.count(&mut stored)?;
        run::leave(&arena, &keeper, &steps)?;
        drop(keeper);
        let undisturbed_roll = undisturbed_roll(&arena)?;
        let totals = Totals { lost: stored.lost, leaked: stored.leaked };
        let (memory, edition) = (arena.share()?, stored.edition);
        let (whole, giving_back) = (true, false);
        Ok(Self { memory, stored, undisturbed_roll, totals, edition, whole, giving_back })
    }

    fn is_sound(&self) -> bool {
        self.totals.lost == 0 && self.totals.leaked == 0
    }

    /// Starts a successor, hears what it tells, and ends it where `course` says.
    fn successor(&mut self, course: &mut Course, last: bool) -> Result<Outcome, Failure> {
        let mut child = self.start(course, last)?;
        let lines = lines(&mut child)?;
        let mut killed = false;
        loop {
            let line = match course.deadline().filter(|_| !killed) {
                Some(at) => lines.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => lines.recv().map_err(RecvTimeoutError::from),
            };
            match line {
                Ok(line) => {
                    if let Err(error) = self.hear(&line, course) {
                        child.kill()?;
                        child.wait()?;
                        return Err(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    killed = true;
                }
                // The successor has ended, and so has the last descriptor that it told anything by.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait()?;
        self.giving_back |= last && course.came_to(Stage::Publish);
        self.whole = status.success();
        let meant = killed || matches!(course.end, Some(End::Step(_)));
        let ended = meant && status.signal() == Some(Signal::KILL.as_raw());
        course.end(ended);
        Ok(match () {
            () if ended => Outcome::Ended,
            () if self.whole => Outcome::Whole,
            () => Outcome::Failed(status.to_string()),
        })
    }

    /// Starts this program again, with the memory.
    fn start(&self, course: &Course, last: bool) -> Result<Child, Failure> {
        // The process that had it has ended, and so it can be had.
        let arena = Arena::open(self.memory.try_clone()?)?;
        let entry = arena.entry()?.ok_or("no entry was left in the arena")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).stdout(Stdio::piped());
        if let Some(End::Step(end)) = course.end {
            command.arg(format!("--end-at={end}"));
        }
        if last {
            command.arg("--last");
        }
        // SAFETY: this process has a descriptor of the memory, which it opens again only once the
        // child has ended, and no pointer into it; dropping the arena unmaps it.
        Ok(unsafe { Jump::new(&arena, entry)?.spawn(command) }?)
    }

    /// Hears a line of a successor's: where it is, or what it found.
    fn hear(&mut self, line: &str, course: &mut Course) -> Result<(), Failure> {
        let mut words = line.split(' ');
        let what = words.next();
        let rest: Vec<_> = words.collect();
        let numbers: Vec<u64> = rest.iter().filter_map(|word| word.parse().ok()).collect();
        match (what, &*rest, &*numbers) {
            (Some("stage"), [stage, _], [steps]) => course.enter(stage.parse()?, *steps),
            (Some("lost"), ..) => self.totals.lost += 1,
            (Some("leaked"), _, [frames]) => self.totals.leaked += frames,
            (Some("published"), _, [edition]) => self.edition = *edition,
            (Some("found"), _, [edition, files, sum, unclaimed]) => {
                self.compare(*edition, *files, *sum, *unclaimed);
            }
            _ => return Err(format!("a successor told {line:?}").into()),
        }
        Ok(())
    }

    /// Compares what a successor found with what was stored.
    fn compare(&mut self, edition: u64, files: u64, sum: u64, unclaimed: u64) {
        let emptied = edition == 0 && self.giving_back;
        // One that was ended may have published one more, and not have come to tell.
        let newest = edition == self.edition || edition == self.edition + 1 && !self.whole;
        let same = files == self.stored.files && sum == self.stored.sum;
        if !(newest && same || emptied && files == 0) {
            let Report { files: stored, sum: expected, .. } = self.stored;
            eprintln!(
                "lost: {files} of {stored} files, sum {sum:016x} for {expected:016x}, \
                 edition {edition} after {}",
                self.edition
            );
            // It told of those that it could not claim, or found changed.
            self.totals.lost = self.totals.lost.max(stored.abs_diff(files)).max(1);
        }
        if self.whole && unclaimed != 0 {
            eprintln!("leaked: {unclaimed} that no index names, after a whole generation");
            self.totals.leaked += unclaimed;
        }
        self.edition = edition;
    }

    /// Compares the memory, from which everything was freed, with a new one. It has more in its roll: as much
    /// as the copy in which a successor was left alone; and maybe leaves of the tree that lead there.
    fn compare_with_new(&mut self, args: &Args) -> Result<(), Failure> {
        let left = in_use(&Arena::open(self.memory.try_clone()?)?)?;
        let arena = run::new_arena(args)?;
        let new = Used::of(&run::boot(&arena)?)?;
        let frames: u64 = arena.ranges().iter().map(|range| range.run().frames()).sum();
        let leaves = frames / (8 * PAGE_SIZE as u64);
        let most = Used { tables: new.tables + leaves, roll: self.undisturbed_roll, ..new };
        let more = beyond(left, most);
        if more != 0 {
            eprintln!("leaked: {left:?}, where a new memory has {most:?}");
        }
        self.totals.leaked += more;
        Ok(())
    }
}

/// Pages of the cache directory of a copy of the memory, with all that is kept in it, once a successor has taken it
/// over, renewed half and given everything back.
fn undisturbed_roll(arena: &Arena) -> Result<u64, Failure> {
    let copy = Arena::from_copy("undisturbed", arena.as_fd())?;
    let (steps, mut totals, mut report) = (Steps::default(), Totals::default(), Report::default());
    let heirloom = revive(&copy)?;
    let mut keeper = Keeper::take_over(&copy, heirloom, &steps, &mut totals, &mut report)?;
    keeper.renew_half(&mut report)?;
    keeper.give_everything_back()?;
    Ok(in_use(&copy)?.roll)
}

/// What is in use in a memory that nothing is kept in, tables and all.
fn in_use(arena: &Arena) -> Result<Used, Failure> {
    let mut heirloom = revive(arena)?;
    heirloom.finish(|_| Disposition::Free)?;
    heirloom.shrink_all();
    Used::of(&heirloom)
}

/// How many frames are in use beyond those that may be, of each kind.
fn beyond(used: Used, most: Used) -> u64 {
    used.buffers.saturating_sub(most.buffers)
        + used.folios.saturating_sub(most.folios)
        + used.slabs.saturating_sub(most.slabs)
        + used.tables.saturating_sub(most.tables)
        + used.roll.saturating_sub(most.roll)
        + used.scratch.saturating_sub(most.scratch)
}

/// Takes a memory over in this process.
fn revive(arena: &Arena) -> Result<Heirloom<&Arena>, Failure> {
    let entry = arena.entry()?.ok_or("no entry was left in the arena")?;
    let (map, policy) = (run::map(arena), SealPolicy::Checked);
    // SAFETY: what used the memory has ended, and nothing in this process has a pointer into it.
    Ok(unsafe { Heirloom::revive(arena, &map, entry, run::PRODUCER, policy) }?)
}

/// What a successor writes, line by line, as it comes.
fn lines(child: &mut Child) -> Result<Receiver<String>, Failure> {
    let output = child.stdout.take().ok_or("a successor has no output")?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    Ok(told)
}
