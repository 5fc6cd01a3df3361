//! Contents that only their seed gives: what an owner writes, to find it as it was.

use super::rng::mix;

/// Returns word `i` of the content that `seed` gives.
pub const fn word(seed: u64, i: u64) -> u64 {
    mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i)
}

/// Fills memory with the content that `seed` gives.
pub fn stamp(bytes: &mut [u8], seed: u64) {
    for (i, chunk) in (0..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&word(seed, i).to_le_bytes()[..chunk.len()]);
    }
}

/// Whether memory is as [`stamp`] left it.
pub fn is_stamped(bytes: &[u8], seed: u64) -> bool {
    let mut chunks = (0..).zip(bytes.chunks(8));
    chunks.all(|(i, chunk)| *chunk == word(seed, i).to_le_bytes()[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_of_its_seed_and_of_every_byte() {
        let mut bytes = [0; 21];
        stamp(&mut bytes, 5);
        assert!(is_stamped(&bytes, 5) && is_stamped(&bytes[..13], 5));
        assert!(!is_stamped(&bytes, 6) && !is_stamped(&bytes[1..], 5));
        for i in 0..bytes.len() {
            let mut other = bytes;
            other[i] ^= 1;
            assert!(!is_stamped(&other, 5));
        }
    }
}
