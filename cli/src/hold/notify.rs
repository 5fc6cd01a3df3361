//! The socket to which a service sends its messages.

use std::fs::DirBuilder;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use heirloom::service::is_name;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The most descriptors that come with one message: as many as Linux sends (`SCM_MAX_FD`).
const MOST_FDS: usize = 253;

/// The most bytes of a message that are looked at.
const MOST_BYTES: usize = 4096;

/// What a service asks for.
#[derive(Debug)]
pub(super) enum Message {
    /// To keep these descriptors under a name.
    Keep(String, Vec<OwnedFd>),
    /// To drop what is kept under a name.
    Drop(String),
    /// Nothing: it has begun.
    Ready,
    /// What needs no answer: how it is, or that it waits until this was read (which it
    /// learns as its descriptor is closed).
    Other,
}

/// The socket, in a directory that nothing of another user's reaches.
#[derive(Debug)]
pub(super) struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    pub(super) fn new() -> Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let base = runtime.filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
        // The service may go elsewhere.
        let base = std::path::absolute(base)?;
        let directory =
            (0_u32..).map(|n| base.join(format!("heirloom-{}-{n}", std::process::id())));
        for directory in directory {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                created => {
                    created.with_context(|| directory.display().to_string())?;
                    let path = directory.join("notify");
                    let socket = UnixDatagram::bind(&path);
                    let socket = socket.with_context(|| path.display().to_string())?;
                    socket.set_nonblocking(true)?;
                    return Ok(Self { socket, path });
                }
            }
        }
        anyhow::bail!("no directory for a socket in {}", base.display())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the next message, if one is there.
    pub(super) fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = [0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let length = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            received => received.context("the service's messages")?.bytes,
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                fds.extend(came);
            }
        }
        let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
        Ok(Some(read(&text, fds)))
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}

/// Reads a message: lines of `KEY=value`.
fn read(text: &str, fds: Vec<OwnedFd>) -> Message {
    let value = |key| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    // As systemd has it: `stored` where the service gives no name, or one that could not be listed.
    let name = value("FDNAME").filter(|name| is_name(name)).unwrap_or("stored").to_owned();
    match (value("FDSTORE"), value("FDSTOREREMOVE")) {
        (_, Some("1")) => Message::Drop(name),
        (Some("1"), _) => Message::Keep(name, fds),
        _ if value("READY") == Some("1") => Message::Ready,
        _ => Message::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_systemd_reads_them() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let keep = |text| match read(text, vec![null()]) {
            Message::Keep(name, fds) => (name, fds.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(keep("FDSTORE=1\nFDPOLL=0\nFDNAME=cache\n"), ("cache".to_owned(), 1));
        assert_eq!(keep("FDNAME=cache\nFDSTORE=1"), ("cache".to_owned(), 1));
        for nameless in ["FDSTORE=1", "FDSTORE=1\nFDNAME=", "FDSTORE=1\nFDNAME=a:b"] {
            assert_eq!(keep(nameless), ("stored".to_owned(), 1), "{nameless:?}");
        }
        let dropped = read("FDSTOREREMOVE=1\nFDNAME=cache", Vec::new());
        assert!(matches!(dropped, Message::Drop(name) if name == "cache"));
        assert!(matches!(read("READY=1\n", Vec::new()), Message::Ready));
        for other in ["", "READY=0", "BARRIER=1", "FDSTORE=0\nFDNAME=cache", "FDSTORE"] {
            assert!(matches!(read(other, vec![null()]), Message::Other), "{other:?}");
        }
    }
}
