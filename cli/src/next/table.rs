//! What a kernel says it takes: a text, a line a fact.
//!
//! ```text
//!  kernel Linux 7.3                     its name
//!  takes memfd-v2 if LIVEUPDATE_MEMFD   a structure, by what it says that it is; and what it must be built with
//!  otherwise memfd each open fails      what it does with a structure of this name that it does not take
//!  needs luo liveupdate=on              what it must be started with, where there is such a structure
//!  machine x86_64                       what it is for, as `uname -m` says it
//!  page-size 4096                       of its pages
//!  at-most seals 0x3f                   a limit: seals, folio-order, scratch-areas
//!  layout memfd-v2 pos:8 size:8         what is in a structure
//!  # a remark
//! ```
//!
//! Lines stand in any order; what comes again is added, or, where there can be one only, holds instead.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::machine::Machine;

/// What a kernel says it takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) kernel: String,
    pub(crate) takes: BTreeSet<Takes>,
    /// What it does with what it does not take, by the structure's name.
    pub(crate) otherwise: BTreeMap<String, String>,
    pub(crate) needs: Vec<Needs>,
    pub(crate) page_size: Option<u64>,
    /// What it is for.
    pub(crate) machine: Option<Machine>,
    /// By what they limit: one of [`LIMITS`].
    pub(crate) at_most: BTreeMap<String, u64>,
    /// What is in a structure, by what it says that it is.
    pub(crate) layouts: BTreeMap<String, String>,
}

/// A structure that is taken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Takes {
    /// What it says that it is.
    pub(crate) text: String,
    /// What the kernel must be built with.
    pub(crate) symbol: Option<String>,
}

/// What a kernel must be started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Needs {
    /// Where there is a structure of this name.
    pub(crate) name: String,
    pub(crate) what: String,
    /// What it may be built with instead.
    pub(crate) unless: Option<String>,
}

/// What can be limited.
pub(crate) const LIMITS: [&str; 3] = ["seals", "folio-order", "scratch-areas"];

/// Kernels that are known, with the first word that stands for each.
const KNOWN: [(&[&str], &str); 4] = [
    (&["6.16", "6.17", "6.18"], include_str!("../../kernels/linux-6.16")),
    (&["6.19"], include_str!("../../kernels/linux-6.19")),
    (&["7.3"], include_str!("../../kernels/linux-7.3")),
    (&["heirloom"], include_str!("../../kernels/heirloom")),
];

/// What is known by these words, for a person.
pub(crate) fn known() -> String {
    KNOWN.iter().flat_map(|(names, _)| *names).copied().collect::<Vec<_>>().join(", ")
}

impl Table {
    /// The table of a kernel that is known: `heirloom`, or a release of Linux, with whatever stands behind its
    /// second number (`7.3.4-amd64`). `None` if it is not.
    ///
    /// # Errors
    /// None, as long as the tables here are sound.
    pub(crate) fn of_known(name: &str) -> Result<Option<Self>> {
        let numbers = release(name).map(|(major, minor)| format!("{major}.{minor}"));
        let short = numbers.as_deref().unwrap_or(name);
        let found = KNOWN.iter().find(|(names, _)| names.contains(&short));
        found.map(|(_, text)| Self::read(text)).transpose()
    }

    /// Reads a table.
    ///
    /// # Errors
    /// The line that is none, and why.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut table = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                table.line(line).with_context(|| format!("line {number}"))?;
            }
        }
        ensure!(
            !table.kernel.is_empty(),
            "a table of what a kernel takes has a line `kernel NAME`, and this has none"
        );
        Ok(table)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        ensure!(!rest.is_empty(), "{word:?} alone says nothing");
        let pair = || {
            let (name, what) =
                rest.split_once(char::is_whitespace).context("two words, or more")?;
            Ok::<_, anyhow::Error>((name.to_owned(), what.trim().to_owned()))
        };
        match word {
            "kernel" => rest.clone_into(&mut self.kernel),
            "takes" => {
                let (text, symbol) = behind(rest, " if ");
                ensure!(is_text(text), "{text:?} is nothing that a structure can say that it is");
                self.takes.insert(Takes { text: text.to_owned(), symbol });
            }
            "otherwise" => {
                let (name, what) = pair()?;
                self.otherwise.insert(name, what);
            }
            "needs" => {
                let (name, what) = pair()?;
                let (what, unless) = behind(&what, " unless ");
                self.needs.push(Needs { name, what: what.to_owned(), unless });
            }
            "page-size" => self.page_size = Some(number(rest)?),
            "machine" => self.machine = Machine::named(rest),
            "at-most" => {
                let (name, most) = pair()?;
                ensure!(
                    LIMITS.contains(&&*name),
                    "{name:?} is no limit; there are {}",
                    LIMITS.join(", ")
                );
                self.at_most.insert(name, number(&most)?);
            }
            "layout" => {
                let (text, fields) = pair()?;
                let fields: Vec<_> = fields.split_whitespace().collect();
                self.layouts.insert(text, fields.join(" "));
            }
            _ => bail!(
                "{word:?} is no word of such a table; there are kernel, takes, otherwise, needs, machine, page-size, \
                 at-most, layout"
            ),
        }
        Ok(())
    }

    /// Adds what `other` says: all that it takes, and what this one does not say.
    pub(crate) fn add(&mut self, other: Self) {
        self.kernel = format!("{} with {}", self.kernel, other.kernel);
        self.takes.extend(other.takes);
        self.needs.extend(other.needs);
        for (name, what) in other.otherwise {
            self.otherwise.entry(name).or_insert(what);
        }
        for (name, most) in other.at_most {
            self.at_most.entry(name).or_insert(most);
        }
        for (text, fields) in other.layouts {
            self.layouts.entry(text).or_insert(fields);
        }
        self.page_size = self.page_size.or(other.page_size);
        self.machine = self.machine.take().or(other.machine);
    }
}

