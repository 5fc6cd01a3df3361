//! Processes that end by force, and what became of them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seconds that a successor may take before it counts as one that never ends.
const PATIENCE: u32 = 60;

/// A process that was forked off this one.
#[derive(Debug)]
pub(crate) struct Child(libc::pid_t);

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// By itself, with this code: 0, or that of a panic.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl End {
    /// By the hand of this harness.
    pub(crate) const KILLED: Self = Self::Signal(libc::SIGKILL);
    /// Nothing went wrong.
    pub(crate) const WELL: Self = Self::Exit(0);
}

/// Runs `f` in a new process, which has a copy of all this one has, and shares what is shared.
pub(crate) fn fork(f: impl FnOnce() -> i32) -> io::Result<Child> {
    fork_for(PATIENCE, f)
}

/// The same, for so many seconds at most; 0: as long as it takes.
pub(crate) fn fork_for(seconds: u32, f: impl FnOnce() -> i32) -> io::Result<Child> {
    // SAFETY: this process has one thread, so the child's copy of everything is consistent.
    match unsafe { libc::fork() } {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: no handler is set: the signal ends the process.
                unsafe { libc::alarm(seconds) };
                f()
            }));
            // SAFETY: nothing of the parent's is to be run or flushed here.
            unsafe { libc::_exit(code.unwrap_or(101)) }
        }
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Child(child)),
    }
}

/// Ends this process at once.
pub(crate) fn end() -> ! {
    // SAFETY: this process, which does not survive it.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::hint::spin_loop();
    }
}

impl Child {
    /// Ends it, whatever it does.
    pub(crate) fn kill(&self) {
        // SAFETY: a child that nobody has waited for, so the number is its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    /// Ends it once it has come so far that `reached` says so, and `turns` of a loop later. Returns how it ended: of
    /// itself, if it did before.
    pub(crate) fn kill_behind(self, turns: u64, reached: impl Fn() -> bool) -> io::Result<End> {
        let mut looks = 0_u32;
        while !reached() && (!looks.is_multiple_of(1024) || self.runs()) {
            looks += 1;
            // Where there are more processes than processors it may be waiting for this one.
            std::thread::yield_now();
        }
        for _ in 0..turns {
            std::hint::spin_loop();
        }
        self.kill();
        self.wait()
    }

    /// Whether it still runs. It can be waited for afterwards.
    pub(crate) fn runs(&self) -> bool {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: all zeroes are a `siginfo_t`, which the call fills.
        let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
        let id = self.0.cast_unsigned();
        // SAFETY: `info` lives as long as the call.
        let looked = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, options) };
        // SAFETY: what `waitid` fills has a process number, or zero.
        looked == 0 && unsafe { info.si_pid() } == 0
    }

    /// Waits until it has ended.
    pub(crate) fn wait(self) -> io::Result<End> {
        let mut status = 0;
        // SAFETY: `status` lives as long as the call.
        if unsafe { libc::waitpid(self.0, &raw mut status, 0) } != self.0 {
            return Err(io::Error::last_os_error());
        }
        Ok(if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        })
    }
}
