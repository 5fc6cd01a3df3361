//! Blocks that share a word.

use core::num::NonZeroU64;

use heirloom_kho::narrow::u32_to_u64;
use heirloom_kho::{Block, Order, Pfn, Run};

use super::units::{ChunkId, Level, WordId};

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
    pub(super) fn new(order: Order, n: WordId, starts: u64) -> Option<Self> {
        let (level, _) = Level::of(order);
        let first = n.first_frame(level);
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
        let (level, _) = Level::of(block.order());
        let chunk = ChunkId::of(block.pfn(), level);
        let first = chunk.word().first_frame(level);
        // One bit is never none.
        Self { first, starts: NonZeroU64::new(chunk.bit()).unwrap_or(NonZeroU64::MIN) }
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
        let (level, _) = Level::of(order);
        let mut rest = self.starts.get();
        core::iter::from_fn(move || {
            let at = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
            rest &= rest - 1;
            Some(Block::aligned(self.first.add(at << level.chunk_log2()), order))
        })
    }

    /// Returns all frames of the word.
    #[inline]
    pub(crate) const fn word(self, order: Order) -> Option<Run> {
        let (level, _) = Level::of(order);
        Run::new(self.first, 64 << level.chunk_log2())
    }

    /// Returns the first frame of one of the blocks.
    #[inline]
    pub(crate) const fn any(self, order: Order) -> Pfn {
        let (level, _) = Level::of(order);
        self.first.add(u32_to_u64(self.starts.trailing_zeros()) << level.chunk_log2())
    }
}
