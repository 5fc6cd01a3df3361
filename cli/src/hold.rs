//! `heirloom hold`: a supervisor that keeps a service's memory and sockets while it is started anew.
//!
//! What it speaks is systemd's protocol (`sd_notify(3)`, `sd_listen_fds(3)`), so that a service that is
//! written for one runs under the other.

mod notify;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use notify::{Message, Notify, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::process::{
    Pid, PidfdFlags, Resource, Signal, WaitOptions, getrlimit, kill_process, pidfd_open, setrlimit,
    wait,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::arguments::Hold;

/// The first of the numbers that passed descriptors have.
const FIRST: i32 = 3;

/// The longest pause before a service is started anew.
const LONGEST: Duration = Duration::from_secs(5);

/// What a service ends with that could not begin now, and is not to be begun otherwise: `EX_TEMPFAIL`.
const NOT_NOW: i32 = 75;

/// What the shell ends with where there is no such program, or none that can be run.
const NO_PROGRAM: [i32; 2] = [126, 127];

/// What the signals mean that are handed on.
const FORWARDED: [(i32, Signal); 5] = [
    (SIGHUP, Signal::HUP),
    (SIGINT, Signal::INT),
    (SIGTERM, Signal::TERM),
    (SIGUSR1, Signal::USR1),
    (SIGUSR2, Signal::USR2),
];

/// The service and its arguments, for a person.
fn shown(command: &[OsString]) -> String {
    command.join(OsStr::new(" ")).display().to_string()
}

/// Runs the command.
pub(crate) fn run(hold: &Hold) -> Result<ExitCode> {
    let mut holder = Holder::new(hold)?;
    loop {
        let began = Instant::now();
        let status = match holder.live() {
            Ok(status) if status.success() || holder.ending => return Ok(code(status)),
            Ok(status) => {
                say(format_args!("{} ended: {status}", shown(&hold.command)));
                holder.count(began, status)?;
                status
            }
            // What it had is still here, or the service itself.
            Err(error) if holder.starts > 0 || holder.running.is_some() => {
                say(format_args!("{error:#}"));
                ExitStatus::default()
            }
            Err(error) => return Err(error),
        };
        holder.pause()?;
        if holder.ending {
            return Ok(code(status));
        }
    }
}

/// Says a line, if it can be said: what is kept does not end for want of a place to say so.
fn say(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "heirloom hold: {what}");
}

/// What a shell would say of a process that ended so.
fn code(status: ExitStatus) -> ExitCode {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(u8::MAX))
}

/// The supervisor.
struct Holder<'a> {
    hold: &'a Hold,
    notify: Notify,
    /// The sockets that were opened for the service.
    listening: Vec<(String, OwnedFd)>,
    /// What the service gave to be kept.
    kept: Vec<(String, OwnedFd)>,
    /// How often in a row the service failed before it had begun.
    failures: usize,
    /// How often in a row it was started anew before it had begun, for whatever reason.
    starts: u32,
    /// Whether it said that it has begun.
    ready: bool,
    /// Whether what the service gave was dropped since it failed first.
    cold: bool,
    /// How many descriptors the service may have open.
    limit: Option<u64>,
    /// Each signal's own stream: a byte comes with each.
    signals: Vec<(UnixStream, Signal)>,
    /// A byte comes when a child has ended: the service, or what was left to this process.
    children: UnixStream,
    /// The service, from its start until it was waited for.
    running: Option<Pid>,
    /// Whether the service was told to end.
    ending: bool,
}

