//! A kernel's handover as the command shows it from within, and what then becomes of it.
//!
//! ```text
//!  first kernel: inspect --live, check --live
//!      ║ kexec                                    ║ the first process ends
//!      ║ memory image                             ║
//!      ╟─> inspect: the same pages, files         ║
//!  second kernel: the files, and its own:     crash kernel: inspect /proc/vmcore:
//!  inspect --live, check --live               the same pages, files
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{COMMAND_LINE, MODEL, Told, told};
use crate::linux::initramfs::Initramfs;
use crate::linux::kernel::Kernel;
use crate::linux::machine::{Machine, Model};
use crate::linux::place::project;
use crate::linux::program;

/// What the second kernel of the example preserves.
const AGAIN: &str = "again";

/// Looks at kernels from within and compares.
///
/// # Errors
/// The first that does not agree.
pub(super) fn run(kernel: &Kernel, place: &Path, timeout: u64, show: bool) -> Result<()> {
    let root = project()?;
    let (program, command) = (program::build(root, "live")?, program::command(root)?);
    // What a machine's time is not to be spent on.
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root).args(["build", "--quiet", "--release", "-p", "heirloom-cli"]);
    let done = build.status()?;
    ensure!(done.success(), "building heirloom ended with {done}");

    let mut inside = Initramfs::new();
    inside.terminals();
    for directory in ["proc", "sys", "sys/kernel", "sys/kernel/debug"] {
        inside.directory(directory);
    }
    inside.file("init", 0o755, &fs::read(&program)?);
    inside.file("heirloom", 0o755, &fs::read(&command)?);
    let mut outside = inside.clone();
    outside.directory("next");
    outside.file("next/kernel", 0o644, &fs::read(&kernel.image)?);
    outside.file("next/initramfs", 0o644, &inside.finish());
    let initramfs = place.join("initramfs-live");
    fs::write(&initramfs, outside.finish())?;

    let start = |model: &Model<'_>, line: &str| {
        let deadline = Instant::now() + Duration::from_secs(timeout);
        Machine::start(model, &kernel.image, &initramfs, line, show, deadline)
    };
    let (model, dump) = (Model { memory: "1G", ..MODEL }, place.join("live.elf"));
    let mut machine = start(&model, COMMAND_LINE)?;
    let result = jump(&mut machine, kernel, &dump);
    machine.end(&place.join("console-live.log"))?;
    result.with_context(|| format!("the console said:\n{}", tail(&machine)))?;
    drop(machine);

    let crashing = Model { stopped: false, ..model };
    // By itself Linux takes twice as much scratch as is reserved, and there is not so much.
    let line = format!("{COMMAND_LINE} kho_scratch=16M,64M,16M crashkernel=256M LIFE=crash");
    let mut machine = start(&crashing, &line)?;
    let result = crash(&mut machine);
    machine.end(&place.join("console-crash.log"))?;
    result.with_context(|| format!("the console said:\n{}", tail(&machine)))
}

