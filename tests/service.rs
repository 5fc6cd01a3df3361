//! A service finds its memory again: after a jump, and after it was killed, out of its manager's hands.
#![cfg(all(feature = "std", target_os = "linux"))]

use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use heirloom::arena::{Arena, RangeSpec};
use heirloom::jump::Jump;
use heirloom::service::{Cold, Service, ServiceError};
use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const NAME: &str = "counter";

/// What a service manager does with descriptors, in this process.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<(String, OwnedFd)>,
}

impl Manager {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("heirloom-{test}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, kept: Vec::new() }
    }

    /// Takes messages until one is a barrier.
    fn attend(&mut self) {
        loop {
            let mut bytes = [0; 4096];
            let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let length = recvmsg(&self.socket, &mut parts, &mut control, flags).unwrap().bytes;
            let fds = control.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            });
            let fds: Vec<_> = fds.collect();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            if text == "BARRIER=1" {
                return;
            } else if text.contains("FDSTORE=1\n") {
                let name = name.unwrap().to_owned();
                self.kept.retain(|(has, _)| *has != name);
                self.kept.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
            } else if text.contains("FDSTOREREMOVE=1\n") {
                self.kept.retain(|(has, _)| Some(has.as_str()) != name);
            } else {
                panic!("{text:?}");
            }
        }
    }

    /// Starts the service with all that is kept, as descriptors 3 and on.
    fn start(&self) -> Life {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        // `exec` keeps the number of the process.
        command.args(["-c", r#"LISTEN_PID=$$ exec "$@""#, "sh"]).arg(program);
        command.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
        command.env("HEIRLOOM_TEST_SERVICE", "1").env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", self.kept.len().to_string());
        let names: Vec<_> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        let copies: Vec<_> = self.kept.iter().map(|(_, fd)| fd.try_clone().unwrap()).collect();
        let numbers: Vec<_> = copies.iter().map(AsRawFd::as_raw_fd).collect();
        let pass = move || {
            // Above all of them first: a copy that is made must not replace one that is still to be made.
            for (to, from) in (100..).zip(&numbers) {
                duplicate(*from, to)?;
            }
            (3..).zip(100..).take(numbers.len()).try_for_each(|(to, from)| duplicate(from, to))
        };
        // SAFETY: after the fork it makes system calls and allocates nothing.
        unsafe { command.pre_exec(pass) };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Life { child, to, from: BufReader::new(from) }
    }
}

fn duplicate(from: RawFd, to: RawFd) -> std::io::Result<()> {
    // SAFETY: numbers of this child's own, which has no other thread.
    if unsafe { libc::dup2(from, to) } < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A process that is the service.
struct Life {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Life {
    /// Returns the next line that the service says.
    fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the service has ended");
            // What the test harness prints stands before it.
            if let Some((_, said)) = line.split_once("service: ") {
                return said.trim_end().to_owned();
            }
        }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.to, "{what}").unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn the_memory_is_found_again_however_a_service_ends() {
    let mut manager = Manager::new("service");
    let mut first = manager.start();
    manager.attend();
    assert_eq!(first.says(), "cold: no predecessor left anything; generation 0, count 1");
    assert_eq!(manager.kept.len(), 1);
    first.kill();

    // Killed at no instant in particular, and started anew with what was held.
    let mut second = manager.start();
    manager.attend();
    assert_eq!(second.says(), "warm; generation 1, count 2");
    // It jumps into a successor, which has its number, and to which nothing of the manager's is new.
    second.tell("jump");
    manager.attend();
    assert_eq!(second.says(), "warm; generation 2, count 3");
    // A second one beside it is refused, and changes nothing of what is held.
    let mut beside = manager.start();
    assert_eq!(beside.says(), format!("process {} has the arena", second.child.id()));
    beside.kill();
    second.kill();

    let mut third = manager.start();
    manager.attend();
    assert_eq!(third.says(), "warm; generation 3, count 4");
    third.tell("cold");
    // It has the old one dropped, and another held.
    manager.attend();
    manager.attend();
    assert_eq!(
        third.says(),
        "cold: the handover is of no use here: no subtree is named none; generation 0, count 1"
    );
    assert_eq!(manager.kept.len(), 1);
    third.kill();
    let mut fourth = manager.start();
    manager.attend();
    assert_eq!(fourth.says(), "warm; generation 1, count 2");
    fourth.kill();
}

#[test]
fn an_arena_without_a_handover_is_no_predecessor() {
    let mut manager = Manager::new("empty");
    let arena = Arena::create("empty", &[memory()]).unwrap();
    manager.kept.push((NAME.to_owned(), arena.share().unwrap()));
    drop(arena);
    let mut life = manager.start();
    // What was of no use is dropped, and the new one kept.
    manager.attend();
    manager.attend();
    assert_eq!(manager.kept.len(), 1);
    let text = "cold: the predecessor ended before it began a handover; generation 0, count 1";
    assert_eq!(life.says(), text);
    life.kill();
    // A name that another descriptor has, of no arena.
    let file = std::fs::File::open("/dev/null").unwrap();
    manager.kept = vec![(NAME.to_owned(), file.into())];
    let mut life = manager.start();
    manager.attend();
    manager.attend();
    let text = life.says();
    assert!(text.starts_with("cold: the predecessor's memory cannot be had: "), "{text}");
    life.kill();
    // Beside one with nothing in it, the other is found, whichever the manager names first.
    let empty = Arena::create("empty", &[memory()]).unwrap().share().unwrap();
    for (at, count) in [(0, 2), (1, 3)] {
        manager.kept.truncate(1);
        manager.kept.insert(at, (NAME.to_owned(), empty.try_clone().unwrap()));
        let mut life = manager.start();
        // (The emulated manager keeps the newest of a name: the arena that is told anew.)
        manager.attend();
        assert_eq!(life.says(), format!("warm; generation {}, count {count}", count - 1));
        life.kill();
    }
}

#[test]
fn names_that_no_manager_can_keep_are_refused() {
    for name in ["", "a:b", "a\nFDSTOREREMOVE=1", "na\u{ef}ve", &"n".repeat(256)] {
        // SAFETY: refused before anything is taken.
        let refused = unsafe { Service::begin(name, &[memory()]) };
        assert!(matches!(refused, Err(ServiceError::Name)), "{name:?}");
    }
}

#[test]
fn a_service_goes_on_where_its_manager_is_gone() {
    let mut manager = Manager::new("gone");
    let mut life = manager.start();
    manager.attend();
    assert_eq!(life.says(), "cold: no predecessor left anything; generation 0, count 1");
    drop(manager);
    life.tell("jump");
    assert_eq!(life.says(), "warm; generation 1, count 2");
    life.kill();
}

fn memory() -> RangeSpec {
    RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) }
}

