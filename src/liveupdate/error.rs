//! What can go wrong with a live update, and what Linux means by it.

use core::fmt;
use std::io;

use super::Token;
use crate::arena::ArenaError;

/// The device of live updates.
pub(super) const DEVICE: &str = "/dev/liveupdate";

/// A call of the device or of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Ioctl {
    /// A new session.
    CreateSession,
    /// A session of the kernel before.
    RetrieveSession,
    /// A file into a session.
    PreserveFd,
    /// A file out of a session.
    RetrieveFd,
    /// The end of a retrieved session.
    Finish,
}

impl fmt::Display for Ioctl {
    /// Writes what Linux's header calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateSession => "LIVEUPDATE_IOCTL_CREATE_SESSION",
            Self::RetrieveSession => "LIVEUPDATE_IOCTL_RETRIEVE_SESSION",
            Self::PreserveFd => "LIVEUPDATE_SESSION_PRESERVE_FD",
            Self::RetrieveFd => "LIVEUPDATE_SESSION_RETRIEVE_FD",
            Self::Finish => "LIVEUPDATE_SESSION_FINISH",
        })
    }
}

/// An error of a live update. Where one is returned, what was preserved is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LiveUpdateError {
    /// The device could not be opened.
    Device {
        /// The error number that Linux gave.
        errno: i32,
    },
    /// Linux refused a call.
    Ioctl {
        /// The call.
        ioctl: Ioctl,
        /// The file it was about.
        token: Option<Token>,
        /// The error number that Linux gave.
        errno: i32,
    },
    /// Linux said that the call succeeded, and gave no descriptor.
    NoFd {
        /// The call.
        ioctl: Ioctl,
        /// What it gave.
        fd: i32,
    },
    /// Another system call was refused.
    Os {
        /// The call.
        call: &'static str,
        /// The error number that Linux gave.
        errno: i32,
    },
    /// No name of a session: empty, too long, or with a NUL byte.
    Name {
        /// How many bytes it has.
        bytes: usize,
    },
    /// The arena is sealed against changes of its execute bits, and would come back read-only:
    /// one of `Arena::create_for_live_update` is not.
    ExecSeal,
    /// What was preserved under the token is no arena.
    Arena {
        /// The token.
        token: Token,
        /// Why not.
        reason: ArenaError,
    },
    /// The arena under the token names no handover.
    NoEntry {
        /// The token.
        token: Token,
    },
    /// The arena's entry could not be written.
    Leave {
        /// Why not.
        reason: ArenaError,
    },
}

/// Returns what Linux means by the error of a call, where its own words do not say it.
const fn meaning(ioctl: Ioctl, errno: i32) -> Option<&'static str> {
    Some(match (ioctl, errno) {
        (_, libc::ENOTTY) => "the descriptor is not of Linux's live update",
        (Ioctl::CreateSession, libc::EEXIST) => "there is a session of that name",
        (Ioctl::RetrieveSession, libc::ENOENT) => {
            "the kernel before handed over no session of that name"
        }
        (Ioctl::RetrieveSession, libc::EINVAL) => "the session was retrieved before",
        (Ioctl::PreserveFd, libc::EEXIST) => "another file of the session has that token",
        (Ioctl::PreserveFd, libc::EBUSY) => "the file is preserved already",
        (Ioctl::PreserveFd, libc::ENOENT) => {
            "this kernel preserves no files of that kind (CONFIG_LIVEUPDATE_MEMFD)"
        }
        (Ioctl::PreserveFd, libc::EOPNOTSUPP) => "the file has a seal that Linux does not keep",
        (Ioctl::PreserveFd, libc::ENOSPC) => "the session is full",
        (Ioctl::RetrieveFd, libc::ENOENT) => "no file of the session has that token",
        _ => return None,
    })
}

fn write_errno(
    f: &mut fmt::Formatter<'_>,
    errno: i32,
    meaning: Option<&'static str>,
) -> fmt::Result {
    write!(f, ": {}", io::Error::from_raw_os_error(errno))?;
    meaning.map_or(Ok(()), |meaning| write!(f, ": {meaning}"))
}

impl fmt::Display for LiveUpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Device { errno } => {
                f.write_str(DEVICE)?;
                let meaning = match errno {
                    libc::ENOENT | libc::ENXIO | libc::ENODEV => Some(
                        "this kernel does no live updates (CONFIG_LIVEUPDATE, booted with \
                         kho=on liveupdate=on)",
                    ),
                    libc::EBUSY => Some("another process has it open"),
                    libc::EIO => Some("the kernel could not read what its predecessor left"),
                    _ => None,
                };
                write_errno(f, errno, meaning)
            }
            Self::Ioctl { ioctl, token, errno } => {
                write!(f, "{ioctl}")?;
                if let Some(token) = token {
                    write!(f, " (token {token})")?;
                }
                write_errno(f, errno, meaning(ioctl, errno))
            }
            Self::NoFd { ioctl, fd } => write!(f, "{ioctl} gave {fd} for a descriptor"),
            Self::Os { call, errno } => {
                f.write_str(call)?;
                write_errno(f, errno, None)
            }
            Self::Name { bytes } => write!(
                f,
                "a session's name has 1 to 63 bytes, none of them NUL; this one has {bytes}"
            ),
            Self::ExecSeal => f.write_str(
                "the arena is sealed against changes of its execute bits, and Linux would give it \
                 back read-only",
            ),
            Self::Arena { token, reason } => write!(f, "token {token} is no arena: {reason}"),
            Self::NoEntry { token } => {
                write!(f, "the arena under token {token} names no handover")
            }
            Self::Leave { reason } => write!(f, "the entry was not written: {reason}"),
        }
    }
}

impl core::error::Error for LiveUpdateError {}
