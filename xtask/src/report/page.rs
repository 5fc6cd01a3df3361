//! The page: tables of what was measured beside what it is held to.

use std::fmt::Write as _;

use super::collect::Figures;
use super::targets::{Bound, COUNT, COUNTS, FOOTPRINTS, Line, SECTIONS, Section, USER_SPACE};

/// A time in the unit that suits it.
fn time(ns: f64) -> String {
    match ns {
        _ if ns < 0.1 => format!("{ns:.3}"),
        _ if ns < 10.0 => format!("{ns:.2}"),
        _ if ns < 100.0 => format!("{ns:.1}"),
        _ if ns < 1e4 => format!("{ns:.0}"),
        _ if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// The median of a section's read-modify-writes.
pub(super) fn rmw(figures: &Figures, section: &Section) -> Option<f64> {
    let of = |line: &Line| figures.time(line.row, "rmw");
    let mut all: Vec<f64> = section.lines.iter().filter_map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

/// What a line is held to.
pub(super) struct Target {
    /// In words.
    words: String,
    /// The most that it may be here, in nanoseconds; none where what it is compared with was not measured.
    pub(super) limit: Option<f64>,
}

/// Returns what a line is held to on a machine whose read-modify-write takes `rmw` nanoseconds, unless it is only shown.
pub(super) fn target(figures: &Figures, line: &Line, rmw: f64) -> Option<Target> {
    let compared = |words: String, limit: Option<f64>| {
        let here = limit.map_or_else(String::new, |limit| format!(" ({})", time(limit)));
        Some(Target { words: format!("{words}{here}"), limit })
    };
    match line.bound {
        Bound::Shown => None,
        Bound::Rmw(n) => compared(format!("{n} RMW"), Some(n * rmw)),
        Bound::Ns(n) => Some(Target { words: time(n), limit: Some(n) }),
        Bound::Best(n) => {
            let peers =
                USER_SPACE.iter().filter_map(|who| Some((*who, figures.time(line.row, who)?)));
            let best = peers.min_by(|a, b| a.1.total_cmp(&b.1));
            let who = best.map_or("the best", |(who, _)| who);
            compared(format!("{n}x {who}"), best.map(|(_, best)| n * best))
        }
        Bound::Of(n, row, who) => {
            let what = if row == line.row { who } else { row };
            compared(format!("{n}x {what}"), figures.time(row, who).map(|other| n * other))
        }
        Bound::Beyond(n, who) => {
            let limit = figures.time(line.row, who).map(|other| n + other);
            compared(format!("{who} + {}", time(n)), limit)
        }
    }
}

fn met(verdict: Option<bool>) -> &'static str {
    match verdict {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "",
    }
}

/// What the line is called: its row, and which function of it if that is not the plain one.
pub(super) fn name(line: &Line) -> String {
    match line.ours {
        "heirloom" => line.row.to_owned(),
        ours => match ours.strip_prefix("heirloom, ") {
            Some(kind) => format!("{} ({kind})", line.row),
            None => format!("{}: {ours}", line.row),
        },
    }
}

fn table(page: &mut String, figures: &Figures, section: &Section, tally: &mut [u32; 2]) {
    let Some(rmw) = rmw(figures, section) else { return };
    let _ = writeln!(page, "\n## {}\n\nRMW here: {} ns.\n", section.title, time(rmw));
    let peers: Vec<&str> = section.peers.to_vec();
    let mut head = String::from("| row | heirloom | x RMW | target | |");
    let mut rule = String::from("|---|---:|---:|---|---|");
    if !peers.is_empty() {
        head.push_str(" best peer / ours |");
        rule.push_str("---:|");
    }
    for peer in &peers {
        let _ = write!(head, " {} |", peer.trim_end_matches(", locked"));
        rule.push_str("---:|");
    }
    let _ = writeln!(page, "{head}\n{rule}");
    for line in section.lines {
        let Some(ours) = figures.time(line.row, line.ours) else { continue };
        let target = target(figures, line, rmw);
        let verdict = target.as_ref().and_then(|target| Some(ours <= target.limit?));
        let target = target.map_or_else(String::new, |target| target.words);
        match verdict {
            Some(true) => tally[0] += 1,
            Some(false) => tally[1] += 1,
            None => {}
        }
        let (name, met) = (name(line), met(verdict));
        let times = if ours < 1000.0 * rmw { format!("{:.2}", ours / rmw) } else { String::new() };
        let _ = write!(page, "| {name} | {} | {times} | {target} | {met} |", time(ours));
        let theirs: Vec<_> = peers.iter().map(|peer| figures.time(line.row, peer)).collect();
        if !peers.is_empty() {
            let best = theirs.iter().flatten().copied().min_by(f64::total_cmp);
            let _ =
                write!(page, " {} |", best.map_or(String::new(), |b| format!("{:.2}", b / ours)));
        }
        for peer in theirs {
            let _ = write!(page, " {} |", peer.map_or_else(|| "-".to_owned(), time));
        }
        page.push('\n');
    }
}

fn footprints(page: &mut String, figures: &Figures, tally: &mut [u32; 2]) {
    if figures.footprints.is_empty() {
        return;
    }
    page.push_str("\n## Memory\n\n| row | library | figure | target | |\n|---|---|---:|---|---|\n");
    for (row, who, figure, unit) in &figures.footprints {
        let target = FOOTPRINTS.iter().find(|(name, _)| name == row).map(|(_, bound)| *bound);
        let (bound, verdict) = match target {
            Some(bound) if who == "heirloom" => (format!("{bound} {unit}"), Some(*figure <= bound)),
            _ => (String::new(), None),
        };
        match verdict {
            Some(true) => tally[0] += 1,
            Some(false) => tally[1] += 1,
            None => {}
        }
        let _ =
            writeln!(page, "| {row} | {who} | {figure:.2} {unit} | {bound} | {} |", met(verdict));
    }
}

fn counts(page: &mut String, figures: &Figures, tally: &mut [u32; 2]) {
    if figures.counts.is_empty() {
        return;
    }
    page.push_str(
        "\n## Shared words\n\nAtomic read-modify-writes on memory that other CPUs use, for every 1000 operations of one \
         thread,\ncaches filled, locks included. It is no time and depends on no machine: it tells how a path\nscales \
         past two CPUs. Counted by the compiler's own pass over the shipped code; see\n`benches/counting.rs`.\n\n",
    );
    let _ = writeln!(
        page,
        "The last column is a model of 64 CPUs that all do the row at once, at its worst, where all of these words are \
         one: a line\nof the cache that another CPU changed takes {LINE} ns to come (two sockets; not measured here), and \
         serves one CPU at a time. It says how\nmany times as long as one CPU an operation then takes; 1.0: no CPU waits \
         for another. Rows without a time of their own have none.\n\n\
         | row | for every 1000 | target | | 64 CPUs, at worst |\n|---|---:|---|---|---:|",
    );
    for (row, count) in &figures.counts {
        let held = COUNTS.contains(&row.as_str());
        let verdict = held.then_some(*count <= COUNT);
        match verdict {
            Some(true) => tally[0] += 1,
            Some(false) => tally[1] += 1,
            None => {}
        }
        let target = if held { format!("{COUNT}") } else { String::new() };
        let slower = timed(figures, row).map(|alone| 64.0 * count / 1000.0 * LINE / alone);
        let slower = slower.map_or_else(String::new, |times| format!("{:.1}", times.max(1.0)));
        let _ = writeln!(page, "| {row} | {count:.1} | {target} | {} | {slower} |", met(verdict));
    }
}

/// Nanoseconds until a line that another CPU changed is there to be changed, on a machine with two sockets.
const LINE: f64 = 100.0;

/// Returns how long an operation of a row of counts takes, which is called a little otherwise where it is timed.
fn timed(figures: &Figures, row: &str) -> Option<f64> {
    let (row, who) = match row.strip_suffix(", many at once") {
        Some(row) => (row.to_owned(), "heirloom, many at once"),
        None if row.contains(", preserving") => {
            (row.replace(", preserving", ""), "heirloom, preserving")
        }
        None => (row.to_owned(), "heirloom"),
    };
    let row = row.replace("bulk: ", "a million: ");
    let million = format!("a million {row}");
    let buffer = format!("{who}, buffer");
    let names = [(&row, who), (&million, who), (&row, &buffer)];
    names.into_iter().find_map(|(row, who)| figures.time(row, who))
}

fn latencies(page: &mut String, figures: &Figures) {
    if figures.latencies.is_empty() {
        return;
    }
    page.push_str(
        "\n## Single calls\n\nOf a million calls each, by the processor's clock: the median, the 99.9th of a hundred, and the \
         longest. The same calls\nwere made by five processes, and of each call the shortest time counts, so that what an \
         interrupt added is not the allocator's.\n\n| row | library | p50 | p99.9 | worst |\n|---|---|---:|---:|---:|\n",
    );
    for (row, who, all) in &figures.latencies {
        let [median, most, worst] = all.map(time);
        let _ = writeln!(page, "| {row} | {who} | {median} | {most} | {worst} |");
    }
}

fn refused(page: &mut String, figures: &Figures) {
    if figures.refused.is_empty() {
        return;
    }
    page.push_str(
        "\n## Refusals\n\nThe churn of orders 0 to 10, once every block was replaced some 30 times: operations of which one was refused, \
         and\nthe largest block that is free at its end. No figure depends on the machine.\n\n\
         | memory | library | refused | largest free order |\n|---|---|---:|---:|\n",
    );
    for (memory, who, share, largest) in &figures.refused {
        let _ = writeln!(page, "| {memory} | {who} | {share:.2} % | {largest} |");
    }
}

const HOW: &str = "
## How it was measured

- All peers of a row run in one process, one after another, on the same work: same sizes, same order of operations, same
  fixed dice. A figure is the median of ten samples (criterion); what a row needs before its clock starts is off the clock.
- RMW is one uncontended `fetch_or`, measured in every row; a table's is the median of its rows.
- Frames and trackers work on address space that is never touched, so that a terabyte fits any machine: what is timed is the
  allocator, not the kernel below it.
- heirloom's figures include its checks: a double free, a wrong kind and a preserved block are found and refused in
  every row. The peers check less: most of them nothing.
- Peers without synchronisation are bare in rows of one thread and behind a spin lock in those of two.
  `talc` is always behind its own lock. `buddy-slab-allocator` is asked for blocks aligned to where its frames start.
- `heirloom` in a row of objects is a cache of that size; `buffer` is `alloc(layout)` of any size; `preserving` a
  cache whose objects are preserved as they are allocated.
- Across two cores: one thread allocates parcels of 256 objects, the other frees them; the time until both are done, for an object.
- Metadata alone is a fresh boot over as much memory: what reviving costs before anything survives.
- Claims of a million objects are beside what waiting for memory takes: the same objects in the same order, each address
  known when the access before has ended. A claim has to write the object's state, one byte in its slab's head; so it is compared
  with a read-modify-write of that byte. \"A load of it\" is the object itself, which its owner loads next.
- `finish` is asked about each of the folios, but for those that are claimed; freed is with their frames given back.
- The trace is of a running Linux 6.18 (442,369 events, in `tests/fixtures/linux-kmem-trace`), replayed on one thread.

`cargo xtask report` does it all again and writes this page; `--quick`, `--only BENCH` and `--no-run` make it shorter. What meets
its target as a multiple of something in the same run is a floor from then on (`benches/floors.tsv`): `cargo xtask report --check` measures
again, with a tenth of slack, before a release.
`cargo bench -p heirloom-benches -- ROW` measures one row. The allocators of user space but the system's need
`--features native-peers`, a C++ compiler and cmake.

## What is not measured

- More than two CPUs, and more than one NUMA node: the machine has neither. The counts of shared words stand in for them.
- LLFree and Asterinas' frame allocator are no crates of the registry; Linux's way of restoring is none either. Its line in the
  plot is quoted: 0.70 ns times the square of the scattered pages, its own code compiled in user space on a Zen 5.
- Huge blocks and large orders of `bitmap-allocator`, which searches for them linearly; `slabmalloc` above 1 KiB and in bulk.
- A real kexec: reviving is measured in a process, over the tables as a predecessor left them.
- Cold caches and TLBs, other than where a row goes through more memory than they hold.
";

/// The name of the page of another machine than the first.
pub(super) fn of(machine: &str) -> String {
    format!("performance-{machine}.md")
}

/// Writes the page of `machine`, or of the first; `others` have pages too.
pub(super) fn write(
    figures: &Figures,
    findings: &str,
    machine: Option<&str>,
    others: &[String],
) -> String {
    let mut tables = String::new();
    let mut tally = [0, 0];
    for section in SECTIONS {
        table(&mut tables, figures, section, &mut tally);
    }
    latencies(&mut tables, figures);
    refused(&mut tables, figures);
    footprints(&mut tables, figures, &mut tally);
    counts(&mut tables, figures, &mut tally);
    let title = machine.map_or_else(String::new, |machine| format!(": {machine}"));
    let mut page = format!("# Performance{title}\n\n<!-- Written by `cargo xtask report`. -->\n\n");
    let _ = writeln!(
        page,
        "Nanoseconds for an operation unless a unit stands there; less is better. \"Best peer / ours\" above 1: heirloom is \
         faster.\nOf the rows with a target {} meet it and {} miss it.\n\nMeasured on {}.",
        tally[0], tally[1], figures.machine
    );
    if machine.is_some() {
        page.push_str(
            "\nThe targets, and what bounds the rows that miss them, are those of [the first machine](performance.md).\n",
        );
    } else {
        for other in others {
            let _ = writeln!(page, "\nThe same on another machine: [{other}]({}).", of(other));
        }
    }
    let prefix = machine.map_or_else(String::new, |machine| format!("{machine}-"));
    let _ = write!(
        page,
        "\n![Restore time against pages that survive](images/{prefix}restore-pages.svg)\n\n\
         ![Restore time against memory](images/{prefix}restore-memory.svg)\n\n\
         ![Churn against occupancy](images/{prefix}churn.svg)\n",
    );
    if !findings.trim().is_empty() {
        let _ = write!(page, "\n{}\n", findings.trim());
    }
    page.push_str(&tables);
    page.push_str(HOW);
    page
}
