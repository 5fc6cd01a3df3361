//! Runs the benches and reads what they left.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Arguments;

/// The benches that criterion runs.
const TIMED: [&str; 5] = ["frames", "slab", "tracker", "restore", "replay"];

/// Those that tell their figures themselves.
const TOLD: [&str; 3] = ["footprint", "latency", "fragmentation"];

/// The counting build's flags; `benches/counting.rs` says what they do.
const COUNTING: &str = "--cfg heirloom_count -C passes=tsan \
     -C llvm-args=-tsan-instrument-func-entry-exit=0 \
     -C llvm-args=-tsan-instrument-memory-accesses=0 \
     -C llvm-args=-tsan-instrument-memintrinsics=0";

/// All that was measured: row, then who, then nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) times: BTreeMap<String, BTreeMap<String, f64>>,
    /// Bytes that a function of a row goes through.
    pub(super) bytes: BTreeMap<(String, String), f64>,
    /// Row, who, figure, unit.
    pub(super) footprints: Vec<(String, String, f64, String)>,
    /// Row, read-modify-writes for every 1000 operations.
    pub(super) counts: Vec<(String, f64)>,
    /// Row, who, nanoseconds of a call: the median, the 99.9th of a hundred, the worst.
    pub(super) latencies: Vec<(String, String, [f64; 3])>,
    /// Memory and how full it is kept, who, percent of operations refused, order of the largest block that is free.
    pub(super) refused: Vec<(String, String, f64, String)>,
    /// What it ran on.
    pub(super) machine: String,
}

impl Figures {
    pub(super) fn time(&self, row: &str, who: &str) -> Option<f64> {
        self.times.get(row)?.get(who).copied()
    }
}

fn folder(root: &Path) -> PathBuf {
    root.join("target/report")
}

/// Runs what was asked for.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let folder = folder(root);
    if arguments.only.is_empty() && folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let wanted =
        |bench: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == bench);
    let cargo = || {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(root).args(["bench", "--quiet", "--package", "heirloom-benches"]);
        if !arguments.without_native_peers {
            cargo.args(["--features", "native-peers"]);
        }
        cargo
    };
    // Built before the clock of any row starts.
    ensure!(cargo().arg("--no-run").status()?.success(), "the benches do not build");
    fs::write(folder.join("machine"), machine())?;
    for bench in TIMED.into_iter().filter(|bench| wanted(bench)) {
        let mut cargo = cargo();
        cargo.env("CRITERION_HOME", folder.join("criterion"));
        cargo.args(["--bench", bench, "--", "--noplot"]);
        if arguments.quick {
            cargo.arg("--quick");
        }
        ensure!(cargo.status()?.success(), "the bench `{bench}` failed");
    }
    for bench in TOLD.into_iter().filter(|bench| wanted(bench)) {
        output(cargo().args(["--bench", bench]), &folder.join(bench))?;
    }
    if wanted("counting") {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(root).args(["bench", "--quiet", "--package", "heirloom-benches"]);
        // A target that is named: build scripts and macros are not for it, and not counted.
        cargo.args(["--bench", "counting", "--target", "x86_64-unknown-linux-gnu"]);
        cargo.env("RUSTFLAGS", COUNTING).env("CARGO_PROFILE_BENCH_LTO", "off");
        cargo.env("CARGO_TARGET_DIR", root.join("target/counting"));
        output(&mut cargo, &folder.join("counting"))?;
    }
    Ok(())
}

fn output(command: &mut Command, file: &Path) -> Result<()> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} failed");
    fs::write(file, output.stdout)?;
    Ok(())
}

pub(crate) fn machine() -> String {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split(':').next_back().unwrap_or_default().trim().to_owned()
    };
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let load = first("/proc/loadavg", "");
    let cpu = |key: &str| first("/proc/cpuinfo", key);
    format!(
        "{} (family {}, model {}), {} CPUs, Linux {}, {}, load average as the run began {}",
        cpu("model name"),
        cpu("cpu family"),
        cpu("model\t"),
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        first("/proc/sys/kernel/osrelease", ""),
        rustc.trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// Reads what the last runs left.
pub(super) fn read(root: &Path) -> Result<Figures> {
    let folder = folder(root);
    let mut figures = Figures::default();
    let criterion = folder.join("criterion");
    if criterion.exists() {
        visit(&criterion, &mut figures)?;
    }
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    for line in text("footprint").lines() {
        if let ["footprint", row, who, figure, unit] = line.split('\t').collect::<Vec<_>>()[..] {
            let figure = figure.parse().context("a figure")?;
            figures.footprints.push((row.into(), who.into(), figure, unit.into()));
        }
    }
    for line in text("counting").lines() {
        if let ["count", row, figure] = line.split('\t').collect::<Vec<_>>()[..] {
            figures.counts.push((row.into(), figure.parse().context("a figure")?));
        }
    }
    for line in text("latency").lines() {
        if let ["latency", row, who, all @ ..] = &line.split('\t').collect::<Vec<_>>()[..] {
            let [median, most, worst] = all else { anyhow::bail!("three figures: {line}") };
            let figure = |text: &str| text.parse().context("a figure");
            let all = [figure(median)?, figure(most)?, figure(worst)?];
            figures.latencies.push(((*row).into(), (*who).into(), all));
        }
    }
    for line in text("fragmentation").lines() {
        if let ["fragmentation", memory, who, share, largest] =
            line.split('\t').collect::<Vec<_>>()[..]
        {
            let share = share.parse().context("a figure")?;
            figures.refused.push((memory.into(), who.into(), share, largest.into()));
        }
    }
    figures.machine = text("machine");
    Ok(figures)
}

/// A folder `new` of criterion's holds one function's figures; the others hold folders.
fn visit(folder: &Path, figures: &mut Figures) -> Result<()> {
    let new = folder.join("new");
    if new.join("estimates.json").exists() {
        let json = |name: &str| -> Result<Value> {
            Ok(serde_json::from_slice(&fs::read(new.join(name))?)?)
        };
        let (id, estimates) = (json("benchmark.json")?, json("estimates.json")?);
        let word = |key: &str| id[key].as_str().unwrap_or_default().to_owned();
        let (row, who) = (word("group_id"), word("function_id"));
        let median = estimates["median"]["point_estimate"].as_f64().context("a median")?;
        if let Some(bytes) = id["throughput"]["Bytes"].as_f64() {
            figures.bytes.insert((row.clone(), who.clone()), bytes);
        }
        figures.times.entry(row).or_default().insert(who, median);
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit(&entry.path(), figures)?;
        }
    }
    Ok(())
}
