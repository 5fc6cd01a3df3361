//! The table, and its section of docs/performance.md.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::death::Outcome;
use super::items::Speed;
use super::server::Kind;

/// What stands around the section.
const BEGIN: &str = "<!-- Written by `cargo xtask restart --write`. -->\n";
const END: &str = "<!-- The end of what `cargo xtask restart` wrote. -->\n";

/// The section that the new one goes before where there is none yet.
const BEFORE: &str = "\n## How it was measured\n";

/// What was measured of a server.
#[derive(Clone, Default, Debug)]
pub(super) struct Row {
    /// Bytes of all keys and values, and of memory that was there once they were stored.
    pub(super) data: u64,
    pub(super) resident: u64,
    /// Items that were stored in a second, and how fast they were read.
    pub(super) sets: u64,
    pub(super) gets: Speed,
    pub(super) planned: Outcome,
    pub(super) killed: Outcome,
    pub(super) deaths: usize,
}

impl Row {
    pub(super) fn lost(&self) -> usize {
        self.planned.lost + self.killed.lost
    }
}

/// Writes what was measured as a table.
pub(super) fn table(count: usize, rows: &BTreeMap<Kind, Row>, skipped: &[&str]) -> String {
    let mut table = format!(
        "| {count} items | planned: no answer for | connections | lost | `kill -9`: no answer for | lost | sets a second | \
         gets a second | processor time a get | memory beyond data |\n\
         |---|---:|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for (kind, row) in rows {
        let ms = |outcome: &Outcome| format!("{:.1} ms", outcome.gap.as_secs_f64() * 1e3);
        let beyond = row.resident.saturating_sub(row.data) * 100 / row.data.max(1);
        let connected = if row.planned.connected { "go on" } else { "end" };
        let _ = writeln!(
            table,
            "| {} | {} | {connected} | {} | {} | {} | {} k | {} k | {} ns | {beyond} % |",
            kind.name(),
            ms(&row.planned),
            row.planned.lost,
            ms(&row.killed),
            row.killed.lost,
            row.sets / 1000,
            row.gets.rate / 1000,
            row.gets.processor,
        );
    }
    for name in skipped {
        let _ = writeln!(table, "| {name} | SKIPPED |");
    }
    table
}

/// Returns the section of the page, if it has one.
pub(crate) fn section(page: &str) -> Option<&str> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (inside, _) = rest.split_once(END)?;
    page.get(before.len()..before.len() + BEGIN.len() + inside.len() + END.len())
}

/// Returns the page with a new section in place of the old one, or before the section about how all was measured.
pub(crate) fn with_section(page: &str, new: &str) -> String {
    match section(page) {
        Some(old) => page.replacen(old, new, 1),
        None => match page.split_once(BEFORE) {
            Some((before, after)) => format!("{before}\n{new}{BEFORE}{after}"),
            None => format!("{page}\n{new}"),
        },
    }
}

/// Returns the page with this table in its section.
pub(super) fn replaced(page: &str, table: &str, machine: &str) -> String {
    let new = format!(
        "{BEGIN}\
## Restarting a cache\n\
\n\
`examples/cache` beside the servers that Debian has, as `cargo xtask restart` filled, ended and restarted them, each with one\n\
thread and with the same client: four connections, 64 requests on their way on each. Keys have 16 bytes, values 16 to 200.\n\
\"No answer for\" is the longest time between two answers to a client that asks for one item all the time, while another\n\
writes; of several `kill -9` it is the longest. \"Lost\" are items that were acknowledged, and are not there as they were.\n\
heirloom's cache runs under `heirloom hold --pause 1` and restarts as planned by `SIGUSR2`, redis by `SIGTERM`, memcached by\n\
`SIGUSR1`; the rivals are started again as soon as they have ended, but memcached in the next second, as it takes up no memory\n\
that was left in the same. Memory beyond data is what is resident, less the bytes of keys and values, in proportion to these.\n\
\n\
Measured once, beside other programs that kept all processors of the machine busy: a share of each time is theirs. {machine}.\n\
\n\
{table}{END}"
    );
    with_section(page, &new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_nothing_else() {
        let page = format!("# Page\n\ntext\n{BEFORE}\nthe end\n");
        assert_eq!(section(&page), None);
        let once = replaced(&page, "| a |\n", "a machine");
        let found = section(&once).expect("a section");
        assert!(found.contains("| a |") && once.ends_with(&format!("{BEFORE}\nthe end\n")));
        let twice = replaced(&once, "| b |\n", "a machine");
        assert_eq!(twice, once.replace("| a |", "| b |"));
        assert_eq!(with_section(&page, found), once);
    }
}
