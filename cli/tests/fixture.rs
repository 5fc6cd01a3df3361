//! A handover that Linux 7.3 left, looked at by the command.

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Core, FIXTURE, Temporary, check, expected, heirloom, sha256};
use serde_json::Value;

/// Every field of `expected` that `found` has otherwise, or not at all.
fn differences(at: &str, expected: &Value, found: &Value, out: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, value) in fields {
                let at = format!("{at}.{name}");
                match others.get(name) {
                    Some(other) => differences(&at, value, other, out),
                    None => out.push(format!("{at} is missing")),
                }
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (i, (item, other)) in items.iter().zip(others).enumerate() {
                differences(&format!("{at}[{i}]"), item, other, out);
            }
        }
        _ if expected == found => {}
        _ => out.push(format!("{at} is {found}, not {expected}")),
    }
}

#[test]
fn every_field_agrees_with_an_independent_program() {
    let ran = heirloom(&["inspect", FIXTURE, "--json"]);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let mut out = Vec::new();
    differences("", &expected(), &found, &mut out);
    assert_eq!(out, [""; 0]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    // And the comparison does compare.
    let mut other = expected();
    other["subtrees"]["LUO"]["sessions"][1]["files"][0]["folios"][3]["pfn"] = 1.into();
    other["unknown"] = 1.into();
    differences("", &other, &found, &mut out);
    assert_eq!(
        out,
        [".subtrees.LUO.sessions[1].files[0].folios[3].pfn is 6104, not 1", ".unknown is missing"]
    );
}

#[test]
fn linux_left_it_in_order() {
    let ran = check(FIXTURE);
    let said = "\
        ? FLB liveupdate-test-flb-v0: not looked at, accepted\n\
        ? FLB liveupdate-test-flb-v1: not looked at, accepted\n\
        ? FLB liveupdate-test-flb-v2: not looked at, accepted\n\
        in order as far as looked at: root 0x50f000, 93 folios, 28 nodes, 3 subtrees; \
        not looked at: 3 FLBs of unknown kind; scratch is not known\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, said, ""));
}

/// What `--json` says of an image, but for the file itself and its roots.
fn said(arguments: &[&str]) -> Value {
    let ran = heirloom(&[&["inspect", "--json"], arguments].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let mut json = ran.json();
    json.as_object_mut().unwrap().remove("image").unwrap();
    json
}

#[test]
fn raw_memory_says_the_same() {
    let raw = Temporary::new(&Core::fixture().raw(0x50_0000, 0x140_0000));
    assert_eq!(said(&[raw.as_str(), "--base", "0x500000"]), said(&[FIXTURE]));
    assert_eq!(
        said(&[raw.as_str(), "--base", "0x500000", "--root", "0x50f000"])["preserved"],
        expected()["preserved"]
    );
}

#[test]
fn segments_anywhere_in_the_file_say_the_same() {
    let core = Core::fixture();
    let mut odd = core.0[..0x1000].to_vec();
    for (i, (offset, _, bytes)) in core.segments().into_iter().enumerate() {
        odd.resize(odd.len() + i * 3 + 1, 0xee);
        let at = 64 + i * 56 + 8;
        let place = odd.len() as u64;
        odd[at..at + 8].copy_from_slice(&place.to_le_bytes());
        odd.extend(&core.0[offset..offset + bytes]);
    }
    let file = Temporary::new(&odd);
    assert_eq!(said(&[file.as_str()]), said(&[FIXTURE]));
}

#[test]
fn memfds_are_extracted_whole() {
    for session in expected()["subtrees"]["LUO"]["sessions"].as_array().unwrap() {
        for file in session["files"].as_array().unwrap() {
            let (name, token) = (session["name"].as_str().unwrap(), file["token"].to_string());
            let to = Temporary::path();
            let ran = heirloom(&["extract", FIXTURE, name, &token, "-o", to.as_str()]);
            assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
            let content = to.read();
            assert_eq!(content.len() as u64, file["size"].as_u64().unwrap());
            let hash = sha256(&content);
            assert_eq!(hash, file["sha256"].as_str().unwrap());
        }
    }
}

#[test]
fn holes_stay_holes() {
    // The second file's folios 4 to 15 were never written: their flag says so.
    let mut core = Core::fixture();
    let list = core.word(core.word(0x71_8000 + 32) + 8);
    for i in 4..16 {
        let entry = core.word(list + i * 16);
        core.put(list + i * 16, &(entry & !(2 << 52)).to_le_bytes());
    }
    // And it ends within a page.
    core.put(0x71_8000 + 8, &65_000_u64.to_le_bytes());
    let (file, to) = (core.file(), Temporary::path());
    let ran = heirloom(&["extract", file.as_str(), "session-0", "1", "-o", to.as_str()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let whole = Temporary::path();
    heirloom(&["extract", FIXTURE, "session-0", "1", "-o", whole.as_str()]);
    let content = to.read();
    assert_eq!(content.len(), 65_000);
    assert_eq!(content[..16384], whole.read()[..16384]);
    assert!(content[16384..].iter().all(|byte| *byte == 0));
    // Blocks of 512 bytes: where the file system has holes, these are.
    let blocks = std::fs::metadata(to.as_str()).unwrap().blocks();
    assert!(blocks <= 4 * 4096 / 512 + 8, "{blocks} blocks");
    let memfd = said(&[file.as_str()])["subtrees"]["LUO"]["sessions"][0]["files"][1].clone();
    assert_eq!(memfd["holes"], serde_json::json!([{ "offset": 16384, "bytes": 48616 }]));
    let hash = sha256(&content);
    assert_eq!(memfd["sha256"], hash);
}

#[test]
fn what_is_not_there_is_not_extracted() {
    let refused = |session: &str, token: &str| {
        let to = Temporary::path();
        let ran = heirloom(&["extract", FIXTURE, session, token, "-o", to.as_str()]);
        assert_eq!((ran.code, to.exists()), (2, false));
        ran.err
    };
    assert_eq!(
        refused("session-2", "0"),
        "error: no session session-2; there are session-0, session-1\n"
    );
    assert_eq!(
        refused("session-1", "7"),
        "error: no file 7 in session session-1; there are 256, 257\n"
    );
    let to = "/nonexistent/file";
    let ran = heirloom(&["extract", FIXTURE, "session-1", "0x100", "-o", to]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.starts_with("error: /nonexistent/file: "), "{}", ran.err);
}

#[test]
fn a_handover_differs_from_another_in_what_changed() {
    let same = heirloom(&["diff", FIXTURE, FIXTURE, "--contents"]);
    assert_eq!((same.code, same.out.as_str()), (0, "no difference\n"));
    let mut core = Core::fixture();
    // The first folio of file 0 gets another content, and the second file another size.
    core.put(0x7b_6000, b"changed");
    core.put(0x71_8000 + 8, &65_000_u64.to_le_bytes());
    let file = core.file();
    let ran = heirloom(&["diff", FIXTURE, file.as_str()]);
    let size = "~ LUO.sessions[session-0].files[1].size 65536 -> 65000\n";
    let unseen = "contents of files not compared (use --contents)\n";
    assert_eq!((ran.code, ran.out), (1, format!("{size}{unseen}")));
    let same = heirloom(&["diff", FIXTURE, FIXTURE]);
    assert_eq!((same.code, same.out), (0, format!("no difference; {unseen}")));
    let ran = heirloom(&["diff", FIXTURE, file.as_str(), "--contents", "--json"]);
    assert_eq!(
        (&ran.json()["contents"], ran.json()["uncompared"].to_string()),
        (&true.into(), "[]".into())
    );
    let changed = ran.json()["changed"].clone();
    let names: Vec<_> = changed.as_array().unwrap().iter().map(|c| c["what"].clone()).collect();
    let path = |i: usize, field: &str| format!("LUO.sessions[session-0].files[{i}].{field}");
    assert_eq!(names, [path(0, "sha256"), path(1, "sha256"), path(1, "size")]);
}

#[test]
fn whoever_has_seen_enough_may_close_the_pipe() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["inspect", FIXTURE, "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[test]
fn colours_are_for_whoever_wants_them() {
    let plain = heirloom(&["inspect", FIXTURE]).out;
    assert!(!plain.contains('\x1b'));
    assert_eq!(heirloom(&["inspect", FIXTURE, "--color", "never"]).out, plain);
    let coloured = heirloom(&["inspect", FIXTURE, "--color", "always"]).out;
    assert!(coloured.contains("\x1b["));
    assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
}

#[test]
fn the_manual_and_the_completions_know_every_command() {
    let ran = heirloom(&["man"]);
    assert!(ran.out.contains(".TH heirloom 1"), "{}", ran.out);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = heirloom(&["completions", shell]);
        assert_eq!(ran.code, 0);
        for command in ["inspect", "check", "extract", "diff"] {
            assert!(ran.out.contains(command), "{shell}: {command}");
        }
    }
    let dir = Temporary::path();
    assert_eq!(heirloom(&["man", "--dir", dir.as_str()]).code, 0);
    let pages = std::fs::read_dir(dir.as_str()).unwrap();
    let mut names: Vec<_> =
        pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    std::fs::remove_dir_all(dir.as_str()).unwrap();
    for page in ["heirloom.1", "heirloom-check.1", "heirloom-inspect.1"] {
        assert!(names.iter().any(|name| name == page), "{names:?}");
    }
    for command in ["inspect", "check", "extract", "diff", "completions", "man"] {
        let help = heirloom(&[command, "--help"]);
        assert_eq!(help.code, 0);
        assert!(help.out.contains("Examples:"), "{command}");
    }
}

#[test]
fn a_picture_is_sound_whatever_the_image_is_called() {
    let dir = Temporary::path();
    std::fs::create_dir_all(dir.as_str()).unwrap();
    let image = format!("{}/<&\">.elf", dir.as_str());
    std::fs::copy(FIXTURE, &image).unwrap();
    let map = Temporary::path();
    let ran = heirloom(&["inspect", &image, "--map", map.as_str()]);
    std::fs::remove_dir_all(dir.as_str()).unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let svg = String::from_utf8(map.read()).unwrap();
    assert!(svg.contains("handover in &lt;&amp;"), "{svg}");
    assert!(!svg.contains("<&"));
    // Six orders, the nodes, and a pin for each table.
    for words in ["order 5: 1 folio", "28 tree nodes", "kexec-metadata 0x516000", "0x17c0000"] {
        assert!(svg.contains(words), "{words}");
    }
    let nowhere = heirloom(&["inspect", FIXTURE, "--map", "/nonexistent/map.svg"]);
    assert_eq!((nowhere.code, nowhere.out.as_str()), (2, ""));
}
