//! What is handed over, looked at from outside: `heirloom check` of an image of memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// The command `heirloom`, and where memory is written out.
pub(crate) struct Check {
    command: PathBuf,
    pub(crate) dump: PathBuf,
}

impl Check {
    /// Builds the command.
    pub(crate) fn build(root: &Path, place: &Path) -> Result<Self> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root).args(["build", "--quiet", "--release", "-p", "heirloom-cli"]);
        let done = cargo.args(["--bin", "heirloom"]).stdin(Stdio::null()).status()?;
        ensure!(done.success(), "cargo build of the command ended with {done}");
        let command = crate::linux::place::target(root).join("release/heirloom");
        Ok(Self { command, dump: place.join("handover.elf") })
    }

    /// Whether all is in order of a handover, beside what only its owner can read. The image is gone then.
    pub(crate) fn check(
        &self,
        root: u64,
        (scratch, scratch_bytes): (u64, u64),
        accepted: &[&str],
    ) -> Result<()> {
        let mut check = Command::new(&self.command);
        check.arg("check").arg(&self.dump);
        check.arg(format!("--root={root:#x}"));
        check.arg(format!("--scratch={scratch:#x}+{scratch_bytes:#x}"));
        check.args(accepted.iter().flat_map(|name| ["--accept", name]));
        let done = check.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&done.stdout);
        print!("{said}");
        let error = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "heirloom check ended with {}\n{error}", done.status);
        Ok(fs::remove_file(&self.dump)?)
    }
}
