//! The file that an arena is: how a memfd is created, written and told from other files.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, SealFlags};

use super::error::{MapFault, os};
use super::range::ArenaRange;
use super::{ArenaError, map};
use heirloom_kho::PageSize;

/// The most bytes of an arena's name: what Linux leaves of a file's name for a memfd's.
pub const MAX_NAME: usize = 249;

/// Writes all of `bytes` at `at`.
pub(super) fn write_all(
    fd: BorrowedFd<'_>,
    mut bytes: &[u8],
    mut at: u64,
) -> Result<(), ArenaError> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(fd, bytes, at).map_err(os("pwrite"))?;
        bytes = bytes.get(written..).unwrap_or_default();
        at += written as u64;
    }
    Ok(())
}

/// Refuses a name that Linux refuses without saying why.
pub(super) fn check_name(name: &str) -> Result<(), ArenaError> {
    if name.len() > MAX_NAME || name.bytes().any(|byte| byte == 0) {
        return Err(ArenaError::Name { bytes: name.len(), limit: MAX_NAME });
    }
    Ok(())
}

/// Creates a memfd that closes on exec and can be sealed.
pub(super) fn create_memfd(name: &str) -> Result<OwnedFd, ArenaError> {
    check_name(name)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // The memory shall not be executable. Kernels before Linux 6.3 do not know the flag.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
    .map_err(os("memfd_create"))
}

/// Returns the page size and the ranges that the first page of a file of `bytes` bytes describes.
pub(super) fn described(
    fd: BorrowedFd<'_>,
    bytes: u64,
) -> Result<(PageSize, Vec<ArenaRange>), ArenaError> {
    let mut first = vec![0_u8; map::BYTES];
    let read = rustix::io::pread(fd, &mut *first, 0).map_err(os("pread"))?;
    if read < first.len() {
        return Err(ArenaError::BadMap(MapFault::TooShort {
            found: read as u64,
            needed: map::BYTES as u64,
        }));
    }
    map::decode(&first, bytes)
}

/// Returns the size of a memfd that cannot shrink.
pub(crate) fn sealed_bytes(fd: BorrowedFd<'_>) -> Result<u64, ArenaError> {
    let stat = rustix::fs::fstat(fd).map_err(os("fstat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ArenaError::NotMemfd);
    }
    match rustix::fs::fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
        Ok(_) => return Err(ArenaError::NotSealed),
        // How Linux says that the file is of a kind that has no seals.
        Err(rustix::io::Errno::INVAL) => return Err(ArenaError::NotMemfd),
        Err(errno) => return Err(os("fcntl(F_GET_SEALS)")(errno)),
    }
    u64::try_from(stat.st_size).map_err(|_| ArenaError::NotMemfd)
}
