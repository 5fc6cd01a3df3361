//! Segments of a map's buckets, and the lines that they consist of.
//!
//! ```text
//!   segment   | owner, number | a bit for each line |   64 bytes
//!             | line | line | line | …              |   254 of 64 bytes
//!   line      | link | link | link | link | link | link | link | next |
//! ```

use core::ptr::NonNull;

use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Acquire, Release};

use crate::class::SEGMENT_BYTES;
use crate::word::Word;

/// Links of a line.
pub(crate) const LINKS: usize = 7;
/// Lines of a segment.
pub(crate) const LINES: u64 = usize_to_u64(SEGMENT_BYTES / 64) - 1;

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
pub(crate) struct Segment<'m> {
    /// The object's first line: its owner's words, then a bit for each bucket.
    head: &'m [AtomicU64; 8],
    lines: &'m [[Word; LINKS + 1]; u64_to_usize(LINES)],
}

/// Which word of a segment's first line has the first bits.
const BITS: usize = 2;

impl<'m> Segment<'m> {
    /// Returns the segment at a pointer.
    ///
    /// # Safety
    /// An object of [`Class::SEGMENT`] is there for as long, whose words only atomics touch.
    #[inline]
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        // SAFETY: the object has 64 bytes, then as many lines, aligned to 64 bytes.
        unsafe { Self { head: ptr.cast().as_ref(), lines: ptr.add(64).cast().as_ref() } }
    }

    #[inline]
    pub(crate) fn line(self, index: u64) -> Option<Line<'m>> {
        self.lines.get(u64_to_usize(index)).map(Line)
    }

    /// Returns whether the links of a line were looked at in this kernel, all of them.
    #[inline]
    pub(crate) fn is_checked(self, index: u64) -> bool {
        // Acquire pairs with the Release in `note`.
        let word = self.head.get(BITS + u64_to_usize(index / 64));
        word.is_some_and(|word| word.load(Acquire) >> (index % 64) & 1 == 1)
    }

    /// Notes whether they were.
    pub(crate) fn note(self, index: u64, checked: bool) {
        if let Some(word) = self.head.get(BITS + u64_to_usize(index / 64)) {
            let bit = 1 << (index % 64);
            // Release pairs with the Acquire in `is_checked`.
            if checked {
                word.fetch_or(bit, Release)
            } else {
                word.fetch_and(!bit, Release)
            };
        }
    }

    /// Notes for all lines whether they were.
    pub(crate) fn note_all(self, checked: bool) {
        for word in self.head.iter().skip(BITS).take(u64_to_usize(LINES.div_ceil(64))) {
            word.store(if checked { u64::MAX } else { 0 }, Release);
        }
    }
}
