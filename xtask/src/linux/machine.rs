//! The emulated machine.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::FdFlags;
use tempfile::TempDir;

use super::console::{Console, TookTooLong};
use super::debugger::Debugger;
use super::monitor::Monitor;

/// The emulator of `virt`.
pub(crate) const VIRT: &str = "qemu-system-aarch64";

/// How long the monitor of a machine that took too long may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// What is emulated.
#[derive(Clone, Copy)]
pub(crate) enum Board<'a> {
    /// A PC, with x86-64.
    Pc,
    /// QEMU's `virt`, with arm64; told of by this device tree, where its own is not the one.
    Virt(Option<&'a Path>),
}

/// What kind of machine.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    pub(crate) board: Board<'a>,
    /// Its memory, as QEMU is told.
    pub(crate) memory: &'a str,
    /// How many processors it has.
    pub(crate) cpus: u32,
    /// Whether its clock is the instructions that it has done: a nanosecond each. With one processor.
    pub(crate) counted: bool,
    /// What lines of the console that are shown begin with.
    pub(crate) say: &'a str,
    /// Whether it waits for the debugger before it boots.
    pub(crate) stopped: bool,
}

/// QEMU, killed when the value goes.
///
/// It connects to the sockets that the debugger and the monitor listen on, so nobody has to guess
/// when it is ready to be connected to.
pub(crate) struct Machine {
    child: Child,
    console: Console,
    debugger: UnixListener,
    monitor: UnixListener,
    deadline: Instant,
    _sockets: TempDir,
}

impl Machine {
    /// A machine that boots this kernel, if it is stopped once the debugger lets it run.
    pub(crate) fn start(
        model: &Model<'_>,
        kernel: &Path,
        initramfs: &Path,
        command_line: &str,
        show: bool,
        deadline: Instant,
    ) -> Result<Self> {
        let sockets = tempfile::tempdir()?;
        let at = |name| sockets.path().join(name);
        let (debugger, monitor) =
            (UnixListener::bind(at("debugger"))?, UnixListener::bind(at("monitor"))?);
        let socket = |name| format!("unix:{}", at(name).display());
        let mut qemu = match model.board {
            Board::Pc => Command::new("qemu-system-x86_64"),
            Board::Virt(tree) => {
                let mut qemu = Command::new(VIRT);
                qemu.args(["-M", "virt"]);
                if let Some(tree) = tree {
                    qemu.arg("-dtb").arg(tree);
                }
                qemu
            }
        };
        qemu.args(["-accel", "tcg", "-cpu", "max", "-m", model.memory]);
        qemu.args(["-smp", &model.cpus.to_string()]);
        qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-nodefaults"]);
        // The first process's own, of which QEMU inherits the end that is written.
        let (line, written) = std::io::pipe().context("a pipe for a serial line")?;
        if let Board::Pc = model.board {
            rustix::io::fcntl_setfd(&written, FdFlags::empty())?;
            qemu.args(["-serial", &format!("file:/proc/self/fd/{}", written.as_raw_fd())]);
        }
        if model.counted {
            qemu.args(["-icount", "shift=0"]);
        }
        if model.stopped {
            // It stops where a debugger comes.
            qemu.args(["-S", "-gdb", &socket("debugger")]);
        }
        qemu.args(["-qmp", &socket("monitor")]);
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
        qemu.args(["-append", command_line]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = qemu.spawn().context("QEMU")?;
        let output = child.stdout.take().context("QEMU has a standard output")?;
        drop(written);
        let lines = [File::from(OwnedFd::from(output)), File::from(OwnedFd::from(line))];
        let console = Console::new(lines, model.say, show);
        Ok(Self { child, console, debugger, monitor, deadline, _sockets: sockets })
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn debugger(&self) -> Result<Debugger> {
        Debugger::new(accept(&self.debugger, self.deadline)?, self.deadline)
    }

    pub(crate) fn monitor(&self) -> Result<Monitor> {
        Monitor::new(accept(&self.monitor, self.deadline)?, self.deadline)
    }

    /// Reads the console up to a line in which `f` finds something.
    pub(crate) fn find<T>(&mut self, what: &str, f: impl Fn(&str) -> Option<T>) -> Result<T> {
        while let Some(line) = self.console.line(self.deadline)? {
            if let Some(found) = f(&line) {
                return Ok(found);
            }
        }
        bail!("the machine ended before {what}")
    }

    /// Waits for its end, which must be an orderly one.
    pub(crate) fn powered_off(&mut self) -> Result<()> {
        loop {
            match self.console.line(self.deadline) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Err(error.context(self.processors())),
            }
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// What the processors of a machine that does not end are doing.
    fn processors(&self) -> String {
        let deadline = Instant::now() + ANSWER;
        let monitor = accept(&self.monitor, deadline);
        monitor
            .and_then(|stream| Monitor::new(stream, deadline)?.processors())
            .unwrap_or_else(|error| format!("its monitor does not answer: {error:#}"))
    }

    /// Ends it, if it has not ended, and writes all that the console said to a file: that it failed is often known
    /// before the lines that say why are read.
    pub(crate) fn end(&mut self, log: &Path) -> Result<()> {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let deadline = Instant::now() + ANSWER;
        while self.console.line(deadline)?.is_some() {}
        fs::write(log, self.said()).with_context(|| format!("{}", log.display()))
    }

    /// All that was read of what the console said.
    pub(crate) fn said(&self) -> &str {
        self.console.said()
    }

    /// Its last lines.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let all: Vec<_> = self.said().lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who connects first, by the deadline.
fn accept(listener: &UnixListener, deadline: Instant) -> Result<UnixStream> {
    let listener = listener.try_clone()?;
    let (sender, receiver) = channel();
    // If nobody ever connects, the thread goes with the process.
    thread::spawn(move || sender.send(listener.accept()));
    let (stream, _) =
        receiver.recv_timeout(left(deadline)?).context("QEMU connects to nobody")??;
    Ok(stream)
}

/// The time that is left, at least some.
pub(crate) fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), TookTooLong);
    Ok(left)
}
