//! A jump lends the memory to its successor and to no other process.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};

use heirloom::Entry;
use heirloom::jump::Jump;
use heirloom::kho::{PAGE_SIZE, PhysAddr};
use rustix::fs::FlockOperation;

use crate::calls::{Answer, asked};
use crate::{arena, output_of, part, plays};

/// How many jumps fail, at least, while so many children are started.
const JUMPS: u32 = 20;
const CHILDREN: u32 = 100;

fn entry() -> Entry {
    let page = |n: u64| PhysAddr::new((4 << 30) + n * PAGE_SIZE as u64);
    Entry { root: page(0), scratch: page(1), scratch_bytes: 16 }
}

/// Makes `unshare` an error in this process and its children, as containers do.
fn refuse_unshare() {
    let step =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let number = u32::try_from(libc::SYS_unshare).unwrap();
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let mut program = [
        // The number of the call is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refused),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the filter lives as long as the calls, which read it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::SECCOMP_SET_MODE_FILTER;
        // For all threads, those of the test's harness too.
        let all = libc::SECCOMP_FILTER_FLAG_TSYNC;
        assert_eq!(libc::syscall(libc::SYS_seccomp, set, all, &raw const filter), 0);
        assert_eq!(libc::unshare(libc::CLONE_FS), -1);
    }
}

/// What a process started now has open. Its environment is its own: a jump that is under way has
/// that of the successor for this process's.
fn open_in_a_child() -> String {
    let mut command = Command::new("/bin/ls");
    command.env_clear().args(["-l", "/proc/self/fd"]);
    output_of(command)
}

const TEST: &str = "lend::no_child_that_is_started_beside_a_failing_jump_has_the_memory";

/// Children of other threads are started all the while. A program that is looked for in many
/// directories makes a failing jump long.
#[test]
fn no_child_that_is_started_beside_a_failing_jump_has_the_memory() {
    let confined = plays("jumper in a container");
    if !confined && !plays("jumper") {
        for role in ["jumper", "jumper in a container"] {
            let told = output_of(part(TEST, role));
            assert!(told.contains("children had it: 0 of "), "{told}");
            assert!(!told.contains("another error"), "{told}");
        }
        return;
    }
    if confined {
        refuse_unshare();
    }
    let arena = arena("lent-to-none");
    let (done, children, lent) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                let open = open_in_a_child();
                lent.fetch_add(u32::from(open.contains("lent-to-none")), Relaxed);
                children.fetch_add(1, Relaxed);
            }
        });
        let path = vec!["/no/such/directory"; 20_000].join(":");
        let mut jumps = 0;
        while jumps < JUMPS || children.load(Relaxed) < CHILDREN {
            let mut nowhere = Command::new("no-such-program");
            nowhere.env("PATH", &path);
            let error = Jump::new(&arena, entry()).unwrap().exec(nowhere);
            let named = error.to_string().contains("no-such-program");
            if error.kind() != std::io::ErrorKind::NotFound || !named {
                println!("another error: {error}");
                break;
            }
            jumps += 1;
        }
        done.store(true, Relaxed);
    });
    println!("children had it: {} of {}", lent.load(Relaxed), children.load(Relaxed));
}

/// Where there is no `/proc`, the lock is one with that of each process that was passed the descriptor.
#[test]
fn a_jump_that_fails_does_not_unlock_what_another_process_has_meanwhile() {
    let test = "lend::a_jump_that_fails_does_not_unlock_what_another_process_has_meanwhile";
    if crate::elsewhere(test) {
        return;
    }
    let (arena, ()) = asked(
        || arena("passed-on"),
        (),
        |(), call| match call.number {
            libc::SYS_openat => Answer::Fails(libc::ENOENT),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => Answer::Fails(libc::ENOENT),
            _ => Answer::GoesOn,
        },
    );
    let fd = arena.share().unwrap();
    let other = fd.try_clone().unwrap();
    let mut nowhere = Command::new("/no/such/program");
    let takes_it = move || {
        rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive)?;
        // Its turn, which is counted where the arena's is.
        rustix::io::pwrite(&other, &u64::MAX.to_le_bytes(), 3960)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls alone.
    unsafe { nowhere.pre_exec(takes_it) };
    let jump = Jump::new(&arena, entry()).unwrap();
    // SAFETY: nothing is in the memory.
    let error = unsafe { jump.spawn(nowhere) }.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
    let anew = std::fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    let locked = rustix::fs::flock(&anew, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(locked, Err(rustix::io::Errno::WOULDBLOCK), "it is the other process's");
}

/// The name of what descriptor 1 is, and how many descriptors of the memory there are.
fn here() -> (PathBuf, PathBuf, usize) {
    let target = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(entry.unwrap().path()).unwrap_or_default()
    };
    let open = std::fs::read_dir("/proc/self/fd").unwrap().map(target);
    let memory = open.filter(|file| file.to_string_lossy().contains("nothing-changes")).count();
    (std::fs::read_link("/proc/self/fd/1").unwrap(), std::env::current_dir().unwrap(), memory)
}

/// Redirections, the directory and signals are the successor's alone.
#[test]
fn a_jump_that_fails_changes_nothing_in_this_process() {
    let confined = plays("steady in a container");
    if confined {
        refuse_unshare();
    }
    if confined || plays("steady") {
        let arena = arena("nothing-changes");
        let before = here();
        let mut nowhere = Command::new("/no/such/program");
        nowhere.current_dir("/").stdout(Stdio::null());
        // SAFETY: the closure does nothing.
        unsafe { nowhere.pre_exec(|| Ok(())) };
        let error = Jump::new(&arena, entry()).unwrap().exec(nowhere);
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        assert_eq!(here(), before);
        // A pipe without a reader is an error and no end.
        let (reader, mut writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(writer.write_all(b"x").is_err());
        println!("nothing changed");
        return;
    }
    let test = "lend::a_jump_that_fails_changes_nothing_in_this_process";
    for role in ["steady", "steady in a container"] {
        let told = output_of(part(test, role));
        assert!(told.contains("nothing changed"), "{told}");
    }
}
