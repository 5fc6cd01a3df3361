//! The file that an arena is: how a memfd is created, written and told from other files.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use super::error::{MapFault, os};
use super::range::ArenaRange;
use super::{ArenaError, map};
use heirloom_kho::PageSize;

/// The most bytes of an arena's name: what Linux leaves of a file's name for a memfd's.
pub const MAX_NAME: usize = 249;

/// Refuses to make a file of `end` bytes, or to write up to there, where this process may not (`RLIMIT_FSIZE`): Linux would
/// end the process (`SIGXFSZ`).
pub(super) fn check_limit(call: &'static str, end: u64) -> Result<(), ArenaError> {
    match rustix::process::getrlimit(Resource::Fsize).current {
        Some(limit) if end > limit => Err(os(call)(Errno::FBIG)),
        _ => Ok(()),
    }
}

/// Makes an empty memfd so long.
pub(super) fn set_size(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), ArenaError> {
    check_limit("ftruncate", bytes)?;
    rustix::fs::ftruncate(fd, bytes).map_err(os("ftruncate"))
}

/// Writes all of `bytes` at `at`, which are in the file.
pub(super) fn write_all(
    fd: BorrowedFd<'_>,
    mut bytes: &[u8],
    mut at: u64,
) -> Result<(), ArenaError> {
    check_limit("pwrite", at.saturating_add(bytes.len() as u64))?;
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(fd, bytes, at).map_err(os("pwrite"))?;
        if written == 0 {
            let needed = at + bytes.len() as u64;
            return Err(ArenaError::BadMap(MapFault::TooShort { found: at, needed }));
        }
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
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
    .map_err(os("memfd_create"))
}

/// Returns the descriptor, or another of the same file, that is none of the standard three: those are written to, and replaced
/// by others, in a process that was started without them too.
pub(super) fn above_standard(fd: OwnedFd) -> Result<OwnedFd, ArenaError> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(os("fcntl(F_DUPFD_CLOEXEC)"))
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
        Err(Errno::INVAL) => return Err(ArenaError::NotMemfd),
        Err(errno) => return Err(os("fcntl(F_GET_SEALS)")(errno)),
    }
    u64::try_from(stat.st_size).map_err(|_| ArenaError::NotMemfd)
}
