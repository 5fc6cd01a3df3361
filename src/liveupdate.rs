//! An arena that outlives Linux: its memfd, kept by the live update of Linux 7.3 and later.
//!
//! A live update replaces the running kernel by kexec while memory stays where it is. Linux keeps
//! a memfd over it if a process asks: it opens the device, creates a session under a name, and
//! preserves the memfd in it under a token. Both names are all that the next life must know: the
//! arena's first page says the rest ([`Arena::entry`](crate::arena::Arena::entry)).
//!
//! ```text
//!  first kernel                               second kernel
//!  ────────────                               ─────────────
//!  LiveUpdate::open                           LiveUpdate::open
//!      create("db")  ─> Session                   retrieve("db")  ─> Retrieved
//!          preserve(7, &arena, entry)                 arena(7)  ─> arena, entry
//!      … any work at all …                        Heirloom::revive(&arena, …, entry, …)
//!  NextKernel::load, jump  ═════ kexec ═════>         claim …, finish
//! ```
//!
//! Preserve at the start, not at the end. Linux pins the memfd's frames where they are and goes on
//! showing them to the process, and a handover of heirloom is whole at every instant; so what is
//! preserved in the arena later survives just as well, and nothing is left to be done in the short
//! time before the jump. Linux gives every page of the memfd a frame when it preserves it, holes
//! too, and counts them as used from then on.
//!
//! A [`Session`] lives as long as its descriptor: if its process ends before the jump, Linux lets
//! everything in it go. So the process that jumps must have it, or outlive those that do.
//!
//! Linux does live updates on x86-64 and arm64. The kernel needs `CONFIG_LIVEUPDATE`, `CONFIG_LIVEUPDATE_MEMFD` and the parameters `kho=on
//! liveupdate=on`, before the jump and after it.
//!
//! # Examples
//! A server that is started by every kernel in the same way:
//! ```no_run
//! use heirloom::Heirloom;
//! use heirloom::arena::{Arena, RangeSpec};
//! use heirloom::folio::NodeId;
//! use heirloom::kho::{PhysAddr, Run};
//! use heirloom::liveupdate::{LiveUpdate, SessionName, Token};
//! use heirloom::restore::SealPolicy;
//!
//! # fn serve(_: &Heirloom<&Arena>) -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const NAME: SessionName = SessionName::literal("db");
//! const MEMORY: Token = Token(7);
//!
//! let device = LiveUpdate::open()?;
//! let retrieved = device.retrieve(&NAME)?;
//! let (arena, entry) = match &retrieved {
//!     Some(session) => {
//!         let (arena, entry) = session.arena(MEMORY)?;
//!         (arena, Some(entry))
//!     }
//!     None => {
//!         let start = PhysAddr::new(1 << 32);
//!         let range = RangeSpec { start, bytes: 64 << 20, node: NodeId(0) };
//!         (Arena::create_for_live_update("db", &[range])?, None)
//!     }
//! };
//! let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
//! let heirloom = match entry {
//!     // SAFETY: the process that had the memory ended with its kernel.
//!     Some(entry) => unsafe {
//!         Heirloom::revive(&arena, &map, entry, "db 2.0", SealPolicy::Checked)
//!     }?,
//!     None => {
//!         let scratch = Run::covering(map[0].0.addr(), arena.scratch_bytes()).ok_or("scratch")?;
//!         // SAFETY: the memory was created just now, and nothing else uses it.
//!         unsafe { Heirloom::boot(&arena, &map, &[scratch], "db 1.0") }?
//!     }
//! };
//! if let Some(session) = retrieved {
//!     session.finish().map_err(|(_, error)| error)?;
//! }
//! let next = device.create(&NAME)?;
//! next.preserve(MEMORY, &arena, heirloom.entry())?;
//! // From here on the kernel may be replaced at any instant.
//! serve(&heirloom)?;
//! # Ok(())
//! # }
//! ```

mod abi;
mod error;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod kexec;
mod name;
mod session;
mod token;

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub use error::{Ioctl, LiveUpdateError};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use kexec::NextKernel;
pub use name::SessionName;
pub use session::{Retrieved, Session};
pub use token::Token;

/// Linux's device for live updates, open.
///
/// Linux lets one process at a time open it. Sessions do not need it once they are created or
/// retrieved.
#[derive(Debug)]
pub struct LiveUpdate {
    fd: OwnedFd,
}

impl LiveUpdate {
    /// Where the device is.
    pub const DEVICE: &str = error::DEVICE;

    /// Opens [`LiveUpdate::DEVICE`]. The first to open it after a jump makes Linux read what its
    /// predecessor left.
    ///
    /// # Errors
    /// [`LiveUpdateError::Device`]: there is none, another process has it, this one may not, or
    /// Linux could not read what its predecessor left.
    pub fn open() -> Result<Self, LiveUpdateError> {
        Self::open_at(Path::new(Self::DEVICE))
    }

    /// Does what [`LiveUpdate::open`] does, where the device has another name.
    ///
    /// # Errors
    /// As for [`LiveUpdate::open`].
    pub fn open_at(path: &Path) -> Result<Self, LiveUpdateError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_CLOEXEC);
        let file = options.open(path).map_err(|error| LiveUpdateError::Device {
            // An error without a number: the path has a NUL byte.
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
        })?;
        Ok(Self { fd: file.into() })
    }

    /// Creates a session, to be preserved into. It goes with its process, or over the next jump.
    ///
    /// # Errors
    /// [`LiveUpdateError::Ioctl`]: Linux refused; `EEXIST` says that there is such a session.
    pub fn create(&self, name: &SessionName) -> Result<Session, LiveUpdateError> {
        abi::create_session(self.fd.as_fd(), name).map(Session::from)
    }

    /// Returns the session of that name that the kernel before this one handed over: `None` if
    /// there is none, as in a first life.
    ///
    /// # Errors
    /// [`LiveUpdateError::Ioctl`]: Linux refused; `EINVAL` says that the session was retrieved
    /// before.
    pub fn retrieve(&self, name: &SessionName) -> Result<Option<Retrieved>, LiveUpdateError> {
        match abi::retrieve_session(self.fd.as_fd(), name) {
            Ok(fd) => Ok(Some(Retrieved::from(fd))),
            Err(LiveUpdateError::Ioctl { errno: libc::ENOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for LiveUpdate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