impl<'a> Holder<'a> {
    fn new(hold: &'a Hold) -> Result<Self> {
        let listening = hold.listen.iter().map(|(name, address)| {
            let socket =
                TcpListener::bind(address).with_context(|| format!("listening at {address}"))?;
            Ok((name.clone(), OwnedFd::from(socket)))
        });
        let listening = listening.collect::<Result<_>>()?;
        let signals =
            FORWARDED.into_iter().map(|(number, signal)| Ok((stream_of(number)?, signal)));
        let signals = signals.collect::<std::io::Result<_>>().context("signals")?;
        let children = stream_of(SIGCHLD).context("signals")?;
        let notify = Notify::new()?;
        // As many as can be kept are kept twice for a moment.
        let mut descriptors = getrlimit(Resource::Nofile);
        let limit = descriptors.current;
        descriptors.current = descriptors.maximum;
        setrlimit(Resource::Nofile, descriptors).context("the limit of descriptors")?;
        Ok(Self {
            hold,
            notify,
            listening,
            kept: Vec::new(),
            failures: 0,
            starts: 0,
            ready: false,
            cold: false,
            limit,
            signals,
            children,
            running: None,
            ending: false,
        })
    }

    /// Starts the service, unless it runs, and attends to it until it has ended.
    fn live(&mut self) -> Result<ExitStatus> {
        let pid = match self.running {
            Some(pid) => pid,
            None => self.start()?,
        };
        // (Where there is none: its end comes as a signal too.)
        let ended = pidfd_open(pid, PidfdFlags::empty()).ok();
        loop {
            let mut awaited = vec![PollFd::from_borrowed_fd(self.notify.as_fd(), PollFlags::IN)];
            awaited.extend(ended.iter().map(|ended| PollFd::new(ended, PollFlags::IN)));
            awaited.extend(self.streams().map(|stream| PollFd::new(stream, PollFlags::IN)));
            match poll(&mut awaited, None) {
                Err(rustix::io::Errno::INTR) => {}
                polled => drop(polled.context("poll")?),
            }
            // Before it is waited for: from then on its number can be another process's.
            self.forward(Some(pid));
            let status = self.wait();
            // What it said before it ended is said.
            while let Some(message) = self.notify.receive()? {
                self.attend(message);
            }
            if let Some(status) = status {
                return Ok(status);
            }
        }
    }