/// What stands before and, if there is one, behind the last `word`.
fn behind<'t>(text: &'t str, word: &str) -> (&'t str, Option<String>) {
    match text.rsplit_once(word) {
        Some((before, after)) => (before.trim(), Some(after.trim().to_owned())),
        None => (text, None),
    }
}

fn number(text: &str) -> Result<u64> {
    let hex = text.strip_prefix("0x");
    let parsed = hex.map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    parsed.with_context(|| format!("{text:?} is no number"))
}

/// The longest text that a structure says that it is.
const LONGEST: usize = 47;

/// Whether a structure can say this: what is printed, without a blank.
fn is_text(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text is names and versions, and so what a structure says that it is: `memfd-v2`, `kho-v4;radix-v1`,
/// `kvm_vm_luo_v1`.
pub(crate) fn is_compatible(text: &str) -> bool {
    let is = |part: &str| split(part).is_some_and(|(name, _)| !name.is_empty());
    is_text(text) && text.split(';').all(is)
}

/// The name of a structure that says it is `text`: all before the version of its first part.
pub(crate) fn name(text: &str) -> &str {
    let first = text.split(';').next().unwrap_or(text);
    split(first).map_or(first, |(name, _)| name)
}

/// A name, and the digits of its version.
fn split(part: &str) -> Option<(&str, &str)> {
    let at = part.rfind(['-', '_'])?;
    let digits = part.get(at + 1..)?.strip_prefix('v')?;
    let sound = (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    sound.then_some((part.get(..at)?, digits))
}

/// The first two numbers of a release of Linux.
pub(crate) fn release(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let numbers = |digits: &str| {
        // `parse` takes a sign, which no release has.
        if digits.starts_with('+') { None } else { digits.parse().ok() }
    };
    Some((numbers(major)?, numbers(rest.get(..end)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_that_are_known_are_sound() {
        for (names, text) in KNOWN {
            let table = Table::read(text).unwrap();
            for name in names {
                assert_eq!(Table::of_known(name).unwrap(), Some(table.clone()), "{name}");
            }
            for takes in &table.takes {
                assert!(is_compatible(&takes.text), "{takes:?}");
            }
        }
        let table = Table::of_known("7.3.4-1-amd64").unwrap().unwrap();
        assert_eq!(table.kernel, "Linux 7.3");
        assert_eq!(table.at_most["seals"], 0x3f);
        let memfd = Takes { text: "memfd-v2".into(), symbol: Some("LIVEUPDATE_MEMFD".into()) };
        assert!(table.takes.contains(&memfd));
        assert_eq!(table.needs[0].unless.as_deref(), Some("KEXEC_HANDOVER_ENABLE_DEFAULT"));
        assert_eq!(Table::of_known("7.30").unwrap(), None);
        assert_eq!(Table::of_known("linux").unwrap(), None);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let said = |text: &str| format!("{:#}", Table::read(text).unwrap_err());
        assert!(said("").contains("`kernel NAME`"));
        assert_eq!(said("kernel a\n\ntakes"), "line 3: \"takes\" alone says nothing");
        assert!(said("kernel a\nlikes b").starts_with("line 2: \"likes\" is no word"));
        assert!(said("at-most folios 3").starts_with("line 1: \"folios\" is no limit"));
        assert!(said("page-size 4k").starts_with("line 1: \"4k\" is no number"));
        assert!(said("takes a b").contains("\"a b\" is nothing that a structure can say"));
    }

    #[test]
    fn a_text_has_a_name() {
        for (text, of) in [
            ("memfd-v2", "memfd"),
            ("kho-v4;radix-v1;vmalloc-v1", "kho"),
            ("guest_memfd_luo_v1", "guest_memfd_luo"),
            ("liveupdate-test-flb-v0", "liveupdate-test-flb"),
        ] {
            assert!(is_compatible(text), "{text}");
            assert_eq!(name(text), of);
        }
        for text in ["", "memfd", "memfd-v", "memfd-v2;", "-v2", "memfd-v2 ", "memfd-vx", "v2"] {
            assert!(!is_compatible(text), "{text:?}");
        }
        assert_eq!((name("memfd"), name("memfd;vmalloc-v1")), ("memfd", "memfd"));
    }

    #[test]
    fn what_is_added_is_taken_too() {
        let mut one = Table::read("kernel a\ntakes x-v1\nat-most seals 1\notherwise x b").unwrap();
        let other = "kernel c\ntakes y-v1\nat-most seals 2\npage-size 4096\notherwise x d";
        one.add(Table::read(other).unwrap());
        assert_eq!((one.kernel.as_str(), one.takes.len()), ("a with c", 2));
        assert_eq!((one.at_most["seals"], one.page_size), (1, Some(4096)));
        assert_eq!(one.otherwise["x"], "b");
    }
}
