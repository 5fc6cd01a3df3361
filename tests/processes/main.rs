//! What an arena promises of processes: forked ones, those that want the same memory, those that
//! are started beside a jump, and handlers of signals.
#![cfg(all(feature = "std", target_os = "linux"))]

mod calls;
mod failing;
mod fork;
mod killed;
mod lend;
mod limits;
mod owner;
mod room;
mod signals;
mod unmap;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::NodeId;
use heirloom::kho::{PAGE_SIZE, PhysAddr, Run};

/// Tells this program which part of a test it is to play.
const ROLE: &str = "HEIRLOOM_TEST_ROLE";
/// Tells it the number of a descriptor that it was born with.
const FD: &str = "HEIRLOOM_TEST_FD";

/// 8 MiB at 4 GiB.
fn arena(name: &str) -> Arena {
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 8 << 20, node: NodeId(0) };
    Arena::create(name, &[range]).unwrap()
}

/// A first kernel on `arena`, which nothing else uses.
fn boot(arena: &Arena) -> Heirloom<&Arena> {
    let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
    let scratch = Run::new(map[0].0.start(), (1 << 20) / PAGE_SIZE as u64).unwrap();
    // SAFETY: the arena was created by the caller, and nothing else uses it.
    unsafe { Heirloom::boot(arena, &map, &[scratch], "processes") }.unwrap()
}

/// This program again, to run the test `part` alone, in a role.
fn part(part: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([part, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env_remove("RUST_BACKTRACE");
    command
}

/// Whether this process was started in `role`.
fn plays(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|told| told == role)
}

/// Runs the test in a process of its own, unless this is it: no other test's thread holds a lock
/// at the moment at which a test forks. Whether it did.
fn elsewhere(test: &str) -> bool {
    let is_here = plays("alone");
    if !is_here {
        output_of(part(test, "alone"));
    }
    !is_here
}

/// Lets the command's process inherit `fd`, and tells it the number.
fn lend(command: &mut Command, fd: OwnedFd) {
    command.env(FD, fd.as_raw_fd().to_string());
    let keep_open = move || Ok(rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?);
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(keep_open) };
}

/// The descriptor that [`lend`] gave to this process.
fn lent() -> OwnedFd {
    let number = std::env::var(FD).unwrap().parse().unwrap();
    // SAFETY: inherited for this test, which asks once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// What the process printed; it must have succeeded.
fn output_of(mut command: Command) -> String {
    let output: Output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
