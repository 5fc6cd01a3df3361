//! The modules and the first process, built for a flavour of the kernel.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::driver::Tree;
use crate::linux::kernel::{BASE, Flavour, Kernel};
use crate::linux::skipping::unavailable;
use crate::linux::{apt, steps};

/// What modules need to be built, beside a compiler.
const TOOLS: [&str; 5] = ["binutils", "gcc", "libc6-dev", "libelf-dev", "make"];

/// What `checkpatch.pl` shall not say: a line can have 120 columns here; what Rust defines is exported from
/// where it is declared; a loop's head is no value; a lock that Linux keeps wrong ends it.
const NOT_CHECKED: &str =
    "LONG_LINE,LONG_LINE_COMMENT,EXPORT_SYMBOL,COMPLEX_MACRO,MACRO_ARG_REUSE,AVOID_BUG";

/// The files that it shall not see: what stands for a runtime of the compiler's, and has its types.
const NOT_LOOKED_AT: &[&str] = &["stop.c"];

/// A kernel that checks itself: every access of C to memory, every lock, every place that may sleep.
/// The Rust object is the same as for other kernels: its own accesses are not checked.
const CHECKED: &str = "\
CONFIG_KASAN=y
CONFIG_KASAN_GENERIC=y
CONFIG_KASAN_OUTLINE=y
CONFIG_KASAN_VMALLOC=y
CONFIG_PROVE_LOCKING=y
CONFIG_DEBUG_ATOMIC_SLEEP=y
CONFIG_DEBUG_PREEMPT=y
CONFIG_DEBUG_LIST=y
CONFIG_STACKTRACE=y
";

/// A kernel that has the modules within.
const BUILT_IN: &str = "CONFIG_HEIRLOOM=y\nCONFIG_HEIRLOOM_TEST=y\n";

/// Which kernel a life has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// The one that all commands share.
    Plain,
    /// One that checks itself.
    Checked,
    /// One with the modules built in.
    BuiltIn,
}

/// Which module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Build {
    /// As it is used.
    Product,
    /// One whose takeover can be stopped.
    Stoppable,
}

/// The files of the modules.
pub(super) struct Modules {
    pub(super) heirloom: PathBuf,
    pub(super) test: PathBuf,
    pub(super) bench: PathBuf,
}

/// The modules for a kernel, if it does not have them within.
type Built = Option<Rc<Modules>>;

/// Builds what is not built.
pub(super) struct Builder<'a> {
    root: &'a Path,
    pub(super) place: &'a Path,
    /// The first process.
    pub(super) init: Vec<u8>,
    kernels: RefCell<Vec<(Which, Rc<Kernel>)>>,
    modules: RefCell<Vec<((Which, Build), Built)>>,
}

impl<'a> Builder<'a> {
    /// Builds the first process.
    pub(super) fn new(root: &'a Path, place: &'a Path) -> Result<Self> {
        apt::install(&TOOLS)?;
        let init = place.join("init");
        let mut gcc = Command::new("gcc");
        gcc.args(["-static", "-O2", "-s", "-o"]).arg(&init).arg("linux/module/test/init.c");
        steps::run(&mut gcc, root)?;
        let init = fs::read(init)?;
        Ok(Self { root, place, init, kernels: RefCell::default(), modules: RefCell::default() })
    }

    /// Gets kernels and builds modules, and runs nothing.
    pub(super) fn prepare(&self, long: bool) -> Result<()> {
        for build in [Build::Product, Build::Stoppable] {
            self.modules(Which::Plain, build)?;
        }
        if long {
            self.modules(Which::Checked, Build::Product)?;
            self.kernel(Which::BuiltIn)?;
        }
        Ok(())
    }

    /// Returns a kernel, built if it was not kept.
    pub(super) fn kernel(&self, which: Which) -> Result<Rc<Kernel>> {
        remembered(&self.kernels, which, || self.get_kernel(which).map(Rc::new))
    }

    /// Returns the modules for a kernel that does not have them within.
    pub(super) fn modules(&self, which: Which, build: Build) -> Result<Built> {
        remembered(&self.modules, (which, build), || {
            let modules = self.build_modules(which, build)?;
            Ok(modules.map(Rc::new))
        })
    }

    fn get_kernel(&self, which: Which) -> Result<Kernel> {
        let tree;
        let flavour = match which {
            Which::Plain => BASE,
            Which::Checked => Flavour { name: "checked", fragment: CHECKED, driver: None },
            Which::BuiltIn => {
                rust_source()?;
                tree = Tree::new(self.root)?;
                Flavour { name: "built in", fragment: BUILT_IN, driver: Some(&tree) }
            }
        };
        Kernel::get(&flavour, self.place)
    }

