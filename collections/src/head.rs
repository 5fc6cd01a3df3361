//! The head of a container: the object that its handle names, and that leads to all else of it.
//!
//! ```text
//!  word  0  kind and version     4  size: buckets, chunks      8  link of what is being linked      ┐ what is
//!        1  layout               5  elements                   9  link of what is being unlinked    │ going
//!        2  hash                 6  link that is being moved   10  elements after it                 ┘ on
//!        3  seed                 7  a map: how often links have moved; a vector: bytes of an element
//!       11 ─ 30   links of what is unlinked, and waits for readers (deferred.rs)
//!       32 ─ 95   links to segments or chunks         96 ─ 159   links to pages of 1,018 more each
//! ```
//!
//! An operation names here what it allocates before it is in use, and what it unlinks before it does; the one store that links or
//! unlinks is the instant at which it happened. A successor that finds a name looks whether the object is linked, and frees it
//! otherwise: one object at most, of either, and what readers may have looked at.

use core::ptr::NonNull;

use heirloom_slab::persist;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::word::Word;

/// Words of a head.
pub const WORDS: usize = 160;

/// A head as it is written at first.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct HeadBytes {
    pub(crate) words: [u64; WORDS],
}
persist!(HeadBytes { words });

/// Which word of a head is what.
pub mod at {
    /// Kind and version.
    pub const KIND: usize = 0;
    /// The layout of elements.
    pub const LAYOUT: usize = 1;
    /// The name of the hash.
    pub const HASH: usize = 2;
    /// The seed of the hash.
    pub const SEED: usize = 3;
    /// How many buckets or chunks there are.
    pub const SIZE: usize = 4;
    /// How many elements there are.
    pub const LEN: usize = 5;
    /// The link that is being moved within its bucket.
    pub const MOVED: usize = 6;
    /// Of a map: how often links have moved within a bucket, or out of one: any number, for readers to compare.
    pub const MOVES: usize = 7;
    /// Of a vector: how many bytes an element has, for readers of an image, as the layout says no less. 0 where an older build made it.
    pub const ELEMENT: usize = 7;
    /// The link of what is being linked.
    pub const NEW: usize = 8;
    /// The link of what is being unlinked.
    pub const OLD: usize = 9;
    /// How many elements there will be after the operation that is going on; of a vector, the element that is being replaced,
    /// plus one.
    pub const AFTER: usize = 10;
    /// The first of the links of what is unlinked and waits for readers.
    pub const DEFERRED: usize = 11;
    /// The first of the links to segments or chunks.
    pub const DIRECT: usize = 32;
    /// The first of the links to pages of more.
    pub const PAGES: usize = 96;
}

/// Links of a head that lead to segments.
pub(crate) const DIRECT: usize = at::PAGES - at::DIRECT;
/// Links of a head that lead to pages of more.
pub(crate) const PAGES: usize = WORDS - at::PAGES;

/// A head that this container alone has.
#[derive(Clone, Copy)]
pub(crate) struct Head(NonNull<[Word; WORDS]>);

// SAFETY: all words are atomics.
unsafe impl Send for Head {}
// SAFETY: as for `Send`.
unsafe impl Sync for Head {}

impl Head {
    /// Returns the head at a pointer.
    ///
    /// # Safety
    /// A head is there as long as the value is used, which only its words' atomics touch.
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        Self(ptr.cast())
    }

    /// Returns where it is.
    #[inline]
    pub(crate) const fn ptr(self) -> NonNull<u8> {
        self.0.cast()
    }

    #[inline]
    pub(crate) fn word(&self, index: usize) -> &Word {
        // SAFETY: the head is there, of so many words, aligned to 16 bytes (contract of `at`).
        unsafe { &self.0.as_ref()[index] }
    }

    #[inline]
    pub(crate) fn get(self, index: usize) -> u64 {
        self.word(index).get()
    }

    #[inline]
    pub(crate) fn set(self, index: usize, value: u64) {
        self.word(index).set(value);
    }
}
