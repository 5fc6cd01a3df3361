//! Which frames exist: memory ranges, each with a node, its bits, its kinds and its directories.
//!
//! All that belongs to a range lies in one piece of memory that the caller provides:
//!
//! ```text
//! | Range | directory of leaves, ours | the predecessor's | columns | one kinds byte a frame |
//! ```

use core::ptr::NonNull;

use crate::addr::{Block, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Run};
use crate::columns::Columns;
use crate::error::Error;
use crate::kinds::{self, FrameState, Kind};
use crate::machine::NodeId;
use crate::sync::{Acquire, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Relaxed, Release};
use crate::tracker::Geometry;
use crate::within::{Expected, Within};

/// How many ranges one instance can hold.
pub(crate) const MAX_RANGES: usize = 64;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Alignment of a range's metadata, in bytes.
pub(crate) const SPACE_ALIGN: usize = LINE;

/// Orders that a directory knows: those of folios, and of blocks of runs as large as can be met.
const DIRECTORY_ORDERS: usize = 32;

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
    directories: [Directory; 2],
}

// SAFETY: the pointers lead to atomics that live as long as the range (promised to `install`).
unsafe impl Send for Range {}
// SAFETY: as for `Send`.
unsafe impl Sync for Range {}

/// Whose tree a directory of leaves belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// The tree that this kernel hands over.
    Own = 0,
    /// The tree that the predecessor left.
    Inherited = 1,
}

/// Addresses of a tree's leaves over one range, order by order: 0 where none is known.
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
        let words = 2 * directory_slots(run) + Columns::words(run);
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
        let (own, theirs, columns, kinds) = unsafe {
            let own = space.add(size_of::<Self>()).cast::<AtomicU64>();
            let theirs = own.add(slots);
            let columns = theirs.add(slots);
            let behind = columns.add(Columns::words(run)).cast::<u8>();
            // The bytes of the 64 frames of a word are one line: CPUs that allocate from two words
            // share none.
            let skip = (run.start().get() as usize).wrapping_sub(behind.addr().get()) % LINE;
            (own, theirs, columns, behind.add(skip).cast())
        };
        let mut begin = [0; DIRECTORY_ORDERS];
        for order in 1..DIRECTORY_ORDERS {
            begin[order] = begin[order - 1] + leaves(run, order - 1).1;
        }
        // SAFETY: zeroed words of the length that `words` tells, used by nothing else.
        let columns = unsafe { Columns::new(run, columns) };
        let directories = [own, theirs].map(|slots| Directory { slots, begin });
        let range = space.cast();
        // SAFETY: aligned, in bounds, ours.
        unsafe {
            range.write(Self { run, kinds, start: run.addr(), base, node, columns, directories });
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
        let next = self.kinds().get(frame + order.frames() as usize);
        if next.is_some_and(|next| kinds::is_tail(next.load(Relaxed))) {
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
        // SAFETY: an allocated block of this range starts there, all of it mapped.
        let head = unsafe { self.base.add(head as usize) };
        Some(Within { head, offset: offset as usize })
    }

    /// What the byte of a frame says; [`FrameState::Never`] for one outside the range.
    pub(crate) fn state(&self, pfn: Pfn) -> FrameState {
        self.byte(pfn).map_or(FrameState::Never, |b| kinds::decode(b.load(Relaxed)))
    }

    /// The directory's slot for the leaf that holds the bit of `block`.
    #[inline]
    pub(crate) fn slot(&self, whose: Whose, block: Block) -> Option<&AtomicU64> {
        let order = block.order().index();
        let directory = &self.directories[whose as usize];
        let begin = *directory.begin.get(order)?;
        if !self.run.contains(block.pfn()) {
            return None;
        }
        let first = self.run.start().get() >> leaf_shift(order);
        let leaf = ((block.pfn().get() >> leaf_shift(order)) - first) as usize;
        // SAFETY: `install` laid `directory_slots` words here, from `begin` one for each leaf of
        // this order that a frame of the run has; only atomics touch them.
        Some(unsafe { directory.slots.add(begin + leaf).as_ref() })
    }

    /// Forgets every leaf of that tree.
    pub(crate) fn forget(&self, whose: Whose) {
        let slots = self.directories[whose as usize].slots;
        for i in 0..directory_slots(self.run) {
            // SAFETY: `install` laid that many words here; only atomics touch them.
            unsafe { slots.add(i).as_ref() }.store(0, Relaxed);
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

/// The ranges of one instance; grows, never shrinks.
pub(crate) struct Ranges {
    slots: [AtomicPtr<Range>; MAX_RANGES],
    count: AtomicUsize,
}

impl Ranges {
    pub(crate) fn new() -> Self {
        Self {
            slots: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_RANGES],
            count: AtomicUsize::new(0),
        }
    }

    /// All ranges, in the order in which they were added.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range> {
        // Acquire pairs with the Release in `push`: the slots below the count are filled and
        // what they point at is written.
        let count = self.count.load(Acquire);
        self.slots.iter().take(count).filter_map(|slot| {
            // SAFETY: a slot is null or points at a range that `push` was promised to live as
            // long as this value; ranges are only read.
            unsafe { slot.load(Relaxed).as_ref() }
        })
    }

    /// The range that was added first.
    #[inline]
    pub(crate) fn first(&self) -> Option<&Range> {
        let [first, ..] = &self.slots;
        // Acquire pairs with the Release in `push`.
        // SAFETY: as in `iter`.
        unsafe { first.load(Acquire).as_ref() }
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
        self.iter().skip(1).find(|range| range.run().contains(pfn))
    }

    /// The range that holds all of `run`.
    pub(crate) fn covering(&self, run: Run) -> Option<&Range> {
        self.iter().find(|range| range.run().covers(run))
    }

    /// Whether a range of this `run` may be added.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::RangeOverlaps`], [`Error::TooManyRanges`].
    pub(crate) fn admits(&self, run: Run) -> Result<(), Error> {
        if run.is_empty() || run.end() > Pfn::LIMIT {
            return Err(Error::BadRange { run });
        }
        if self.count.load(Relaxed) == MAX_RANGES {
            return Err(Error::TooManyRanges { limit: MAX_RANGES });
        }
        match self.iter().find(|there| there.run().overlaps(run)) {
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
        let count = self.count.load(Relaxed);
        if let Some(slot) = self.slots.get(count) {
            // Release pairs with the Acquire in `first`.
            slot.store(range.as_ptr(), Release);
            // Release pairs with the Acquire in `iter`.
            self.count.store(count + 1, Release);
        }
    }
}
