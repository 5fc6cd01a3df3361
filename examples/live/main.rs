//! What a kernel would hand over, looked at from within: before the jump, after it, and when the kernel has crashed.
//!
//! ```text
//! cargo xtask liveupdate --live
//! ```
//!
//! boots a kernel that does live updates in an emulated machine, with this program as its first process and the command
//! `heirloom` beside it. The program preserves files in two sessions, and has the command look at the kernel that runs
//! (`inspect --live`, `check --live`). Then it jumps: the next kernel has the files, and another handover of its own,
//! which is looked at too. Or it ends, and with it the kernel: what that would have handed over is looked at in
//! `/proc/vmcore`.

#[cfg(target_os = "linux")]
#[path = "../liveupdate/process.rs"]
mod process;
#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("this example needs Linux: it is the first process of one");
    std::process::ExitCode::FAILURE
}
