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
use core::ptr::NonNull;

use crate::freemap::{Group, Hints};
use crate::inherit::Tally;
use crate::readers;
use heirloom_kho::sync::{AtomicU8, AtomicU64, AtomicUsize, Relaxed};
use heirloom_kho::{Block, Order, Pfn};

/// Single frames that a CPU keeps beside its word.
const SINGLES: usize = 128;
/// So many frames of one word that go back together, at least, were freed in a row.
const ROW: u32 = 8;
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

/// How many blocks of each order a CPU keeps where memory is ample: the fewer the larger they
/// are, but for order 9, the size of a huge page, of which it keeps a word.
const MOST: [u8; ORDERS] = [0, 8, 8, 8, 4, 4, 4, 2, 2, 8, 1];
const ORDERS: usize = MAX_CACHED.index() + 1;

/// One CPU's cache: what only its CPU looks at.
pub(crate) struct CpuCache {
    singles: [Pfn; SINGLES],
    /// The first frame of the word that is handed out.
    word: Pfn,
    blocks: [[Pfn; SLOTS]; ORDERS],
    /// Where this CPU last found free blocks.
    pub(crate) hints: Hints,
    /// How many blocks of each order it keeps.
    room: [u8; ORDERS],
}

/// How much a cache holds. Its CPU alone writes, with plain loads and stores; a call on another
/// CPU reads.
struct Levels {
    /// Single frames on the stack.
    singles: AtomicUsize,
    /// A bit for each free frame of the word that is handed out.
    word: AtomicU64,
    /// What the CPU is at home in, or [`ASKED`]; the one field that others write.
    home: AtomicUsize,
    blocks: [AtomicU8; ORDERS],
}

/// Stands for no home: the cache has to be drained, and to be sized, before it is used.
const ASKED: usize = 0;

/// A place for one CPU's cache, alone on its cache lines, of which processors fetch two at once.
#[repr(align(128))]
pub(crate) struct CpuSlot {
    cache: UnsafeCell<CpuCache>,
    levels: Levels,
    readers: readers::Word,
    settled: Tally,
}

/// A cache that its CPU works on.
pub(crate) struct Held<'a> {
    pub(crate) cache: &'a mut CpuCache,
    levels: &'a Levels,
}

impl CpuSlot {
    /// Makes an empty slot where it is to be: on a kernel's stack it would be an eighth of it.
    ///
    /// # Safety
    /// `place` is aligned, and valid for writes of a slot.
    pub(crate) unsafe fn install(place: NonNull<Self>) {
        let slot = place.as_ptr();
        let levels = Levels {
            singles: AtomicUsize::new(0),
            word: AtomicU64::new(0),
            home: AtomicUsize::new(ASKED),
            blocks: core::array::from_fn(|_| AtomicU8::new(0)),
        };
        // SAFETY: each field is written once, in place, by the contract; frame numbers, and all
        // else in the cache, may be zero.
        unsafe {
            let cache = UnsafeCell::raw_get(&raw const (*slot).cache);
            cache.write_bytes(0, 1);
            (&raw mut (*cache).hints).write(Hints::new());
            (&raw mut (*slot).levels).write(levels);
            (&raw mut (*slot).readers).write(readers::Word::new());
            (&raw mut (*slot).settled).write(Tally::new());
        }
    }

    /// Whether its CPU looks into what may be given back.
    #[inline]
    pub(crate) fn readers(&self) -> &readers::Word {
        &self.readers
    }

    /// How many blocks of a predecessor's it claimed.
    #[inline]
    pub(crate) fn settled(&self) -> &Tally {
        &self.settled
    }

    /// Asks the CPU to give back what it keeps, which it does in its next call.
    pub(crate) fn request_drain(&self) {
        // Relaxed: nothing else is passed on, and what is given back goes through the shared bits.
        self.levels.home.store(ASKED, Relaxed);
    }

