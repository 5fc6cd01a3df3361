//! What the tests of the command share.

use std::process::Command;

use serde_json::Value;

/// The handover that Linux 7.3 left.
pub(crate) const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-kho-v4/image.elf");
const EXPECTED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-kho-v4/expected.json");

/// What an independent program found in it.
pub(crate) fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(EXPECTED).unwrap()).unwrap()
}

/// What the command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the command.
pub(crate) fn heirloom(arguments: &[&str]) -> Ran {
    let ran = Command::new(env!("CARGO_BIN_EXE_heirloom")).args(arguments).output().unwrap();
    Ran {
        code: ran.status.code().unwrap(),
        out: String::from_utf8(ran.stdout).unwrap(),
        err: String::from_utf8(ran.stderr).unwrap(),
    }
}
