//! What two handovers preserve differently.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use anyhow::bail;
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, PAGE_SIZE, Pfn};
use serde_json::Value;

use crate::facts::{Facts, Folios, Handover, Hex, Linux, VERSION, What};
use crate::output::{BAD, FAINT, GOOD, NAME, STRONG};
use crate::said;
use crate::text::{bytes, plural, shown};

/// Rows of folios that are listed on each side.
const LISTED: usize = 20;

/// Values of a file's folios that are listed.
const MOVED: usize = 4;

/// How two handovers differ.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Difference {
    /// Of the fields here.
    version: u32,
    /// Folios that only the first preserves.
    pub(crate) removed: Folios,
    /// Folios that only the second preserves.
    pub(crate) added: Folios,
    /// What the root page, the subtrees and their tables say otherwise.
    pub(crate) changed: Vec<Change>,
    /// What is wrong with one of the two.
    pub(crate) findings: Findings,
    /// Whether the contents of files were compared.
    pub(crate) contents: bool,
    /// Files whose contents could not be, though they were to be.
    pub(crate) uncompared: Vec<String>,
    /// Files of which either has some.
    #[serde(skip)]
    has_files: bool,
}

/// What a check finds in two handovers.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Findings {
    /// In the first alone.
    pub(crate) removed: Vec<String>,
    /// In the second alone.
    pub(crate) added: Vec<String>,
    /// In both: how many.
    pub(crate) both: u64,
}

impl Findings {
    fn of(a: &Facts, b: &Facts) -> Self {
        let mut found = Self::default();
        let mut left: BTreeMap<&str, u64> = BTreeMap::new();
        for fault in &b.findings {
            *left.entry(&fault.reason).or_default() += 1;
        }
        for fault in &a.findings {
            match left.get_mut(&*fault.reason).filter(|n| **n > 0) {
                Some(n) => (*n, found.both) = (*n - 1, found.both + 1),
                None => found.removed.push(fault.reason.clone()),
            }
        }
        for fault in &b.findings {
            if let Some(n) = left.get_mut(&*fault.reason).filter(|n| **n > 0) {
                *n -= 1;
                found.added.push(fault.reason.clone());
            }
        }
        found
    }
}

/// A value that differs.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Change {
    /// Which: `LUO.sessions[guest].files[1].size`.
    pub(crate) what: String,
    /// In the first, if it is there.
    pub(crate) from: Option<Value>,
    /// In the second, if it is there.
    pub(crate) to: Option<Value>,
}

impl Difference {
    /// How `b` differs from `a`; `contents`: files were hashed.
    ///
    /// # Errors
    /// Their machines have pages of different sizes.
    pub(crate) fn of(a: &Facts, b: &Facts, contents: bool) -> anyhow::Result<Self> {
        if a.image.page_size != b.image.page_size {
            bail!(
                "{} is of a machine with pages of {} bytes, {} with pages of {}",
                a.image.path,
                a.image.page_size,
                b.image.path,
                b.image.page_size,
            );
        }
        let findings = Findings::of(a, b);
        let (removed, added) = folios(&a.handover.preserved, &b.handover.preserved);
        let mut changed = Vec::new();
        let (from, to) =
            (Value::from(&*a.handover.compatible), Value::from(&*b.handover.compatible));
        compare("compatible", Some(&from), Some(&to), &mut changed);
        let (a, b) = (&a.handover, &b.handover);
        let subtree = |of: &Handover, name: &str| {
            let found = of.subtrees.iter().find(|subtree| subtree.name == name);
            found.map(serde_json::to_value).transpose()
        };
        let names = a.subtrees.iter().chain(&b.subtrees).map(|subtree| subtree.name.as_str());
        for name in names.collect::<BTreeSet<_>>() {
            let (a, b) = (subtree(a, name)?, subtree(b, name)?);
            compare(name, a.as_ref(), b.as_ref(), &mut changed);
        }
        let files: BTreeMap<String, bool> =
            files(a).chain(files(b)).fold(BTreeMap::new(), |mut all, (name, hashed)| {
                *all.entry(name).or_insert(true) &= hashed;
                all
            });
        let has_files = !files.is_empty();
        let uncompared = files.into_iter().filter(|(_, hashed)| contents && !hashed);
        let uncompared = uncompared.map(|(name, _)| name).collect();
        Ok(Self {
            version: VERSION,
            removed,
            added,
            changed,
            findings,
            contents,
            uncompared,
            has_files,
        })
    }

