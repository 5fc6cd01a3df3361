//! The cache in front of the shared bits: what makes the common path touch nothing shared.
//!
//! Each CPU keeps freed single frames on a stack, the rest of the word it allocates from, and a
//! few blocks of each middle order. It takes a word of up to 64 frames at once and gives frames
//! back word by word, so the shared line is touched once for many frames.
//!
//! A cache holds frames of its CPU's home node only.

use core::cell::UnsafeCell;

use crossbeam_utils::CachePadded;

use crate::addr::{Block, Order, Pfn};
use crate::columns::Hints;
use crate::sync::{AtomicU64, Relaxed};

/// Single frames that a CPU keeps.
const SINGLES: usize = 128;
/// Blocks of a middle order that a CPU keeps, at most.
const SLOTS: usize = 8;
/// The largest order that is kept.
pub(crate) const MAX_CACHED: Order = match Order::new(10) {
    Some(order) => order,
    None => Order::ZERO,
};

/// How many blocks of `order` a CPU keeps: the fewer the larger they are.
const fn capacity(order: Order) -> usize {
    match order.get() {
        0 => 0,
        1..=3 => SLOTS,
        4..=6 => 4,
        7..=9 => 2,
        _ => 1,
    }
}

/// One CPU's cache.
pub(crate) struct CpuCache {
    singles: [Pfn; SINGLES],
    used: usize,
    /// The first frame of the word being handed out, and a bit for each frame left of it.
    word: (Pfn, u64),
    blocks: [[Pfn; SLOTS]; MAX_CACHED.index() + 1],
    counts: [u8; MAX_CACHED.index() + 1],
    /// Frames held, all told.
    frames: u64,
    /// Where this CPU last found free blocks.
    pub(crate) hints: Hints,
    /// The last call to drain that this CPU followed.
    pub(crate) drained: u32,
}

/// A place for one CPU's cache, alone on its cache lines.
pub(crate) struct CpuSlot {
    cache: CachePadded<UnsafeCell<CpuCache>>,
    /// What the cache holds, for whoever asks from another CPU.
    cached: CachePadded<AtomicU64>,
}

impl CpuSlot {
    pub(crate) fn new() -> Self {
        Self {
            cache: CachePadded::new(UnsafeCell::new(CpuCache {
                singles: [Pfn::new(0); SINGLES],
                used: 0,
                word: (Pfn::new(0), 0),
                blocks: [[Pfn::new(0); SLOTS]; MAX_CACHED.index() + 1],
                counts: [0; MAX_CACHED.index() + 1],
                frames: 0,
                hints: Hints::new(),
                drained: 0,
            })),
            cached: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// Frames in the cache; exact while its CPU does nothing.
    pub(crate) fn cached(&self) -> u64 {
        self.cached.load(Relaxed)
    }

    /// Works on the cache.
    ///
    /// # Safety
    /// Nothing else works on the same slot meanwhile: the caller runs inside
    /// [`Cpus::pinned`](crate::Cpus::pinned) or [`idle`](crate::Cpus::idle) for this CPU, or owns
    /// the slot exclusively; and `f` does not come back here for the same slot.
    #[inline]
    pub(crate) unsafe fn with<R>(&self, f: impl FnOnce(&mut CpuCache) -> R) -> R {
        // SAFETY: exclusive by this function's contract, so the only reference.
        let cache = unsafe { &mut *self.cache.get() };
        let result = f(cache);
        self.cached.store(cache.frames, Relaxed);
        result
    }
}

/// Where a cache gets frames, and gives them back.
pub(crate) trait Behind {
    /// Up to 64 frames of one word: its first frame, and a bit for each one taken.
    fn take_word(&self, hints: &mut Hints) -> Option<(Pfn, u64)>;
    /// Takes back the frames `first + i` for each set bit; `first` is a multiple of 64.
    fn give_word(&self, first: Pfn, frames: u64);
    /// Takes back a block.
    fn give(&self, block: Block);
}

impl CpuCache {
    /// A single frame.
    #[inline]
    pub(crate) fn pop(&mut self, behind: &impl Behind) -> Option<Pfn> {
        if let Some(top) = self.used.checked_sub(1)
            && let Some(&pfn) = self.singles.get(top)
        {
            self.used = top;
            self.frames -= 1;
            return Some(pfn);
        }
        if self.word.1 == 0 {
            self.word = behind.take_word(&mut self.hints)?;
            self.frames += u64::from(self.word.1.count_ones());
        }
        let at = self.word.1.trailing_zeros();
        self.word.1 &= self.word.1 - 1;
        self.frames -= 1;
        Some(self.word.0.add(u64::from(at)))
    }

    /// Keeps a freed frame; makes room first if there is none.
    #[inline]
    pub(crate) fn push(&mut self, pfn: Pfn, behind: &impl Behind) {
        if self.used == SINGLES {
            self.flush(SINGLES / 2, behind);
        }
        if let Some(slot) = self.singles.get_mut(self.used) {
            *slot = pfn;
            self.used += 1;
            self.frames += 1;
        }
    }

    /// Gives back the `count` frames freed longest ago, neighbours in one go.
    #[cold]
    fn flush(&mut self, count: usize, behind: &impl Behind) {
        let count = count.min(self.used);
        let (old, _) = self.singles.split_at(count);
        let (mut first, mut bits) = (Pfn::new(0), 0_u64);
        for pfn in old {
            let word = Pfn::new(pfn.get() & !63);
            if word != first && bits != 0 {
                behind.give_word(first, bits);
                bits = 0;
            }
            first = word;
            bits |= 1 << (pfn.get() & 63);
        }
        if bits != 0 {
            behind.give_word(first, bits);
        }
        self.singles.copy_within(count..self.used, 0);
        self.used -= count;
        self.frames -= count as u64;
    }

    /// A block of `order`, if one is kept.
    #[inline]
    pub(crate) fn pop_block(&mut self, order: Order) -> Option<Block> {
        let count = self.counts.get_mut(order.index())?;
        let top = count.checked_sub(1)?;
        let pfn = *self.blocks.get(order.index())?.get(usize::from(top))?;
        *count = top;
        self.frames -= order.frames();
        Block::new(pfn, order)
    }

    /// Keeps a freed block if there is room: whether it did.
    #[inline]
    pub(crate) fn push_block(&mut self, block: Block) -> bool {
        let order = block.order();
        let Some(count) = self.counts.get_mut(order.index()) else { return false };
        if usize::from(*count) >= capacity(order) {
            return false;
        }
        let slots = self.blocks.get_mut(order.index());
        let Some(slot) = slots.and_then(|s| s.get_mut(usize::from(*count))) else { return false };
        *slot = block.pfn();
        *count += 1;
        self.frames += order.frames();
        true
    }

    /// Gives everything back.
    #[cold]
    pub(crate) fn drain(&mut self, behind: &impl Behind) {
        self.flush(SINGLES, behind);
        if self.word.1 != 0 {
            behind.give_word(self.word.0, self.word.1);
            self.frames -= u64::from(self.word.1.count_ones());
            self.word.1 = 0;
        }
        for o in 1..=MAX_CACHED.get() {
            while let Some(block) = Order::new(o).and_then(|order| self.pop_block(order)) {
                behind.give(block);
            }
        }
    }
}
