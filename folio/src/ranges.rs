//! Which frames exist: memory ranges, each with a node, its bits, its kinds and its directories.
//!
//! All that belongs to a range lies in one piece of memory that the caller provides:
//!
//! ```text
//! | Range | directory of leaves | columns | one kinds byte a frame |
//! ```

use core::ptr::NonNull;

use crate::columns::Columns;
use crate::error::Error;
use crate::kinds::{self, FrameState, Kind};
use crate::machine::NodeId;
use crate::within::{Expected, Within};
use heirloom_kho::sync::{Acquire, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Relaxed, Release};
use heirloom_kho::tree::Geometry;
use heirloom_kho::{Block, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Run};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Alignment of a range's metadata, in bytes.
pub(crate) const SPACE_ALIGN: usize = LINE;

/// Orders that a directory knows: those of folios, and of blocks of runs as large as can be met. Each
/// leaf of theirs has keys of one order: the highest orders share the very first leaf.
const DIRECTORY_ORDERS: usize = {
    let own_leaves = (Geometry::BUILD.key_bits - Geometry::BUILD.leaf_log2) as usize;
    if own_leaves < 32 { own_leaves } else { 32 }
};

/// One contiguous range of frames with all that is known about them.
///
/// What every call looks at comes first, on one cache line.
#[repr(C, align(64))]
pub(crate) struct Range {
    run: Run,
    kinds: NonNull<AtomicU8>,
    /// The address of the first byte, and where the direct map has it.
    start: PhysAddr,
    base: NonNull<u8>,
    node: NodeId,
    columns: Columns,
    directory: Directory,
    /// The range that was added next.
    added: AtomicPtr<Range>,
    /// The ranges behind it.
    links: Links,
}

// SAFETY: the pointers lead to atomics that live as long as the range (promised to `install`).
unsafe impl Send for Range {}
// SAFETY: as for `Send`.
unsafe impl Sync for Range {}

/// Addresses of the tree's leaves over one range, order by order: 0 where none is known.
struct Directory {
    slots: NonNull<AtomicU64>,
    /// Where each order's slots begin.
    begin: [usize; DIRECTORY_ORDERS],
}

/// log2 of the frames that a leaf of `order` covers.
const fn leaf_shift(order: usize) -> u32 {
    Geometry::new(PAGE_SHIFT).leaf_log2 + order as u32
}

/// Leaves of `order` over `run`: the number of the first, and how many.
const fn leaves(run: Run, order: usize) -> (u64, usize) {
    let first = run.start().get() >> leaf_shift(order);
    let last = (run.end().get() - 1) >> leaf_shift(order);
    (first, (last - first + 1) as usize)
}

const fn directory_slots(run: Run) -> usize {
    let mut slots = 0;
    let mut order = 0;
    while order < DIRECTORY_ORDERS {
        slots += leaves(run, order).1;
        order += 1;
    }
    slots
}

impl Range {
    /// Bytes of metadata for `run`, aligned to [`SPACE_ALIGN`].
    pub(crate) const fn bytes(run: Run) -> usize {
        if run.is_empty() {
            return 0;
        }
        let words = directory_slots(run) + Columns::words(run);
        size_of::<Self>() + words * size_of::<u64>() + (LINE - 1) + run.frames() as usize
    }