/// Counts its lives. Does something only where a manager started it.
#[test]
fn the_service() {
    if std::env::var_os("HEIRLOOM_TEST_SERVICE").is_none() {
        return;
    }
    // SAFETY: this process was started for this test alone, and has opened nothing that it passes on.
    let mut service = match unsafe { Service::begin(NAME, &[memory()]) } {
        Ok(service) => service,
        Err(error) => return println!("service: {error}"),
    };
    loop {
        let heirloom = service.start("service test", SealPolicy::Checked).unwrap();
        assert!(service.hold(NAME, std::io::stdin().as_fd()).is_err());
        let again = service.start("service test", SealPolicy::Checked);
        assert!(matches!(again, Err(ServiceError::Started)));
        let count = match heirloom.claim_root("count") {
            Ok(root) => u64::from_le_bytes(root.bytes().try_into().unwrap()) + 1,
            Err(_) => 1,
        };
        heirloom.finish(|_| Disposition::Free).unwrap();
        heirloom.publish("count", &count.to_le_bytes()).unwrap();
        let cold = service.cold().map_or("warm".to_owned(), |why| format!("cold: {why}"));
        println!("service: {cold}; generation {}, count {count}", heirloom.generation());
        let mut told = String::new();
        std::io::stdin().read_line(&mut told).unwrap();
        match told.trim_end() {
            "jump" => {
                let mut successor = Command::new(std::env::current_exe().unwrap());
                successor.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
                let jump = Jump::new(service.arena(), heirloom.entry()).unwrap();
                panic!("{}", jump.exec(successor));
            }
            "cold" => {
                let why = heirloom.claim_root("none").err().map(Cold::Refused).unwrap();
                service = service.start_cold(why).unwrap();
            }
            _ => return,
        }
    }
}