    /// Whether nothing differs.
    pub(crate) fn is_empty(&self) -> bool {
        let Findings { removed, added, .. } = &self.findings;
        self.removed.rows.is_empty()
            && self.added.rows.is_empty()
            && self.changed.is_empty()
            && removed.is_empty()
            && added.is_empty()
    }

    /// For a person, with styles.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let unseen = self.unseen();
        if self.is_empty() {
            let same = format!("{GOOD}no difference{GOOD:#}");
            let said: Vec<_> = core::iter::once(same).chain(unseen).collect();
            return writeln!(out, "{}", said.join("; "));
        }
        for (mark, style, rows) in [('-', BAD, &self.removed), ('+', GOOD, &self.added)] {
            let Folios { rows, page } = rows;
            if rows.is_empty() {
                continue;
            }
            let frames: u64 = rows.iter().map(|row| row.run().frames()).sum();
            let count = plural(rows.iter().map(|row| row.count()).sum(), "folio", "folios");
            let size = bytes(frames.saturating_mul(PAGE_SIZE as u64));
            writeln!(out, "{style}{mark}{style:#} {STRONG}{count}{STRONG:#}, {size}")?;
            for row in rows.iter().take(LISTED) {
                let (first, order) = (row.first(), said::order(row.first().order(), *page));
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
        let list = |change: &Change| change.what.rsplit_once(".folios[").map(|(of, _)| of.len());
        let alike = |a: &Change, b: &Change| {
            list(a).is_some_and(|n| list(b) == Some(n) && a.what.get(..n) == b.what.get(..n))
        };
        for changes in self.changed.chunk_by(alike) {
            let listed = if changes.len() > 1 { MOVED } else { 1 };
            for change in changes.iter().take(listed) {
                write_change(out, change)?;
            }
            if let more @ 1.. = changes.len().saturating_sub(listed) {
                let more = plural(more as u64, "value", "values");
                writeln!(out, "    {FAINT}and {more} more of its folios{FAINT:#}")?;
            }
        }
        let Findings { removed, added, .. } = &self.findings;
        for (mark, style, reasons) in [('-', BAD, removed), ('+', GOOD, added)] {
            for reason in reasons.iter().take(LISTED) {
                writeln!(out, "{style}{mark}{style:#} finding: {}", shown(reason))?;
            }
            if let more @ 1.. = reasons.len().saturating_sub(LISTED) {
                let more = plural(more as u64, "finding", "findings");
                writeln!(out, "    {FAINT}and {more} more{FAINT:#}")?;
            }
        }
        for what in unseen {
            writeln!(out, "{FAINT}{what}{FAINT:#}")?;
        }
        Ok(())
    }

    /// What is no difference, and what could be one.
    fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        if self.findings.both > 0 {
            let findings = plural(self.findings.both, "finding", "findings");
            unseen.push(format!("{findings} in both (see heirloom check)"));
        }
        if self.has_files && !self.contents {
            unseen.push("contents of files not compared (use --contents)".to_owned());
        }
        if let [first, rest @ ..] = &self.uncompared[..] {
            let more = match rest.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let first = shown(first);
            unseen.push(format!("contents not compared, as they cannot be had: {first}{more}"));
        }
        unseen
    }
}

/// Every memfd by its path, and whether its content is known by its hash.
fn files(of: &Handover) -> impl Iterator<Item = (String, bool)> {
    let luo = of.subtrees.iter().filter_map(|subtree| match &subtree.what {
        What::Linux(Linux::Luo(luo)) => Some((&subtree.name, luo)),
        _ => None,
    });
    let sessions = luo.flat_map(|(name, luo)| luo.sessions.iter().map(move |of| (name, of)));
    sessions.flat_map(|(name, session)| {
        session.files.iter().map(move |file| {
            // Of a kind that is not known, nothing can be hashed.
            let hashed = file.memfd.as_ref().is_some_and(|memfd| memfd.sha256.is_some());
            (format!("{name}.sessions[{}].files[{}]", session.name, file.token), hashed)
        })
    })
}

fn write_change(out: &mut String, Change { what, from, to }: &Change) -> fmt::Result {
    let what = shown(what);
    match (from, to) {
        (None, Some(to)) => writeln!(out, "{GOOD}+{GOOD:#} {NAME}{what}{NAME:#} {}", short(to)),
        (Some(from), None) => writeln!(out, "{BAD}-{BAD:#} {NAME}{what}{NAME:#} {}", short(from)),
        (Some(from), Some(to)) => {
            let (at, from, to) = first(from, to);
            let (from, to) = (short(from), short(to));
            writeln!(out, "~ {NAME}{what}{NAME:#}{at} {from} -> {to}")
        }
        (None, None) => Ok(()),
    }
}

