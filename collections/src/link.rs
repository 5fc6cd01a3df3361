//! The eight bytes by which one object of a container leads to another.
//!
//! ```text
//!  63     55 54    48 47                                  0
//!  |  tag   | class  |  physical address, in units of 16   |      0: none
//! ```
//!
//! One store replaces a link, and it is good wherever the memory is mapped. It says where an object is and which cache it is of;
//! whose it is, and how long, the object says itself.

use heirloom_kho::PhysAddr;

use crate::class::Class;

/// Bytes of a unit of addresses.
pub const UNIT: u64 = 16;
const ADDR_BITS: u32 = 48;
const CLASS_BITS: u32 = 7;
const ADDR_MASK: u64 = (1 << ADDR_BITS) - 1;
const TAG_SHIFT: u32 = ADDR_BITS + CLASS_BITS;
/// Bits of a tag: the high ones of a hash.
pub(crate) const TAG_BITS: u32 = u64::BITS - TAG_SHIFT;

/// Where an object is, and which cache it is of. Any number can be looked at as one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link(u64);

impl Link {
    /// Leads to nothing.
    pub(crate) const NONE: Self = Self(0);

    /// Returns the link to an object; [`Link::NONE`] if the address is none that an object of a class has.
    #[inline]
    pub(crate) fn new(addr: PhysAddr, class: Class) -> Self {
        let unit = addr.get() / UNIT;
        if unit > ADDR_MASK || !addr.get().is_multiple_of(UNIT) {
            return Self::NONE;
        }
        Self(u64::from(class.number()) << ADDR_BITS | unit)
    }

    /// Returns what a word holds.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the word for it.
    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Returns whether it leads to nothing.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns the link with the tag of a hash: its nine high bits.
    #[inline]
    pub(crate) const fn tagged(self, hash: u64) -> Self {
        Self(self.0 & ((1 << TAG_SHIFT) - 1) | hash >> TAG_SHIFT << TAG_SHIFT)
    }

    /// Returns the tag.
    #[inline]
    pub(crate) const fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    /// Returns whether it has the tag of a hash.
    #[inline]
    pub(crate) const fn has_tag(self, hash: u64) -> bool {
        (self.0 ^ hash) >> TAG_SHIFT == 0
    }

    /// Returns whether both lead to one object, whatever their tags.
    #[inline]
    pub const fn same_object(self, other: Self) -> bool {
        (self.0 ^ other.0) << (u64::BITS - TAG_SHIFT) == 0
    }

    /// Returns where the object is that it leads to.
    #[inline]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr::new((self.0 & ADDR_MASK) * UNIT)
    }

    /// Returns the class; `None` if there is none of this number.
    #[inline]
    pub(crate) fn class(self) -> Option<Class> {
        Class::of_number(heirloom_kho::narrow::low_u8(self.0 >> ADDR_BITS & 0x7f))
    }

    /// Returns the bytes of an object of its class.
    pub(crate) fn bytes(self) -> usize {
        self.class().map_or(0, Class::bytes)
    }
}
