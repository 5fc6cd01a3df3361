//! `cargo xtask kernel`: the kernel of `examples/kernel` through generations of its own two builds, in an emulated
//! machine: a PC, or with `--arm64` QEMU's `virt`.
//!
//! ```text
//! examples/kernel ─> build one: ELF, bzImage ──┐
//! --arm64: Images, device tree   build two ────┼─> QEMU: -> one ══> two ══> one ...
//! --linux: Linux, examples/between ────────────┤                   jump, crash, death in a takeover
//!                                              └─> QEMU: Linux ══> two ══> one ══> Linux ══> ...
//!                                   heirloom check <── memory image ┘ as each kernel finds it
//! ```
//!
//! The machine is emulated (`-accel tcg`), so it runs anywhere. Each kernel compares all that its predecessor left with
//! what it is to be, and says on the console what it found.

mod arm64;
mod chain;
mod check;
mod linux;
mod look;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chain::{Chain, Totals};
use check::Check;
use heirloom_x86::bzimage;

use linux::Linux;

use crate::linux::machine::{Board, Machine, Model};
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
    /// Run it on arm64 in place of x86-64.
    #[arg(long, conflicts_with = "linux")]
    arm64: bool,
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
    Chain { name: "crashes", plan: "jccjcje", memory: "512M", hole: false, cpus: 2 },
    // A hole between 3 and 4 GiB, and memory above.
    Chain { name: "hole", plan: "jcje", memory: "5G", hole: true, cpus: 2 },
    // Successors that die in their takeover, one after another too.
    Chain { name: "deaths", plan: "jdcddjde", memory: "512M", hole: false, cpus: 2 },
];

/// Those with Linux in them.
const LINUX: [Chain; 2] = [
    // It takes over from a kernel that crashed.
    Chain { name: "linux", plan: "jcl", memory: "512M", hole: false, cpus: 2 },
    // It hands over to another kernel, takes over from the one behind, which crashed, and hands over again.
    Chain { name: "between", plan: "ljcljl", memory: "512M", hole: false, cpus: 2 },
];

/// Linux's, where it is the first. The archive that it begins with stays, for the next Linux; it has scratch for all images
/// of a chain.
const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 nox2apic kho=on liveupdate=on retain_initrd kho_scratch=64M,64M,64M";

/// What a PC without an operating system needs of Rust.
const TARGET: &str = "x86_64-unknown-none";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let place = match project() {
        Ok(root) => target(root).join(if arguments.arm64 { "kernel-arm64" } else { "kernel" }),
        Err(error) => {
            eprintln!("kernel: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    skipping::run("kernel", &place, || chains(arguments, &place))
}

fn chains(arguments: &Arguments, place: &Path) -> Result<()> {
    apt::install(if arguments.arm64 { &arm64::EMULATOR } else { &EMULATOR })?;
    let linux = arguments.linux.then(|| Linux::get(project()?, place)).transpose()?;
    let images = if arguments.arm64 {
        Images::build_arm64(project()?, place)?
    } else {
        Images::build(project()?, place, linux)?
    };
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
    /// What looks at memory between two kernels.
    check: Check,
}

impl Images {
    fn build(root: &Path, place: &Path, linux: Option<Linux>) -> Result<Self> {
        let builds = both(root, place, TARGET)?;
        let mut parts = Vec::new();
        for path in &builds {
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
        let [first, _] = builds;
        Ok(Self { first, all: images, linux, check: Check::build(root, place)? })
    }

    /// Images for arm64: the first as QEMU loads it is one of them.
    fn build_arm64(root: &Path, place: &Path) -> Result<Self> {
        let mut parts = Vec::new();
        for path in both(root, place, arm64::TARGET)? {
            let image = arm64::padded(fs::read(&path)?)?;
            println!("kernel: {} bytes of Image from {}", image.len(), path.display());
            parts.push(image);
        }
        let (first, all) = (place.join("first"), place.join("images"));
        fs::write(&first, &parts[0])?;
        fs::write(&all, parts.concat())?;
        Ok(Self { first, all, linux: None, check: Check::build(root, place)? })
    }
}

/// Builds both builds.
fn both(root: &Path, place: &Path, target: &str) -> Result<[PathBuf; 2]> {
    let second = ["--profile", "small", "--features", "two"];
    Ok([
        build(root, place, target, &["--release"], "release")?,
        build(root, place, target, &second, "small")?,
    ])
}

/// Builds the kernel, and returns where it is.
fn build(
    root: &Path,
    place: &Path,
    target: &str,
    options: &[&str],
    profile: &str,
) -> Result<PathBuf> {
    let installed =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let there = installed.is_ok_and(|output| {
        Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("../lib").read_dir().is_ok()
    });
    if !there {
        return unavailable(format!("no target {target} (`rustup target add {target}`)"));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--quiet", "--locked", "--target", target]);
    cargo.args(["--manifest-path", "examples/kernel/Cargo.toml", "--target-dir"]).arg(place);
    // Its own flags, whatever this program was built with.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").args(options);
    let done = cargo.stdin(Stdio::null()).status().context("cargo")?;
    ensure!(done.success(), "cargo build of examples/kernel ended with {done}");
    Ok(place.join(target).join(profile).join("kernel"))
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
    let hole = arguments.arm64 && chain.hole;
    let tree = hole.then(|| arm64::tree_with_hole(chain, place)).transpose()?;
    let board = if arguments.arm64 { Board::Virt(tree.as_deref()) } else { Board::Pc };
    // Memory with a hole is too much to be written out at each jump.
    let stopped = !chain.hole;
    let model = Model { board, memory, cpus, counted: false, say: "kernel: ", stopped };
    let look = u8::from(stopped);
    let line = format!("plan={} step=0 cpus={cpus} seed={seed} look={look}", chain.plan);
    println!("kernel: {}: {line}, {memory} of memory", chain.name);
    let show = arguments.console;
    let linux = images.linux.as_ref().filter(|_| chain.plan.contains('l'));
    let mut machine = match linux {
        Some(linux) if chain.plan.starts_with('l') => {
            let line = format!("{COMMAND_LINE} {line}");
            Machine::start(&model, linux.image(), linux.initramfs(), &line, show, deadline)?
        }
        _ => Machine::start(&model, &images.first, &images.all, &line, show, deadline)?,
    };
    let looked = if stopped {
        let shown = if arguments.arm64 { look::ARM64 } else { look::X86_64 };
        look::look(&mut machine, chain, &images.check, &shown, linux.map(Linux::looks_at))
    } else {
        Ok(())
    };
    let ended = looked.and_then(|()| machine.powered_off());
    let log = place.join(format!("{}.log", chain.name));
    machine.end(&log)?;
    let totals = ended.and_then(|()| chain.judge(machine.said()));
    totals.with_context(|| {
        format!("{}, seed {seed}; the console said:\n{}", chain.name, machine.tail(30))
    })
}
