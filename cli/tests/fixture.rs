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
fn the_tree_agrees_with_an_independent_program() {
    let ran = heirloom(&["inspect", FIXTURE, "--json"]);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let mut tree = expected();
    tree.as_object_mut().unwrap().remove("subtrees");
    let mut out = Vec::new();
    differences("", &tree, &found, &mut out);
    assert_eq!(out, [""; 0]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}
