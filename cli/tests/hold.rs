//! A service under `heirloom hold` keeps its memory and its socket however it ends.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use heirloom::arena::RangeSpec;
use heirloom::service::Service;
use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
use heirloom_testkit::service::Life;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};

/// The supervisor, with the service's standard streams.
struct Held {
    life: Life,
    errors: BufReader<ChildStderr>,
    broken: PathBuf,
}

impl Held {
    fn start(test: &str, options: &[&str]) -> Self {
        Self::start_program(test, options, &std::env::current_exe().unwrap())
    }

    fn start_program(test: &str, options: &[&str], program: &Path) -> Self {
        let broken = std::env::temp_dir().join(format!("heirloom-{test}-{}", std::process::id()));
        let _ = std::fs::remove_file(&broken);
        let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
        command.args(["hold", "--pause", "1"]).args(options).arg("--").arg(program);
        command.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
        command.env("HEIRLOOM_TEST_BROKEN", &broken).env_remove("XDG_RUNTIME_DIR");
        command.stderr(Stdio::piped());
        let mut life = Life::start(command);
        let errors = BufReader::new(life.child.stderr.take().unwrap());
        Self { life, errors, broken }
    }

    /// Returns how it ended, and what the supervisor said.
    fn ends(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        let _ = std::fs::remove_file(&self.broken);
        (self.life.child.wait().unwrap(), said)
    }
}

/// Returns where the service listens, which is what it says first.
fn address(said: &str) -> (&str, String) {
    let (address, rest) = said.split_once("; ").unwrap();
    (address, rest.to_owned())
}

#[test]
fn what_a_service_gave_is_there_when_it_is_started_anew() {
    let mut held = Held::start("hold", &["--listen", "echo=127.0.0.1:0", "--within", "3600"]);
    let said = held.life.says();
    let (at, first) = address(&said);
    assert_eq!(first, "cold: no predecessor left anything; generation 0, count 1");
    let at = at.to_owned();
    // A connection that waits while the service is dead is served by the next.
    let mut client = TcpStream::connect(&at).unwrap();
    for (generation, how) in [(1, "abort"), (2, "kill"), (3, "exit 1")] {
        held.life.tell(how);
        let said = held.life.says();
        let expected = format!("warm; generation {generation}, count {}", generation + 1);
        assert_eq!(address(&said), (at.as_str(), expected), "after {how}");
    }
    client.write_all(b"x").unwrap();
    held.life.tell("serve");
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"x");
    held.life.tell("exit 0");
    let (status, said) = held.ends();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(said.matches("heirloom hold: ").count(), 3, "{said}");
}

#[test]
fn a_build_that_fails_at_its_start_begins_with_nothing_at_last() {
    let mut held = Held::start("cold", &["--listen", "echo=127.0.0.1:0", "--failures", "5"]);
    let said = held.life.says();
    assert!(said.ends_with("cold: no predecessor left anything; generation 0, count 1"), "{said}");
    // From here on a start that finds its memory fails.
    std::fs::write(&held.broken, b"").unwrap();
    held.life.tell("abort");
    for _ in 0..4 {
        assert_eq!(held.life.says(), "found its memory, and fails");
    }
    let again = held.life.says();
    assert_eq!(address(&again).1, "cold: no predecessor left anything; generation 0, count 1");
    assert_eq!(address(&again).0, address(&said).0, "the socket is the one that it had");
    held.life.tell("exit 0");
    let (status, said) = held.ends();
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("it failed 5 times: 1 kept descriptors are dropped"), "{said}");
}

#[test]
fn what_is_no_failure_of_a_build_drops_nothing() {
    // A program that is replaced is not there for a moment.
    let program = std::env::temp_dir().join(format!("heirloom-program-{}", std::process::id()));
    let _ = std::fs::remove_file(&program);
    let here = || std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
    here();
    let options = ["--listen", "echo=127.0.0.1:0", "--failures", "2"];
    let mut held = Held::start_program("replaced", &options, &program);
    assert!(held.life.says().ends_with("generation 0, count 1"));
    std::fs::remove_file(&program).unwrap();
    held.life.tell("abort");
    let mut missing = 0;
    while missing < 4 {
        let mut line = String::new();
        assert!(held.errors.read_line(&mut line).unwrap() > 0);
        missing += usize::from(line.contains("exit status: 127"));
    }
    here();
    assert!(held.life.says().ends_with("warm; generation 1, count 2"));
    // It said that it had begun: how it ends after that is another matter.
    for count in 3..6 {
        held.life.tell("ready");
        assert_eq!(held.life.says(), "is ready");
        held.life.tell("abort");
        let said = held.life.says();
        assert!(
            said.ends_with(&format!("warm; generation {}, count {count}", count - 1)),
            "{said}"
        );
    }
    // It cannot begin now, and says so.
    std::fs::write(&held.broken, b"75").unwrap();
    held.life.tell("ready");
    assert_eq!(held.life.says(), "is ready");
    held.life.tell("abort");
    for _ in 0..4 {
        assert_eq!(held.life.says(), "found its memory, and fails");
    }
    std::fs::remove_file(&held.broken).unwrap();
    let said = loop {
        match held.life.says() {
            said if said == "found its memory, and fails" => {}
            said => break said,
        }
    };
    assert!(said.ends_with("warm; generation 5, count 6"), "{said}");
    held.life.tell("exit 0");
    assert!(held.ends().0.success());
    std::fs::remove_file(&program).unwrap();
}

