//! One process has an arena at a time, and others are told which.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use heirloom::Entry;
use heirloom::arena::{Arena, ArenaError};
use heirloom::jump::{Inherited, Jump};
use heirloom::kho::{PAGE_SIZE, PhysAddr};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{arena, elsewhere, lend, lent, output_of, part, plays};

/// A process that says when it has the arena, and then waits until its input ends.
struct Holder {
    child: Child,
    input: ChildStdin,
    /// Kept open, as the process prints more.
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::of(command.spawn().unwrap())
    }

    fn of(mut child: Child) -> Self {
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut told = output.by_ref().lines();
        assert!(told.any(|line| line.unwrap().contains("it has the arena")), "{child:?}");
        Self { child, input, output }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process at once; what it forked lives as long as the value.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self) {
        drop(self.input);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

/// Says so, and waits for the end of the input.
fn hold() {
    println!("it has the arena");
    std::io::stdout().flush().unwrap();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// A role of the tests below.
#[test]
fn has_what_was_lent() {
    if plays("holder") {
        let arena = Arena::open(lent()).unwrap();
        hold();
        drop(arena);
    }
    if plays("holder that forks") {
        let arena = Arena::open(lent()).unwrap();
        // SAFETY: the child makes system calls alone.
        if unsafe { libc::fork() } == 0 {
            let mut byte = 0_u8;
            // It lives on when its parent was killed, until the test closes the input of both.
            // SAFETY: one byte of room; then nothing of the parent's is run.
            unsafe {
                libc::read(0, (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        }
        hold();
        drop(arena);
    }
    if plays("holder that starts") {
        let arena = Arena::open(lent()).unwrap();
        for _ in 0..2 {
            std::thread::spawn(|| {
                loop {
                    assert!(Command::new("/bin/true").status().unwrap().success());
                }
            });
        }
        hold();
        drop(arena);
    }
    if plays("asker") {
        match Arena::open(lent()) {
            Ok(_) => println!("opened"),
            Err(error) => println!("refused: {error}"),
        }
    }
    if plays("sharer") {
        println!("{:?}", Arena::open_shared(lent()).map(|arena| arena.ranges().len()));
    }
}

fn asked(arena: &Arena, role: &str) -> String {
    let mut command = part("owner::has_what_was_lent", role);
    lend(&mut command, arena.share().unwrap());
    output_of(command)
}

fn holder(fd: std::os::fd::OwnedFd, role: &str) -> Holder {
    let mut command = part("owner::has_what_was_lent", role);
    lend(&mut command, fd);
    Holder::start(command)
}

fn in_use(pid: u32) -> ArenaError {
    ArenaError::InUse { pid: i32::try_from(pid).ok() }
}

#[test]
fn another_process_is_told_which_one_has_the_arena() {
    let arena = arena("in use");
    let told = asked(&arena, "asker");
    let expected = format!("refused: process {} has the arena", std::process::id());
    assert!(told.contains(&expected), "{told}");
    let shared = asked(&arena, "sharer");
    assert!(shared.contains("Ok(1)"), "{shared}");
}

#[test]
fn a_process_can_open_its_own_arena_again_and_lets_it_go_with_the_last() {
    let arena = arena("own");
    let again = Arena::open(arena.share().unwrap()).unwrap();
    drop(arena);
    assert!(asked(&again, "asker").contains("refused"));
    let (fd, shared) = (again.share().unwrap(), Arena::open_shared(again.share().unwrap()));
    drop(again);
    // Neither a descriptor nor an arena that is shared has anything to say.
    assert!(asked(&shared.unwrap(), "asker").contains("opened"));
    drop(fd);
}

#[test]
fn a_killed_owner_leaves_the_arena_to_the_next_at_once() {
    let arena = arena("killed");
    // This process is the supervisor: it keeps the descriptor, not the arena.
    let fd = arena.share().unwrap();
    drop(arena);
    let roles = ["holder", "holder that forks", "holder that starts"];
    for role in roles.into_iter().cycle().take(30) {
        let mut owner = holder(fd.try_clone().unwrap(), role);
        let error = Arena::open(fd.try_clone().unwrap()).unwrap_err();
        assert_eq!(error, in_use(owner.pid()), "{role}");
        owner.kill();
        drop(Arena::open(fd.try_clone().unwrap()).unwrap());
        drop(owner);
    }
}

fn entry() -> Entry {
    let page = |n: u64| PhysAddr::new((4 << 30) + n * PAGE_SIZE as u64);
    Entry { root: page(0), scratch: page(1), scratch_bytes: 16 }
}

/// A role of the tests below.
#[test]
fn has_what_was_left() {
    if plays("successor") {
        // SAFETY: this process was started for this alone.
        let inherited = unsafe { Inherited::from_env() }.unwrap().unwrap();
        let arena = Arena::open(inherited.fd).unwrap();
        hold();
        drop(arena);
    }
    if plays("executor") {
        let arena = Arena::open(lent()).unwrap();
        let mut next = part("owner::has_what_was_left", "successor");
        next.env("HEIRLOOM_TEST_FD", "none");
        panic!("{}", Jump::new(&arena, entry()).unwrap().exec(next));
    }
}

#[test]
fn a_process_that_becomes_its_successor_keeps_the_arena() {
    let arena = arena("exec");
    let fd = arena.share().unwrap();
    drop(arena);
    let mut command = part("owner::has_what_was_left", "executor");
    lend(&mut command, fd.try_clone().unwrap());
    let owner = Holder::start(command);
    assert_eq!(Arena::open(fd.try_clone().unwrap()).unwrap_err(), in_use(owner.pid()));
    owner.end();
    drop(Arena::open(fd).unwrap());
}

#[test]
fn a_successor_that_is_started_has_the_arena() {
    let arena = arena("spawn");
    let mut command = part("owner::has_what_was_left", "successor");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let jump = Jump::new(&arena, entry()).unwrap();
    // SAFETY: no allocator runs on the arena.
    let owner = Holder::of(unsafe { jump.spawn(command) }.unwrap());
    assert_eq!(Arena::open(arena.share().unwrap()).unwrap_err(), in_use(owner.pid()));
    owner.end();
    drop(Arena::open(arena.share().unwrap()).unwrap());
}

#[test]
fn a_start_that_fails_leaves_the_arena_to_its_owner() {
    let arena = arena("no start");
    let jump = Jump::new(&arena, entry()).unwrap();
    // SAFETY: no allocator runs on the arena.
    let error = unsafe { jump.spawn(Command::new("/no/such/program")) }.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    assert!(asked(&arena, "asker").contains("refused"));
}

/// Returns a program that is not there. Between `fork` and `exec` the child says so by the first pipe, and waits for a byte of the
/// second.
fn pausing() -> (Command, PipeReader, PipeWriter) {
    let (lent, says) = std::io::pipe().unwrap();
    let (waits, goes_on) = std::io::pipe().unwrap();
    let mut successor = Command::new("/no/such/program");
    let pause = move || {
        (&says).write_all(b"1")?;
        (&waits).read_exact(&mut [0])
    };
    // SAFETY: two system calls.
    unsafe { successor.pre_exec(pause) };
    (successor, lent, goes_on)
}

#[test]
fn a_start_that_fails_where_no_descriptor_is_left_leaves_the_arena_to_its_owner() {
    let test =
        "owner::a_start_that_fails_where_no_descriptor_is_left_leaves_the_arena_to_its_owner";
    if elsewhere(test) {
        return;
    }
    let arena = arena("no descriptors");
    let (successor, mut lent, goes_on) = pausing();
    let jump = Jump::new(&arena, entry()).unwrap();
    let limits = getrlimit(Resource::Nofile);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            lent.read_exact(&mut [0]).unwrap();
            setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limits }).unwrap();
            (&goes_on).write_all(b"1").unwrap();
        });
        // SAFETY: no allocator runs on the arena.
        let error = unsafe { jump.spawn(successor) }.unwrap_err();
        setrlimit(Resource::Nofile, limits).unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
    });
    assert!(asked(&arena, "asker").contains("refused"));
}

#[test]
fn an_owner_whose_start_failed_is_told_if_another_process_had_the_arena_meanwhile() {
    let arena = arena("had meanwhile");
    let (successor, mut lent, goes_on) = pausing();
    let jump = Jump::new(&arena, entry()).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            lent.read_exact(&mut [0]).unwrap();
            let told = asked(&arena, "asker");
            (&goes_on).write_all(b"1").unwrap();
            told
        });
        // SAFETY: no allocator runs on the arena.
        let error = unsafe { jump.spawn(successor) }.unwrap_err();
        assert!(other.join().unwrap().contains("opened"));
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("/no/such/program: No such file"), "{text}");
        assert!(text.ends_with("another process has the arena, or had it meanwhile"), "{text}");
    });
    // It is a matter of opening it anew, as for any other process.
    assert!(asked(&arena, "asker").contains("opened"));
}
