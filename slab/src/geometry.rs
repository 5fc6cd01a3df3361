//! How objects lie in a slab: a pure function of their size, alignment and the slab's order.
//!
//! ```text
//! 0        128             128 + n                 offset
//! | header | n state bytes | free bits, 1 each | … | object 0 | object 1 | … | rest |
//!                                                   <- stride ->
//! ```
//!
//! The state bytes start on a line of their own, so that a CPU that takes 64 neighbours from a
//! slab shares none of their bytes' lines with another. Small objects lie in slabs of 64 KiB: less
//! than 2 % of one is not 64-byte objects.

use heirloom_kho::narrow::{
    low_u32, u32_to_u8, u32_to_u64, u32_to_usize, u64_to_usize, usize_to_u32, usize_to_u64,
};
use heirloom_kho::{Order, PAGE_SHIFT, PhysAddr};

/// Bytes of a slab's header.
pub(crate) const HEADER_BYTES: usize = 128;

/// Bytes of a red zone behind each object, where there are any.
pub(crate) const REDZONE: usize = 16;

/// The order of slabs of small objects: 64 KiB, or a frame if that is more.
pub(crate) const BASE_ORDER: Order = order(16_u32.saturating_sub(PAGE_SHIFT));

/// The largest order of a slab: 2 MiB.
pub(crate) const MAX_ORDER: Order = order(21 - PAGE_SHIFT);

/// The largest object, and the largest alignment of one: a quarter of the largest slab.
pub const MAX_OBJECT: usize = 1 << 19;

/// Fixed point of the reciprocal. Offsets in a slab and strides are at most 2^21, so an error of
/// one unit in the last place stays below 2^(21 + 21) and no product exceeds 2^64.
const FIXED_POINT: u32 = 43;

const fn order(n: u32) -> Order {
    match Order::new(u32_to_u8(n)) {
        Some(order) => order,
        None => Order::ZERO,
    }
}

/// Which object of its slab one is, the first being 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ObjectIndex(u32);

impl ObjectIndex {
    /// The first object.
    pub(crate) const FIRST: Self = Self(0);
    /// One that no slab has.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// Returns object `n`.
    #[inline]
    pub(crate) const fn new(n: u32) -> Self {
        Self(n)
    }

    /// Returns the first of the eight objects whose bytes are state word `word`.
    #[inline]
    pub(crate) const fn of_state_word(word: usize) -> Self {
        Self(usize_to_u32(word) * 8)
    }

    /// Returns its number.
    #[inline]
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// Returns the index of its state byte.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        u32_to_usize(self.0)
    }

    /// Returns the object `objects` further on.
    #[inline]
    pub(crate) const fn add(self, objects: u32) -> Self {
        Self(self.0 + objects)
    }

    /// Returns the word of free bits that has the object's, and the bit.
    #[inline]
    pub(crate) const fn free_bit(self) -> (FreeWord, u64) {
        (FreeWord(self.0 / 64), 1 << (self.0 % 64))
    }
}

/// Which word of a slab's free bits one is, the first being 0: those of 64 objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FreeWord(u32);

impl FreeWord {
    /// Returns all that there could be, the first first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self)
    }

    /// Returns the word as an index.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        u32_to_usize(self.0)
    }

    /// Returns the object of a bit.
    #[inline]
    pub(crate) const fn object(self, bit: u32) -> ObjectIndex {
        ObjectIndex(self.0 * 64 + bit)
    }
}

/// How objects lie in the slabs of one cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    /// The order of a slab.
    pub(crate) order: Order,
    /// Bytes of an object.
    pub(crate) size: u32,
    /// The alignment of an object, in bytes.
    pub(crate) align: u32,
    /// Bytes from one object to the next.
    pub(crate) stride: u32,
    /// Objects in a slab.
    pub(crate) objects: u32,
    /// Where the first object starts.
    pub(crate) offset: u32,
    /// Whether there is a red zone behind each object.
    pub(crate) redzone: bool,
    /// Bytes of a slab, less one: what of an address is an offset in its slab.
    mask: u64,
    /// 2^43 / stride, rounded up: multiplying by it divides.
    reciprocal: u64,
    /// The stride is an odd number times a power of two. This is the inverse of the odd number
    /// modulo 2^32: multiplying by it divides what is a multiple.
    inverse: u32,
    /// log2 of the power of two.
    twos: u32,
}

