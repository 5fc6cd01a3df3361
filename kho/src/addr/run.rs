//! Blocks, and frames in a row, which are made of them.

use core::fmt;

use super::{Order, PAGE_BYTES, PAGE_SHIFT, Pfn, PhysAddr};
use crate::narrow::u32_to_u8;

/// `2^order` frames that start at a multiple of `2^order`: what a folio occupies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block {
    pfn: Pfn,
    order: Order,
}

impl Block {
    /// Returns the block of `order` at `pfn`, if `pfn` is aligned to it and it ends below
    /// [`Pfn::LIMIT`].
    #[inline]
    pub const fn new(pfn: Pfn, order: Order) -> Option<Self> {
        if pfn.is_aligned(order) && pfn.0 < Pfn::LIMIT.0 { Some(Self { pfn, order }) } else { None }
    }

    /// Returns the block of `order` at `pfn`, which is known to be one.
    #[inline]
    pub const fn aligned(pfn: Pfn, order: Order) -> Self {
        debug_assert!(pfn.is_aligned(order) && pfn.0 < Pfn::LIMIT.0);
        Self { pfn, order }
    }

    /// Returns the aligned block of `order` that holds `pfn`; from [`Pfn::LIMIT`] on, where no
    /// block is, the last one.
    #[inline]
    pub const fn containing(pfn: Pfn, order: Order) -> Self {
        let last = Pfn::LIMIT.0 - 1;
        let pfn = if pfn.0 > last { Pfn(last) } else { pfn };
        Self { pfn: pfn.align_down(order), order }
    }

    /// Returns the first frame.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        self.pfn
    }

    /// Returns the order.
    #[inline]
    pub const fn order(self) -> Order {
        self.order
    }

    /// Returns the address of the first byte.
    #[inline]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr(self.pfn.0 << PAGE_SHIFT)
    }

    /// Returns the block as a run.
    #[inline]
    pub const fn run(self) -> Run {
        Run { start: self.pfn, frames: self.order.frames() }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.order, self.addr())
    }
}

/// Frames in a row: the first and how many. May be empty.
///
/// # Examples
/// ```
/// use heirloom_kho::{Order, Pfn, Run};
/// // Five frames from frame 3: the largest aligned blocks are 1 + 4 frames.
/// let orders: Vec<u8> = Run::new(Pfn::new(3), 5).unwrap().blocks().map(|b| b.order().get()).collect();
/// assert_eq!(orders, [0, 2]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Run {
    start: Pfn,
    frames: u64,
}

impl Run {
    /// `frames` frames from `start`, if they end at or below [`Pfn::LIMIT`].
    #[inline]
    pub const fn new(start: Pfn, frames: u64) -> Option<Self> {
        match start.0.checked_add(frames) {
            Some(end) if end <= Pfn::LIMIT.0 => Some(Self { start, frames }),
            _ => None,
        }
    }

    /// Returns the frames from `start` up to, not including, `end`; `None` if `end` lies before
    /// `start`.
    #[inline]
    pub const fn between(start: Pfn, end: Pfn) -> Option<Self> {
        match end.0.checked_sub(start.0) {
            Some(frames) => Self::new(start, frames),
            None => None,
        }
    }

    /// Returns the frames that hold `bytes` bytes from `addr`; `None` past the end of the address
    /// space.
    #[inline]
    pub const fn covering(addr: PhysAddr, bytes: u64) -> Option<Self> {
        let Some(end) = addr.checked_add(bytes) else { return None };
        let last = end.0.div_ceil(PAGE_BYTES);
        Self::between(addr.pfn(), Pfn(last))
    }

    /// Returns the first frame.
    #[inline]
    pub const fn start(self) -> Pfn {
        self.start
    }

    /// Returns the frame after the last.
    #[inline]
    pub const fn end(self) -> Pfn {
        // At most the limit: no run is made that ends beyond it.
        Pfn(self.start.0 + self.frames)
    }

    /// Returns how many frames.
    #[inline]
    pub const fn frames(self) -> u64 {
        self.frames
    }

    /// Returns how many bytes; one less for all frames that there can be, which have 2^64.
    #[inline]
    pub const fn bytes(self) -> u64 {
        if self.frames < Pfn::LIMIT.0 { self.frames << PAGE_SHIFT } else { u64::MAX }
    }

    /// Returns whether there is no frame in it.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.frames == 0
    }

    /// Returns the address of the first byte; the last address for one that starts at
    /// [`Pfn::LIMIT`], which has none.
    #[inline]
    pub const fn addr(self) -> PhysAddr {
        self.start.addr()
    }

    /// Returns whether `pfn` is one of the frames.
    #[inline]
    pub const fn contains(self, pfn: Pfn) -> bool {
        // A frame before the start wraps round to far beyond the end.
        pfn.0.wrapping_sub(self.start.0) < self.frames
    }

    /// Returns whether every frame of `other` is in this run.
    #[inline]
    pub const fn covers(self, other: Self) -> bool {
        other.start.0 >= self.start.0 && other.end().0 <= self.end().0
    }

    /// Returns whether the two share a frame.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        self.common(other) > 0
    }

    /// Returns how many frames the two share.
    #[inline]
    pub const fn common(self, other: Self) -> u64 {
        let start = if self.start.0 > other.start.0 { self.start.0 } else { other.start.0 };
        let end = if self.end().0 < other.end().0 { self.end().0 } else { other.end().0 };
        end.saturating_sub(start)
    }

    /// Returns the block that these frames are; `None` unless they are a power of two, aligned to their
    /// own size.
    #[inline]
    pub const fn as_block(self) -> Option<Block> {
        match Order::for_frames(self.frames) {
            Some(order) if order.frames() == self.frames => Block::new(self.start, order),
            _ => None,
        }
    }

    /// Returns the few largest aligned blocks that make up the run, in address order.
    ///
    /// Greedy, as Linux decomposes a range: the order is the alignment of what is left or the
    /// log2 of its length, whichever is less.
    #[inline]
    pub const fn blocks(self) -> Blocks {
        self.blocks_up_to(Order::MAX)
    }

    /// Like [`Run::blocks`], with no block above `limit`.
    #[inline]
    pub const fn blocks_up_to(self, limit: Order) -> Blocks {
        Blocks { rest: self, limit }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames at {}", self.frames, self.addr())
    }
}

