//! `cargo xtask liveupdate`: a real live update, in an emulated machine.
//!
//! ```text
//! Linux's source package ─> kernel ────────┐
//! examples/liveupdate, static ─> init ─────┼─> initramfs ─> QEMU: first kernel ══ kexec ══> second
//! the project's own files ─> /files ───────┘                           │
//!                              heirloom inspect, check <── memory image ┘ at the second's first step
//!                                         │ extract
//!                              heirloom inspect, check: the arena in it, by its own tables
//! ```
//!
//! The machine is emulated (`-accel tcg`), so it runs anywhere. It is stopped where the second
//! kernel is about to look at what it was handed, and its memory is written out: that is the
//! handover as Linux made it, before anybody used it up. Then it runs on, and the second life says
//! on the console what it found.

mod live;
mod pairs;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::linux::initramfs::Initramfs;
use crate::linux::kernel::{self, Kernel};
use crate::linux::machine::{Board, Machine, Model};
use crate::linux::place::{project, target};
use crate::linux::{program, skipping};
use pairs::Pairs;

/// Run the live update for real: two kernels in QEMU, every byte compared.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds after which the machine is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    timeout: u64,
    /// Get the emulator and the kernel, which takes minutes, and run nothing.
    #[arg(long)]
    prepare: bool,
    /// Jump into kernels that take other versions too, and compare what `heirloom check --for` foretells with what
    /// happens: `all` of them, or `two`, of which one takes what it is handed and one does not.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, default_missing_value = "all", conflicts_with = "prepare")]
    pairs: Option<Pairs>,
    /// Have `heirloom inspect --live` look at the kernels from within, and at one that crashed, and compare with what is
    /// handed over.
    #[arg(long, conflicts_with_all = ["prepare", "pairs"])]
    live: bool,
    /// Print all that the machine prints.
    #[arg(long)]
    console: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let place = match project() {
        Ok(root) => target(root).join("liveupdate"),
        Err(error) => {
            eprintln!("liveupdate: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    skipping::run("liveupdate", &place, || live_update(arguments, &place))
}

/// What the machine is.
const MODEL: Model<'static> = Model {
    board: Board::Pc,
    memory: "768M",
    cpus: 2,
    counted: false,
    say: "liveupdate: ",
    stopped: true,
};

/// The session and the token under which the example hands its arena over.
const SESSION: &str = "heirloom";
const TOKEN: u64 = 1;
/// States of the test that the kernel was built with: only that test knows what they are.
const TEST_STATES: &str = "liveupdate-test-flb-v*";

/// The command line of the first kernel. The example gives the second its own.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 kho=on liveupdate=on";

fn live_update(arguments: &Arguments, place: &Path) -> Result<()> {
    let root = project()?;
    let kernel = Kernel::get(&kernel::BASE, place)?;
    if arguments.prepare {
        return Ok(());
    }
    if arguments.live {
        return live::run(&kernel, place, arguments.timeout, arguments.console);
    }
    let program = program::build(root, "liveupdate")?;
    if let Some(which) = arguments.pairs {
        return pairs::run(which, &kernel, &program, place, arguments.timeout);
    }

    let mut inside = Initramfs::new();
    inside.terminals();
    inside.file("init", 0o755, &fs::read(&program)?);
    let packed = inside.files_below(root, "files")?;
    let mut outside = inside.clone();
    outside.directory("next");
    outside.file("next/kernel", 0o644, &fs::read(&kernel.image)?);
    outside.file("next/initramfs", 0o644, &inside.finish());
    let initramfs = place.join("initramfs");
    fs::write(&initramfs, outside.finish())?;
    println!("liveupdate: {} files, {} bytes packed", packed.files, packed.bytes);

    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let dump = place.join("handover.elf");
    let show = arguments.console;
    let mut machine =
        Machine::start(&MODEL, &kernel.image, &initramfs, COMMAND_LINE, show, deadline)?;
    let result = update(&mut machine, &kernel, &dump);
    let log = place.join("console.log");
    machine.end(&log)?;
    let (told, found) =
        result.with_context(|| format!("the console said:\n{}", machine.tail(30)))?;
    drop(machine);
    ensure!(
        (found.files, found.bytes, found.lost) == (packed.files, packed.bytes, 0),
        "packed {} files of {} bytes, found {} of {}, {} lost",
        packed.files,
        packed.bytes,
        found.files,
        found.bytes,
        found.lost,
    );
    println!("liveupdate: the console is kept in {}", log.display());
    look(root, &dump, told)
}

/// What the second life says at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    files: u64,
    bytes: u64,
    lost: u64,
}

