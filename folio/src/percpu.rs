//! The cache in front of the shared bits: what makes the common path touch nothing shared.
//!
//! Each CPU keeps one word of 64 frames that it allocates from and frees into, freed frames of
//! other words on a stack, and a few blocks of each middle order. It takes what is free in a word,
//! or several blocks of one word, at once and gives back by words, so the shared line is touched
//! once for many. A word of which all frames are free is a block like others: frames that are
//! freed in a row fill the word and leave it as one, and several such go together.
//!
//! A cache holds frames of its CPU's home node only.

use core::cell::UnsafeCell;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use heirloom_kho::narrow::{low_u8, usize_to_u64};
use heirloom_kho::sync::{AtomicU8, AtomicU64, AtomicUsize, Relaxed};
use heirloom_kho::{Block, Order, Pfn};

use crate::freemap::{Group, Hints};
use crate::predecessor::Tally;
use crate::readers;

/// Single frames that a CPU keeps beside its word.
const STACK: usize = 128;
/// So many frames of one word that go back together, at least, were freed in a row.
const MIN_BATCH: u32 = 8;
/// Blocks of a middle order that a CPU keeps, at most.
const SLOTS: usize = 8;
/// What a word of frames is when all of them are free: one block of this order.
const WORD: Order = match Order::new(6) {
    Some(order) => order,
    None => Order::ZERO,
};
/// The largest order that is kept.
pub(crate) const MAX_CACHED: Order = match Order::new(10) {
    Some(order) => order,
    None => Order::ZERO,
};

/// By what a CPU's share is divided while memory is scarce.
const SCARCE: u64 = 64;

/// How many blocks of each order a CPU keeps where memory is ample: the fewer the larger they
/// are, but for order 9, the size of a huge page, of which it keeps a word.
const CAPACITY: [u8; ORDERS] = [0, 8, 8, 8, 4, 4, 4, 2, 2, 8, 1];
const ORDERS: usize = MAX_CACHED.index() + 1;

/// One CPU's cache: what only its CPU looks at.
pub(crate) struct CpuCache {
    stack: [Pfn; STACK],
    /// The first frame of the word that is handed out.
    run_word: Pfn,
    blocks: [[Pfn; SLOTS]; ORDERS],
    /// Where this CPU last found free blocks.
    pub(crate) hints: Hints,
    /// How many blocks of each order it keeps.
    capacity: [u8; ORDERS],
    /// Whether they are few, as memory was scarce.
    scarce: bool,
}

/// How much a cache holds. Its CPU alone writes, with plain loads and stores; a call on another
/// CPU reads.
struct Fill {
    /// Single frames on the stack.
    stack: AtomicUsize,
    /// A bit for each free frame of the word that is handed out.
    run_word: AtomicU64,
    /// Its [`Source`], or [`DRAIN`]; the one field that others write.
    source: AtomicUsize,
    blocks: [AtomicU8; ORDERS],
}

/// Stands for no source: the cache has to be drained, and to be sized, before it is used.
const DRAIN: usize = 0;

/// What most of a CPU's frames come from, by a number that only says which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source(pub(crate) NonZeroUsize);

/// A place for one CPU's cache, alone on its cache lines, of which processors fetch two at once.
#[repr(align(128))]
pub(crate) struct CpuSlot {
    cache: UnsafeCell<CpuCache>,
    fill: Fill,
    readers: readers::Word,
    settled: Tally,
}

/// A cache that its CPU works on.
pub(crate) struct PcpList<'a> {
    pub(crate) cache: &'a mut CpuCache,
    fill: &'a Fill,
}

impl CpuSlot {
    /// Makes an empty slot where it is to be: on a kernel's stack it would be an eighth of it.
    ///
    /// # Safety
    /// `place` is aligned, and valid for writes of a slot.
    pub(crate) unsafe fn install(place: NonNull<Self>) {
        let slot = place.as_ptr();
        let fill = Fill {
            stack: AtomicUsize::new(0),
            run_word: AtomicU64::new(0),
            source: AtomicUsize::new(DRAIN),
            blocks: core::array::from_fn(|_| AtomicU8::new(0)),
        };
        // SAFETY: each field is written once, in place, by the contract; frame numbers, and all
        // else in the cache, may be zero.
        unsafe {
            let cache = UnsafeCell::raw_get(&raw const (*slot).cache);
            cache.write_bytes(0, 1);
            (&raw mut (*cache).hints).write(Hints::new());
            (&raw mut (*slot).fill).write(fill);
            (&raw mut (*slot).readers).write(readers::Word::new());
            (&raw mut (*slot).settled).write(Tally::new());
        }
    }

