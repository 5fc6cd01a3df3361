//! The jump into a successor: one process image replaced by another, the memory kept.
//!
//! What passes is what a kernel passes, and as little: the memory itself, as an open descriptor,
//! and the addresses of the root and of the scratch list, which the successor finds in one
//! variable of its environment.
//!
//! ```text
//! HEIRLOOM_HANDOVER=v1 fd=3 root=0x100001000 scratch=0x100002000+0x20
//! ```
//!
//! Other descriptors, of listening sockets and live connections say, go along under names
//! ([`Jump::with_fd`]), in a variable of their own.
//!
//! The predecessor needs no last step and the successor no cooperation: the addresses stay true
//! however the predecessor ends.

mod error;
mod letter;
mod names;
mod passed;

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

pub use error::JumpError;
use heirloom_restore::Entry;
use letter::Letter;
pub(crate) use names::LISTEN;
use names::PASSED;
pub use names::VARIABLE;
use passed::{Passed, check_name};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

use crate::arena::{Arena, ArenaError, process, sealed_bytes};

/// A jump about to be made.
///
/// # Examples
/// ```no_run
/// use std::process::Command;
/// use heirloom::arena::Arena;
/// use heirloom::Entry;
/// use heirloom::jump::Jump;
///
/// fn hand_over(arena: &Arena, entry: Entry) -> Result<(), Box<dyn std::error::Error>> {
///     let successor = Command::new("/usr/bin/successor");
///     Err(Jump::new(arena, entry)?.exec(successor).into())
/// }
/// ```
#[derive(Debug)]
pub struct Jump {
    fd: OwnedFd,
    entry: Entry,
    passed: Vec<(String, OwnedFd)>,
}

impl Jump {
    /// Prepares a jump with this memory.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: out of descriptors.
    pub fn new(arena: &Arena, entry: Entry) -> Result<Self, ArenaError> {
        Ok(Self { fd: arena.share()?, entry, passed: Vec::new() })
    }

