//! A handover for a person.

mod foretold;
mod shown;
mod subtrees;
mod table;

use std::fmt::Write;

pub(crate) use shown::shown;
use table::Bar;
pub(crate) use table::{bytes, plural};

use crate::facts::{
    Against, Changed, Checked, Compared, Facts, InOrder, Layout, NotLookedAt, Passed, Seen, Verdict,
};
use crate::output::{BAD, FAINT, GOOD, HEAD, NAME, STRONG, UNSURE};

/// The summary, with styles in it.
pub(crate) fn summary(facts: &Facts) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut out, facts)
        .and_then(|()| memory(&mut out, facts))
        .and_then(|()| subtrees::write(&mut out, &facts.handover))
        .and_then(|()| facts.now.as_ref().map_or(Ok(()), |now| subtrees::write_now(&mut out, now)));
    out
}

/// What a check found.
pub(crate) fn checked(checked: &Checked) -> String {
    match checked {
        Checked::Handover(found) => verdict(found),
        Checked::Tables(found) => compared(found),
    }
}

/// What a check found, with styles in it.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    let mut out = String::new();
    for found in &verdict.findings {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{BAD}-{BAD:#} {}", shown(&found.reason));
        if let Some(advice) = found.advice {
            let _ = writeln!(out, "  {advice}");
        }
    }
    for NotLookedAt { what, name, stands_for, count, accepted, .. } in &verdict.not_looked_at {
        let things = if *count == 1 { (*what).to_owned() } else { format!("{count} {what}s") };
        let accepted = if *accepted { ", accepted" } else { "" };
        let name = shown(name);
        let is = stands_for.map(|is| format!(" {FAINT}({is}){FAINT:#}")).unwrap_or_default();
        let _ = writeln!(out, "{UNSURE}?{UNSURE:#} {things} {name}: not looked at{accepted}{is}");
    }
    let scratch = if verdict.seen.scratch_known { "" } else { "; scratch is not known" };
    let within = match &verdict.lent {
        Some(within) => format!("; in what is lent to heirloom: {}", seen(within)),
        None => String::new(),
    };
    let seen = seen(&verdict.seen);
    let head = match verdict.in_order {
        InOrder::Whole => format!("{GOOD}in order{GOOD:#}"),
        InOrder::AsFar => format!("{UNSURE}in order as far as looked at{UNSURE:#}"),
        InOrder::Not => {
            let findings = plural(verdict.findings.len() as u64, "finding", "findings");
            format!("{BAD}{findings}{BAD:#}")
        }
    };
    let unread = match unread(&verdict.not_looked_at) {
        Some(things) => format!("; not looked at: {things} of unknown kind"),
        None => String::new(),
    };
    let passed = passed(&verdict.passed);
    let _ = write!(out, "{head}: {seen}{within}{unread}{scratch}");
    for (_, what) in passed {
        let _ = write!(out, "; {what}");
    }
    out.push('\n');
    if let Some(next) = &verdict.next {
        let _ = foretold::write(&mut out, next);
    }
    if let (Some(changed), Some(against)) = (&verdict.changed, &verdict.against) {
        changes(&mut out, changed);
        let now = (verdict.in_order == InOrder::Not).then_some(&against.now);
        since(&mut out, changed.is_empty(), against, now);
    }
    out
}

/// What a comparison with another handover comes to: `now` is the image of this one, if it is not in order.
fn since(out: &mut String, same: bool, against: &Against, now: Option<&String>) {
    for found in &against.findings {
        let (image, reason) = (shown(&against.image), shown(&found.reason));
        // Writing to a string does not fail.
        let _ = writeln!(out, "{BAD}-{BAD:#} {image}: {reason}");
    }
    let before = (!against.findings.is_empty()).then_some(&against.image);
    let what = if same { "no layout changed without its version" } else { "layouts were compared" };
    let _ = match (before, now) {
        (None, None) if same => writeln!(out, "{GOOD}{what}{GOOD:#}"),
        (None, None) => Ok(()),
        (Some(image), None) | (None, Some(image)) => {
            let image = shown(image);
            writeln!(
                out,
                "{UNSURE}{what}, as far as can be read{UNSURE:#}: {image} is not in order"
            )
        }
        (Some(before), Some(now)) => {
            let (before, now) = (shown(before), shown(now));
            writeln!(
                out,
                "{UNSURE}{what}, as far as can be read{UNSURE:#}: {before} and {now} are not in order"
            )
        }
    };
}