    /// Returns whether its CPU looks into what may be given back.
    #[inline]
    pub(crate) fn readers(&self) -> &readers::Word {
        &self.readers
    }

    /// Returns how many of a predecessor's blocks its CPU claimed.
    #[inline]
    pub(crate) fn settled(&self) -> &Tally {
        &self.settled
    }

    /// Asks the CPU to give back what it keeps, which it does in its next call.
    pub(crate) fn request_drain(&self) {
        // Relaxed: nothing else is passed on, and what is given back goes through the shared bits.
        self.fill.source.store(DRAIN, Relaxed);
    }

    /// Returns how many frames are in the cache; exact while its CPU does nothing.
    pub(crate) fn cached(&self) -> u64 {
        let fill = &self.fill;
        let stack = usize_to_u64(fill.stack.load(Relaxed));
        let word = u64::from(fill.run_word.load(Relaxed).count_ones());
        let blocks = fill.blocks.iter().enumerate();
        blocks.fold(stack + word, |sum, (o, n)| sum + (u64::from(n.load(Relaxed)) << o))
    }

    /// Returns whether something is in the cache; right while its CPU does nothing.
    pub(crate) fn keeps_any(&self) -> bool {
        let fill = &self.fill;
        fill.stack.load(Relaxed) != 0
            || fill.run_word.load(Relaxed) != 0
            || fill.blocks.iter().any(|kept| kept.load(Relaxed) != 0)
    }

    /// Works on the cache.
    ///
    /// # Safety
    /// Nothing else works on the same slot meanwhile: the caller runs inside
    /// [`Cpus::with_cpu`](crate::Cpus::with_cpu) or [`with_offline_cpu`](crate::Cpus::with_offline_cpu) for this CPU, or owns
    /// the slot exclusively; and `f` does not come back here for the same slot.
    #[inline]
    pub(crate) unsafe fn with<R>(&self, f: impl FnOnce(PcpList<'_>) -> R) -> R {
        // SAFETY: exclusive by this function's contract, so the only reference.
        let cache = unsafe { &mut *self.cache.get() };
        f(PcpList { cache, fill: &self.fill })
    }
}

/// Where a cache gets frames, and gives them back.
///
/// Blocks come and go as [`Group`]s: those of one order that share a word of the shared bits.
pub(crate) trait Backend {
    /// Takes up to 64 frames of one word, of which some are in use.
    fn take_word(&self, hints: &mut Hints) -> Option<Group>;
    /// Returns whether the frames of a word are of one range, and so can be one block.
    fn is_one_block(&self, word: Block) -> bool;
    /// Takes up to `most` blocks of `order` from one word.
    fn take(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group>;
    /// Takes back blocks of `order`.
    fn give(&self, order: Order, group: Group);
    /// Takes back single frames, neighbours in one go. Returns the length of the last batch.
    fn give_frames(&self, frames: &[Pfn]) -> u32;
    /// Returns where most of the frames come from.
    fn source(&self) -> Source;
    /// Returns whether there is more than can soon be used.
    fn is_ample(&self) -> bool;
    /// Returns how many frames of one order a CPU may keep.
    fn share(&self) -> u64;
}

impl PcpList<'_> {
    /// Returns whether the cache can be used as it is.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.fill.source.load(Relaxed) != DRAIN
    }

    /// Returns whether the cache can be used as it is, and frames of `source` belong in it.
    #[inline]
    pub(crate) fn is_ready_for(&self, source: Source) -> bool {
        self.fill.source.load(Relaxed) == source.0.get()
    }

    /// Does what the CPU was asked for, if it was.
    #[inline]
    pub(crate) fn refresh(&mut self, backend: &impl Backend) {
        if !self.is_ready() {
            // A call that asks from here on asks again.
            self.fill.source.store(backend.source().0.get(), Relaxed);
            self.drain(backend);
            self.resize(backend);
        }
    }

    /// Keeps fewer blocks where memory is scarce: what a CPU keeps is what others are refused.
    fn resize(&mut self, backend: &impl Backend) {
        self.cache.scarce = !backend.is_ample();
        let share = backend.share();
        self.set_capacity(if self.cache.scarce { share / SCARCE } else { share });
    }

