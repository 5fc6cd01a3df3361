//! Real files kept in preserved memory over several generations of this program.
//!
//! ```text
//! cargo run --release --example handover -- [--files DIR] [--limit BYTES] [--generations N]
//!                                           [--arena BYTES] [--successor PROGRAM]
//! ```
//!
//! Generation 0 stores every file and `exec`s the next one: all that passes is an open memfd and
//! the addresses of the root and of the scratch list. Each generation maps the memory elsewhere,
//! checks and reserves the handover, claims everything, compares every byte with the SHA-256 taken
//! when it was stored, frees half, stores as much anew, and hands over again. Exit status 0 if
//! nothing was lost and nothing leaked.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main(std::time::Instant::now())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this example keeps memory in a memfd and needs Linux");
}
