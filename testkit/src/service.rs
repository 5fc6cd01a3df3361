//! A service manager in this process, and a service that is told on its standard input what to do.

#![allow(clippy::missing_panics_doc, reason = "a test ends where what it stands on fails")]

use std::io::{self, BufRead, BufReader, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Descriptors, by the names that the service gave them.
pub type Kept = Vec<(String, OwnedFd)>;

/// A service manager that speaks systemd's protocol: it keeps descriptors, and starts the service with them.
pub struct Manager {
    path: PathBuf,
    kept: Arc<Mutex<Kept>>,
    barriers: Receiver<()>,
    attends: Option<JoinHandle<()>>,
}

impl Manager {
    /// Opens its socket, by a name that has the test's and the process's in it, and attends to it.
    pub fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("heirloom-{test}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        let (barrier, barriers) = channel();
        let kept = Arc::default();
        let attends = Some(std::thread::spawn({
            let kept = Arc::clone(&kept);
            move || attend(&socket, &kept, &barrier)
        }));
        Self { path, kept, barriers, attends }
    }

    /// Waits until a service has sent a barrier, for which none has waited: all that it sent before has been done.
    pub fn attend(&self) {
        self.barriers.recv().expect("it attends to its socket");
    }

    /// Returns what it keeps, which is as it is while that is held.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// Returns the command that starts `program` with all that is kept, as descriptors 3 and on.
    pub fn command(&self, program: &Path) -> Command {
        let kept = self.kept();
        // `exec` keeps the number of the process.
        let mut command = Command::new("sh");
        command.args(["-c", r#"LISTEN_PID=$$ exec "$@""#, "sh"]).arg(program);
        command.env("NOTIFY_SOCKET", &self.path).env("LISTEN_FDS", kept.len().to_string());
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        let copies: Vec<_> = kept.iter().map(|(_, fd)| fd.try_clone().unwrap()).collect();
        let pass = move || {
            // Above all of them first: a copy that is made must not replace one that is still to be made.
            for (to, from) in (100..).zip(&copies) {
                duplicate(from.as_raw_fd(), to)?;
            }
            (3..).zip(100..).take(copies.len()).try_for_each(|(to, from)| duplicate(from, to))
        };
        // SAFETY: after the fork it makes system calls and allocates nothing.
        unsafe { command.pre_exec(pass) };
        command
    }
}

fn duplicate(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: numbers of this child's own, which has no other thread.
    if unsafe { libc::dup2(from, to) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the socket is sent by the manager itself, last.
const END: &str = "THE END";

/// Takes messages until one says that it is the last.
fn attend(socket: &UnixDatagram, kept: &Mutex<Kept>, barrier: &Sender<()>) {
    loop {
        let mut bytes = [0; 4096];
        let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let fds: Vec<_> = fds.collect();
        let text = std::str::from_utf8(&bytes[..received.bytes]).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        let mut kept = kept.lock().unwrap();
        if text == END {
            return;
        } else if text == "BARRIER=1" {
            // (A test that waits for none has no use for it.)
            let _ = barrier.send(());
        } else if text.contains("FDSTORE=1\n") {
            let name = name.unwrap().to_owned();
            kept.retain(|(has, _)| *has != name);
            kept.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
        } else if text.contains("FDSTOREREMOVE=1\n") {
            kept.retain(|(has, _)| Some(has.as_str()) != name);
        } else {
            assert_eq!(text, "READY=1\n");
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(END.as_bytes(), &self.path));
        if let Some(attends) = self.attends.take() {
            let _ = attends.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A process that is a service, which says what it does on its standard output.
pub struct Life {
    /// The process.
    pub child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Life {
    /// Starts it: a test of the program, by name, or what has it as its child.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, to, from: BufReader::new(from) }
    }

    /// Returns the next line that the service says.
    pub fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the service has ended");
            // What the test harness prints stands before it.
            if let Some((_, said)) = line.split_once("service: ") {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Writes it a line.
    pub fn tell(&mut self, what: &str) {
        writeln!(self.to, "{what}").unwrap();
    }

    /// Ends it at once, as it is.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
