//! `cargo xtask kernel`: the kernel of `examples/kernel` through generations of its own two builds, in an emulated
//! machine.
//!
//! ```text
//! examples/kernel ─> build one: ELF, bzImage ──┐
//!                 └> build two: bzImage ───────┼─> QEMU: PVH -> one ══> two ══> one ...
//! --linux: Linux, examples/between ────────────┤                   jump, crash, death in a takeover
//!                                              └─> QEMU: Linux ══> two ══> one ══> Linux ══> ...
//!                                   heirloom check <── memory image ┘ at each of Linux's first steps
//! ```
//!
//! The machine is emulated (`-accel tcg`), so it runs anywhere. Each kernel compares all that its predecessor left with
//! what it is to be, and says on the console what it found.

mod chain;
mod linux;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chain::{Chain, Totals};
use heirloom_x86::bzimage;

use linux::Linux;

use crate::linux::machine::{Machine, Model};
use crate::linux::place::{project, target};
use crate::linux::skipping::{self, unavailable};
use crate::linux::{EMULATOR, apt};

/// Run the example kernel: generations of its own builds, with crashes in between, every byte compared.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds after which a machine is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Run each chain so many times, with other instants of interrupts and crashes.
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: u64,
    /// Run chains with Linux in them as well: at the end, at the start, in the middle. Builds one if none is kept, which takes minutes.
    #[arg(long)]
    linux: bool,
    /// Run the chains whose names begin so, and no other.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Print all that the machine prints.
    #[arg(long)]
    console: bool,
}

/// The chains: what each kernel of one does at its end is a letter. See `examples/kernel/src/main.rs`.
const CHAINS: [Chain; 3] = [
    // Six jumps, three of them from an interrupt in the middle of both CPUs' work.
    Chain { name: "crashes", plan: "jccjcje", memory: "512M", cpus: 2 },
    // A hole between 3 and 4 GiB, and memory above.
    Chain { name: "hole", plan: "jcje", memory: "5G", cpus: 2 },
    // Successors that die in their takeover, one after another too.
    Chain { name: "deaths", plan: "jdcddjde", memory: "512M", cpus: 2 },
];

/// Those with Linux in them.
const LINUX: [Chain; 2] = [
    // It takes over from a kernel that crashed.
    Chain { name: "linux", plan: "jcl", memory: "512M", cpus: 2 },
    // It hands over to another kernel, takes over from the one behind, which crashed, and hands over again.
    Chain { name: "between", plan: "ljcljl", memory: "512M", cpus: 2 },
];

/// Linux's, where it is the first. The archive that it begins with stays, for the next Linux; it has scratch for all images
/// of a chain.
const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 nox2apic kho=on liveupdate=on retain_initrd kho_scratch=64M,64M,64M";

/// What a PC without an operating system needs of Rust.
const TARGET: &str = "x86_64-unknown-none";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let place = match project() {
        Ok(root) => target(root).join("kernel"),
        Err(error) => {
            eprintln!("kernel: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    skipping::run("kernel", &place, || chains(arguments, &place))
}

fn chains(arguments: &Arguments, place: &Path) -> Result<()> {
    apt::install(&EMULATOR)?;
    let linux = arguments.linux.then(|| Linux::get(project()?, place)).transpose()?;
    let images = Images::build(project()?, place, linux)?;
    let mut totals = Totals::default();
    for seed in 1..=arguments.repeat {
        let all = CHAINS.iter().chain(LINUX.iter().filter(|_| arguments.linux));
        for chain in all.filter(|chain| chain.name.starts_with(&arguments.only)) {
            totals.add(&drive(chain, seed, &images, arguments, place)?);
        }
    }
    println!("kernel: {totals}");
    Ok(())
}

/// The kernel's builds.
struct Images {
    /// Build one, as QEMU loads it.
    first: PathBuf,
    /// bzImages of both, one behind the other; with Linux, its own and what it begins with behind them.
    all: PathBuf,
    linux: Option<Linux>,
}

impl Images {
    fn build(root: &Path, place: &Path, linux: Option<Linux>) -> Result<Self> {
        let first = build(root, place, &["--release"], "release")?;
        let second = build(root, place, &["--profile", "small", "--features", "two"], "small")?;
        let mut parts = Vec::new();
        for path in [&first, &second] {
            let elf = fs::read(path)?;
            let mut image = vec![0; bzimage::size(&elf)?];
            let bytes = bzimage::from_elf(&elf, &mut image)?;
            println!("kernel: {} bytes of bzImage from {}", bytes, path.display());
            parts.push(image);
        }
        if let Some(linux) = &linux {
            parts.push(fs::read(linux.image())?);
            parts.push(linux.pack(&parts)?);
        }
        let images = place.join("images");
        fs::write(&images, parts.concat())?;
        Ok(Self { first, all: images, linux })
    }
}

/// Builds the kernel, and returns where it is.
fn build(root: &Path, place: &Path, options: &[&str], profile: &str) -> Result<PathBuf> {
    let installed =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let there = installed.is_ok_and(|output| {
        Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("../lib").read_dir().is_ok()
    });
    if !there {
        return unavailable(format!("no target {TARGET} (`rustup target add {TARGET}`)"));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--quiet", "--locked", "--target", TARGET]);
    cargo.args(["--manifest-path", "examples/kernel/Cargo.toml", "--target-dir"]).arg(place);
    // Its own flags, whatever this program was built with.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").args(options);
    let done = cargo.stdin(Stdio::null()).status().context("cargo")?;
    ensure!(done.success(), "cargo build of examples/kernel ended with {done}");
    Ok(place.join(TARGET).join(profile).join("kernel"))
}

/// One chain, from the machine's start to its end.
fn drive(
    chain: &Chain,
    seed: u64,
    images: &Images,
    arguments: &Arguments,
    place: &Path,
) -> Result<Totals> {
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let (memory, cpus) = (chain.memory, chain.cpus);
    let stopped = chain.plan.contains('l');
    let model = Model { memory, cpus, counted: false, say: "kernel: ", stopped };
    let line = format!("plan={} step=0 cpus={cpus} seed={seed}", chain.plan);
    println!("kernel: {}: {line}, {memory} of memory", chain.name);
    let show = arguments.console;
    let linux = images.linux.as_ref().filter(|_| stopped);
    let mut machine = match linux {
        Some(linux) if chain.plan.starts_with('l') => {
            let line = format!("{COMMAND_LINE} {line}");
            Machine::start(&model, linux.image(), linux.initramfs(), &line, show, deadline)?
        }
        _ => Machine::start(&model, &images.first, &images.all, &line, show, deadline)?,
    };
    let looked = linux.map_or(Ok(()), |linux| linux.look(&mut machine, chain));
    let ended = looked.and_then(|()| machine.powered_off());
    let log = place.join(format!("{}.log", chain.name));
    fs::write(&log, machine.said())?;
    let totals = ended.and_then(|()| chain.judge(machine.said()));
    totals.with_context(|| {
        format!("{}, seed {seed}; the console said:\n{}", chain.name, machine.tail(30))
    })
}
