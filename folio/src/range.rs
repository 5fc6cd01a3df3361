//! Which frames exist: memory ranges, each with a node, its free map, its frame types and its directories.
//!
//! All that belongs to a range lies in one piece of memory that the caller provides:
//!
//! ```text
//! | Range | directory of leaves | free map | frame types, a byte each |
//! ```

use core::ptr::NonNull;

use heirloom_kho::narrow::{u32_to_usize, u64_to_usize, usize_to_u32, usize_to_u64};
use heirloom_kho::sync::{Acquire, AtomicPtr, AtomicU8, AtomicU64, Relaxed};
use heirloom_kho::tree::Geometry;
use heirloom_kho::{Block, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Run};

use crate::block_ref::{BlockMatcher, BlockRef};
use crate::frame_type::{self, FrameState, FrameType};
use crate::freemap::FreeMap;
use crate::machine::NodeId;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Alignment of a range's metadata, in bytes.
pub(crate) const SPACE_ALIGN: usize = LINE;

/// Orders that a directory knows: those of folios, and of blocks of runs as large as can be met. Each
/// leaf of theirs has keys of one order: the highest orders share the very first leaf.
const DIRECTORY_ORDERS: usize = {
    let own_leaves = u32_to_usize(Geometry::BUILD.key_bits - Geometry::BUILD.leaf_log2);
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
    freemap: FreeMap,
    directory: Directory,
    /// The range that was added next.
    pub(crate) added: AtomicPtr<Range>,
    /// The ranges behind it.
    pub(crate) links: Links,
    /// How many of the frames are absent.
    absent: AtomicU64,
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

/// Returns log2 of the frames that a leaf of `order` covers.
pub(crate) const fn leaf_shift(order: usize) -> u32 {
    Geometry::new(PAGE_SHIFT).leaf_log2 + usize_to_u32(order)
}

/// Leaves of `order` over `run`: the number of the first, and how many.
const fn leaves(run: Run, order: usize) -> (u64, usize) {
    let first = run.start().get() >> leaf_shift(order);
    let last = (run.end().get() - 1) >> leaf_shift(order);
    (first, u64_to_usize(last - first + 1))
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
    /// Returns how many bytes of metadata `run` needs, aligned to [`SPACE_ALIGN`].
    pub(crate) const fn bytes(run: Run) -> usize {
        if run.is_empty() {
            return 0;
        }
        let words = directory_slots(run) + FreeMap::words(run);
        size_of::<Self>() + words * size_of::<u64>() + (LINE - 1) + u64_to_usize(run.frames())
    }

    /// Lays the range's metadata out in `space`; nothing is free yet, and every frame has the byte `first`.
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
        first: u8,
    ) -> NonNull<Self> {
        let frames = u64_to_usize(run.frames());
        // SAFETY: the whole space is ours to write (contract).
        unsafe { space.write_bytes(0, Self::bytes(run) - frames) };
        let slots = directory_slots(run);
        // SAFETY: the parts are laid out one after the other and sum to `bytes(run)`; the first
        // is a multiple of 64 bytes and the rest are words, so each is aligned; what is skipped
        // before the bytes is less than a line.
        let (leaves_at, freemap, kinds) = unsafe {
            let leaves_at = space.add(size_of::<Self>()).cast::<AtomicU64>();
            let freemap = leaves_at.add(slots);
            let behind = freemap.add(FreeMap::words(run)).cast::<u8>();
            // The bytes of the 64 frames of a word are one line: CPUs that allocate from two words
            // share none.
            let skip = u64_to_usize(run.start().get() % usize_to_u64(LINE))
                .wrapping_sub(behind.addr().get())
                % LINE;
            let kinds = behind.add(skip);
            kinds.write_bytes(first, frames);
            (leaves_at, freemap, kinds.cast())
        };
        let mut begin = [0; DIRECTORY_ORDERS];
        for order in 1..DIRECTORY_ORDERS {
            begin[order] = begin[order - 1] + leaves(run, order - 1).1;
        }
        // SAFETY: zeroed words of the length that `words` tells, used by nothing else.
        let freemap = unsafe { FreeMap::new(run, freemap) };
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
                freemap,
                directory,
                added: AtomicPtr::new(core::ptr::null_mut()),
                links: no_links(),
                absent: AtomicU64::new(if first == frame_type::ABSENT { run.frames() } else { 0 }),
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

    /// Returns the count of frames that are absent.
    #[inline]
    pub(crate) const fn absent(&self) -> &AtomicU64 {
        &self.absent
    }

    /// Returns how many frames there are, without absent ones.
    pub(crate) fn present(&self) -> u64 {
        self.run.frames().saturating_sub(self.absent.load(Relaxed))
    }

    /// Returns whether none of `part`, which is of this range, is absent.
    pub(crate) fn is_present(&self, part: Run) -> bool {
        // Mostly nothing is, and no byte is looked at.
        self.absent.load(Relaxed) == 0
            || self.bytes_of(part).is_some_and(|bytes| {
                bytes.iter().all(|byte| byte.load(Relaxed) != frame_type::ABSENT)
            })
    }

    /// Returns the next range by address.
    #[inline]
    pub(crate) fn behind(&self) -> Option<&Self> {
        let [next, ..] = &self.links;
        follow(next)
    }

    /// Returns whether `next` begins where this range ends, on the same node and in the map too: a block
    /// may lie across.
    pub(crate) fn touches(&self, next: &Self) -> bool {
        let end = self.base.addr().get().wrapping_add(u64_to_usize(self.run.bytes()));
        self.run.end() == next.run.start()
            && self.node == next.node
            && end == next.base.addr().get()
    }

    #[inline]
    pub(crate) const fn freemap(&self) -> &FreeMap {
        &self.freemap
    }

    /// Returns the byte of a frame of this range.
    #[inline]
    pub(crate) fn byte(&self, pfn: Pfn) -> Option<&AtomicU8> {
        self.kinds().get(u64_to_usize(pfn.get().wrapping_sub(self.run.start().get())))
    }

    /// Returns the bytes of these frames, if all of them are of this range.
    pub(crate) fn bytes_of(&self, run: Run) -> Option<&[AtomicU8]> {
        let start = u64_to_usize(run.start().get().checked_sub(self.run.start().get())?);
        self.kinds().get(start..start.checked_add(u64_to_usize(run.frames()))?)
    }

    #[inline]
    fn kinds(&self) -> &[AtomicU8] {
        // SAFETY: `install` laid one byte for each frame of the run; only atomics touch them.
        unsafe { core::slice::from_raw_parts(self.kinds.as_ptr(), u64_to_usize(self.run.frames())) }
    }

    /// Returns whether a pointer leads into this range.
    #[inline]
    pub(crate) fn holds(&self, ptr: NonNull<u8>) -> bool {
        // The map is linear in a range. For a pointer before it this wraps.
        let at = ptr.addr().get().wrapping_sub(self.base.addr().get());
        at < u64_to_usize(self.run.bytes())
    }

    /// Returns the byte of the frame that starts where `ptr` leads, if it is one of this range, what it
    /// says, and the run of one block that it begins, if that has an order by `order_of`.
    #[inline]
    pub(crate) fn single(
        &self,
        ptr: NonNull<u8>,
        order_of: impl Fn(u8) -> Option<Order>,
    ) -> Option<(&AtomicU8, u8, Block)> {
        let at = ptr.addr().get().wrapping_sub(self.base.addr().get());
        if !at.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let frame = at >> PAGE_SHIFT;
        let byte = self.kinds().get(frame)?;
        let now = byte.load(Relaxed);
        let order = order_of(now)?;
        // At the end of the range the run may go on in the next.
        let next = self.kinds().get(frame + u64_to_usize(order.frames()))?;
        if frame_type::is_tail(next.load(Relaxed)) {
            return None;
        }
        Some((byte, now, Block::aligned(self.run.start().add(usize_to_u64(frame)), order)))
    }

    /// Returns where in a block like `expected` a pointer leads, if one of this range is around it.
    #[inline]
    pub(crate) fn lookup(&self, ptr: NonNull<u8>, expected: &BlockMatcher) -> Option<BlockRef> {
        // The map is linear in a range. For a pointer outside it this wraps or is too large, and
        // so is the head's place.
        // (Read once: behind the byte, which is read with Acquire, it would be read again.)
        let base = self.base;
        let at = usize_to_u64(ptr.addr().get().wrapping_sub(base.addr().get()));
        let offset = at.wrapping_add(self.start.get()) & expected.mask;
        let head = at.wrapping_sub(offset);
        // Acquire pairs with the Release in `make_slab`.
        let byte = self.kinds().get(u64_to_usize(head >> PAGE_SHIFT))?.load(Acquire);
        if byte != expected.plain && byte != expected.preserved {
            return None;
        }
        // SAFETY: an allocated block starts there, all of it mapped in one stretch.
        let head = unsafe { base.add(u64_to_usize(head)) };
        Some(BlockRef { head, offset: u64_to_usize(offset) })
    }

    /// Returns what the byte of a frame says; [`FrameState::Never`] for one outside the range.
    pub(crate) fn state(&self, pfn: Pfn) -> FrameState {
        self.byte(pfn).map_or(FrameState::Never, |b| frame_type::decode(b.load(Relaxed)))
    }

    /// Returns the directory's slot for the leaf that holds the bit of `block`.
    #[inline]
    pub(crate) fn slot(&self, block: Block) -> Option<&AtomicU64> {
        self.slot_at(block.order(), block.pfn())
    }

    /// Returns the directory's slot for the leaf of an order that a frame of this range belongs to.
    #[inline]
    fn slot_at(&self, order: Order, pfn: Pfn) -> Option<&AtomicU64> {
        let order = order.index();
        let directory = &self.directory;
        let begin = *directory.begin.get(order)?;
        if !self.run.contains(pfn) {
            return None;
        }
        let first = self.run.start().get() >> leaf_shift(order);
        let leaf = u64_to_usize((pfn.get() >> leaf_shift(order)) - first);
        // SAFETY: `install` laid `directory_slots` words here, from `begin` one for each leaf of
        // this order that a frame of the run has; only atomics touch them.
        Some(unsafe { directory.slots.add(begin + leaf).as_ref() })
    }

    /// Returns the directory's slot for the leaf that begins with the bit of `first`, if one of its frames is
    /// of this range. The leaf may begin before the range, and reach beyond it.
    pub(crate) fn slot_of_leaf(&self, first: Block) -> Option<&AtomicU64> {
        self.slot_at(first.order(), first.pfn().max(self.run.start()))
    }

    /// Makes the bytes of frames that were freed what they were at first.
    pub(crate) fn begin_anew(&self) {
        for byte in self.kinds().iter().filter(|byte| byte.load(Relaxed) == frame_type::FREED) {
            byte.store(frame_type::NEVER, Relaxed);
        }
    }

    /// Returns the allocated block that holds `pfn`, head or not.
    pub(crate) fn owning_block(&self, pfn: Pfn) -> Option<(Block, FrameType, bool)> {
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

/// Levels of links: of 4^8 ranges about three are passed over on each.
pub(crate) const LINK_LEVELS: usize = 8;

/// Links from one range to those behind it, by address: to the very next on level 0, to fewer and
/// fewer on the levels above.
pub(crate) type Links = [AtomicPtr<Range>; LINK_LEVELS];

/// Links to nothing.
pub(crate) fn no_links() -> Links {
    [const { AtomicPtr::new(core::ptr::null_mut()) }; LINK_LEVELS]
}

/// Returns what a link leads to.
#[inline]
pub(crate) fn follow(link: &AtomicPtr<Range>) -> Option<&Range> {
    // Acquire pairs with the Release in `push`: the range is seen whole.
    // SAFETY: a link is null or leads to a range that `push` was promised to live as long as all of
    // them; ranges are only read.
    unsafe { link.load(Acquire).as_ref() }
}
