//! `cargo xtask`: what is done to heirloom, not by it.
//!
//! Each command is a module of its own. `cargo xtask --help` lists them.

mod liveupdate;
mod report;

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
    Liveupdate(liveupdate::Arguments),
    Report(report::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Liveupdate(arguments) => liveupdate::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
    }
}
