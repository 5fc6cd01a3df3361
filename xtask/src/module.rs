//! `cargo xtask module`: heirloom in a real Linux, as a module, over real jumps, in an emulated machine.
//!
//! ```text
//! kernel of a flavour ─> build.tar.gz ─┐
//! linux/module + capi ─────────────────┴─> heirloom.ko, heirloom_test.ko (a subsystem) ─┐
//! linux/module/test/init.c, static ─> init ─────────────────────────────────────────────┼─> initramfs
//!        each life's initramfs has the next life's within: kernel, initramfs, command line ┘      │
//!                                     QEMU: life 1 ══ kexec ══> life 2 ══ kexec ══> life 3 <──────┘
//! ```
//!
//! The subsystem says on the console what it claimed and compared; what the kernel itself complains of
//! is a fault as well.

mod build;
mod count;
mod driver;
mod life;
mod scenario;
mod summary;
mod table;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use build::Builder;
use scenario::{LONG, SHORT, Scenario};
use summary::Summary;

use crate::linux::console::TookTooLong;
use crate::linux::machine::{Board, Machine, Model};
use crate::linux::place::{project, target};
use crate::linux::skipping;

/// Run the kernel module for real: lives over jumps in QEMU, every byte compared.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Arguments {
    /// Seconds after which a machine is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Get the emulator and the kernel, which takes minutes, and run nothing.
    #[arg(long)]
    prepare: bool,
    /// Three different kernels in a row too: one that checks itself, one with the module built in. They
    /// take an hour to build, once.
    #[arg(long)]
    long: bool,
    /// Count instructions instead, beside Linux's own allocators.
    #[arg(long, conflicts_with = "long")]
    count: bool,
    /// Run the scenarios whose names have this in them.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Print all that the machine prints.
    #[arg(long)]
    console: bool,
}

/// The name of the command, and of its directory.
const NAME: &str = "module";

/// What lines of the console are shown begin with.
const SAY: &str = "subsystem: ";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let place = match project() {
        Ok(root) => target(root).join(NAME),
        Err(error) => {
            eprintln!("module: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    skipping::run(NAME, &place, || run_module(arguments, &place))
}

fn run_module(arguments: &Arguments, place: &Path) -> Result<()> {
    let root = project()?;
    let builder = Builder::new(root, place)?;
    if arguments.prepare {
        return builder.prepare(arguments.long);
    }
    if arguments.count {
        return count::run(&builder, arguments);
    }
    let only = |scenario: &&Scenario| {
        arguments.only.as_ref().is_none_or(|only| scenario.name.contains(only.as_str()))
    };
    let long = if arguments.long { LONG } else { &[] };
    let mut sum = Summary::default();
    for scenario in SHORT.iter().chain(long).filter(only) {
        let found = run_scenario(scenario, &builder, arguments)
            .with_context(|| format!("scenario \"{}\"", scenario.name))?;
        sum.add(&found);
    }
    ensure!(sum.lives > 0, "no scenario has such a name");
    println!("module: {sum}");
    Ok(())
}

/// Runs a scenario to its end and checks what it says.
fn run_scenario(
    scenario: &Scenario,
    builder: &Builder<'_>,
    arguments: &Arguments,
) -> Result<Summary> {
    println!("module: {}", scenario.name);
    let memory = scenario.memory();
    let model =
        Model { board: Board::Pc, memory, cpus: 4, counted: false, say: SAY, stopped: false };
    let console = boot(scenario, &model, builder, arguments)?;
    let found = Summary::read(&console);
    scenario.check(&found, &console)?;
    println!("module: {}: {found}", scenario.name);
    Ok(found)
}

/// Runs the lives of a scenario in a machine. Returns what the console said.
///
/// Emulated on a machine that is busy, Linux has been seen to stop in its own boot, once in some hundreds. Of heirloom that says
/// nothing, and the lives are run once more, which is said; twice in a row is a failure.
fn boot(
    scenario: &Scenario,
    model: &Model<'_>,
    builder: &Builder<'_>,
    arguments: &Arguments,
) -> Result<String> {
    let log = builder.place.join(format!("console-{}.log", scenario.name.replace(' ', "-")));
    match boot_once(scenario, model, builder, arguments, &log) {
        Err(error) if error.is::<TookTooLong>() && stopped_alone(&fs::read_to_string(&log)?) => {
            println!(
                "module: Linux stopped in its own boot, without heirloom: once more. {error:#}"
            );
            boot_once(scenario, model, builder, arguments, &log)
        }
        ended => ended,
    }
}

/// Returns whether the last Linux that booted had not come to a line of heirloom's or of the subsystem's.
fn stopped_alone(console: &str) -> bool {
    let last = console.rsplit_once("Linux version ").map_or("", |(_, last)| last);
    let of_ours = |line: &str| ["heirloom: ", SAY].iter().any(|name| line.starts_with(name));
    !last.is_empty() && !last.lines().any(of_ours)
}

/// Runs the lives once. Leaves what the console said in `log`.
fn boot_once(
    scenario: &Scenario,
    model: &Model<'_>,
    builder: &Builder<'_>,
    arguments: &Arguments,
    log: &Path,
) -> Result<String> {
    let lives = scenario.lives(builder)?;
    let (image, packed, line) = life::nest(&lives, &builder.init)?;
    let initramfs = builder.place.join("initramfs");
    fs::write(&initramfs, packed)?;
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let mut machine =
        Machine::start(model, &image, &initramfs, &line, arguments.console, deadline)?;
    let ended = machine.powered_off();
    machine.end(log)?;
    ended.with_context(|| format!("{} ends with:\n{}", log.display(), machine.tail(30)))?;
    Ok(machine.said().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_that_stops_before_heirloom_is_there_is_told_apart() {
        let first = "Linux version 7.3\nheirloom: booted\nsubsystem: life 1\n";
        assert!(!stopped_alone(first));
        assert!(!stopped_alone(&format!("{first}kexec_core: Starting new kernel")));
        let second = format!("{first}Linux version 7.3\nKernel command line: heirloom.a=1\n");
        assert!(stopped_alone(&second));
        assert!(!stopped_alone(&format!("{second}heirloom: revived\n")));
        assert!(!stopped_alone(""), "nothing booted");
    }
}
