//! Kernels that hand over, of several flavours, each built once and kept for all later runs: see
//! [`store`](super::store).
//!
//! ```text
//! tinyconfig + xtask/linux-kho.config + the flavour's own ─> bzImage, System.map, config,
//!                                                           build.tar.gz: what modules are built against
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::store::Store;
use super::{EMULATOR, apt, steps};

/// What it needs to be built.
const TOOLS: [&str; 9] =
    ["bc", "bison", "flex", "gcc", "libelf-dev", "libssl-dev", "make", "perl", "xz-utils"];
/// What the kernel can do beyond the least.
const FRAGMENT: &str = include_str!("../../linux-kho.config");

/// Where a kernel that was handed something begins to look at it.
const POPULATE: &str = "kho_populate";

/// How Linux is configured and built, each line a command in its source; `JOBS` is a number.
const RECIPE: &[&[&str]] = &[
    &["make", "-s", "tinyconfig"],
    &["scripts/kconfig/merge_config.sh", "-m", ".config", "heirloom.config"],
    &["make", "-s", "olddefconfig"],
    &["make", "-s", "-jJOBS", "bzImage", "modules"],
    &["make", "-s", "run-command", "KBUILD_RUN_COMMAND=scripts/package/install-extmod-build build"],
    &["tar", "-czf", BUILD, "build"],
];

/// What external modules are built against.
const BUILD: &str = "build.tar.gz";

/// What is kept of a build: where it lies in Linux's source, and its name here.
const FILES: [(&str, &str); 4] = [
    ("arch/x86/boot/bzImage", "bzImage"),
    ("System.map", "System.map"),
    (".config", "config"),
    (BUILD, BUILD),
];

/// A kind of kernel.
#[derive(Clone, Copy)]
pub(crate) struct Flavour<'a> {
    /// What it is called where this is told.
    pub(crate) name: &'a str,
    /// What it is configured with beyond the base.
    pub(crate) fragment: &'a str,
    /// What is built into it.
    pub(crate) driver: Option<&'a dyn Driver>,
}

/// The kernel that all commands share.
pub(crate) const BASE: Flavour<'static> = Flavour { name: "base", fragment: "", driver: None };

/// What is added to Linux's source before it is built.
pub(crate) trait Driver {
    /// Returns a text that is another one wherever what is added is.
    fn identity(&self) -> &str;
    /// Adds it to the source in `tree`.
    fn add(&self, tree: &Path) -> Result<()>;
}

/// A kernel.
pub(crate) struct Kernel {
    /// The image that is booted.
    pub(crate) image: PathBuf,
    /// The archive of the directory `build`, which external modules are built against.
    pub(crate) build: PathBuf,
    /// The address of [`POPULATE`]: the kernel does not move itself about.
    pub(crate) populate: u64,
}

impl Kernel {
    /// Returns the kernel that was kept, or builds one, which takes some minutes, below `place`.
    pub(crate) fn get(flavour: &Flavour<'_>, place: &Path) -> Result<Self> {
        // Without it there is no use for a kernel.
        apt::install(&EMULATOR)?;
        let store = Store::new(cache(place), inputs(flavour));
        let kept = match store.get() {
            Some(kept) => kept,
            None => build(flavour, place, &store)?,
        };
        println!("linux: the kernel \"{}\" in {}", flavour.name, kept.display());
        let symbols = fs::read_to_string(kept.join("System.map"))?;
        let populate = address(&symbols, POPULATE)
            .with_context(|| format!("the kernel has no {POPULATE}: it takes no handovers"))?;
        Ok(Self { image: kept.join("bzImage"), build: kept.join(BUILD), populate })
    }
}

/// Returns all that a kernel is made from, as text: another text, another kernel.
fn inputs(flavour: &Flavour<'_>) -> String {
    let recipe: Vec<_> = RECIPE.iter().map(|line| line.join(" ")).collect();
    let driver = flavour.driver.map_or("", Driver::identity);
    let config = config(flavour);
    format!("{}\n{}\n{config}{driver}", apt::SOURCE, recipe.join("\n"))
}

/// Returns the fragments that the flavour is configured with.
fn config(flavour: &Flavour<'_>) -> String {
    format!("{FRAGMENT}{}", flavour.fragment)
}

/// Returns where kernels are kept for all runs of this user: outside of what `cargo clean` removes.
fn cache(place: &Path) -> PathBuf {
    let directory =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let user = directory("XDG_CACHE_HOME").or_else(|| Some(directory("HOME")?.join(".cache")));
    user.map_or_else(|| place.to_owned(), |cache| cache.join("heirloom"))
}

fn build(flavour: &Flavour<'_>, place: &Path, store: &Store) -> Result<PathBuf> {
    apt::install(&TOOLS)?;
    let source = apt::source()?;
    println!("linux: building Linux {}, the kernel \"{}\"", source.version, flavour.name);
    let tree = tempfile::Builder::new().prefix("linux-").tempdir_in(place)?;
    unpack(&source, tree.path())?;
    fs::write(tree.path().join("heirloom.config"), config(flavour))?;
    if let Some(driver) = flavour.driver {
        driver.add(tree.path())?;
    }
    let jobs = steps::jobs()?;
    for line in RECIPE {
        let words: Vec<_> = line.iter().map(|word| word.replace("JOBS", &jobs)).collect();
        steps::run(Command::new(&words[0]).args(&words[1..]), tree.path())?;
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
    steps::run(Command::new("dpkg-deb").arg("-x").arg(&source.package).arg(&data), tree)?;
    let mut inner = fs::read_dir(data.join("usr/src"))?.flatten().map(|entry| entry.path());
    let inner = inner
        .find(|path| path.to_string_lossy().ends_with(".tar.xz"))
        .context("the package has no source")?;
    let strip = "--strip-components=1";
    steps::run(Command::new("tar").args(["-x", strip, "-f"]).arg(&inner), tree)?;
    fs::remove_dir_all(&data)?;
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

    #[test]
    fn flavours_are_kept_apart_and_a_name_is_none() {
        struct Built(&'static str);
        impl Driver for Built {
            fn identity(&self) -> &str {
                self.0
            }
            fn add(&self, _: &Path) -> Result<()> {
                Ok(())
            }
        }
        assert_eq!(inputs(&BASE), inputs(&Flavour { name: "another", ..BASE }));
        assert_ne!(inputs(&BASE), inputs(&Flavour { fragment: "CONFIG_KASAN=y\n", ..BASE }));
        let with = |driver| inputs(&Flavour { driver: Some(driver), ..BASE });
        assert_ne!(with(&Built("one")), with(&Built("other")));
    }
}
