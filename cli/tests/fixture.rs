//! A handover that Linux 7.3 left, looked at by the command.

mod common;

use common::{FIXTURE, expected, heirloom};
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
    let ran = heirloom(&["check", FIXTURE]);
    let said = "in order: root 0x50f000, 93 folios, 28 nodes, 3 subtrees; scratch is not known\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, said, ""));
}
