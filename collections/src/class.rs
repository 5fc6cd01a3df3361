//! The sizes of objects that containers are made of: a cache for each.
//!
//! ```text
//!   1  a segment of a map's buckets      2  a page of a directory      3 …  32 48 64 … 256 │ 288 320 … 512 │ 576 … up to 512 KiB
//! ```
//!
//! Steps of 16 bytes first, then eight to each doubling: at most an eighth of an object above 128 bytes is not asked for.

use core::fmt::Write;

use heirloom_kho::narrow::{u8_to_usize, u32_to_u8, u32_to_usize, usize_to_u32};
use heirloom_slab::internal::Text;
use heirloom_slab::{CacheSpec, MAX_OBJECT};

/// What the names of all caches of containers begin with.
pub const PREFIX: &str = "collections-";
/// Bytes of a segment of buckets: a quarter of a slab of 64 KiB.
pub const SEGMENT_BYTES: usize = 64 * 255;
/// Bytes of a page of a directory: an eighth of one.
pub(crate) const DIRECTORY_BYTES: usize = 8160;

const FIRST: u8 = 3;
const SMALLEST: usize = 32;
const EVEN_SHIFT: u32 = 8;
const EVEN: usize = ((1 << EVEN_SHIFT) - SMALLEST) / 16 + 1;
/// How many numbers there are, the one that no class has among them.
pub(crate) const COUNT: usize =
    u8_to_usize(FIRST) + EVEN + 8 * u32_to_usize(MAX_OBJECT.ilog2() - EVEN_SHIFT);

const _: () = assert!(COUNT <= 128, "a link has seven bits for a class");

/// A size of objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Class(u8);

impl Class {
    pub(crate) const SEGMENT: Self = Self(1);
    pub(crate) const DIRECTORY: Self = Self(2);

    /// Returns the smallest class for so many bytes; `None`: there is none so large.
    #[inline]
    pub(crate) const fn fitting(bytes: usize) -> Option<Self> {
        if bytes > MAX_OBJECT {
            return None;
        }
        let index = if bytes <= 1 << EVEN_SHIFT {
            bytes.saturating_sub(SMALLEST).div_ceil(16)
        } else {
            let log2 = (bytes - 1).ilog2();
            let eighth = (bytes - 1 - (1 << log2)) >> (log2 - 3);
            EVEN + 8 * u32_to_usize(log2 - EVEN_SHIFT) + eighth
        };
        Some(Self(FIRST + u32_to_u8(usize_to_u32(index))))
    }

    /// Returns the class of a number.
    #[inline]
    pub(crate) const fn of_number(number: u8) -> Option<Self> {
        if number == 0 || u8_to_usize(number) >= COUNT { None } else { Some(Self(number)) }
    }

    #[inline]
    pub(crate) const fn number(self) -> u8 {
        self.0
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        u8_to_usize(self.0)
    }

    /// Returns the bytes of an object.
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::SEGMENT => SEGMENT_BYTES,
            Self::DIRECTORY => DIRECTORY_BYTES,
            Self(number) => {
                let index = u8_to_usize(number - FIRST);
                if index < EVEN {
                    return SMALLEST + 16 * index;
                }
                let above = index - EVEN;
                (9 + above % 8) << (EVEN_SHIFT - 3 + usize_to_u32(above / 8))
            }
        }
    }

    /// Returns the class whose cache has this name, and objects of this size.
    pub(crate) fn of_spec(name: &str, bytes: usize) -> Option<Self> {
        let classes = [Some(Self::SEGMENT), Some(Self::DIRECTORY), Self::fitting(bytes)];
        let class = classes.into_iter().flatten().find(|class| class.bytes() == bytes)?;
        (class.name().as_str() == name).then_some(class)
    }

    fn name(self) -> Text {
        let mut name = Text::default();
        // As many digits as `MAX_OBJECT` has always fit.
        let _ = write!(name, "{PREFIX}{}", self.bytes());
        name
    }

    /// Returns what the class's cache is like.
    pub(crate) fn spec(self) -> CacheSpec {
        let name = self.name();
        let align = if self == Self::SEGMENT { 64 } else { 16 };
        CacheSpec::new(name.as_str(), self.bytes())
            .align(align)
            .preserving(true)
            .fingerprint(FINGERPRINT)
    }
}

/// What tells these caches from others of the same name: their objects begin with the words of `object.rs`. No typed cache has it:
/// its owners would write to what a container leads to.
const FINGERPRINT: u64 = heirloom_slab::internal::OWNED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_class_that_fits_is_taken() {
        let mut before = 0;
        for number in FIRST..u32_to_u8(usize_to_u32(COUNT)) {
            let class = Class::of_number(number).unwrap();
            assert!(class.bytes() > before && class.bytes().is_multiple_of(16));
            assert_eq!(Class::fitting(before + 1), Some(class));
            assert_eq!(Class::fitting(class.bytes()), Some(class));
            before = class.bytes();
        }
        assert_eq!(before, MAX_OBJECT);
        assert_eq!(Class::fitting(MAX_OBJECT + 1), None);
    }
}
