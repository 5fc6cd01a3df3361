//! Linux in a chain of kernels: what it begins with, and what it is handed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::chain::Chain;
use crate::linux::initramfs::Initramfs;
use crate::linux::kernel::{self, Kernel};
use crate::linux::machine::Machine;
use crate::linux::program;

/// What only its owner can read, of what Linux is handed: states of its own test, and what the example kernel published.
const ACCEPTED: [&str; 2] = ["liveupdate-test-flb-v*", "kernel"];

/// Linux, built.
pub(crate) struct Linux {
    kernel: Kernel,
    /// The first process.
    program: PathBuf,
    initramfs: PathBuf,
    /// Memory as it was handed to Linux, at the last time.
    dump: PathBuf,
    /// The command `heirloom`.
    command: PathBuf,
}

impl Linux {
    /// Gets the kernel, and builds what runs on it and what looks at its memory.
    pub(crate) fn get(root: &Path, place: &Path) -> Result<Self> {
        let kernel = Kernel::get(&kernel::BASE, place)?;
        let program = program::build(root, "between")?;
        let command = command(root)?;
        let (initramfs, dump) = (place.join("initramfs"), place.join("handover.elf"));
        Ok(Self { kernel, program, initramfs, dump, command })
    }

    pub(crate) fn image(&self) -> &Path {
        &self.kernel.image
    }

    pub(crate) fn initramfs(&self) -> &Path {
        &self.initramfs
    }

    /// Packs what it begins with: the first process, and the images of all kernels, its own the last.
    pub(crate) fn pack(&self, images: &[Vec<u8>]) -> Result<Vec<u8>> {
        let mut files = Initramfs::new();
        files.directory("dev");
        files.console("dev/console");
        files.file("init", 0o755, &fs::read(&self.program)?);
        for (name, image) in ["one", "two", "linux"].into_iter().zip(images) {
            files.file(name, 0o644, image);
        }
        let archive = files.finish();
        fs::write(&self.initramfs, &archive)?;
        Ok(archive)
    }

    /// Lets the chain run. Wherever Linux is about to look at what it was handed, memory is written out and checked.
    pub(crate) fn look(&self, machine: &mut Machine, chain: &Chain) -> Result<()> {
        let (address, deadline) = (self.kernel.populate, machine.deadline());
        let mut debugger = machine.debugger()?;
        let mut monitor = machine.monitor()?;
        debugger.stop_at(address)?;
        debugger.run()?;
        let last = chain.plan.rfind('l');
        for (step, _) in chain.plan.chars().enumerate().skip(1).filter(|(_, act)| *act == 'l') {
            let stopped = debugger.stopped(deadline);
            stopped.with_context(|| format!("kernel {step}, Linux, was handed nothing"))?;
            let [root, _, scratch, scratch_bytes] = debugger.arguments()?;
            monitor.dump(&self.dump)?;
            self.check(root, scratch, scratch_bytes)?;
            if Some(step) == last {
                break;
            }
            debugger.pass(address, deadline)?;
        }
        debugger.leave()
    }

    /// Whether all is in order of what Linux is handed.
    fn check(&self, root: u64, scratch: u64, scratch_bytes: u64) -> Result<()> {
        let mut check = Command::new(&self.command);
        check.arg("check").arg(&self.dump);
        check.arg(format!("--root={root:#x}"));
        check.arg(format!("--scratch={scratch:#x}+{scratch_bytes:#x}"));
        check.args(ACCEPTED.into_iter().flat_map(|name| ["--accept", name]));
        let done = check.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&done.stdout);
        print!("{said}");
        let error = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "heirloom check ended with {}\n{error}", done.status);
        Ok(fs::remove_file(&self.dump)?)
    }
}

/// Builds the command, and returns where it is.
fn command(root: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--quiet", "--release", "-p", "heirloom-cli"]);
    let done = cargo.args(["--bin", "heirloom"]).stdin(Stdio::null()).status()?;
    ensure!(done.success(), "cargo build of the command ended with {done}");
    Ok(crate::linux::place::target(root).join("release/heirloom"))
}
