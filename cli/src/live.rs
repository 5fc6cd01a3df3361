//! What runs now: the handover that this machine's kernel would leave, and the arena of a process.
//!
//! ```text
//!  debugfs kho/out/fdt ──> the root page's bytes ──> its tree, in /proc/kcore
//!                                                       └─> the preserved page with these bytes
//!          without fdt ──> kho/out/sub_fdts: names ──> the page in /proc/kcore that has them
//!  /proc/PID/fd ─────────> the memfd that starts as an arena does
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, anyhow, bail, ensure};
use heirloom::arena::Arena;
use heirloom_kho::{Block, Left, Pages, PhysAddr, RootView, Run};

use crate::image::{Image, is_arena};
use crate::scan::scan;

/// Where debugfs is, if nothing else is said.
pub(crate) const DEBUGFS: &str = "/sys/kernel/debug";
/// The memory of this machine.
pub(crate) const MEMORY: &str = "/proc/kcore";

/// Where this machine's kernel has the root page of what it would hand over; `image` is its memory.
///
/// # Errors
/// What is missing.
pub(crate) fn root(image: &Image, debugfs: &Path) -> Result<PhysAddr> {
    let path = debugfs.join("kho/out/fdt");
    match fs::read(&path) {
        Ok(bytes) => by_bytes(image, &bytes, &path),
        // Linux shows its page where it was started by a loader, and not where another kernel started it.
        Err(error) if error.kind() == ErrorKind::NotFound && debugfs.join("kho/out").exists() => {
            by_names(image, debugfs)
        }
        Err(error) => Err(why(&error, &path, debugfs)),
    }
}

/// The preserved page with these bytes, which are those of a root page, the first of them or all.
fn by_bytes(image: &Image, bytes: &[u8], path: &Path) -> Result<PhysAddr> {
    let page = image.page_size();
    ensure!(
        bytes.len() <= page.bytes(),
        "{}: {} bytes, and a root page has {}",
        path.display(),
        bytes.len(),
        page.bytes()
    );
    let mut whole = bytes.to_vec();
    whole.resize(page.bytes(), 0);
    let words = whole.chunks_exact(4).map(|word| word.try_into().map(u32::from_ne_bytes));
    let words: Vec<_> = words.map(|word| AtomicU32::new(word.unwrap_or(0))).collect();
    let view = RootView::sized(page, &words, PhysAddr::new(0)).map(|view| view.map());
    // Linux goes on writing to the page, and the file stays as long as the page's tree was when the file was made.
    let map = match first_map(bytes) {
        Some(map) if view.is_err() && is_cut(bytes) => map,
        _ => view.with_context(|| path.display().to_string())?,
    };
    // It is a page of its own, preserved as all are. No sound tree has more of them than there are pages.
    let most = usize::try_from(image.pages()).unwrap_or(usize::MAX);
    let tree = Left::new(image, map);
    let single = |block: &Block| block.order() == page.order();
    let pages = tree.tree().folios().take(most).filter(single).map(Block::addr);
    { pages }.find(|at| starts(image, *at, bytes)).ok_or_else(|| {
        anyhow!(
            "no page that is preserved is the one in {}: the memory is another machine's, or changes too fast",
            path.display()
        )
    })
}

/// Whether the memory at `at` starts with these bytes.
fn starts(image: &Image, at: PhysAddr, bytes: &[u8]) -> bool {
    let mut there = vec![0; bytes.len()];
    image.read(at, &mut there).is_some() && there == bytes
}

/// A number of a device tree, at `at`.
fn cell(bytes: &[u8], at: usize) -> Option<usize> {
    let cell = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*cell)).ok()
}

/// Whether these are the first bytes of a device tree that is longer.
fn is_cut(bytes: &[u8]) -> bool {
    cell(bytes, 4).is_some_and(|total| total > bytes.len())
}

/// The address in the root node of a device tree of which the end may be missing, and with it the names of properties: the
/// only property of eight bytes there is.
fn first_map(bytes: &[u8]) -> Option<PhysAddr> {
    const BEGIN: usize = 1;
    const PROPERTY: usize = 3;
    // The root node has no name.
    let mut at = cell(bytes, 8)?;
    if cell(bytes, at)? != BEGIN || cell(bytes, at + 4)? != 0 {
        return None;
    }
    at += 8;
    let mut map = None;
    while let Some(PROPERTY) = cell(bytes, at) {
        let length = cell(bytes, at + 4)?;
        if length == size_of::<u64>() {
            let value = bytes.get(at + 12..)?.first_chunk()?;
            if map.replace(PhysAddr::new(u64::from_ne_bytes(*value))).is_some() {
                return None;
            }
        }
        at = at.checked_add(12 + length.checked_next_multiple_of(4)?)?;
    }
    map
}

