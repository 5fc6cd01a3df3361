//! One generation after the other.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use heirloom::Heirloom;
use heirloom::arena::Arena;
use heirloom::jump::{Inherited, Jump};
use heirloom::restore::SealPolicy;
use indicatif::{ProgressBar, ProgressStyle};

use crate::files;
use crate::keeper::{Keeper, Totals};
use crate::memory;
use crate::report::Report;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// Keeps real files in memory that outlives the program, over several generations of it.
#[derive(Parser)]
#[command(name = "handover")]
struct Args {
    /// The files to keep: all below this directory.
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_MANIFEST_DIR"))]
    files: PathBuf,
    /// How many bytes of files at most.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    limit: u64,
    /// How many generations.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    generations: u64,
    /// Bytes of memory; by default one and a half times the limit, and 64 MiB.
    #[arg(long, value_name = "BYTES")]
    arena: Option<u64>,
    /// The program to hand over to, instead of this one.
    #[arg(long, value_name = "PROGRAM")]
    successor: Option<PathBuf>,
}

/// Who writes these handovers.
const PRODUCER: &str = concat!("heirloom handover ", env!("CARGO_PKG_VERSION"));

pub(crate) fn main(started: Instant) -> ExitCode {
    let args = Args::parse();
    match generation(&args, started) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("handover: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this process's generation; returns after the last one, as the others become the next.
fn generation(args: &Args, started: Instant) -> Result<ExitCode, Failure> {
    // SAFETY: the variable, where it is set, was set by `Jump` of the generation before.
    let (arena, entry) = match unsafe { Inherited::from_env() }? {
        Some(inherited) => (Arena::open(inherited.fd)?, Some(inherited.entry)),
        None => (new_arena(args)?, None),
    };
    let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
    let mut report = Report::default();
    let mut totals = Totals::default();
    let mut keeper = match entry {
        None => {
            let scratch = memory::scratch(&map, &arena)?;
            // SAFETY: the arena was made just now, and nobody else has it.
            let heirloom = unsafe { Heirloom::boot(&arena, &map, &[scratch], PRODUCER) }?;
            let mut keeper = Keeper::new(&arena, heirloom)?;
            let found = files::find(&args.files, args.limit)?;
            let bar = progress(found.len() as u64, "storing");
            for file in &found {
                keeper.store_file(file)?;
                bar.inc(1);
            }
            bar.finish_and_clear();
            keeper
        }
        Some(entry) => {
            // SAFETY: the generation before has ended in this process's `exec`, and left the
            // arena to nobody else.
            let heirloom =
                unsafe { Heirloom::revive(&arena, &map, entry, PRODUCER, SealPolicy::Checked) }?;
            report.revive = Some(started.elapsed());
            let mut keeper = Keeper::take_over(&arena, heirloom, &mut totals, &mut report)?;
            let bar = progress(keeper.len() as u64, "checking");
            keeper.check(&mut report, |_| bar.inc(1))?;
            bar.finish_and_clear();
            keeper.renew_half()?;
            keeper
        }
    };
    keeper.preserve_all(&mut report)?;
    report.generation = keeper.generation();
    keeper.count(&mut report)?;
    totals.lost += report.lost;
    totals.leaked += report.leaked;
    print!("{report}");
    if report.generation + 1 < args.generations {
        let entry = keeper.hand_over(&totals)?;
        let program = args.successor.clone().map_or_else(std::env::current_exe, Ok)?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        return Err(Jump::new(&arena, entry)?.exec(command).into());
    }
    totals.leaked += keeper.give_everything_back()?;
    println!(
        "handover: {} generations, {} files, {} bytes, {} lost, {} leaked",
        args.generations, report.files, report.bytes, totals.lost, totals.leaked
    );
    let sound = totals.lost == 0 && totals.leaked == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As much memory as the arguments ask for.
fn new_arena(args: &Args) -> Result<Arena, Failure> {
    let wanted = args.arena.unwrap_or(args.limit + args.limit / 2 + (64 << 20));
    Ok(Arena::create("handover", &memory::ranges(wanted))?)
}

fn progress(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(length).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
