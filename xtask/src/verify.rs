//! `cargo xtask verify`: the promises under attack, one step after another.
//!
//! Each step is a command that can be run by hand; its line is printed before it runs. The short
//! form takes minutes and is what continuous integration runs; `--long` takes hours. What a step
//! showed is its figures: the lines that begin with the step's name and a colon, or, where the step
//! is another program's, its last line. A line of a step that begins with
//! `SKIPPED:` says which part of it could not be done, and why.

mod spent;
mod steps;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use spent::{Spent, Start};
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
    let mut ended = Vec::new();
    for step in steps::all() {
        let line = step.line(arguments.long).trim();
        if !arguments.only.is_empty() && arguments.only.iter().all(|name| name != step.name) {
            continue;
        }
        if arguments.list {
            println!("{}: {}\n    {line}", step.name, step.shows);
            continue;
        }
        println!("\n=== {}: {}\n    {line}", step.name, step.shows);
        if let Some(why) = step.missing(root) {
            ended.push(skipped(step, why));
        } else {
            ended.push(attack(root, step, line)?);
        }
    }
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

fn skipped(step: &Step, why: &str) -> Ended {
    println!("SKIPPED: {}: {why}", step.name);
    let figures = vec![why.to_owned()];
    Ended {
        name: step.name,
        outcome: Outcome::Skipped,
        took: Spent::default(),
        figures,
        left_out: vec![],
        end: vec![],
    }
}

/// Runs a step, passing on what it prints.
fn attack(root: &Path, step: &Step, line: &str) -> Result<Ended> {
    let start = Start::now();
    let mut child = Command::new("bash")
        // What a compiler says of a failure comes the other way.
        .args(["-euo", "pipefail", "-c", &format!("exec 2>&1; {line}")])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{line}: bash"))?;
    let output = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
    let mut said = Said::new(step.name);
    for bytes in output.split(b'\n') {
        let row = String::from_utf8_lossy(&bytes?).into_owned();
        println!("{row}");
        said.hear(&row);
    }
    io::stdout().flush()?;
    let status = child.wait()?;
    let took = start.spent();
    println!("{}: {status}, {} s", step.name, took.wall.as_secs());
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