impl Geometry {
    /// Returns the geometry of a slab of `order`; `None` if there is no such object or it does not
    /// fit.
    pub(crate) const fn new(
        size: usize,
        align: usize,
        order: Order,
        redzone: bool,
    ) -> Option<Self> {
        if size == 0 || size > MAX_OBJECT || !align.is_power_of_two() || align > MAX_OBJECT {
            return None;
        }
        if order.get() > MAX_ORDER.get() {
            return None;
        }
        let behind = if redzone { REDZONE } else { 0 };
        let stride = (size + behind).next_multiple_of(if align < 8 { 8 } else { align });
        let slab = u64_to_usize(order.bytes());
        if slab < HEADER_BYTES + stride {
            return None;
        }
        // As many as fit without their bytes and bits, which fewer objects need less of: a few steps down.
        let mut objects = (slab - HEADER_BYTES) / stride;
        while objects > 0 {
            let offset = words_at(objects) + words(objects) * 8;
            let offset = offset.next_multiple_of(align);
            if offset + objects * stride <= slab {
                return Some(Self {
                    order,
                    size: usize_to_u32(size),
                    align: usize_to_u32(align),
                    stride: usize_to_u32(stride),
                    objects: usize_to_u32(objects),
                    offset: usize_to_u32(offset),
                    redzone,
                    mask: order.bytes() - 1,
                    reciprocal: (1_u64 << FIXED_POINT).div_ceil(usize_to_u64(stride)),
                    inverse: inverse(usize_to_u32(stride) >> stride.trailing_zeros()),
                    twos: stride.trailing_zeros(),
                });
            }
            objects -= 1;
        }
        None
    }

    /// Returns the geometry with the smallest order, from [`BASE_ORDER`] on, that wastes at most a
    /// sixteenth of a slab beside the objects and their bytes; else the one that wastes least.
    pub(crate) const fn choose(size: usize, align: usize, redzone: bool) -> Option<Self> {
        let mut best: Option<(Self, usize)> = None;
        let mut o = BASE_ORDER.get();
        while o <= MAX_ORDER.get() {
            if let Some(order) = Order::new(o)
                && let Some(geometry) = Self::new(size, align, order, redzone)
            {
                let slab = u64_to_usize(order.bytes());
                // What state bytes and free bits take is the same share of any slab.
                let objects = u32_to_usize(geometry.objects);
                let waste =
                    slab - objects * (u32_to_usize(geometry.stride) + 1) - geometry.words() * 8;
                // 1/65536ths of the slab, so that orders can be compared.
                let share = (waste << 16) / slab;
                if share <= 1 << 12 {
                    return Some(geometry);
                }
                best = match best {
                    Some((_, least)) if least <= share => best,
                    _ => Some((geometry, share)),
                };
            }
            o += 1;
        }
        match best {
            Some((geometry, _)) => Some(geometry),
            None => None,
        }
    }

    /// Returns where the free bits start.
    #[inline]
    pub(crate) const fn words_at(&self) -> usize {
        words_at(u32_to_usize(self.objects))
    }

    /// Returns the number of words of free bits.
    #[inline]
    pub(crate) const fn words(&self) -> usize {
        words(u32_to_usize(self.objects))
    }

    /// Returns whether a slab has this object.
    #[inline]
    pub(crate) const fn has(&self, index: ObjectIndex) -> bool {
        index.0 < self.objects
    }

    /// Returns the objects of a slab.
    pub(crate) fn indices(&self) -> impl Iterator<Item = ObjectIndex> + use<> {
        self.indices_from(ObjectIndex::FIRST)
    }

    /// Returns the objects of a slab from `first` on.
    pub(crate) fn indices_from(
        &self,
        first: ObjectIndex,
    ) -> impl Iterator<Item = ObjectIndex> + use<> {
        (first.0..self.objects).map(ObjectIndex)
    }

    /// Returns where object `index` starts.
    #[inline]
    pub(crate) const fn at(&self, index: ObjectIndex) -> u64 {
        u32_to_u64(self.offset) + u32_to_u64(index.0) * u32_to_u64(self.stride)
    }

    /// Returns the slab around an address in one.
    #[inline]
    pub(crate) const fn slab_of(&self, addr: PhysAddr) -> PhysAddr {
        PhysAddr::new(addr.get() & !self.mask)
    }

    /// Returns how far into its slab an address is.
    #[inline]
    pub(crate) const fn offset_of(&self, addr: PhysAddr) -> u64 {
        addr.get() & self.mask
    }

    /// Returns the object around `offset`, a place within a slab, and how far into it that is;
    /// `None` if it is in none.
    #[inline]
    pub(crate) const fn around(&self, offset: u64) -> Option<(ObjectIndex, u64)> {
        let relative = offset.wrapping_sub(u32_to_u64(self.offset));
        if relative > self.mask {
            return None;
        }
        // `relative` is below 2^21 and the reciprocal at most 2^40 + 1.
        let index = (relative * self.reciprocal) >> FIXED_POINT;
        if index >= u32_to_u64(self.objects) {
            return None;
        }
        Some((ObjectIndex(low_u32(index)), relative - index * u32_to_u64(self.stride)))
    }

