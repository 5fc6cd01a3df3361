//! Which process owns a file: the lock on it, taken, given up and looked for.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::arena::ArenaError;
use crate::arena::error::os;
use crate::arena::file::above_standard;

/// Which file: the device and the number on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    device: u64,
    number: u64,
}

impl Key {
    /// Stands for a file that there is none of.
    pub(super) const NONE: Self = Self { device: 0, number: 0 };

    pub(super) fn of(file: BorrowedFd<'_>) -> Result<Self, ArenaError> {
        let stat = rustix::fs::fstat(file).map_err(os("fstat"))?;
        Ok(Self { device: stat.st_dev, number: stat.st_ino })
    }
}

pub(in crate::arena) fn pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Returns the lock on a file as a descriptor; `None` if another process has it. Allocates nothing.
pub(super) fn lock(file: RawFd) -> Result<Option<OwnedFd>, ArenaError> {
    // SAFETY: open: the file of a record in the list, or of a caller that borrows it.
    let file = unsafe { BorrowedFd::borrow_raw(file) };
    // Not `/proc/self`: a thread may have a table of descriptors of its own.
    lock_in("/proc/thread-self/fd", file)
}

fn lock_in(directory: &str, file: BorrowedFd<'_>) -> Result<Option<OwnedFd>, ArenaError> {
    let mut path = Path::new();
    let _ = write!(path, "{directory}/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = match rustix::fs::open(path.as_str(), flags, Mode::empty()) {
        Ok(own) => own,
        // Nothing is said of whether there is a `/proc`: in a moment the file may be opened anew.
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR)) => {
            return Err(os("open")(errno));
        }
        // No `/proc`, or no right to open the file anew. The description that came with the
        // descriptor serves too, but for one thing: other descriptors of it keep the lock when
        // the process ends.
        Err(_) => rustix::io::fcntl_dupfd_cloexec(file, 3).map_err(os("fcntl(F_DUPFD_CLOEXEC)"))?,
    };
    let own = above_standard(own)?;
    Ok(try_lock(own.as_fd())?.then_some(own))
}

/// Locks what was [unlocked](unlock). Returns whether no other process has it. Opens nothing.
pub(super) fn lock_again(lock: RawFd) -> Result<bool, ArenaError> {
    // SAFETY: from `lock`, of a record in the list, whose lock the caller holds: so it is open.
    try_lock(unsafe { BorrowedFd::borrow_raw(lock) })
}

fn try_lock(file: BorrowedFd<'_>) -> Result<bool, ArenaError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(os("flock")(errno)),
    }
}

/// Ends a lock, if this process is the owner. It stays open.
pub(super) fn unlock(lock: RawFd, owner: i32) {
    if owner == pid() {
        // SAFETY: from `lock`, of a record that is or was in the list, whose lock the caller holds: so it is open.
        let lock = unsafe { BorrowedFd::borrow_raw(lock) };
        // Closing unlocks where no forked child has a copy. It cannot fail on what was locked.
        let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
    }
}

/// Returns the process that holds the lock on a file. `None`: none, one that cannot be seen from
/// here, or one that has ended.
pub(super) fn owner(key: Key) -> Option<i32> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let (major, minor) = (rustix::fs::major(key.device), rustix::fs::minor(key.device));
    let file = format!("{major:02x}:{minor:02x}:{}", key.number);
    locks.lines().find_map(|line| {
        // 7: FLOCK  ADVISORY  WRITE 4321 00:01:1026 0 EOF
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() != Some("FLOCK") {
            return None;
        }
        let (pid, held) = (words.nth(2)?, words.next()?);
        pid.parse().ok().filter(|pid| held == file && *pid > 0 && lives(*pid))
    })
}

/// Returns whether the process has not ended. One that nothing has waited for yet has.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // 4321 (any name) S 1 …
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.bytes().next());
    state.is_some_and(|state| !b"ZX".contains(&state))
}

/// A short text that is not in the heap.
struct Path {
    bytes: [u8; 48],
    length: usize,
}

impl Path {
    const fn new() -> Self {
        Self { bytes: [0; 48], length: 0 }
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()).unwrap_or_default()
    }
}

impl core::fmt::Write for Path {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd() -> OwnedFd {
        rustix::fs::memfd_create("process", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn a_lock_excludes_another_and_names_its_process() {
        let file = memfd();
        let key = Key::of(file.as_fd()).unwrap();
        assert_eq!(owner(key), None);
        let held = lock(file.as_raw_fd()).unwrap().expect("free");
        assert!(lock(file.as_raw_fd()).unwrap().is_none());
        assert_eq!(owner(key), Some(pid()));
        unlock(held.as_raw_fd(), pid());
        assert_eq!(owner(key), None);
        assert!(lock(file.as_raw_fd()).unwrap().is_some());
        assert_eq!(lock_again(held.as_raw_fd()), Ok(true));
        assert!(lock(file.as_raw_fd()).unwrap().is_none());
    }

    #[test]
    fn without_proc_the_descriptor_itself_is_locked() {
        let file = memfd();
        let held = lock_in("/no/such/directory", file.as_fd()).unwrap().expect("free");
        assert!(lock(file.as_raw_fd()).unwrap().is_none());
        // Another descriptor of the same open file has the lock too.
        assert!(lock_in("/no/such/directory", file.as_fd()).unwrap().is_some());
        unlock(held.as_raw_fd(), pid());
        assert!(lock(file.as_raw_fd()).unwrap().is_some());
    }
}
