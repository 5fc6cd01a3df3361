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

/// What a service says, which may be both at once. The rest needs no answer: how it is, or that it waits until this was
/// read (which it learns as its descriptor is closed).
#[derive(Debug)]
pub(super) struct Message {
    /// It has begun.
    pub(super) ready: bool,
    /// What it asks for.
    pub(super) store: Option<Store>,
}

/// What a service asks its store of descriptors for.
#[derive(Debug)]
pub(super) enum Store {
    /// To keep these descriptors under a name.
    Keep(String, Vec<OwnedFd>),
    /// To drop what is kept under a name.
    Drop(String),
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
    let is = |key| text.lines().any(|line| line.strip_prefix(key) == Some("=1"));
    let name = value("FDNAME").filter(|name| is_name(name));
    // As systemd has it: nothing is dropped without a name; `stored` where the service gives none to keep something
    // under, or one that could not be listed.
    let store = if is("FDSTOREREMOVE") {
        name.map(|name| Store::Drop(name.to_owned()))
    } else {
        is("FDSTORE").then(|| Store::Keep(name.unwrap_or("stored").to_owned(), fds))
    };
    Message { ready: is("READY"), store }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_systemd_reads_them() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let keep = |text| match read(text, vec![null()]) {
            Message { ready, store: Some(Store::Keep(name, fds)) } => (name, fds.len(), ready),
            other => panic!("{other:?}"),
        };
        assert_eq!(keep("FDSTORE=1\nFDPOLL=0\nFDNAME=cache\n"), ("cache".to_owned(), 1, false));
        assert_eq!(keep("FDNAME=cache\nFDSTORE=1"), ("cache".to_owned(), 1, false));
        for nameless in ["FDSTORE=1", "FDSTORE=1\nFDNAME=", "FDSTORE=1\nFDNAME=a:b"] {
            assert_eq!(keep(nameless), ("stored".to_owned(), 1, false), "{nameless:?}");
        }
        let dropped = |text| match read(text, Vec::new()) {
            Message { ready, store: Some(Store::Drop(name)) } => (name, ready),
            other => panic!("{other:?}"),
        };
        assert_eq!(dropped("FDSTOREREMOVE=1\nFDNAME=cache"), ("cache".to_owned(), false));
        // What has no name, or none that it can have, is not dropped with others that have none.
        for nameless in
            ["FDSTOREREMOVE=1", "FDSTOREREMOVE=1\nFDNAME=a:b", "FDSTORE=1\nFDSTOREREMOVE=1"]
        {
            assert!(read(nameless, Vec::new()).store.is_none(), "{nameless:?}");
        }
        // One message may say both.
        for text in ["READY=1\nFDSTORE=1\nFDNAME=cache", "FDSTORE=1\nFDNAME=cache\nREADY=1\n"] {
            assert_eq!(keep(text), ("cache".to_owned(), 1, true), "{text:?}");
        }
        assert_eq!(dropped("READY=1\nFDSTOREREMOVE=1\nFDNAME=a"), ("a".to_owned(), true));
        assert!(matches!(read("READY=1\n", Vec::new()), Message { ready: true, store: None }));
        for other in ["", "READY=0", "BARRIER=1", "FDSTORE=0\nFDNAME=cache", "FDSTORE", "READY"] {
            let read = read(other, vec![null()]);
            assert!(matches!(read, Message { ready: false, store: None }), "{other:?}: {read:?}");
        }
    }
}
