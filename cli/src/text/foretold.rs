//! What the next kernel will take, for a person.

use std::fmt::{Result, Write};

use super::shown::shown;
use super::table::plural;
use crate::facts::{Foretold, Structure, Takes};
use crate::output::{BAD, FAINT, GOOD, UNSURE};

/// A line for each kind of structure that is taken, or that is not known; one for each that is not taken; and what
/// it comes to.
pub(super) fn write(out: &mut String, next: &Foretold) -> Result {
    let mut rest = &next.structures[..];
    while let Some((first, _)) = rest.split_first() {
        let same = rest.iter().take_while(|of| is_like(first, of)).count();
        let (alike, others) = rest.split_at(same);
        rest = others;
        line(out, alike)?;
    }
    if next.unlisted > 0 {
        writeln!(out, "  and {} more", next.unlisted)?;
    }
    let not = |takes| next.structures.iter().filter(|of| of.takes == takes && !of.accepted).count();
    let structures = next.structures.len() as u64 + next.unlisted;
    let all = plural(structures, "structure", "structures");
    let kernel = shown(&next.kernel);
    match next.verdict {
        Takes::Yes => write!(out, "{GOOD}{kernel} takes it{GOOD:#}: {all}")?,
        Takes::No => {
            write!(out, "{BAD}{kernel} does not take it{BAD:#}: {} of {all}", not(Takes::No))?;
        }
        Takes::Unknown => {
            let unknown = not(Takes::Unknown);
            write!(out, "{UNSURE}{kernel} may take it{UNSURE:#}: {unknown} of {all} not known")?;
        }
    }
    if !next.needs.is_empty() {
        write!(out, "; it must be started with {}", shown(&next.needs.join(" ")))?;
    }
    writeln!(out)
}

/// Whether two stand in one line: of one kind, and neither is not taken.
fn is_like(one: &Structure, other: &Structure) -> bool {
    let both = (one.what, &one.says, one.takes) == (other.what, &other.says, other.takes);
    core::ptr::eq(one, other) || both && one.takes != Takes::No
}

fn line(out: &mut String, alike: &[Structure]) -> Result {
    let [first, ..] = alike else { return Ok(()) };
    let count = alike.len() as u64;
    let what = match count {
        1 if first.name.is_empty() => first.what.to_owned(),
        1 => format!("{} {}", first.what, shown(&first.name)),
        _ => plural(count, first.what, &format!("{}s", first.what)),
    };
    let says = shown(&first.says);
    let (mark, style) = match first.takes {
        Takes::Yes => ('+', GOOD),
        Takes::No => ('-', BAD),
        Takes::Unknown => ('?', UNSURE),
    };
    write!(out, "{style}{mark}{style:#} {what}: {says}")?;
    if let Some(reason) = &first.reason {
        write!(out, "; {}", shown(reason))?;
    }
    if first.accepted {
        write!(out, "{FAINT}, accepted{FAINT:#}")?;
    }
    writeln!(out)
}