    /// Keeps as many as elsewhere again once memory is ample.
    #[inline]
    fn grow(&mut self, backend: &impl Backend) {
        if self.cache.scarce && backend.is_ample() {
            self.resize(backend);
        }
    }

    /// Takes a block of `order`, if one is kept.
    #[inline]
    pub(crate) fn pop(&mut self, order: Order) -> Option<Pfn> {
        if order == Order::ZERO {
            return self.pop_frame();
        }
        let kept_count = self.fill.blocks.get(order.index())?;
        let top = kept_count.load(Relaxed).checked_sub(1)?;
        let pfn = *self.cache.blocks.get(order.index())?.get(usize::from(top))?;
        kept_count.store(top, Relaxed);
        Some(pfn)
    }

    #[inline]
    fn pop_frame(&mut self) -> Option<Pfn> {
        let bits = self.fill.run_word.load(Relaxed);
        if bits != 0 {
            self.fill.run_word.store(bits & (bits - 1), Relaxed);
            return Some(Pfn::new(self.cache.run_word.get() | u64::from(bits.trailing_zeros())));
        }
        let top = self.fill.stack.load(Relaxed).checked_sub(1)?;
        let pfn = *self.cache.stack.get(top)?;
        self.fill.stack.store(top, Relaxed);
        Some(pfn)
    }

