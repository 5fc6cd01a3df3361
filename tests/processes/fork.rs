//! A forked process has no part in the memory.

use std::io::Read;
use std::os::fd::IntoRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

use heirloom::arena::{Arena, ArenaError};
use heirloom::folio::{DirectMap, Folio, Request};
use heirloom::kho::{Order, PhysAddr};
use heirloom::{Entry, Heirloom};

use crate::calls::{Answer, Asked, asked};
use crate::{arena, boot, elsewhere};

/// How a forked process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

/// Runs `f` in a forked process, made by `make`, and waits for its end.
pub(crate) fn forked(make: impl FnOnce() -> libc::pid_t, f: impl FnOnce() -> i32) -> End {
    match make() {
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(101);
            // SAFETY: nothing of the parent's is run or flushed.
            unsafe { libc::_exit(code) }
        }
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        child => {
            let mut status = 0;
            // SAFETY: `status` lives as long as the call.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            if libc::WIFSIGNALED(status) {
                End::Signal(libc::WTERMSIG(status))
            } else {
                End::Exit(libc::WEXITSTATUS(status))
            }
        }
    }
}

/// The C library's call, with what is registered for it.
pub(crate) fn libc_fork() -> libc::pid_t {
    // SAFETY: the child makes system calls, touches the arena and exits.
    unsafe { libc::fork() }
}

/// The system's call alone, as programs make it that go past the C library.
fn bare_fork() -> libc::pid_t {
    let no = 0_usize;
    // SAFETY: as for `libc_fork`; the flags ask for what `fork` does.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, no, no, no, no) };
    libc::pid_t::try_from(child).unwrap()
}

#[test]
fn a_forked_process_that_allocates_faults_and_the_memory_is_unharmed() {
    if elsewhere("fork::a_forked_process_that_allocates_faults_and_the_memory_is_unharmed") {
        return;
    }
    for make in [libc_fork, bare_fork] {
        let arena = arena("forked");
        let heirloom = boot(&arena);
        let memory = heirloom.memory();
        let mut mine = memory.alloc_folio(Request::new(Order::ZERO)).unwrap();
        mine.bytes_mut().fill(1);
        let block = mine.into_raw();
        let sums = memory.audit().unwrap();

        // The child drops its copy of the owner; the next allocation gets what the copy owned.
        let end = forked(make, || {
            // SAFETY: allocated above. That the parent owns it too is what is tried here.
            drop(unsafe { Folio::from_raw(memory, block) });
            memory.alloc_folio(Request::new(Order::ZERO)).unwrap().bytes_mut().fill(9);
            0
        });
        assert_eq!(end, End::Signal(libc::SIGSEGV));

        // SAFETY: given up above, by this process.
        let mine = unsafe { Folio::from_raw(memory, block) };
        assert!(mine.bytes().iter().all(|&byte| byte == 1));
        assert_eq!(memory.audit().unwrap(), sums);
        assert_ne!(memory.alloc_folio(Request::new(Order::ZERO)).unwrap().extent(), block);
    }
}

/// What a child of the C library's `fork` has: it reads what its parent wrote, and no other arena
/// of it is opened.
#[test]
fn a_forked_process_reads_and_is_told_whose_the_memory_is() {
    if elsewhere("fork::a_forked_process_reads_and_is_told_whose_the_memory_is") {
        return;
    }
    let arena = arena("read");
    let heirloom = boot(&arena);
    let mut mine = heirloom.memory().alloc_folio(Request::new(Order::ZERO)).unwrap();
    mine.bytes_mut().fill(7);
    let second = arena.map_area(&[mine.extent().run()]).unwrap();
    let parent = i32::try_from(std::process::id()).unwrap();
    let end = forked(libc_fork, || {
        assert!(mine.bytes().iter().all(|&byte| byte == 7));
        let told = Arena::open(arena.share().unwrap()).unwrap_err();
        assert_eq!(told, ArenaError::InUse { pid: Some(parent) });
        0
    });
    assert_eq!(end, End::Exit(0));
    // A second way to the memory is not the child's at all.
    let end = forked(libc_fork, || {
        // SAFETY: nothing writes.
        i32::from(unsafe { second.bytes() }[0])
    });
    assert_eq!(end, End::Signal(libc::SIGSEGV));
}

/// A child may end what it has copies of: its own memory is not harmed by it.
#[test]
fn a_forked_process_drops_the_arena_and_lives_on() {
    if elsewhere("fork::a_forked_process_drops_the_arena_and_lives_on") {
        return;
    }
    for make in [libc_fork, bare_fork] {
        let arena = arena("dropped");
        let fd = arena.share().unwrap();
        let at = arena.ptr(arena.ranges()[0].run().addr()).as_ptr();
        let mut arena = Some(arena);
        let end = forked(make, || {
            // Where the parent has the memory the bare child has nothing, and maps something.
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: replaces nothing.
            let mine = unsafe { libc::mmap(at.cast(), 4096, access, flags, -1, 0) };
            drop(arena.take());
            if mine != libc::MAP_FAILED {
                // SAFETY: mapped above, if nothing unmapped it.
                unsafe { mine.cast::<u8>().write(1) };
            }
            3
        });
        assert_eq!(end, End::Exit(3));
        drop(arena);
        drop(Arena::open(fd).unwrap());
    }
}