/// What two tables come to, with styles in it.
fn compared(compared: &Compared) -> String {
    let mut out = String::new();
    changes(&mut out, &compared.changed);
    let count = compared.structures as u64;
    let both = plural(count, "structure in both", "structures in both");
    // Writing to a string does not fail.
    let _ = match (&compared.changed[..], compared.structures) {
        (_, 0) => writeln!(out, "{UNSURE}nothing to compare{UNSURE:#}: no layout is in both"),
        ([], _) => writeln!(out, "{GOOD}no layout changed without its version{GOOD:#}: {both}"),
        (changed, _) => {
            let changed = plural(changed.len() as u64, "layout", "layouts");
            writeln!(out, "{BAD}{changed} changed without a version{BAD:#}: {both}")
        }
    };
    out
}

fn changes(out: &mut String, changed: &[Changed]) {
    for Changed { says, what, before, now, .. } in changed {
        let (says, before, now) = (shown(says), shown(before), shown(now));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{BAD}-{BAD:#} {says}: its layout changed, and its version did not; {what} {before}, now {now}"
        );
    }
}

/// How much of a handover was looked at.
fn seen(seen: &Seen) -> String {
    let sealed = match seen.sealed {
        Some(tables) => format!(", {} as sealed", plural(tables, "table", "tables")),
        None => String::new(),
    };
    format!(
        "root {}, {}, {}, {}{sealed}",
        seen.fdt,
        plural(seen.folios, "folio", "folios"),
        plural(seen.nodes, "node", "nodes"),
        plural(seen.subtrees, "subtree", "subtrees"),
    )
}

/// What a core declares and the image does not have: a word for it, and what to know.
fn passed(passed: &Passed) -> Vec<(&'static str, String)> {
    let &Passed {
        unaddressed_segments,
        declared_bytes,
        zero_excluded,
        cut_bytes,
        ref broken,
        behind_bytes,
    } = passed;
    let mut said = Vec::new();
    if let Some(why) = broken {
        said.push(("not whole", format!("not whole: {}", shown(why))));
    }
    if behind_bytes > 0 {
        let (count, are) =
            (plural(behind_bytes, "byte", "bytes"), if behind_bytes == 1 { "is" } else { "are" });
        let what = format!("{count} behind what is packed {are} no part of it, passed over");
        said.push(("passed by", what));
    }
    if cut_bytes > 0 {
        let size = bytes(cut_bytes);
        said.push(("cut off", format!("cut off: {size} that should follow are not in the file")));
    }
    if unaddressed_segments > 0 {
        let segments = plural(unaddressed_segments, "segment", "segments");
        said.push(("passed by", format!("{segments} without a physical address, passed over")));
    }
    if declared_bytes > 0 {
        let size = bytes(declared_bytes);
        said.push(if zero_excluded {
            ("zeroes", format!("{size} that are not in the file, taken for zeroes"))
        } else {
            (
                "left out",
                format!("{size} are not in the file; --zero-excluded takes them for zeroes"),
            )
        });
    }
    said
}

/// `1 file, 3 FLBs`: how much was not looked at, if anything.
fn unread(unread: &[NotLookedAt]) -> Option<String> {
    let mut counts: Vec<(&str, u64)> = Vec::new();
    for NotLookedAt { what, count, .. } in unread {
        match counts.last_mut().filter(|(last, _)| last == what) {
            Some((_, all)) => *all += count,
            None => counts.push((what, *count)),
        }
    }
    let things = counts.iter().map(|(what, count)| plural(*count, what, &format!("{what}s")));
    let things: Vec<_> = things.collect();
    (!things.is_empty()).then(|| things.join(", "))
}

