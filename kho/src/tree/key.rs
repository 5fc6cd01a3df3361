//! The tree's geometry, and the one number that names a block of any order.
//!
//! ```text
//! key of order o:   0 .. 0 1 | pfn >> o        the marker bit moves down as the order goes up
//! as a path:        [ root ][ table ] .. [ table ][ bit in the leaf ]
//! ```
//!
//! So each order has a stretch of keys for itself, higher orders before lower ones, and neighbours
//! of one order are neighbours as keys: 64 adjacent folios are one word of one leaf.
//!
//! The number does not depend on the page size, if frames and orders are those of the smallest pages: a block
//! has one key, and a tree of larger pages only ends with larger blocks. What depends on it is the path.
//!
//! The layout is that of Linux's KHO v4 (`include/linux/kho/abi/kexec_handover.h`,
//! `include/linux/kho_radix_tree.h`).

use core::fmt;

use crate::addr::{Block, Order, PAGE_SHIFT, PAGE_SIZE, Pfn};
use crate::narrow::{u8_to_u32, u32_to_u8, u32_to_usize, u64_to_usize, usize_to_u64};
use crate::page_size::PageSize;

/// The shape of a tree for one page size.
///
/// # Examples
/// ```
/// use heirloom_kho::tree::Geometry;
/// let g = Geometry::new(12);
/// assert_eq!((g.key_bits, g.table_log2, g.leaf_log2, g.levels), (53, 9, 15, 6));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bits of a key: one for each bit of an order-0 frame number, and the marker.
    pub key_bits: u32,
    /// log2 of the entries in a table.
    pub table_log2: u32,
    /// log2 of the bits in a leaf.
    pub leaf_log2: u32,
    /// Levels, leaves included. The root has level `levels - 1`, leaves have level 0.
    pub levels: u32,
}

impl Geometry {
    /// The tree of this build's page size.
    pub const BUILD: Self = Self::new(PAGE_SHIFT);

    /// Returns the tree for pages of `2^page_shift` bytes; `page_shift` is 12 to 16, and taken as
    /// the nearest of these.
    #[inline]
    pub const fn new(page_shift: u32) -> Self {
        let page_shift = match page_shift {
            0..12 => 12,
            12..=16 => page_shift,
            _ => 16,
        };
        let key_bits = u64::BITS - page_shift + 1;
        let table_log2 = page_shift - 3;
        let leaf_log2 = page_shift + 3;
        let levels = (key_bits - leaf_log2).div_ceil(table_log2) + 1;
        Self { key_bits, table_log2, leaf_log2, levels }
    }

    /// Returns the tree of a kernel with pages of this size.
    #[inline]
    pub(super) const fn of(page: PageSize) -> Self {
        Self::new(page.shift())
    }

    /// Returns how far to shift a key right to get its index at `level`.
    #[inline]
    pub const fn shift(self, level: u32) -> u32 {
        if level == 0 { 0 } else { self.leaf_log2 + (level - 1) * self.table_log2 }
    }

    /// Returns how many keys a leaf has.
    #[inline]
    pub(super) const fn leaf_keys(self) -> u64 {
        1 << self.leaf_log2
    }

    /// Returns one past the largest key.
    #[inline]
    pub(super) const fn key_limit(self) -> u64 {
        1 << self.key_bits
    }

    /// Returns the first key at or below `key` that a node of `level` starts with.
    #[inline]
    pub(super) const fn node_start(self, key: u64, level: u32) -> u64 {
        let bits = self.shift(level + 1);
        key >> bits << bits
    }

    /// Returns the entry at `level` on the way to `key`; at level 0 the bit in the leaf. 0 at a level that
    /// no node has.
    #[inline]
    pub(super) const fn index(self, key: Key, level: u32) -> usize {
        if level >= self.levels {
            return 0;
        }
        let bits = if level == 0 { self.leaf_log2 } else { self.table_log2 };
        u64_to_usize(key.get() >> self.shift(level)) & ((1 << bits) - 1)
    }
}

const G: Geometry = Geometry::BUILD;

/// Levels of this build's tree.
pub const LEVELS: usize = u32_to_usize(G.levels);
/// Orders that a key can name.
pub const ORDERS: usize = Order::MAX.index() + 1;
/// Words of a node.
pub const WORDS: usize = PAGE_SIZE / 8;
/// Keys in a leaf.
pub const LEAF_KEYS: u64 = G.leaf_keys();
/// One past the largest key.
pub const KEY_LIMIT: u64 = G.key_limit();
/// The marker's place in keys of order 0.
const TOP: u32 = G.key_bits - 1;

const _: () = assert!(G.shift(G.levels) < u64::BITS && G.shift(G.levels) >= G.key_bits);
const _: () = assert!(1 << G.table_log2 == WORDS && LEAF_KEYS == usize_to_u64(WORDS) * 64);
const _: () = assert!(TOP - u8_to_u32(Order::MAX.get()) == 1);

/// Returns the first key at or below `key` that a node of `level` starts with.
#[inline]
pub const fn node_start(key: u64, level: u32) -> u64 {
    G.node_start(key, level)
}

/// Returns the order that the keys from `key` to the next power of two belong to. `key` is at least
/// 2 and below [`KEY_LIMIT`]; any other gives some order.
#[inline]
pub(super) const fn order_of(key: u64) -> Order {
    let order = TOP.saturating_sub((key | 1).ilog2());
    match Order::new(u32_to_u8(order)) {
        Some(order) => order,
        None => Order::MAX,
    }
}