/// The blocks of a run, from [`Run::blocks`].
#[derive(Clone, Debug)]
pub struct Blocks {
    rest: Run,
    limit: Order,
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if self.rest.is_empty() {
            return None;
        }
        let aligned = self.rest.start.0.trailing_zeros();
        let fits = self.rest.frames.ilog2();
        let order = Order(u32_to_u8(aligned.min(fits).min(u32::from(self.limit.0))));
        let block = Block { pfn: self.rest.start, order };
        self.rest = Run {
            start: Pfn(self.rest.start.0 + order.frames()),
            frames: self.rest.frames - order.frames(),
        };
        Some(block)
    }
}

/// The same blocks, from the last: there is one way to make up a run of its largest.
impl DoubleEndedIterator for Blocks {
    fn next_back(&mut self) -> Option<Block> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.end().0;
        let fits = self.rest.frames.ilog2();
        let order = Order(u32_to_u8(end.trailing_zeros().min(fits).min(u32::from(self.limit.0))));
        self.rest.frames -= order.frames();
        Some(Block { pfn: self.rest.end(), order })
    }
}

impl core::iter::FusedIterator for Blocks {}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn run(start: u64, frames: u64) -> Run {
        Run::new(Pfn::new(start), frames).unwrap()
    }

    #[test]
    fn blocks_tile_the_run_and_are_aligned() {
        for start in 0..70 {
            for frames in 0..140 {
                let run = run(start, frames);
                let mut at = run.start();
                for b in run.blocks() {
                    assert_eq!(b.pfn(), at);
                    assert!(b.pfn().is_aligned(b.order()));
                    at = at.add(b.order().frames());
                }
                assert_eq!(at, run.end());
            }
        }
    }

    #[test]
    fn blocks_are_the_same_from_the_last_and_from_both_ends() {
        let limits = [Order::new(2).unwrap(), Order::MAX];
        for (start, frames) in (0..70).flat_map(|start| (0..140).map(move |n| (start, n))) {
            let whole: Vec<_> = run(start, frames).blocks().collect();
            let one = if let [one] = whole[..] { Some(one) } else { None };
            assert_eq!(run(start, frames).as_block(), one);
            for limit in limits {
                let blocks = run(start, frames).blocks_up_to(limit);
                let forth: Vec<_> = blocks.clone().collect();
                let mut back: Vec<_> = blocks.clone().rev().collect();
                back.reverse();
                assert_eq!(back, forth);
                let (mut rest, mut ends) = (blocks, (Vec::new(), Vec::new()));
                while let Some(first) = rest.next() {
                    ends.0.push(first);
                    ends.1.extend(rest.next_back());
                }
                ends.0.extend(ends.1.into_iter().rev());
                assert_eq!(ends.0, forth);
            }
        }
        let top = Run::new(Pfn::new(Pfn::LIMIT.get() - 5), 5).unwrap();
        let orders: Vec<_> = top.blocks().rev().map(|b| b.order().get()).collect();
        assert_eq!(orders, [2, 0]);
    }

    #[test]
    fn blocks_respect_the_limit() {
        let limit = Order::new(2).unwrap();
        let orders: Vec<_> = run(0, 17).blocks_up_to(limit).map(|b| b.order().get()).collect();
        assert_eq!(orders, [2, 2, 2, 2, 0]);
    }

    #[test]
    fn nothing_reaches_past_the_last_frame() {
        assert!(Run::new(Pfn::LIMIT, 0).is_some());
        assert!(Run::new(Pfn::LIMIT, 1).is_none());
        assert!(Run::new(Pfn::new(u64::MAX), 2).is_none());
        assert!(Block::new(Pfn::LIMIT, Order::ZERO).is_none());
        assert_eq!(Order::for_frames(u64::MAX), None);
        assert_eq!(Order::for_frames(0), None);
        let top = PhysAddr::new(u64::MAX);
        assert!(Run::covering(top, 2).is_none());
    }

    #[test]
    fn overlap_and_cover() {
        assert!(run(0, 4).overlaps(run(3, 1)));
        assert!(!run(0, 4).overlaps(run(4, 1)));
        assert_eq!(run(0, 4).common(run(2, 9)), 2);
        assert_eq!(run(9, 4).common(run(2, 3)), 0);
        assert!(!run(5, 0).overlaps(run(0, 9)));
        assert!(run(0, 4).covers(run(1, 3)));
        assert!(!run(1, 3).covers(run(0, 4)));
    }
}
