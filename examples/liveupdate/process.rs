//! The first process of a kernel: what it does, and what is said when that fails.

use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::system::RebootCommand;

/// Runs `live`, which ends in a jump or in an error; `command` is what boots a kernel with the example as its
/// first process.
pub(crate) fn first<E: std::fmt::Display>(
    example: &str,
    command: &str,
    live: fn() -> Result<(), E>,
) -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("{example}: started as the first process of a kernel: {command}");
        return ExitCode::FAILURE;
    }
    own_line();
    own_line();
    if let Err(error) = live() {
        println!("{example}: failed: {error}");
    }
    printed();
    printed();
    // The first process must not end.
    let refused = rustix::system::reboot(RebootCommand::PowerOff);
    println!("{example}: no power off: {refused:?}");
    ExitCode::FAILURE
}

/// Has this process print on the second serial line, if the machine has one: between any two characters of what is
/// printed on the console, messages of the kernel may stand.
fn own_line() {
    let line = rustix::fs::open(c"/dev/ttyS1", OFlags::WRONLY | OFlags::NOCTTY, Mode::empty());
    // A machine without one has the console.
    let _ = line.and_then(rustix::stdio::dup2_stdout);
}

/// Waits until what was printed has left the machine: neither a jump nor a power off waits for that.
pub(crate) fn printed() {
    // Where no terminal is printed on, there is nothing to wait for.
    let _ = rustix::termios::tcdrain(std::io::stdout());
}
