//! Real files kept in preserved memory over several generations of this program.
//!
//! ```text
//! cargo run --release --example handover -- [--files DIR] [--limit BYTES] [--generations N]
//!                                           [--arena BYTES] [--successor PROGRAM]
//!                                           [--crash] [--seed N]
//! ```
//!
//! Generation 0 stores every file and `exec`s the next one: all that passes is an open memfd and
//! the addresses of the root and of the scratch list. Each generation maps the memory elsewhere,
//! checks and reserves the handover, claims everything, compares every byte with the SHA-256 taken
//! when it was stored, stores half of the files anew, frees what they replace, and hands over again.
//! Exit status 0 if nothing was lost and nothing leaked.
//!
//! With `--crash` the first process stays, as a supervisor that keeps the memfd and nothing else. It
//! starts the generations as children, and ends some of them in the middle of their takeover, by
//! `SIGKILL`, at random instants: up to ten in a row, before one is let through. Each finds every file
//! that the last published index names, whatever the ones before it had come to. The last line is
//! the same.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod index;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod steps;
#[cfg(target_os = "linux")]
mod store;
#[cfg(target_os = "linux")]
mod supervisor;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main(std::time::Instant::now())
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("this example needs Linux: its memory is a memfd");
    std::process::ExitCode::FAILURE
}
