//! What holds without a kernel that does live updates.

use std::fs::File;

use heirloom_folio::NodeId;
use heirloom_kho::{PAGE_SIZE, PhysAddr};
use heirloom_restore::Entry;
use rustix::fs::SealFlags;

use super::*;
use crate::arena::{Arena, ArenaError, RangeSpec};

const NAME: SessionName = SessionName::literal("test");
const TOKEN: Token = Token(0x2a);

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

fn specs() -> [RangeSpec; 1] {
    let start = PhysAddr::new(1 << 32);
    [RangeSpec { start, bytes: 16 * PAGE_SIZE as u64, node: NodeId(0) }]
}

fn entry() -> Entry {
    let start = PhysAddr::new(1 << 32);
    Entry { root: start, scratch: start, scratch_bytes: 16 }
}

#[test]
fn a_missing_device_says_what_the_kernel_needs() {
    let error = LiveUpdate::open_at(Path::new("/dev/null/liveupdate")).unwrap_err();
    assert_eq!(error, LiveUpdateError::Device { errno: libc::ENOTDIR });
    let error = LiveUpdate::open_at(Path::new("/dev/no-such-device")).unwrap_err();
    assert_eq!(error, LiveUpdateError::Device { errno: libc::ENOENT });
    assert_eq!(
        error.to_string(),
        "/dev/liveupdate: No such file or directory (os error 2): this kernel does no live \
         updates (CONFIG_LIVEUPDATE, booted with kho=on liveupdate=on)"
    );
}

#[test]
fn another_device_is_refused_by_the_call_that_it_does_not_know() {
    let device = LiveUpdate::open_at(Path::new("/dev/null")).unwrap();
    let refused = |ioctl, token| LiveUpdateError::Ioctl { ioctl, token, errno: libc::ENOTTY };
    let error = device.create(&NAME).unwrap_err();
    assert_eq!(error, refused(Ioctl::CreateSession, None));
    assert_eq!(
        error.to_string(),
        "LIVEUPDATE_IOCTL_CREATE_SESSION: Inappropriate ioctl for device (os error 25): the \
         descriptor is not of Linux's live update"
    );
    assert_eq!(device.retrieve(&NAME).unwrap_err(), refused(Ioctl::RetrieveSession, None));

    let session = Session::from(null());
    let arena = Arena::create_for_live_update("test", &specs()).unwrap();
    let error = session.preserve(TOKEN, &arena, entry()).unwrap_err();
    assert_eq!(error, refused(Ioctl::PreserveFd, Some(TOKEN)));
    assert!(error.to_string().starts_with("LIVEUPDATE_SESSION_PRESERVE_FD (token 0x2a): "));

    let retrieved = Retrieved::from(null());
    assert_eq!(retrieved.arena(TOKEN).unwrap_err(), refused(Ioctl::RetrieveFd, Some(TOKEN)));
    let (_, error) = retrieved.finish().unwrap_err();
    assert_eq!(error, refused(Ioctl::Finish, None));
}

#[test]
fn what_linux_means_is_said_with_what_it_says() {
    let text = |ioctl, token, errno| LiveUpdateError::Ioctl { ioctl, token, errno }.to_string();
    assert_eq!(
        text(Ioctl::RetrieveFd, Some(TOKEN), libc::ENOENT),
        "LIVEUPDATE_SESSION_RETRIEVE_FD (token 0x2a): No such file or directory (os error 2): no \
         file of the session has that token"
    );
    assert_eq!(
        text(Ioctl::Finish, None, libc::EBUSY),
        "LIVEUPDATE_SESSION_FINISH: Device or resource busy (os error 16)"
    );
    assert!(
        LiveUpdateError::Device { errno: libc::EBUSY }
            .to_string()
            .ends_with("another process has it open")
    );
}

#[test]
fn an_arena_for_a_live_update_has_the_seals_that_come_back() {
    let arena = Arena::create_for_live_update("test", &specs()).unwrap();
    let seals = rustix::fs::fcntl_get_seals(&arena).unwrap();
    assert_eq!(seals, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    let mode = rustix::fs::fstat(&arena).unwrap().st_mode;
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_arena_that_would_come_back_read_only_is_refused() {
    let sealed = Arena::create("test", &specs()).unwrap();
    let seals = rustix::fs::fcntl_get_seals(&sealed).unwrap();
    let error = Session::from(null()).preserve(TOKEN, &sealed, entry()).unwrap_err();
    if seals.contains(SealFlags::EXEC) {
        assert_eq!(error, LiveUpdateError::ExecSeal);
        assert_eq!(sealed.entry(), Ok(None), "nothing was written");
    } else {
        // A system without that seal.
        assert!(matches!(error, LiveUpdateError::Ioctl { ioctl: Ioctl::PreserveFd, .. }));
    }
}

#[test]
fn the_entry_is_in_the_arena_before_linux_is_asked_to_keep_it() {
    let arena = Arena::create_for_live_update("test", &specs()).unwrap();
    Session::from(null()).preserve(TOKEN, &arena, entry()).unwrap_err();
    assert_eq!(arena.entry(), Ok(Some(entry())));
}

#[test]
fn names_are_checked() {
    for (name, bytes) in [("", 0), (&*"x".repeat(64), 64), ("a\0b", 3)] {
        assert_eq!(SessionName::new(name), Err(LiveUpdateError::Name { bytes }));
    }
    let longest = "x".repeat(63);
    assert_eq!(SessionName::new(&longest).unwrap().as_str(), longest);
    assert_eq!(SessionName::try_from("größe").unwrap().to_string(), "größe");
}

#[test]
fn what_is_no_kernel_is_not_loaded() {
    let kernel = null();
    let error = NextKernel::load(kernel.as_fd(), None, c"quiet").unwrap_err();
    let LiveUpdateError::Os { call, errno } = error else { panic!("{error:?}") };
    assert_eq!(call, "kexec_file_load");
    assert_ne!(errno, 0);
}

#[test]
fn an_arena_that_is_none_is_named_by_its_token() {
    let reason = ArenaError::NotMemfd;
    let error = LiveUpdateError::Arena { token: TOKEN, reason };
    assert_eq!(error.to_string(), "token 0x2a is no arena: the descriptor is no memfd");
}
