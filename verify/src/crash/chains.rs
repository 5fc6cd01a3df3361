//! Successors that die one after another: each before any of its stores, the next one in the middle of its
//! own takeover.
//!
//! ```text
//! life ── K1, ended before store i ── K2, ended before store j ── … ── the last one claims everything
//!                  └── checked             └── checked
//! ```
//!
//! Counted are the stores that the next kernel can see: see [`count_visible`](super::step::count_visible).
//! Of each script some pairs (i, j) are tried, or all; longer chains are random ones. The last kernel finds everything once, as it was; and where it also frees and jumps, as many
//! nodes and pages are in use as if no kernel had ever died.

use std::time::Instant;

use super::check::Verdict;
use super::ground::Dice;
use super::journal::{LOGS, Line};
use super::script::Script;
use super::stepping::start;
use super::trial::{End, fork};
use super::{Bench, Failure, step};

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Chains {
    /// Of the longer scripts one store in so many; 1: all. (Of the brief one, all.)
    pub stride: u64,
    /// Of those stops one in so many is followed by a second kernel that dies, before one in so many of its
    /// own stores; 1: each pair.
    pub pairs: u64,
    /// How many random chains of [`DEPTH`] kernels, and the seed of the first.
    pub random: u64,
    /// See there.
    pub seed: u64,
}

/// How many kernels die in a random chain.
pub const DEPTH: u64 = 8;

/// One successor in so many lives on, exercises everything and jumps twice.
const FURTHER: u64 = 8;

/// What was done.
#[derive(Clone, Copy, Default)]
struct Figures {
    stores: u64,
    stops: u64,
    chains: u64,
    things: u64,
}

/// A memory and a journal, as they were.
type State = (Vec<u8>, [Vec<Line>; LOGS]);

/// Lets successors die, one after another.
///
/// # Errors
/// Where they were stopped and what the last one missed. Not a [counting](super) build.
pub fn takeover(options: &Chains) -> Result<(), Failure> {
    if !step::COUNTING {
        return Err("not a build that counts stores: see verify/src/crash/step.rs".into());
    }
    let mut bench = Bench::new(None)?;
    let began = Instant::now();
    let mut all = Figures::default();
    for script in Script::TAKEOVERS {
        let stride = if script == Script::Brief { 1 } else { options.stride.max(1) };
        let figures = pairs(&mut bench, script, stride, options.pairs.max(1))?;
        println!(
            "{}: {} stores, {} stops, {} chains of two, up to {} things found ({} s)",
            script.name(),
            figures.stores,
            figures.stops,
            figures.chains,
            figures.things,
            began.elapsed().as_secs()
        );
        all.stores += figures.stores;
        all.stops += figures.stops;
        all.chains += figures.chains;
    }
    for seed in options.seed..options.seed + options.random {
        let stops = at_random(&mut bench, seed)?;
        all.stops += stops;
        all.chains += 1;
    }
    println!(
        "random: {} chains of {DEPTH} (seeds {} to {})",
        options.random,
        options.seed,
        options.seed + options.random.saturating_sub(1)
    );
    println!(
        "takeover: {} stores, {} stops, {} chains of dying successors, 0 lost, 0 with two owners",
        all.stores, all.stops, all.chains
    );
    Ok(())
}

fn load(bench: &Bench, state: &State) -> Result<(), Failure> {
    bench.ground.load(&state.0)?;
    bench.journal.load(&state.1);
    Ok(())
}

fn save(bench: &Bench) -> Result<State, Failure> {
    Ok((bench.ground.save()?, bench.journal.save()))
}

/// A kernel takes over, and ends before a store; how many it made, if it did not end by force.
fn die(bench: &Bench, script: Script, stop: u64) -> Result<Option<u64>, Failure> {
    let child = fork(|| {
        bench.ground.again().map_or(103, |ground| {
            script.run_visible(&ground, &bench.journal, stop);
            0
        })
    })?;
    match child.wait()? {
        End::KILLED => {
            bench.journal.died(Some(stop));
            Ok(None)
        }
        End::WELL => Ok(Some(bench.journal.noted())),
        end => Err(format!("{}, to be stopped before store {stop}: {end:?}", script.name()).into()),
    }
}

/// The last kernel of a chain; how many things it found.
fn last(bench: &mut Bench, further: bool, what: &dyn Fn() -> String) -> Result<u64, Failure> {
    match bench.successor(further)? {
        (End::WELL, Some(Verdict::Whole(things))) => Ok(things),
        (end, verdict) => {
            let open = bench.under_way();
            let what = what();
            Err(format!("{what}, in {open:?}: the last kernel ended with {end:?}, {verdict:?}")
                .into())
        }
    }
}

/// Every `stride`-th store of a takeover, and after some of these stops as many of the one that follows.
fn pairs(bench: &mut Bench, script: Script, stride: u64, pairs: u64) -> Result<Figures, Failure> {
    let name = script.name();
    let life = start(bench, script)?;
    let whole = |bench: &Bench| {
        die(bench, script, u64::MAX)?.ok_or_else(|| Failure::from(format!("{name}: killed")))
    };
    let stores = whole(bench)?;
    let mut figures = Figures { stores, ..Figures::default() };
    for i in (0..=stores).step_by(usize::try_from(stride)?) {
        load(bench, &life)?;
        die(bench, script, i)?;
        let followed = (i / stride).is_multiple_of(pairs);
        let one = if followed { Some(save(bench)?) } else { None };
        let things = last(bench, i % FURTHER == 0, &|| format!("{name} {i}"))?;
        figures.things = figures.things.max(things);
        figures.stops += 1;
        let Some(one) = one else { continue };
        load(bench, &one)?;
        let after = |error| format!("after {name}, stopped before {i}: {error}");
        let more = whole(bench).map_err(after)?;
        // Not the same ones each time.
        let step = stride * pairs;
        for j in (i / stride % step..=more).step_by(usize::try_from(step)?) {
            load(bench, &one)?;
            die(bench, script, j).map_err(after)?;
            last(bench, (i + j) % FURTHER == 0, &|| format!("{name} {i} {j}"))?;
            figures.stops += 1;
            figures.chains += 1;
        }
    }
    Ok(figures)
}

/// A chain of [`DEPTH`] kernels, each stopped anywhere; how many were stopped.
fn at_random(bench: &mut Bench, seed: u64) -> Result<u64, Failure> {
    let mut dice = Dice(seed);
    let life = start(bench, [Script::Brief, Script::Sweep][dice.below(2) as usize])?;
    load(bench, &life)?;
    let (mut stops, mut told) = (0, format!("seed {seed}"));
    for _ in 0..DEPTH {
        let script = Script::TAKEOVERS[dice.below(3) as usize];
        // Early ones too: most of a takeover is at its beginning.
        let most = 1 << (3 + dice.below(7));
        let stop = dice.below(most);
        told = format!("{told}, {} {stop}", script.name());
        let ended = die(bench, script, stop).map_err(|error| format!("{told}: {error}"))?;
        stops += u64::from(ended.is_none());
    }
    last(bench, true, &|| told.clone())?;
    Ok(stops)
}
