//! `cargo xtask verify`: the promises under attack, one step after another.
//!
//! Each step is a command that can be run by hand; its line is printed with what it prints. Several
//! may run at once: one that uses a single processor leaves the others to the next. The short
//! form takes minutes and is what continuous integration runs; `--long` takes hours. What a step
//! showed is its figures: the lines that begin with the step's name and a colon, or, where the step
//! is another program's, its last line. A line of a step that begins with
//! `SKIPPED:` says which part of it could not be done, and why.

mod spent;
mod steps;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use spent::Spent;
use steps::Step;

/// Attack the promises: hostile bytes, flipped bits, races, crashes, models.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// All of it, for hours, instead of minutes.
    #[arg(long)]
    long: bool,
    /// Run this step alone; may be given several times. See `--list`.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Name the steps and what they run, and run nothing.
    #[arg(long)]
    list: bool,
    /// Run so many steps at once; what a step prints is then shown when it has ended.
    #[arg(long, value_name = "STEPS", default_value = "1")]
    jobs: NonZeroUsize,
}

impl Arguments {
    #[cfg(test)]
    pub(crate) const fn is_long(&self) -> bool {
        self.long
    }
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// This machine lacks something.
    Skipped,
}

/// A step that was run, or was not.
struct Ended {
    name: &'static str,
    outcome: Outcome,
    took: Spent,
    /// Its figures, or why it was skipped.
    figures: Vec<String>,
    /// What it could not do, as it said itself.
    left_out: Vec<String>,
    /// The last that it printed, where it failed.
    end: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    if let Some(name) = arguments.only.iter().find(|name| steps::all().all(|s| s.name != **name)) {
        bail!("no step is named {name}; `--list` names them");
    }
    let chosen = |step: &&Step| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| name == step.name)
    };
    if arguments.list {
        for step in steps::all().filter(chosen) {
            println!("{}", step.head(arguments.long));
        }
        return Ok(());
    }
    let ended = all_of(root, steps::all().filter(chosen).collect(), arguments)?;
    if !ended.is_empty() {
        println!("{}", summary(&ended));
        let ran = ended.iter().filter(|end| end.outcome != Outcome::Skipped);
        let took = ran.map(|end| (end.name, end.took));
        println!("\n=== what each step took, the slowest first\n{}", spent::table(took));
    }
    let failed: Vec<&str> =
        ended.iter().filter(|end| end.outcome == Outcome::Failed).map(|end| end.name).collect();
    for Ended { name, end, .. } in ended.iter().filter(|end| end.outcome == Outcome::Failed) {
        println!("\n=== how {name} ended");
        for row in end {
            println!("{row}");
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs the steps, several at once if that is wanted, and returns how they ended, in their order.
fn all_of(root: &Path, steps: Vec<&'static Step>, arguments: &Arguments) -> Result<Vec<Ended>> {
    let jobs = arguments.jobs.get();
    let mut left: Vec<_> = steps.into_iter().enumerate().collect();
    if jobs > 1 {
        left.sort_by_key(|(_, step)| step.place());
    }
    let left = Mutex::new(left.into_iter());
    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let job = || -> Result<()> {
            loop {
                let Some((at, step)) = locked(&left).next() else { return Ok(()) };
                let end = one(root, step, arguments.long, jobs > 1)?;
                locked(&ended).push((at, end));
            }
        };
        let jobs: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
        jobs.into_iter().try_for_each(|job| match job.join() {
            Ok(ran) => ran,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_unstable_by_key(|(at, _)| *at);
    Ok(ended.into_iter().map(|(_, end)| end).collect())
}

/// Locks what a job that panicked left in order: each of them ends the program.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a step, or says what it lacks. With others `beside` it, all that it prints is kept until its end.
fn one(root: &Path, step: &Step, long: bool, beside: bool) -> Result<Ended> {
    let mut page = Page { kept: beside.then(Vec::new) };
    page.print(&format!("\n=== {}", step.head(long)));
    let ended = match step.missing(root) {
        Some(why) => {
            page.print(&format!("SKIPPED: {}: {why}", step.name));
            Ended {
                name: step.name,
                outcome: Outcome::Skipped,
                took: Spent::default(),
                figures: vec![why.to_owned()],
                left_out: vec![],
                end: vec![],
            }
        }
        None => attack(root, step, step.line(long), &mut page)?,
    };
    page.end()?;
    Ok(ended)
}

/// Where the lines of a step go: to the terminal, or, if others run beside it, there at its end.
struct Page {
    kept: Option<Vec<u8>>,
}

impl Page {
    fn print(&mut self, row: &str) {
        match &mut self.kept {
            Some(kept) => kept.extend([row.as_bytes(), b"\n"].concat()),
            None => println!("{row}"),
        }
    }

    fn end(self) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(&self.kept.unwrap_or_default())?;
        Ok(out.flush()?)
    }
}

/// Runs a step's command. The line of `/proc` about the shell around it, which has waited for all of its
/// processes, is all that comes by the other way.
const AROUND: &str = r#"
    bash -euo pipefail -c "exec 2>&1; $1" && failed=0 || failed=$?
    exec >&2
    cat /proc/$$/stat || true
    exit $failed"#;

/// Runs a step, passing on what it prints.
fn attack(root: &Path, step: &Step, line: &str, page: &mut Page) -> Result<Ended> {
    let began = Instant::now();
    let mut child = Command::new("bash")
        .args(["-c", AROUND, "step", line])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{line}: bash"))?;
    let output = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
    let mut said = Said::new(step.name);
    for bytes in output.split(b'\n') {
        let row = String::from_utf8_lossy(&bytes?).into_owned();
        page.print(&row);
        said.hear(&row);
    }
    let mut stat = String::new();
    child.stderr.take().context("stderr is a pipe")?.read_to_string(&mut stat)?;
    let status = child.wait()?;
    let took = Spent { wall: began.elapsed(), cpu: spent::in_stat(&stat) };
    page.print(&format!("{}: {status}, {} s", step.name, took.wall.as_secs()));
    let outcome = if status.success() { Outcome::Passed } else { Outcome::Failed };
    let figures = said.figures();
    let end = if status.success() { vec![] } else { said.end.into() };
    Ok(Ended { name: step.name, outcome, took, figures, left_out: said.left_out, end })
}

/// What is kept of a step's output.
struct Said {
    prefix: String,
    own: Vec<String>,
    last: String,
    left_out: Vec<String>,
    end: VecDeque<String>,
}

/// Lines of a failed step that are printed again at the end of all.
const TOLD_AGAIN: usize = 24;

impl Said {
    fn new(name: &str) -> Self {
        Self {
            prefix: format!("{name}: "),
            own: Vec::new(),
            last: String::new(),
            left_out: Vec::new(),
            end: VecDeque::new(),
        }
    }

    fn hear(&mut self, row: &str) {
        if self.end.len() == TOLD_AGAIN {
            self.end.pop_front();
        }
        self.end.push_back(row.to_owned());
        // A single-threaded test's first line follows the test's name.
        let test = row.strip_prefix("test ").and_then(|row| row.split_once(" ... "));
        let row = test.map_or(row, |(_, row)| row).trim();
        if let Some(what) = row.strip_prefix("SKIPPED:") {
            self.left_out.push(what.trim().to_owned());
        } else if let Some(figures) = row.strip_prefix(&self.prefix) {
            self.own.push(figures.to_owned());
        } else if !row.is_empty() {
            row.clone_into(&mut self.last);
        }
    }

    fn figures(&self) -> Vec<String> {
        if self.own.is_empty() { vec![self.last.clone()] } else { self.own.clone() }
    }
}

/// The table at the end, and below it, by itself, what was not shown.
fn summary(ended: &[Ended]) -> String {
    let width = ended.iter().map(|end| end.name.len()).max().unwrap_or_default();
    let mut rows = vec![String::new(), "=== what was shown".into()];
    let mut missing = Vec::new();
    for Ended { name, outcome, took, figures, left_out, .. } in ended {
        let outcome = match outcome {
            Outcome::Passed if left_out.is_empty() => "passed",
            Outcome::Passed => "in part",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "SKIPPED",
        };
        let start = format!("{name:width$}  {outcome:7}  {:5} s  ", took.wall.as_secs());
        let next = format!("\n{:1$}", "", start.len());
        rows.push(start + &figures.join(&next));
        if outcome == "SKIPPED" {
            missing.push(format!("  {name}: {}", figures.join(" ")));
        }
        missing.extend(left_out.iter().map(|what| format!("  {name}, in part: {what}")));
    }
    if !missing.is_empty() {
        rows.extend([String::new(), "=== SKIPPED, and so not shown".into()]);
        rows.extend(missing);
    }
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn heard(rows: &[&str]) -> Said {
        let mut said = Said::new("bits");
        for row in rows {
            said.hear(row);
        }
        said
    }

    #[test]
    fn steps_that_run_at_once_are_told_in_their_order() {
        static STEPS: [Step; 3] = [
            Step::of("first", "bash -c 'for i in {1..100000}; do :; done' >&2; echo first: done"),
            Step::of("second", "echo SKIPPED: a part; false | true"),
            Step::of("third", "echo 'third: of two'; echo the last"),
        ];
        let jobs = NonZeroUsize::new(2).expect("two");
        let arguments = Arguments { long: false, only: vec![], list: false, jobs };
        let ended = all_of(Path::new("."), STEPS.iter().collect(), &arguments).expect("bash");
        let told: Vec<_> = ended.iter().map(|end| (end.name, end.figures.concat())).collect();
        let none = String::new();
        let expected = [("first", "done".into()), ("second", none), ("third", "of two".into())];
        assert_eq!(told, expected);
        let passed: Vec<bool> = ended.iter().map(|end| end.outcome == Outcome::Passed).collect();
        assert_eq!(passed, [true, false, true]);
        assert_eq!(ended[1].left_out, ["a part"]);
        let proc = Path::new("/proc/self/stat").exists();
        assert!(ended.iter().all(|end| end.took.cpu.is_some() == proc));
        assert!(!proc || ended[0].took.cpu > Some(Duration::ZERO), "a loop takes no time");
    }

    #[test]
    fn figures_are_the_steps_own_line_or_the_last() {
        assert_eq!(heard(&["bits: 5 flipped", "test result: ok."]).figures(), ["5 flipped"]);
        assert_eq!(
            heard(&["test result: ok. 5 passed", ""]).figures(),
            ["test result: ok. 5 passed"]
        );
        assert_eq!(heard(&["bits: 1", "bits: 2"]).figures(), ["1", "2"]);
        assert_eq!(heard(&["test all_of_them ... bits: 1", "ok"]).figures(), ["1"]);
        let said = heard(&["bits: 1", "SKIPPED: no such machine"]);
        assert_eq!(said.figures(), ["1"]);
        assert_eq!(said.left_out, ["no such machine"]);
    }

    #[test]
    fn the_last_lines_are_kept() {
        let rows: Vec<String> = (0..100).map(|row| row.to_string()).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        assert_eq!(Vec::from(heard(&rows).end), rows[100 - TOLD_AGAIN..]);
    }

    #[test]
    fn what_was_not_shown_is_told_apart_from_what_was() {
        let end = |name, outcome, left_out| Ended {
            name,
            outcome,
            took: Spent { wall: Duration::from_secs(7), cpu: None },
            figures: vec!["figures".into(), "more".into()],
            left_out,
            end: vec![],
        };
        let text = summary(&[
            end("loom", Outcome::Passed, vec![]),
            end("deny", Outcome::Passed, vec!["advisories".into()]),
            end("miri", Outcome::Skipped, vec![]),
            end("bits", Outcome::Failed, vec![]),
        ]);
        let expected = "
=== what was shown
loom  passed       7 s  figures
                        more
deny  in part      7 s  figures
                        more
miri  SKIPPED      7 s  figures
                        more
bits  FAILED       7 s  figures
                        more

=== SKIPPED, and so not shown
  deny, in part: advisories
  miri: figures more";
        assert_eq!(text, expected);
    }
}
