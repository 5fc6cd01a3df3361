//! Linux between two kernels of another make: the first process of its life, in `cargo xtask kernel --linux`.
//!
//! ```text
//!   Linux ──> examples/kernel ──> examples/kernel ──> Linux ──> ...
//!   session "linux"    passes it on, adds one of its own   both compared; files written anew, preserved again
//! ```
//!
//! The command line says which step of which plan this is (`plan=ljcl step=3`), as it does to those kernels: a letter for each kernel of the
//! chain, `l` for Linux. What the first process does not know of its kernel's command line it finds in its environment.

#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "the kernel makes smaller things of numbers too")]
mod pattern;
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
