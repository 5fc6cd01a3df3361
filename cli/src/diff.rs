//! What two handovers preserve differently.

use std::collections::BTreeSet;
use std::fmt::Write;

use heirloom_folio::tracker::Adjacent;
use heirloom_folio::{Block, Order, Pfn};
use serde_json::Value;

use crate::facts::{Facts, Folios, Hex};
use crate::output::{BAD, FAINT, GOOD, NAME, STRONG};
use crate::text::{bytes, plural, shown};

/// Rows of folios that are listed on each side.
const LISTED: usize = 20;

/// How two handovers differ.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Difference {
    /// Folios that only the first preserves.
    pub(crate) removed: Folios,
    /// Folios that only the second preserves.
    pub(crate) added: Folios,
    /// What the root page, the subtrees and their tables say otherwise.
    pub(crate) changed: Vec<Change>,
}

/// A value that differs.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Change {
    /// Which: `LUO.sessions[guest].files[1].size`.
    pub(crate) what: String,
    /// In the first, if it is there.
    pub(crate) from: Option<Value>,
    /// In the second, if it is there.
    pub(crate) to: Option<Value>,
}

impl Difference {
    /// How `b` differs from `a`.
    ///
    /// # Errors
    /// None that facts have: every one is JSON.
    pub(crate) fn of(a: &Facts, b: &Facts) -> anyhow::Result<Self> {
        let (removed, added) = folios(&a.preserved, &b.preserved);
        let mut changed = Vec::new();
        let (from, to) = (Value::from(&*a.compatible), Value::from(&*b.compatible));
        compare("compatible", Some(&from), Some(&to), &mut changed);
        let subtree = |facts: &Facts, name: &str| {
            let found = facts.subtrees.iter().find(|subtree| subtree.name == name);
            found.map(serde_json::to_value).transpose()
        };
        let names = a.subtrees.iter().chain(&b.subtrees).map(|subtree| subtree.name.as_str());
        for name in names.collect::<BTreeSet<_>>() {
            let (a, b) = (subtree(a, name)?, subtree(b, name)?);
            compare(name, a.as_ref(), b.as_ref(), &mut changed);
        }
        Ok(Self { removed, added, changed })
    }

    /// Whether nothing differs.
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.0.is_empty() && self.added.0.is_empty() && self.changed.is_empty()
    }

    /// For a person, with styles.
    pub(crate) fn text(&self, page_size: u64) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out, page_size);
        out
    }

    fn write(&self, out: &mut String, page_size: u64) -> std::fmt::Result {
        if self.is_empty() {
            return writeln!(out, "{GOOD}no difference{GOOD:#}");
        }
        for (mark, style, rows) in [('-', BAD, &self.removed), ('+', GOOD, &self.added)] {
            let Folios(rows) = rows;
            if rows.is_empty() {
                continue;
            }
            let frames: u64 = rows.iter().map(|row| row.run().frames()).sum();
            let count = plural(rows.iter().map(|row| row.count()).sum(), "folio", "folios");
            let size = bytes(frames.saturating_mul(page_size));
            writeln!(out, "{style}{mark}{style:#} {STRONG}{count}{STRONG:#}, {size}")?;
            for row in rows.iter().take(LISTED) {
                let (first, order) = (row.first(), row.first().order().get());
                let addr = Hex::from(first.addr());
                writeln!(
                    out,
                    "  {style}{mark}{style:#} {addr:<14} {} of order {order}",
                    row.count()
                )?;
            }
            if let more @ 1.. = rows.len().saturating_sub(LISTED) {
                writeln!(
                    out,
                    "    {FAINT}and {} more{FAINT:#}",
                    plural(more as u64, "row", "rows")
                )?;
            }
        }
        for Change { what, from, to } in &self.changed {
            let what = shown(what);
            match (from, to) {
                (None, Some(to)) => {
                    writeln!(out, "{GOOD}+{GOOD:#} {NAME}{what}{NAME:#} {}", short(to))?;
                }
                (Some(from), None) => {
                    writeln!(out, "{BAD}-{BAD:#} {NAME}{what}{NAME:#} {}", short(from))?;
                }
                _ => {
                    let side =
                        |value: &Option<Value>| value.as_ref().map(short).unwrap_or_default();
                    writeln!(out, "~ {NAME}{what}{NAME:#} {} -> {}", side(from), side(to))?;
                }
            }
        }
        Ok(())
    }
}