/// Of two lists that are equally long the first items that differ, and which these are: the lists would look alike.
fn first<'v>(from: &'v Value, to: &'v Value) -> (String, &'v Value, &'v Value) {
    let (mut at, mut from, mut to) = (String::new(), from, to);
    while let (Value::Array(a), Value::Array(b)) = (from, to)
        && a.len() == b.len()
        && let Some(index) = a.iter().zip(b).position(|(a, b)| a != b)
    {
        // Writing to a string does not fail.
        let _ = write!(at, "[{index}]");
        (from, to) = (&a[index], &b[index]);
    }
    (at, from, to)
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
    (Folios { rows: only_a, page: a.page }, Folios { rows: only_b, page: b.page })
}

/// Adds a folio that comes after those that are there.
fn put(rows: &mut Vec<FolioRange>, (pfn, order): (Pfn, Order)) {
    if let Some(row) = rows.last_mut()
        && row.first().order() == order
        && row.run().end() == pfn
        && let Some(longer) = FolioRange::new(row.first(), row.count() + 1)
    {
        *row = longer;
    } else {
        rows.extend(FolioRange::new(Block::containing(pfn, order), 1));
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
        (None, None) => {}
        (from, to) => {
            let (Some(x), Some(y)) = (from.and_then(keyed), to.and_then(keyed)) else {
                out.push(Change { what: what.to_owned(), from: from.cloned(), to: to.cloned() });
                return;
            };
            let keys: BTreeSet<_> = x.keys().chain(y.keys()).collect();
            for key in keys {
                let (a, b) = (x.get(key).copied(), y.get(key).copied());
                compare(&format!("{what}[{key}]"), a, b, out);
            }
        }
    }
}

/// What an item of a list is known by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Number(u64),
    Name(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Key {
    /// A name, a token, or, of a file's folio, the page that it starts with.
    fn of(item: &Value) -> Option<Self> {
        let key = ["name", "token", "index"].iter().find_map(|field| item.get(field))?;
        let name = || Some(Self::Name(key.as_str()?.to_owned()));
        key.as_u64().map(Self::Number).or_else(name)
    }
}

/// The items by what they are known by, if each has a key of its own.
fn keyed(list: &Value) -> Option<BTreeMap<Key, &Value>> {
    let items = list.as_array()?;
    let keyed = items.iter().map(|item| Some((Key::of(item)?, item)));
    keyed.collect::<Option<BTreeMap<_, _>>>().filter(|keyed| keyed.len() == items.len())
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
        Folios { rows, page: heirloom_kho::PageSize::BUILD }
    }

    #[test]
    fn folios_of_one_side_are_found() {
        let a = rows(&[(1, 0), (2, 0), (8, 3), (32, 0), (33, 0)]);
        let b = rows(&[(2, 0), (8, 0), (9, 0), (32, 0), (33, 0), (64, 6)]);
        let (removed, added) = folios(&a, &b);
        assert_eq!(removed.rows, rows(&[(1, 0), (8, 3)]).rows);
        assert_eq!(added.rows, rows(&[(8, 0), (9, 0), (64, 6)]).rows);
        let (removed, added) = folios(&a, &a);
        assert!(removed.rows.is_empty() && added.rows.is_empty());
    }

    #[test]
    fn lists_that_would_look_alike_are_shown_where_they_differ() {
        let said = |from: Value, to: Value| {
            let mut out = String::new();
            let change = Change { what: "list".into(), from: Some(from), to: Some(to) };
            write_change(&mut out, &change).unwrap();
            anstream::adapter::strip_str(&out).to_string()
        };
        assert_eq!(said(json!([1, 2, 3]), json!([1, 4, 5])), "~ list[1] 2 -> 4\n");
        assert_eq!(said(json!([["a", 1]]), json!([["a", 2]])), "~ list[0][1] 1 -> 2\n");
        assert_eq!(said(json!([[1]]), json!([[1, 2]])), "~ list[0] [1 item] -> [2 items]\n");
        assert_eq!(said(json!([1]), json!([1, 2])), "~ list [1 item] -> [2 items]\n");
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
