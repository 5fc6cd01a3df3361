//! What the distribution has: tools that are installed if they are missing, and Linux's source.
//!
//! The source is in a suite that the machine need not know (backports of Debian 13). It is asked
//! for privately: with a list of sources, package lists and a cache that are this call's alone and
//! gone after it. Where the archive is, the machine's own configuration says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::skipping::unavailable;

/// The package with the kernel's source, and the suite that has it.
pub(crate) const SOURCE: &str = "linux-source-7.3";
const SUITE: &str = "trixie-backports";

/// What vouches for the archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Installs those of `packages` that are missing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("linux: installing {}", missing.join(", "));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    let mut install = apt();
    install.args(["install", "-y", "--no-install-recommends"]).args(&missing);
    if succeeds(&mut install) || (succeeds(apt().arg("update")) && succeeds(&mut install)) {
        return Ok(());
    }
    unavailable(format!("apt-get cannot install {}", missing.join(", ")))
}

fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|answer| answer.stdout == b"installed")
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

/// Linux's source package: the file, which goes with the value, and its version.
pub(crate) struct Source {
    pub(crate) package: PathBuf,
    pub(crate) version: String,
    _place: TempDir,
}

/// Downloads Linux's source package.
pub(crate) fn source() -> Result<Source> {
    let archives = archives()?;
    for archive in &archives {
        let place = tempfile::tempdir()?;
        if let Some((package, version)) = download(archive, place.path())? {
            return Ok(Source { package, version, _place: place });
        }
    }
    unavailable(format!("no archive that this machine is configured for has {SOURCE} in {SUITE}"))
}

/// The archives of Debian that the machine is configured for.
fn archives() -> Result<Vec<String>> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]);
    let Ok(targets) = apt.output() else { return unavailable("there is no apt-get") };
    let text = String::from_utf8_lossy(&targets.stdout);
    let mut archives: Vec<_> = text.lines().map(str::to_owned).collect();
    archives.sort();
    archives.dedup();
    if archives.is_empty() {
        return unavailable("the machine is configured for no archive of Debian");
    }
    Ok(archives)
}

/// The package of one archive, downloaded to `place`; `None` if the archive has it not.
fn download(archive: &str, place: &Path) -> Result<Option<(PathBuf, String)>> {
    let lists = place.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let sources = place.join("private.list");
    let keyring =
        if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    fs::write(&sources, format!("deb {keyring}{archive} {SUITE} main\n"))?;
    let apt = |program| {
        let mut command = Command::new(program);
        let option = |key: &str, path: &Path| format!("{key}={}", path.display());
        command.current_dir(place).args(["-o", &option("Dir::Etc::sourcelist", &sources)]);
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &option("Dir::State::lists", &lists)]);
        command.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
        command
    };
    if !succeeds(apt("apt-get").args(["-qq", "update"])) {
        return Ok(None);
    }
    println!("linux: getting {SOURCE}");
    if !succeeds(apt("apt-get").args(["-qq", "download", SOURCE])) {
        return Ok(None);
    }
    let mut found = None;
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found = Some(path);
        }
    }
    let Some(package) = found else { return Ok(None) };
    let field = Command::new("dpkg-deb").arg("-f").arg(&package).arg("Version").output()?;
    let version = String::from_utf8(field.stdout).context("a version is text")?;
    Ok(Some((package, version.trim().to_owned())))
}
