//! `cargo xtask report`: every bench run, and what it showed written to `docs/performance.md`.

mod collect;
mod page;
mod plot;
mod targets;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// Run the benches and write docs/performance.md with its plots.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure each row only until its figure is roughly known.
    #[arg(long)]
    quick: bool,
    /// Run this bench alone (frames, slab, tracker, restore, replay, footprint, counting); the
    /// figures of the others are those of the last run. May be given several times.
    #[arg(long, value_name = "BENCH")]
    only: Vec<String>,
    /// Write the page from the figures of the last run, and measure nothing.
    #[arg(long)]
    no_run: bool,
    /// Leave out the peers that a C or C++ compiler builds.
    #[arg(long)]
    without_native_peers: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match report(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn report(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    if !arguments.no_run {
        collect::run(root, arguments)?;
    }
    let figures = collect::read(root)?;
    let docs = root.join("docs");
    fs::create_dir_all(docs.join("images"))?;
    for (name, svg) in plot::all(&figures) {
        fs::write(docs.join("images").join(name), svg)?;
    }
    let findings = fs::read_to_string(docs.join("performance-findings.md")).unwrap_or_default();
    let page = page::write(&figures, &findings);
    fs::write(docs.join("performance.md"), page).context("docs/performance.md")?;
    println!("docs/performance.md written");
    Ok(())
}
