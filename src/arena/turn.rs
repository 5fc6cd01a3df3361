//! How often the arena has changed hands: a number in its first page, which each new owner makes another one.
//!
//! An owner that lends the memory to a process it is about to start lets the lock go first. Where the start fails it takes
//! the lock again, and the lock does not tell whether another process had it meanwhile, and cleared the memory say. The
//! number does:
//!
//! ```text
//! 3960  turn  u64, little-endian: 0 where none was ever written
//! ```
//!
//! It is right before the slots of the entry, where builds that do not know it neither look nor write: such an owner is not
//! counted.

use std::os::fd::BorrowedFd;

use super::error::{MapFault, os};
use super::file::write_all;
use super::{ArenaError, entry, map};

const AT: u64 = 3960;
const BYTES: u64 = size_of::<u64>() as u64;

const _: () = assert!(map::BYTES as u64 <= AT && AT + BYTES <= entry::SLOTS[0]);

/// Returns the number.
pub(super) fn read(fd: BorrowedFd<'_>) -> Result<u64, ArenaError> {
    let mut bytes = [0; BYTES as usize];
    let read = rustix::io::pread(fd, &mut bytes, AT).map_err(os("pread"))?;
    whole(read)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Makes it another one, for a new owner, which has the lock and has not touched the memory yet.
pub(super) fn count(fd: BorrowedFd<'_>) -> Result<(), ArenaError> {
    // (It is compared, and never relied on otherwise: a forged one may wrap.)
    let next = read(fd)?.wrapping_add(1);
    write_all(fd, &next.to_le_bytes(), AT)
}

/// Refuses a file that has no room for the number: no arena.
const fn whole(bytes: usize) -> Result<(), ArenaError> {
    let bytes = bytes as u64;
    if bytes == BYTES {
        return Ok(());
    }
    Err(ArenaError::BadMap(MapFault::TooShort { found: AT + bytes, needed: AT + BYTES }))
}
