//! Everything preserved, in key order: higher orders first, and by address within an order.
//!
//! One cursor passes over the leaves by words and skips what is empty; folios and adjacent folios
//! are made of its words.

use super::key::{FolioRange, Key, order_of};
use super::read::Tree;
use super::tables::Tables;
use crate::addr::{Block, Order, Pfn};
use crate::narrow::{u32_to_usize, u64_to_usize, usize_to_u64};
use crate::prefetch::prefetch;
use crate::sync::{Acquire, AtomicU64, Relaxed};

impl<'a, T: Tables + ?Sized> Tree<'a, T> {
    /// Returns everything preserved, up to 64 folios of one order at a time. See [`Words`].
    pub fn words(&self) -> Words<'a, T> {
        self.words_from(0)
    }

    /// Returns every preserved folio. See [`Folios`].
    pub fn folios(&self) -> Folios<'a, T> {
        Folios { words: self.words(), word: Word::NONE }
    }

    /// Returns every preserved folio, those that lie side by side with the same order taken
    /// together. See [`FolioRanges`].
    pub fn folio_ranges(&self) -> FolioRanges<'a, T> {
        FolioRanges { words: self.words(), word: Word::NONE }
    }

    /// Returns the words from the one that holds `key` on.
    pub fn words_from(&self, key: u64) -> Words<'a, T> {
        let none =
            Words { tree: *self, leaf: &[], first: key, at: 0, some: 0, next: key, mixed: 0 };
        let Some(leaf) = self.leaf(Key::new(key)) else { return none };
        let next = leaf.first + self.geometry().leaf_keys();
        let mut words = Words { leaf: leaf.words, first: leaf.first, next, ..none };
        words.go_to(self.geometry().index(Key::new(key), 0) / 64);
        words
    }
}

/// Up to 64 preserved folios of one order: bit `i` of `mask` is the one that starts at frame
/// `first + i * order.frames()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// The order of all of them.
    pub order: Order,
    /// The frame that bit 0 stands for.
    pub first: Pfn,
    /// Which are preserved; never 0.
    pub mask: u64,
}

impl Word {
    const NONE: Self = Self { order: Order::ZERO, first: Pfn::new(0), mask: 0 };

    /// Returns the bits `mask` of the word that starts with `key`, all of one order.
    #[inline]
    fn new(key: u64, mask: u64) -> Self {
        let order = order_of(key);
        let first = (key & !(1 << (key | 1).ilog2())) << order.get();
        Self { order, first: Pfn::new(first), mask }
    }

    /// Returns the folio of bit `i`.
    #[inline]
    fn block(&self, i: u32) -> Block {
        let pfn = self.first.get() + (u64::from(i) << self.order.get());
        Block::aligned(Pfn::new(pfn), self.order)
    }

    /// Takes the lowest folio out.
    #[inline]
    fn take(&mut self) -> Option<Block> {
        let bit = (self.mask != 0).then(|| self.mask.trailing_zeros())?;
        self.mask &= self.mask - 1;
        Some(self.block(bit))
    }

    /// Returns the frame after the last that its bits can stand for.
    #[inline]
    fn end(&self) -> u64 {
        self.first.get().saturating_add(64 << self.order.get())
    }
}

/// Everything preserved, by words: the order in which a tree is read fastest. From
/// [`Tree::words`].
///
/// A word of order 0 is what an allocator's bitmap of frames has for the same 64 frames.
#[derive(Clone, Debug)]
pub struct Words<'a, T: ?Sized> {
    tree: Tree<'a, T>,
    /// The current leaf.
    leaf: &'a [AtomicU64],
    /// Its first key.
    first: u64,
    /// Where in it the 64 words begin that are being read.
    at: usize,
    /// Which of these 64 were not empty, at a first look, and are still to be read.
    some: u64,
    /// Where to look for the next leaf.
    next: u64,
    /// Bits not yet given of the very first word: keys 2 to 63, of several orders.
    mixed: u64,
}

impl<T: Tables + ?Sized> Words<'_, T> {
    /// Goes on with the word at `index` of the leaf.
    #[inline]
    fn go_to(&mut self, index: usize) {
        self.at = index & !63;
        let words = self.leaf.get(self.at..).unwrap_or_default();
        // The next 64, a line each time: they come while these are read.
        words.iter().skip(64).step_by(8).take(8).for_each(prefetch);
        self.some = summary(words.get(..64).unwrap_or(words)).0 & (!0 << (index & 63));
    }

    /// Passes over what follows the word of `key` in the current leaf with every bit set, as far as
    /// the order is the same; how many words.
    #[inline]
    fn skip_full(&mut self, key: u64) -> u64 {
        let from = ((key & !63) + 64).wrapping_sub(self.first);
        let words = self.leaf.get(u64_to_usize(from) / 64..).unwrap_or_default();
        // The next order starts at a power of two.
        let from = self.first + from;
        let limit = (from.next_power_of_two() - from) / 64;
        // Acquire as in `next`.
        let full =
            words.iter().take(u64_to_usize(limit)).take_while(|word| word.load(Acquire) == !0);
        let full = usize_to_u64(full.count());
        if full != 0 {
            self.go_to(u64_to_usize(from - self.first) / 64 + u64_to_usize(full));
        }
        full
    }

    /// Takes the highest order out of `mixed`.
    #[cold]
    fn split(&mut self) -> Word {
        // Keys of one order lie between neighbouring powers of two; bits 0 and 1 are no keys.
        let key = 1_u64 << (self.mixed.trailing_zeros() | 1).ilog2();
        let bits = ((1 << key) - 1) << key;
        let mask = (self.mixed & bits) >> key;
        self.mixed &= !bits;
        Word::new(key, mask)
    }
}

