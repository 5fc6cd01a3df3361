//! The units that a free map counts in: levels, heights, words, chunks, and the bits of a block in a word.
//! Each is a type, as all of them are small numbers.

use heirloom_kho::narrow::{
    low_u32, u8_to_u32, u32_to_u8, u32_to_u64, u32_to_usize, u64_to_usize, usize_to_u64,
};
use heirloom_kho::{Order, Pfn};

/// Levels, and bitmaps of the first level.
pub(super) const LEVELS: usize = 4;

/// log2 of the chunks in a word, and of the ratio between neighbouring levels.
const STEP: u32 = 6;

/// The last level, and the last height.
const LAST: u32 = 3;
const _: () = assert!(u32_to_usize(LAST) + 1 == LEVELS);

/// A level: free chunks of `64^level` frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Level(u32);

impl Level {
    /// Single frames.
    pub(super) const FIRST: Self = Self(0);
    /// The largest chunks.
    pub(super) const LAST: Self = Self(LAST);

    /// The first whose chunks are larger than blocks mostly are.
    pub(super) const LARGE: Self = Self(2);

    /// Returns the level in which a block of `order` is bits of one word, and how many bits.
    #[inline]
    pub(super) const fn of(order: Order) -> (Self, Width) {
        let order = u8_to_u32(order.get());
        (Self(order / STEP), Width(order % STEP))
    }

    /// Returns all of them, the first first.
    pub(super) fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=LAST).map(Self)
    }

    /// Returns the level as an index.
    #[inline]
    pub(super) const fn index(self) -> usize {
        u32_to_usize(self.0)
    }

    /// Returns the next level, where a chunk is as large as a word is here; `None` for the last level.
    #[inline]
    pub(super) const fn up(self) -> Option<Self> {
        if self.0 < LAST { Some(Self(self.0 + 1)) } else { None }
    }

    /// Returns the height of the level's lowest bitmap, in which each bit is a chunk.
    #[inline]
    pub(super) const fn lowest(self) -> Height {
        Height(self.0)
    }

    /// Returns the heights of its bitmaps.
    pub(super) fn heights(self) -> impl Iterator<Item = Height> {
        (self.0..=LAST).map(Height)
    }

    /// Returns the order of a chunk.
    pub(super) const fn chunk_order(self) -> Order {
        match Order::new(u32_to_u8(self.chunk_log2())) {
            Some(order) => order,
            None => Order::MAX_FOLIO,
        }
    }

    /// Returns how many frames are in a chunk, log2.
    #[inline]
    pub(super) const fn chunk_log2(self) -> u32 {
        self.0 * STEP
    }

    /// Returns how many widths blocks have here: those of a whole word and more are the next level's.
    pub(super) fn widths(self) -> impl DoubleEndedIterator<Item = Width> {
        (0..if self.0 == LAST { 1 } else { STEP }).map(Width)
    }
}

/// A height: bitmaps of which a bit stands for `64^height` frames. A level has one at its own height, and its
/// summaries above.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Height(u32);

impl Height {
    /// The topmost summary's.
    pub(super) const TOP: Self = Self(LAST);

    /// Returns the height as an index.
    #[inline]
    pub(super) const fn index(self) -> usize {
        u32_to_usize(self.0)
    }

    /// Returns the next one; `None` for the top.
    #[inline]
    pub(super) const fn up(self) -> Option<Self> {
        if self.0 < LAST { Some(Self(self.0 + 1)) } else { None }
    }

    /// Returns those above, the lowest first.
    #[inline]
    pub(super) fn above(self) -> impl Iterator<Item = Self> {
        (self.0 + 1..=LAST).map(Self)
    }

    /// Returns how many frames a word stands for, log2.
    pub(super) const fn word_log2(self) -> u32 {
        STEP * (self.0 + 1)
    }
}

/// The number of a word among those of its height, the first of which starts with frame 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WordId(pub(super) u64);

impl WordId {
    /// The first one.
    pub(super) const FIRST: Self = Self(0);
    /// One that no memory has.
    pub(super) const NONE: Self = Self(u64::MAX);

    /// Returns the next one.
    #[inline]
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the word `words` before it, or the first one.
    #[inline]
    pub(super) const fn sub(self, words: usize) -> Self {
        Self(self.0.saturating_sub(usize_to_u64(words)))
    }

    /// Returns the word of single frames with the first frame of this one, which is at a height.
    pub(super) const fn lowest_word(self, height: Height) -> Self {
        Self(self.0 << (STEP * height.0))
    }

    /// Returns the word `words` further on.
    #[inline]
    pub(super) const fn add(self, words: usize) -> Self {
        Self(self.0 + usize_to_u64(words))
    }

    /// Returns its index in a bitmap that starts with `first`; one that no bitmap has for a word before it.
    #[inline]
    pub(super) const fn index_from(self, first: Self) -> usize {
        u64_to_usize(self.0.wrapping_sub(first.0))
    }

