//! The first process of a kernel: what it does, and what is said when that fails.

use std::process::ExitCode;

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
    if let Err(error) = live() {
        println!("{example}: failed: {error}");
    }
    // The first process must not end.
    let refused = rustix::system::reboot(RebootCommand::PowerOff);
    println!("{example}: no power off: {refused:?}");
    ExitCode::FAILURE
}