/// A value on a line.
fn short(value: &Value) -> String {
    const LONG: usize = 72;
    match value {
        Value::String(text) => shown(text).into_owned(),
        Value::Array(items) => format!("[{}]", plural(items.len() as u64, "item", "items")),
        _ => {
            let text = value.to_string();
            match text.char_indices().nth(LONG) {
                Some((end, _)) => format!("{}…", shown(text.get(..end).unwrap_or(""))),
                None => shown(&text).into_owned(),
            }
        }
    }
}

/// Folios that are in `a` alone, and in `b` alone.
fn folios(a: &Folios, b: &Folios) -> (Folios, Folios) {
    let (mut only_a, mut only_b) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (a.each().peekable(), b.each().peekable());
    loop {
        match (left.peek().copied(), right.peek().copied()) {
            (None, None) => break,
            (Some(x), Some(y)) if x == y => {
                left.next();
                right.next();
            }
            (Some(x), y) if y.is_none_or(|y| x < y) => {
                put(&mut only_a, x);
                left.next();
            }
            _ => {
                if let Some(y) = right.next() {
                    put(&mut only_b, y);
                }
            }
        }
    }
    (Folios(only_a), Folios(only_b))
}

/// Adds a folio that comes after those that are there.
fn put(rows: &mut Vec<Adjacent>, (pfn, order): (Pfn, Order)) {
    if let Some(row) = rows.last_mut()
        && row.first().order() == order
        && row.run().end() == pfn
        && let Some(longer) = Adjacent::new(row.first(), row.count() + 1)
    {
        *row = longer;
    } else {
        rows.extend(Adjacent::new(Block::containing(pfn, order), 1));
    }
}

/// Goes down two values as long as they have the same shape.
fn compare(what: &str, a: Option<&Value>, b: Option<&Value>, out: &mut Vec<Change>) {
    match (a, b) {
        (Some(a), Some(b)) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                compare(&format!("{what}.{name}"), a.get(name), b.get(name), out);
            }
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) if keyed(x) && keyed(y) => {
            let find = |items: &[Value], key: &str| {
                items.iter().find(|item| key_of(item).as_deref() == Some(key)).cloned()
            };
            let keys: BTreeSet<_> = x.iter().chain(y).filter_map(key_of).collect();
            for key in keys {
                let (a, b) = (find(x, &key), find(y, &key));
                compare(&format!("{what}[{key}]"), a.as_ref(), b.as_ref(), out);
            }
        }
        (None, None) => {}
        (from, to) => {
            out.push(Change { what: what.to_owned(), from: from.cloned(), to: to.cloned() });
        }
    }
}

/// Whether each item has a key of its own.
fn keyed(items: &[Value]) -> bool {
    let keys: BTreeSet<_> = items.iter().filter_map(key_of).collect();
    keys.len() == items.len()
}

/// What an item is known by.
fn key_of(item: &Value) -> Option<String> {
    let key = item.get("name").or_else(|| item.get("token"))?;
    Some(key.as_str().map_or_else(|| key.to_string(), ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(folios: &[(u64, u8)]) -> Folios {
        let mut rows = Vec::new();
        for (pfn, order) in folios {
            put(&mut rows, (Pfn::new(*pfn), Order::new(*order).unwrap()));
        }
        Folios(rows)
    }

    #[test]
    fn folios_of_one_side_are_found() {
        let a = rows(&[(1, 0), (2, 0), (8, 3), (32, 0), (33, 0)]);
        let b = rows(&[(2, 0), (8, 0), (9, 0), (32, 0), (33, 0), (64, 6)]);
        let (removed, added) = folios(&a, &b);
        assert_eq!(removed.0, rows(&[(1, 0), (8, 3)]).0);
        assert_eq!(added.0, rows(&[(8, 0), (9, 0), (64, 6)]).0);
        let (removed, added) = folios(&a, &a);
        assert!(removed.0.is_empty() && added.0.is_empty());
    }

    #[test]
    fn items_are_matched_by_what_they_are_known_by() {
        let a = json!({ "n": 1, "files": [{ "token": 1, "size": 8 }, { "token": 2, "size": 8 }] });
        let b = json!({ "n": 1, "files": [{ "token": 2, "size": 9 }, { "token": 3, "size": 8 }] });
        let mut out = Vec::new();
        compare("LUO", Some(&a), Some(&b), &mut out);
        let change = |what: &str, from: Option<Value>, to: Option<Value>| Change {
            what: what.to_owned(),
            from,
            to,
        };
        assert_eq!(
            out,
            [
                change("LUO.files[1]", Some(json!({ "token": 1, "size": 8 })), None),
                change("LUO.files[2].size", Some(json!(8)), Some(json!(9))),
                change("LUO.files[3]", None, Some(json!({ "token": 3, "size": 8 }))),
            ]
        );
    }
}
