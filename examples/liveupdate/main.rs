//! Real files kept in preserved memory while Linux is replaced by another Linux.
//!
//! ```text
//! cargo xtask liveupdate
//! ```
//!
//! builds a kernel that does live updates, and boots it in an emulated machine with this program
//! as its first process. There it stores every file below `/files` in an arena that Linux keeps,
//! loads the next kernel and jumps. Started again by that kernel, it finds the arena by the names
//! of its session and token, checks and reserves the handover, claims everything, compares every
//! byte with the file, stores half anew, frees what that replaces, gives all memory back, and says
//!
//! ```text
//! liveupdate: 180 files, 3456789 bytes, 0 lost
//! ```
//!
//! What keeps the files is the code of the example `handover`, which jumps by `exec` instead.

#[cfg(target_os = "linux")]
#[path = "../handover/files.rs"]
mod files;
#[cfg(target_os = "linux")]
#[path = "../handover/index.rs"]
mod index;
#[cfg(target_os = "linux")]
#[path = "../handover/keeper.rs"]
mod keeper;
#[cfg(target_os = "linux")]
#[path = "../handover/memory.rs"]
mod memory;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
#[path = "../handover/report.rs"]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
#[path = "../handover/steps.rs"]
#[expect(dead_code, reason = "this one has no supervisor that ends it")]
mod steps;
#[cfg(target_os = "linux")]
#[path = "../handover/store.rs"]
mod store;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("this example needs Linux: it is the first process of one");
    std::process::ExitCode::FAILURE
}
