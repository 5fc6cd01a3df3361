//! What each object of a container begins with: whose it is, and what.
//!
//! ```text
//!  0   owner   63 ─ 16: the head's address, in units of 16;  15 ─ 0: the length of a key, or what else it is
//!  8   more    an entry: 63 ─ 32: low half of the key's hash; 31 ─ 0: the length of the value
//!              a line, a segment, a page of a directory: its number
//! ```
//!
//! Both words are written before the object is in use, and stay as they are until it is free. So an object in use says whose it is
//! at any instant, and what leads to it by mistake, or was forged, finds another's.

use core::ptr::NonNull;

use heirloom_kho::PhysAddr;

use crate::link::UNIT;
use crate::word::Word;

/// Kinds that are no length of a key.
pub mod kind {
    /// A line of a bucket beyond its first.
    pub const LINE: u16 = 0xffff;
    /// A segment of first lines.
    pub const SEGMENT: u16 = 0xfffe;
    /// A page of a directory.
    pub const DIRECTORY: u16 = 0xfffd;
    /// A chunk of elements.
    pub const CHUNK: u16 = 0xfffc;
    /// A line of links of what is unlinked and waits for readers.
    pub const DEFERRED: u16 = 0xfffb;
}

/// A container, by the address of its head: no two at the same time have one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    pub(crate) const fn of_head(addr: PhysAddr) -> Self {
        Self(addr.get() / UNIT)
    }

    /// Returns the first word of an object of this owner.
    #[inline]
    pub(crate) const fn word(self, kind: u16) -> u64 {
        self.0 << 16 | heirloom_kho::narrow::u32_to_u64(heirloom_kho::narrow::u16_to_u32(kind))
    }
}

/// An object in use, of the pool's, whose owner has it.
#[derive(Clone, Copy)]
pub(crate) struct Object(NonNull<u8>);

// SAFETY: the words are atomics; what else is in it is reached by unsafe calls alone.
unsafe impl Send for Object {}
// SAFETY: as for `Send`.
unsafe impl Sync for Object {}

impl Object {
    /// Returns the object at a pointer.
    ///
    /// # Safety
    /// An object of a pool's is there as long as the value is used, and its first two words are reached by atomics alone.
    #[inline]
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        Self(ptr)
    }

    #[inline]
    pub(crate) const fn ptr(self) -> NonNull<u8> {
        self.0
    }

    #[inline]
    fn words<'m>(self) -> &'m [Word; 2] {
        // SAFETY: each object has two words at least, aligned to 16 bytes, which only atomics touch.
        unsafe { self.0.cast().as_ref() }
    }

    #[inline]
    pub(crate) fn owner(self) -> Owner {
        Owner(self.words()[0].get() >> 16)
    }

    /// Returns what it is: the length of a key, or one of [`kind`].
    #[inline]
    pub(crate) fn kind(self) -> u16 {
        let [low, high, ..] = self.words()[0].get().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Returns the second word.
    #[inline]
    pub(crate) fn more(self) -> u64 {
        self.words()[1].get()
    }

    /// Writes the first two words of an object that is not in use yet.
    ///
    /// # Safety
    /// The object is the caller's, free, and has 16 bytes at least, aligned to as many.
    #[inline]
    pub(crate) unsafe fn begin(ptr: NonNull<u8>, owner: Owner, kind: u16, more: u64) {
        // SAFETY: the caller's promise.
        let words = unsafe { ptr.cast::<[Word; 2]>().as_ref() };
        words[0].set(owner.word(kind));
        words[1].set(more);
    }
}
