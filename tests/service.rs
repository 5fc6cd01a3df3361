//! A service finds its memory again: after a jump, and after it was killed, out of its manager's hands.
#![cfg(all(feature = "std", target_os = "linux"))]

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use heirloom::arena::{Arena, RangeSpec};
use heirloom::jump::Jump;
use heirloom::service::{Cold, Service, ServiceError};
use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
use heirloom_testkit::service::{Life, Manager};
use rustix::fs::{Mode, OFlags};

const NAME: &str = "counter";

/// Starts the service with all that the manager keeps.
fn start(manager: &Manager) -> Life {
    let mut command = manager.command(&std::env::current_exe().unwrap());
    command.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("HEIRLOOM_TEST_SERVICE", "1");
    Life::start(command)
}

#[test]
fn the_memory_is_found_again_however_a_service_ends() {
    let manager = Manager::new("service");
    let mut first = start(&manager);
    manager.attend();
    assert_eq!(first.says(), "cold: no predecessor left anything; generation 0, count 1");
    assert_eq!(manager.kept().len(), 1);
    first.kill();

    // Killed at no instant in particular, and started anew with what was held.
    let mut second = start(&manager);
    manager.attend();
    assert_eq!(second.says(), "warm; generation 1, count 2");
    // It jumps into a successor, which has its number, and to which nothing of the manager's is new.
    second.tell("jump");
    manager.attend();
    assert_eq!(second.says(), "warm; generation 2, count 3");
    // A second one beside it is refused, and changes nothing of what is held.
    let mut beside = start(&manager);
    assert_eq!(beside.says(), format!("process {} has the arena", second.child.id()));
    beside.kill();
    second.kill();

    let mut third = start(&manager);
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
    assert_eq!(manager.kept().len(), 1);
    third.kill();
    let mut fourth = start(&manager);
    manager.attend();
    assert_eq!(fourth.says(), "warm; generation 1, count 2");
    fourth.kill();
}