/// The last lines, without those that the command printed.
fn tail(machine: &Machine) -> String {
    let lines: Vec<_> = machine.said().lines().filter(|line| !line.starts_with("look ")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Waits for the example's last words.
fn finished(machine: &mut Machine, words: &str) -> Result<()> {
    machine.find(words, |line| match line {
        line if line.contains(words) => Some(Ok(())),
        line if line.contains("liveupdate: failed") => Some(Err(anyhow::anyhow!("{line}"))),
        _ => None,
    })??;
    machine.powered_off()
}

/// The jump: what was shown before it, what the second kernel is handed, and what that one shows.
fn jump(machine: &mut Machine, kernel: &Kernel, dump: &Path) -> Result<()> {
    let told = told(machine, kernel, dump)?;
    let received = received(dump, told)?;
    finished(machine, "liveupdate: looked at two kernels")?;
    let looks = Looks::read(machine.said());
    let before = looks.handover("before")?;
    before.check_live()?;
    ensure!(before.root() == format!("{:#x}", told.root), "shown was root page {}", before.root());
    before.compare(&received)?;
    looks.ended_well("checked")?;

    let again = looks.handover("again")?;
    again.check_live()?;
    ensure!(again.root() != before.root(), "the second kernel has the first one's root page");
    ensure!(
        again.sessions() == BTreeSet::from([AGAIN.to_owned()]),
        "shown was {:?}",
        again.sessions()
    );
    looks.ended_well("checked-again")?;
    println!(
        "liveupdate: shown was what was handed over: {} folios, {} files",
        before.preserved().len(),
        before.memfds().len()
    );
    Ok(())
}

/// The crash: what was shown before it, and what is in the memory of the kernel that crashed.
fn crash(machine: &mut Machine) -> Result<()> {
    finished(machine, "liveupdate: looked at a kernel that crashed")?;
    let looks = Looks::read(machine.said());
    let (before, crashed) = (looks.handover("before")?, looks.handover("crashed")?);
    before.compare(&crashed)?;
    let scanned = looks.handover("scanned")?;
    ensure!(scanned.root() == before.root(), "found by scanning was {}", scanned.root());
    println!("liveupdate: what a kernel that crashed would have handed over is in /proc/vmcore");
    Ok(())
}

/// What the command says of the image of what the second kernel was handed.
fn received(dump: &Path, told: Told) -> Result<Handover> {
    let root = project()?;
    // Not by cargo, which may wait for another that builds.
    let mut inspect = Command::new(crate::linux::place::target(root).join("release/heirloom"));
    inspect.args(["inspect", "--json"]).arg(dump).args(told.place());
    let said = inspect.output()?;
    ensure!(said.status.success(), "inspect: {}", String::from_utf8_lossy(&said.stderr));
    Ok(Handover(serde_json::from_slice(&said.stdout)?))
}

/// What the command said within the machine, by the name of each call, and how it ended.
struct Looks {
    said: BTreeMap<String, String>,
    ended: BTreeMap<String, String>,
}

impl Looks {
    fn read(console: &str) -> Self {
        let (mut said, mut ended) = (BTreeMap::<_, String>::new(), BTreeMap::new());
        for line in console.lines() {
            if let Some((name, text)) =
                line.strip_prefix("look ").and_then(|line| line.split_once(": "))
            {
                let of = said.entry(name.to_owned()).or_default();
                of.push_str(text);
                of.push('\n');
            }
            let end =
                line.strip_prefix("liveupdate: ").and_then(|line| line.split_once(" ended with "));
            ended.extend(end.map(|(name, code)| (name.to_owned(), code.trim().to_owned())));
        }
        Self { said, ended }
    }

    fn ended_well(&self, name: &str) -> Result<()> {
        let said = || self.said.get(name).map(String::as_str).unwrap_or_default();
        match self.ended.get(name).map(String::as_str) {
            Some("0") => Ok(()),
            code => bail!("{name} ended with {code:?}:\n{}", said()),
        }
    }

    fn handover(&self, name: &str) -> Result<Handover> {
        self.ended_well(name)?;
        let said = self.said.get(name).with_context(|| format!("{name} said nothing"))?;
        let value = serde_json::from_str(said).with_context(|| format!("{name} said:\n{said}"))?;
        Ok(Handover(value))
    }
}

/// What `inspect --json` says.
struct Handover(Value);

impl Handover {
    fn root(&self) -> &str {
        self.0["fdt"].as_str().unwrap_or_default()
    }

    /// Address and order of each folio.
    fn preserved(&self) -> BTreeSet<String> {
        self.0["preserved"].as_array().into_iter().flatten().map(Value::to_string).collect()
    }

    /// Its sessions: those that lists have, and those that are open.
    fn sessions(&self) -> BTreeSet<String> {
        let listed = self.0.pointer("/subtrees/LUO/sessions").and_then(Value::as_array);
        let open = self.0.pointer("/now/sessions").and_then(Value::as_array);
        let names = listed.into_iter().chain(open).flatten();
        names.filter_map(|session| Some(session["name"].as_str()?.to_owned())).collect()
    }

    /// Its memfds by address: size, seals, folios and hash of each.
    fn memfds(&self) -> BTreeMap<String, String> {
        let of = |at: &Value, memfd: &Value| {
            let fields = ["size", "seals", "nr_folios", "folios", "holes", "sha256"];
            let fields: Vec<_> = fields.iter().map(|name| memfd[*name].to_string()).collect();
            (at.to_string(), fields.join(" "))
        };
        let sessions = self.0.pointer("/subtrees/LUO/sessions").and_then(Value::as_array);
        let files =
            sessions.into_iter().flatten().filter_map(|session| session["files"].as_array());
        let listed = files.flatten().filter(|file| file["nr_folios"].is_number());
        let listed = listed.map(|file| of(&file["data"], file));
        let now = self.0.pointer("/now/memfds").and_then(Value::as_array).into_iter().flatten();
        listed.chain(now.map(|memfd| of(&memfd["at"], memfd))).collect()
    }

    /// Checks that nothing is wrong with what a running kernel shows, and nothing is missing.
    fn check_live(&self) -> Result<()> {
        let findings = self.0["findings"].as_array().context("findings")?;
        ensure!(findings.is_empty(), "findings in a kernel that runs: {findings:?}");
        ensure!(self.0["scratch"].is_array(), "scratch is not known");
        ensure!(!self.memfds().is_empty() && !self.sessions().is_empty(), "no file, or no session");
        Ok(())
    }

    /// Compares what was shown with what `other`, a later look, has.
    fn compare(&self, other: &Self) -> Result<()> {
        for field in ["fdt", "compatible", "map"] {
            let (shown, found) = (&self.0[field], &other.0[field]);
            ensure!(shown == found, "{field}: shown was {shown}, and {found} it is");
        }
        let places = |of: &Self| {
            let subtrees = of.0["subtrees"].as_object().into_iter().flatten();
            let place = |(name, of): (&String, &Value)| {
                (name.clone(), (of["phys"].clone(), of["size"].clone()))
            };
            subtrees.map(place).collect::<BTreeMap<_, _>>()
        };
        let (shown, found) = (places(self), places(other));
        ensure!(shown == found, "subtrees: shown were {shown:?}, and {found:?} there are");
        let (shown, found) = (self.preserved(), other.preserved());
        let missing: Vec<_> = shown.difference(&found).collect();
        let more: Vec<_> = found.difference(&shown).collect();
        ensure!(
            missing.is_empty() && more.is_empty(),
            "preserved: shown were {missing:?} too, and not {more:?}"
        );
        // Where a kernel has crashed, no list has them; but the pages are there.
        let (shown, found) = (self.memfds(), other.memfds());
        if !found.is_empty() {
            ensure!(shown == found, "files: shown were {shown:#?}, and {found:#?} there are");
            let (shown, found) = (self.sessions(), other.sessions());
            ensure!(shown == found, "sessions: shown were {shown:?}, and {found:?} there are");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_command_says_is_taken_from_the_console_by_name() {
        let looks = Looks::read(
            "liveupdate: a\nlook before: {\nlook before:  \"fdt\": \"0x1000\"\nlook after: {}\nlook before: }\n\
             liveupdate: before ended with 0\nliveupdate: after ended with 1\n",
        );
        assert_eq!(looks.handover("before").unwrap().root(), "0x1000");
        assert!(looks.handover("after").is_err());
        assert!(looks.handover("none").is_err());
    }

    #[test]
    fn a_page_or_a_file_more_is_a_difference() {
        let handover = |preserved: Value, hash: &str| {
            let memfd = json!({ "at": "0x2000", "nr_folios": 1, "size": 1, "sha256": hash });
            Handover(json!({
                "fdt": "0x1000", "preserved": preserved, "subtrees": {},
                "now": { "sessions": [{ "name": "a" }], "memfds": [memfd] },
            }))
        };
        let shown = handover(json!([["0x1000", 0]]), "ab");
        assert!(shown.compare(&shown).is_ok());
        for other in [
            handover(json!([["0x1000", 0], ["0x2000", 0]]), "ab"),
            handover(json!([]), "ab"),
            handover(json!([["0x1000", 1]]), "ab"),
            handover(json!([["0x1000", 0]]), "cd"),
        ] {
            assert!(shown.compare(&other).is_err());
        }
        let listed = json!([{ "name": "a", "files": [
            { "data": "0x2000", "nr_folios": 1, "size": 1, "sha256": "ab" },
        ] }]);
        let listed = json!({ "LUO": { "sessions": listed } });
        let received = Handover(json!({ "subtrees": listed }));
        assert_eq!((received.sessions(), received.memfds()), (shown.sessions(), shown.memfds()));
    }
}