impl Found {
    /// Reads `liveupdate: F files, B bytes, L lost`, and nothing else.
    fn read(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("liveupdate: ")?.split(", ");
        let mut number = |unit| parts.next()?.strip_suffix(unit)?.parse().ok();
        let found =
            Self { files: number(" files")?, bytes: number(" bytes")?, lost: number(" lost")? };
        parts.next().is_none().then_some(found)
    }
}

/// What a kernel tells the next one, beside its memory: where the root page and the scratch list are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    root: u64,
    scratch: u64,
    scratch_bytes: u64,
}

impl Told {
    /// The same for the command `heirloom`.
    fn place(&self) -> [String; 2] {
        let Self { root, scratch, scratch_bytes } = self;
        [format!("--root={root:#x}"), format!("--scratch={scratch:#x}+{scratch_bytes:#x}")]
    }
}

/// Both lives: the first up to the jump, the image, the second to its end. Returns what the second
/// kernel was told, and what came out.
fn update(machine: &mut Machine, kernel: &Kernel, dump: &Path) -> Result<(Told, Found)> {
    let told = told(machine, kernel, dump)?;
    let found = machine.find("the second life's result", |line| match Found::read(line) {
        Some(found) => Some(Ok(found)),
        None if line.contains("liveupdate: failed") || line.contains("Kernel panic") => {
            Some(Err(anyhow::anyhow!("{line}")))
        }
        None => None,
    })??;
    machine.powered_off()?;
    Ok((told, found))
}

/// The first life up to the jump, and the image, where the second kernel begins to look at it; it runs on then.
/// Returns what the second kernel was told.
fn told(machine: &mut Machine, kernel: &Kernel, dump: &Path) -> Result<Told> {
    let mut debugger = machine.debugger()?;
    debugger.stop_at(kernel.populate)?;
    debugger.run()?;
    machine.find("the jump", |line| match line {
        line if line.contains("liveupdate: jumping") => Some(Ok(())),
        line if line.contains("liveupdate: failed") || line.contains("Kernel panic") => {
            Some(Err(anyhow::anyhow!("{line}")))
        }
        _ => None,
    })??;
    debugger.stopped(machine.deadline()).context("the second kernel was handed nothing")?;
    let [root, _, scratch, scratch_bytes] = debugger.arguments()?;
    println!("liveupdate: the second kernel is told of a root page at {root:#x}");
    machine.monitor()?.dump(dump)?;
    debugger.leave()?;
    Ok(Told { root, scratch, scratch_bytes })
}

/// What the command `heirloom` says of the image.
fn look(root: &Path, dump: &Path, told: Told) -> Result<()> {
    let command = |name, image| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(root).args(["run", "--quiet", "--release", "-p", "heirloom-cli", "--"]);
        command.arg(name).arg(image);
        command
    };
    let heirloom = |name| command(name, dump);
    let place = told.place();
    let done = heirloom("inspect").args(&place).status()?;
    ensure!(done.success(), "heirloom inspect ended with {done}");

    // Not told where, it finds the same by scanning.
    let json = heirloom("inspect").arg("--json").output()?;
    let seen = serde_json::from_slice(&json.stdout).context("heirloom inspect --json")?;
    ensure!(keeps_arena(&seen), "heirloom inspect shows no memfd with token {TOKEN} in {SESSION}");
    let (found, root) = (&seen["fdt"], format!("{:#x}", told.root));
    ensure!(*found == *root, "heirloom inspect finds root {found}, Linux handed over {root}");

    // The states of the kernel's own test are nobody's to look at.
    let done = heirloom("check").args(&place).args(["--accept", TEST_STATES]).status()?;
    ensure!(done.success(), "heirloom check ended with {done}");

    // What to Linux is a file is a handover in itself: that of the arena.
    let arena = dump.with_file_name("arena");
    let mut extract = heirloom("extract");
    extract.args(&place).args([SESSION, &TOKEN.to_string(), "-o"]).arg(&arena);
    let done = extract.status()?;
    ensure!(done.success(), "heirloom extract ended with {done}");
    let done = command("inspect", &arena).status()?;
    ensure!(done.success(), "heirloom inspect of the arena ended with {done}");
    let json = command("inspect", &arena).args(["--json", "--quick"]).output()?;
    let seen = serde_json::from_slice(&json.stdout).context("heirloom inspect --json")?;
    ensure!(is_sealed(&seen), "heirloom inspect of the arena shows no sealed tables");
    let done = command("check", &arena).status()?;
    ensure!(done.success(), "heirloom check of the arena ended with {done}");
    Ok(())
}

