//! The ranges of one memory: found by address, gone through in the order in which they were added.

use core::ptr::NonNull;

use heirloom_kho::narrow::{u32_to_usize, usize_to_u64};
use heirloom_kho::sync::{AtomicPtr, AtomicU64, AtomicUsize, Relaxed, Release};
use heirloom_kho::{Block, Pfn, Run};

use crate::error::Error;
use crate::machine::NodeId;
use crate::range::{LINK_LEVELS, Links, Range, follow, leaf_shift, no_links};

/// How many ranges lie beside one on a level of links for each on the level above, log2.
const STEP_LOG2: u32 = 2;

/// The ranges of one instance; grows, never shrinks.
///
/// Two orders at once, both through links in the ranges themselves, so there may be any number:
///
/// ```text
/// as added     first -> * -> *                        allocating goes through them
/// by address   level 1 ------> * ------------> *      finding a frame's range
///              level 0 -> * -> * -> * -> * -> *
/// ```
///
/// A link is stored once what it leads to is whole, and never changes but to lead to a range in
/// between. So no reader that follows links waits for a range that is being added.
pub(crate) struct Ranges {
    first: AtomicPtr<Range>,
    last: AtomicPtr<Range>,
    by_address: Links,
    count: AtomicUsize,
}

impl Ranges {
    pub(crate) fn new() -> Self {
        let none = || AtomicPtr::new(core::ptr::null_mut());
        Self { first: none(), last: none(), by_address: no_links(), count: AtomicUsize::new(0) }
    }

    /// Iterates over all ranges, in the order in which they were added.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range> {
        core::iter::successors(self.first(), |range| follow(&range.added))
    }

    /// Iterates over all ranges by address.
    pub(crate) fn by_address(&self) -> impl Iterator<Item = &Range> {
        let [first, ..] = &self.by_address;
        core::iter::successors(follow(first), |range| range.behind())
    }

    /// Iterates over the directories' slots for the leaf that begins with the bit of `first`: one for each range
    /// that the leaf has frames of.
    pub(crate) fn slots_of_leaf(&self, first: Block) -> impl Iterator<Item = &AtomicU64> {
        let end = first.pfn().get().saturating_add(1 << leaf_shift(first.order().index()));
        let covers = Run::between(first.pfn(), Pfn::new(end.min(Pfn::LIMIT.get())));
        let ranges = covers.into_iter().flat_map(|covers| self.overlapping(covers));
        ranges.filter_map(move |range| range.slot_of_leaf(first))
    }

    /// Iterates over the ranges that have frames of `run`, by address.
    pub(crate) fn overlapping(&self, run: Run) -> impl Iterator<Item = &Range> {
        let [lowest, ..] = &self.by_address;
        let before = self.at_or_below(run.start());
        let first = before.or_else(|| follow(lowest));
        core::iter::successors(first, |range| range.behind())
            .skip_while(move |range| range.run().end() <= run.start())
            .take_while(move |range| range.run().start() < run.end())
    }

    /// Returns the range that was added first.
    #[inline]
    pub(crate) fn first(&self) -> Option<&Range> {
        follow(&self.first)
    }

    /// Returns the range that holds the frame.
    #[inline]
    pub(crate) fn find(&self, pfn: Pfn) -> Option<&Range> {
        // Most frames are in the first range, where there is one at all.
        match self.first() {
            Some(range) if range.run().contains(pfn) => Some(range),
            _ => self.find_slow(pfn),
        }
    }

    #[inline(never)]
    fn find_slow(&self, pfn: Pfn) -> Option<&Range> {
        self.at_or_below(pfn).filter(|range| range.run().contains(pfn))
    }

    /// Returns the last range that starts with the frame or before it.
    fn at_or_below(&self, pfn: Pfn) -> Option<&Range> {
        let (mut links, mut found) = (&self.by_address, None);
        for level in (0..LINK_LEVELS).rev() {
            while let Some(next) = follow(&links[level])
                && next.run().start() <= pfn
            {
                (links, found) = (&next.links, Some(next));
            }
        }
        found
    }

    /// Returns the one range that holds all of `run`.
    #[inline]
    pub(crate) fn covering(&self, run: Run) -> Option<&Range> {
        self.find(run.start()).filter(|range| range.run().covers(run))
    }

    /// Returns what of `run` each range has that holds a part of it, by address; `None` unless all of it is
    /// memory that can be one block: of one range, or of ranges that touch on one node.
    pub(crate) fn parts(&self, run: Run) -> Option<Parts<'_>> {
        // One without frames may stand at the end of a range.
        let first = match self.find(run.start()) {
            Some(range) => range,
            None => self.at_or_below(run.start()).filter(|range| range.run().covers(run))?,
        };
        let mut last = first;
        while last.run().end() < run.end() {
            last = last.behind().filter(|next| last.touches(next))?;
        }
        Some(Parts { range: Some(first), rest: run })
    }

    /// Returns whether all of `run` is memory that can be one block.
    pub(crate) fn holds(&self, run: Run) -> bool {
        self.parts(run).is_some()
    }

    /// Returns the range before `range` that touches it, on the same node.
    pub(crate) fn touching_before(&self, range: &Range) -> Option<&Range> {
        let last = range.run().start().get().checked_sub(1)?;
        self.at_or_below(Pfn::new(last)).filter(|before| before.touches(range))
    }

    /// Returns whether a range of this `run` may be added.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::RangeOverlaps`].
    pub(crate) fn admits(&self, run: Run) -> Result<(), Error> {
        if run.is_empty() {
            return Err(Error::BadRange { run });
        }
        match self.overlapping(run).next() {
            Some(there) => Err(Error::RangeOverlaps { run, with: there.run() }),
            None => Ok(()),
        }
    }

    /// Adds a range that [`Ranges::admits`].
    ///
    /// # Safety
    /// `range` comes from [`Range::install`], lives as long as this value, and no other call of
    /// `push` runs at the same time.
    pub(crate) unsafe fn push(&self, range: NonNull<Range>) {
        let place = range.as_ptr();
        // SAFETY: installed, and lives as long as we do.
        let range = unsafe { range.as_ref() };
        let count = self.count.load(Relaxed);
        self.count.store(count.wrapping_add(1), Relaxed);
        let mut before = [&self.by_address[0]; LINK_LEVELS];
        let mut links = &self.by_address;
        for level in (0..LINK_LEVELS).rev() {
            while let Some(next) = follow(&links[level])
                && next.run().start() < range.run().start()
            {
                links = &next.links;
            }
            before[level] = &links[level];
        }
        // Level 0 first: a reader that comes down to it from a level above finds everything behind.
        for (link, before) in range.links.iter().zip(before).take(levels(count)) {
            link.store(before.load(Relaxed), Relaxed);
            // Release pairs with the Acquire in `follow`.
            before.store(place, Release);
        }
        // SAFETY: null or the range that was added last, which lives as long as we do.
        let last = unsafe { self.last.load(Relaxed).as_ref() };
        // Release as above.
        last.map_or(&self.first, |last| &last.added).store(place, Release);
        self.last.store(place, Relaxed);
    }
}