    /// Takes another descriptor along, which the successor finds under this name
    /// ([`Inherited::take`]): a listening socket, so that no connection is refused meanwhile, or the
    /// connections themselves. A copy of it goes: this process keeps its own, also where the jump fails.
    ///
    /// A name is 1 to 64 letters, digits or `-_.:`. Several descriptors can have one, and come in the order
    /// in which they were given. Linux takes about 8,000 of them: the variable of the environment that names
    /// them can have 128 KiB.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: no such name. Else out of descriptors, or memory.
    ///
    /// # Examples
    /// ```no_run
    /// use std::net::TcpListener;
    /// use std::os::fd::AsFd;
    /// use heirloom::arena::Arena;
    /// use heirloom::Entry;
    /// use heirloom::jump::{Inherited, Jump};
    ///
    /// fn hand_over(arena: &Arena, entry: Entry, listener: &TcpListener) -> std::io::Error {
    ///     let jump = Jump::new(arena, entry).map_err(std::io::Error::other);
    ///     match jump.and_then(|jump| jump.with_fd("listen", listener.as_fd())) {
    ///         Ok(jump) => jump.exec(std::process::Command::new("/usr/bin/successor")),
    ///         Err(error) => error,
    ///     }
    /// }
    ///
    /// fn begin() -> Result<(), Box<dyn std::error::Error>> {
    ///     // SAFETY: the first line of `main`.
    ///     if let Some(mut inherited) = unsafe { Inherited::from_env() }? {
    ///         let listener = inherited.take("listen").ok_or("no socket")?;
    ///         let listener = TcpListener::from(listener);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn with_fd(mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<Self> {
        check_name(name)?;
        // 3 and above, as for the memory.
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        self.passed.push((name.to_owned(), copy));
        Ok(self)
    }

    /// Says in the successor's environment what goes along.
    fn announce(&self, successor: &mut Command) {
        let Self { fd, entry, passed } = self;
        successor.env(VARIABLE, Letter { fd: fd.as_raw_fd(), entry: *entry }.to_string());
        // One that this process was given itself says nothing of its successor's.
        successor.env_remove(PASSED);
        // What a service manager started this process with it has taken, and a successor has its number.
        for name in LISTEN {
            successor.env_remove(name);
        }
        if !passed.is_empty() {
            let names = passed.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd()));
            successor.env(PASSED, Passed(names.collect()).to_string());
        }
    }

    /// Replaces this process by `successor`. Returns only if that failed: the memory is as it was,
    /// this process's, and can be jumped with again. Descriptors, the directory and the action of
    /// `SIGPIPE` are as they were too; a user or group that the command sets is not.
    ///
    /// Whatever other threads start meanwhile gets no descriptor of the memory: the one that stays
    /// open is in a table of its own. For that a new thread makes the jump. It has what this thread
    /// has of signals, priorities and rights; children that asked for a signal at the end of the
    /// thread that started them (`PR_SET_PDEATHSIG`) get it, as by any `exec` from another thread.
    /// Containers that refuse `unshare` are no obstacle from Linux 5.9 on; before, the jump fails there
    /// with `EPERM`.
    ///
    /// The error's text begins with the program's name.
    pub fn exec(self, mut successor: Command) -> io::Error {
        self.announce(&mut successor);
        let Self { fd, passed, .. } = self;
        let signal = rustix::process::parent_process_death_signal().ok().flatten();
        let sigpipe = Action::of(libc::SIGPIPE);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let here = || rustix::fs::open(".", flags, Mode::empty());
        let directory = successor.get_current_dir().map(|_| here());
        let no_way_back = directory.as_ref().and_then(|here| here.as_ref().err().copied());
        let mut kept = vec![fd.as_fd()];
        kept.extend(passed.iter().map(|(_, fd)| fd.as_fd()));
        let command = &mut successor;
        // Everything that owns a descriptor stays here: what the thread closed would be closed in
        // its own table alone.
        let jump = move || -> io::Error {
            // SAFETY: what the thread opens it closes, and it closes nothing of other threads', as
            // it owns nothing of theirs.
            if let Err(error) = unsafe { private_descriptors() } {
                return error;
            }
            if !private_directory()
                && let Some(errno) = no_way_back
            {
                return errno.into();
            }
            // Kept over `exec`, but a thread's own.
            let told = rustix::process::set_parent_process_death_signal(signal);
            let stay = |fd| rustix::io::fcntl_setfd(fd, FdFlags::empty());
            match told.and_then(|()| kept.into_iter().try_for_each(stay)) {
                Ok(()) => command.exec(),
                Err(errno) => errno.into(),
            }
        };
        let error = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("jump".to_owned());
            let thread = thread.spawn_scoped(scope, jump);
            thread.map_or_else(
                |error| error,
                |thread| thread.join().unwrap_or_else(|_| io::Error::other("the jump panicked")),
            )
        });
        sigpipe.restore();
        if let Some(Ok(directory)) = directory {
            // Where the thread could not have one of its own. It was there a moment ago.
            let _ = rustix::process::fchdir(directory);
        }
        named(&successor, &error)
    }

    /// Starts `successor` as a child, which becomes the owner of the memory.
    ///
    /// The error's text begins with the program's name.
    ///
    /// # Errors
    /// - [`io::ErrorKind::ResourceBusy`]: the child was not started, and the memory is not this
    ///   process's any more: another one has it, or had it meanwhile and may have cleared it
    ///   (`heirloom clear`). The text says why the child was not started, too.
    /// - Those of [`Command::spawn`], and [`io::ErrorKind::Other`] where the system did not let the
    ///   memory be lent. The memory is this process's again, as it was.
    ///
    /// # Safety
    /// - From the call on, nothing in this process reads or writes the memory, not even by dropping
    ///   a value that owns some of it; until the call returns an error other than `ResourceBusy`, or
    ///   the child has ended and the memory was opened anew.
    pub unsafe fn spawn(self, mut successor: Command) -> io::Result<Child> {
        self.announce(&mut successor);
        let Self { fd, passed, .. } = self;
        // Before the child is there to ask for it.
        process::lend(fd.as_fd()).map_err(io::Error::other)?;
        let mut kept = vec![fd.as_raw_fd()];
        kept.extend(passed.iter().map(|(_, fd)| fd.as_raw_fd()));
        let keep_open = move || {
            kept.iter().try_for_each(|fd| {
                // SAFETY: a copy of one that is open in the process that starts the child.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                Ok(rustix::io::fcntl_setfd(fd, FdFlags::empty())?)
            })
        };
        // SAFETY: after a fork of a process with several threads the closure may do only what a
        // signal handler may: it makes system calls and allocates nothing.
        unsafe { successor.pre_exec(keep_open) };
        let started = successor.spawn();
        started.map_err(|error| match process::take_back(fd.as_fd()) {
            Ok(()) => named(&successor, &error),
            Err(lost) => {
                let lost = match lost {
                    ArenaError::InUse { pid: None } => {
                        "another process has the arena, or had it meanwhile".to_owned()
                    }
                    lost => lost.to_string(),
                };
                let text = format!("{}; {lost}", named(&successor, &error));
                io::Error::new(io::ErrorKind::ResourceBusy, text)
            }
        })
    }
}