    /// Frames in the cache; exact while its CPU does nothing.
    pub(crate) fn cached(&self) -> u64 {
        let levels = &self.levels;
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
        let cache = unsafe { &mut *self.cache.get() };
        f(Held { cache, levels: &self.levels })
    }
}

/// Where a cache gets frames, and gives them back.
///
/// Blocks come and go as [`Group`]s: those of one order that share a word of the shared bits.
pub(crate) trait Behind {
    /// Up to 64 frames of one word, of which some are in use.
    fn take_word(&self, hints: &mut Hints) -> Option<Group>;
    /// Whether the frames of a word are of one range, and so can be one block.
    fn is_one_block(&self, word: Block) -> bool;
    /// Up to `most` blocks of `order` from one word.
    fn take(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group>;
    /// Takes back blocks of `order`.
    fn give(&self, order: Order, group: Group);
    /// Takes back single frames, neighbours in one go: how many the last of them were that went
    /// together.
    fn give_frames(&self, frames: &[Pfn]) -> u32;
    /// A number for where most of the frames come from; not zero.
    fn home(&self) -> usize;
    /// Frames of one order that a CPU may keep.
    fn share(&self) -> u64;
}

impl Held<'_> {
    /// Whether the cache can be used as it is.
    #[inline]
    pub(crate) fn ready(&self) -> bool {
        self.levels.home.load(Relaxed) != ASKED
    }

    /// Whether the cache can be used as it is, and frames of `home` belong in it.
    #[inline]
    pub(crate) fn ready_for(&self, home: usize) -> bool {
        self.levels.home.load(Relaxed) == home
    }

