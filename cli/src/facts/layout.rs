//! How what is preserved lies: in how many stretches, with what between them.

use heirloom_kho::tree::FolioRange;
use heirloom_kho::{PAGE_SIZE, Run};

/// How scattered preserved memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Layout {
    /// Stretches of preserved frames, as long as they are.
    pub(crate) runs: u64,
    /// Bytes of the longest.
    pub(crate) largest_run: u64,
    /// Stretches between them.
    pub(crate) gaps: u64,
    /// Bytes of the longest.
    pub(crate) largest_gap: u64,
    /// Bytes from the first preserved frame to the last.
    pub(crate) span: u64,
}

impl Layout {
    /// The layout of folios by address, none of which share a frame.
    pub(crate) fn of(rows: &[FolioRange]) -> Self {
        let runs = runs(rows);
        let longest = |frames: Option<u64>| frames.unwrap_or(0).saturating_mul(PAGE_SIZE as u64);
        let between = |pair: &[Run]| match pair {
            [a, b] => b.start().get() - a.end().get(),
            _ => 0,
        };
        let span = match (runs.first(), runs.last()) {
            (Some(first), Some(last)) => last.end().get() - first.start().get(),
            _ => 0,
        };
        Self {
            runs: runs.len() as u64,
            largest_run: longest(runs.iter().map(|run| run.frames()).max()),
            gaps: runs.len().saturating_sub(1) as u64,
            largest_gap: longest(runs.windows(2).map(between).max()),
            span: longest(Some(span)),
        }
    }
}

/// The frames of all folios, as runs that do not touch.
fn runs(rows: &[FolioRange]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for row in rows {
        let next = row.run();
        match runs.last_mut() {
            Some(last) if last.end() == next.start() => {
                *last = Run::between(last.start(), next.end()).unwrap_or(*last);
            }
            _ => runs.push(next),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use heirloom_kho::{Block, Order, Pfn};

    use super::*;

    fn row(pfn: u64, order: u8, count: u64) -> FolioRange {
        let block = Block::new(Pfn::new(pfn), Order::new(order).unwrap()).unwrap();
        FolioRange::new(block, count).unwrap()
    }

    #[test]
    fn folios_that_touch_are_one_run() {
        let rows = [row(3, 0, 1), row(4, 2, 2), row(20, 0, 2), row(40, 3, 1)];
        let page = PAGE_SIZE as u64;
        let expected = Layout {
            runs: 3,
            largest_run: 9 * page,
            gaps: 2,
            largest_gap: 18 * page,
            span: 45 * page,
        };
        assert_eq!(Layout::of(&rows), expected);
        assert_eq!(Layout::of(&[]), Layout::default());
    }
}
