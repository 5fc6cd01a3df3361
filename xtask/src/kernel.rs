//! `cargo xtask kernel`: the kernel of `examples/kernel` through generations of its own two builds, in an emulated
//! machine.
//!
//! ```text
//! examples/kernel ─> build one: ELF, bzImage ──┐
//!                 └> build two: bzImage ───────┴─> QEMU: PVH -> one ══> two ══> one ...
//!                                                                  jump, crash, death in a takeover
//! ```
//!
//! The machine is emulated (`-accel tcg`), so it runs anywhere. Each kernel compares all that its predecessor left with
//! what it is to be, and says on the console what it found.

mod chain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chain::{Chain, Totals};
use heirloom_x86::bzimage;

use crate::linux::kernel::{self, Kernel};
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
    /// End one more chain with Linux, which takes over. Builds one if none is kept, which takes minutes.
    #[arg(long)]
    linux: bool,
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

/// A chain that ends with Linux.
const LINUX: Chain = Chain { name: "linux", plan: "jcl", memory: "512M", cpus: 2 };

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
    let linux = arguments.linux.then(|| Kernel::get(&kernel::BASE, place)).transpose()?;
    let images = Images::build(project()?, place, linux.as_ref())?;
    let mut totals = Totals::default();
    for seed in 1..=arguments.repeat {
        for chain in CHAINS.iter().chain(arguments.linux.then_some(&LINUX)) {
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
    /// bzImages of both, one behind the other, and of Linux.
    all: PathBuf,
}

impl Images {
    fn build(root: &Path, place: &Path, linux: Option<&Kernel>) -> Result<Self> {
        let first = build(root, place, &["--release"], "release")?;
        let second = build(root, place, &["--profile", "small", "--features", "two"], "small")?;
        let mut all = Vec::new();
        for path in [&first, &second] {
            let elf = fs::read(path)?;
            let start = all.len();
            all.resize(start + bzimage::size(&elf)?, 0);
            let bytes = bzimage::from_elf(&elf, &mut all[start..])?;
            println!("kernel: {} bytes of bzImage from {}", bytes, path.display());
        }
        if let Some(linux) = linux {
            all.extend(fs::read(&linux.image)?);
        }
        let images = place.join("images");
        fs::write(&images, all)?;
        Ok(Self { first, all: images })
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
    let model = Model { memory, cpus, counted: false, say: "kernel: ", stopped: false };
    let line = format!("plan={} step=0 cpus={cpus} seed={seed}", chain.plan);
    println!("kernel: {}: {line}, {memory} of memory", chain.name);
    let show = arguments.console;
    let mut machine = Machine::start(&model, &images.first, &images.all, &line, show, deadline)?;
    let ended = machine.powered_off();
    let log = place.join(format!("{}.log", chain.name));
    fs::write(&log, machine.said())?;
    let totals = ended.and_then(|()| chain.judge(machine.said()));
    totals.with_context(|| {
        format!("{}, seed {seed}; the console said:\n{}", chain.name, machine.tail(30))
    })
}
