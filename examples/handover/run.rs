//! One generation after the other.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use heirloom::arena::Arena;
use heirloom::folio::NodeId;
use heirloom::jump::{Inherited, Jump};
use heirloom::kho::Run;
use heirloom::restore::SealPolicy;
use heirloom::{Entry, Heirloom};
use indicatif::{ProgressBar, ProgressStyle};

use crate::keeper::{Keeper, Totals};
use crate::report::Report;
use crate::steps::{EndAt, Stage, Steps};
use crate::{files, memory, supervisor};

pub(crate) type Failure = Box<dyn std::error::Error>;

/// Keeps real files in memory that outlives the program, over several generations of it.
#[derive(Parser)]
#[command(name = "handover")]
pub(crate) struct Args {
    /// The files to keep: all below this directory.
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_MANIFEST_DIR"))]
    files: PathBuf,
    /// How many bytes of files at most; by default 256 MiB, and 16 MiB with `--crash`.
    #[arg(long, value_name = "BYTES")]
    limit: Option<u64>,
    /// How many generations; by default 3, and 12 with `--crash`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    generations: Option<u64>,
    /// Bytes of memory; by default twice the limit, and 64 MiB.
    #[arg(long, value_name = "BYTES")]
    arena: Option<u64>,
    /// The program to hand over to, instead of this one.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "crash")]
    successor: Option<PathBuf>,
    /// End some successors in the middle of their takeover, at random instants.
    #[arg(long)]
    pub(crate) crash: bool,
    /// What the random instants of `--crash` are drawn from.
    #[arg(long, value_name = "N", default_value_t = 4566, requires = "crash")]
    pub(crate) seed: u64,
    /// Where this successor is to end: the supervisor's word.
    #[arg(long, hide = true)]
    end_at: Option<EndAt>,
    /// This successor is to give everything back: the supervisor's word.
    #[arg(long, hide = true)]
    last: bool,
}

impl Args {
    fn limit(&self) -> u64 {
        self.limit.unwrap_or(if self.crash { 16 << 20 } else { 256 << 20 })
    }

    pub(crate) fn generations(&self) -> u64 {
        self.generations.unwrap_or(if self.crash { 12 } else { 3 })
    }
}

/// The name under which these handovers are written.
pub(crate) const PRODUCER: &str = concat!("heirloom handover ", env!("CARGO_PKG_VERSION"));

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

/// Runs this process's generation.
fn generation(args: &Args, started: Instant) -> Result<ExitCode, Failure> {
    // SAFETY: the variable, where it is set, was set by `Jump` of the generation before.
    match unsafe { Inherited::from_env() }? {
        None if args.crash => supervisor::run(args),
        None => {
            let arena = new_arena(args)?;
            let (steps, mut report) = (Steps::default(), Report::default());
            let keeper = first(args, &arena, &steps, &mut report)?;
            go_on(args, &arena, keeper, Totals::default(), report)
        }
        Some(inherited) => {
            let steps = if args.crash { Steps::supervised(args.end_at) } else { Steps::default() };
            steps.at(Stage::Start);
            let arena = Arena::open(inherited.fd)?;
            later(args, &arena, inherited.entry, &steps, started)
        }
    }
}

/// The generation that stores the files.
pub(crate) fn first<'a>(
    args: &Args,
    arena: &'a Arena,
    steps: &'a Steps,
    report: &mut Report,
) -> Result<Keeper<'a>, Failure> {
    let mut keeper = Keeper::new(arena, boot(arena)?, steps)?;
    let found = files::find(&args.files, args.limit())?;
    let bar = progress(found.len() as u64, "storing");
    for file in &found {
        keeper.store_file(file)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    keeper.commit(report)?;
    Ok(keeper)
}

/// A memory without a predecessor, in an arena that was made just now.
pub(crate) fn boot(arena: &Arena) -> Result<Heirloom<&Arena>, Failure> {
    let map = map(arena);
    let scratch = memory::scratch(&map, arena)?;
    // SAFETY: the arena was made just now, and nothing else has it.
    Ok(unsafe { Heirloom::boot(arena, &map, &[scratch], PRODUCER) }?)
}

