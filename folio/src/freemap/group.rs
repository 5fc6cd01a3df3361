//! Places in words: which bits a block has, and blocks that share a word.

use core::num::NonZeroU64;

use heirloom_kho::{Block, Order, Pfn, Run};

/// log2 of the chunks in a word, and of the ratio between neighbouring levels.
pub(super) const STEP: u32 = 6;

/// Returns the level in which a block of `order` is bits of one word, and log2 of how many bits.
pub(super) const fn level_of(order: Order) -> (usize, u32) {
    ((order.get() as u32 / STEP) as usize, order.get() as u32 % STEP)
}

/// Returns how many frames are in a chunk of `level`, log2.
pub(super) const fn chunk_log2(level: usize) -> u32 {
    level as u32 * STEP
}

/// Returns the order of a chunk of `level`.
pub(super) const fn chunk_order(level: usize) -> Order {
    match Order::new(chunk_log2(level) as u8) {
        Some(order) => order,
        None => Order::MAX_FOLIO,
    }
}

/// Bits at which an aligned group of `2^k` set bits starts in `word`.
pub(super) const fn groups(word: u64, k: u32) -> u64 {
    const STARTS: [u64; 6] = [
        !0,
        0x5555_5555_5555_5555,
        0x1111_1111_1111_1111,
        0x0101_0101_0101_0101,
        0x0001_0001_0001_0001,
        0x0000_0001_0000_0001,
    ];
    let mut w = word;
    let mut i = 0;
    while i < k {
        w &= w >> (1 << i);
        i += 1;
    }
    w & STARTS[k as usize]
}

/// `2^k` bits from bit `at`.
pub(super) const fn mask(at: u32, k: u32) -> u64 {
    ((1_u64 << (1 << k)) - 1) << at
}

/// Returns the `most` lowest of `bits`, at least one.
pub(super) const fn lowest(bits: u64, most: usize) -> u64 {
    let mut rest = bits & bits.wrapping_sub(1);
    let mut i = 1;
    while i < most && rest != 0 {
        rest &= rest - 1;
        i += 1;
    }
    bits & !rest
}

/// Blocks of one order, known from elsewhere, that lie in one word of their level. (Two
/// registers, and so is the `Option` of it.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// The first frame of the word.
    first: Pfn,
    /// The bits that the blocks start with.
    starts: NonZeroU64,
}

impl Group {
    /// Returns the blocks of `order` that start with these bits of word `n`; `None` if there are none.
    #[inline]
    pub(super) fn new(order: Order, n: u64, starts: u64) -> Option<Self> {
        let (level, _) = level_of(order);
        let first = Pfn::new(n << (chunk_log2(level) + STEP));
        NonZeroU64::new(starts).map(|starts| Self { first, starts })
    }

    /// Returns the frames `first + i` for each set bit `i`; `first` is a multiple of 64.
    #[inline]
    pub(crate) fn frames(first: Pfn, bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(|starts| Self { first, starts })
    }

    /// Returns a group of one.
    #[inline]
    pub(crate) fn of(block: Block) -> Self {
        let (level, _) = level_of(block.order());
        let n = block.pfn().get() >> chunk_log2(level);
        let first = Pfn::new(n >> STEP << (chunk_log2(level) + STEP));
        // One bit is never none.
        Self { first, starts: NonZeroU64::new(1 << (n & 63)).unwrap_or(NonZeroU64::MIN) }
    }

    /// Returns the group with a block of the same order, if that lies in the same word.
    #[inline]
    pub(crate) fn with(self, block: Block) -> Option<Self> {
        let one = Self::of(block);
        (one.first == self.first).then_some(Self { starts: self.starts | one.starts, ..self })
    }

    /// Returns the first frame of the word.
    #[inline]
    pub(crate) const fn first(self) -> Pfn {
        self.first
    }

    /// Returns the bits that the blocks start with.
    #[inline]
    pub(crate) const fn starts(self) -> u64 {
        self.starts.get()
    }

    /// Iterates over the blocks, by address.
    #[inline]
    pub(crate) fn blocks(self, order: Order) -> impl Iterator<Item = Block> {
        let (level, _) = level_of(order);
        let mut rest = self.starts.get();
        core::iter::from_fn(move || {
            let at = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
            rest &= rest - 1;
            Some(Block::aligned(self.first.add(at << chunk_log2(level)), order))
        })
    }

    /// Returns all frames of the word.
    #[inline]
    pub(crate) const fn word(self, order: Order) -> Option<Run> {
        let (level, _) = level_of(order);
        Run::new(self.first, 64 << chunk_log2(level))
    }

    /// Returns the first frame of one of the blocks.
    #[inline]
    pub(crate) const fn any(self, order: Order) -> Pfn {
        let (level, _) = level_of(order);
        self.first.add((self.starts.trailing_zeros() as u64) << chunk_log2(level))
    }
}
