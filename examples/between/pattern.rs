//! Bytes that are made of a number: what has it can be compared, wherever it is. `examples/kernel` has this file too.

/// Bytes of a page.
const PAGE: u64 = 4096;

/// The byte at a place of what is made of a number.
fn byte(id: u64, at: u64) -> u8 {
    let word = (id ^ (at / 8).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> (at % 8 * 8)) as u8
}

/// Makes bytes of a number.
pub(crate) fn fill(id: u64, bytes: &mut [u8]) {
    (0..).zip(bytes).for_each(|(at, to)| *to = byte(id, at));
}

/// Whether bytes are those of a number.
pub(crate) fn is(id: u64, bytes: &[u8]) -> bool {
    (0..).zip(bytes).all(|(at, found)| *found == byte(id, at))
}

/// How long a thing is that is made of a number.
pub(crate) fn length(id: u64, most: u64) -> usize {
    (1 + (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % most) as usize
}

/// Whether a page of a file that is made of a number is a hole: one that is not written, and reads as zeroes.
pub(crate) fn is_hole(id: u64, page: u64) -> bool {
    (id + page) % 5 == 3
}

/// The byte at a place of a file that is made of a number.
fn file_byte(id: u64, at: u64) -> u8 {
    if is_hole(id, at / PAGE) { 0 } else { byte(id, at) }
}

/// Makes bytes of a number: those of a file from `start` on.
pub(crate) fn fill_file(id: u64, start: u64, bytes: &mut [u8]) {
    (start..).zip(bytes).for_each(|(at, to)| *to = file_byte(id, at));
}

/// Whether bytes are those of a file from `start` on that is made of a number.
pub(crate) fn is_file(id: u64, start: u64, bytes: &[u8]) -> bool {
    (start..).zip(bytes).all(|(at, found)| *found == file_byte(id, at))
}

/// Whether so many bytes of a file from `start` on that is made of a number are holes, or zeroes all the same.
pub(crate) fn is_hollow(id: u64, start: u64, bytes: u64) -> bool {
    (start..start + bytes).all(|at| file_byte(id, at) == 0)
}

/// The most bytes of a file.
pub(crate) const FILE: u64 = 400_000;
/// Files of a session.
pub(crate) const FILES: u64 = 4;

/// The number of the first file of a session that kernel `step` of a chain leaves; the token of each file is its number.
pub(crate) fn first_file(seed: u64, step: u64) -> u64 {
    (seed * 100 + step) * FILES
}
