//! `cargo xtask words`: words that do not say which caller, owner or CPU is meant, and private ones.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Find words in the product's code and docs that leave open which actor is meant.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fail if there is one.
    #[arg(long)]
    check: bool,
}

/// Such words. What stands in their place is a noun: the caller, the owner, the CPU, the next kernel. And
/// words that only this project had, for what the field has a word for: see `docs/GLOSSARY.md`.
const WORDS: [&str; 13] = [
    "who",
    "whoever",
    "whom",
    "somebody",
    "nobody",
    "anybody",
    // An object, or its place; preserved from its allocation; an adopted slab; the cache directory; eight
    // bytes of frame types; an operation that reclaims and retries.
    "spot",
    "born",
    "heir",
    "roll",
    "enroll",
    "octets",
    "patiently",
];

/// Where they are looked for: the libraries, the command, the book.
const PLACES: [&str; 12] = [
    "kho/src",
    "folio/src",
    "slab/src",
    "restore/src",
    "collections/src",
    "x86",
    "src",
    "capi",
    "cli/src",
    "examples/kernel/src",
    "docs",
    "README.md",
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let mut files = Vec::new();
    for place in PLACES {
        collect(&root.join(place), &mut files)?;
    }
    files.sort();
    let mut count = 0;
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for (line, word) in found(&text) {
            println!("{}:{line}: {word}", path.strip_prefix(root).unwrap_or(path).display());
            count += 1;
        }
    }
    println!("words: {count} in {} files", files.len());
    if arguments.check && count > 0 {
        bail!(
            "a noun says which caller, owner or kernel is meant; the field has a word for the rest"
        );
    }
    Ok(())
}

/// Collects the Rust and Markdown files of a directory, or a file.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let said = || path.display().to_string();
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(said)? {
            collect(&entry.with_context(said)?.path(), files)?;
        }
    } else if [Some("rs"), Some("md")].contains(&path.extension().and_then(OsStr::to_str)) {
        files.push(path.to_owned());
    }
    Ok(())
}

/// Returns the words in a text, each with the number of its line.
fn found(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    (1..).zip(text.lines()).flat_map(move |(number, line)| {
        let words = line.split(move |c| !is_part(c));
        let banned = |word: &&str| WORDS.iter().any(|banned| banned.eq_ignore_ascii_case(word));
        words.filter(banned).map(move |word| (number, word))
    })
}

#[cfg(test)]
mod tests {
    use super::found;

    #[test]
    fn words_are_found_whole_and_in_any_case() {
        let text = "whole\nWho frees it, or nobody's\nwho_frees(whose)";
        assert_eq!(found(text).collect::<Vec<_>>(), [(2, "Who"), (2, "nobody")]);
    }
}