/// Returns on how many levels the range has links that was added as number `n`: on one more for a quarter
/// of them, whatever order they come in.
const fn levels(n: usize) -> usize {
    let mixed = (usize_to_u64(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let more = u32_to_usize(mixed.trailing_zeros() / STEP_LOG2);
    if more < LINK_LEVELS { more + 1 } else { LINK_LEVELS }
}

/// The parts of a run that lie in one range each. From [`Ranges::parts`].
#[derive(Clone)]
pub(crate) struct Parts<'r> {
    range: Option<&'r Range>,
    rest: Run,
}

impl<'r> Iterator for Parts<'r> {
    type Item = (&'r Range, Run);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let range = self.range?;
        let end = range.run().end().min(self.rest.end());
        let (part, rest) =
            (Run::between(self.rest.start(), end)?, Run::between(end, self.rest.end())?);
        // Further ranges were seen to touch.
        self.range = if rest.is_empty() { None } else { range.behind() };
        self.rest = rest;
        Some((range, part))
    }
}

/// Iterates over the ranges of a map, those taken together that follow one another in it, touch, and belong to
/// one node: fewer to look through, and blocks across what firmware split.
///
/// # Examples
/// ```
/// use heirloom_folio::{joined, NodeId};
/// use heirloom_kho::{Pfn, Run};
///
/// let run = |start, frames| Run::new(Pfn::new(start), frames).unwrap();
/// let map = [(run(0, 9), NodeId(0)), (run(9, 7), NodeId(0)), (run(16, 4), NodeId(1))];
/// let joined: Vec<_> = joined(&map).collect();
/// assert_eq!(joined, [(run(0, 16), NodeId(0)), (run(16, 4), NodeId(1))]);
/// ```
pub fn joined(map: &[(Run, NodeId)]) -> impl Iterator<Item = (Run, NodeId)> + Clone + '_ {
    let mut rest = map.iter().copied().peekable();
    core::iter::from_fn(move || {
        let (mut run, node) = rest.next()?;
        while let Some((next, _)) =
            rest.next_if(|(next, on)| *on == node && next.start() == run.end())
        {
            // They touch, so together they are a run.
            run = Run::between(run.start(), next.end()).unwrap_or(run);
        }
        Some((run, node))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_ranges_has_links_on_each_further_level() {
        let mut on = [0_usize; LINK_LEVELS + 1];
        for n in 0..1 << 16 {
            on[levels(n)] += 1;
        }
        let mut expected = (1 << 16) * 3 / 4;
        for (level, found) in on.into_iter().enumerate().skip(1).take(5) {
            assert!(found.abs_diff(expected) <= expected / 4, "{found} on {level}, not {expected}");
            expected /= 4;
        }
    }
}