/// A generation that takes over from the one before.
fn later(
    args: &Args,
    arena: &Arena,
    entry: Entry,
    steps: &Steps,
    started: Instant,
) -> Result<ExitCode, Failure> {
    let (mut totals, mut report) = (Totals::default(), Report::default());
    steps.at(Stage::Revive);
    // SAFETY: the generation before has ended: by the `exec` of this process, or as a child, the end of which
    // the supervisor awaited. It left the arena to nothing else.
    let heirloom =
        unsafe { Heirloom::revive(arena, &map(arena), entry, PRODUCER, SealPolicy::Checked) }?;
    report.revive = Some(started.elapsed());
    let mut keeper = Keeper::take_over(arena, heirloom, steps, &mut totals, &mut report)?;
    if report.edition == 0 && !args.last {
        return Err("the generation before left no files".into());
    }
    let bar = if args.crash {
        // The supervisor has one.
        ProgressBar::hidden()
    } else {
        progress(keeper.len() as u64, "checking")
    };
    keeper.check(&mut report, |_| bar.inc(1))?;
    bar.finish_and_clear();
    let Report { edition, sum, unclaimed, .. } = report;
    steps.tell(format_args!("found {edition} {} {sum} {unclaimed}", keeper.len()));
    if args.last {
        steps.tell(format_args!("leaked {}", keeper.give_everything_back()?));
        steps.at(Stage::Done);
        return Ok(ExitCode::SUCCESS);
    }
    keeper.renew_half(&mut report)?;
    if args.crash {
        keeper.count(&mut report)?;
        steps.tell(format_args!("leaked {}", report.leaked));
        leave(arena, &keeper, steps)?;
        return Ok(ExitCode::SUCCESS);
    }
    go_on(args, arena, keeper, totals, report)
}

/// Hands over to a successor that is told nothing: it finds the entry in the arena itself.
pub(crate) fn leave(arena: &Arena, keeper: &Keeper<'_>, steps: &Steps) -> Result<(), Failure> {
    // What is lost or leaked the supervisor counts.
    let entry = keeper.hand_over(&Totals::default())?;
    steps.at(Stage::Leave);
    arena.leave(entry)?;
    steps.at(Stage::Done);
    Ok(())
}

/// What each generation does in the end: it counts, and hands over or gives everything back.
fn go_on(
    args: &Args,
    arena: &Arena,
    keeper: Keeper<'_>,
    mut totals: Totals,
    mut report: Report,
) -> Result<ExitCode, Failure> {
    report.generation = keeper.generation();
    keeper.count(&mut report)?;
    totals.lost += report.lost;
    totals.leaked += report.leaked + report.unclaimed;
    print!("{report}");
    if report.generation + 1 < args.generations() {
        let entry = keeper.hand_over(&totals)?;
        let program = args.successor.clone().map_or_else(std::env::current_exe, Ok)?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        return Err(Jump::new(arena, entry)?.exec(command).into());
    }
    totals.leaked += keeper.give_everything_back()?;
    println!("{}", summary(args, &report, totals));
    Ok(verdict(totals))
}

/// The last line of a run.
pub(crate) fn summary(args: &Args, report: &Report, totals: Totals) -> String {
    let (generations, Report { files, bytes, .. }) = (args.generations(), report);
    let Totals { lost, leaked } = totals;
    format!(
        "handover: {generations} generations, {files} files, {bytes} bytes, {lost} lost, {leaked} leaked"
    )
}

pub(crate) fn verdict(totals: Totals) -> ExitCode {
    let sound = totals.lost == 0 && totals.leaked == 0;
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As much memory as the arguments ask for.
pub(crate) fn new_arena(args: &Args) -> Result<Arena, Failure> {
    let wanted = args.arena.unwrap_or(2 * args.limit() + (64 << 20));
    Ok(Arena::create("handover", &memory::ranges(wanted))?)
}

pub(crate) fn map(arena: &Arena) -> Vec<(Run, NodeId)> {
    arena.ranges().iter().map(|range| (range.run(), range.node())).collect()
}

pub(crate) fn progress(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(length).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