impl<T: Tables + ?Sized> Iterator for Words<'_, T> {
    type Item = Word;

    #[inline]
    fn next(&mut self) -> Option<Word> {
        loop {
            if self.mixed != 0 {
                return Some(self.split());
            }
            while self.some != 0 {
                let index = self.at + u32_to_usize(self.some.trailing_zeros());
                self.some &= self.some - 1;
                // Acquire pairs with the Release that set the bits: what a folio's owner wrote
                // before is seen by the caller that finds it here.
                let mask = self.leaf.get(index).map_or(0, |word| word.load(Acquire));
                let key = self.first + usize_to_u64(index) * 64;
                if key < 64 {
                    self.mixed = mask & !3;
                    break;
                }
                if mask != 0 {
                    return Some(Word::new(key, mask));
                }
            }
            if self.mixed != 0 {
                continue;
            }
            if self.at + 64 < self.leaf.len() {
                self.go_to(self.at + 64);
                continue;
            }
            let leaf = self.tree.seek(0, self.next)?;
            (self.leaf, self.first) = (leaf.words, leaf.first);
            self.next = leaf.first + self.tree.geometry().leaf_keys();
            self.go_to(0);
        }
    }
}

/// Returns which of up to 64 words are not empty, a bit each; and whether all of 64 are full. No branch:
/// where they are set at random, each would be a surprise.
#[inline]
pub(super) fn summary(words: &[AtomicU64]) -> (u64, bool) {
    let (mut some, mut all) = (0, !0);
    for (i, word) in words.iter().take(64).enumerate() {
        // Relaxed: a first look.
        let word = word.load(Relaxed);
        some |= u64::from(word != 0) << i;
        all &= word;
    }
    (some, all == !0 && words.len() >= 64)
}

/// Every preserved folio: higher orders first, by address within an order. From
/// [`Tree::folios`].
#[derive(Clone, Debug)]
pub struct Folios<'a, T: ?Sized> {
    words: Words<'a, T>,
    word: Word,
}

impl<T: Tables + ?Sized> Iterator for Folios<'_, T> {
    type Item = Block;

    #[inline]
    fn next(&mut self) -> Option<Block> {
        if self.word.mask == 0 {
            self.word = self.words.next()?;
        }
        self.word.take()
    }

    fn fold<B, F: FnMut(B, Block) -> B>(self, init: B, mut f: F) -> B {
        let Self { words, mut word } = self;
        let mut all = init;
        let mut each = |word: &mut Word, mut all| {
            while let Some(block) = word.take() {
                all = f(all, block);
            }
            all
        };
        all = each(&mut word, all);
        for mut word in words {
            all = each(&mut word, all);
        }
        all
    }
}

/// Every preserved folio, those that lie side by side with the same order taken together, as
/// many as there are: higher orders first, by address within an order. From [`Tree::folio_ranges`].
///
/// Reads 64 folios at a time where all are preserved.
#[derive(Clone, Debug)]
pub struct FolioRanges<'a, T: ?Sized> {
    words: Words<'a, T>,
    word: Word,
}

impl<'a, T: Tables + ?Sized> FolioRanges<'a, T> {
    /// Returns those of `order`, from the one that holds frame `from` on: the first in a row.
    pub fn first_of(tree: &Tree<'a, T>, order: Order, from: Pfn) -> Option<FolioRange> {
        let start = Block::containing(from, order);
        let mut words = tree.words_from(Key::of(start).get());
        loop {
            let mut word = words.next()?;
            if word.order < order {
                return None;
            }
            if word.order == order {
                // Only the first word can hold folios from before `from`.
                let before = start.pfn().get().saturating_sub(word.first.get()) >> order.get();
                word.mask &= u32::try_from(before).map_or(0, |n| u64::MAX.unbounded_shl(n));
                if word.mask != 0 {
                    return Self { words, word }.next();
                }
            }
        }
    }
}

impl<T: Tables + ?Sized> Iterator for FolioRanges<'_, T> {
    type Item = FolioRange;

    #[inline]
    fn next(&mut self) -> Option<FolioRange> {
        if self.word.mask == 0 {
            self.word = self.words.next()?;
        }
        let bit = self.word.mask.trailing_zeros();
        let first = self.word.block(bit);
        let mut count = (self.word.mask >> bit).trailing_ones();
        let mut total = u64::from(count);
        if bit + count < 64 {
            self.word.mask &= !0 << (bit + count);
            return FolioRange::new(first, total);
        }
        // The row reaches the end of its word, and may go on in the next.
        let mut end = self.word.end();
        loop {
            let full = self.words.skip_full(Key::of(self.word.block(0)).get());
            total += full * 64;
            end += (full * 64) << first.order().get();
            self.word = self.words.next().unwrap_or(Word::NONE);
            if self.word.first.get() != end || self.word.order != first.order() {
                break;
            }
            count = self.word.mask.trailing_ones();
            total += u64::from(count);
            if count < 64 {
                self.word.mask &= !0 << count;
                break;
            }
            end = self.word.end();
        }
        FolioRange::new(first, total)
    }
}
