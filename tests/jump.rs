//! A successor process finds the memory and the addresses that its predecessor passed on.
#![cfg(all(feature = "std", target_os = "linux"))]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use heirloom::Entry;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{DirectMap, NodeId};
use heirloom::jump::{Inherited, Jump, JumpError, VARIABLE};
use heirloom::kho::{PAGE_SIZE, PhysAddr};

const START: u64 = 0x3_0000_0000;
const TEXT: &[u8] = b"what the predecessor wrote";

fn entry() -> Entry {
    let scratch = PhysAddr::new(START + PAGE_SIZE as u64);
    Entry { root: PhysAddr::new(START), scratch, scratch_bytes: 48 }
}

fn write(arena: &Arena, at: u64, bytes: &[u8]) {
    let ptr = arena.ptr(PhysAddr::new(START + at));
    // SAFETY: in the only range, which has a page and more from here; nothing else uses it.
    unsafe { ptr.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

fn read(arena: &Arena, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; TEXT.len()];
    let ptr = arena.ptr(PhysAddr::new(START + at));
    // SAFETY: as for `write`.
    unsafe { ptr.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

fn arena() -> Arena {
    let bytes = 4 * PAGE_SIZE as u64;
    let range = RangeSpec { start: PhysAddr::new(START), bytes, node: NodeId(0) };
    Arena::create("jump test", &[range]).unwrap()
}

/// This program again, to run one of the tests below as another process.
fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// What the command printed; it must have succeeded.
fn output_of(mut command: Command) -> String {
    let output = command.env_remove("RUST_BACKTRACE").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn memory_and_addresses_pass_from_process_to_process() {
    let arena = arena();
    write(&arena, 0, TEXT);
    let mut child = this_program("successor_jumps_on");
    child.stdout(Stdio::piped());
    let jump = Jump::new(&arena, entry()).unwrap();
    // SAFETY: this process reads the memory when the child has ended.
    let child = unsafe { jump.spawn(child) }.unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("the second successor found everything"), "{text}");
    assert_eq!(read(&arena, 3 * PAGE_SIZE as u64), TEXT);
}

/// Does something only where a predecessor spawned it.
#[test]
fn successor_jumps_on() {
    // SAFETY: this process was started for this test alone, or has no such variable.
    let Some(inherited) = unsafe { Inherited::from_env() }.unwrap() else { return };
    assert_eq!(inherited.entry, entry());
    // SAFETY: as before.
    let again = unsafe { Inherited::from_env() };
    assert!(matches!(again, Err(JumpError::TakenAlready)));

    let arena = Arena::open(inherited.fd).unwrap();
    assert_eq!(read(&arena, 0), TEXT);
    write(&arena, 2 * PAGE_SIZE as u64, TEXT);
    let next = this_program("second_successor_finds_everything");
    let error = Jump::new(&arena, inherited.entry).unwrap().exec(next);
    panic!("{error}");
}

/// Does something only where a predecessor jumped into it.
#[test]
fn second_successor_finds_everything() {
    // SAFETY: as for the first.
    let Some(inherited) = unsafe { Inherited::from_env() }.unwrap() else { return };
    assert_eq!(inherited.entry, entry());
    let flags = rustix::io::fcntl_getfd(&inherited.fd).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let arena = Arena::open(inherited.fd).unwrap();
    assert_eq!(read(&arena, 0), TEXT);
    assert_eq!(read(&arena, 2 * PAGE_SIZE as u64), TEXT);
    write(&arena, 3 * PAGE_SIZE as u64, TEXT);
    println!("the second successor found everything");
}

#[test]
fn a_jump_that_fails_leaves_the_memory() {
    let arena = arena();
    write(&arena, 0, TEXT);
    let jump = Jump::new(&arena, entry()).unwrap();
    // SAFETY: nothing reads or writes the memory meanwhile.
    let error = unsafe { jump.spawn(Command::new("/no/such/program")) };
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(read(&arena, 0), TEXT);
}

#[test]
fn a_variable_that_lies_is_an_error() {
    let rest = "root=0x1000 scratch=0x2000+0x20";
    for (value, error) in [
        ("", "Version"),
        ("v1 fd=3", "Missing { field: \"root\" }"),
        (&format!("v1 fd=1 {rest}"), "Malformed { field: \"fd\" }"),
        (&format!("v1 fd=987654 {rest}"), "NotOpen { fd: 987654 }"),
    ] {
        let mut command = this_program("print_what_is_inherited");
        command.env(VARIABLE, value);
        let text = output_of(command);
        assert!(text.contains(&format!("inherited: Err({error})")), "{text}");
    }

    // A descriptor that is open and no memory.
    let program = this_program("print_what_is_inherited");
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$0" "$@" 7</dev/null"#]);
    shell.arg(program.get_program()).args(program.get_args());
    shell.env(VARIABLE, format!("v1 fd=7 {rest}"));
    let text = output_of(shell);
    assert!(text.contains("inherited: Err(NotMemory { fd: 7, reason: NotMemfd })"), "{text}");
}

/// Does something only where the variable is set.
#[test]
fn print_what_is_inherited() {
    if std::env::var_os(VARIABLE).is_some() {
        // SAFETY: this process was started for this test alone.
        println!("inherited: {:?}", unsafe { Inherited::from_env() });
    }
}

/// A client that is connected all the time asks three processes in a row, and none refuses it.
#[test]
fn sockets_go_along_under_their_names() {
    let arena = arena();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    let jump = Jump::new(&arena, entry()).unwrap();
    let jump = jump.with_fd("listen", listener.as_fd()).unwrap();
    let jump = jump.with_fd("client", server.as_fd()).unwrap();
    for wrong in ["", "a b", "a=b", &"n".repeat(65)] {
        let jump = Jump::new(&arena, entry()).unwrap();
        let error = jump.with_fd(wrong, listener.as_fd()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{wrong:?}");
    }
    let mut child = this_program("the_server_goes_on");
    child.env("HEIRLOOM_TEST_LIVES", "1");
    // SAFETY: nothing reads or writes the memory any more.
    let mut child = unsafe { jump.spawn(child) }.unwrap();
    drop((listener, server));
    for life in 1..=3_u8 {
        client.write_all(&[life]).unwrap();
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [life, life]);
    }
    // The listening socket is the one that was bound first.
    let mut second = TcpStream::connect(address).unwrap();
    second.write_all(b"x").unwrap();
    assert!(child.wait().unwrap().success());
}

/// Does something only where a predecessor passed sockets on.
#[test]
fn the_server_goes_on() {
    let Ok(lives) = std::env::var("HEIRLOOM_TEST_LIVES") else { return };
    // SAFETY: this process was started for this test alone.
    let mut inherited = unsafe { Inherited::from_env() }.unwrap().unwrap();
    let names: Vec<_> = inherited.passed.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["listen", "client"]);
    for (name, fd) in &inherited.passed {
        let flags = rustix::io::fcntl_getfd(fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{name}");
    }
    assert!(inherited.take("nothing").is_none());
    let listener = TcpListener::from(inherited.take("listen").unwrap());
    let mut client = TcpStream::from(inherited.take("client").unwrap());
    assert!(inherited.take("client").is_none());
    let mut asked = [0];
    client.read_exact(&mut asked).unwrap();
    assert_eq!(asked, [lives.parse::<u8>().unwrap()]);
    client.write_all(&[asked[0]; 2]).unwrap();
    if asked == [3] {
        let (mut second, _) = listener.accept().unwrap();
        second.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"x");
        return;
    }
    let arena = Arena::open(inherited.fd).unwrap();
    let jump = Jump::new(&arena, inherited.entry).unwrap();
    let jump = jump.with_fd("listen", listener.as_fd()).unwrap();
    let jump = jump.with_fd("client", client.as_fd()).unwrap();
    let mut next = this_program("the_server_goes_on");
    next.env("HEIRLOOM_TEST_LIVES", (asked[0] + 1).to_string());
    panic!("{}", jump.exec(next));
}
