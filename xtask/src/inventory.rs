//! `cargo xtask inventory`: every unsafe use in the libraries with its proof, written to
//! `docs/unsafe.md`.
//!
//! Found in the parsed source, tests apart. A use without a proof is an error, and so is a module
//! with unsafe code of which [`notes`] does not say what it is for. So is a safe function that is given
//! an address and of which [`named`] does not say why it may be.

mod find;
mod named;
mod notes;
mod page;
mod proof;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use find::Use;
use notes::NOTES;

use crate::source::modules;

/// The libraries, each with the directory of its source.
const CRATES: &[(&str, &str)] = &[
    ("heirloom-kho", "kho/src"),
    ("heirloom-folio", "folio/src"),
    ("heirloom-slab", "slab/src"),
    ("heirloom-restore", "restore/src"),
    ("heirloom-collections", "collections/src"),
    ("heirloom-x86", "x86/src"),
    ("heirloom", "src"),
    ("heirloom-capi", "capi/src"),
];

/// Write docs/unsafe.md: every unsafe use in the libraries, with its proof.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail if the page is not what would be written.
    #[arg(long)]
    check: bool,
}

/// A module of a library that has unsafe code.
struct Module {
    name: String,
    note: &'static str,
    uses: Vec<Use>,
}

/// A library.
struct Library {
    name: &'static str,
    modules: Vec<Module>,
    /// How many modules it has without any.
    safe: usize,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let mut faults = Vec::new();
    let mut libraries = Vec::new();
    for &(name, directory) in CRATES {
        libraries.push(library(root, name, directory, &mut faults)?);
    }
    for (name, module, _) in NOTES {
        let known = libraries.iter().filter(|library| library.name == *name);
        if !known.flat_map(|library| &library.modules).any(|known| known.name == *module) {
            faults.push(format!("{name}: {module}: a note on a module without unsafe code"));
        }
    }
    faults.extend(named::faults(root)?);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    let path = root.join("docs/unsafe.md");
    let page = page::write(&libraries);
    if arguments.check {
        let kept = fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = page::first_difference(&kept, &page) {
            bail!("docs/unsafe.md is not current: {line}\n`cargo xtask inventory` writes it anew");
        }
    } else {
        fs::write(&path, page).context("docs/unsafe.md")?;
    }
    println!("unsafe: {}", page::totals(&libraries));
    Ok(())
}

/// Reads a library; what is wrong with it is added to `faults`.
fn library(
    root: &Path,
    name: &'static str,
    directory: &str,
    faults: &mut Vec<String>,
) -> Result<Library> {
    let mut library = Library { name, modules: Vec::new(), safe: 0 };
    for file in modules(&root.join(directory))? {
        let uses = find::uses(&file.syntax, &file.text);
        if uses.is_empty() {
            library.safe += 1;
            continue;
        }
        let path = file.path.strip_prefix(root).unwrap_or(&file.path).display();
        for unproven in uses.iter().filter(|found| found.proof.is_none()) {
            let (kind, place) = (unproven.kind.name(), &unproven.place);
            faults.push(format!("{path}:{}: {place}: {kind} without a proof", unproven.line));
        }
        let note = NOTES.iter().find(|(of, module, _)| *of == name && *module == file.name);
        if note.is_none() {
            faults.push(format!("{path}: no note says what its unsafe code is for"));
        }
        let note = note.map_or("", |(_, _, note)| note);
        library.modules.push(Module { name: file.name, note, uses });
    }
    library.modules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(library)
}
