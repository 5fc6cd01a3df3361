//! `heirloom status` and `heirloom clear`: an arena that a service uses, or one at rest between two of its lives.
//!
//! Nothing is taken for a look: the service goes on, and one that starts meanwhile is not refused. What changes while
//! it is looked at is as it was at one moment or another.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use heirloom::arena::{Arena, ArenaError, ArenaRange};
use heirloom::restore::Entry;

use crate::arguments::{Clear, Place, Status};
use crate::facts::{Facts, Hex, Own, Subtree, VERSION, What};
use crate::image::is_arena;
use crate::output::{self, BAD, FAINT, GOOD, NAME, STRONG};
use crate::survey::Scratch;
use crate::text::{bytes, plural, shown};

/// What a user of a service wants to know of its arena.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Told {
    version: u32,
    path: PathBuf,
    /// Bytes of memory that it has, and what is behind them by now.
    bytes: u64,
    resident: u64,
    page_size: usize,
    /// The process that has it. None that can be seen from here: it is at rest, or used by a process of another pid namespace,
    /// which only an attempt to take it would tell, and a service that starts at that instant would be refused.
    owner: Option<Owner>,
    /// What a successor would find; none where there is no handover yet.
    handover: Option<Handover>,
}

#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
struct Owner {
    pid: i32,
    program: Option<String>,
}

#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
struct Handover {
    producer: String,
    generation: u64,
    /// Bytes that survive, that scratch takes, and that neither does: a successor's to allocate.
    preserved: u64,
    scratch: u64,
    free: u64,
    roots: Vec<Root>,
    caches: Vec<Cache>,
    /// What is wrong: of an arena that is used, maybe what was being changed.
    findings: Vec<String>,
}

#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
struct Root {
    name: String,
    at: Hex,
    bytes: Option<u64>,
    /// The kind of memory that it names, if it is one handle and nothing else.
    handle: Option<&'static str>,
    /// What the handles in it name, if it holds others, or more beside one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    handles: Vec<Held>,
}

/// A handle in a root.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
struct Held {
    /// Where in the root it stands, in bytes.
    offset: u64,
    handle: &'static str,
    /// What the object is the head of.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'static str>,
}

impl Root {
    /// What it holds, for a person.
    fn text(&self) -> String {
        if let Some(handle) = self.handle {
            let a = if handle.starts_with(['a', 'o']) { "an" } else { "a" };
            return format!(": handle of {a} {handle}");
        }
        let mut kinds: Vec<(&str, u64)> = Vec::new();
        for Held { handle, container, .. } in &self.handles {
            let kind = container.unwrap_or(handle);
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            }
        }
        let kinds: Vec<_> = kinds
            .into_iter()
            .map(|(kind, count)| match kind {
                // It has no singular.
                "records" => format!("{count} {kind}"),
                _ => plural(count, kind, &format!("{kind}s")),
            })
            .collect();
        let handles = if self.handles.len() == 1 { "handle" } else { "handles" };
        let several = (!kinds.is_empty()).then(|| format!(": {handles} of {}", kinds.join(", ")));
        several.unwrap_or_default()
    }
}

#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
struct Cache {
    name: String,
    object_size: usize,
    objects: u64,
    /// Places that its slabs have beside those.
    free: u64,
    slabs: u64,
}

/// Shows the arena; `look` is how the handover in one is looked at. `true`, as it is no fault to be at rest.
pub(crate) fn run(status: &Status, look: impl FnOnce(&Place) -> Result<Facts>) -> Result<bool> {
    let told = Told::of(&status.target.path()?, look)?;
    if status.json {
        output::json(&told)?;
    } else {
        output::text(&told.text(), status.color)?;
    }
    Ok(true)
}

/// Clears the arena, unless a process has it.
pub(crate) fn clear(clear: &Clear) -> Result<bool> {
    let path = clear.target.path()?;
    let at = || path.display().to_string();
    is_arena_at(&path)?;
    let file = File::options().read(true).write(true).open(&path).with_context(at)?;
    let arena = match Arena::open(OwnedFd::from(file)) {
        Err(ArenaError::InUse { pid: Some(pid) }) => {
            let owner = Owner::of(pid);
            bail!("{}: {} uses it: end that first", path.display(), owner.text())
        }
        opened => opened.with_context(at)?,
    };
    // SAFETY: this process is the arena's owner, has no pointer into it, and runs no allocator on it. None else does: it would be
    // the owner, and `open` would have named it; but for one that has just lent the arena to a process that it starts. That one
    // does not touch it meanwhile, and where the start fails it does not take back what had another owner, as this process is
    // by the turn that `open` counted.
    unsafe { arena.clear() }.with_context(at)?;
    Ok(true)
}

/// Refuses a file that does not begin as an arena does.
fn is_arena_at(path: &Path) -> Result<()> {
    let at = || path.display().to_string();
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut head)).with_context(at)?;
    ensure!(
        is_arena(&head),
        "{}: no arena of a process; heirloom inspect looks at images",
        path.display()
    );
    Ok(())
}

impl Owner {
    fn of(pid: i32) -> Self {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        Self { pid, program: comm.ok().map(|name| name.trim_end().to_owned()) }
    }