    /// Reaps each child that has ended: the service, and processes that the kernel gave to this one when their parent ended, as it
    /// does to the first process of a container. Returns the service's status if it was among them.
    fn wait(&mut self) -> Option<ExitStatus> {
        // As many bytes as came: the next is of a later end.
        let _ = rustix::io::read(&self.children, &mut [0_u8; 64]);
        let mut status = None;
        while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
            if self.running == Some(pid) {
                self.running = None;
                status = Some(ExitStatus::from_raw(ended.as_raw()));
            }
        }
        status
    }

    /// Returns the streams of all signals.
    fn streams(&self) -> impl Iterator<Item = &UnixStream> {
        self.signals.iter().map(|(stream, _)| stream).chain([&self.children])
    }

    /// Starts the service with all that is kept.
    fn start(&mut self) -> Result<Pid> {
        // `exec` keeps the number of the process, which the service compares with its own.
        let mut command = Command::new("/bin/sh");
        let limit = self.limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        let script = format!(r#"ulimit -S -n {limit}; LISTEN_PID=$$ exec "$@""#);
        command.args(["-c", &script, "sh"]).args(&self.hold.command);
        let passed = || self.listening.iter().chain(&self.kept);
        let names: Vec<_> = passed().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        command.env("LISTEN_FDS", names.len().to_string());
        command.env("NOTIFY_SOCKET", self.notify.path());
        // A predecessor of this supervisor's is none of the service's.
        command.env_remove("HEIRLOOM_HANDOVER").env_remove("HEIRLOOM_FDS");
        let mappings = passed()
            .zip(FIRST..)
            .map(|((_, fd), child_fd)| Ok(FdMapping { parent_fd: fd.try_clone()?, child_fd }));
        let mappings = mappings.collect::<std::io::Result<_>>().context("descriptors")?;
        command.fd_mappings(mappings).context("descriptors")?;
        let shown = shown(&self.hold.command);
        let child = command.spawn().with_context(|| format!("starting {shown}"))?;
        let pid = Pid::from_child(&child);
        (self.running, self.ready) = (Some(pid), false);
        Ok(pid)
    }

    /// Waits before the service is started anew, the longer the more often it was. A signal to end is heeded.
    fn pause(&mut self) -> Result<()> {
        let first = Duration::from_millis(self.hold.pause);
        let pause = first.saturating_mul(1 << self.starts.saturating_sub(1).min(16)).min(LONGEST);
        let until = Instant::now() + pause;
        while !self.ending {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let left = Timespec::try_from(left).context("a pause")?;
            let mut awaited: Vec<_> =
                self.streams().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
            match poll(&mut awaited, Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => drop(polled.context("poll")?),
            }
            self.forward(self.running);
            self.wait();
        }
        Ok(())
    }

    /// Hands on what signals came.
    fn forward(&mut self, pid: Option<Pid>) {
        for (stream, signal) in &self.signals {
            let mut came = [0; 64];
            if !matches!(rustix::io::read(stream, &mut came), Ok(1..)) {
                continue;
            }
            self.ending |= matches!(*signal, Signal::TERM | Signal::INT);
            match pid.map(|pid| kill_process(pid, *signal)) {
                // It has ended meanwhile, or there is none.
                None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => {}
                Some(Err(error)) => say(format_args!("a signal to the service: {error}")),
            }
        }
    }

    /// Takes note of what the service says, and does what it asks for.
    fn attend(&mut self, message: Message) {
        self.ready |= message.ready;
        match message.store {
            Some(Store::Keep(name, fds)) => {
                for fd in fds {
                    if self.kept.iter().any(|(has, kept)| *has == name && is_same(kept, &fd)) {
                        continue;
                    }
                    if self.kept.len() >= self.hold.most {
                        say(format_args!("{name:?} is not kept: {} are (--most)", self.hold.most));
                        return;
                    }
                    self.kept.push((name.clone(), fd));
                }
            }
            Some(Store::Drop(name)) => self.kept.retain(|(has, _)| *has != name),
            None => {}
        }
    }

    /// Takes note that a service that began then has ended so: after too many failures before it had begun,
    /// it is started with its sockets alone.
    ///
    /// # Errors
    /// It failed as often with those alone.
    fn count(&mut self, began: Instant, status: ExitStatus) -> Result<()> {
        let within = Duration::from_secs(self.hold.within);
        if self.ready || began.elapsed() >= within {
            // It had begun: what ended it is another matter.
            (self.failures, self.starts, self.cold) = (0, 1, false);
            return Ok(());
        }
        self.starts = self.starts.saturating_add(1);
        let code = status.code();
        if code == Some(NOT_NOW) {
            return Ok(());
        }
        let is_nothing = self.cold || self.kept.is_empty();
        // A program that is being replaced says nothing of what it would find.
        if !is_nothing && code.is_some_and(|code| NO_PROGRAM.contains(&code)) {
            return Ok(());
        }
        self.failures += 1;
        let times = self.failures;
        if times < self.hold.failures {
            return Ok(());
        }
        if is_nothing {
            bail!("it failed {times} times with nothing to go on with, and is not started again");
        }
        let count = self.kept.len();
        say(format_args!(
            "it failed {times} times: {count} kept descriptors are dropped, and it begins with nothing"
        ));
        self.kept.clear();
        (self.failures, self.cold) = (0, true);
        Ok(())
    }
}

/// Returns a stream on which a byte comes with each signal of this number.
fn stream_of(number: i32) -> std::io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(number, write)?;
    Ok(read)
}

/// Whether both are descriptors of one file. (Event descriptors and their like all have one inode.)
fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let of = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) != FileType::Unknown;
        is_file.then_some((stat.st_dev, stat.st_ino))
    };
    of(a).is_some_and(|file| of(b) == Some(file))
}
