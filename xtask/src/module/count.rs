//! `cargo xtask module --count`: instructions, beside those of Linux's own allocators in the same kernel.
//!
//! The machine's clock is the instructions that it has done (QEMU's `-icount shift=0`), and it has one
//! processor. So nothing is in the figures of caches that miss, of what atomic operations cost, or of
//! processors that wait for one another.

use anyhow::{Result, ensure};

use super::build::Builder;
use super::life::Wish;
use super::scenario::Scenario;
use super::table::{Figures, boots, pairs};
use super::{Arguments, boot};
use crate::linux::machine::{Board, Model};

/// What is run, each in a machine of its own.
const RUNS: &[Scenario] = &[
    Scenario::new("counting pairs", || two("pairs=1 pages=0"), 0),
    Scenario::new("counting KHO, no page", || two("kho=1 pages=0"), 0),
    Scenario::new("counting KHO, 4096 pages", || two("kho=1 pages=4096"), 0),
    Scenario::new("counting KHO, 8192 pages", || two("kho=1 pages=8192"), 0),
    Scenario::new("counting heirloom, no page", || two("pages=0"), 0),
    Scenario::new("counting heirloom, 4096 pages", || two("pages=4096"), 0),
    Scenario::new("counting heirloom, 8192 pages", || two("pages=8192"), 0),
];

/// Two lives of the module that counts.
fn two(given: &str) -> Vec<Wish> {
    vec![Wish { counts: true, ..Wish::plain(given) }; 2]
}

/// Runs all of it, and prints the tables.
pub(super) fn run(builder: &Builder<'_>, arguments: &Arguments) -> Result<()> {
    let model = Model {
        board: Board::Pc,
        memory: "1G",
        cpus: 1,
        counted: true,
        say: "bench: ",
        stopped: false,
    };
    let mut figures = Figures::default();
    for scenario in RUNS {
        println!("module: {}", scenario.name);
        let console = boot(scenario, &model, builder, arguments)?;
        let before = figures.len();
        figures.read(&console);
        ensure!(figures.len() > before, "{} tells nothing", scenario.name);
    }
    println!("\n{}\n{}", pairs(&figures)?, boots(&figures)?);
    Ok(())
}
