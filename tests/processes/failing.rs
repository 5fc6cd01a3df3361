//! Whichever system call fails, an error is returned, nothing is left behind, and nothing is lost.

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;

use heirloom::arena::{Arena, ArenaError, RangeSpec};
use heirloom::folio::{DirectMap, NodeId};
use heirloom::jump::Jump;
use heirloom::kho::{PAGE_SIZE, PhysAddr, Run};
use heirloom::{Entry, Heirloom};

use crate::calls::{Answer, Asked, asked, each_fails};
use crate::fork::{End, forked, libc_fork};
use crate::{arena, boot, elsewhere};

/// The errors that calls fail with: nothing is left of something, or the call was interrupted.
const ERRNOS: [i32; 3] = [libc::EMFILE, libc::ENOMEM, libc::EINTR];

/// What does not fail on a memfd that is open goes on: where it failed, what was lent would not be taken back.
fn never(call: &Asked) -> Option<Answer> {
    let made = [
        libc::SYS_flock,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_pread64,
    ];
    made.contains(&call.number).then_some(Answer::GoesOn)
}

/// What a container refuses.
fn contained(call: &Asked) -> Option<Answer> {
    (call.number == libc::SYS_unshare).then_some(Answer::Fails(libc::EPERM))
}

fn entry(n: u64) -> Entry {
    let page = |n: u64| PhysAddr::new((4 << 30) + n * PAGE_SIZE as u64);
    Entry { root: page(n), scratch: page(n + 1), scratch_bytes: 16 }
}

/// What an arena's process has of the system: how many descriptors, and how many mappings of arenas.
fn has() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter(|line| line.contains("/memfd:")).count();
    (fs::read_dir("/proc/self/fd").unwrap().count(), mapped)
}

/// Lets each call of `f` fail, with each of the errors, and looks after each that the process has what it had.
fn fails_without_a_trace<R: Send>(
    name: &str,
    f: impl Fn() -> Result<R, ArenaError> + Sync,
    mut check: impl FnMut(Result<R, ArenaError>),
) {
    let before = has();
    for errno in ERRNOS {
        let mut refused = 0;
        let calls = each_fails(
            errno,
            |_| None,
            &f,
            |n, result| {
                refused += u32::from(result.is_err());
                check(result);
                assert_eq!(has(), before, "{name}: call {n} failed with {errno}");
            },
        );
        assert!(calls > 0 && refused > 0, "{name}: {calls} calls, {refused} refused");
    }
}

#[test]
fn what_an_arena_does_fails_without_a_trace() {
    if elsewhere("failing::what_an_arena_does_fails_without_a_trace") {
        return;
    }
    let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 8 << 20, node: NodeId(0) };
    fails_without_a_trace("create", || Arena::create("failing", &[spec]), drop);

    let arena = arena("failing");
    let (fd, this) = (arena.share().unwrap(), i32::try_from(std::process::id()).ok());
    let is_own = || assert_eq!(Arena::owner(arena.as_fd()), Ok(this));
    // SAFETY: in the arena's range, and nothing else uses it.
    unsafe { arena.ptr(spec.start).write(7) };
    let again = || Arena::open(fd.try_clone().map_err(|_| ArenaError::NotMemfd)?);
    fails_without_a_trace("open", again, |opened| {
        drop(opened);
        is_own();
    });
    let of_copy = || Arena::from_copy("copy", fd.as_fd());
    fails_without_a_trace("from_copy", of_copy, |copy| {
        // SAFETY: as above.
        let byte = copy.map(|copy| unsafe { copy.ptr(spec.start).read() });
        assert!(byte.is_err() || byte == Ok(7));
    });
    let run = Run::new(arena.ranges()[0].run().start(), 2).unwrap();
    fails_without_a_trace("map_area", || arena.map_area(&[run, run]), drop);
    fails_without_a_trace("share", || arena.share(), drop);
    fails_without_a_trace("describe", || Arena::describe(fd.as_fd()), drop);
    fails_without_a_trace("prefault", || arena.prefault(run), drop);
    is_own();
}

#[test]
fn an_entry_is_the_old_or_the_new_whichever_call_fails() {
    if elsewhere("failing::an_entry_is_the_old_or_the_new_whichever_call_fails") {
        return;
    }
    let arena = arena("failing");
    arena.leave(entry(0)).unwrap();
    let mut left = 0;
    for new in [1, 2] {
        fails_without_a_trace(
            "leave",
            || arena.leave(entry(new)),
            |result| {
                let now = arena.entry().unwrap().unwrap();
                assert!(now == entry(left) || now == entry(new));
                if result.is_ok() {
                    left = new;
                    assert_eq!(now, entry(new));
                }
            },
        );
    }
    fails_without_a_trace("entry", || arena.entry(), |entry| assert_ne!(entry, Ok(None)));
    // SAFETY: nothing uses the memory.
    let clear = || unsafe { arena.clear() };
    fails_without_a_trace("clear", clear, |result| {
        let now = arena.entry().unwrap();
        assert!(now.is_none() || result.is_err() && now == Some(entry(2)), "{now:?}");
        arena.leave(entry(2)).unwrap();
    });
}

