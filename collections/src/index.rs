//! What this kernel knows of a segment's buckets: for each that it has looked at, a word that says which links there can be.
//!
//! ```text
//!   index    | segment | word | word | …                    254 words, zero at first: nothing is known
//!   word      63 ─ 56: links beyond the line, by their tags     55 ─ 0: the tags of the line's seven links; no link: ff
//! ```
//!
//! A look at a key that is not there ends at this word: seven tags are compared at once, as in the tables of Swiss and F14. It
//! lies in memory that ends with this kernel, and is made of links that were looked at: nothing that a predecessor left says
//! what it holds. A tag that no link has costs a look, no more; each link of a bucket that was looked at has its own.

use core::alloc::Layout;
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::narrow::{u32_to_usize, u64_to_usize};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Acquire, Relaxed, Release};
use heirloom_slab::{AllocOptions, Slabs};

use crate::line::{LINES, LINKS, Segment};
use crate::link::{Link, TAG_BITS};

/// What this kernel knows of one segment.
#[repr(C)]
pub(crate) struct Index {
    segment: NonNull<u8>,
    words: [Tags; u64_to_usize(LINES)],
}

const _: () = assert!(size_of::<Index>() <= 2048, "a buffer of a size class");

impl Index {
    /// Returns the index of a segment, of which nothing is known, or all: that it holds zeroes.
    ///
    /// # Safety
    /// A segment is at the pointer.
    pub(crate) unsafe fn new<M: Machine>(
        slabs: &Slabs<M>,
        segment: NonNull<u8>,
        zeroes: bool,
    ) -> Option<NonNull<Self>> {
        let options = AllocOptions { preserving: false, zeroed: true };
        let index = slabs.alloc(Layout::new::<Self>(), options).ok()?.cast::<Self>();
        // SAFETY: the buffer is this function's, and has room for it; zeroes are words that say nothing.
        let words = unsafe {
            (&raw mut (*index.as_ptr()).segment).write(segment);
            &index.as_ref().words
        };
        if zeroes {
            for word in words {
                word.set(Looked::EMPTY);
            }
        }
        Some(index)
    }

    /// Gives back the memory of an index.
    ///
    /// # Safety
    /// It is from [`Index::new`] of these slabs, and not used again.
    pub(crate) unsafe fn give_back<M: Machine>(slabs: &Slabs<M>, index: NonNull<Self>) {
        // SAFETY: the caller's promise.
        let freed = unsafe { slabs.free(index.cast()) };
        debug_assert!(freed.is_ok(), "an index is freed once: {freed:?}");
    }

    /// Returns the segment.
    #[inline]
    pub(crate) const fn segment<'p>(&self) -> Segment<'p> {
        // SAFETY: one is there (contract of `new`), which the map keeps as long as it is open.
        unsafe { Segment::at(self.segment) }
    }

    /// Returns the word of a line.
    #[inline]
    pub(crate) fn word(&self, line: u64) -> Option<&Tags> {
        self.words.get(u64_to_usize(line))
    }
}

/// The word of a bucket.
#[repr(transparent)]
pub(crate) struct Tags(AtomicU64);

impl Tags {
    /// Returns what is known. Acquire pairs with the Release in `set`: what was looked at is seen as it was then.
    #[inline]
    pub(crate) fn get(&self) -> Looked {
        Looked(self.0.load(Acquire))
    }

    #[inline]
    pub(crate) fn set(&self, looked: Looked) {
        // Release pairs with the Acquire in `get`.
        self.0.store(looked.0, Release);
    }

    /// Notes a link at a place of the line, or beyond it (`None`). One caller at a time does: it has the map alone.
    #[inline]
    pub(crate) fn note(&self, place: Option<usize>, link: Link) {
        let mut looked = Looked(self.0.load(Relaxed));
        looked.note(place, link);
        self.set(looked);
    }
}

/// What is known of a bucket.
#[derive(Clone, Copy)]
pub(crate) struct Looked(u64);

/// One in each byte of a tag.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each of them.
const HIGH: u64 = 0x0080_8080_8080_8080;
/// Bits for the links beyond the line, and where they begin.
const BEYOND_BITS: u32 = 3;
const BEYOND_SHIFT: u32 = 56;
const _: () = assert!(LINKS == 7, "a byte for each, and one for the rest");

impl Looked {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self(0);
    /// That there is no link.
    pub(crate) const EMPTY: Self = Self((1 << BEYOND_SHIFT) - 1);

    /// Returns whether anything is known. (It may be that seven links have the tag 0: they are looked at each time.)
    #[inline]
    pub(crate) const fn is_something(self) -> bool {
        self.0 != 0
    }

    /// Notes a link, as [`Tags::note`] does.
    #[inline]
    pub(crate) fn note(&mut self, place: Option<usize>, link: Link) {
        match place {
            Some(place) => {
                let (shift, tag) = (8 * place, if link.is_none() { 0xff } else { link.tag() >> 1 });
                self.0 = self.0 & !(0xff << shift) | tag << shift;
            }
            None if link.is_none() => (),
            None => self.0 |= 1 << BEYOND_SHIFT << (link.tag() >> (TAG_BITS - BEYOND_BITS)),
        }
    }

    /// Returns the places of the line whose links may have the tag of `hash`: the byte above is compared by one subtraction for
    /// all, which says so of a place behind one that has it, too, at times.
    #[inline]
    pub(crate) const fn places(self, hash: u64) -> Places {
        let differ = self.0 ^ (hash >> 56).wrapping_mul(ONES);
        Places(differ.wrapping_sub(ONES) & !differ & HIGH)
    }

    /// Returns whether a link beyond the line may have the tag of `hash`.
    #[inline]
    pub(crate) const fn is_beyond(self, hash: u64) -> bool {
        self.0 >> BEYOND_SHIFT >> (hash >> (u64::BITS - BEYOND_BITS)) & 1 == 1
    }
}

/// Places of a line.
pub(crate) struct Places(u64);

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() / 8;
        self.0 &= self.0 - 1;
        Some(u32_to_usize(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    #[test]
    fn each_link_that_was_noted_is_among_those_of_its_hash() {
        let mut dice = Dice(0x5eed_0030);
        let (mut places, mut rest) = (0, 0);
        for _ in 0..2000 {
            let hashes: [u64; 9] = core::array::from_fn(|_| dice.below(1 << 40) << 24);
            let link = |hash| Link::from_bits(1).tagged(hash);
            let mut looked = Looked::EMPTY;
            for (place, hash) in hashes.iter().enumerate() {
                looked.note((place < LINKS).then_some(place), link(*hash));
            }
            for (place, hash) in hashes.iter().enumerate() {
                if place < LINKS {
                    assert!(looked.places(*hash).any(|found| found == place));
                } else {
                    assert!(looked.is_beyond(*hash));
                }
            }
            let other = dice.below(1 << 40) << 24;
            places += looked.places(other).count();
            rest += usize::from(looked.is_beyond(other));
            looked.note(Some(3), Link::NONE);
            assert!(looked.is_something() && looked.0 >> 24 & 0xff == 0xff);
        }
        std::println!("of 2000 others {places} places, {rest} beyond");
        assert!(places < 2000 * 7 / 64 && rest < 1000);
    }
}
