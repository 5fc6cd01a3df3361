//! Pairs of kernels: what `heirloom check --for` foretells, and what the second kernel then does.
//!
//! ```text
//!  7.3 ══ kexec ══> 7.3 with one text changed
//!        │ memory image                │ console
//!        └─> check --for its bzImage   └─> taken, or how not
//!                        └───── the same ─────┘
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{COMMAND_LINE, Found, MODEL, TEST_STATES, told};
use crate::linux::initramfs::Initramfs;
use crate::linux::kernel::Kernel;
use crate::linux::machine::Machine;
use crate::linux::patched::patched;
use crate::linux::place::target;

/// The texts that are changed, each in a kernel of its own; none in the first.
const CHANGES: [Option<(&str, &str)>; 4] =
    [None, Some(("kho-v4", "kho-v5")), Some(("luo-v5", "luo-v6")), Some(("memfd-v2", "memfd-v3"))];

/// Which of them are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Pairs {
    All,
    /// The first, which takes it, and the last, which is handed what it does not take.
    Two,
}

impl Pairs {
    fn changes(self) -> impl Iterator<Item = Option<(&'static str, &'static str)>> {
        let last = CHANGES.len() - 1;
        let tried = move |at: &usize| self == Self::All || *at == 0 || *at == last;
        (0..CHANGES.len()).filter(tried).map(|at| CHANGES[at])
    }
}

/// What becomes of a handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// Every byte is there.
    Taken,
    /// The kernel boots as if there were none.
    Ignored,
    Panic,
    /// No session can be retrieved.
    Closed,
}

impl Outcome {
    /// What `check` foretold, from its JSON: the first structure that is not taken decides, as the kernel comes to
    /// it first.
    fn foretold(json: &Value) -> Result<Self> {
        let structures = json["next"]["structures"].as_array().context("structures")?;
        let Some(first) = structures.iter().find(|of| of["takes"] == "not taken") else {
            ensure!(json["next"]["verdict"] == "taken", "{}", json["next"]);
            return Ok(Self::Taken);
        };
        let reason = first["reason"].as_str().unwrap_or_default();
        Ok(match reason {
            _ if reason.contains("boots as if nothing had been handed over") => Self::Ignored,
            _ if reason.contains("panics while it boots") => Self::Panic,
            _ if reason.contains("/dev/liveupdate fails with EIO") => Self::Closed,
            _ => bail!("foretold in words that are not known: {reason:?}"),
        })
    }

    /// What a line of the second kernel's console shows, if it shows it.
    fn shown(line: &str) -> Option<Self> {
        let read = "the kernel could not read what its predecessor left";
        match line {
            _ if line.contains("Kernel panic") => Some(Self::Panic),
            _ if Found::read(line).is_some() => Some(Self::Taken),
            _ if line.contains("liveupdate: failed") && line.contains(read) => Some(Self::Closed),
            _ if line.contains("the kernel before this one handed nothing over") => {
                Some(Self::Ignored)
            }
            _ => None,
        }
    }

    /// What the console says beside that, as the kernel names the text that it does not take.
    fn named(self, text: &str) -> String {
        match self {
            Self::Taken => String::new(),
            Self::Ignored | Self::Panic => format!("is incompatible with '{text}'"),
            // It names the one that it was handed.
            Self::Closed => "No registered handler for compatible".to_owned(),
        }
    }
}

