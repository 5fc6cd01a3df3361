//! Where it all happens: directories, ports, and what Linux tells of a process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::linux::place::target;

/// Where memory is files.
const SHARED_MEMORY: &str = "/dev/shm";

/// The processor time that `/proc` counts in: a hundredth of a second, on all architectures.
const TICK: Duration = Duration::from_millis(10);

/// Directories that are gone afterwards, and the programs that were built.
pub(super) struct Place {
    pub(super) programs: PathBuf,
    /// On a disk.
    pub(super) files: TempDir,
    /// In memory.
    pub(super) memory: TempDir,
}

impl Place {
    pub(super) fn new(root: &Path) -> Result<Self> {
        let target = target(root);
        let files = target.join("restart");
        fs::create_dir_all(&files)?;
        let memory = tempfile::tempdir_in(SHARED_MEMORY).context(SHARED_MEMORY)?;
        Ok(Self { programs: target.join("release"), files: tempfile::tempdir_in(files)?, memory })
    }
}

impl Place {
    /// Keeps what was skipped for the script that lists at its end what was not done.
    pub(super) fn note_skipped(&self, skipped: &[&str]) -> io::Result<()> {
        let name = self.files.path().with_file_name("skipped");
        if skipped.is_empty() {
            return fs::remove_file(name).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
        }
        fs::write(name, skipped.join(", ") + "\n")
    }
}

/// Returns an address that no server has.
pub(super) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Returns the bytes of a process's memory that are there.
pub(super) fn resident(pid: u32) -> Result<u64> {
    let name = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&name).with_context(|| name.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| name)? << 10)
}

/// Returns the processor time that a process has used.
pub(super) fn processor_time(pid: u32) -> Result<Duration> {
    let name = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&name).with_context(|| name.clone())?;
    // The name, in brackets, may have spaces: what counts stands after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<u32>).sum::<Result<u32, _>>().context(name)?;
    Ok(TICK * ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_of_this_process() {
        let before = processor_time(std::process::id()).expect("a time");
        assert!(resident(std::process::id()).expect("bytes") > 1 << 16);
        assert!(processor_time(std::process::id()).expect("a time") >= before);
    }
}
