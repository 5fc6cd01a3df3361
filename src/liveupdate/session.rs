//! Sessions: files on their way into the next kernel, and out of the last one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use heirloom_restore::Entry;
use rustix::fs::SealFlags;

use super::{LiveUpdateError, Token, abi};
use crate::arena::Arena;

/// A session of this kernel: what is preserved in it goes over the next jump, if the session is
/// open until then.
///
/// Dropped before, it lets everything go: the memory stays, and stays this kernel's.
#[derive(Debug)]
pub struct Session {
    fd: OwnedFd,
}

impl Session {
    /// Preserves an arena under a token, and writes into the arena where its handover begins.
    ///
    /// `entry` is that of the handover that now runs on the arena; what is preserved in it later
    /// survives too. Linux gives each page of the memfd a frame and pins it, at a cost that grows
    /// with the arena's size.
    ///
    /// # Errors
    /// - [`LiveUpdateError::ExecSeal`]: create it with
    ///   [`create_for_live_update`](Arena::create_for_live_update).
    /// - [`LiveUpdateError::Leave`]: the entry could not be written.
    /// - [`LiveUpdateError::Ioctl`]: Linux refused: the token is used in this session, the memfd
    ///   is preserved already, or there is no memory for its holes.
    /// - [`LiveUpdateError::Os`]: the seals could not be read.
    pub fn preserve(
        &self,
        token: Token,
        arena: &Arena,
        entry: Entry,
    ) -> Result<(), LiveUpdateError> {
        let seals = rustix::fs::fcntl_get_seals(arena).map_err(|errno| LiveUpdateError::Os {
            call: "fcntl(F_GET_SEALS)",
            errno: errno.raw_os_error(),
        })?;
        if seals.contains(SealFlags::EXEC) {
            return Err(LiveUpdateError::ExecSeal);
        }
        // First the entry: an arena that arrived would otherwise be of no use.
        arena.leave(entry).map_err(|reason| LiveUpdateError::Leave { reason })?;
        self.preserve_fd(token, arena.as_fd())
    }

    /// Preserves any file that Linux can: a memfd of huge pages, for one, it cannot.
    ///
    /// # Errors
    /// [`LiveUpdateError::Ioctl`]: Linux refused.
    pub fn preserve_fd(&self, token: Token, fd: BorrowedFd<'_>) -> Result<(), LiveUpdateError> {
        abi::preserve_fd(self.as_fd(), fd, token)
    }
}

/// A session that the kernel before this one handed over.
///
/// Dropped, it is finished: what was not retrieved is gone then.
#[derive(Debug)]
pub struct Retrieved {
    fd: OwnedFd,
}

impl Retrieved {
    /// Returns the arena that was preserved under a token, and where its handover begins: both for
    /// [`Heirloom::revive`](crate::Heirloom::revive).
    ///
    /// A token gives its file once. The arena lives on when the session is finished, and can be
    /// preserved anew.
    ///
    /// # Errors
    /// - [`LiveUpdateError::Ioctl`]: Linux refused: there is no such token, or the memory could
    ///   not be restored.
    /// - [`LiveUpdateError::Arena`]: it is no arena, or its entry is not whole.
    /// - [`LiveUpdateError::NoEntry`]: no entry was left in it.
    pub fn arena(&self, token: Token) -> Result<(Arena, Entry), LiveUpdateError> {
        let fault = |reason| LiveUpdateError::Arena { token, reason };
        let arena = Arena::open(self.fd(token)?).map_err(fault)?;
        let entry = arena.entry().map_err(fault)?.ok_or(LiveUpdateError::NoEntry { token })?;
        Ok((arena, entry))
    }

    /// Returns the file that was preserved under a token. It closes on exec.
    ///
    /// # Errors
    /// [`LiveUpdateError::Ioctl`]: Linux refused.
    pub fn fd(&self, token: Token) -> Result<OwnedFd, LiveUpdateError> {
        abi::retrieve_fd(self.as_fd(), token)
    }

    /// Tells Linux that everything of use was retrieved: it frees the rest.
    ///
    /// # Errors
    /// [`LiveUpdateError::Ioctl`]: Linux refused; the session is as it was, and given back.
    pub fn finish(self) -> Result<(), (Self, LiveUpdateError)> {
        match abi::finish(self.as_fd()) {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }
}

impl From<OwnedFd> for Session {
    /// Returns a session that another process created and sent.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<OwnedFd> for Retrieved {
    /// Returns a session that another process retrieved and sent.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Retrieved {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
