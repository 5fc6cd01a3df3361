//! Steps of a build, each a command.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// Runs a step in a directory; what it says is for the case that it fails.
pub(crate) fn run(command: &mut Command, directory: &Path) -> Result<()> {
    let done = command.current_dir(directory).stdin(Stdio::null()).output()?;
    ensure!(
        done.status.success(),
        "{command:?} ended with {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// Returns how many jobs run at once.
pub(crate) fn jobs() -> Result<String> {
    Ok(std::thread::available_parallelism()?.to_string())
}