    /// Returns the object that starts at `offset`, a place within a slab; `None` if none does.
    ///
    /// One multiplication and one comparison (Hacker's Delight, section 10-17): multiplying by an
    /// odd number and rotating are bijections of the 32-bit numbers, and they take the multiples of
    /// the stride to their quotients; so what comes out below the number of objects was one. What
    /// lies before the first object wraps, and is none of those multiples.
    #[inline]
    pub(crate) const fn index(&self, offset: usize) -> Option<ObjectIndex> {
        let relative = low_u32(usize_to_u64(offset)).wrapping_sub(self.offset);
        let index = relative.wrapping_mul(self.inverse).rotate_right(self.twos);
        if index < self.objects { Some(ObjectIndex(index)) } else { None }
    }
}

/// Returns the inverse of an odd number modulo 2^32.
const fn inverse(odd: u32) -> u32 {
    // Right modulo 8; each step of Newton's doubles the bits that are right.
    let mut inverse = odd;
    let mut bits = 3;
    while bits < u32::BITS {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
}

/// Returns the number of words of free bits for `objects` objects.
const fn words(objects: usize) -> usize {
    objects.div_ceil(64)
}

/// Returns where the free bits of `objects` objects start: behind the state bytes.
const fn words_at(objects: usize) -> usize {
    (HEADER_BYTES + objects).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Geometry> {
        let sizes = (1..600).chain((600..MAX_OBJECT).step_by(977)).chain([MAX_OBJECT]);
        sizes.flat_map(|size| {
            [1, 8, 64, 4096, 1 << 16]
                .into_iter()
                .filter_map(move |align| Geometry::choose(size, align, size % 2 == 0))
        })
    }

    #[test]
    fn parts_are_apart_and_inside_the_slab() {
        for g in all() {
            assert!(g.words_at() >= HEADER_BYTES + g.objects as usize);
            assert!(g.offset as usize >= g.words_at() + g.words() * 8, "{g:?}");
            assert!(g.offset.is_multiple_of(g.align) && g.stride.is_multiple_of(g.align));
            assert!(g.stride >= g.size + if g.redzone { REDZONE as u32 } else { 0 });
            assert!(g.at(ObjectIndex(g.objects)) <= g.order.bytes(), "{g:?}");
            assert!(g.objects >= 1);
        }
    }

    #[test]
    fn every_object_there_can_be_has_a_slab() {
        for align in [1, 64, 4096, MAX_OBJECT] {
            assert!(Geometry::choose(MAX_OBJECT, align, true).is_some(), "{align}");
        }
        assert_eq!(Geometry::choose(MAX_OBJECT + 1, 8, false), None);
        assert_eq!(Geometry::choose(0, 8, false), None);
        assert_eq!(Geometry::choose(8, 3, false), None);
    }

    #[test]
    fn multiplying_divides_exactly() {
        for g in all() {
            for index in [0, g.objects / 2, g.objects - 1].map(ObjectIndex) {
                let at = g.at(index);
                assert_eq!(g.index(at as usize), Some(index), "{g:?}");
                for inside in [1, u64::from(g.stride) - 1] {
                    assert_eq!(g.around(at + inside), Some((index, inside)), "{g:?}");
                    assert_eq!(g.index((at + inside) as usize), None, "{g:?}");
                }
            }
            assert_eq!(g.around(g.at(ObjectIndex(g.objects))), None);
            assert_eq!(g.around(u64::from(g.offset) - 1), None);
            assert_eq!(g.around(0), None);
            for outside in [0, u64::from(g.offset) - 1, g.at(ObjectIndex(g.objects)), g.mask] {
                let start = g.around(outside).filter(|(_, inside)| *inside == 0);
                assert_eq!(g.index(outside as usize), start.map(|(index, _)| index), "{g:?}");
            }
        }
    }

    #[test]
    fn small_objects_waste_little() {
        let g = Geometry::choose(64, 64, false).unwrap();
        let used = u64::from(g.objects) * 64;
        assert!((g.order.bytes() - used) * 100 <= used * 2, "{g:?}");
        for size in 8..=2048 {
            let g = Geometry::choose(size, 8, false).unwrap();
            let used = u64::from(g.objects) * (u64::from(g.stride) * 8 + 9) / 8;
            assert!((g.order.bytes() - used) * 16 <= g.order.bytes(), "{g:?}");
            assert_eq!(g.order, BASE_ORDER);
        }
    }
}
