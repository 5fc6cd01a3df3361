//! What a process may not have is an error, and does not end it.

use std::os::fd::{AsFd, AsRawFd};

use heirloom::arena::{Arena, ArenaError, RangeSpec};
use heirloom::folio::NodeId;
use heirloom::kho::PhysAddr;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::fork::{End, forked, libc_fork};
use crate::{arena, elsewhere};

/// Allows this process so much of something.
fn limit(what: Resource, to: u64) {
    setrlimit(what, Rlimit { current: Some(to), maximum: Some(to) }).unwrap();
}

/// Linux ends a process that makes a larger file than it may (`SIGXFSZ`).
#[test]
fn an_arena_larger_than_a_file_may_be_is_refused() {
    if elsewhere("limits::an_arena_larger_than_a_file_may_be_is_refused") {
        return;
    }
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 8 << 20, node: NodeId(0) };
    let end = forked(libc_fork, || {
        limit(Resource::Fsize, 1 << 20);
        let refused = ArenaError::Os { call: "ftruncate", errno: libc::EFBIG };
        assert_eq!(Arena::create("large", &[range]).unwrap_err(), refused);
        0
    });
    assert_eq!(end, End::Exit(0));
    let fd = {
        let arena = arena("small");
        arena.share().unwrap()
    };
    let end = forked(libc_fork, || {
        limit(Resource::Fsize, 1 << 20);
        let refused = ArenaError::Os { call: "ftruncate", errno: libc::EFBIG };
        assert_eq!(Arena::from_copy("copy", fd.as_fd()).unwrap_err(), refused);
        // What is in its first page can be written.
        drop(Arena::open(fd.try_clone().unwrap()).unwrap());
        limit(Resource::Fsize, 100);
        let refused = ArenaError::Os { call: "pwrite", errno: libc::EFBIG };
        assert_eq!(Arena::open(fd.try_clone().unwrap()).unwrap_err(), refused);
        0
    });
    assert_eq!(end, End::Exit(0));
    drop(Arena::open(fd).unwrap());
}

#[test]
fn an_arena_without_room_for_its_addresses_or_descriptors_is_refused() {
    if elsewhere("limits::an_arena_without_room_for_its_addresses_or_descriptors_is_refused") {
        return;
    }
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 8 << 20, node: NodeId(0) };
    let end = forked(libc_fork, || {
        limit(Resource::As, 256 << 20);
        assert!(matches!(Arena::create("map", &[range]), Err(ArenaError::Map { .. })));
        0
    });
    assert_eq!(end, End::Exit(0));
    let end = forked(libc_fork, || {
        limit(Resource::Nofile, 3);
        let refused = ArenaError::Os { call: "memfd_create", errno: libc::EMFILE };
        assert_eq!(Arena::create("descriptors", &[range]).unwrap_err(), refused);
        0
    });
    assert_eq!(end, End::Exit(0));
}

/// A process that was started without its standard three, as a daemon's may be, writes to what has their numbers, or replaces it.
#[test]
fn an_arena_is_none_of_the_standard_descriptors() {
    if elsewhere("limits::an_arena_is_none_of_the_standard_descriptors") {
        return;
    }
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 8 << 20, node: NodeId(0) };
    let end = forked(libc_fork, || {
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the standard three, which nothing in this child owns.
        (0..3).for_each(|fd| unsafe { rustix::io::close(fd) });
        let arena = Arena::create("standard", &[range]).unwrap();
        for fd in 0..3 {
            // SAFETY: whatever has the number: a stranger's write, and replacement.
            unsafe {
                libc::pwrite(fd, c"a line".as_ptr().cast(), 6, 0);
                libc::dup2(null.as_raw_fd(), fd);
            }
        }
        let this = i32::try_from(std::process::id()).ok();
        let is_own = Arena::owner(arena.as_fd()) == Ok(this);
        let is_whole = Arena::describe(arena.as_fd()).is_ok();
        i32::from(!is_own) + 2 * i32::from(!is_whole)
    });
    assert_eq!(end, End::Exit(0));
}
