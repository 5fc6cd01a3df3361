//! The process ends at a random moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use heirloom::kho::PAGE_SIZE;
use heirloom_testkit::Rng;

use super::check::Verdict;
use super::journal::Line;
use super::script::program;
use super::trial::End;
use super::{Bench, Failure};

/// How often, and from which numbers on.
#[derive(Clone, Copy, Debug)]
pub struct Kills<'a> {
    /// How many processes are killed.
    pub count: u64,
    /// The seed of the first; the next one's is one more.
    pub seed: u64,
    /// The program whose [successor](super::successor) mode checks some of them.
    pub program: Option<&'a Path>,
}

/// Lines of the journal after which at most a process is killed.
const LINES: u64 = 10_000;

/// Of so many kills some come in a takeover by several threads.
const ENOUGH: u64 = 50;

/// Kills old kernels at random moments, and checks what a successor finds.
///
/// # Errors
/// The seed, and what the successor missed.
pub fn kills(options: &Kills<'_>) -> Result<(), Failure> {
    let mut bench = Bench::new(options.program)?;
    let began = Instant::now();
    let mut calls = BTreeMap::<String, u64>::new();
    let mut verdicts = BTreeMap::<&str, u64>::new();
    let (mut generations, mut things, mut several, mut died) = (0, 0, 0_u64, 0_u64);
    let mut together = 0_u64;
    bench.machine.load(&bench.used);
    for seed in options.seed..options.seed + options.count {
        let mut rng = Rng::new(seed);
        if rng.below(2) == 0 {
            bench.machine.load(&bench.used);
        } else {
            // Clean but for the first page: the memory is as the last life left it.
            bench.machine.load(&bench.used[..PAGE_SIZE]);
        }
        bench.journal.clear();
        // Some die one after another, each in what the one before left.
        let deaths = if rng.below(2) == 0 { 1 } else { 1 + rng.below(4) };
        let mut end = End::KILLED;
        for death in 0..deaths {
            let most = match rng.below(12) {
                0 => 1,
                // In a takeover, more often than not.
                1..5 => 8 << rng.below(6),
                _ => LINES / deaths,
            };
            let lines = rng.below(most);
            end = killed(&bench, seed + (death << 32), lines, &mut rng)?;
            died += 1;
            together += u64::from(is_takeover_of_several(&bench.journal.lines(0)));
            if end != End::KILLED {
                break;
            }
        }
        let open = bench.under_way();
        let left = bench.machine.save();
        let (found, verdict) = bench.successor(true)?;
        if end != End::KILLED || found != End::WELL || !verdict.is_some_and(Verdict::is_whole) {
            bench.machine.load(&left);
            let dump = bench.dump(&format!("seed-{seed}"))?;
            return Err(format!(
                "seed {seed}, killed in {open:?} ({end:?}): the successor ended with {found:?}; \
                 the memory is in {}",
                dump.display()
            )
            .into());
        }
        several += u64::from(open.len() > 1);
        if open.is_empty() {
            *calls.entry("between calls".to_owned()).or_default() += 1;
        }
        for call in open {
            *calls.entry(format!("{call:?}")).or_default() += 1;
        }
        let kind = match verdict {
            Some(Verdict::Nothing) => "before there was an entry",
            Some(Verdict::Whole(found)) => {
                things += found;
                "with all that was promised"
            }
            Some(Verdict::Ended) | None => "none",
        };
        *verdicts.entry(kind).or_default() += 1;
        let entry = bench.journal.kernels();
        generations += entry;
    }
    if together == 0 && options.count >= ENOUGH {
        return Err("no kernel was killed in a takeover by several threads".into());
    }
    println!("kills in which call:");
    for (call, count) in &calls {
        println!("  {count:6}  {call}");
    }
    println!("what the successor began with:");
    for (kind, count) in &verdicts {
        println!("  {count:6}  {kind}");
    }
    let count = options.count;
    println!(
        "kills: {count} (seeds {} to {}), {died} deaths, {together} in a takeover by several threads, \
         {several} of the last in several calls at once, {generations} kernels, {things} things claimed, 0 lost, 0 with two owners ({} s)",
        options.seed,
        options.seed + count.saturating_sub(1),
        began.elapsed().as_secs()
    );
    Ok(())
}

/// Whether several threads were taking over when their kernel was ended.
fn is_takeover_of_several(lines: &[Line]) -> bool {
    let mut last = lines.iter().rev();
    let last = last.find(|line| matches!(line, Line::Together(_) | Line::From(_)));
    last == Some(&Line::Together(true))
}

/// A process that lives kernel after kernel from what is there, and is killed when so many lines more are
/// written, and some turns of a loop later, mostly few.
fn killed(bench: &Bench, seed: u64, lines: u64, rng: &mut Rng) -> Result<End, Failure> {
    let lines = bench.journal.progress() + lines;
    let child = bench.child(|machine, journal| program(machine, journal, seed))?;
    let most = 1 << rng.below(11);
    let turns = rng.below(most);
    let end = child.kill_behind(turns, || bench.journal.progress() >= lines)?;
    bench.journal.died(None);
    Ok(end)
}
