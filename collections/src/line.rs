//! Segments of a map's buckets, and the lines that they consist of.
//!
//! ```text
//!   segment   | owner, number | not used |              64 bytes
//!             | line | line | line | …              |   254 of 64 bytes
//!   line      | link | link | link | link | link | link | link | next |
//! ```

use core::ptr::NonNull;

use heirloom_kho::narrow::{u32_to_usize, u64_to_usize, usize_to_u64};

use crate::class::SEGMENT_BYTES;
use crate::word::Word;

/// Links of a line.
pub const LINKS: usize = 7;
/// Lines of a segment.
pub const LINES: u64 = usize_to_u64(SEGMENT_BYTES / 64) - 1;

/// Bytes of a line that is an object of its own.
pub(crate) const LINE_BYTES: usize = 16 + 64;

/// The words of a line: links, and the link to the next line.
#[derive(Clone, Copy)]
pub(crate) struct Line<'m>(&'m [Word; LINKS + 1]);

impl<'m> Line<'m> {
    /// Returns the line at a pointer.
    ///
    /// # Safety
    /// Eight words are there for as long, which only atomics touch.
    #[inline]
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { ptr.cast().as_ref() })
    }

    #[inline]
    pub(crate) fn links(self) -> impl Iterator<Item = &'m Word> {
        self.0.iter().take(LINKS)
    }

    /// Returns the words of those places of which a bit is set.
    #[inline]
    pub(crate) fn those(self, mut places: u8) -> impl Iterator<Item = &'m Word> {
        core::iter::from_fn(move || {
            let word = self.link(u32_to_usize(places.trailing_zeros()))?;
            places &= places - 1;
            Some(word)
        })
    }

    /// Returns the word of a link.
    #[inline]
    pub(crate) fn link(self, place: usize) -> Option<&'m Word> {
        self.0[..LINKS].get(place)
    }

    /// Returns the place of a link's word; `None` if it is of another line.
    #[inline]
    pub(crate) fn place_of(self, word: &Word) -> Option<usize> {
        let bytes = core::ptr::from_ref(word).addr().wrapping_sub(self.0.as_ptr().addr());
        Some(bytes / size_of::<Word>()).filter(|place| *place < LINKS)
    }

    #[inline]
    pub(crate) const fn next(self) -> &'m Word {
        &self.0[LINKS]
    }

    pub(crate) fn is_empty(self) -> bool {
        self.links().all(|word| word.get() == 0)
    }
}

/// A segment of a map, in use.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'m>(&'m [[Word; LINKS + 1]; u64_to_usize(LINES)]);

impl<'m> Segment<'m> {
    /// Returns the segment at a pointer.
    ///
    /// # Safety
    /// An object of [`Class::SEGMENT`] is there for as long, whose words only atomics touch.
    #[inline]
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        // SAFETY: the object has 64 bytes, then as many lines, aligned to 64 bytes.
        Self(unsafe { ptr.add(64).cast().as_ref() })
    }

    #[inline]
    pub(crate) fn line(self, index: u64) -> Option<Line<'m>> {
        self.0.get(u64_to_usize(index)).map(Line)
    }
}
