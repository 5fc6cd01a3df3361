//! XXH3 of words that come one after another, on little stack.
//!
//! What is hashed lies in pages that are read a word at a time, and the hash is the deepest that a
//! takeover goes. `xxhash_rust`'s hasher takes any number of bytes: its state is
//! more than half a kilobyte, and its functions take 16 KiB of stack unoptimised. Here the length is known before:
//! the state is the eight sums and the last 32 words. Up to 240 bytes are in these words whole, and
//! hashed at once; above, a stripe of eight words is added whenever it is full.

use zerocopy::IntoBytes;

use crate::narrow::{low_u64, u64_to_usize, usize_to_u64};
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// Words in a stripe.
const STRIPE: usize = 8;
/// Stripes between two scrambles.
const BLOCK: usize = 16;
/// Words that are kept: as much as is hashed at once, and more than the last stripe lies in.
const KEPT: usize = 32;
/// The most bytes that are hashed at once.
const SHORT: u64 = 240;

/// The factor of a scramble, and that of the length: XXH3's first primes of 32 and 64 bits.
const SCRAMBLED: u64 = 0x9e37_79b1;
const LENGTH: u64 = 0x9e37_79b1_85eb_ca87;
/// The sums before anything is added: XXH3's other primes, and these two.
const SUMS: [u64; STRIPE] = [
    0xc2b2_ae3d,
    LENGTH,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x85eb_ca77,
    0x27d4_eb2f_1656_67c5,
    SCRAMBLED,
];

/// What XXH3 calls its default secret, as words.
const SECRET: [u64; 24] = [
    0xbe4b_a423_396c_feb8,
    0x1cad_21f7_2c81_017c,
    0xdb97_9083_e96d_d4de,
    0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb,
    0x2172_ffcc_7dd0_5a82,
    0x8e24_43f7_7446_08b8,
    0x4c26_3a81_e690_35e0,
    0xcb00_c391_bb52_283c,
    0xa32e_531b_8b65_d088,
    0x4ef9_0da2_9748_6471,
    0xd8ac_dea9_46ef_1938,
    0x3f34_9ce3_3f76_faa8,
    0x1d4f_0bc7_c7bb_dcf9,
    0x3159_b4cd_4be0_518a,
    0x6473_78d9_c97e_9fc8,
    0xc3eb_d334_83ac_c5ea,
    0xeb63_13fa_ffa0_81c5,
    0x49da_f0b7_51dd_0d17,
    0x9e68_d429_2655_16d3,
    0xfca1_477d_58be_162b,
    0xce31_d07a_d1b8_f88f,
    0x2804_1695_8f3a_cb45,
    0x7e40_4bbb_cafb_d7af,
];
/// Those of the secret's words that a scramble takes, the last stripe, and the end.
const SCRAMBLE: [u64; STRIPE] = secret(128);
const LAST: [u64; STRIPE] = secret(121);
const MERGE: [u64; STRIPE] = secret(11);

/// Returns a stripe of the secret, from its byte `at` on.
const fn secret(at: usize) -> [u64; STRIPE] {
    let (mut stripe, mut i) = ([0; STRIPE], 0);
    while i < STRIPE {
        let (word, shift) = (at / 8 + i, at % 8 * 8);
        stripe[i] = SECRET[word] >> shift;
        if shift > 0 {
            stripe[i] |= SECRET[word + 1] << (64 - shift);
        }
        i += 1;
    }
    stripe
}

/// The XXH3 of a number of bytes that is known before they come.
#[derive(Debug)]
pub struct Hasher {
    sums: [u64; STRIPE],
    /// The last words, as they lay in memory.
    kept: [u64; KEPT],
    /// How many words came.
    words: usize,
    /// How many bytes are hashed.
    bytes: u64,
}