    #[inline]
    fn push_frame(&mut self, pfn: Pfn) -> bool {
        let bits = self.fill.run_word.load(Relaxed);
        let (first, bit) = (Pfn::new(pfn.get() & !63), 1 << (pfn.get() & 63));
        if first == self.cache.run_word {
            self.fill.run_word.store(bits | bit, Relaxed);
            return true;
        }
        if bits == 0 {
            self.cache.run_word = first;
            self.fill.run_word.store(bit, Relaxed);
            return true;
        }
        let used = self.fill.stack.load(Relaxed);
        match self.cache.stack.get_mut(used) {
            // A word that is whole again goes back before more is kept.
            Some(slot) if bits != !0 => {
                *slot = pfn;
                self.fill.stack.store(used + 1, Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Takes a block of `order` once [`PcpList::pop`] had none: several at once from the backend.
    pub(crate) fn refill(&mut self, order: Order, backend: &impl Backend) -> Option<Pfn> {
        if order == Order::ZERO {
            let group = if let Some(group) = backend.take_word(&mut self.cache.hints) {
                group
            } else {
                // Whole words, several at once.
                let first = self.pop(WORD).or_else(|| self.refill(WORD, backend))?;
                Group::frames(first, !0)?
            };
            self.cache.run_word = group.first();
            self.fill.run_word.store(group.starts(), Relaxed);
            return self.pop_frame();
        }
        self.grow(backend);
        let kept_count = self.fill.blocks.get(order.index())?;
        let mut used = kept_count.load(Relaxed);
        let room = self.cache.capacity.get(order.index())?.saturating_sub(used);
        let most = usize::from(room.max(1));
        let group = backend.take(order, most, &mut self.cache.hints)?;
        let slots = self.cache.blocks.get_mut(order.index())?;
        let mut blocks = group.blocks(order);
        let pfn = blocks.next()?.pfn();
        for block in blocks {
            // Fewer than there is room for.
            *slots.get_mut(usize::from(used))? = block.pfn();
            used += 1;
        }
        kept_count.store(used, Relaxed);
        Some(pfn)
    }

    /// Keeps a freed block if there is room. Returns whether it did.
    #[inline]
    pub(crate) fn push(&mut self, block: Block) -> bool {
        let order = block.order();
        if order == Order::ZERO {
            return self.push_frame(block.pfn());
        }
        let Some(kept_count) = self.fill.blocks.get(order.index()) else { return false };
        let used = kept_count.load(Relaxed);
        if self.cache.capacity.get(order.index()).is_none_or(|most| used >= *most) {
            return false;
        }
        let slots = self.cache.blocks.get_mut(order.index());
        let Some(slot) = slots.and_then(|s| s.get_mut(usize::from(used))) else { return false };
        *slot = block.pfn();
        kept_count.store(used + 1, Relaxed);
        true
    }

    /// Sizes the cache for `share` frames of each order.
    fn set_capacity(&mut self, share: u64) {
        for (o, (capacity, most)) in self.cache.capacity.iter_mut().zip(CAPACITY).enumerate() {
            *capacity = low_u8((share >> o).min(u64::from(most)));
        }
    }

    /// Keeps a freed block once [`PcpList::push`] had no room: what was freed longest ago goes back.
    /// Whether it did.
    pub(crate) fn free_slow(&mut self, block: Block, backend: &impl Backend) -> bool {
        self.grow(backend);
        self.spill(block.order(), backend);
        self.push(block)
    }

    /// Gives back some of the blocks of `order` that were freed longest ago, if it keeps any.
    fn spill(&mut self, order: Order, backend: &impl Backend) {
        if order == Order::ZERO {
            // Half of them: an atomic operation waits for the stores before it, so many in a row
            // cost less than one a free. Where some were freed in a row the word goes too, so
            // that the next of the row brings its own.
            let whole = self.fill.run_word.load(Relaxed) == !0;
            if whole || self.flush_stack(STACK / 2, backend) >= MIN_BATCH {
                self.flush_run_word(backend);
            }
            return;
        }
        let room = self.cache.capacity.get(order.index()).map_or(0, |room| usize::from(*room));
        self.flush_blocks(order, room.div_ceil(2), backend);
    }

    /// Gives the word back. If all of it is free it is kept as a block, so that several go together.
    fn flush_run_word(&mut self, backend: &impl Backend) {
        let Some(group) = Group::frames(self.cache.run_word, self.fill.run_word.load(Relaxed))
        else {
            return;
        };
        let block = Block::aligned(group.first(), WORD);
        let whole = group.starts() == !0 && backend.is_one_block(block);
        if !(whole && (self.push(block) || self.free_slow(block, backend))) {
            backend.give(Order::ZERO, group);
        }
        self.fill.run_word.store(0, Relaxed);
    }

    /// Gives back the `count` frames that are longest on the stack. Returns the
    /// length of the last batch.
    fn flush_stack(&mut self, count: usize, backend: &impl Backend) -> u32 {
        let used = self.fill.stack.load(Relaxed);
        let count = count.min(used);
        let batch = backend.give_frames(self.cache.stack.get(..count).unwrap_or(&[]));
        self.cache.stack.copy_within(count..used, 0);
        self.fill.stack.store(used - count, Relaxed);
        batch
    }

    fn flush_blocks(&mut self, order: Order, count: usize, backend: &impl Backend) {
        let blocks = self.cache.blocks.get_mut(order.index());
        let Some((blocks, kept_count)) = blocks.zip(self.fill.blocks.get(order.index())) else {
            return;
        };
        let left = flush(order, blocks, usize::from(kept_count.load(Relaxed)), count, backend);
        // No more than there are slots.
        kept_count.store(low_u8(usize_to_u64(left)), Relaxed);
    }

    /// Gives everything back.
    #[cold]
    #[inline(never)]
    fn drain(&mut self, backend: &impl Backend) {
        self.flush_run_word(backend);
        self.flush_stack(STACK, backend);
        for order in (1..=MAX_CACHED.get()).filter_map(Order::new) {
            self.flush_blocks(order, usize::MAX, backend);
        }
    }
}

/// Gives back the `count` blocks freed longest ago of those `used` that are kept, neighbours in
/// one go, or all of them if they are neighbours. Returns how many are left.
#[inline]
fn flush(
    order: Order,
    kept: &mut [Pfn],
    used: usize,
    count: usize,
    backend: &impl Backend,
) -> usize {
    let mut all = kept.iter().take(used).map(|pfn| Block::aligned(*pfn, order));
    let first = all.next().map(Group::of);
    if let Some(group) = first.and_then(|first| all.try_fold(first, Group::with)) {
        backend.give(order, group);
        return 0;
    }
    // Neighbours among them go back together: one operation on a shared word in place of one for each.
    let count = count.min(used);
    let mut group: Option<Group> = None;
    for pfn in kept.iter().take(count) {
        let block = Block::aligned(*pfn, order);
        if let Some(whole) = group.and_then(|group| group.with(block)) {
            group = Some(whole);
        } else if let Some(group) = group.replace(Group::of(block)) {
            backend.give(order, group);
        }
    }
    if let Some(group) = group {
        backend.give(order, group);
    }
    kept.copy_within(count..used, 0);
    used - count
}
