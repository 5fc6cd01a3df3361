//! Old kernels are killed at random moments: a few, so that the harness itself does not rot. The
//! many, and every store, are steps of `cargo xtask verify`.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_crash");

/// A process of one thread, which tests are not: it forks.
fn crash(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), format!("{text}{errors}"))
}

#[test]
fn a_successor_finds_what_was_promised_whenever_the_old_kernel_ends() {
    assert!(Path::new(PROGRAM).exists());
    let (ended, text) = crash(&["kills", "70", "1"]);
    assert!(ended, "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("kills: 70 (seeds 1 to 70)"), "{text}");
    assert!(last.contains("0 lost, 0 with two owners"), "{text}");
}

#[test]
fn containers_hold_what_was_done_whenever_their_kernel_ends() {
    let (ended, text) = crash(&["containers", "30", "1"]);
    assert!(ended, "{text}");
    assert!(
        text.starts_with("containers: 30 kills") && text.contains("0 lost, 0 leaked"),
        "{text}"
    );
}

#[test]
fn a_build_that_counts_no_stores_says_so() {
    let (ended, text) = crash(&["stepping"]);
    assert!(!ended && text.contains("not a build that counts stores"), "{text}");
}