    /// Has the sources read by the script that reads Linux's own.
    fn check_style(&self, checkpatch: &Path) -> Result<()> {
        let mut files = sources(&self.root.join("linux/module"))?;
        files.retain(|file| !NOT_LOOKED_AT.iter().any(|name| file.ends_with(name)));
        let mut perl = Command::new("perl");
        perl.arg(checkpatch).args(["--no-tree", "--terse", "--strict", "--no-summary", "-q"]);
        perl.args(["--ignore", NOT_CHECKED, "-f"]).args(&files);
        println!("module: {} files read by checkpatch.pl", files.len());
        steps::run(&mut perl, self.root)
    }

    fn build_modules(&self, which: Which, build: Build) -> Result<Option<Modules>> {
        let kernel = self.kernel(which)?;
        if which == Which::BuiltIn {
            return Ok(None);
        }
        rust_source()?;
        let directory = self.place.join(format!("{which:?}").to_lowercase());
        let against = unpacked(&kernel.build, &directory)?;
        let checkpatch = against.join("scripts/checkpatch.pl");
        if build == Build::Product && checkpatch.exists() {
            self.check_style(&checkpatch)?;
        }
        let out = directory.join(format!("{build:?}").to_lowercase());
        let mut make = Command::new("make");
        make.args(["-s", "-j", &steps::jobs()?, "-C"]).arg(&against);
        let variable = |name: &str, path: &Path| format!("{name}={}", path.display());
        make.arg(variable("M", &self.root.join("linux/module")));
        make.arg(variable("MO", &out));
        make.arg(variable("HEIRLOOM_ROOT", self.root));
        if build == Build::Stoppable {
            make.arg("HEIRLOOM_STOP=1");
        }
        // This command's own flags are not the module's.
        for name in ["MAKEFLAGS", "RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS"] {
            make.env_remove(name);
        }
        println!("module: building the module for the kernel {which:?}, {build:?}");
        steps::run(make.arg("modules"), self.root)?;
        let stripped = |name: &str| {
            let (from, to) = (out.join(name), out.join(format!("{name}.stripped")));
            steps::run(Command::new("strip").arg("-g").arg("-o").arg(&to).arg(from), self.root)?;
            anyhow::Ok(to)
        };
        Ok(Some(Modules {
            heirloom: stripped("heirloom.ko")?,
            test: stripped("test/heirloom_test.ko")?,
            bench: stripped("test/heirloom_bench.ko")?,
        }))
    }
}

/// Returns the C sources of a directory and of those in it.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "c" || ending == "h") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns what is known under a key, or what `build` returns from now on.
fn remembered<K: Copy + PartialEq, V: Clone>(
    known: &RefCell<Vec<(K, V)>>,
    key: K,
    build: impl FnOnce() -> Result<V>,
) -> Result<V> {
    let found = known.borrow().iter().find(|(of, _)| *of == key).map(|(_, value)| value.clone());
    if let Some(found) = found {
        return Ok(found);
    }
    let made = build()?;
    known.borrow_mut().push((key, made.clone()));
    Ok(made)
}

/// Makes sure that `core` can be built with the kernel's flags.
fn rust_source() -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().context("rustc")?;
    ensure!(sysroot.status.success(), "rustc --print sysroot ended with {}", sysroot.status);
    let sysroot = String::from_utf8(sysroot.stdout).context("a path is text")?;
    let lock = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
    if lock.exists() {
        return Ok(());
    }
    println!("module: installing rust-src");
    let added = Command::new("rustup").args(["component", "add", "rust-src"]).output();
    if added.is_ok_and(|done| done.status.success()) && lock.exists() {
        return Ok(());
    }
    unavailable("the compiler's sources cannot be had (rustup component add rust-src)")
}

/// Unpacks what modules are built against to `directory`, unless it is there.
fn unpacked(archive: &Path, directory: &Path) -> Result<PathBuf> {
    let (build, from) = (directory.join("build"), directory.join("from"));
    let name = archive.display().to_string();
    if fs::read_to_string(&from).is_ok_and(|kept| kept == name) {
        return Ok(build);
    }
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    steps::run(Command::new("tar").arg("-xzf").arg(archive), directory)?;
    fs::write(from, name)?;
    Ok(build)
}
