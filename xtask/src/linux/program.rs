//! Programs for an emulated machine, linked so that they need no other file: examples, and the command `heirloom`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const MUSL: &str = "x86_64-unknown-linux-musl";
const GNU: &str = "x86_64-unknown-linux-gnu";

/// Builds an example and says where it is.
pub(crate) fn build(root: &Path, example: &str) -> Result<PathBuf> {
    let what = ["-p", "heirloom", "--features", "liveupdate", "--example", example];
    built(root, &what, example)
}

/// Builds the command `heirloom` and says where it is.
pub(crate) fn command(root: &Path) -> Result<PathBuf> {
    built(root, &["-p", "heirloom-cli", "--bin", "heirloom"], "heirloom")
}

/// Builds the executable of this name.
///
/// With musl, or where that target cannot be had, with the static libraries of the system's libc.
fn built(root: &Path, what: &[&str], name: &str) -> Result<PathBuf> {
    let musl = Command::new("rustup").args(["target", "add", MUSL]).output();
    let musl = musl.is_ok_and(|done| done.status.success());
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--quiet", "--message-format", "json"]);
    cargo.args(what).args(["--target", if musl { MUSL } else { GNU }]);
    // It lies in memory twice, and nobody debugs it there.
    cargo.env("CARGO_PROFILE_DEV_STRIP", "symbols").env("CARGO_PROFILE_DEV_DEBUG", "0");
    if !musl {
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    let built = cargo.output()?;
    ensure!(
        built.status.success(),
        "{name} does not build:\n{}{}",
        messages(&built.stdout),
        String::from_utf8_lossy(&built.stderr)
    );
    let text = String::from_utf8_lossy(&built.stdout);
    let mut found = text.lines().filter_map(|line| executable(line, name));
    found.next().context("cargo names no executable")
}

/// The executable's file, where a message of cargo's names it.
fn executable(line: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    (message.get("target")?.get("name")? == name).then(|| PathBuf::from(path))
}

/// What the compiler said.
fn messages(stdout: &[u8]) -> String {
    let text = String::from_utf8_lossy(stdout);
    let rendered = text.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(message.get("message")?.get("rendered")?.as_str()?.to_owned())
    });
    rendered.collect()
}
