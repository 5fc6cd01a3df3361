//! A Linux that does live updates, built once and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::apt;

/// What it needs to be built.
const TOOLS: [&str; 9] =
    ["bc", "bison", "flex", "gcc", "libelf-dev", "libssl-dev", "make", "perl", "xz-utils"];
/// What it needs to be run.
const EMULATOR: [&str; 1] = ["qemu-system-x86"];

/// What the kernel can do beyond the least.
const FRAGMENT: &str = include_str!("../../linux-kho.config");

/// Where a kernel that was handed something begins to look at it.
const POPULATE: &str = "kho_populate";

/// A kernel.
pub(super) struct Kernel {
    /// The image that is booted.
    pub(super) image: PathBuf,
    /// The address of [`POPULATE`]: the kernel does not move itself about.
    pub(super) populate: u64,
}

impl Kernel {
    /// The kernel that was built before, or else a new one: some minutes.
    pub(super) fn get(place: &Path) -> Result<Self> {
        // Without it there is no use for a kernel.
        apt::install(&EMULATOR)?;
        // Another fragment makes another kernel.
        let fragment = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(FRAGMENT.as_bytes()));
        let kept = match kept(place, &fragment)? {
            Some(kept) => kept,
            None => build(place, &fragment)?,
        };
        println!("liveupdate: {}", kept.file_name().unwrap_or_default().display());
        let symbols = fs::read_to_string(kept.join("System.map"))?;
        let populate = address(&symbols, POPULATE)
            .with_context(|| format!("the kernel has no {POPULATE}: it takes no handovers"))?;
        Ok(Self { image: kept.join("bzImage"), populate })
    }
}

/// The newest kernel of this fragment that was kept.
fn kept(place: &Path, fragment: &str) -> Result<Option<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(place)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(fragment))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found.pop())
}

fn build(place: &Path, fragment: &str) -> Result<PathBuf> {
    apt::install(&TOOLS)?;
    let source = apt::source()?;
    let version: String =
        source.version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '.' }).collect();
    let tree = place.join("source");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(&tree)?;
    println!("liveupdate: building Linux {version}");
    unpack(&source, &tree)?;

    fs::write(tree.join("heirloom.config"), FRAGMENT)?;
    let make = |target: &[&str]| run(Command::new("make").arg("-s").args(target), &tree);
    make(&["tinyconfig"])?;
    let merge = ["-m", ".config", "heirloom.config"];
    run(Command::new("scripts/kconfig/merge_config.sh").args(merge), &tree)?;
    make(&["olddefconfig"])?;
    let jobs = std::thread::available_parallelism()?;
    make(&[&format!("-j{jobs}"), "bzImage"])?;

    // Under its name only when it is whole.
    let (fresh, kept) = (place.join("fresh"), place.join(format!("linux-{version}-{fragment}")));
    fs::create_dir_all(&fresh)?;
    for (from, name) in
        [("arch/x86/boot/bzImage", "bzImage"), ("System.map", "System.map"), (".config", "config")]
    {
        fs::copy(tree.join(from), fresh.join(name)).with_context(|| format!("no {from}"))?;
    }
    fs::rename(&fresh, &kept)?;
    fs::remove_dir_all(&tree)?;
    Ok(kept)
}

/// The source in the package, which is an archive in an archive, unpacked to `tree`.
fn unpack(source: &apt::Source, tree: &Path) -> Result<()> {
    let data = tree.join("package");
    run(Command::new("dpkg-deb").arg("-x").arg(&source.package).arg(&data), tree)?;
    let mut inner = fs::read_dir(data.join("usr/src"))?.flatten().map(|entry| entry.path());
    let inner = inner
        .find(|path| path.to_string_lossy().ends_with(".tar.xz"))
        .context("the package has no source")?;
    let strip = "--strip-components=1";
    run(Command::new("tar").args(["-x", strip, "-f"]).arg(&inner), tree)?;
    fs::remove_dir_all(&data)?;
    Ok(())
}

/// Runs a step in the source tree; what it says is for the case that it fails.
fn run(command: &mut Command, tree: &Path) -> Result<()> {
    let done = command.current_dir(tree).stdin(Stdio::null()).output()?;
    ensure!(
        done.status.success(),
        "{command:?} ended with {}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// A symbol's address in a `System.map`: lines of `address type name`.
fn address(symbols: &str, name: &str) -> Option<u64> {
    let line = symbols.lines().find(|line| line.split(' ').nth(2) == Some(name))?;
    u64::from_str_radix(line.split(' ').next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_found_by_its_whole_name() {
        let symbols = "ffffffff81000000 T kho_populate_all\nffffffff81912320 T kho_populate\n";
        assert_eq!(address(symbols, "kho_populate"), Some(0xffff_ffff_8191_2320));
        assert_eq!(address(symbols, "kho"), None);
    }
}
