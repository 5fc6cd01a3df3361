//! Lists of fixed-size records in a chain of one-page blocks.
//!
//! Linux's format, native byte order:
//!
//! ```text
//!  block { next u64, count u64, entry, entry, ... }  --next-->  block { 0, count, entry, ... }
//! ```
//!
//! Valid at any instant: an entry is written before it is counted, a block is whole and preserved
//! before one 8-byte store links it. A chain has at most 10,000 blocks, as in Linux.

mod chain;

pub use chain::{Chain, Entries};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::narrow::usize_to_u64;
use crate::page_size::PageSize;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed};

/// The most blocks of a chain.
pub const MAX_BLOCKS: u64 = 10_000;

/// Words before the entries: the next block's address and the count.
pub(crate) const HEAD: usize = 2;

/// What can be an entry: plain bytes, any of which are a value, without padding.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// Entries that fit one block of this build.
    const PER_BLOCK: u64 = {
        assert!(size_of::<Self>() > 0 && size_of::<Self>().is_multiple_of(8), "whole words");
        assert!(size_of::<Self>() <= PAGE_SIZE - HEAD * 8, "an entry fits a block");
        per_block::<Self>(PageSize::BUILD)
    };
}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Record for T {}

/// Returns how many entries fit a block that is a page of this size.
#[inline]
pub(crate) const fn per_block<T>(page: PageSize) -> u64 {
    usize_to_u64((page.bytes() - HEAD * 8) / size_of::<T>())
}

/// Returns the words of entry `index` of a block.
pub fn entry_words<T: Record>(words: &[AtomicU64], index: u64) -> Option<&[AtomicU64]> {
    let size = size_of::<T>() / 8;
    let start = HEAD + usize::try_from(index).ok()?.checked_mul(size)?;
    words.get(start..start.checked_add(size)?)
}

/// Loads the entry that stands in `words`.
pub fn load<T: Record>(words: &[AtomicU64]) -> T {
    let mut entry = T::new_zeroed();
    for (bytes, word) in entry.as_mut_bytes().chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    entry
}

/// Stores `entry` into `words`.
pub fn save<T: Record>(words: &[AtomicU64], entry: &T) {
    for (bytes, word) in entry.as_bytes().chunks_exact(8).zip(words) {
        let mut value = [0; 8];
        value.copy_from_slice(bytes);
        store::word64(word, u64::from_ne_bytes(value), Relaxed);
    }
}

/// Returns a block's link and count.
pub fn head(words: &[AtomicU64]) -> (PhysAddr, u64) {
    let mut head = words.iter().map(|word| word.load(Acquire));
    (PhysAddr::new(head.next().unwrap_or(0)), head.next().unwrap_or(0))
}
