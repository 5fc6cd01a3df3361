//! `cargo xtask report`: every bench run, and what it showed written to `docs/performance.md`.

pub(crate) mod collect;
mod floors;
mod page;
mod plot;
mod targets;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::restart;

/// Run the benches and write docs/performance.md with its plots.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "a flag of the command line each")]
pub(crate) struct Arguments {
    /// Measure each row only until its figure is roughly known.
    #[arg(long)]
    quick: bool,
    /// Run this bench alone (frames, slab, tracker, restore, replay, footprint, latency, fragmentation,
    /// counting); the figures of the others are those of the last run. May be given several times.
    #[arg(long, value_name = "BENCH")]
    only: Vec<String>,
    /// Write the page from the figures of the last run, and measure nothing.
    #[arg(long)]
    no_run: bool,
    /// Write nothing, and fail where what once met its target misses it by more than a tenth.
    #[arg(long, conflicts_with = "machine")]
    check: bool,
    /// Leave out the peers that a C or C++ compiler builds.
    #[arg(long)]
    without_native_peers: bool,
    /// Write the page of another machine beside the first, `docs/performance-NAME.md`.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    if !arguments.no_run {
        collect::run(root, arguments)?;
    }
    let figures = collect::read(root)?;
    if arguments.check {
        return floors::check(root, &figures, !arguments.only.is_empty());
    }
    let docs = root.join("docs");
    fs::create_dir_all(docs.join("images"))?;
    let machine = arguments.machine.as_deref();
    for (name, svg) in plot::all(&figures) {
        let name = machine.map_or_else(|| name.to_owned(), |machine| format!("{machine}-{name}"));
        fs::write(docs.join("images").join(name), svg)?;
    }
    // What bounds the rows is told once, on the first machine's page.
    let findings = match machine {
        None => fs::read_to_string(docs.join("performance-findings.md")).unwrap_or_default(),
        Some(_) => String::new(),
    };
    let name = machine.map_or_else(|| "performance.md".to_owned(), page::of);
    let mut page = page::write(&figures, &findings, machine, &others(&docs)?);
    // What another command measured stays as it is.
    let old = fs::read_to_string(docs.join(&name)).unwrap_or_default();
    if let Some(section) = restart::section(&old) {
        page = restart::with_section(&page, section);
    }
    fs::write(docs.join(&name), page).with_context(|| format!("docs/{name}"))?;
    println!("docs/{name} written");
    if machine.is_none() {
        floors::write(root, &figures)?;
    }
    Ok(())
}

/// The names of the machines that have a page beside the first.
fn others(docs: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(docs)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let machine = name.strip_prefix("performance-").and_then(|rest| rest.strip_suffix(".md"));
        names.extend(machine.filter(|machine| *machine != "findings").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
