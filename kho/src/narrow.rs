//! Integers of another width where core has no `From`: the one place of the layers in which `as` stands.
//!
//! ```text
//! nothing is lost    usize_to_u64, u32_to_usize; and in a const, where no `From` runs: u8_to_u32, u8_to_usize,
//!                    u16_to_u32, u32_to_u64, u64_to_u128
//! saturates          u64_to_usize, u64_to_u32, usize_to_u32, u32_to_u8
//! cuts off           low_u64, low_u32, low_u16, low_u8
//! ```
//!
//! What saturates is for sizes, counts and indices. Where such a number does not fit, it is more than
//! there can be in memory or in a table, and the largest number of the type is so too: a look-up finds
//! nothing, a limit is exceeded. What fits, which is all of them on a 64-bit machine, costs no
//! instruction.
#![allow(clippy::as_conversions, reason = "the place for them")]

const _: () = assert!(
    usize::BITS == 64 || usize::BITS == 32,
    "a u32 fits a usize, and a usize fits a u64: pointers of 32 or 64 bits"
);

/// Returns the same number. Loses nothing: a `usize` has at most 64 bits.
#[inline]
pub const fn usize_to_u64(n: usize) -> u64 {
    n as u64
}

/// Returns the same number. Loses nothing: a `usize` has at least 32 bits.
#[inline]
pub const fn u32_to_usize(n: u32) -> usize {
    n as usize
}

/// Returns the same number, as `usize::from` does outside a const.
#[inline]
pub const fn u8_to_usize(n: u8) -> usize {
    n as usize
}

/// Returns the same number, as `u64::from` does outside a const.
#[inline]
pub const fn u32_to_u64(n: u32) -> u64 {
    n as u64
}

/// Returns the same number, as `u32::from` does outside a const.
#[inline]
pub const fn u8_to_u32(n: u8) -> u32 {
    n as u32
}

/// Returns the same number, as `u32::from` does outside a const.
#[inline]
pub const fn u16_to_u32(n: u16) -> u32 {
    n as u32
}

/// Returns the same number, as `u128::from` does outside a const.
#[inline]
pub const fn u64_to_u128(n: u64) -> u128 {
    n as u128
}

/// Returns the number, or the largest `usize`: an index that nothing has, a length that no memory
/// has.
#[inline]
pub const fn u64_to_usize(n: u64) -> usize {
    // The first comparison is of constants: where all fits, the compiler sees no second one when it
    // weighs what to inline.
    if usize::BITS < u64::BITS && n > usize::MAX as u64 { usize::MAX } else { n as usize }
}

/// Returns the number, or the largest `u32`.
#[inline]
pub const fn u64_to_u32(n: u64) -> u32 {
    if n > u32::MAX as u64 { u32::MAX } else { n as u32 }
}

/// Returns the number, or the largest `u32`.
#[inline]
pub const fn usize_to_u32(n: usize) -> u32 {
    u64_to_u32(usize_to_u64(n))
}

/// Returns the number, or the largest `u8`: an order that no block has.
#[inline]
pub const fn u32_to_u8(n: u32) -> u8 {
    if n > u8::MAX as u32 { u8::MAX } else { n as u8 }
}

/// Returns the lowest 64 bits, which are all that is meant: of a number that is put together of
/// several, or known to have no more.
#[inline]
pub const fn low_u64(n: u128) -> u64 {
    n as u64
}

/// Returns the lowest 32 bits, like [`low_u64`].
#[inline]
pub const fn low_u32(n: u64) -> u32 {
    n as u32
}

/// Returns the lowest 16 bits, like [`low_u64`].
#[inline]
pub const fn low_u16(n: u64) -> u16 {
    n as u16
}

/// Returns the lowest byte, like [`low_u64`].
#[inline]
pub const fn low_u8(n: u64) -> u8 {
    n as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_and_the_rest_is_the_largest() {
        for n in [0, 1, 255, 256, u32::MAX] {
            assert_eq!(u64_to_usize(u32_to_u64(n)), u32_to_usize(n));
            assert_eq!(usize_to_u64(u32_to_usize(n)), u64::from(n));
            assert_eq!(usize_to_u32(u32_to_usize(n)), n);
            assert_eq!(u32::from(u32_to_u8(n)), n.min(255));
            assert_eq!(u8_to_usize(u32_to_u8(n)), u32_to_usize(n.min(255)));
        }
        assert_eq!(u64_to_u32(1 << 32), u32::MAX);
        assert_eq!(u64_to_u32(u64::MAX), u32::MAX);
        assert_eq!(usize_to_u64(u64_to_usize(u64::MAX)), usize_to_u64(usize::MAX));
        assert_eq!((u8_to_u32(u8::MAX), u16_to_u32(u16::MAX)), (255, 0xffff));
    }

    #[test]
    fn what_is_cut_off_is_what_stands_above() {
        let n = 0x1122_3344_5566_7788;
        assert_eq!((low_u32(n), low_u16(n), low_u8(n)), (0x5566_7788, 0x7788, 0x88));
        assert_eq!(low_u64(u64_to_u128(n) << 64 | 7), 7);
    }
}
