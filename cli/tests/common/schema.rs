//! What is printed as JSON against the schema that the command prints of it.
//!
//! As much of JSON Schema as these have: a keyword that is none of it is an error. (What crates check all of it would
//! bring sixty others along.) Stricter in one thing: what a schema does not name is an error, too.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

/// Names of an object's members that a schema has.
type Named = BTreeSet<String>;

/// Keywords that refuse nothing.
const NOTES: [&str; 6] = ["$schema", "$defs", "title", "description", "format", "default"];

/// Checks what `command` printed.
///
/// # Panics
/// It is not as the schema says.
pub(crate) fn check(command: &str, out: &str) {
    let schema = of(command);
    let lines: Vec<_> = if command == "list" { out.lines().collect() } else { vec![out] };
    for line in lines {
        let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {out}"));
        if let Err(error) = conforms(&schema, &value) {
            panic!("heirloom {command} --json: {error} in {line}");
        }
    }
}

/// Returns the schema of what a command prints.
pub(crate) fn of(command: &str) -> Value {
    static KNOWN: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let print = || {
        let mut heirloom = Command::new(env!("CARGO_BIN_EXE_heirloom"));
        let printed = heirloom.args(["schema", command]).output().unwrap();
        assert!(printed.status.success(), "{printed:?}");
        serde_json::from_slice(&printed.stdout).unwrap()
    };
    known.entry(command.to_owned()).or_insert_with(print).clone()
}

/// Checks a value.
///
/// # Errors
/// Where it is not as the schema says, or the schema says what is not known here.
pub(crate) fn conforms(schema: &Value, value: &Value) -> Result<(), String> {
    whole(schema, schema, value)
}

/// Checks a value, of which the schema has to name all members.
fn whole(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let named = part(root, schema, value)?;
    // Where a value may be any, nothing is named.
    let is_note = |keyword: &String| NOTES.contains(&keyword.as_str());
    if schema.as_object().is_none_or(|keywords| keywords.keys().all(is_note)) {
        return Ok(());
    }
    match value.as_object().and_then(|members| members.keys().find(|key| !named.contains(*key))) {
        Some(key) => Err(format!("{key}: nothing is said of it")),
        None => Ok(()),
    }
}

/// Checks a value by a schema that may not be all of what is said of it. Returns the members that it names.
fn part(root: &Value, schema: &Value, value: &Value) -> Result<Named, String> {
    let mut named = Named::new();
    let Some(keywords) = schema.as_object() else {
        return if schema == true {
            Ok(named)
        } else {
            Err(format!("{value} where nothing may be"))
        };
    };
    let list = |keyword: &str| keywords.get(keyword).and_then(Value::as_array);
    for (keyword, said) in keywords {
        match keyword.as_str() {
            "$ref" => {
                let path = said.as_str().and_then(|path| path.strip_prefix('#')).ok_or("$ref")?;
                let to = root.pointer(path).ok_or_else(|| format!("no {path}"))?;
                named.extend(part(root, to, value)?);
            }
            "allOf" => {
                for schema in list(keyword).into_iter().flatten() {
                    named.extend(part(root, schema, value)?);
                }
            }
            "anyOf" | "oneOf" => {
                let tried = list(keyword).into_iter().flatten().map(|of| part(root, of, value));
                let (fits, errors): (Vec<_>, Vec<_>) = tried.partition(Result::is_ok);
                let errors = errors.into_iter().filter_map(Result::err).collect::<Vec<_>>();
                ensure(!fits.is_empty(), || format!("none fits: {}", errors.join("; or ")))?;
                named.extend(fits.into_iter().flatten().flatten());
            }
            "properties" | "patternProperties" | "additionalProperties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = of_member(keywords, keyword, name)? {
                        whole(root, schema, member).map_err(|error| format!("{name}: {error}"))?;
                        named.insert(name.clone());
                    }
                }
            }
            "items" | "prefixItems" => {
                let first = list("prefixItems").map_or(0, Vec::len);
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    let schema = match keyword.as_str() {
                        "items" => Some(said).filter(|_| at >= first),
                        _ => said.get(at),
                    };
                    let checked = schema.map_or(Ok(()), |schema| whole(root, schema, item));
                    checked.map_err(|error| format!("[{at}]: {error}"))?;
                }
            }
            _ => limit(keyword, said, value)?,
        }
    }
    Ok(named)
}

/// Returns what one of the three keywords says of an object's member.
fn of_member<'s>(
    keywords: &'s Map<String, Value>,
    keyword: &str,
    name: &str,
) -> Result<Option<&'s Value>, String> {
    let listed = keywords.get("properties").and_then(|all| all.get(name));
    let mut of_pattern = None;
    let patterns = keywords.get("patternProperties").and_then(Value::as_object);
    for (pattern, schema) in patterns.into_iter().flatten() {
        if matches(&Value::from(pattern.as_str()), name)? {
            of_pattern = Some(schema);
        }
    }
    Ok(match keyword {
        "properties" => listed,
        "patternProperties" => of_pattern,
        _ if listed.or(of_pattern).is_some() => None,
        _ => keywords.get(keyword),
    })
}

/// Checks a value by a keyword that looks at nothing within it.
fn limit(keyword: &str, said: &Value, value: &Value) -> Result<(), String> {
    let fits = match keyword {
        note if NOTES.contains(&note) => true,
        "type" => {
            let is = |name: &Value| name.as_str().is_some_and(|name| is_of(value, name));
            said.as_array().map_or_else(|| is(said), |names| names.iter().any(is))
        }
        "const" => said == value,
        "enum" => said.as_array().is_some_and(|all| all.contains(value)),
        "minimum" => integer(value).is_none_or(|number| Some(number) >= integer(said)),
        "maximum" => integer(value).is_none_or(|number| Some(number) <= integer(said)),
        "minItems" => value.as_array().is_none_or(|all| Some(all.len() as u64) >= said.as_u64()),
        "maxItems" => value.as_array().is_none_or(|all| Some(all.len() as u64) <= said.as_u64()),
        "pattern" => value.as_str().map_or(Ok(true), |text| matches(said, text))?,
        "required" => {
            let mut all = said.as_array().into_iter().flatten().filter_map(Value::as_str);
            value.as_object().is_none_or(|members| all.all(|name| members.contains_key(name)))
        }
        other => return Err(format!("the keyword {other} is not known")),
    };
    ensure(fits, || format!("{value} is not as {keyword} {said} says"))
}

fn ensure(fits: bool, error: impl FnOnce() -> String) -> Result<(), String> {
    if fits { Ok(()) } else { Err(error()) }
}

fn integer(value: &Value) -> Option<i128> {
    value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from))
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// Whether a text is as a pattern says, of the two that there are.
fn matches(pattern: &Value, text: &str) -> Result<bool, String> {
    match pattern.as_str() {
        Some("^0x[0-9a-f]+$") => Ok(text.strip_prefix("0x").is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })),
        Some(r"^\d+$") => Ok(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())),
        _ => Err(format!("the pattern {pattern} is not known")),
    }
}