    fn text(&self) -> String {
        let program = self.program.as_ref().map(|name| format!(" ({})", shown(name)));
        format!("process {}{}", self.pid, program.unwrap_or_default())
    }
}

impl Told {
    /// # Errors
    /// The file is no arena, or what is in it cannot be read.
    fn of(path: &Path, look: impl FnOnce(&Place) -> Result<Facts>) -> Result<Self> {
        let at = || path.display().to_string();
        is_arena_at(path)?;
        let file = File::open(path).with_context(at)?;
        let (page, ranges, entry) = Arena::describe(file.as_fd()).with_context(at)?;
        let bytes = ranges.iter().map(|range: &ArenaRange| range.run().bytes()).sum();
        Ok(Self {
            version: VERSION,
            path: path.to_owned(),
            bytes,
            // Linux counts them in 512 bytes, whatever its blocks are.
            resident: file.metadata().with_context(at)?.blocks() * 512,
            page_size: page.bytes(),
            owner: Arena::owner(file.as_fd()).with_context(at)?.map(Owner::of),
            handover: entry
                .map(|entry| {
                    Ok::<_, anyhow::Error>(Handover::of(look(&place(path, entry))?, bytes))
                })
                .transpose()?,
        })
    }

    /// What is printed for a person, with styles in it.
    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let path = self.path.display().to_string();
        writeln!(out, "{STRONG}{}{STRONG:#}", shown(&path))?;
        let owner =
            self.owner.as_ref().map_or("none that can be seen from here".to_owned(), Owner::text);
        writeln!(out, "  owner      {owner}")?;
        writeln!(out, "  memory     {}, {} resident", bytes(self.bytes), bytes(self.resident))?;
        let Some(handover) = &self.handover else {
            return writeln!(
                out,
                "  handover   {FAINT}none: the next begins with nothing{FAINT:#}"
            );
        };
        let Handover { producer, generation, preserved, scratch, free, .. } = handover;
        writeln!(out, "  handover   by {}, generation {generation}", shown(producer))?;
        writeln!(
            out,
            "  survives   {}, beside {} of scratch; {} free",
            bytes(*preserved),
            bytes(*scratch),
            bytes(*free)
        )?;
        for root in &handover.roots {
            let Root { name, at, bytes: length, .. } = root;
            let length = length.map(|length| format!(", {}", bytes(length))).unwrap_or_default();
            let (name, holds) = (shown(name), root.text());
            writeln!(out, "  root       {NAME}{name}{NAME:#} at {at}{length}{holds}")?;
        }
        for Cache { name, object_size, objects, free, slabs } in &handover.caches {
            let objects = plural(*objects, "object", "objects");
            let slabs = plural(*slabs, "slab", "slabs");
            let name = shown(name);
            writeln!(
                out,
                "  cache      {NAME}{name}{NAME:#}: {objects} of {object_size} bytes, {free} places free, {slabs}"
            )?;
        }
        match &handover.findings[..] {
            [] => writeln!(out, "  check      {GOOD}in order{GOOD:#}"),
            [first, ..] => {
                let findings = plural(handover.findings.len() as u64, "finding", "findings");
                writeln!(out, "  check      {BAD}{findings}{BAD:#}: {}", shown(first))
            }
        }
    }
}

/// Where the handover is that an entry leads to.
fn place(path: &Path, entry: Entry) -> Place {
    let (root, list) = (Some(entry.root), Scratch::List(entry.scratch, entry.scratch_bytes));
    let (image, base, raw) = (path.to_owned(), None, Vec::new());
    Place { image, root, base, raw, scratch: Some(list), zero_excluded: false, page_size: None }
}

impl Handover {
    /// What `facts` says, of an arena with so many bytes of memory.
    fn of(facts: Facts, memory: u64) -> Self {
        let areas = facts.handover.scratch.iter().flatten();
        let (preserved, scratch) = (facts.handover.bytes, areas.map(|area| area.bytes).sum());
        let (mut roots, mut own) = (Vec::new(), None);
        for Subtree { name, phys: at, size: bytes, what } in facts.handover.subtrees {
            let (handle, handles) = match what {
                What::Own(of) => {
                    own = Some(of);
                    continue;
                }
                What::Published(published) => {
                    let handles = published.handles.into_iter().map(|named| Held {
                        offset: named.offset,
                        handle: named.handle,
                        container: named.container.map(|container| container.kind),
                    });
                    (published.only.map(|named| named.handle), handles.collect())
                }
                _ => (None, Vec::new()),
            };
            roots.push(Root { name, at, bytes, handle, handles });
        }
        let (producer, generation, caches) = own.map_or_else(Default::default, |own| {
            let Own { producer, generation, caches, .. } = own;
            (producer, generation, caches)
        });
        let caches = caches.into_iter().map(|cache| Cache {
            name: cache.name,
            object_size: cache.object_size,
            objects: cache.objects,
            free: cache.free,
            slabs: cache.slabs,
        });
        Self {
            producer,
            generation,
            preserved,
            scratch,
            free: memory.saturating_sub(preserved.saturating_add(scratch)),
            roots,
            caches: caches.collect(),
            findings: facts.findings.into_iter().map(|found| found.reason).collect(),
        }
    }
}