#[test]
fn what_one_message_says_is_all_heeded() {
    // A service that fails once before it had begun would begin with nothing.
    let options = ["--listen", "echo=127.0.0.1:0", "--failures", "1", "--within", "3600"];
    let mut held = Held::start("several", &options);
    assert!(held.life.says().ends_with("generation 0, count 1"));
    for (how, count) in [("ready and keep", 2), ("ready and drop", 3)] {
        held.life.tell(how);
        assert_eq!(held.life.says(), "is ready");
        held.life.tell("abort");
        let said = held.life.says();
        let warm = format!("warm; generation {}, count {count}", count - 1);
        assert!(said.ends_with(&warm), "after {how}: {said}");
    }
    held.life.tell("exit 0");
    assert!(held.ends().0.success());
}

#[test]
fn a_supervisor_that_can_say_nothing_goes_on() {
    let mut held = Held::start_program(
        "silent",
        &["--listen", "echo=127.0.0.1:0"],
        &std::env::current_exe().unwrap(),
    );
    assert!(held.life.says().ends_with("generation 0, count 1"));
    // Nothing reads what the supervisor says any more.
    let nothing = Command::new("true").stderr(Stdio::piped()).spawn();
    let nothing = BufReader::new(nothing.unwrap().stderr.take().unwrap());
    drop(std::mem::replace(&mut held.errors, nothing));
    held.life.tell("abort");
    assert!(held.life.says().ends_with("warm; generation 1, count 2"));
    held.life.tell("exit 0");
    assert!(held.ends().0.success());
}

#[test]
fn a_service_that_never_starts_is_given_up() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    command.args(["hold", "--pause", "1", "--failures", "3", "--", "sh", "-c", "exit 7"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.matches("ended: exit status: 7").count(), 3, "{said}");
    assert!(said.contains("it failed 3 times with nothing to go on with"), "{said}");
}

#[test]
fn a_signal_ends_the_service_and_its_supervisor() {
    let mut held = Held::start("signal", &["--listen", "echo=127.0.0.1:0"]);
    held.life.says();
    kill_process(Pid::from_child(&held.life.child), Signal::TERM).unwrap();
    let (status, said) = held.ends();
    assert_eq!(status.code(), Some(128 + 15), "{said}");
    assert_eq!(said, "");
}

/// What a process that is the first of a container is left, and one that asked for it.
#[test]
fn what_is_left_to_the_supervisor_is_waited_for() {
    // The shell in the middle ends first: the one that says its number is left to the supervisor.
    let service = r#"(sh -c 'echo "service: $$"' &); read last; exit "$last""#;
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    command.args(["hold", "--pause", "1", "--", "sh", "-c", service]);
    let adopts = || Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?);
    // SAFETY: two system calls.
    unsafe { command.pre_exec(adopts) };
    let mut life = Life::start(command);
    let orphan = Path::new("/proc").join(life.says());
    let given_up = Instant::now() + Duration::from_secs(20);
    while orphan.exists() {
        assert!(Instant::now() < given_up, "{} is waited for by none", orphan.display());
        std::thread::yield_now();
    }
    life.tell("0");
    assert!(life.child.wait().unwrap().success());
}

/// Sends a message of a service's to its manager, as a program does that is not of this library.
fn notify(text: &[u8], fd: Option<BorrowedFd<'_>>) {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(std::env::var_os("NOTIFY_SOCKET").unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        assert!(control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd))));
    }
    sendmsg(&socket, &[IoSlice::new(text)], &mut control, SendFlags::empty()).unwrap();
}

/// Counts its lives, and ends as it is told. Does something only under the supervisor.
#[test]
fn the_service() {
    let Some(broken) = std::env::var_os("HEIRLOOM_TEST_BROKEN") else { return };
    let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    // SAFETY: this process was started for this test alone, and has opened nothing that it passes on.
    let mut service = unsafe { Service::begin("held", &[memory]) }.unwrap();
    if service.cold().is_none()
        && let Ok(how) = std::fs::read_to_string(broken)
    {
        println!("service: found its memory, and fails");
        match how.parse() {
            Ok(code) => std::process::exit(code),
            Err(_) => std::process::abort(),
        }
    }
    let listener = TcpListener::from(service.take("echo").unwrap());
    assert_eq!(service.take("echo").map(|fd| fd.as_fd().try_clone_to_owned().is_ok()), None);
    let heirloom = service.start("hold test", SealPolicy::Checked).unwrap();
    let count = match heirloom.claim_root("count") {
        Ok(root) => u64::from_le_bytes(root.bytes().try_into().unwrap()) + 1,
        Err(_) => 1,
    };
    heirloom.finish(|_| Disposition::Free).unwrap();
    heirloom.publish("count", &count.to_le_bytes()).unwrap();
    let cold = service.cold().map_or("warm".to_owned(), |why| format!("cold: {why}"));
    let address = listener.local_addr().unwrap();
    println!("service: {address}; {cold}; generation {}, count {count}", heirloom.generation());
    for told in std::io::stdin().lines() {
        match told.unwrap().as_str() {
            "abort" => std::process::abort(),
            "kill" => kill_process(rustix::process::getpid(), Signal::KILL).unwrap(),
            "serve" => {
                let (mut client, _) = listener.accept().unwrap();
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                client.write_all(&byte).unwrap();
            }
            "ready" => {
                assert!(service.ready().unwrap());
                println!("service: is ready");
            }
            "ready and keep" => {
                notify(b"READY=1\nFDSTORE=1\nFDNAME=another", Some(listener.as_fd()));
                println!("service: is ready");
            }
            "ready and drop" => {
                notify(b"FDSTOREREMOVE=1\nFDNAME=another\nREADY=1", None);
                println!("service: is ready");
            }
            "exit 0" => std::process::exit(0),
            _ => std::process::exit(1),
        }
    }
}