    /// Returns its first frame, as a word of `level`.
    #[inline]
    pub(super) const fn first_frame(self, level: Level) -> Pfn {
        self.chunk().first(level)
    }

    /// Returns the word of the next height in which this one is a bit, and the bit: in a summary, that it is
    /// not empty; in the next level, that it is wholly free.
    #[inline]
    pub(super) const fn above(self) -> (Self, u64) {
        (Self(self.0 >> STEP), 1 << (self.0 & 63))
    }

    /// Returns the bits of the word above it from its own on.
    #[inline]
    pub(super) const fn on_from(self) -> u64 {
        !0 << (self.0 & 63)
    }

    /// Returns the word of the height below that is bit `bit` of this one.
    #[inline]
    pub(super) const fn below(self, bit: u32) -> Self {
        Self((self.0 << STEP) + u32_to_u64(bit))
    }

    /// Returns the chunk that is bit 0 of this word.
    #[inline]
    pub(super) const fn chunk(self) -> ChunkId {
        ChunkId(self.0 << STEP)
    }
}

/// The number of a chunk among those of its level, the first of which starts with frame 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ChunkId(u64);

impl ChunkId {
    /// Returns the chunk of `level` that holds a frame.
    #[inline]
    pub(super) const fn of(pfn: Pfn, level: Level) -> Self {
        Self(pfn.get() >> level.chunk_log2())
    }

    /// Returns the chunk `chunks` further on.
    #[inline]
    pub(super) const fn add(self, chunks: u64) -> Self {
        Self(self.0 + chunks)
    }

    /// Returns its first frame.
    #[inline]
    pub(super) const fn first(self, level: Level) -> Pfn {
        Pfn::new(self.0 << level.chunk_log2())
    }

    /// Returns the word that it is in.
    #[inline]
    pub(super) const fn word(self) -> WordId {
        WordId(self.0 >> STEP)
    }

    /// Returns which bit of that word it is.
    #[inline]
    pub(super) const fn at(self) -> u32 {
        low_u32(self.0 & 63)
    }

    /// Returns the bit.
    #[inline]
    pub(super) const fn bit(self) -> u64 {
        1 << (self.0 & 63)
    }
}

/// How many chunks a block has in its level: 1 to 32, a power of two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Width(u32);

impl Width {
    /// One chunk.
    pub(super) const ONE: Self = Self(0);

    /// Returns the width `2^log2`.
    pub(super) const fn new(log2: u32) -> Self {
        Self(log2)
    }

    /// Returns it and those above.
    pub(super) fn and_above(self) -> impl Iterator<Item = Self> {
        (self.0..STEP).map(Self)
    }

    /// Returns log2 of it.
    #[inline]
    pub(super) const fn log2(self) -> u32 {
        self.0
    }

    /// Returns the bits of a block that starts at bit `at`.
    #[inline]
    pub(super) const fn mask(self, at: u32) -> u64 {
        ((1_u64 << (1 << self.0)) - 1) << at
    }

    /// Returns the bits of all blocks that start at `starts`, which are at least one block apart.
    #[inline]
    pub(super) const fn spread(self, starts: u64) -> u64 {
        // So far apart, the products do not overlap.
        starts.wrapping_mul(self.mask(0))
    }

    /// Returns the bits of `word` at which a block of set bits starts.
    #[inline]
    pub(super) const fn groups(self, word: u64) -> u64 {
        let mut w = word;
        let mut i = 0;
        while i < self.0 {
            w &= w >> (1 << i);
            i += 1;
        }
        w & STARTS[u32_to_usize(self.0)]
    }

    /// Returns the widths, a bit for each, of which `word` has a block that is part of no larger one.
    #[inline]
    pub(super) const fn all_of(word: u64) -> u64 {
        let (mut widths, mut width, mut starts) = (0, 0, word);
        while width + 1 < STEP && starts != 0 {
            let size = 1 << width;
            let larger = starts & (starts >> size) & STARTS[u32_to_usize(width + 1)];
            if starts & !(larger | larger << size) != 0 {
                widths |= 1 << width;
            }
            (width, starts) = (width + 1, larger);
        }
        if starts != 0 { widths | 1 << width } else { widths }
    }

    /// Returns the smallest width from this one on of which `word` has a block that is part of no larger one, and
    /// the bits at which such blocks start. A whole word counts as two blocks of half of it.
    #[inline]
    pub(super) const fn best(self, word: u64) -> Option<(Self, u64)> {
        let (mut width, mut starts) = (self.0, self.groups(word));
        if starts == 0 {
            return None;
        }
        while width + 1 < STEP {
            let size = 1 << width;
            let larger = starts & (starts >> size) & STARTS[u32_to_usize(width + 1)];
            let alone = starts & !(larger | larger << size);
            if alone != 0 {
                return Some((Self(width), alone));
            }
            (width, starts) = (width + 1, larger);
        }
        Some((Self(width), starts))
    }
}

/// The bits at which a block of each width may start.
const STARTS: [u64; 6] = [
    !0,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
];
