//! The schemas of what is printed as JSON. What any test has printed is checked against them: see `common`.

mod common;

use common::schema::{conforms, of};
use common::{FIXTURE, FLBS, LENT, heirloom};
use serde_json::{Value, json};

#[test]
fn what_is_not_as_it_was_does_not_conform() {
    let (schema, shown) = (of("inspect"), heirloom(&["inspect", "--json", FIXTURE]).json());
    assert_eq!(conforms(&schema, &shown), Ok(()));
    // Where a value is changed, and to what; `null` takes it away.
    for (path, to) in [
        ("/version", json!("1")),
        ("/version", json!(-1)),
        ("/fdt", json!(4096)),
        ("/fdt", json!("1000")),
        ("/fdt", Value::Null),
        ("/image/path", json!(["a"])),
        ("/preserved/0", json!(["0x1000", 0, 1])),
        ("/subtrees/LUO/sessions/0/files/0/token", json!(1.5)),
        ("/subtrees/LUO/sessions/0/more", json!(1)),
    ] {
        let mut changed = shown.clone();
        let (within, name) = path.rsplit_once('/').unwrap();
        let within = changed.pointer_mut(within).unwrap();
        match (to, name.parse::<usize>()) {
            (to, Ok(at)) => within[at] = to,
            (Value::Null, _) => drop(within.as_object_mut().unwrap().remove(name)),
            (to, _) => within[name] = to,
        }
        assert!(conforms(&schema, &changed).is_err(), "{path}");
    }
}

#[test]
fn each_command_that_prints_json_has_a_schema_that_names_its_version() {
    for command in ["inspect", "diff", "status"] {
        let schema = of(command);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let required = schema["required"].as_array().unwrap();
        assert!(required.contains(&json!("version")), "{command}");
        assert!(schema["description"].is_string(), "{command}");
    }
    assert_eq!(of("check")["anyOf"].as_array().unwrap().len(), 2);
    assert_eq!(of("list")["anyOf"].as_array().unwrap().len(), 3);
    // No other has one, and none that prints JSON is without.
    for command in ["inspect", "check", "extract", "list", "diff", "hold", "status", "clear", "man"]
    {
        let prints = heirloom(&[command, "--help"]).out.contains("--json");
        assert_eq!(heirloom(&["schema", command]).code == 0, prints, "{command}");
    }
}

/// As `heirloom` checks what it ran.
#[test]
fn what_is_printed_of_handovers_of_every_kind_conforms() {
    for arguments in [
        &["inspect", LENT, "--zero-excluded", "--json"][..],
        &["check", FIXTURE, "--json"],
        &["check", FIXTURE, "--accept", FLBS, "--for", "7.3", "--against", FIXTURE, "--json"],
        &["check", LENT, "--zero-excluded", "--for", "6.19", "--json"],
        &["diff", FIXTURE, LENT, "--zero-excluded", "--json"],
    ] {
        let ran = heirloom(arguments);
        assert!(ran.code != 2 && ran.json().is_object(), "{arguments:?}: {ran:?}");
    }
}