/// Gives the calling thread a table of descriptors of its own, a copy of the process's.
///
/// # Safety
/// - The thread closes no descriptor that other threads own: it would stay open for them.
unsafe fn private_descriptors() -> io::Result<()> {
    // Closes none: no descriptor has this number. Containers refuse `unshare` by default, as it makes
    // namespaces too, and allow this (Linux 5.9 and later).
    let none = libc::c_uint::MAX;
    let flag = libc::CLOSE_RANGE_UNSHARE;
    // SAFETY: numbers alone; the caller's promise.
    if unsafe { libc::syscall(libc::SYS_close_range, none, none, flag) } == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    if unsafe { libc::unshare(libc::CLONE_FILES) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Gives the calling thread a directory of its own, where it may have one. Returns whether it may.
fn private_directory() -> bool {
    // SAFETY: what it changes is where the thread's relative paths begin.
    unsafe { libc::unshare(libc::CLONE_FS) == 0 }
}

/// Returns the error with the name of the program that was not started.
fn named(command: &Command, error: &io::Error) -> io::Error {
    let program = command.get_program().to_string_lossy();
    io::Error::new(error.kind(), format!("{program}: {error}"))
}

/// What a signal does.
struct Action {
    signal: libc::c_int,
    action: libc::sigaction,
}

impl Action {
    fn of(signal: libc::c_int) -> Self {
        // SAFETY: all zeroes are a `sigaction`: the default one.
        let mut action = unsafe { core::mem::zeroed::<libc::sigaction>() };
        // SAFETY: writes the action, which lives as long as the call. It fails for no signal that
        // there is.
        let _ = unsafe { libc::sigaction(signal, core::ptr::null(), &raw mut action) };
        Self { signal, action }
    }

    fn restore(&self) {
        // SAFETY: an action that the signal had before.
        let _ =
            unsafe { libc::sigaction(self.signal, &raw const self.action, core::ptr::null_mut()) };
    }
}

/// What a successor found in its environment.
#[derive(Debug)]
pub struct Inherited {
    /// The memory: to be given to [`Arena::open`].
    pub fd: OwnedFd,
    /// Where to begin.
    pub entry: Entry,
    /// What else the predecessor passed on ([`Jump::with_fd`]), with its names, in its order.
    pub passed: Vec<(String, OwnedFd)>,
}

/// Whether the descriptor was taken. Static, as the environment and the descriptors are: both
/// belong to the process.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Inherited {
    /// Returns what the predecessor left: `None` if there was none.
    ///
    /// Takes the descriptors, once in the life of the process, and lets them close on exec. The
    /// variable itself stays (to change the environment is unsound once there are threads):
    /// give children of yours that use heirloom a `Command::env_remove(VARIABLE)`.
    ///
    /// # Errors
    /// - [`JumpError::NotText`], [`JumpError::Version`], [`JumpError::Missing`],
    ///   [`JumpError::Malformed`], [`JumpError::Trailing`]: the variable does not say what it
    ///   should.
    /// - [`JumpError::NotOpen`]: no such descriptor. (One that came along and was closed on the way is not among those that
    ///   are [taken](Inherited::take).)
    /// - [`JumpError::NotMemory`]: it is no memory that could be an arena. It is left alone.
    /// - [`JumpError::TakenAlready`]: this was called before, with success.
    ///
    /// # Safety
    /// - Nothing else in the process owns a descriptor that the variables name. Called at the
    ///   start of `main`, before anything else is opened, that is so: a number that the process
    ///   began with has no owner yet.
    pub unsafe fn from_env() -> Result<Option<Self>, JumpError> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let Letter { fd, entry } = Letter::parse(text.to_str().ok_or(JumpError::NotText)?)?;
        // SAFETY: the number is not -1 (`parse`) and nothing else owns or closes it (contract). If
        // it is not open, the next call says so and touches nothing.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_getfd(borrowed).map_err(|_| JumpError::NotOpen { fd })?;
        sealed_bytes(borrowed).map_err(|reason| JumpError::NotMemory { fd, reason })?;
        let Passed(passed) = Passed::from_env(fd)?;
        // Relaxed: nothing but the flag itself is at stake.
        if TAKEN.swap(true, Relaxed) {
            return Err(JumpError::TakenAlready);
        }
        // SAFETY: open (just asked), owned by nothing else (contract), and not taken before (the
        // flag); it needs no cleanup but close.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // It cannot fail on an open descriptor; and if it did, `Arena::open` would say so.
        let _ = rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC);
        let own = |(name, fd)| {
            // SAFETY: as for the memory's, and no two are one (`Passed::from_env`).
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let _ = rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC);
            (name, fd)
        };
        Ok(Some(Self { fd, entry, passed: passed.into_iter().map(own).collect() }))
    }

    /// Returns the first descriptor that was passed on under this name and not taken yet.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.passed.iter().position(|(has, _)| has == name)?;
        Some(self.passed.remove(at).1)
    }
}
