//! The kernel that is to come next, and what it takes over.
//!
//! ```text
//!  7.3 ──────────────────> kernels/linux-7.3 ──────┐
//!  a table ─────────────────────────────────────── table ──┐
//!  .config ─────────────> config: what of the release's ───┼──> Kernel
//!  vmlinux, bzImage, .ko ─> binary: texts, release, config ┘
//! ```

mod binary;
mod config;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use binary::Binary;
use config::Config;
pub(crate) use table::name;
use table::{Table, Takes, known};

use crate::image;
use crate::machine::Machine;

/// The kernel that is to come next.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    table: Table,
    /// What it is built with, if that is known.
    config: Option<Config>,
    /// What it takes itself, without what is loaded into it.
    itself: BTreeSet<Takes>,
    /// Whether it is Linux, not what is loaded into one.
    is_linux: bool,
    /// Texts that stand at the end of another one, and nowhere else.
    tails: BTreeSet<String>,
}

/// What a table at `path` says structures look like; `None` if it is none. What is larger than a table can be is
/// none.
pub(crate) fn layouts(path: &Path) -> Option<Result<BTreeMap<String, String>>> {
    /// Bytes of a table: more than it can need.
    const LARGEST: u64 = 1 << 20;
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|of| of.is_file()))?;
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= LARGEST && !text.contains('\0')).then(|| Ok(Table::read(&text)?.layouts))
}

/// Whether a structure is taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Taking {
    Taken,
    /// Others of its name are.
    Others(Vec<String>),
    /// None of its name, and what it is no module can bring.
    Nothing,
    /// None of its name; a module may.
    Unknown,
    /// None of its name, and this text stands at the end of another: of a message, or as linkers store one within the
    /// other.
    Tail,
}

/// What is said of a file that holds memory.
const IS_MEMORY: &str = "an image of memory, and no kernel: name the vmlinuz or the vmlinux of the one to come, or its release";
/// Bytes that a kernel has at least.
const SMALLEST: usize = 4096;
/// Structures that a kernel takes itself, or not at all.
const BUILT_IN: [&str; 6] = ["kho", "luo", "memfd", "memblock", "reserve-mem", "kexec-metadata"];
/// The structures that have a number for a version: no text in a kernel's file says which number it takes.
const NUMBERED: [&str; 2] = ["kexec-metadata", "heirloom-loans"];

impl Kernel {
    /// The kernel that `named` are together: the first with what its modules add.
    ///
    /// # Errors
    /// One of them is no kernel, with the reason; or one behind the first is, as a single kernel comes next.
    pub(crate) fn open(named: &[OsString]) -> Result<Option<Self>> {
        let mut all: Option<Self> = None;
        for name in named {
            let next = Self::one(name).with_context(|| name.display().to_string())?;
            let name = name.display();
            match &mut all {
                None => all = Some(next),
                Some(all) => {
                    ensure!(
                        !next.is_linux,
                        "{name}: {} is a kernel: it stands first, and alone but for what it loads",
                        next.name()
                    );
                    if let (Some(for_all), Some(own)) = (all.machine(), next.machine()) {
                        ensure!(
                            for_all == own,
                            "{name}: it is for {}, and {} for {}",
                            own.name(),
                            all.name(),
                            for_all.name()
                        );
                    }
                    all.tails.extend(next.tails);
                    all.table.add(next.table);
                    all.config = all.config.take().or(next.config);
                }
            }
        }
        Ok(all)
    }

    /// The kernel that `named` is: a release that is known, or a file.
    fn one(named: &OsStr) -> Result<Self> {
        let path = Path::new(named);
        if let Some(named) = named.to_str().filter(|named| !named.contains('/') && *named != "-") {
            if let Some(table) = Table::of_known(named)? {
                let is_linux = table::release(named).is_some();
                return Ok(Self::new(table, None, is_linux));
            }
            ensure!(
                path.exists() || table::release(named).is_none(),
                "what Linux {named} takes is not known here, only of {}; its vmlinuz tells",
                known()
            );
            ensure!(
                path.exists(),
                "there is no file of this name, and no release of Linux is called so: `uname -r` says one, as 7.3.4; \
                 known are {}",
                known()
            );
        }
        let mut file = image::open(path)?;
        let mut bytes = Vec::new();
        let mut read = |most: u64| {
            let read =
                file.by_ref().take(most).read_to_end(&mut bytes).context("cannot read it")?;
            // What is large is told from its first bytes.
            ensure!(!image::is_memory(&bytes), IS_MEMORY);
            Ok(read as u64)
        };
        let read = read(64)? + read(binary::LARGEST)?;
        ensure!(read <= binary::LARGEST, "it is larger than a kernel can be");
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Self::read(bytes, &file)
    }

