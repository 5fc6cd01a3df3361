//! The calls of `/dev/liveupdate`, as structures and numbers: `include/uapi/linux/liveupdate.h`.
//!
//! Every call passes one structure whose first field is its size, which lets the structure grow.
//! The number of a call says nothing of its direction (`_IO`): Linux reads and writes the
//! structure, and where the call gives a descriptor, it writes it into `fd`.

use core::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::{Opcode, Updater, opcode};

use super::{Ioctl, LiveUpdateError, SessionName, Token};

/// The type of all these calls.
const TYPE: u8 = 0xba;

const CREATE_SESSION: Opcode = opcode::none(TYPE, 0x00);
const RETRIEVE_SESSION: Opcode = opcode::none(TYPE, 0x01);
const PRESERVE_FD: Opcode = opcode::none(TYPE, 0x40);
const RETRIEVE_FD: Opcode = opcode::none(TYPE, 0x41);
const FINISH: Opcode = opcode::none(TYPE, 0x42);

/// On the device: a session of this name, created or retrieved.
#[repr(C)]
struct NamedSession {
    size: u32,
    /// Out: the session.
    fd: i32,
    /// Ends with a NUL.
    name: [u8; SessionName::BYTES],
}

/// On a session: a file and its token.
#[repr(C)]
struct TokenFd {
    size: u32,
    /// In to preserve, out to retrieve.
    fd: i32,
    token: u64,
}

/// On a session.
#[repr(C)]
struct Finish {
    size: u32,
    /// Zero.
    reserved: u32,
}

const _: () = {
    assert!(size_of::<NamedSession>() == 72 && align_of::<NamedSession>() == 4);
    assert!(offset_of!(NamedSession, fd) == 4 && offset_of!(NamedSession, name) == 8);
    // Linux aligns the token to 8 on every machine; where `u64` is aligned to 4 it lies at 8 too.
    assert!(size_of::<TokenFd>() == 16);
    assert!(offset_of!(TokenFd, fd) == 4 && offset_of!(TokenFd, token) == 8);
    assert!(size_of::<Finish>() == 8 && offset_of!(Finish, reserved) == 4);
};

/// A structure that one kind of descriptor takes with every number it is used with here.
///
/// # Safety
/// - Linux takes this layout for every number that [`call`] is given with it, and writes no more
///   than that.
unsafe trait Argument {}
// SAFETY: the layout of `CREATE_SESSION` and `RETRIEVE_SESSION`, asserted above.
unsafe impl Argument for NamedSession {}
// SAFETY: the layout of `PRESERVE_FD` and `RETRIEVE_FD`, asserted above.
unsafe impl Argument for TokenFd {}
// SAFETY: the layout of `FINISH`, asserted above.
unsafe impl Argument for Finish {}

fn call<const NUMBER: Opcode, A: Argument>(
    fd: BorrowedFd<'_>,
    argument: &mut A,
) -> rustix::io::Result<()> {
    // SAFETY: the number and the type belong together (`Argument`).
    let request = unsafe { Updater::<NUMBER, A>::new(argument) };
    // SAFETY: Linux reads and writes the structure, which has exactly the `size` that it says, and
    // nothing else. To a descriptor of another kind the numbers mean nothing: their type is this
    // device's alone.
    unsafe { rustix::ioctl::ioctl(fd, request) }
}

/// Returns the error of a call about `token`.
fn refused(ioctl: Ioctl, token: Option<Token>) -> impl Fn(rustix::io::Errno) -> LiveUpdateError {
    move |errno| LiveUpdateError::Ioctl { ioctl, token, errno: errno.raw_os_error() }
}

/// Returns the descriptor that Linux says it made.
fn made(ioctl: Ioctl, fd: i32) -> Result<OwnedFd, LiveUpdateError> {
    if fd < 0 {
        return Err(LiveUpdateError::NoFd { ioctl, fd });
    }
    // SAFETY: the call succeeded, so Linux made this descriptor for us just now: it is open, and
    // nothing else owns it. Close is all it needs.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const fn named(name: &SessionName) -> NamedSession {
    NamedSession { size: size_of::<NamedSession>() as u32, fd: -1, name: name.bytes() }
}

const fn token_fd(fd: i32, token: Token) -> TokenFd {
    TokenFd { size: size_of::<TokenFd>() as u32, fd, token: token.0 }
}

pub(super) fn create_session(
    device: BorrowedFd<'_>,
    name: &SessionName,
) -> Result<OwnedFd, LiveUpdateError> {
    let mut argument = named(name);
    call::<CREATE_SESSION, _>(device, &mut argument)
        .map_err(refused(Ioctl::CreateSession, None))?;
    made(Ioctl::CreateSession, argument.fd)
}

pub(super) fn retrieve_session(
    device: BorrowedFd<'_>,
    name: &SessionName,
) -> Result<OwnedFd, LiveUpdateError> {
    let mut argument = named(name);
    call::<RETRIEVE_SESSION, _>(device, &mut argument)
        .map_err(refused(Ioctl::RetrieveSession, None))?;
    made(Ioctl::RetrieveSession, argument.fd)
}

pub(super) fn preserve_fd(
    session: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    token: Token,
) -> Result<(), LiveUpdateError> {
    let mut argument = token_fd(fd.as_raw_fd(), token);
    call::<PRESERVE_FD, _>(session, &mut argument).map_err(refused(Ioctl::PreserveFd, Some(token)))
}

pub(super) fn retrieve_fd(
    session: BorrowedFd<'_>,
    token: Token,
) -> Result<OwnedFd, LiveUpdateError> {
    let mut argument = token_fd(-1, token);
    call::<RETRIEVE_FD, _>(session, &mut argument)
        .map_err(refused(Ioctl::RetrieveFd, Some(token)))?;
    made(Ioctl::RetrieveFd, argument.fd)
}

pub(super) fn finish(session: BorrowedFd<'_>) -> Result<(), LiveUpdateError> {
    let mut argument = Finish { size: size_of::<Finish>() as u32, reserved: 0 };
    call::<FINISH, _>(session, &mut argument).map_err(refused(Ioctl::Finish, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out, as the header's macros expand: `type << 8 | number`, no size, no direction.
    #[test]
    fn numbers_are_the_headers() {
        let numbers = [CREATE_SESSION, RETRIEVE_SESSION, PRESERVE_FD, RETRIEVE_FD, FINISH];
        assert_eq!(numbers, [0xba00, 0xba01, 0xba40, 0xba41, 0xba42]);
    }

    #[test]
    fn structures_say_their_size() {
        let name = SessionName::literal("a session");
        let named = named(&name);
        assert_eq!((named.size, named.fd), (72, -1));
        assert_eq!(&named.name[..10], b"a session\0");
        assert!(named.name[9..].iter().all(|byte| *byte == 0));
        let token = token_fd(5, Token(0x0123_4567_89ab_cdef));
        assert_eq!((token.size, token.fd, token.token), (16, 5, 0x0123_4567_89ab_cdef));
    }
}
