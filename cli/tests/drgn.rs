//! `cli/drgn/heirloom.py` in drgn: the command on the memory that drgn looks at. Without drgn nothing is tried, and that is
//! said.

mod common;

use std::io::Write;
use std::process::Command;

use common::{FIXTURE, FLBS, Temporary, check, heirloom};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/drgn/heirloom.py");

/// Runs a script in drgn on the fixture. `None`: there is no drgn.
fn drgn(script: &str, arguments: &[&str]) -> Option<(i32, String, String)> {
    let mut drgn = Command::new("drgn");
    drgn.args(["-q", "--no-default-symbols", "-c", FIXTURE, script]).args(arguments);
    drgn.env("HEIRLOOM", env!("CARGO_BIN_EXE_heirloom"));
    drgn.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/drgn"));
    drgn.env("PYTHONDONTWRITEBYTECODE", "1");
    let Ok(ran) = drgn.output() else {
        // Past what the test harness keeps to itself.
        let said = "\n**** SKIPPED: no drgn: its script was not tried ****\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return None;
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some((ran.status.code().unwrap(), text(ran.stdout), text(ran.stderr)))
}

#[test]
fn the_command_s_exit_status_and_words_are_those_of_the_script() {
    let Some((code, out, err)) = drgn(SCRIPT, &["check", "--accept", FLBS]) else { return };
    let ran = check(FIXTURE);
    assert_eq!((code, &out), (ran.code, &ran.out), "{err}");
    let (code, ..) = drgn(SCRIPT, &["check", "--for", "6.16"]).unwrap();
    assert_eq!(code, heirloom(&["check", FIXTURE, "--for", "6.16"]).code);
    let (code, _, err) = drgn(SCRIPT, &[]).unwrap();
    assert!(code == 2 && err.contains("heirloom.py check --for"), "{err}");
}

#[test]
fn a_script_has_each_folio_and_is_told_why_there_is_none() {
    let script = Temporary::new(
        b"import heirloom\n\
          all = list(heirloom.folios(prog))\n\
          shown = heirloom.inspect(prog)\n\
          assert len(all) == shown['folios'], shown\n\
          assert sum(1 << folio.order for folio in all) == shown['frames']\n\
          assert all[0].addr == int(shown['preserved'][0][0], 16) and all[0].page is None\n\
          try:\n    heirloom.inspect(prog, '--root', '0x1000')\n\
          except heirloom.NoHandover as error:\n    print(len(all), error)\n",
    );
    let Some((code, out, err)) = drgn(script.as_str(), &[]) else { return };
    let shown = heirloom(&["inspect", "--json", FIXTURE]).json();
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(&format!("{} error: ", shown["folios"])), "{out}");
    assert!(out.contains("0x1000"), "{out}");
}
