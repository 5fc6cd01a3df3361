//! Where so many bytes fit, beside what is taken.

use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{PAGE_SIZE, Pfn, Run};

/// The lowest run of `frames` frames in `area`, below `limit`, that starts at a multiple of `align` frames and shares none
/// with `taken`.
pub(crate) fn lowest(
    area: Run,
    frames: u64,
    align: u64,
    limit: Pfn,
    taken: &(impl Iterator<Item = Run> + Clone),
) -> Option<Run> {
    let end = area.end().min(limit);
    let mut start = area.start().get();
    loop {
        start = start.checked_next_multiple_of(align.max(1))?;
        let run = Run::new(Pfn::new(start), frames)?;
        if run.end() > end || frames == 0 {
            return None;
        }
        // Each step passes one of what is taken for good, so there are no more than of those.
        match taken.clone().filter(|taken| taken.overlaps(run)).map(Run::end).max() {
            Some(behind) => start = behind.get(),
            None => return Some(run),
        }
    }
}

/// How many frames so many bytes take.
pub(crate) const fn frames(bytes: u64) -> u64 {
    bytes.div_ceil(usize_to_u64(PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, frames: u64) -> Run {
        Run::new(Pfn::new(start), frames).unwrap()
    }

    #[test]
    fn the_lowest_place_is_aligned_and_touches_nothing_that_is_taken() {
        let far = Pfn::new(1 << 40);
        let place = |frames, align, taken: &[Run]| {
            lowest(run(3, 29), frames, align, far, &taken.iter().copied())
        };
        assert_eq!(place(4, 1, &[]), Some(run(3, 4)));
        assert_eq!(place(4, 4, &[]), Some(run(4, 4)));
        assert_eq!(place(4, 4, &[run(7, 1)]), Some(run(8, 4)));
        assert_eq!(place(4, 4, &[run(12, 1), run(7, 1), run(11, 1)]), Some(run(16, 4)));
        assert_eq!(place(16, 16, &[]), Some(run(16, 16)));
        assert_eq!(place(16, 16, &[run(31, 1)]), None);
        assert_eq!(place(0, 1, &[]), None);
        assert_eq!(place(30, 1, &[]), None);
        assert_eq!(lowest(run(3, 29), 4, 4, Pfn::new(7), &core::iter::empty()), None);
        assert_eq!(lowest(run(3, 29), 4, 4, Pfn::new(8), &core::iter::empty()), Some(run(4, 4)));
    }
}