/// Starts `f` on a thread, and forks while that is in the middle of a call that `is_it`; unless forks wait for it. The child
/// runs `child`, and then lives until `f` has returned.
fn forked_inside(
    is_it: impl Fn(&Asked) -> bool + Sync,
    f: impl FnOnce() -> bool + Send,
    child: impl FnOnce() -> i32 + Send,
) -> End {
    let (inside, has_forked) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut waits, goes_on) = std::io::pipe().unwrap();
    let goes_on = goes_on.into_raw_fd();
    std::thread::scope(|scope| {
        let forking = scope.spawn(|| {
            while !inside.load(Relaxed) {
                std::thread::yield_now();
            }
            let make = || {
                let made = libc_fork();
                has_forked.store(made != 0, Relaxed);
                made
            };
            forked(make, || {
                // SAFETY: the default action ends a child that waits for ever.
                unsafe { libc::alarm(20) };
                let code = child();
                // SAFETY: a copy, which nothing else in the child has: the end is the parent's alone to keep.
                unsafe { libc::close(goes_on) };
                waits.read_to_end(&mut Vec::new()).unwrap();
                code
            })
        });
        let (done, held) = asked(f, false, |held, call| {
            if !*held && is_it(call) {
                *held = true;
                inside.store(true, Relaxed);
                // A fork that waits for what this call is a part of waits for this to end.
                let mut looks = 0..100_000;
                while looks.next().is_some() && !has_forked.load(Relaxed) {
                    std::thread::yield_now();
                }
            }
            Answer::GoesOn
        });
        assert!(done && held);
        // SAFETY: made above, and not used again in this process.
        unsafe { libc::close(goes_on) };
        forking.join().unwrap()
    })
}

#[test]
fn an_unmapper_is_started_beside_a_fork_and_in_the_child() {
    if elsewhere("fork::an_unmapper_is_started_beside_a_fork_and_in_the_child") {
        return;
    }
    let arena = arena("unmapped");
    let starts = || i32::from(arena.unmap_later().is_err());
    // The room for two stacks.
    let is_it = |call: &Asked| {
        let stack = libc::MAP_STACK.cast_unsigned();
        call.number == libc::SYS_mmap && call.args[2] != 0 && call.args[3] & u64::from(stack) != 0
    };
    let end = forked_inside(is_it, || starts() == 0, starts);
    assert_eq!(end, End::Exit(0));
}

#[test]
fn an_entry_is_left_beside_a_fork_and_in_the_child() {
    if elsewhere("fork::an_entry_is_left_beside_a_fork_and_in_the_child") {
        return;
    }
    let arena = arena("left");
    let start = PhysAddr::new(4 << 30);
    let leave = |scratch_bytes| arena.leave(Entry { root: start, scratch: start, scratch_bytes });
    let is_it = |call: &Asked| call.number == libc::SYS_pwrite64;
    let end = forked_inside(is_it, || leave(1).is_ok(), || i32::from(leave(2).is_err()));
    assert_eq!(end, End::Exit(0));
    assert!(arena.entry().unwrap().is_some());
}

static KERNEL: AtomicPtr<Heirloom<&'static Arena>> = AtomicPtr::new(std::ptr::null_mut());
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// What another library does before a fork: it allocates, more than magazines hold.
extern "C" fn allocates() {
    // SAFETY: null, or a value that is never dropped.
    let Some(kernel) = (unsafe { KERNEL.load(Relaxed).as_ref() }) else { return };
    let buffers: Vec<_> = (0..4096).map(|_| kernel.alloc(64)).collect();
    for buffer in buffers {
        // SAFETY: allocated just now.
        let freed = buffer.and_then(|buffer| unsafe { kernel.free(buffer) });
        REFUSED.fetch_add(u32::from(freed.is_err()), Relaxed);
    }
}

#[test]
fn what_allocates_around_a_fork_is_refused_nothing() {
    if elsewhere("fork::what_allocates_around_a_fork_is_refused_nothing") {
        return;
    }
    // Before the arena's, so that its own come inside.
    // SAFETY: the functions live as long as the program.
    let watched = unsafe { libc::pthread_atfork(Some(allocates), Some(allocates), None) };
    assert_eq!(watched, 0);
    let arena: &'static Arena = Box::leak(Box::new(arena("handlers")));
    KERNEL.store(Box::into_raw(Box::new(boot(arena))), Relaxed);
    assert_eq!(forked(libc_fork, || 0), End::Exit(0));
    assert_eq!(REFUSED.load(Relaxed), 0);
}
