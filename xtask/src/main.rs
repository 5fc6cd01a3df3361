//! `cargo xtask`: what is done to heirloom, not by it.
//!
//! Each command is a module of its own. `cargo xtask --help` lists them.

use clap::{Parser, Subcommand};

/// What is done to heirloom, not by it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {}

fn main() {
    match Arguments::parse().command {}
}