#[test]
fn an_arena_without_a_handover_is_no_predecessor() {
    let manager = Manager::new("empty");
    let arena = Arena::create("empty", &[memory()]).unwrap();
    manager.kept().push((NAME.to_owned(), arena.share().unwrap()));
    drop(arena);
    let mut life = start(&manager);
    // What was of no use is dropped, and the new one kept.
    manager.attend();
    manager.attend();
    assert_eq!(manager.kept().len(), 1);
    let text = "cold: the predecessor ended before it began a handover; generation 0, count 1";
    assert_eq!(life.says(), text);
    life.kill();
    // A name that another descriptor has, of no arena.
    let file = std::fs::File::open("/dev/null").unwrap();
    // Nor of any that can be read: a path, and an arena to be written alone.
    let path = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
    let arena = Arena::create("written", &[memory()]).unwrap();
    let written = format!("/proc/self/fd/{}", arena.as_fd().as_raw_fd());
    let written = rustix::fs::open(written, OFlags::WRONLY, Mode::empty()).unwrap();
    drop(arena);
    for other in [file.into(), path, written] {
        *manager.kept() = vec![(NAME.to_owned(), other)];
        let mut life = start(&manager);
        let text = life.says();
        assert!(text.starts_with("cold: the predecessor's memory cannot be had: "), "{text}");
        manager.attend();
        manager.attend();
        life.kill();
    }
    // Beside one with nothing in it, the other is found, whichever the manager names first.
    let empty = Arena::create("empty", &[memory()]).unwrap().share().unwrap();
    for (at, count) in [(0, 2), (1, 3)] {
        manager.kept().truncate(1);
        manager.kept().insert(at, (NAME.to_owned(), empty.try_clone().unwrap()));
        let mut life = start(&manager);
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
    // The longest that one can keep is a service's: what Linux calls a memfd is shorter.
    // SAFETY: nothing is passed on to this process, nor is anything of it taken.
    let service = unsafe { Service::begin(&"n".repeat(255), &[memory()]) }.unwrap();
    assert_eq!(service.cold(), Some(Cold::NoPredecessor));
}

#[test]
fn a_service_goes_on_where_its_manager_is_gone() {
    let manager = Manager::new("gone");
    let mut life = start(&manager);
    manager.attend();
    assert_eq!(life.says(), "cold: no predecessor left anything; generation 0, count 1");
    drop(manager);
    life.tell("jump");
    assert_eq!(life.says(), "warm; generation 1, count 2");
    life.kill();
}

#[test]
fn an_arena_is_found_behind_a_descriptor_that_was_closed_on_the_way() {
    let manager = Manager::new("hole");
    let mut life = start(&manager);
    manager.attend();
    assert_eq!(life.says(), "cold: no predecessor left anything; generation 0, count 1");
    life.kill();
    let other = std::fs::File::open("/dev/null").unwrap();
    manager.kept().insert(0, ("other".to_owned(), other.into()));
    let mut command = manager.command(&std::env::current_exe().unwrap());
    command.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("HEIRLOOM_TEST_SERVICE", "1");
    // What came between the manager and the service.
    // SAFETY: a system call, behind which nothing uses the number.
    unsafe {
        command.pre_exec(|| {
            rustix::io::close(3);
            Ok(())
        })
    };
    let mut life = Life::start(command);
    manager.attend();
    assert_eq!(life.says(), "warm; generation 1, count 2");
    life.kill();
}

#[test]
fn a_socket_that_is_called_as_the_service_is_there_to_be_taken() {
    let manager = Manager::new("socket");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    manager.kept().push((NAME.to_owned(), socket.into()));
    let mut life = start(&manager);
    let text = "cold: no predecessor left anything; generation 0, count 1, with counter";
    assert_eq!(life.says(), text);
    manager.attend();
    life.kill();
}

#[test]
fn the_memory_goes_along_without_a_descriptor_that_was_closed_on_the_way() {
    let manager = Manager::new("passed");
    let mut life = start(&manager);
    manager.attend();
    assert_eq!(life.says(), "cold: no predecessor left anything; generation 0, count 1");
    // By a shell in between, which closes the last of two.
    life.tell("jump through what closes one");
    manager.attend();
    assert_eq!(life.says(), "warm; generation 1, count 2, with first");
    life.kill();
}

/// Tells this program that it is the service whose manager is slow.
const SLOW: &str = "HEIRLOOM_TEST_SLOW";

static CAME: AtomicU32 = AtomicU32::new(0);

extern "C" fn came(_: libc::c_int) {
    CAME.fetch_add(1, Relaxed);
}

/// Runs the test in a process of its own, unless this is it, whose manager has a socket of this name. Returns where that is.
fn with_manager(test: &str) -> Option<String> {
    if let Ok(path) = std::env::var(SLOW) {
        // SAFETY: all zeroes are a `sigaction`, one without `SA_RESTART`; the handler counts. The default action of the other
        // signal ends a process that waits for ever.
        unsafe {
            let mut action = core::mem::zeroed::<libc::sigaction>();
            action.sa_sigaction = came as *const () as libc::sighandler_t;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, core::ptr::null_mut()), 0);
            libc::alarm(60);
        }
        return Some(path);
    }
    let path = std::env::temp_dir().join(format!("heirloom-{test}-{}", std::process::id()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env("NOTIFY_SOCKET", &path).env(SLOW, &path).output().unwrap();
    let _ = std::fs::remove_file(&path);
    assert!(output.status.success(), "{output:?}");
    None
}

/// A thread that sends signals to this one whenever it sleeps.
struct Signals {
    thread: libc::pthread_t,
    number: libc::pid_t,
}

impl Signals {
    fn to_this_thread() -> Self {
        // SAFETY: they ask which thread this is.
        unsafe { Self { thread: libc::pthread_self(), number: libc::gettid() } }
    }

    /// Sends one as soon as the thread sleeps, and waits until it was handled.
    fn send(&self) {
        let stat = format!("/proc/self/task/{}/stat", self.number);
        let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
        while !sleeps() {
            std::thread::yield_now();
        }
        let before = CAME.load(Relaxed);
        // SAFETY: the thread is the one that the process ends with.
        assert_eq!(unsafe { libc::pthread_kill(self.thread, libc::SIGUSR1) }, 0);
        while CAME.load(Relaxed) == before {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_manager_that_is_slow_has_the_arena_whatever_signals_come_meanwhile() {
    let test = "a_manager_that_is_slow_has_the_arena_whatever_signals_come_meanwhile";
    let Some(path) = with_manager(test) else { return };
    let (socket, other) = (UnixDatagram::bind(&path).unwrap(), UnixDatagram::unbound().unwrap());
    // No message more has room.
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"STATUS=full", &path).is_ok() {}
    let signals = Signals::to_this_thread();
    std::thread::spawn(move || {
        (0..3).for_each(|_| signals.send());
        // What comes with a message is closed, and so each barrier.
        while socket.recv(&mut [0; 4096]).is_ok() {}
    });
    // SAFETY: this process was started for this test alone, and nothing was passed on to it.
    let service = unsafe { Service::begin(NAME, &[memory()]) }.unwrap();
    let _heirloom = service.start("service test", SealPolicy::Checked).unwrap();
    assert!(service.is_held());
    assert!(CAME.load(Relaxed) >= 3);
}

#[test]
fn a_manager_that_takes_nothing_is_given_up_whatever_signals_come_meanwhile() {
    let test = "a_manager_that_takes_nothing_is_given_up_whatever_signals_come_meanwhile";
    let Some(path) = with_manager(test) else { return };
    let _socket = UnixDatagram::bind(&path).unwrap();
    let signals = Signals::to_this_thread();
    std::thread::spawn(move || {
        loop {
            signals.send();
        }
    });
    // SAFETY: as above.
    let service = unsafe { Service::begin(NAME, &[memory()]) }.unwrap();
    assert_eq!(service.ready().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(CAME.load(Relaxed) >= 3);
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
    let mut with = String::new();
    for name in ["first", "last", NAME] {
        if service.take(name).is_some() {
            with.push_str(", with ");
            with.push_str(name);
        }
    }
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
        println!("service: {cold}; generation {}, count {count}{with}", heirloom.generation());
        let mut told = String::new();
        std::io::stdin().read_line(&mut told).unwrap();
        match told.trim_end() {
            "jump" => {
                let mut successor = Command::new(std::env::current_exe().unwrap());
                successor.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
                let jump = Jump::new(service.arena(), heirloom.entry()).unwrap();
                panic!("{}", jump.exec(successor));
            }
            "jump through what closes one" => {
                let mut successor = Command::new("/bin/sh");
                successor.args(["-c", r#"eval "exec ${HEIRLOOM_FDS##*=}<&-"; exec "$@""#, "sh"]);
                successor.arg(std::env::current_exe().unwrap());
                successor.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
                let input = std::io::stdin();
                let jump = Jump::new(service.arena(), heirloom.entry()).unwrap();
                let jump = jump.with_fd("first", input.as_fd()).unwrap();
                panic!("{}", jump.with_fd("last", input.as_fd()).unwrap().exec(successor));
            }
            "cold" => {
                let why = heirloom.claim_root("none").err().map(Cold::Refused).unwrap();
                service = service.start_cold(why).unwrap();
            }
            _ => return,
        }
    }
}
