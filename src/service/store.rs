//! The descriptor store of a service manager, as systemd has it.
//!
//! A service gives its manager descriptors to keep, and is started with them again after it has ended in
//! whatever way. What passes is documented: a datagram to the socket that `NOTIFY_SOCKET` names
//! (`sd_notify(3)`, `sd_pid_notify_with_fds(3)`), and three variables (`sd_listen_fds(3)`).
//!
//! ```text
//! service  ──  FDSTORE=1 FDNAME=cache, a descriptor  ──>  manager
//! manager  ──  LISTEN_PID=812 LISTEN_FDS=2 LISTEN_FDNAMES=listen:cache, descriptors 3 and 4  ──>  service
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use crate::jump::LISTEN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};

/// The first of the numbers that passed descriptors have.
const FIRST: RawFd = 3;

/// The most of them that are looked for: as many descriptors as Linux gives a process (`fs.nr_open`, by default).
const MOST: usize = 1 << 20;

/// Seconds that a manager has to take what it is sent.
const PATIENCE: u64 = 5;

/// Has the service manager keep a descriptor for a successor of this process, under a name. Returns whether
/// there is a manager; it can have been told to keep none (systemd: `FileDescriptorStoreMax=`).
pub(super) fn keep(name: &str, fd: BorrowedFd<'_>) -> io::Result<bool> {
    // A memfd cannot be polled, and is kept. A socket whose other end is gone would be dropped.
    let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
    notify(text.as_bytes(), Some(fd))
}

/// Tells the service manager that the service has begun. Returns whether there is a manager.
pub(super) fn ready() -> io::Result<bool> {
    notify(b"READY=1\n", None)
}

/// Has the service manager drop what it keeps under a name. Returns whether there is a manager.
pub(super) fn drop_kept(name: &str) -> io::Result<bool> {
    notify(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes(), None)
}

/// Until when a manager is waited for, however many signals come meanwhile.
#[derive(Clone, Copy)]
struct Until(Instant);

impl Until {
    /// Returns how long that is from now on, which is not nothing.
    fn left(self) -> io::Result<Duration> {
        match self.0.saturating_duration_since(Instant::now()) {
            Duration::ZERO => {
                let text = format!("the service manager took no message within {PATIENCE} s");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
            left => Ok(left),
        }
    }
}

/// Sends a message to the service manager, if there is one, and waits until it was read.
fn notify(text: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(false);
    };
    let path = path.as_bytes();
    let addr = match path.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let until = Until(Instant::now() + Duration::from_secs(PATIENCE));
    send(socket.as_fd(), &addr, text, fd, until)?;
    // The manager takes messages in order, and tells by closing this that it has taken all before: a
    // process that ends at once can be one that it knows no longer.
    let (taken, barrier) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    send(socket.as_fd(), &addr, b"BARRIER=1", Some(barrier.as_fd()), until)?;
    drop(barrier);
    loop {
        let left = Timespec::try_from(until.left()?).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&taken, PollFlags::empty())], Some(&left)) {
            // In the second case there is no time left.
            Err(Errno::INTR) | Ok(0) => {}
            answered => return Ok(answered.map(|_| true)?),
        }
    }
}

/// Sends one datagram, with a descriptor or without.
fn send(
    socket: BorrowedFd<'_>,
    addr: &SocketAddrUnix,
    text: &[u8],
    fd: Option<BorrowedFd<'_>>,
    until: Until,
) -> io::Result<()> {
    loop {
        let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        // Where its queue is full, too: then a signal interrupts the call, and nothing was sent.
        set_socket_timeout(socket, Timeout::Send, Some(until.left()?))?;
        let parts = [io::IoSlice::new(text)];
        match sendmsg_addr(socket, addr, &parts, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(|_| ())?),
        }
    }
}

/// Takes the descriptors that a service manager started this process with, with their names. None if it has
/// started another process with them.
///
/// # Safety
/// Nothing else in the process owns the descriptors from 3 on, as many as `LISTEN_FDS` says, and this is
/// called once.
pub(super) unsafe fn take() -> Vec<(String, OwnedFd)> {
    let value = |name| std::env::var(name).ok();
    let [pid, count, names] = LISTEN.map(value);
    let is_own = pid.is_some_and(|pid| pid == std::process::id().to_string());
    let count = if is_own { count } else { None };
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    let names = names.unwrap_or_default();
    let mut names = names.split(':');
    let mut taken = Vec::new();
    for fd in (FIRST..).take(count.min(MOST)) {
        let name = names.next().unwrap_or_default();
        // SAFETY: no other owner (contract), so nothing closes it; if it is not open, the call says so.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        // What came between, a wrapper say, may have closed one: the others are there all the same.
        if rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).is_err() {
            continue;
        }
        // SAFETY: open, owned by nothing else, and taken once (contract).
        taken.push((name.to_owned(), unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    taken
}
