//! The cache in front of the shared bits: what makes the common path touch nothing shared.
//!
//! Each CPU keeps freed single frames on a stack, the rest of the word it allocates from, and a
//! few blocks of each middle order. It takes a word of up to 64 frames, or several blocks of one
//! word, at once and gives back by words, so the shared line is touched once for many.
//!
//! A cache holds frames of its CPU's home node only.

use core::cell::UnsafeCell;

use crossbeam_utils::CachePadded;

use crate::addr::{Block, Order, Pfn};
use crate::columns::{Group, Hints};
use crate::sync::{AtomicU8, AtomicU64, AtomicUsize, Relaxed};

/// Single frames that a CPU keeps.
const SINGLES: usize = 128;
/// Blocks of a middle order that a CPU keeps, at most.
const SLOTS: usize = 8;
/// The largest order that is kept.
pub(crate) const MAX_CACHED: Order = match Order::new(10) {
    Some(order) => order,
    None => Order::ZERO,
};

/// How many blocks of each order a CPU keeps where memory is ample: the fewer the larger they
/// are, but for order 9, the size of a huge page, of which it keeps a word.
const MOST: [u8; ORDERS] = [0, 8, 8, 8, 4, 4, 4, 2, 2, 8, 1];
const ORDERS: usize = MAX_CACHED.index() + 1;

/// One CPU's cache: what only its CPU looks at.
pub(crate) struct CpuCache {
    singles: [Pfn; SINGLES],
    /// The first frame of the word being handed out.
    word: Pfn,
    blocks: [[Pfn; SLOTS]; ORDERS],
    /// Where this CPU last found free blocks.
    pub(crate) hints: Hints,
    /// How many blocks of each order it keeps.
    room: [u8; ORDERS],
    /// The last call to drain that this CPU followed.
    pub(crate) drained: u32,
}

/// How much a cache holds. Its CPU alone writes, with plain loads and stores; who asks from
/// another CPU reads.
struct Levels {
    /// Single frames on the stack.
    singles: AtomicUsize,
    /// A bit for each frame that is left of the word being handed out.
    word: AtomicU64,
    blocks: [AtomicU8; ORDERS],
}

/// A place for one CPU's cache, alone on its cache lines.
pub(crate) struct CpuSlot(CachePadded<Slot>);

struct Slot {
    cache: UnsafeCell<CpuCache>,
    levels: Levels,
}

/// A cache that its CPU works on.
pub(crate) struct Held<'a> {
    pub(crate) cache: &'a mut CpuCache,
    levels: &'a Levels,
}

impl CpuSlot {
    pub(crate) fn new() -> Self {
        let cache = CpuCache {
            singles: [Pfn::new(0); SINGLES],
            word: Pfn::new(0),
            blocks: [[Pfn::new(0); SLOTS]; ORDERS],
            hints: Hints::new(),
            room: [0; ORDERS],
            drained: 0,
        };
        let levels = Levels {
            singles: AtomicUsize::new(0),
            word: AtomicU64::new(0),
            blocks: core::array::from_fn(|_| AtomicU8::new(0)),
        };
        Self(CachePadded::new(Slot { cache: UnsafeCell::new(cache), levels }))
    }

    /// Frames in the cache; exact while its CPU does nothing.
    pub(crate) fn cached(&self) -> u64 {
        let levels = &self.0.levels;
        let singles = levels.singles.load(Relaxed) as u64;
        let word = u64::from(levels.word.load(Relaxed).count_ones());
        let blocks = levels.blocks.iter().enumerate();
        blocks.fold(singles + word, |sum, (o, n)| sum + (u64::from(n.load(Relaxed)) << o))
    }

    /// Works on the cache.
    ///
    /// # Safety
    /// Nothing else works on the same slot meanwhile: the caller runs inside
    /// [`Cpus::pinned`](crate::Cpus::pinned) or [`idle`](crate::Cpus::idle) for this CPU, or owns
    /// the slot exclusively; and `f` does not come back here for the same slot.
    #[inline]
    pub(crate) unsafe fn with<R>(&self, f: impl FnOnce(Held<'_>) -> R) -> R {
        // SAFETY: exclusive by this function's contract, so the only reference.
        let cache = unsafe { &mut *self.0.cache.get() };
        f(Held { cache, levels: &self.0.levels })
    }
}

/// Where a cache gets frames, and gives them back.
///
/// Blocks come and go as [`Group`]s: those of one order that share a word of the shared bits.
pub(crate) trait Behind {
    /// Up to 64 frames of one word.
    fn take_word(&self, hints: &mut Hints) -> Option<Group>;
    /// Up to `most` blocks of `order` from one word.
    fn take(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group>;
    /// Takes back blocks of `order`.
    fn give(&self, order: Order, group: Group);
    /// Takes back single frames, neighbours in one go.
    fn give_frames(&self, frames: &[Pfn]);
}

impl Held<'_> {
    /// A block of `order`, if one is kept.
    #[inline]
    pub(crate) fn pop(&mut self, order: Order) -> Option<Pfn> {
        if order == Order::ZERO {
            return self.pop_single();
        }
        let level = self.levels.blocks.get(order.index())?;
        let top = level.load(Relaxed).checked_sub(1)?;
        let pfn = *self.cache.blocks.get(order.index())?.get(usize::from(top))?;
        level.store(top, Relaxed);
        Some(pfn)
    }

