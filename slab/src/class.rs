//! Size classes: which cache a small buffer comes from.
//!
//! ```text
//! 8 │ 16 32 48 … 128 │ 160 192 224 256 │ 320 384 448 512 │ … up to less than a page
//! ```
//!
//! Steps of 16 bytes first, then four to each doubling: at most a fifth of a buffer above 64 bytes
//! is not asked for. A class's objects are as aligned as its size allows. Every class has two
//! caches, one of them preserving, which are created when they are first needed: without a lock, as
//! an interrupt handler may need them first. No caller's cache has their names, and their slabs
//! always lie as this build lays them out; what a predecessor left otherwise is adopted into a
//! cache beside them.

use core::alloc::Layout;
use core::fmt::Write;

use heirloom_kho::narrow::{u8_to_usize, u32_to_u8, u32_to_usize, usize_to_u32};
use heirloom_kho::{PAGE_SHIFT, PAGE_SIZE};

use crate::geometry::{BASE_ORDER, Geometry};
use crate::header::SlabDesc;
use crate::spec::{CacheSpec, PREFIXES};
use crate::text::Text;

/// Classes up to 128 bytes.
const EVEN: usize = 9;
/// log2 of the largest of them.
const EVEN_SHIFT: u32 = 7;
/// Classes in all: four to a doubling, without the one of a whole page.
const COUNT: usize = EVEN + 4 * u32_to_usize(PAGE_SHIFT - EVEN_SHIFT) - 1;

/// How many caches the classes have: two each.
pub(crate) const CACHES: usize = 2 * COUNT;

/// Whether all slabs of size classes that lie as this build lays them out are of [`BASE_ORDER`], so that a slab's cache
/// tells it: with small pages, whose largest class is small too.
pub(crate) const ALL_IN_BASE: bool = {
    let (mut all, mut class) = (true, 0);
    while class < COUNT {
        let bytes = Class(class).bytes();
        let align = 1 << bytes.trailing_zeros();
        all &= match Geometry::choose(bytes, align, cfg!(feature = "debug")) {
            Some(geometry) => geometry.order.get() == BASE_ORDER.get(),
            None => false,
        };
        class += 1;
    }
    all
};

const _: () = assert!(ALL_IN_BASE || PAGE_SIZE > 4096, "a small class's slabs are small");

/// Bytes of the largest class.
const LARGEST: usize = Class(COUNT - 1).bytes();

/// The class of each size, by multiples of eight bytes.
static FITTING: [u8; LARGEST / 8] = {
    let mut table = [0; LARGEST / 8];
    let mut i = 0;
    while i < table.len() {
        table[i] = u32_to_u8(usize_to_u32(Class::fitting((i + 1) * 8).0));
        i += 1;
    }
    table
};

/// A size class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Class(usize);

impl Class {
    /// Returns the smallest class for a buffer; `None`: it is large (or empty).
    #[inline]
    pub(crate) const fn of(layout: Layout) -> Option<Self> {
        // The last byte of what is a multiple of the alignment; of no bytes it is far beyond. The
        // smallest class of at least a multiple of a power of two is one itself: either the steps
        // are there, or they are finer and that multiple is a class.
        let last = layout.size().wrapping_sub(1) | (layout.align() - 1);
        if last >= LARGEST {
            return None;
        }
        Some(Self(u8_to_usize(FITTING[last / 8])))
    }

    /// Returns the smallest class of at least `size` bytes, 1 up to less than a page.
    #[inline]
    const fn fitting(size: usize) -> Self {
        if size <= 8 {
            return Self(0);
        }
        if size <= 1 << EVEN_SHIFT {
            return Self(size.div_ceil(16));
        }
        let log2 = (size - 1).ilog2();
        let quarter = (size - 1) >> (log2 - 2);
        Self(EVEN + 4 * u32_to_usize(log2 - EVEN_SHIFT) + quarter - 4)
    }

    /// Returns the number of one of its two caches: below [`CACHES`].
    #[inline]
    pub(crate) const fn number(self, preserving: bool) -> usize {
        2 * self.0 + if preserving { 1 } else { 0 }
    }

