//! The steps of `cargo xtask verify`, as data: a module for each kind of attack.

mod builds;
mod crashes;
mod detectors;
mod hostile;
mod models;
mod races;

use std::path::Path;
use std::process::{Command, Stdio};

/// A step: a command for the short form and one for the long form.
pub(crate) struct Step {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it shows, in a few words.
    pub(crate) shows: &'static str,
    /// The command, as bash reads it: minutes.
    short: &'static str,
    /// The command of the long form, where it differs.
    long: Option<&'static str>,
    /// A command that succeeds where the step can run, and what is missing if it does not.
    needs: Option<(&'static str, &'static str)>,
}

/// Those that take longest, the longest first.
const LONGEST: [&str; 10] =
    ["pages", "loom", "safe", "asan", "fuzz", "small", "tsan", "stack", "stepping", "miri"];

impl Step {
    #[cfg(test)]
    pub(super) const fn of(name: &'static str, short: &'static str) -> Self {
        Self { name, shows: "how steps run", short, long: None, needs: None }
    }

    /// What it is, and the command that is run.
    pub(crate) fn head(&self, long: bool) -> String {
        format!("{}: {}\n    {}", self.name, self.shows, self.line(long).trim())
    }

    /// The command that is run.
    pub(crate) fn line(&self, long: bool) -> &'static str {
        self.long.filter(|_| long).unwrap_or(self.short)
    }

    /// Its place where several run at once: one that takes long does not begin last, to be waited for alone.
    pub(crate) fn place(&self) -> usize {
        LONGEST.iter().position(|name| *name == self.name).unwrap_or(LONGEST.len())
    }

    /// What this machine lacks for the step, if anything.
    pub(crate) fn missing(&self, root: &Path) -> Option<&'static str> {
        let (command, what) = self.needs?;
        let quiet = Command::new("bash")
            .args(["-c", command])
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        (!quiet.is_ok_and(|status| status.success())).then_some(what)
    }
}

/// All of them, in the order in which they run: what needs no long build and fails at once comes
/// first.
pub(crate) fn all() -> impl Iterator<Item = &'static Step> {
    let groups = [
        builds::STEPS,
        hostile::STEPS,
        models::STEPS,
        crashes::STEPS,
        races::STEPS,
        detectors::STEPS,
    ];
    groups.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_longest_are_steps() {
        let there = |name: &&str| all().any(|step| step.name == *name);
        assert_eq!(LONGEST.iter().find(|name| !there(name)), None);
    }

    /// What is tried is told where a reader looks for it.
    #[test]
    fn every_step_has_its_row_in_the_page() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trust.md");
        let page = std::fs::read_to_string(page).expect("docs/trust.md is there");
        let silent = |step: &&'static Step| !page.contains(&format!("| `{}` |", step.name));
        let silent: Vec<&str> = all().filter(silent).map(|step| step.name).collect();
        assert!(silent.is_empty(), "docs/trust.md has no row for {silent:?}");
    }

    /// The tests of heirloom-verify are short by themselves; as steps they are what the page tells.
    #[test]
    fn every_test_of_the_attacks_is_a_steps() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verify/tests");
        let files = std::fs::read_dir(tests).expect("verify/tests is there");
        let paths = files.map(|file| file.expect("verify/tests can be read").path());
        let named = |stem: &str| {
            let option = format!("--test {stem}");
            all().any(|step| {
                let mut words = step.short.split(&option).skip(1);
                words.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
            })
        };
        let stems = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
        let idle: Vec<String> = stems.filter(|stem| !named(stem)).collect();
        assert!(idle.is_empty(), "no step runs {idle:?}");
    }

    /// Stands in for cargo: the call whose number is `$FAILS` fails at once, each other takes a while and says what a
    /// test says. A call's number is the first that no other has taken.
    const CARGO: &str = r#"#!/usr/bin/env bash
        number=1
        until mkdir "$CALLS/$number" 2>/dev/null; do number=$((number + 1)); done
        [ "$number" != "$FAILS" ] || exit 1
        for _ in {1..3000}; do :; done
        printf 'test a - compile ... ok\ntest b ... ok\nseed 1\n1 rounds,\n'
        for ran in deaths turns window_tests at_any_instant; do echo "test $ran ... ok"; done"#;

    /// Runs a step's line where cargo is [`CARGO`], in an empty directory: whether it passed, and how many calls it made.
    fn pretend(line: &str, fails: usize) -> (bool, usize) {
        let place = tempfile::tempdir().unwrap();
        let [calls, cargo] = ["calls", "cargo"].map(|name| place.path().join(name));
        std::fs::create_dir(&calls).unwrap();
        std::fs::write(&cargo, CARGO).unwrap();
        std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
        let ended = Command::new("bash")
            .args(["-euo", "pipefail", "-c", line])
            .current_dir(place.path())
            .envs([("PATH", path), ("FAILS", fails.to_string())])
            .env("CALLS", &calls)
            .stdin(Stdio::null())
            .output()
            .expect("bash");
        (ended.status.success(), std::fs::read_dir(calls).unwrap().count())
    }

    /// Steps that run what they built, or that expect a refusal, do not pass where nothing is built.
    #[test]
    fn a_step_fails_where_any_of_its_calls_of_cargo_does() {
        let lines = all().flat_map(|step| [false, true].map(|long| (step.name, step.line(long))));
        let mut tried = std::collections::BTreeSet::new();
        for (name, line) in lines {
            let (passed, calls) = pretend(line, 0);
            let failing = if passed { 1..calls + 1 } else { 0..0 };
            for call in failing {
                tried.insert(name);
                assert!(!pretend(line, call).0, "{name} passes though call {call} of cargo fails");
            }
        }
        for name in ["safe", "pages", "miri", "asan", "tsan", "loom", "small", "examples"] {
            assert!(tried.contains(name), "{name} was not tried: {tried:?}");
        }
        assert!(tried.len() >= 20, "{tried:?}");
    }
}
