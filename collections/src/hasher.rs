//! How keys are hashed: the same way in each life, by a seed that the map keeps.

/// A hash of byte strings that is the same in each kernel that has the map.
///
/// (The hashers of `std` are none: theirs is made up anew by each process.)
///
/// # Examples
/// ```
/// use heirloom_collections::{Hash, Xxh3};
/// assert_eq!(Xxh3::hash(7, b"key"), Xxh3::hash(7, b"key"));
/// assert_ne!(Xxh3::hash(7, b"key"), Xxh3::hash(8, b"key"));
/// ```
pub trait Hash {
    /// What tells this hash from others, in the head of a map: a map is opened with the hash that it was filled with.
    const NAME: u64;

    /// Returns the hash of `key`. Each bit is used: the low ones say which bucket, the high ones which entries to look at.
    fn hash(seed: u64, key: &[u8]) -> u64;
}

/// XXH3 of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Xxh3;

impl Hash for Xxh3 {
    const NAME: u64 = u64::from_le_bytes(*b"XXH3-64\0");

    #[inline]
    fn hash(seed: u64, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
    }
}