fn head(out: &mut String, facts: &Facts) -> std::fmt::Result {
    let (image, handover) = (&facts.image, &facts.handover);
    writeln!(out, "{HEAD}Handover{HEAD:#} {STRONG}{}{STRONG:#}", shown(&handover.compatible))?;
    let size = bytes(image.frames.saturating_mul(image.page_size as u64));
    let path = shown(&image.path);
    let format = [&[image.format], &image.packed[..]].concat().join(", ");
    let pages = match image.page_size {
        4096 => String::new(),
        larger => format!(", pages of {}", bytes(larger as u64)),
    };
    line(out, "image", &format!("{path} {FAINT}({format}, {size} of memory{pages}){FAINT:#}"))?;
    line(out, "root page", &handover.fdt.to_string())?;
    let levels: Vec<_> = handover
        .nodes_by_level
        .iter()
        .rev()
        .map(|(level, nodes)| match level {
            0 => plural(*nodes, "leaf", "leaves"),
            _ => nodes.to_string(),
        })
        .collect();
    let nodes = plural(handover.nodes, "node", "nodes");
    line(out, "map", &format!("{}, {nodes}: {}", handover.map, levels.join(" > ")))?;
    match &handover.scratch {
        None => line(out, "scratch", &format!("{FAINT}not known{FAINT:#}"))?,
        Some(areas) => {
            for (i, area) in areas.iter().enumerate() {
                let name = if i == 0 { "scratch" } else { "" };
                line(out, name, &format!("{}, {}", area.start, bytes(area.bytes)))?;
            }
        }
    }
    for (label, what) in passed(&image.passed) {
        // A line of its own has the label in front.
        let behind = what.strip_prefix(label).and_then(|what| what.strip_prefix(": "));
        line(out, label, behind.unwrap_or(&what))?;
    }
    if let Some(things) = unread(&facts.not_looked_at) {
        line(out, "not read", &format!("{UNSURE}{things}{UNSURE:#} of unknown kind"))?;
    }
    match &facts.findings[..] {
        [] => line(out, "findings", &format!("{GOOD}none{GOOD:#}")),
        [first, rest @ ..] => {
            line(out, "findings", &format!("{BAD}{}{BAD:#}", facts.findings.len()))?;
            writeln!(out, "    {}", shown(&first.reason))?;
            match rest.len() {
                0 => Ok(()),
                more => writeln!(out, "    and {more} more: heirloom check {path}"),
            }
        }
    }
}

fn memory(out: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(out, "\n{HEAD}Preserved memory{HEAD:#}")?;
    let page = facts.image.page_size as u64;
    let facts = &facts.handover;
    let folios = plural(facts.folios, "folio", "folios");
    let frames = plural(facts.frames, "frame", "frames");
    line(
        out,
        "in all",
        &format!("{STRONG}{}{STRONG:#} in {folios}, {frames}", bytes(facts.bytes)),
    )?;
    let Layout { runs, largest_run, gaps, largest_gap, span } = facts.layout;
    if runs > 0 {
        let runs = plural(runs, "run", "runs");
        line(out, "lies in", &format!("{runs}, the longest {}", bytes(largest_run)))?;
        let gaps = match gaps {
            0 => "no gaps".to_owned(),
            _ => format!("{}, the longest {}", plural(gaps, "gap", "gaps"), bytes(largest_gap)),
        };
        line(out, "spans", &format!("{} with {gaps}", bytes(span)))?;
    }
    if facts.faulty.folios > 0 {
        let folios = plural(facts.faulty.folios, "folio", "folios");
        line(out, "at fault", &format!("{BAD}{folios}{BAD:#}, in none of these numbers"))?;
    }
    let most = facts.orders.iter().map(|(order, folios)| folios << order).max().unwrap_or(0);
    if !facts.orders.is_empty() {
        writeln!(out, "  {FAINT}{:>9}  {:>8}  {:>10}{FAINT:#}", "order", "folios", "bytes")?;
    }
    for (order, folios) in &facts.orders {
        let frames = folios << order;
        let size = bytes(frames.saturating_mul(page));
        let bar = Bar { part: frames, whole: most };
        writeln!(out, "  {order:>9}  {folios:>8}  {size:>10}  {NAME}{bar}{NAME:#}")?;
    }
    Ok(())
}

/// A line with a label.
fn line(out: &mut String, label: &str, value: &str) -> std::fmt::Result {
    writeln!(out, "  {FAINT}{label:<10}{FAINT:#} {value}")
}
