//! The units of physical memory: addresses, frame numbers, orders, and stretches of frames.
//!
//! A *frame* is one page of physical memory. A *block* of order `o` is `2^o` frames that start at
//! a multiple of `2^o`; a *run* is any number of frames in a row. Every unit is a type of its own,
//! so a frame number cannot be passed where an address is meant, and the page size stands in one
//! place: [`PAGE_SHIFT`].

mod run;

use core::fmt;

use crate::narrow::{u8_to_u32, u8_to_usize, u32_to_u8, u64_to_usize};

pub use run::{Block, Blocks, Run};

/// log2 of the page size: 12, 14 or 16.
///
/// 4 KiB unless built with `--cfg heirloom_page="16k"` or `"64k"`. Everything else, the tracker's
/// geometry included, follows from this constant.
pub const PAGE_SHIFT: u32 = if cfg!(heirloom_page = "16k") {
    14
} else if cfg!(heirloom_page = "64k") {
    16
} else {
    12
};

/// Bytes in one frame.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// Bytes in one frame, as addresses are counted.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// An address in physical memory, in bytes.
///
/// # Examples
/// ```
/// use heirloom_kho::{PhysAddr, PAGE_SIZE};
/// let a = PhysAddr::new(3 * PAGE_SIZE as u64 + 5);
/// assert_eq!(a.pfn().get(), 3);
/// assert_eq!(a.offset_in_page(), 5);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Returns the address `bytes` above physical zero.
    #[inline]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the number of bytes above physical zero.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the frame that holds this address.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Returns the number of bytes from the start of the frame.
    #[inline]
    pub const fn offset_in_page(self) -> usize {
        u64_to_usize(self.0 & (PAGE_BYTES - 1))
    }

    /// Returns whether the address is the first of a frame.
    #[inline]
    pub const fn is_page_aligned(self) -> bool {
        self.offset_in_page() == 0
    }

    /// `bytes` further, or `None` past the end of the 64-bit space.
    #[inline]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(a) => Some(Self(a)),
            None => None,
        }
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number of a frame: its address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// One past the highest frame number that a 64-bit physical address can name.
    pub const LIMIT: Self = Self(1 << (u64::BITS - PAGE_SHIFT));

    /// Returns the frame with number `n`.
    #[inline]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// Returns the frame's number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the address of the frame's first byte; from [`Pfn::LIMIT`] on, where there is none,
    /// the last address.
    #[inline]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr(if self.0 < Self::LIMIT.0 { self.0 << PAGE_SHIFT } else { u64::MAX })
    }

    /// Returns the frame `frames` further on, saturating.
    #[must_use]
    pub const fn add(self, frames: u64) -> Self {
        Self(self.0.saturating_add(frames))
    }

    /// Returns the first frame of the aligned block of `order` that holds this frame.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.frames() - 1))
    }

    /// Returns whether a block of `order` can start here.
    #[inline]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.frames() - 1) == 0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// The size of a block as a power of two: `2^order` frames.
///
/// Folios have orders 0 to [`Order::MAX_FOLIO`]; the tracker keeps larger blocks whole, up to
/// [`Order::MAX`].
///
/// # Examples
/// ```
/// use heirloom_kho::Order;
/// let o = Order::new(3).unwrap();
/// assert_eq!(o.frames(), 8);
/// assert_eq!(Order::for_frames(5), Some(o));
/// assert_eq!(Order::new(64), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Order(u8);

impl Order {
    /// A single frame.
    pub const ZERO: Self = Self(0);
    /// The largest folio: 2^18 frames, 1 GiB of 4 KiB frames.
    pub const MAX_FOLIO: Self = Self(18);
    /// The largest block that a tracker key can name.
    pub const MAX: Self = Self(u32_to_u8(u64::BITS - PAGE_SHIFT - 1));

    /// Returns the order `n`, if it is at most [`Order::MAX`].
    #[inline]
    pub const fn new(n: u8) -> Option<Self> {
        if n <= Self::MAX.0 { Some(Self(n)) } else { None }
    }

    /// Returns the exponent.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the exponent as an index.
    #[inline]
    pub const fn index(self) -> usize {
        u8_to_usize(self.0)
    }

    /// Returns the number of frames in a block of this order.
    #[inline]
    pub const fn frames(self) -> u64 {
        1 << self.0
    }

    /// Returns the number of bytes in a block of this order.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << (u8_to_u32(self.0) + PAGE_SHIFT)
    }

    /// Returns the smallest order whose block holds `frames` frames; `None` for 0 or too many.
    #[inline]
    pub const fn for_frames(frames: u64) -> Option<Self> {
        if frames == 0 {
            return None;
        }
        let log2 = u64::BITS - (frames - 1).leading_zeros();
        if log2 > u8_to_u32(Self::MAX.0) { None } else { Some(Self(u32_to_u8(log2))) }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}