/// A block's name in the tree: its order and frame number in one number.
///
/// # Examples
/// ```
/// use heirloom_kho::tree::Key;
/// use heirloom_kho::{Block, Order, PAGE_SHIFT, Pfn};
/// let block = Block::new(Pfn::new(8), Order::new(3).unwrap()).unwrap();
/// let key = Key::of(block);
/// assert_eq!(key.get(), 1 << (64 - PAGE_SHIFT - 3) | 1);
/// assert_eq!(key.block(), Some(block));
/// assert_eq!(Key::new(0).block(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Key(u64);

impl Key {
    /// Returns the key of `block`.
    #[inline]
    pub const fn of(block: Block) -> Self {
        let order = u8_to_u32(block.order().get());
        Self(1 << (TOP - order) | block.pfn().get() >> order)
    }

    /// Returns the number `key` as a key, which need not name any block.
    pub const fn new(key: u64) -> Self {
        Self(key)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the block of this key; `None` if no order belongs to it.
    #[inline]
    pub const fn block(self) -> Option<Block> {
        if self.0 < 2 || self.0 >= KEY_LIMIT {
            return None;
        }
        let order = order_of(self.0);
        let pfn = (self.0 & !(1 << self.0.ilog2())) << order.get();
        Some(Block::aligned(Pfn::new(pfn), order))
    }

    /// Returns the entry at `level` on the way to this key; at level 0 the bit in the leaf. 0 at a
    /// level that no node has.
    #[inline]
    pub const fn index(self, level: u32) -> usize {
        G.index(self, level)
    }

    /// Returns the word of the leaf that holds this key, and the bit in it.
    #[inline]
    pub const fn bit(self) -> (usize, u64) {
        (self.index(0) / 64, 1 << (self.0 & 63))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:#x}", self.0)
    }
}

/// Folios of one order in a row, each a folio of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FolioRange {
    first: Block,
    count: u64,
}

impl FolioRange {
    /// Returns `count` folios, the first of which is `first`; `None` past the end of the address space.
    pub const fn new(first: Block, count: u64) -> Option<Self> {
        let order = first.order().get();
        let room = (Pfn::LIMIT.get() - first.pfn().get()) >> order;
        if count <= room { Some(Self { first, count }) } else { None }
    }

    /// Returns the first folio (that would be there, if there are none).
    pub const fn first(self) -> Block {
        self.first
    }

    /// Returns how many folios.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// Returns the frames of all of them.
    pub fn run(self) -> crate::addr::Run {
        let start = self.first.pfn();
        let frames = self.count << self.first.order().get();
        // `new` saw that they end within the address space.
        crate::addr::Run::new(start, frames).unwrap_or(self.first.run())
    }

    /// Returns the folios, one by one.
    pub fn blocks(self) -> impl Iterator<Item = Block> {
        let (first, order) = (self.first.pfn(), self.first.order());
        (0..self.count).map(move |i| Block::containing(first.add(i << order.get()), order))
    }

    /// Returns the folios' keys: the first and one past the last.
    pub const fn keys(self) -> (u64, u64) {
        let first = Key::of(self.first).get();
        (first, first + self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_is_linuxs_for_every_page_size() {
        let rows = [(12, 53, 9, 15, 6), (14, 51, 11, 17, 5), (16, 49, 13, 19, 4)];
        for (page_shift, key_bits, table_log2, leaf_log2, levels) in rows {
            let expected = Geometry { key_bits, table_log2, leaf_log2, levels };
            assert_eq!(Geometry::new(page_shift), expected);
            // What an order-0 leaf covers: 128 MiB, 2 GiB, 32 GiB.
            assert_eq!(1_u64 << (leaf_log2 + page_shift), (128 << 20) << (2 * (page_shift - 12)));
        }
    }

    #[test]
    fn every_order_comes_back_from_its_key() {
        for o in 0..=Order::MAX.get() {
            let order = Order::new(o).unwrap();
            let last = Pfn::new(Pfn::LIMIT.get() - order.frames());
            for pfn in [Pfn::new(0), Pfn::new(order.frames()), last] {
                let block = Block::new(pfn, order).unwrap();
                let key = Key::of(block);
                assert!(key.get() < KEY_LIMIT);
                assert_eq!(key.block(), Some(block));
                assert_eq!(order_of(key.get()), order);
            }
        }
    }

    #[test]
    fn numbers_without_an_order_are_no_blocks() {
        for key in [0, 1, KEY_LIMIT, KEY_LIMIT + 1, u64::MAX] {
            assert_eq!(Key::new(key).block(), None, "{key:#x}");
        }
        assert_eq!(Key::new(2).block().unwrap().order(), Order::MAX);
        assert_eq!(Key::new(KEY_LIMIT - 1).block().unwrap().order(), Order::ZERO);
    }

    #[test]
    fn the_indices_put_together_are_the_key() {
        let key = Key::of(Block::containing(Pfn::new(0xdead_beef_1234), Order::ZERO));
        let mut sum = 0;
        for level in 0..G.levels {
            sum |= (key.index(level) as u64) << G.shift(level);
        }
        assert_eq!(sum, key.get());
        let (word, bit) = key.bit();
        assert_eq!(word * 64 + bit.trailing_zeros() as usize, key.index(0));
    }

    #[test]
    fn adjacent_folios_stay_in_the_address_space() {
        let order = Order::new(4).unwrap();
        let last = Block::new(Pfn::new(Pfn::LIMIT.get() - 16), order).unwrap();
        assert!(FolioRange::new(last, 2).is_none());
        let one = FolioRange::new(last, 1).unwrap();
        assert_eq!(one.run(), last.run());
        assert_eq!(one.keys().1 - one.keys().0, 1);
    }
}