    /// Lays the range's metadata out in `space`; nothing is free yet.
    ///
    /// # Safety
    /// `space` is valid for reads and writes of `Self::bytes(run)` bytes aligned to
    /// [`SPACE_ALIGN`] as long as the range is used, and nothing else uses it. `run` is not empty,
    /// and `base` is what the direct map, which covers it, has for its first byte.
    pub(crate) unsafe fn install(
        run: Run,
        node: NodeId,
        base: NonNull<u8>,
        space: NonNull<u8>,
    ) -> NonNull<Self> {
        // SAFETY: the whole space is ours to write (contract).
        unsafe { space.write_bytes(0, Self::bytes(run)) };
        let slots = directory_slots(run);
        // SAFETY: the parts are laid out one after the other and sum to `bytes(run)`; the first
        // is a multiple of 64 bytes and the rest are words, so each is aligned; what is skipped
        // before the bytes is less than a line.
        let (leaves_at, columns, kinds) = unsafe {
            let leaves_at = space.add(size_of::<Self>()).cast::<AtomicU64>();
            let columns = leaves_at.add(slots);
            let behind = columns.add(Columns::words(run)).cast::<u8>();
            // The bytes of the 64 frames of a word are one line: CPUs that allocate from two words
            // share none.
            let skip = (run.start().get() as usize).wrapping_sub(behind.addr().get()) % LINE;
            (leaves_at, columns, behind.add(skip).cast())
        };
        let mut begin = [0; DIRECTORY_ORDERS];
        for order in 1..DIRECTORY_ORDERS {
            begin[order] = begin[order - 1] + leaves(run, order - 1).1;
        }
        // SAFETY: zeroed words of the length that `words` tells, used by nothing else.
        let columns = unsafe { Columns::new(run, columns) };
        let directory = Directory { slots: leaves_at, begin };
        let range = space.cast();
        // SAFETY: aligned, in bounds, ours.
        unsafe {
            range.write(Self {
                run,
                kinds,
                start: run.addr(),
                base,
                node,
                columns,
                directory,
                added: AtomicPtr::new(core::ptr::null_mut()),
                links: no_links(),
            });
        };
        range
    }

    #[inline]
    pub(crate) const fn run(&self) -> Run {
        self.run
    }

    #[inline]
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    /// The next range by address.
    #[inline]
    fn behind(&self) -> Option<&Self> {
        let [next, ..] = &self.links;
        follow(next)
    }

    /// Whether `next` begins where this range ends, on the same node and in the map too: a block
    /// may lie across.
    fn touches(&self, next: &Self) -> bool {
        let end = self.base.addr().get().wrapping_add(self.run.bytes() as usize);
        self.run.end() == next.run.start()
            && self.node == next.node
            && end == next.base.addr().get()
    }

    #[inline]
    pub(crate) const fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The byte of a frame of this range.
    #[inline]
    pub(crate) fn byte(&self, pfn: Pfn) -> Option<&AtomicU8> {
        self.kinds().get(pfn.get().wrapping_sub(self.run.start().get()) as usize)
    }

    /// The bytes of these frames, if all of them are of this range.
    pub(crate) fn bytes_of(&self, run: Run) -> Option<&[AtomicU8]> {
        let start = run.start().get().checked_sub(self.run.start().get())? as usize;
        self.kinds().get(start..start.checked_add(run.frames() as usize)?)
    }

    #[inline]
    fn kinds(&self) -> &[AtomicU8] {
        // SAFETY: `install` laid one byte for each frame of the run; only atomics touch them.
        unsafe { core::slice::from_raw_parts(self.kinds.as_ptr(), self.run.frames() as usize) }
    }

    /// The byte of the frame that starts where `ptr` leads, if it is one of this range, and the run
    /// of one block, of `kind` and not preserved, that it begins.
    #[inline]
    pub(crate) fn single(&self, ptr: NonNull<u8>, kind: Kind) -> Option<(&AtomicU8, Block)> {
        let at = ptr.addr().get().wrapping_sub(self.base.addr().get());
        let frame = at >> PAGE_SHIFT;
        let byte = self.kinds().get(frame).filter(|_| at.is_multiple_of(PAGE_SIZE))?;
        let order = kinds::order_of(byte.load(Relaxed), kind)?;
        // At the end of the range the run may go on in the next.
        let next = self.kinds().get(frame + order.frames() as usize)?;
        if kinds::is_tail(next.load(Relaxed)) {
            return None;
        }
        Some((byte, Block::aligned(self.run.start().add(frame as u64), order)))
    }

