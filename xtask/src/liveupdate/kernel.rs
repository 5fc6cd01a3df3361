//! A Linux that does live updates, built once and kept for all later runs: see [`store`](super::store).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::apt;
use super::store::Store;

/// What it needs to be built.
const TOOLS: [&str; 9] =
    ["bc", "bison", "flex", "gcc", "libelf-dev", "libssl-dev", "make", "perl", "xz-utils"];
/// What it needs to be run.
const EMULATOR: [&str; 1] = ["qemu-system-x86"];

/// What the kernel can do beyond the least.
const FRAGMENT: &str = include_str!("../../linux-kho.config");

/// Where a kernel that was handed something begins to look at it.
const POPULATE: &str = "kho_populate";

/// How Linux is configured and built, each line a command in its source; `JOBS` is a number.
const RECIPE: &[&[&str]] = &[
    &["make", "-s", "tinyconfig"],
    &["scripts/kconfig/merge_config.sh", "-m", ".config", "heirloom.config"],
    &["make", "-s", "olddefconfig"],
    &["make", "-s", "-jJOBS", "bzImage"],
];

/// What is kept of a build: where it lies in Linux's source, and its name here.
const FILES: [(&str, &str); 3] =
    [("arch/x86/boot/bzImage", "bzImage"), ("System.map", "System.map"), (".config", "config")];

/// A kernel.
pub(super) struct Kernel {
    /// The image that is booted.
    pub(super) image: PathBuf,
    /// The address of [`POPULATE`]: the kernel does not move itself about.
    pub(super) populate: u64,
}

impl Kernel {
    /// Returns the kernel that was kept, or builds one, which takes some minutes, below `place`.
    pub(super) fn get(place: &Path) -> Result<Self> {
        // Without it there is no use for a kernel.
        apt::install(&EMULATOR)?;
        let store = Store::new(cache(place), inputs());
        let kept = match store.get() {
            Some(kept) => kept,
            None => build(place, &store)?,
        };
        println!("liveupdate: the kernel in {}", kept.display());
        let symbols = fs::read_to_string(kept.join("System.map"))?;
        let populate = address(&symbols, POPULATE)
            .with_context(|| format!("the kernel has no {POPULATE}: it takes no handovers"))?;
        Ok(Self { image: kept.join("bzImage"), populate })
    }
}

/// Returns all that a kernel is made from, as text: another text, another kernel.
fn inputs() -> String {
    let recipe: Vec<_> = RECIPE.iter().map(|line| line.join(" ")).collect();
    format!("{}\n{}\n{FRAGMENT}", apt::SOURCE, recipe.join("\n"))
}

/// Returns where kernels are kept for all runs of this user: outside of what `cargo clean` removes.
fn cache(place: &Path) -> PathBuf {
    let directory =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let user = directory("XDG_CACHE_HOME").or_else(|| Some(directory("HOME")?.join(".cache")));
    user.map_or_else(|| place.to_owned(), |cache| cache.join("heirloom"))
}

fn build(place: &Path, store: &Store) -> Result<PathBuf> {
    apt::install(&TOOLS)?;
    let source = apt::source()?;
    println!("liveupdate: building Linux {}", source.version);
    let tree = tempfile::Builder::new().prefix("linux-").tempdir_in(place)?;
    unpack(&source, tree.path())?;
    fs::write(tree.path().join("heirloom.config"), FRAGMENT)?;
    let jobs = std::thread::available_parallelism()?.to_string();
    for line in RECIPE {
        let words: Vec<_> = line.iter().map(|word| word.replace("JOBS", &jobs)).collect();
        run(Command::new(&words[0]).args(&words[1..]), tree.path())?;
    }
    store.put(|fresh| {
        for (from, name) in FILES {
            let from = tree.path().join(from);
            fs::copy(&from, fresh.join(name)).with_context(|| format!("{}", from.display()))?;
        }
        Ok(())
    })
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
