//! A process that has the mappings of this one too, and so takes them down in its place.
//!
//! Linux forgets the pages that a process has touched one by one as it ends, or executes another program: about 50 ms
//! for each GiB. Only then does it close the files of a process that ended, so that a successor gets the memory.
//! The last process that has an address space is the one that takes it down:
//!
//! ```text
//! service  ──────────── ended, or executes its successor: lets its files go at once ──> the successor opens the arena
//!    │ one address space          │ the end of a pipe closes
//! unmapper ── waits ──────────────┴── ends: the pages are forgotten, one by one, beside the successor
//! ```
//!
//! The unmapper is no child of the service's, which need not wait for it, and has no descriptor but the pipe's: an arena
//! is not its to hold. From its start on it makes system calls alone, on a stack of its own, and takes no signal.

use core::ffi::{c_int, c_void};
use core::ptr::without_provenance_mut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::retry_on_intr;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::error::os;
use super::process::pid;
use super::{ArenaError, forks};

/// Bytes of the stack of each of the two that are started.
const STACK: usize = 32 << 10;

/// Its name, in `ps` say.
const NAME: &core::ffi::CStr = c"heirloom-unmap";

/// Starts the unmapper of this process, if it has none.
pub(super) fn start() -> Result<(), ArenaError> {
    // What closes with this process is the end of a pipe. A child that is forked meanwhile would keep what the start waits for
    // the end of, and later what the unmapper does.
    forks::undivided(|end| {
        let pid = pid();
        // (A child that the C library did not make has a copy of its parent's.)
        if end.as_ref().is_none_or(|(of, _)| *of != pid) {
            // Closes what a parent's unmapper waits for.
            *end = None;
            *end = Some((pid, start_one()?));
        }
        Ok(())
    })
}

/// What the starter is told.
struct Told {
    stack: *mut c_void,
    awaited: RawFd,
}

/// Starts an unmapper, of a thread that takes no signals. Returns what the unmapper waits for the end of.
fn start_one() -> Result<OwnedFd, ArenaError> {
    // SAFETY: closes none, as no descriptor has this number: it says whether the system has the call.
    if unsafe { libc::syscall(libc::SYS_close_range, libc::c_uint::MAX, libc::c_uint::MAX, 0) } != 0
    {
        return Err(last("close_range"));
    }
    let (awaited, held) = pipe_with(PipeFlags::CLOEXEC).map_err(os("pipe2"))?;
    let (closed, open) = pipe_with(PipeFlags::CLOEXEC).map_err(os("pipe2"))?;
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::STACK);
    // SAFETY: the kernel chooses the place, so no existing mapping is touched. Once there is an unmapper it is never unmapped,
    // as its end is not waited for.
    let stacks =
        unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), 2 * STACK, access, flags) };
    let stacks = stacks.map_err(super::error::map(2 * STACK))?.cast::<u8>();
    // SAFETY: the ends of the two halves that were mapped just now.
    let [stack, other] = unsafe { [stacks.add(STACK), stacks.add(2 * STACK)] };
    let told = Told { stack: other.cast(), awaited: awaited.as_raw_fd() };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    // SAFETY: it has a stack of its own, and this thread waits until it has ended (`CLONE_VFORK`): so what it is told
    // lives as long. It calls nothing that needs to know which thread it is. (It takes no signals, as this thread takes none.)
    let starter =
        unsafe { libc::clone(starts, stack.cast(), flags, (&raw const told).cast_mut().cast()) };
    let refused = if starter < 0 {
        Some(last("clone"))
    } else {
        // An error of the starter's `clone`, which it cannot say more of.
        let refused = ArenaError::Os { call: "clone", errno: libc::EAGAIN };
        (wait_for(starter)? != 0).then_some(refused)
    };
    if let Some(error) = refused {
        // SAFETY: mapped just now; no process runs on it: there is no unmapper, and no starter any more.
        let _ = unsafe { rustix::mm::munmap(stacks.cast(), 2 * STACK) };
        return Err(error);
    }
    drop(open);
    // Until the unmapper has closed its copies of all descriptors: of a lock, too.
    retry_on_intr(|| rustix::io::read(&closed, &mut [0_u8; 1])).map_err(os("read"))?;
    Ok(held)
}

/// Waits for the starter, which has ended, and returns how: zero if there is an unmapper.
fn wait_for(starter: libc::pid_t) -> Result<c_int, ArenaError> {
    let mut status = 0;
    // SAFETY: writes to the number alone. (No other call waits for a process that ends without a signal.)
    while unsafe { libc::waitpid(starter, &raw mut status, libc::__WALL) } < 0 {
        let error = last("waitpid");
        if error != (ArenaError::Os { call: "waitpid", errno: libc::EINTR }) {
            return Err(error);
        }
    }
    Ok(status)
}

/// Starts the unmapper in a process of its own, which ends then: so the unmapper is the system's to wait for.
extern "C" fn starts(told: *mut c_void) -> c_int {
    // SAFETY: from `start_one`, which waits for this process.
    let told = unsafe { &*told.cast::<Told>() };
    let number = without_provenance_mut(told.awaited.unsigned_abs() as usize);
    // SAFETY: it has a stack of its own, which is never unmapped, and needs nothing else of this process's.
    let pid = unsafe { libc::clone(unmaps, told.stack, libc::CLONE_VM | libc::SIGCHLD, number) };
    c_int::from(pid < 0)
}

/// Waits until the process that it was started for has ended, or executed another program.
extern "C" fn unmaps(awaited: *mut c_void) -> c_int {
    let (awaited, mut byte) = (awaited.addr(), 0_u8);
    // SAFETY: system calls that touch the descriptors, the name and the priority of this process, and a byte of its stack.
    // The C library would note an error where the thread has it that started this process: so what can fail is done
    // while that thread waits for the end of the other pipe, which the third call closes.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, NAME.as_ptr());
        // The successor comes first.
        libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 19);
        if awaited != 0 {
            libc::syscall(libc::SYS_dup3, awaited, 0, 0);
        }
        libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0);
        libc::syscall(libc::SYS_read, 0, &raw mut byte, 1);
    }
    0
}

fn last(call: &'static str) -> ArenaError {
    ArenaError::Os { call, errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
}