    /// Where in a block like `expected` a pointer leads, if one of this range is around it.
    #[inline]
    pub(crate) fn within(&self, ptr: NonNull<u8>, expected: &Expected) -> Option<Within> {
        // The map is linear in a range. For a pointer outside it this wraps or is too large, and
        // so is the head's place.
        let at = ptr.addr().get().wrapping_sub(self.base.addr().get()) as u64;
        let offset = at.wrapping_add(self.start.get()) & expected.mask;
        let head = at.wrapping_sub(offset);
        // Acquire pairs with the Release in `make_slab`.
        let byte = self.kinds().get((head >> PAGE_SHIFT) as usize)?.load(Acquire);
        if byte != expected.plain && byte != expected.preserved {
            return None;
        }
        // SAFETY: an allocated block starts there, all of it mapped in one stretch.
        let head = unsafe { self.base.add(head as usize) };
        Some(Within { head, offset: offset as usize })
    }

    /// What the byte of a frame says; [`FrameState::Never`] for one outside the range.
    pub(crate) fn state(&self, pfn: Pfn) -> FrameState {
        self.byte(pfn).map_or(FrameState::Never, |b| kinds::decode(b.load(Relaxed)))
    }

    /// The directory's slot for the leaf that holds the bit of `block`.
    #[inline]
    pub(crate) fn slot(&self, block: Block) -> Option<&AtomicU64> {
        self.slot_at(block.order(), block.pfn())
    }

    /// The directory's slot for the leaf of an order that a frame of this range belongs to.
    #[inline]
    fn slot_at(&self, order: Order, pfn: Pfn) -> Option<&AtomicU64> {
        let order = order.index();
        let directory = &self.directory;
        let begin = *directory.begin.get(order)?;
        if !self.run.contains(pfn) {
            return None;
        }
        let first = self.run.start().get() >> leaf_shift(order);
        let leaf = ((pfn.get() >> leaf_shift(order)) - first) as usize;
        // SAFETY: `install` laid `directory_slots` words here, from `begin` one for each leaf of
        // this order that a frame of the run has; only atomics touch them.
        Some(unsafe { directory.slots.add(begin + leaf).as_ref() })
    }

    /// The directory's slot for the leaf that begins with the bit of `first`, if one of its frames is
    /// of this range. The leaf may begin before the range, and reach beyond it.
    fn slot_of_leaf(&self, first: Block) -> Option<&AtomicU64> {
        self.slot_at(first.order(), first.pfn().max(self.run.start()))
    }

    /// Makes the bytes of frames that were freed what they were at first.
    pub(crate) fn begin_anew(&self) {
        for byte in self.kinds().iter().filter(|byte| byte.load(Relaxed) == kinds::FREED) {
            byte.store(kinds::NEVER, Relaxed);
        }
    }

    /// The allocated block that holds `pfn`, head or not.
    pub(crate) fn holder(&self, pfn: Pfn) -> Option<(Block, Kind, bool)> {
        (0..=Order::MAX_FOLIO.get()).filter_map(Order::new).find_map(|at_least| {
            match self.state(pfn.align_down(at_least)) {
                FrameState::Head { kind, order, preserved } if order >= at_least => {
                    Block::new(pfn.align_down(at_least), order).map(|b| (b, kind, preserved))
                }
                _ => None,
            }
        })
    }
}

/// How many ranges lie beside one on a level of links for each on the level above, log2.
const STEP_LOG2: u32 = 2;
/// Levels of links: of 4^8 ranges about three are passed over on each.
const LEVELS: usize = 8;

/// Links from one range to those behind it, by address: to the very next on level 0, to fewer and
/// fewer on the levels above.
type Links = [AtomicPtr<Range>; LEVELS];

/// Links to nothing.
fn no_links() -> Links {
    [const { AtomicPtr::new(core::ptr::null_mut()) }; LEVELS]
}

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

/// What a link leads to.
#[inline]
fn follow(link: &AtomicPtr<Range>) -> Option<&Range> {
    // Acquire pairs with the Release in `push`: the range is seen whole.
    // SAFETY: a link is null or leads to a range that `push` was promised to live as long as all of
    // them; ranges are only read.
    unsafe { link.load(Acquire).as_ref() }
}

impl Ranges {
    pub(crate) fn new() -> Self {
        let none = || AtomicPtr::new(core::ptr::null_mut());
        Self { first: none(), last: none(), by_address: no_links(), count: AtomicUsize::new(0) }
    }

