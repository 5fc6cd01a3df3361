//! What runs now: the handover that this machine's kernel would leave, and the arena of a process.
//!
//! ```text
//!  debugfs kho/out/fdt ──> the root page's bytes ──> its tree, in /proc/kcore
//!                                                       └─> the preserved page with these bytes
//!  /proc/PID/fd ─────────> the memfd that starts as an arena does
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, anyhow, bail, ensure};
use heirloom_kho::{Left, PhysAddr, RootView};

use crate::image::{Image, is_arena};

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
    let bytes = fs::read(&path).map_err(|error| why(&error, &path, debugfs))?;
    let page = image.page_size();
    ensure!(
        bytes.len() <= page.bytes(),
        "{}: {} bytes, and a root page has {}",
        path.display(),
        bytes.len(),
        page.bytes()
    );
    let mut whole = bytes.clone();
    whole.resize(page.bytes(), 0);
    let words = whole.chunks_exact(4).map(|word| word.try_into().map(u32::from_ne_bytes));
    let words: Vec<_> = words.map(|word| AtomicU32::new(word.unwrap_or(0))).collect();
    let view = RootView::sized(page, &words, PhysAddr::new(0));
    let view = view.with_context(|| path.display().to_string())?;
    // It is a page of its own, preserved as all are. No sound tree has more of them than there are pages.
    let most = usize::try_from(image.pages()).unwrap_or(usize::MAX);
    let tree = Left::new(image, view.map());
    let single = |block: &heirloom_kho::Block| block.order() == page.order();
    let pages = tree.tree().folios().take(most).filter(single).map(heirloom_kho::Block::addr);
    let mut same = vec![0; bytes.len()];
    let is = |at: &PhysAddr| image.read(*at, &mut same).is_some() && same == bytes;
    { pages }.find(is).ok_or_else(|| {
        anyhow!(
            "no page that is preserved is the one in {}: the memory is another machine's, or changes too fast",
            path.display()
        )
    })
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