impl Hasher {
    /// Begins a hash of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self { sums: SUMS, kept: [0; KEPT], words: 0, bytes }
    }

    /// Adds the next 8 bytes, as they lie in memory. Of the last ones, those beyond the length are not
    /// hashed.
    #[inline]
    pub fn word(&mut self, word: u64) {
        self.kept[self.words % KEPT] = word;
        self.words += 1;
        if self.words.is_multiple_of(STRIPE)
            && !is_last(self.words, self.bytes)
            && let Some(kept) = self.kept.get((self.words - STRIPE) % KEPT..)
            && let Some(words) = kept.first_chunk()
        {
            add_numbered(&mut self.sums, words, self.words / STRIPE - 1);
        }
    }

    /// Adds the next words of memory that others may write, each read once. Only words that fill stripes
    /// came before.
    pub fn memory(&mut self, words: &[AtomicU64]) {
        // As many as are kept, first loaded and then added: a stripe that is added at once would be
        // loaded as vectors from where it has just been stored as words, for which processors wait.
        let (chunks, rest) = match self.words % KEPT {
            0 => words.as_chunks::<KEPT>(),
            _ => (&[][..], words),
        };
        // A copy, which stays in registers.
        let mut sums = self.sums;
        for chunk in chunks {
            for (kept, word) in self.kept.iter_mut().zip(chunk) {
                *kept = word.load(Relaxed);
            }
            for words in self.kept.as_chunks().0 {
                self.words += STRIPE;
                if !is_last(self.words, self.bytes) {
                    add_numbered(&mut sums, words, self.words / STRIPE - 1);
                }
            }
        }
        self.sums = sums;
        for word in rest {
            self.word(word.load(Relaxed));
        }
    }

    /// Adds the words of `bytes`; of their end, what is no word is left out.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks().0 {
            self.word(u64::from_ne_bytes(*word));
        }
    }

    /// Returns the word `back` words before the next.
    fn kept(&self, back: usize) -> u64 {
        u64::from_le(self.kept[self.words.wrapping_sub(back) % KEPT])
    }

    /// Returns the hash, once all of it came.
    pub fn finish(mut self) -> u64 {
        if self.bytes <= SHORT {
            let bytes = self.kept.as_bytes().get(..u64_to_usize(self.bytes));
            return xxhash_rust::xxh3::xxh3_64(bytes.unwrap_or(&[]));
        }
        // The last 64 bytes, which may begin within a word, and be partly added before.
        let shift = (usize_to_u64(self.words) * 8).wrapping_sub(self.bytes) % 8 * 8;
        let mut last = [0; STRIPE];
        for (i, word) in last.iter_mut().enumerate() {
            let back = STRIPE - i;
            *word = match shift {
                0 => self.kept(back),
                _ => self.kept(back + 1) >> (64 - shift) | self.kept(back) << shift,
            };
        }
        add(&mut self.sums, &last.map(u64::to_le), &LAST);
        let mut hash = self.bytes.wrapping_mul(LENGTH);
        for (sums, keys) in self.sums.as_chunks().0.iter().zip(MERGE.as_chunks().0) {
            hash = hash.wrapping_add(folded(*sums, *keys));
        }
        hash = (hash ^ hash >> 37).wrapping_mul(0x1656_6791_9e37_79f9);
        hash ^ hash >> 32
    }
}

/// Returns whether the stripe that ends after so many words is the last, be it whole or not, which
/// is added otherwise.
#[inline]
const fn is_last(words: usize, bytes: u64) -> bool {
    usize_to_u64(words) * 8 >= bytes
}

/// Adds the stripe of this number, which others follow.
#[inline]
fn add_numbered(sums: &mut [u64; STRIPE], words: &[u64; STRIPE], number: usize) {
    let Some(keys) = SECRET.get(number % BLOCK..).and_then(<[u64]>::first_chunk) else { return };
    add(sums, words, keys);
    if number % BLOCK == BLOCK - 1 {
        for (sum, key) in sums.iter_mut().zip(SCRAMBLE) {
            *sum = (*sum ^ *sum >> 47 ^ key).wrapping_mul(SCRAMBLED);
        }
    }
}

/// Adds a stripe of words, as they lie in memory.
#[inline]
fn add(sums: &mut [u64; STRIPE], words: &[u64; STRIPE], keys: &[u64; STRIPE]) {
    let words = words.map(u64::from_le);
    let mut products = *keys;
    for (product, word) in products.iter_mut().zip(words) {
        let keyed = *product ^ word;
        *product = (keyed & 0xffff_ffff).wrapping_mul(keyed >> 32);
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = sum.wrapping_add(products[i]).wrapping_add(words[i ^ 1]);
    }
}

/// Folds both halves of the product of two sums.
fn folded([a, b]: [u64; 2], [c, d]: [u64; 2]) -> u64 {
    let product = u128::from(a ^ c) * u128::from(b ^ d);
    low_u64(product) ^ low_u64(product >> 64)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn hash(bytes: &[u8]) -> u64 {
        let mut hasher = Hasher::new(bytes.len() as u64);
        hasher.bytes(bytes);
        if let rest @ [_, ..] = bytes.as_chunks::<8>().1 {
            // Something lies behind it.
            let mut word = [0xa5; 8];
            word[..rest.len()].copy_from_slice(rest);
            hasher.word(u64::from_ne_bytes(word));
        }
        hasher.finish()
    }

    #[test]
    fn it_is_that_of_the_bytes_at_every_length() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = (0..5000).map(|_| next()).collect();
        for length in 0..bytes.len() {
            let bytes = &bytes[..length];
            assert_eq!(hash(bytes), xxh3_64(bytes), "{length} bytes");
        }
        let many = bytes.repeat(20);
        for length in many.len() - 2100..many.len() {
            let bytes = &many[..length];
            assert_eq!(hash(bytes), xxh3_64(bytes), "{length} bytes");
        }
    }
}