    #[inline]
    fn pop_single(&mut self) -> Option<Pfn> {
        if let Some(top) = self.levels.singles.load(Relaxed).checked_sub(1)
            && let Some(&pfn) = self.cache.singles.get(top)
        {
            self.levels.singles.store(top, Relaxed);
            return Some(pfn);
        }
        let bits = self.levels.word.load(Relaxed);
        if bits == 0 {
            return None;
        }
        self.levels.word.store(bits & (bits - 1), Relaxed);
        Some(Pfn::new(self.cache.word.get() | u64::from(bits.trailing_zeros())))
    }

    /// A block of `order` once [`Held::pop`] had none: several at once from behind.
    pub(crate) fn refill(&mut self, order: Order, behind: &impl Behind) -> Option<Pfn> {
        if order == Order::ZERO {
            let group = behind.take_word(&mut self.cache.hints)?;
            self.cache.word = group.first();
            self.levels.word.store(group.starts(), Relaxed);
            return self.pop_single();
        }
        let most = usize::from(*self.cache.room.get(order.index())?).max(1);
        let group = behind.take(order, most, &mut self.cache.hints)?;
        let mut blocks = group.blocks(order);
        let pfn = blocks.next()?.pfn();
        for block in blocks {
            let kept = self.push(block);
            debug_assert!(kept, "no more were taken than there is room for");
        }
        Some(pfn)
    }

    /// Keeps a freed block if there is room: whether it did.
    #[inline]
    pub(crate) fn push(&mut self, block: Block) -> bool {
        let order = block.order();
        if order == Order::ZERO {
            let used = self.levels.singles.load(Relaxed);
            let Some(slot) = self.cache.singles.get_mut(used) else { return false };
            *slot = block.pfn();
            self.levels.singles.store(used + 1, Relaxed);
            return true;
        }
        let Some(level) = self.levels.blocks.get(order.index()) else { return false };
        let used = level.load(Relaxed);
        if self.cache.room.get(order.index()).is_none_or(|most| used >= *most) {
            return false;
        }
        let slots = self.cache.blocks.get_mut(order.index());
        let Some(slot) = slots.and_then(|s| s.get_mut(usize::from(used))) else { return false };
        *slot = block.pfn();
        level.store(used + 1, Relaxed);
        true
    }

    /// Sizes the cache for `share` frames of each order.
    pub(crate) fn size(&mut self, share: u64) {
        for (o, (room, most)) in self.cache.room.iter_mut().zip(MOST).enumerate() {
            *room = (share >> o).min(u64::from(most)) as u8;
        }
    }

    /// Gives back the half of the blocks of `order` that was freed longest ago, if it keeps any.
    #[inline]
    pub(crate) fn make_room(&mut self, order: Order, behind: &impl Behind) {
        if order == Order::ZERO {
            return self.flush_singles(SINGLES / 2, behind);
        }
        let room = self.cache.room.get(order.index()).map_or(0, |room| usize::from(*room));
        self.flush_blocks(order, room.div_ceil(2), behind);
    }

    fn flush_singles(&mut self, count: usize, behind: &impl Behind) {
        let level = &self.levels.singles;
        let used = level.load(Relaxed);
        let flushed = count.min(used);
        behind.give_frames(self.cache.singles.get(..flushed).unwrap_or(&[]));
        self.cache.singles.copy_within(flushed..used, 0);
        level.store(used - flushed, Relaxed);
    }

    fn flush_blocks(&mut self, order: Order, count: usize, behind: &impl Behind) {
        let blocks = self.cache.blocks.get_mut(order.index());
        let Some((blocks, level)) = blocks.zip(self.levels.blocks.get(order.index())) else {
            return;
        };
        let left = flush(order, blocks, usize::from(level.load(Relaxed)), count, behind);
        level.store(left as u8, Relaxed);
    }

    /// Gives everything back.
    #[cold]
    #[inline(never)]
    pub(crate) fn drain(&mut self, behind: &impl Behind) {
        if let Some(group) = Group::frames(self.cache.word, self.levels.word.load(Relaxed)) {
            behind.give(Order::ZERO, group);
            self.levels.word.store(0, Relaxed);
        }
        self.flush_singles(usize::MAX, behind);
        for order in (1..=MAX_CACHED.get()).filter_map(Order::new) {
            self.flush_blocks(order, usize::MAX, behind);
        }
    }
}

/// Gives back the `count` blocks freed longest ago of those `used` that are kept, neighbours in
/// one go: how many are left.
#[inline]
fn flush(order: Order, kept: &mut [Pfn], used: usize, count: usize, behind: &impl Behind) -> usize {
    let count = count.min(used);
    let mut group: Option<Group> = None;
    for pfn in kept.iter().take(count) {
        let block = Block::aligned(*pfn, order);
        if let Some(whole) = group.and_then(|group| group.with(block)) {
            group = Some(whole);
        } else if let Some(group) = group.replace(Group::of(block)) {
            behind.give(order, group);
        }
    }
    if let Some(group) = group {
        behind.give(order, group);
    }
    kept.copy_within(count..used, 0);
    used - count
}
