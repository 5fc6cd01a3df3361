//! `cargo xtask`: what is done to heirloom, not by it.
//!
//! Each command is a module of its own. `cargo xtask --help` lists them.

mod api;
mod circles;
mod corpus;
mod header;
mod install;
mod inventory;
mod kernel;
mod linux;
mod liveupdate;
mod module;
mod report;
mod restart;
mod source;
mod verify;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What is done to heirloom, not by it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Api(api::Arguments),
    Circles(circles::Arguments),
    Corpus(corpus::Arguments),
    Header(header::Arguments),
    Install(install::Arguments),
    Inventory(inventory::Arguments),
    Kernel(kernel::Arguments),
    Liveupdate(liveupdate::Arguments),
    Module(module::Arguments),
    Report(report::Arguments),
    Restart(restart::Arguments),
    Verify(verify::Arguments),
    Words(words::Arguments),
}

/// The command line; `cargo xtask COMMAND -- --option` is `cargo xtask COMMAND --option`, as
/// with cargo's own commands that run a program.
fn words(given: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    given.enumerate().filter(|(n, word)| *n != 2 || word != "--").map(|(_, word)| word)
}

fn main() -> ExitCode {
    let ran = match Arguments::parse_from(words(std::env::args_os())).command {
        Command::Api(arguments) => api::run(&arguments),
        Command::Circles(arguments) => circles::run(&arguments),
        Command::Corpus(arguments) => corpus::run(&arguments),
        Command::Header(arguments) => header::run(&arguments),
        Command::Install(arguments) => install::run(&arguments),
        Command::Inventory(arguments) => inventory::run(&arguments),
        // One that this machine cannot do is no failure.
        Command::Kernel(arguments) => return kernel::run(&arguments),
        Command::Liveupdate(arguments) => return liveupdate::run(&arguments),
        Command::Module(arguments) => return module::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Restart(arguments) => restart::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Words(arguments) => words::run(&arguments),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_stand_behind_two_dashes() {
        let given = ["xtask", "verify", "--", "--long", "--only", "loom"].map(OsString::from);
        let parsed = Arguments::try_parse_from(words(given.into_iter())).expect("a command line");
        let Command::Verify(arguments) = parsed.command else { panic!("another command") };
        assert!(arguments.is_long());
    }
}
