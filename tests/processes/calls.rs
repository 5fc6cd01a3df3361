//! System calls that fail, one after the other, or that a thread is held up in: what a test needs to see what becomes of
//! each of them.
//!
//! A thread, and what it starts, asks for each call of some kinds (`seccomp_unotify(2)`). Another thread of the process, which
//! asks for none, answers.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

use rustix::event::{PollFd, PollFlags, poll};

/// What is asked for: all that the face makes, but for what frees.
const ASKED: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mbind,
    libc::SYS_pipe2,
    libc::SYS_close_range,
    libc::SYS_unshare,
    libc::SYS_socket,
    libc::SYS_setsockopt,
    libc::SYS_sendmsg,
    libc::SYS_ppoll,
];

/// What an older architecture has beside them.
const OLDER: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It is made.
    GoesOn,
    /// It is not made, and fails so.
    Fails(i32),
    /// It is not made, and the process ends.
    Kills,
}

/// A call that is asked for.
pub(crate) struct Asked {
    pub(crate) number: libc::c_long,
    pub(crate) args: [u64; 6],
}

impl Asked {
    /// Whether it is a mapping of memory that the heap or a thread asks for, where there must be some.
    pub(crate) fn is_of_the_heap(&self) -> bool {
        let [_, _, access, flags, ..] = self.args;
        let private = libc::MAP_PRIVATE.cast_unsigned();
        self.number == libc::SYS_mmap && flags & u64::from(private) != 0 && access != 0
    }
}

/// Runs `f` on a thread of its own, whose calls `answers` is asked for. Returns what both say at the end.
pub(crate) fn asked<R: Send, S: Send>(
    f: impl FnOnce() -> R + Send,
    state: S,
    mut answers: impl FnMut(&mut S, &Asked) -> Answer + Send,
) -> (R, S) {
    // A number, which is told without a call that would be asked for.
    let told = AtomicI32::new(-1);
    let (stops, mut stop) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        let told = &told;
        let answering = scope.spawn(move || {
            let mut state = state;
            while told.load(Relaxed) < 0 {
                std::thread::yield_now();
            }
            // SAFETY: from `ask`, and nothing else owns it.
            let listener = unsafe { OwnedFd::from_raw_fd(told.load(Relaxed)) };
            loop {
                let mut awaited =
                    [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stops, PollFlags::IN)];
                poll(&mut awaited, None).unwrap();
                if awaited[0].revents().contains(PollFlags::IN) {
                    answer(&listener, |asked| answers(&mut state, asked));
                } else if !awaited[1].revents().is_empty() {
                    return state;
                }
            }
        });
        let asking = scope.spawn(move || {
            told.store(ask(), Relaxed);
            f()
        });
        let result = asking.join();
        // (A child that was forked meanwhile keeps it open.)
        stop.write_all(b"1").unwrap();
        let state = answering.join().unwrap();
        (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), state)
    })
}

/// Has this thread ask for what is [`ASKED`]. Returns the descriptor that its questions come by.
fn ask() -> RawFd {
    let step =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let (load, same) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut program = vec![step(load, 0, 0, 0)];
    for &call in ASKED.iter().chain(OLDER) {
        program.push(step(same, 0, 1, u32::try_from(call).unwrap()));
        program.push(step(answer, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(step(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter lives as long as the calls, which read it.
    let listener = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let (set, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        libc::syscall(libc::SYS_seccomp, set, flags, &raw const filter)
    };
    let listener = RawFd::try_from(listener).unwrap();
    assert!(listener >= 0, "seccomp: {}", std::io::Error::last_os_error());
    listener
}

/// Takes one question, if there still is one, and answers it.
fn answer(listener: &OwnedFd, answers: impl FnOnce(&Asked) -> Answer) {
    let listener = listener.as_raw_fd();
    // SAFETY: all zeroes are both of them, and the calls read and write these alone.
    unsafe {
        let mut question = core::mem::zeroed::<libc::seccomp_notif>();
        if libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question) != 0 {
            // The one that asked has ended meanwhile.
            return;
        }
        let mut response = core::mem::zeroed::<libc::seccomp_notif_resp>();
        response.id = question.id;
        let number = libc::c_long::from(question.data.nr);
        match answers(&Asked { number, args: question.data.args }) {
            Answer::GoesOn => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Fails(errno) => response.error = -errno,
            Answer::Kills => {
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
        }
        let _ = libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response);
    }
}

/// Runs `f` again and again: each time another of its calls fails so: the first, the second, until it makes no more. Those that
/// `settled` has an answer for are not counted. `check` looks at what came of it. Returns how many calls there were.
pub(crate) fn each_fails<R: Send>(
    errno: i32,
    settled: impl Fn(&Asked) -> Option<Answer> + Sync,
    f: impl Fn() -> R + Sync,
    mut check: impl FnMut(u32, R),
) -> u32 {
    for n in 0.. {
        let (result, seen) = asked(&f, 0_u32, |seen, asked| {
            if asked.is_of_the_heap() {
                return Answer::GoesOn;
            }
            if let Some(answer) = settled(asked) {
                return answer;
            }
            *seen += 1;
            if *seen - 1 == n { Answer::Fails(errno) } else { Answer::GoesOn }
        });
        check(n, result);
        if seen <= n {
            return n;
        }
    }
    unreachable!("no call has so many")
}
