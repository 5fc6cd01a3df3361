//! `cargo xtask circles`: files that need each other in a loop.
//!
//! An edge is a path to an item of another file of the same library. A module's declaration is none, and
//! neither is what a parent hands on of its children by `pub use`. Tests are left out. Calls of methods
//! leave no path: they follow the type, which has one.

mod graph;
mod scope;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::source::modules;
use graph::{Circle, circles};
use scope::Library;

/// Show the files that need each other in a loop, and what ties them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fail where a file is in a circle and not in the list of those that are still to be opened.
    #[arg(long)]
    check: bool,
}

/// The directories of the libraries' sources, and the command's.
const SOURCES: [&str; 6] = ["folio/src", "slab/src", "restore/src", "linux/src", "src", "cli/src"];

/// Files that are in a circle and are to leave it: a line each. It only grows shorter.
const LEFT: &str = "xtask/circles.txt";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match look(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn look(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let (mut found, mut files) = (Vec::new(), 0);
    for directory in SOURCES {
        let sources = modules(&root.join(directory))?;
        files += sources.len();
        let library = Library::of(&sources);
        found.extend(circles(&library.edges()).into_iter().map(|circle| (directory, circle)));
    }
    for (directory, circle) in &found {
        println!("{} files of {directory}:\n{circle}", circle.files.len());
    }
    let name = |directory: &str, file: &str| format!("{directory}/{file}.rs");
    let all = |(directory, circle): &(&'static str, Circle)| {
        let names = circle.files.iter().map(|file| name(directory, file));
        names.collect::<Vec<_>>()
    };
    let now: BTreeSet<String> = found.iter().flat_map(all).collect();
    println!("circles: {} of {} files, of {files} files in all", found.len(), now.len());
    if arguments.check {
        let list = fs::read_to_string(root.join(LEFT)).context(LEFT)?;
        let list: BTreeSet<String> = list.lines().map(str::to_owned).collect();
        differ("in a circle", &now, &list)?;
        differ("in no circle any more: strike it out of the list", &list, &now)?;
    }
    Ok(())
}

/// Fails if there are any names in one set that are not in the other.
fn differ(are: &str, one: &BTreeSet<String>, other: &BTreeSet<String>) -> Result<()> {
    let more: Vec<_> = one.difference(other).map(String::as_str).collect();
    if more.is_empty() { Ok(()) } else { bail!("{are} ({LEFT}): {}", more.join(", ")) }
}
