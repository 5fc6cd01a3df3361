//! The size of the pages of the kernel that left what is read.
//!
//! Frames, orders and runs are this build's: a page of a kernel with larger pages is a [`Block`] of
//! several of them. So one tool reads what kernels of any page size left, and what it says of memory
//! is right in frames; a kernel, which reads only what one of its own page size left, has a constant
//! here.

use core::fmt;

use crate::addr::{Block, Order, PAGE_SHIFT, Pfn, PhysAddr, Run};
use crate::narrow::{u8_to_u32, u32_to_u8, usize_to_u64};

/// The size of a page, as a reader is told it: a power of two from this build's page size to 64 KiB.
///
/// # Examples
/// ```
/// use heirloom_kho::{PAGE_SIZE, PageSize, Pfn};
/// let large = PageSize::new(65536).unwrap();
/// assert_eq!(large.order().frames() * PAGE_SIZE as u64, 65536);
/// assert_eq!(large.page_of(Pfn::new(33)).run().bytes(), 65536);
/// assert_eq!(PageSize::BUILD.bytes(), PAGE_SIZE);
/// assert_eq!(PageSize::new(PAGE_SIZE as u64 + 1), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u8);

impl PageSize {
    /// This build's page size.
    pub const BUILD: Self = Self(u32_to_u8(PAGE_SHIFT));
    /// The largest.
    pub const MAX: Self = Self(16);

    /// Returns the page size of `bytes` bytes; `None` if it is no power of two, less than this build's,
    /// or more than 64 KiB.
    pub const fn new(bytes: u64) -> Option<Self> {
        let shift = bytes.trailing_zeros();
        if bytes.is_power_of_two() && shift >= PAGE_SHIFT && shift <= Self::MAX.shift() {
            Some(Self(u32_to_u8(shift)))
        } else {
            None
        }
    }

    /// Returns log2 of the bytes.
    #[inline]
    pub const fn shift(self) -> u32 {
        u8_to_u32(self.0)
    }

    /// Returns the bytes of a page.
    #[inline]
    pub const fn bytes(self) -> usize {
        1 << self.0
    }

    /// Returns the order of a page, in frames of this build: 0 for [`PageSize::BUILD`].
    #[inline]
    pub const fn order(self) -> Order {
        match Order::new(self.0 - Self::BUILD.0) {
            Some(order) => order,
            None => Order::ZERO,
        }
    }

    /// Returns the order, in frames of this build, of a block of `2^pages` pages; `None` if no block can
    /// be so large.
    #[inline]
    pub const fn order_of(self, pages: u8) -> Option<Order> {
        match pages.checked_add(self.order().get()) {
            Some(order) => Order::new(order),
            None => None,
        }
    }

    /// Returns the largest exponent that [`PageSize::order_of`] takes.
    pub const fn max_order(self) -> u8 {
        Order::MAX.get() - self.order().get()
    }

    /// Returns `frames` frames of this build as pages, a part of one as a whole one.
    #[inline]
    pub const fn pages(self, frames: u64) -> u64 {
        frames.div_ceil(self.order().frames())
    }

    /// Returns the page that frame `pfn` lies in.
    #[inline]
    pub const fn page_of(self, pfn: Pfn) -> Block {
        Block::containing(pfn, self.order())
    }

    /// Returns whether a page can start at `addr`.
    #[inline]
    pub const fn is_aligned(self, addr: PhysAddr) -> bool {
        addr.get() & (usize_to_u64(self.bytes()) - 1) == 0
    }

    /// Returns the frames of all pages in which `bytes` bytes at `addr` lie; `None` past the end of the
    /// address space.
    #[inline]
    pub const fn covering(self, addr: PhysAddr, bytes: u64) -> Option<Run> {
        let Some(run) = Run::covering(addr, bytes) else { return None };
        if self.0 == Self::BUILD.0 {
            return Some(run);
        }
        let Some(end) = run.end().get().checked_next_multiple_of(self.order().frames()) else {
            return None;
        };
        Run::between(run.start().align_down(self.order()), Pfn::new(end))
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.bytes() >> 10)
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages of {self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_is_a_power_of_two_that_frames_make_up() {
        for shift in 0..64 {
            let size = PageSize::new(1 << shift);
            assert_eq!(size.is_some(), (PAGE_SHIFT..=16).contains(&shift), "{shift}");
        }
        for bytes in [0, 1, 3 << 12, 5 << 14, u64::MAX] {
            assert_eq!(PageSize::new(bytes), None);
        }
    }

    #[test]
    fn orders_of_pages_reach_as_far_as_blocks_do() {
        for shift in PAGE_SHIFT..=16 {
            let size = PageSize::new(1 << shift).unwrap();
            assert_eq!(size.order_of(0), Some(size.order()));
            assert_eq!(size.order_of(size.max_order()), Some(Order::MAX));
            assert_eq!(size.order_of(size.max_order() + 1), None);
            assert_eq!(size.order_of(u8::MAX), None);
            assert_eq!(u32::from(size.max_order()), 63 - shift);
        }
    }

    #[test]
    fn what_bytes_lie_in_is_whole_pages() {
        let size = PageSize::MAX;
        let frames = size.order().frames();
        let page = size.bytes() as u64;
        let covering = |addr, bytes| size.covering(PhysAddr::new(addr), bytes);
        assert_eq!(covering(page + 8, 8), Run::new(Pfn::new(frames), frames));
        assert_eq!(covering(2 * page - 1, 2), Run::new(Pfn::new(frames), 2 * frames));
        assert_eq!(covering(page, 0).map(Run::frames), Some(0));
        assert_eq!(covering(u64::MAX, 2), None);
        assert_eq!(covering(page.wrapping_neg(), page), None);
        assert_eq!(covering(page.wrapping_neg(), page - 1).map(Run::end), Some(Pfn::LIMIT));
        assert_eq!(PageSize::BUILD.covering(PhysAddr::new(8), 8), Run::new(Pfn::new(0), 1));
    }
}