    /// Does what the CPU was asked for, if it was.
    #[inline]
    pub(crate) fn make_ready(&mut self, behind: &impl Behind) {
        if !self.ready() {
            // A call that asks from here on asks again.
            self.levels.home.store(behind.home(), Relaxed);
            self.drain(behind);
            self.size(behind.share());
        }
    }

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
        let bits = self.levels.word.load(Relaxed);
        if bits != 0 {
            self.levels.word.store(bits & (bits - 1), Relaxed);
            return Some(Pfn::new(self.cache.word.get() | u64::from(bits.trailing_zeros())));
        }
        let top = self.levels.singles.load(Relaxed).checked_sub(1)?;
        let pfn = *self.cache.singles.get(top)?;
        self.levels.singles.store(top, Relaxed);
        Some(pfn)
    }

    #[inline]
    fn push_single(&mut self, pfn: Pfn) -> bool {
        let bits = self.levels.word.load(Relaxed);
        let (first, bit) = (Pfn::new(pfn.get() & !63), 1 << (pfn.get() & 63));
        if first == self.cache.word {
            self.levels.word.store(bits | bit, Relaxed);
            return true;
        }
        if bits == 0 {
            self.cache.word = first;
            self.levels.word.store(bit, Relaxed);
            return true;
        }
        let used = self.levels.singles.load(Relaxed);
        match self.cache.singles.get_mut(used) {
            // A word that is whole again goes back before more is kept.
            Some(slot) if bits != !0 => {
                *slot = pfn;
                self.levels.singles.store(used + 1, Relaxed);
                true
            }
            _ => false,
        }
    }

    /// A block of `order` once [`Held::pop`] had none: several at once from behind.
    pub(crate) fn refill(&mut self, order: Order, behind: &impl Behind) -> Option<Pfn> {
        if order == Order::ZERO {
            let group = if let Some(group) = behind.take_word(&mut self.cache.hints) {
                group
            } else {
                // Whole words, several at once.
                let first = self.pop(WORD).or_else(|| self.refill(WORD, behind))?;
                Group::frames(first, !0)?
            };
            self.cache.word = group.first();
            self.levels.word.store(group.starts(), Relaxed);
            return self.pop_single();
        }
        let level = self.levels.blocks.get(order.index())?;
        let mut used = usize::from(level.load(Relaxed));
        let most = usize::from(*self.cache.room.get(order.index())?).saturating_sub(used).max(1);
        let group = behind.take(order, most, &mut self.cache.hints)?;
        let slots = self.cache.blocks.get_mut(order.index())?;
        let mut blocks = group.blocks(order);
        let pfn = blocks.next()?.pfn();
        for block in blocks {
            // Fewer than there is room for.
            *slots.get_mut(used)? = block.pfn();
            used += 1;
        }
        level.store(used as u8, Relaxed);
        Some(pfn)
    }

    /// Keeps a freed block if there is room: whether it did.
    #[inline]
    pub(crate) fn push(&mut self, block: Block) -> bool {
        let order = block.order();
        if order == Order::ZERO {
            return self.push_single(block.pfn());
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
    fn size(&mut self, share: u64) {
        for (o, (room, most)) in self.cache.room.iter_mut().zip(MOST).enumerate() {
            *room = (share >> o).min(u64::from(most)) as u8;
        }
    }

    /// Keeps a freed block once [`Held::push`] had no room: what was freed longest ago goes back.
    /// Whether it did.
    pub(crate) fn exchange(&mut self, block: Block, behind: &impl Behind) -> bool {
        self.make_room(block.order(), behind);
        self.push(block)
    }

    /// Gives back some of the blocks of `order` that were freed longest ago, if it keeps any.
    fn make_room(&mut self, order: Order, behind: &impl Behind) {
        if order == Order::ZERO {
            // Half of them: an atomic operation waits for the stores before it, so many in a row
            // cost less than one a free. Where some were freed in a row the word goes too, so
            // that the next of the row brings its own.
            let whole = self.levels.word.load(Relaxed) == !0;
            if whole || self.flush_singles(SINGLES / 2, behind) >= ROW {
                self.flush_word(behind);
            }
            return;
        }
        let room = self.cache.room.get(order.index()).map_or(0, |room| usize::from(*room));
        self.flush_blocks(order, room.div_ceil(2), behind);
    }

    /// Gives the word back. If all of it is free it is kept as a block, so that several go together.
    fn flush_word(&mut self, behind: &impl Behind) {
        let Some(group) = Group::frames(self.cache.word, self.levels.word.load(Relaxed)) else {
            return;
        };
        let block = Block::aligned(group.first(), WORD);
        let whole = group.starts() == !0 && behind.is_one_block(block);
        if !(whole && (self.push(block) || self.exchange(block, behind))) {
            behind.give(Order::ZERO, group);
        }
        self.levels.word.store(0, Relaxed);
    }

    /// Gives back the `count` frames that are longest on the stack: how many the last of them were
    /// that went together.
    fn flush_singles(&mut self, count: usize, behind: &impl Behind) -> u32 {
        let used = self.levels.singles.load(Relaxed);
        let count = count.min(used);
        let row = behind.give_frames(self.cache.singles.get(..count).unwrap_or(&[]));
        self.cache.singles.copy_within(count..used, 0);
        self.levels.singles.store(used - count, Relaxed);
        row
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
    fn drain(&mut self, behind: &impl Behind) {
        self.flush_word(behind);
        self.flush_singles(SINGLES, behind);
        for order in (1..=MAX_CACHED.get()).filter_map(Order::new) {
            self.flush_blocks(order, usize::MAX, behind);
        }
    }
}

/// Gives back the `count` blocks freed longest ago of those `used` that are kept, neighbours in
/// one go, or all of them if they are neighbours: how many are left.
#[inline]
fn flush(order: Order, kept: &mut [Pfn], used: usize, count: usize, behind: &impl Behind) -> usize {
    let mut all = kept.iter().take(used).map(|pfn| Block::aligned(*pfn, order));
    let first = all.next().map(Group::of);
    if let Some(group) = first.and_then(|first| all.try_fold(first, Group::with)) {
        behind.give(order, group);
        return 0;
    }
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
