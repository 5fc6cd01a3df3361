//! Where the picture breaks: rows of cells, and what is left out between them.
//!
//! A row is 64 cells, a cell a power of two of frames. Rows with nothing in them are left out, and
//! so are the inner ones of a long stretch of one kind. The cell is the smallest with which the rest
//! fits a page.

use heirloom_kho::{Order, Run};

/// Cells in a row.
pub(super) const CELLS: u64 = 64;
/// Rows that a picture has at most, breaks aside.
const ROWS: usize = 40;
/// Rows of one kind in a stretch that are drawn before the rest is left out.
const ALIKE: u64 = 3;

/// What a stretch of frames is used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Use {
    /// Folios that cannot be where they are.
    Faulty,
    /// Folios of one order.
    Folios(Order),
    /// Nodes of the tree.
    Nodes,
    Scratch,
}

/// A stretch and its use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) run: Run,
    pub(super) what: Use,
}

/// A row, or what stands for rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Band {
    /// The row that starts with this frame.
    Row(u64),
    /// So many frames without anything.
    Nothing(u64),
    /// So many frames like the row before.
    Alike(u64, Use),
}

/// How the picture is laid out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bands {
    /// Frames of a cell.
    pub(super) cell: u64,
    pub(super) bands: Vec<Band>,
}

impl Bands {
    /// The layout of `parts`, by where they start, and of the frames `marks`, by address, which must
    /// be in it too.
    pub(super) fn of(parts: &[Part], marks: &[u64]) -> Self {
        let mut cell = 1;
        loop {
            // 2^52 frames are one row at the latest.
            let last = cell >= 1 << 46;
            if last || fits(parts, cell * CELLS) {
                let bands = lay_out(parts, marks, cell * CELLS);
                let rows = bands.iter().filter(|band| matches!(band, Band::Row(_))).count();
                if last || rows <= ROWS {
                    return Self { cell, bands };
                }
            }
            cell *= 2;
        }
    }

    /// Frames of a row.
    pub(super) const fn row(&self) -> u64 {
        self.cell * CELLS
    }
}

/// Whether the first frames of `parts` are in few enough rows: a look that ends early where
/// memory is scattered.
fn fits(parts: &[Part], row: u64) -> bool {
    let rows = parts.chunk_by(|a, b| a.run.start().get() / row == b.run.start().get() / row);
    rows.take(ROWS + 1).count() <= ROWS
}

/// Rows `first..last` that are there, and what they all are if their inside is left out.
type Rows = (u64, u64, Option<Use>);

fn lay_out(parts: &[Part], marks: &[u64], row: u64) -> Vec<Band> {
    let mut shown: Vec<Rows> =
        marks.iter().map(|frame| (frame / row, frame / row + 1, None)).collect();
    for part in parts {
        let (start, end) = (part.run.start().get(), part.run.end().get());
        let (first, last) = (start / row, end.div_ceil(row));
        let (whole, whole_end) = (start.div_ceil(row), end / row);
        if whole_end.saturating_sub(whole) > ALIKE {
            shown.push((first, whole + 1, None));
            // A marked row among them is drawn.
            let mut at = whole + 1;
            let inside = |mark: &u64| (whole + 1..whole_end).contains(&(mark / row));
            for mark in marks.iter().filter(|mark| inside(mark)).map(|mark| mark / row) {
                shown.extend((at < mark).then_some((at, mark, Some(part.what))));
                at = at.max(mark + 1);
            }
            shown.extend((at < whole_end).then_some((at, whole_end, Some(part.what))));
            if whole_end < last {
                shown.push((whole_end, last, None));
            }
        } else {
            shown.push((first, last, None));
        }
    }
    shown.sort_unstable();
    let mut bands: Vec<Band> = Vec::new();
    let mut at = None;
    for (first, last, what) in shown {
        let next = at.unwrap_or(first);
        if first > next {
            bands.push(Band::Nothing((first - next) * row));
        }
        let from = first.max(next);
        match what {
            Some(what) if from < last => bands.push(Band::Alike((last - from) * row, what)),
            _ => bands.extend((from..last).map(|n| Band::Row(n * row))),
        }
        at = Some(next.max(last));
    }
    bands
}

#[cfg(test)]
mod tests {
    use heirloom_kho::Pfn;

    use super::*;

    fn part(start: u64, frames: u64, what: Use) -> Part {
        Part { run: Run::new(Pfn::new(start), frames).unwrap(), what }
    }

    const SINGLE: Use = Use::Folios(Order::ZERO);

    #[test]
    fn rows_without_anything_are_left_out() {
        let parts = [part(3, 1, SINGLE), part(60, 8, SINGLE), part(64 * 100, 1, Use::Nodes)];
        let expected = [Band::Row(0), Band::Row(64), Band::Nothing(98 * 64), Band::Row(6400)];
        assert_eq!(Bands::of(&parts, &[5]), Bands { cell: 1, bands: expected.into() });
        let marked = Bands::of(&parts, &[64 * 50]).bands;
        assert_eq!(marked[2..5], [Band::Nothing(48 * 64), Band::Row(3200), Band::Nothing(49 * 64)]);
    }

    #[test]
    fn the_inside_of_a_long_stretch_is_left_out() {
        let parts = [part(32, 64 * 10, Use::Scratch)];
        let expected =
            [Band::Row(0), Band::Row(64), Band::Alike(64 * 8, Use::Scratch), Band::Row(640)];
        assert_eq!(Bands::of(&parts, &[]).bands, expected);
        let marked = Bands::of(&parts, &[64 * 5]).bands;
        let alike = |rows: u64| Band::Alike(64 * rows, Use::Scratch);
        assert_eq!(marked[2..5], [alike(3), Band::Row(64 * 5), alike(4)]);
        let short = Bands::of(&[part(0, 64 * 3, Use::Scratch)], &[]).bands;
        assert_eq!(short, [Band::Row(0), Band::Row(64), Band::Row(128)]);
    }

    #[test]
    fn scattered_memory_gets_larger_cells() {
        let parts: Vec<_> = (0..1000).map(|i| part(i * 1000, 1, SINGLE)).collect();
        let bands = Bands::of(&parts, &[]);
        assert!(bands.bands.len() <= ROWS);
        assert_eq!(bands.cell, 512);
        assert_eq!(bands.row(), 512 * 64);
        let last = part(Pfn::LIMIT.get() - 1, 1, SINGLE);
        assert_eq!(Bands::of(&[part(0, 1, SINGLE), last], &[]).bands.len(), 3);
        assert_eq!(Bands::of(&[], &[]).bands, []);
    }
}