    /// All ranges, in the order in which they were added.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range> {
        core::iter::successors(self.first(), |range| follow(&range.added))
    }

    /// All ranges by address.
    pub(crate) fn by_address(&self) -> impl Iterator<Item = &Range> {
        let [first, ..] = &self.by_address;
        core::iter::successors(follow(first), |range| range.behind())
    }

    /// The directories' slots for the leaf that begins with the bit of `first`: one for each range
    /// that the leaf has frames of.
    pub(crate) fn slots_of_leaf(&self, first: Block) -> impl Iterator<Item = &AtomicU64> {
        let end = first.pfn().get().saturating_add(1 << leaf_shift(first.order().index()));
        let covers = Run::between(first.pfn(), Pfn::new(end.min(Pfn::LIMIT.get())));
        let ranges = covers.into_iter().flat_map(|covers| self.overlapping(covers));
        ranges.filter_map(move |range| range.slot_of_leaf(first))
    }

    /// The ranges that have frames of `run`, by address.
    pub(crate) fn overlapping(&self, run: Run) -> impl Iterator<Item = &Range> {
        let [lowest, ..] = &self.by_address;
        let before = self.at_or_below(run.start());
        let first = before.or_else(|| follow(lowest));
        core::iter::successors(first, |range| range.behind())
            .skip_while(move |range| range.run().end() <= run.start())
            .take_while(move |range| range.run().start() < run.end())
    }

    /// The range that was added first.
    #[inline]
    pub(crate) fn first(&self) -> Option<&Range> {
        follow(&self.first)
    }

    /// The range that holds the frame.
    #[inline]
    pub(crate) fn find(&self, pfn: Pfn) -> Option<&Range> {
        // Most frames are in the first range, where there is one at all.
        match self.first() {
            Some(range) if range.run().contains(pfn) => Some(range),
            _ => self.find_further(pfn),
        }
    }

    #[inline(never)]
    fn find_further(&self, pfn: Pfn) -> Option<&Range> {
        self.at_or_below(pfn).filter(|range| range.run().contains(pfn))
    }

    /// The last range that starts with the frame or before it.
    fn at_or_below(&self, pfn: Pfn) -> Option<&Range> {
        let (mut links, mut found) = (&self.by_address, None);
        for level in (0..LEVELS).rev() {
            while let Some(next) = follow(&links[level])
                && next.run().start() <= pfn
            {
                (links, found) = (&next.links, Some(next));
            }
        }
        found
    }

    /// The one range that holds all of `run`.
    #[inline]
    pub(crate) fn covering(&self, run: Run) -> Option<&Range> {
        self.find(run.start()).filter(|range| range.run().covers(run))
    }

    /// What of `run` each range has that holds a part of it, by address; `None` unless all of it is
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

    /// Whether all of `run` is memory that can be one block.
    pub(crate) fn holds(&self, run: Run) -> bool {
        self.parts(run).is_some()
    }

    /// The range before `range` that touches it, on the same node.
    pub(crate) fn touching_before(&self, range: &Range) -> Option<&Range> {
        let last = range.run().start().get().checked_sub(1)?;
        self.at_or_below(Pfn::new(last)).filter(|before| before.touches(range))
    }

    /// Whether a range of this `run` may be added.
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
        let mut before = [&self.by_address[0]; LEVELS];
        let mut links = &self.by_address;
        for level in (0..LEVELS).rev() {
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

/// On how many levels the range has links that was added as number `n`: on one more for a quarter
/// of them, whatever order they come in.
const fn levels(n: usize) -> usize {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let more = (mixed.trailing_zeros() / STEP_LOG2) as usize;
    if more < LEVELS { more + 1 } else { LEVELS }
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

/// The ranges of a map, those taken together that follow one another in it, touch, and belong to
/// one node: fewer to look through, and blocks across what firmware split.
///
/// # Examples
/// ```
/// use heirloom_folio::{NodeId, Pfn, Run, joined};
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
        let mut on = [0_usize; LEVELS + 1];
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
