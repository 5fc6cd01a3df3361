//! `heirloom hold`: a supervisor that keeps a service's memory and sockets while it is started anew.
//!
//! What it speaks is systemd's protocol (`sd_notify(3)`, `sd_listen_fds(3)`), so that a service that is
//! written for one runs under the other.

mod notify;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use notify::{Message, Notify};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::arguments::Hold;

/// The first of the numbers that passed descriptors have.
const FIRST: i32 = 3;

/// What the signals mean that are handed on.
const FORWARDED: [(i32, Signal); 5] = [
    (SIGHUP, Signal::HUP),
    (SIGINT, Signal::INT),
    (SIGTERM, Signal::TERM),
    (SIGUSR1, Signal::USR1),
    (SIGUSR2, Signal::USR2),
];

/// Runs the command.
pub(crate) fn run(hold: &Hold) -> Result<ExitCode> {
    let mut holder = Holder::new(hold)?;
    loop {
        let began = Instant::now();
        let status = holder.live()?;
        if status.success() || holder.ending {
            return Ok(code(status));
        }
        anstream::eprintln!("heirloom hold: {} ended: {status}", hold.command.join(" "));
        if holder.gives_up(began)? {
            return Ok(code(status));
        }
    }
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
    /// When the service failed lately.
    failures: VecDeque<Instant>,
    /// Whether what the service gave was dropped since it failed first.
    cold: bool,
    /// Each signal's own stream: a byte comes with each.
    signals: Vec<(UnixStream, Signal)>,
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
        let signals = FORWARDED.into_iter().map(|(number, signal)| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(number, write)?;
            Ok((read, signal))
        });
        let signals = signals.collect::<std::io::Result<_>>().context("signals")?;
        let notify = Notify::new()?;
        let (kept, failures) = (Vec::new(), VecDeque::new());
        Ok(Self { hold, notify, listening, kept, failures, cold: false, signals, ending: false })
    }

    /// Starts the service and attends to it until it has ended.
    fn live(&mut self) -> Result<ExitStatus> {
        let mut child = self.start()?;
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty()).context("the service's process")?;
        loop {
            let mut awaited = vec![
                PollFd::new(&ended, PollFlags::IN),
                PollFd::from_borrowed_fd(self.notify.as_fd(), PollFlags::IN),
            ];
            awaited.extend(self.signals.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut awaited, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled.context("poll")?,
            };
            let has_ended = awaited.first().is_some_and(|fd| !fd.revents().is_empty());
            self.forward(pid)?;
            // What it said before it ended is said.
            while let Some(message) = self.notify.receive()? {
                self.attend(message);
            }
            if has_ended {
                return child.wait().context("the service's process");
            }
        }
    }

    /// Starts the service with all that is kept.
    fn start(&self) -> Result<Child> {
        // `exec` keeps the number of the process, which the service compares with its own.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"LISTEN_PID=$$ exec "$@""#, "sh"]).args(&self.hold.command);
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
        let shown = self.hold.command.join(" ");
        command.spawn().with_context(|| format!("starting {shown}"))
    }

    /// Hands on what signals came.
    fn forward(&mut self, pid: Pid) -> Result<()> {
        for (stream, signal) in &self.signals {
            let mut came = [0; 64];
            if !matches!(rustix::io::read(stream, &mut came), Ok(1..)) {
                continue;
            }
            self.ending |= matches!(*signal, Signal::TERM | Signal::INT);
            match kill_process(pid, *signal) {
                // It has ended meanwhile.
                Err(rustix::io::Errno::SRCH) => {}
                sent => sent.context("a signal to the service")?,
            }
        }
        Ok(())
    }

    /// Does what the service asks for.
    fn attend(&mut self, message: Message) {
        match message {
            Message::Keep(name, fds) => {
                if self.kept.len() + fds.len() > self.hold.most {
                    let most = self.hold.most;
                    anstream::eprintln!("heirloom hold: {name:?} is not kept: {most} are (--most)");
                    return;
                }
                for fd in fds {
                    if !self.kept.iter().any(|(has, kept)| *has == name && is_same(kept, &fd)) {
                        self.kept.push((name.clone(), fd));
                    }
                }
            }
            Message::Drop(name) => self.kept.retain(|(has, _)| *has != name),
            Message::Other => {}
        }
    }

    /// Takes note that a service that began then has failed, and decides what comes next: it is started with
    /// all that is kept; with its sockets alone, if it failed too often; or no more.
    fn gives_up(&mut self, began: Instant) -> Result<bool> {
        let now = Instant::now();
        let within = Duration::from_secs(self.hold.within);
        if now.duration_since(began) >= within {
            // It ran: what killed it now is another matter.
            self.failures.clear();
            self.cold = false;
        }
        self.failures.push_back(now);
        if self.failures.len() < self.hold.failures {
            return Ok(false);
        }
        let times = self.failures.len();
        if self.cold || self.kept.is_empty() {
            bail!("it failed {times} times with nothing to go on with, and is not started again");
        }
        anstream::eprintln!(
            "heirloom hold: it failed {times} times: {} kept descriptors are dropped, and it begins \
             with nothing",
            self.kept.len()
        );
        self.kept.clear();
        self.failures.clear();
        self.cold = true;
        Ok(false)
    }
}

/// Whether both are descriptors of one file.
fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let of = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((of(a), of(b)), (Ok(a), Ok(b)) if a == b)
}