    /// Returns the bytes of an object.
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        match self.0 {
            0 => 8,
            1..EVEN => self.0 * 16,
            _ => {
                let above = self.0 - EVEN;
                (above % 4 + 5) << (u32_to_usize(EVEN_SHIFT) - 2 + above / 4)
            }
        }
    }

    /// Returns what the class's cache is like.
    pub(crate) fn spec(self, preserving: bool) -> CacheSpec {
        let bytes = self.bytes();
        let mut name = Text::default();
        // As many digits as a number below a page has always fit.
        let [plain, preserved] = PREFIXES;
        let _ = write!(name, "{}{bytes}", if preserving { preserved } else { plain });
        let align = 1 << bytes.trailing_zeros();
        CacheSpec::new(name.as_str(), bytes).align(align).preserving(preserving)
    }
}

/// Returns the class whose objects a slab of this description and geometry holds, and whether its
/// cache is the preserving one. The slab may lie otherwise than those of this build.
pub(crate) fn class_of(desc: &SlabDesc, geometry: &Geometry) -> Option<(Class, bool)> {
    let size = u32_to_usize(geometry.size);
    let class = Some(size).filter(|size| *size < PAGE_SIZE).map(Class::fitting)?;
    let preserving = desc.is_preserving();
    (class.bytes() == size && class.spec(preserving).name == desc.name())
        .then_some((class, preserving))
}

impl Class {
    /// Returns whether slabs so described lie as those of the class do in this build.
    pub(crate) fn lays_out(self, desc: &SlabDesc) -> bool {
        let spec = self.spec(desc.is_preserving());
        let ours = spec.geometry().map(|(name, geometry)| {
            SlabDesc::new(name, &geometry, desc.is_preserving(), spec.layout())
        });
        ours.is_ok_and(|ours| ours == *desc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::is_reserved;

    fn class(size: usize, align: usize) -> Option<usize> {
        Class::of(Layout::from_size_align(size, align).unwrap()).map(Class::bytes)
    }

    #[test]
    fn at_most_a_fifth_of_a_buffer_above_64_bytes_is_not_asked_for() {
        for size in 65..=PAGE_SIZE {
            // What fits no class takes whole pages.
            let given = class(size, 1).unwrap_or(PAGE_SIZE);
            assert!(given >= size);
            assert!((given - size) * 5 <= given, "{size} in {given}");
        }
    }

    #[test]
    fn the_smallest_class_that_fits_is_taken() {
        let mut before = 0;
        for index in 0..COUNT {
            let bytes = Class(index).bytes();
            assert!(bytes > before && bytes < PAGE_SIZE);
            assert_eq!(Class::fitting(bytes), Class(index));
            assert_eq!(Class::fitting(before + 1), Class(index));
            before = bytes;
        }
        assert_eq!(class(1, 1), Some(8));
        assert_eq!(class(before + 1, 1), None);
        assert_eq!(class(0, 1), None);
    }

    #[test]
    fn alignment_is_kept() {
        for align in [1, 2, 8, 16, 64, 256, 1024] {
            for size in 1..=PAGE_SIZE / 2 {
                let given = class(size, align).unwrap();
                assert!(given.is_multiple_of(align) && given >= size, "{size} {align}");
            }
        }
        assert_eq!(class(24, 64), Some(64));
        assert_eq!(class(8, PAGE_SIZE), None);
    }

    #[test]
    fn classes_have_names_of_their_own() {
        let spec = Class::fitting(96).spec(true);
        assert_eq!(spec.name.unwrap().as_str(), "preserved-96");
        for index in 0..COUNT {
            for preserving in [false, true] {
                let spec = Class(index).spec(preserving);
                let (name, geometry) = spec.geometry().unwrap();
                let desc = SlabDesc::new(name, &geometry, preserving, spec.layout());
                let class = Class(index);
                assert_eq!(class_of(&desc, &geometry), Some((class, preserving)));
                assert!(class.lays_out(&desc) && is_reserved(&name));
            }
        }
    }
}
