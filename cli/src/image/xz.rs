//! What an xz file says of the memory that unpacking it takes.

/// The largest dictionary that an xz file's first block may have, in bytes: twice that of `xz -9`.
pub(crate) const DICTIONARY: u64 = 128 << 20;
/// What unpacking any block of it may take, in KiB: such a dictionary, and what stands beside it.
pub(crate) const XZ_KIB: u32 = (DICTIONARY >> 10) as u32 + 1024;

/// Bytes of the dictionary that the first block of an xz file asks for, which starts with `head`; `None` if that
/// cannot be told, and then it cannot be unpacked.
pub(crate) fn xz_dictionary(head: &[u8]) -> Option<u64> {
    /// Where the first block's header starts, behind that of the stream.
    const BLOCK_AT: usize = 12;
    const LZMA2: u64 = 0x21;
    let (units, header) = head.get(BLOCK_AT..)?.split_first()?;
    // In units of 4 bytes, less one; a checksum at the end.
    let (flags, mut rest) = header.get(..usize::from(*units) * 4)?.split_first()?;
    // Its lengths, packed and unpacked, if they are there: numbers of seven bits a byte.
    let number = |rest: &mut &[u8]| {
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let (byte, behind) = rest.split_first()?;
            *rest = behind;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    for flag in [0x40, 0x80] {
        if flags & flag != 0 {
            number(&mut rest)?;
        }
    }
    // Filters: a number, the bytes of what it is told, and those.
    for _ in 0..=flags & 3 {
        let (id, length) = (number(&mut rest)?, number(&mut rest)?);
        let (told, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if id == LZMA2 {
            let size = u64::from(*told.first()?);
            return Some((2 | size & 1) << (size / 2 + 11).min(60));
        }
        rest = behind;
    }
    None
}