/// Tries each of these pairs.
///
/// # Errors
/// The first of which what was foretold is not what happened.
pub(super) fn run(
    which: Pairs,
    kernel: &Kernel,
    program: &Path,
    place: &Path,
    timeout: u64,
) -> Result<()> {
    let root = crate::linux::place::project()?;
    // What a machine's time is not to be spent on.
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root).args(["build", "--quiet", "--release", "-p", "heirloom-cli"]);
    let done = build.status()?;
    ensure!(done.success(), "building heirloom ended with {done}");
    let mut inside = Initramfs::new();
    inside.terminals();
    inside.file("init", 0o755, &fs::read(program)?);
    // A part of the files is enough.
    inside.files_below(&root.join("docs"), "files")?;
    let mut tried = 0;
    for change in which.changes() {
        let name = change.map_or_else(|| "the same".to_owned(), |(_, new)| new.to_owned());
        let second = place.join(format!("bzImage-{}", change.map_or("same", |(_, new)| new)));
        match change {
            Some((old, new)) => patched(&kernel.image, old, new, &second)?,
            None => fs::copy(&kernel.image, &second).map(|_| ())?,
        }
        let mut outside = inside.clone();
        outside.directory("next");
        outside.file("next/kernel", 0o644, &fs::read(&second)?);
        outside.file("next/initramfs", 0o644, &inside.clone().finish());
        let initramfs = place.join("initramfs-pair");
        fs::write(&initramfs, outside.finish())?;

        let deadline = Instant::now() + Duration::from_secs(timeout);
        let mut machine =
            Machine::start(&MODEL, &kernel.image, &initramfs, COMMAND_LINE, false, deadline)?;
        let outcome = pair(&mut machine, kernel, &second, &place.join("pair.elf"));
        machine.end(&place.join(format!("console-{name}.log")))?;
        let outcome = outcome.with_context(|| format!("the console said:\n{}", machine.tail(30)));
        let (foretold, shown) = outcome.with_context(|| format!("into {name}"))?;
        let named = shown.named(change.map_or("", |(_, new)| new));
        ensure!(
            foretold == shown,
            "into {name}: {foretold:?} was foretold, and what happened is {shown:?}"
        );
        ensure!(machine.said().contains(&named), "into {name}: the console does not say {named:?}");
        println!("liveupdate: into {name}: {foretold:?} was foretold, and happened");
        tried += 1;
    }
    println!("liveupdate: {tried} pairs, each as foretold");
    Ok(())
}

/// One jump: what was foretold of it, and what happened.
fn pair(
    machine: &mut Machine,
    kernel: &Kernel,
    second: &Path,
    dump: &Path,
) -> Result<(Outcome, Outcome)> {
    let told = told(machine, kernel, dump)?;
    // Not by cargo, which may wait for another that builds.
    let mut check = Command::new(target(crate::linux::place::project()?).join("release/heirloom"));
    check
        .args(["check", "--json"])
        .arg(dump)
        .args(told.place())
        .args(["--accept", TEST_STATES])
        .arg("--for")
        .arg(second);
    let check = check.output()?;
    let json = serde_json::from_slice(&check.stdout).with_context(|| {
        format!("heirloom check --for: {}", String::from_utf8_lossy(&check.stderr))
    })?;
    let foretold = Outcome::foretold(&json)?;
    let status = i32::from(foretold != Outcome::Taken);
    ensure!(
        check.status.code() == Some(status),
        "heirloom check --for ended with {}",
        check.status
    );
    let shown = machine.find("what becomes of the handover", Outcome::shown)?;
    Ok((foretold, shown))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn two_pairs_are_one_that_takes_it_and_one_that_does_not() {
        let two: Vec<_> = Pairs::Two.changes().collect();
        assert_eq!((two.len(), two[0].is_none(), two[1].is_some()), (2, true, true));
        assert!(Pairs::All.changes().eq(CHANGES));
    }

    #[test]
    fn the_first_structure_that_is_not_taken_decides() {
        let next = |verdict: &str, structures: Value| {
            Outcome::foretold(&json!({ "next": { "verdict": verdict, "structures": structures } }))
        };
        let taken = json!({ "takes": "taken" });
        let not = |reason: &str| json!({ "takes": "not taken", "reason": reason });
        assert_eq!(next("taken", json!([taken])).unwrap(), Outcome::Taken);
        assert!(next("not known", json!([taken])).is_err());
        let panics = not("x: it panics while it boots");
        let closed = not("x: each open of /dev/liveupdate fails with EIO: no session");
        assert_eq!(next("not taken", json!([taken, panics, closed])).unwrap(), Outcome::Panic);
        assert_eq!(next("not taken", json!([taken, closed])).unwrap(), Outcome::Closed);
        assert!(next("not taken", json!([not("x")])).is_err());
    }

    #[test]
    fn the_console_shows_what_happened() {
        for (line, outcome) in [
            ("[    0.1] Kernel panic - not syncing: x", Some(Outcome::Panic)),
            ("liveupdate: 12 files, 3456 bytes, 0 lost", Some(Outcome::Taken)),
            (
                "liveupdate: failed: the kernel before this one handed nothing over",
                Some(Outcome::Ignored),
            ),
            ("liveupdate: failed: no space", None),
        ] {
            assert_eq!(Outcome::shown(line), outcome, "{line}");
        }
    }
}
