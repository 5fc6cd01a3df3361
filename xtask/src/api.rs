//! `cargo xtask api`: what the libraries offer, as text under review in `docs/api/`.
//!
//! The text is that of cargo-public-api, which reads what a nightly rustdoc says of the items. What
//! follows from the rest is left out: functions of a trait's implementations, auto traits other than
//! `Send` and `Sync`, and what is listed for the second time, as under a second path.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The libraries, each with the name of its page.
const CRATES: &[(&str, &str)] = &[
    ("heirloom-kho", "kho"),
    ("heirloom-folio", "folio"),
    ("heirloom-slab", "slab"),
    ("heirloom-restore", "restore"),
    ("heirloom-collections", "collections"),
    ("heirloom-x86", "x86"),
    ("heirloom", "heirloom"),
    ("heirloom-capi", "capi"),
];

/// Compare the libraries' public items with docs/api/.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write docs/api/ anew: the changes are wanted.
    #[arg(long)]
    bless: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let directory = root.join("docs/api");
    fs::create_dir_all(&directory)?;
    let (mut items, mut changed) = (0, 0);
    for &(name, page) in CRATES {
        let offered = relevant(&listed(root, name)?);
        items += offered.lines().filter(|line| !line.starts_with("impl")).count();
        let path = directory.join(page).with_extension("txt");
        if arguments.bless {
            fs::write(&path, offered).with_context(|| path.display().to_string())?;
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        for line in differences(&kept, &offered) {
            println!("{page}: {line}");
            changed += 1;
        }
    }
    if changed > 0 {
        bail!("{changed} lines differ; if that is wanted: `cargo xtask api --bless`");
    }
    println!("api: {items} public items in {} libraries, as in docs/api", CRATES.len());
    Ok(())
}

/// What cargo-public-api lists of a library with all features.
fn listed(root: &Path, name: &str) -> Result<String> {
    let output = Command::new("cargo")
        .args(["+nightly", "public-api", "--all-features", "--omit", "blanket-impls", "-p", name])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo +nightly public-api")?;
    if !output.status.success() {
        bail!("cargo public-api -p {name}: {}", output.status);
    }
    String::from_utf8(output.stdout).context("items in UTF-8")
}

/// The lines that a reviewer wants to see change.
fn relevant(listed: &str) -> String {
    const AUTO: [&str; 7] = [
        "core::marker::Freeze",
        "core::marker::StructuralPartialEq",
        "core::marker::Unpin",
        "core::marker::UnsafeUnpin",
        "core::panic::unwind_safe::RefUnwindSafe",
        "core::panic::unwind_safe::UnwindSafe",
        "core::clone::TrivialClone",
    ];
    let mut relevant = String::new();
    let mut seen = HashSet::new();
    // How a function of the implementation that is listed begins, where that is a trait's.
    let mut of_trait = None;
    for line in listed.lines() {
        if line.starts_with("impl") {
            of_trait = None;
            if let Some((before, after)) = line.split_once(" for ") {
                let named = before.rsplit(' ').next().unwrap_or_default();
                if AUTO.contains(&named.trim_start_matches('!')) {
                    continue;
                }
                let name = after.split_once(" where ").map_or(after, |(name, _)| name);
                of_trait = Some(format!("fn {name}::"));
            }
        }
        if of_trait.as_ref().is_some_and(|function| line.contains(function)) || !seen.insert(line) {
            continue;
        }
        relevant.push_str(line);
        relevant.push('\n');
    }
    relevant
}

/// Lines that one has and the other has not, in order, as in `- fn old`.
fn differences(kept: &str, offered: &str) -> Vec<String> {
    let gone = kept.lines().filter(|line| !offered.lines().any(|other| other == *line));
    let new = offered.lines().filter(|line| !kept.lines().any(|other| other == *line));
    let mut lines: Vec<String> = gone.map(|line| format!("- {line}")).collect();
    lines.extend(new.map(|line| format!("+ {line}")));
    if lines.is_empty() && kept != offered {
        lines.push("the same items, in another order or number".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_the_rest_is_left_out() {
        let listed = "\
pub struct a::X
impl a::X
pub fn a::X::new() -> Self
impl core::clone::Clone for a::X
pub fn a::X::clone(&self) -> a::X
impl<T> core::iter::traits::iterator::Iterator for a::X
pub type a::X::Item = u8
pub fn a::X::next(&mut self) -> Option<u8>
impl a::Mine for a::X
pub fn a::X::mine(&self)
impl a::Mine for a::X
impl !core::marker::Freeze for a::X
impl core::marker::Send for a::X
impl<T> core::marker::Unpin for a::X where T: core::marker::Unpin
pub fn a::free()
";
        let expected = "\
pub struct a::X
impl a::X
pub fn a::X::new() -> Self
impl core::clone::Clone for a::X
impl<T> core::iter::traits::iterator::Iterator for a::X
pub type a::X::Item = u8
impl a::Mine for a::X
impl core::marker::Send for a::X
pub fn a::free()
";
        assert_eq!(relevant(listed), expected);
    }

    #[test]
    fn what_is_gone_and_what_is_new_is_told() {
        assert_eq!(differences("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
        assert_eq!(differences("a\nb\n", "b\na\n").len(), 1);
        assert!(differences("a\n", "a\n").is_empty());
    }
}