/// The root page in memory that its own tree preserves and that has all the names that the kernel shows: not the one that the
/// kernel was handed, nor what was left of others.
fn by_names(image: &Image, debugfs: &Path) -> Result<PhysAddr> {
    let out = debugfs.join("kho/out/sub_fdts");
    let entries = fs::read_dir(&out).map_err(|error| why(&error, &out, debugfs))?;
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let handed = fs::read(debugfs.join("kho/in/fdt")).unwrap_or_default();
    let page = image.page_size();
    let is_it = |at: &PhysAddr| {
        let words = image.halves(*at, page.bytes());
        let Some(root) = words.and_then(|words| RootView::sized(page, words, *at).ok()) else {
            return false;
        };
        let has = |name: &std::ffi::OsString| {
            root.subtrees().flatten().any(|subtree| name.to_str() == Some(subtree.name.as_str()))
        };
        let left = Left::new(image, root.map());
        let own = Block::new(at.pfn(), page.order()).is_some_and(|block| left.holds(block));
        own && names.iter().all(has) && (handed.is_empty() || !starts(image, *at, &handed))
    };
    let found: Vec<_> = scan(image).into_iter().filter(is_it).collect();
    match found[..] {
        [at] => Ok(at),
        [] => bail!(
            "{} shows no root page, and none in memory has all that is in {}: this kernel has nothing to hand over yet",
            debugfs.join("kho/out").display(),
            out.display()
        ),
        _ => {
            let all: Vec<_> = found.iter().map(ToString::to_string).collect();
            bail!(
                "{} shows no root page, and several in memory could be it: name one with --root, and the memory in place of \
                 --live: {}",
                debugfs.join("kho/out").display(),
                all.join(", ")
            )
        }
    }
}

/// The scratch areas of this machine's kernel, if debugfs has them.
pub(crate) fn scratch(debugfs: &Path) -> Option<Vec<Run>> {
    let numbers = |name| {
        let text = fs::read_to_string(debugfs.join("kho/out").join(name)).ok()?;
        let number = |line: &str| u64::from_str_radix(line.strip_prefix("0x")?, 16).ok();
        text.lines().map(number).collect::<Option<Vec<_>>>()
    };
    let (starts, lengths) = (numbers("scratch_phys")?, numbers("scratch_len")?);
    let areas = starts.iter().zip(&lengths).filter(|(_, bytes)| **bytes > 0);
    let areas = areas.map(|(start, bytes)| Run::covering(PhysAddr::new(*start), *bytes));
    let areas = areas.collect::<Option<Vec<_>>>()?;
    (starts.len() == lengths.len() && !areas.is_empty()).then_some(areas)
}

/// What is to be done about a root page that cannot be read.
fn why(error: &std::io::Error, path: &Path, debugfs: &Path) -> anyhow::Error {
    let (path, at) = (path.display(), debugfs.display());
    match error.kind() {
        ErrorKind::NotFound if !debugfs.join("kho").exists() => anyhow!(
            "there is no {path}: debugfs is not mounted there (mount -t debugfs none {at}), or the kernel hands nothing \
             over (it needs CONFIG_KEXEC_HANDOVER_DEBUGFS, and kho=on on its command line)"
        ),
        ErrorKind::NotFound => {
            anyhow!("there is no {path}: this kernel has nothing to hand over yet")
        }
        _ => anyhow!("{path}: {error}"),
    }
}

/// Refuses a machine without a file of its memory.
pub(crate) fn memory() -> Result<PathBuf> {
    ensure!(
        Path::new(MEMORY).exists(),
        "there is no {MEMORY} (CONFIG_PROC_KCORE): name another file of this machine's memory, or look at an image"
    );
    Ok(PathBuf::from(MEMORY))
}

/// The process that uses the arena at `path`; none if that is no arena, or if it is at rest.
pub(crate) fn owner(path: &Path) -> Option<i32> {
    // Anything else might wait for a writer, or be eaten by being read.
    let is_file = fs::metadata(path).is_ok_and(|file| file.is_file());
    let mut file = File::open(path).ok().filter(|_| is_file)?;
    let mut head = [0; 8];
    file.read_exact(&mut head).ok()?;
    if !is_arena(&head) {
        return None;
    }
    Arena::owner(file.as_fd()).ok().flatten()
}

/// The file of the arena that a process has.
///
/// # Errors
/// There is no such process, or its descriptors are not to be seen; it has no arena, or several.
pub(crate) fn arena(pid: u32) -> Result<PathBuf> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let entries = fs::read_dir(&dir).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("there is no process {pid}"),
        _ => anyhow!("{}: {error}", dir.display()),
    })?;
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        let Ok(link) = fs::read_link(&path) else { continue };
        let link = link.to_string_lossy().into_owned();
        // Anything else might wait for a writer, or be eaten by being read.
        let Some(name) = link.strip_prefix("/memfd:") else { continue };
        let mut head = [0; 8];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut head));
        if read.is_ok() && is_arena(&head) {
            found.push((name.trim_end_matches(" (deleted)").to_owned(), path));
        }
    }
    found.sort();
    // Descriptors of one file are one arena.
    found.dedup_by(|a, b| {
        let of = |path: &Path| fs::metadata(path).ok().as_ref().map(crate::image::identity);
        of(&a.1).is_some_and(|one| of(&b.1) == Some(one))
    });
    match &found[..] {
        [(_, path)] => Ok(path.clone()),
        [] => bail!(
            "process {pid} has no arena: none of its descriptors is a memfd that starts as one does"
        ),
        several => {
            let all = several.iter().map(|(name, path)| format!("{} ({name})", path.display()));
            let all: Vec<_> = all.collect();
            bail!("process {pid} has several arenas; name one: {}", all.join(", "))
        }
    }
}