/// Whether `heirloom inspect` saw caches of heirloom's own, under a seal that is whole.
fn is_sealed(seen: &Value) -> bool {
    let own = |field: &str| seen.pointer(&format!("/subtrees/heirloom/{field}"));
    let caches = own("caches").and_then(Value::as_array);
    let (sealed, sound) = (own("seal/entries"), own("seal/sound"));
    caches.is_some_and(|caches| !caches.is_empty()) && sealed.is_some() && sealed == sound
}

/// Whether the memfd of the example is in what `heirloom inspect` saw.
fn keeps_arena(seen: &Value) -> bool {
    let list = |of: &Value, field: &str| of.get(field).and_then(Value::as_array).cloned();
    let sessions = seen.pointer("/subtrees/LUO").and_then(|luo| list(luo, "sessions"));
    let session = sessions.unwrap_or_default().into_iter().find(|it| it["name"] == SESSION);
    let files = session.and_then(|session| list(&session, "files")).unwrap_or_default();
    files.iter().any(|file| file["token"] == TOKEN && file["compatible"] == "memfd-v2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read_to_the_letter() {
        let found = Found { files: 12, bytes: 3456, lost: 0 };
        assert_eq!(Found::read("liveupdate: 12 files, 3456 bytes, 0 lost"), Some(found));
        for line in [
            "liveupdate: 12 files, 3456 bytes, 0 lost, 1 found",
            "liveupdate: 12 files, 3456 bytes",
            "liveupdate: kept 12 files, 3456 bytes, 0 lost",
            "12 files, 3456 bytes, 0 lost",
        ] {
            assert_eq!(Found::read(line), None, "{line}");
        }
    }

    #[test]
    fn the_arena_is_known_by_session_and_token() {
        let seen = |name, token| {
            let files = serde_json::json!([{ "token": token, "compatible": "memfd-v2" }]);
            let sessions = serde_json::json!([{ "name": name, "files": files }]);
            serde_json::json!({ "subtrees": { "LUO": { "sessions": sessions } } })
        };
        assert!(keeps_arena(&seen(SESSION, TOKEN)));
        assert!(!keeps_arena(&seen(SESSION, TOKEN + 1)));
        assert!(!keeps_arena(&seen("other", TOKEN)));
        assert!(!keeps_arena(&serde_json::json!({})));
    }

    #[test]
    fn a_seal_is_whole_or_none() {
        let seen = |caches, seal| {
            let own = serde_json::json!({ "caches": caches, "seal": seal });
            serde_json::json!({ "subtrees": { "heirloom": own } })
        };
        let (caches, none) = (serde_json::json!([{ "name": "files" }]), serde_json::json!([]));
        let seal = |sound| serde_json::json!({ "entries": 9, "sound": sound });
        assert!(is_sealed(&seen(caches.clone(), seal(9))));
        assert!(!is_sealed(&seen(caches.clone(), seal(8))));
        assert!(!is_sealed(&seen(caches, Value::Null)));
        assert!(!is_sealed(&seen(none, seal(9))));
        assert!(!is_sealed(&Value::Null));
    }
}