    /// The kernel that the `bytes` of a file of this name say.
    ///
    /// # Errors
    /// They are none, with the reason.
    pub(crate) fn read(bytes: Vec<u8>, file: &str) -> Result<Self> {
        let length = bytes.len();
        // As /proc/config.gz is.
        let bytes = binary::decompress(&bytes)?.unwrap_or(bytes);
        ensure!(!image::is_memory(&bytes), IS_MEMORY);
        let head = bytes.get(..bytes.len().min(1 << 16)).unwrap_or_default();
        let is_of_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
        if let Ok(text) = std::str::from_utf8(&bytes)
            && head.iter().all(is_of_text)
        {
            if let Some(config) = Config::read(text) {
                return Self::configured(config);
            }
            let table = Table::read(text).context("no kernel's configuration, nor a table");
            return Ok(Self::new(table?, None, false));
        }
        if let Some(binary) = binary::read(bytes)? {
            return Self::built(binary, file);
        }
        let short = if length < SMALLEST { "; or the file is cut short: copy it anew" } else { "" };
        bail!(
            "neither a kernel (vmlinux, bzImage, a module), nor its configuration, nor a table of what it takes{short}"
        )
    }

    /// What its release takes of which it has the code.
    fn configured(config: Config) -> Result<Self> {
        let release = config.release.clone().context("the configuration says no release")?;
        let table = Table::of_known(&release)?;
        let mut table = table.with_context(|| {
            format!(
                "what Linux {release} takes is not known here, only of {}; its vmlinuz tells",
                known()
            )
        })?;
        table.takes.retain(|takes| takes.symbol.as_ref().is_none_or(|symbol| config.has(symbol)));
        table.kernel = format!("Linux {release}, as configured");
        table.machine = config.machine();
        let only = table.machine.as_ref().and_then(Machine::page_size);
        table.page_size = table.page_size.or(config.page_size()).or(only);
        Ok(Self::new(table, Some(config), true))
    }

    /// What a kernel's file says; what no text tells, its release does.
    fn built(binary: Binary, file: &str) -> Result<Self> {
        let Binary { texts, tails, release, config, page_size, machine } = binary;
        let known = release.as_deref().map(Table::of_known).transpose()?.flatten();
        let mut table = known.unwrap_or_default();
        ensure!(
            !texts.is_empty() || release.is_some(),
            "it has not a release of Linux in it, nor a text that a structure could say that it is"
        );
        let is_kernel = release.is_some();
        let is_linux = texts.iter().any(|text| name(text) == "kho");
        let numbered = |takes: &Takes| is_linux && NUMBERED.contains(&name(&takes.text));
        table.takes.retain(numbered);
        table.takes.extend(texts.into_iter().map(|text| Takes { text, symbol: None }));
        // What it is laid out like, its release says; another build may not.
        table.layouts.clear();
        table.kernel = match release {
            Some(release) => format!("Linux {release} ({file})"),
            None => file.to_owned(),
        };
        table.page_size = page_size;
        table.machine = machine;
        // A module has no banner.
        Ok(Self { tails, ..Self::new(table, config, is_kernel) })
    }

    fn new(table: Table, config: Option<Config>, is_linux: bool) -> Self {
        let itself = table.takes.clone();
        Self { table, config, itself, is_linux, tails: BTreeSet::new() }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.table.kernel
    }

    /// Whether it takes a structure that says it is `text`.
    pub(crate) fn takes(&self, text: &str) -> Taking {
        self.taking(&self.table.takes, text)
    }

    /// Whether it takes a root page that says it is `text`: it does so as it boots, with nothing loaded.
    pub(crate) fn takes_root(&self, text: &str) -> Taking {
        self.taking(&self.itself, text)
    }

    fn taking(&self, takes: &BTreeSet<Takes>, text: &str) -> Taking {
        if takes.iter().any(|takes| takes.text == text) {
            return Taking::Taken;
        }
        let of = name(text);
        let others = takes.iter().filter(|takes| name(&takes.text) == of);
        let others: BTreeSet<_> = others.map(|takes| takes.text.clone()).collect();
        match () {
            () if !others.is_empty() => Taking::Others(others.into_iter().collect()),
            () if self.tails.contains(text) => Taking::Tail,
            () if BUILT_IN.contains(&of) => Taking::Nothing,
            () => Taking::Unknown,
        }
    }

    /// What it does with a structure of this name that it does not take.
    pub(crate) fn otherwise(&self, name: &str) -> Option<&str> {
        self.table.otherwise.get(name).map(String::as_str)
    }

    /// What it must be started with to take a structure of this name.
    pub(crate) fn needs(&self, name: &str) -> impl Iterator<Item = &str> {
        let has = |symbol: &String| self.config.as_ref().is_some_and(|config| config.has(symbol));
        let needs = self.table.needs.iter().filter(move |needs| needs.name == name);
        let needs = needs.filter(move |needs| !needs.unless.as_ref().is_some_and(has));
        needs.map(|needs| needs.what.as_str())
    }

    /// The size of its pages, if that is known.
    pub(crate) fn page_size(&self) -> Option<u64> {
        self.table.page_size
    }

    /// What it is for, if that is known.
    pub(crate) const fn machine(&self) -> Option<&Machine> {
        self.table.machine.as_ref()
    }

    /// Whether it is the file of a kernel, which has pages of some size though it need not say it.
    pub(crate) const fn is_built(&self) -> bool {
        self.is_linux && self.table.machine.is_some()
    }

    /// The most that it takes of something, if there is a limit.
    pub(crate) fn at_most(&self, what: &str) -> Option<u64> {
        self.table.at_most.get(what).copied()
    }
}
