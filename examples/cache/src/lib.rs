//! A cache that clients of Redis speak to, and that outlives its processes.
//!
//! ```text
//! clients ══ RESP ══> worker threads ──> request ──> command ──> store ──> maps in the arena
//!                      connection          │                                  ║
//!                          │            reply                                 ║
//!  SIGUSR2:  luggage takes listener, connections, halves along                ║ stays where it is
//!  kill -9:  the service manager has the listener                             ║
//!                          v                                                  ║
//!                      the next process, of this build or another  <══════════╝
//! ```
//!
//! What was answered is there for the next process, whatever ended this one.
#![cfg(target_os = "linux")]

mod cache;
mod command;
mod connection;
mod glob;
mod luggage;
mod reply;
mod request;
mod server;
pub mod store;
mod worker;

use std::num::NonZero;
use std::process::ExitCode;

use clap::Parser;
use heirloom::arena::ArenaError;
use heirloom::service::ServiceError;

/// What ends the cache, told to a person.
type Failure = Box<dyn std::error::Error>;

/// A cache that clients of Redis speak to, and that outlives its processes.
///
/// SIGUSR2 makes it what then stands where it was started from, with all connections.
#[derive(Parser)]
#[command(name = "heirloom-cache", version)]
struct Options {
    /// Listen here, unless a predecessor or a service manager passes a socket called "listen"
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6379")]
    listen: String,
    /// Use so much memory, in MiB
    #[arg(long, value_name = "MIB", default_value = "1024", value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    memory: u64,
    /// Serve with so many threads [default: as many as there are processors]
    #[arg(long)]
    threads: Option<NonZero<usize>>,
}

/// Runs a build of the cache, called so: the program's `main`, which has opened nothing.
#[doc(hidden)]
pub fn main(build: &str) -> ExitCode {
    let options = Options::parse();
    // SAFETY: the first lines of the program. Nothing but heirloom writes the memory.
    match unsafe { server::run(build, &options) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{build}: {error}");
            match error.downcast_ref() {
                // It runs already: to be tried again (EX_TEMPFAIL), and no failure of this build.
                Some(ServiceError::Arena(ArenaError::InUse { .. })) => ExitCode::from(75),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
