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
    use super::*;

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
}
