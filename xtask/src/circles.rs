//! `cargo xtask circles`: files that need each other in a loop.
//!
//! An edge is a path to an item of another file of the same library. A module's declaration is none, and
//! neither is what a parent hands on of its children by `pub use`. Tests are left out. Calls of methods
//! leave no path: they follow the type, which has one.

mod graph;
mod scope;

use std::path::Path;

use anyhow::{Context, Result, bail};
use graph::circles;
use scope::Library;

use crate::source::modules;

/// Show the files that need each other in a loop, and what ties them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fail if there is a circle.
    #[arg(long)]
    check: bool,
}

/// The directories of the libraries' sources, and the command's.
const SOURCES: [&str; 9] = [
    "kho/src",
    "folio/src",
    "slab/src",
    "restore/src",
    "collections/src",
    "x86/src",
    "src",
    "capi/src",
    "cli/src",
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
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
    println!("circles: {} among {files} files", found.len());
    if arguments.check && !found.is_empty() {
        bail!("files need each other in a loop: what two of them need belongs into a third");
    }
    Ok(())
}