#[test]
fn memory_that_is_trimmed_stays_the_allocators_whichever_call_fails() {
    if elsewhere("failing::memory_that_is_trimmed_stays_the_allocators_whichever_call_fails") {
        return;
    }
    let arena = arena("failing");
    let heirloom: Heirloom<&Arena> = boot(&arena);
    heirloom.memory().drain();
    let sums = heirloom.memory().audit().unwrap();
    let trim = || {
        let buffer = heirloom.alloc(1 << 20).map_err(|_| ArenaError::EmptyArea)?;
        // SAFETY: the buffer's bytes, which nothing else reaches; it is not used again.
        unsafe { buffer.write_bytes(1, 1 << 20) };
        // SAFETY: as above.
        unsafe { heirloom.free(buffer) }.map_err(|_| ArenaError::EmptyArea)?;
        arena.trim(heirloom.memory())
    };
    fails_without_a_trace("trim", trim, |result| {
        assert_ne!(result, Err(ArenaError::EmptyArea));
        heirloom.memory().drain();
        assert_eq!(heirloom.memory().audit().unwrap(), sums);
    });
}

/// Starts of a successor, each of which fails: there is none.
#[test]
fn a_jump_that_fails_leaves_the_arena_whichever_call_fails() {
    if elsewhere("failing::a_jump_that_fails_leaves_the_arena_whichever_call_fails") {
        return;
    }
    let arena = arena("failing");
    let this = i32::try_from(std::process::id()).ok();
    let before = (has(), std::env::current_dir().unwrap());
    for errno in ERRNOS {
        let jump = || {
            let mut nowhere = Command::new("/no/such/program");
            nowhere.current_dir("/");
            Some(Jump::new(&arena, entry(0)).ok()?.exec(nowhere))
        };
        let mut steady = |n, error: Option<std::io::Error>| {
            let now = (has(), std::env::current_dir().unwrap());
            assert_eq!(now, before, "exec: call {n} failed with {errno}: {error:?}");
            assert_eq!(Arena::owner(arena.as_fd()), Ok(this), "{error:?}");
        };
        each_fails(errno, |_| None, jump, &mut steady);
        each_fails(errno, contained, jump, steady);
        let start = || {
            let nowhere = Command::new("/no/such/program");
            // SAFETY: no allocator runs on the arena.
            Some(unsafe { Jump::new(&arena, entry(0)).ok()?.spawn(nowhere) }.unwrap_err())
        };
        each_fails(errno, never, start, |n, error| {
            assert_eq!(has(), before.0, "spawn: call {n} failed with {errno}: {error:?}");
            assert_eq!(
                Arena::owner(arena.as_fd()),
                Ok(this),
                "spawn: call {n}: {errno}: {error:?}"
            );
        });
    }
}

/// A supervisor has a descriptor of the same open file: it must not be what is locked, whatever the system was out of.
#[test]
fn an_owner_that_ends_keeps_nothing_whichever_call_of_its_start_failed() {
    if elsewhere("failing::an_owner_that_ends_keeps_nothing_whichever_call_of_its_start_failed") {
        return;
    }
    let arena = arena("failing");
    let fd = arena.share().unwrap();
    drop(arena);
    let calls = arena_calls();
    for n in 0..calls {
        let end = forked(libc_fork, || {
            let open = || Arena::open(fd.try_clone().map_err(|_| ArenaError::NotMemfd)?);
            let (opened, _) = asked(open, 0, |seen, call| {
                *seen += u32::from(!call.is_of_the_heap());
                if *seen == n + 1 { Answer::Fails(libc::EMFILE) } else { Answer::GoesOn }
            });
            std::mem::forget(opened);
            0
        });
        assert_eq!(end, End::Exit(0), "call {n}");
        assert_eq!(Arena::owner(fd.as_fd()), Ok(None), "call {n}");
        drop(Arena::open(fd.try_clone().unwrap()).unwrap());
    }
}

/// How many calls it takes to open an arena, and end the thread that did so.
fn arena_calls() -> u32 {
    let arena = arena("calls");
    let fd = arena.share().unwrap();
    let open = || Arena::open(fd.try_clone().unwrap()).is_ok();
    let (opened, calls) = asked(open, 0, |seen, call| {
        *seen += u32::from(!call.is_of_the_heap());
        Answer::GoesOn
    });
    assert!(opened && calls > 10);
    // (This process has it: as its owner opens it again, it asks for no lock.)
    calls + 4
}
