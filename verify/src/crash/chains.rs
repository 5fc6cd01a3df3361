//! Successors that die one after another: each before any of its stores, the next one in the middle of its
//! own takeover.
//!
//! ```text
//! life ── K1, ended before store i ── K2, ended before store j ── … ── the last one claims everything
//!                  └── checked             └── checked
//! ```
//!
//! Counted are the stores that the next kernel can see: see [`count_visible`](super::step::count_visible).
//! Of each script some pairs (i, j) are tried, or all; longer chains are random ones. Where the root page is
//! of another make, the next kernel is started with each entry that is good, and with one that has ended,
//! which it refuses by that name. The last kernel finds everything once, as it was; and where it also frees
//! and jumps, as many nodes and pages are in use as if no kernel had ever died.

use std::io::{Read, Seek, Write};
use std::time::Instant;

use heirloom::restore::Entry;
use heirloom_testkit::Rng;

use super::check::Verdict;
use super::coverage::{Coverage, UNSEEN, calls};
use super::growth::growth;
use super::promises::Promises;
use super::script::Script;
use super::stepping::start;
use super::trial::{End, fork_for};
use super::{Bench, Failure, State, step};

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Chains {
    /// Of the longest scripts one store in so many; 1: all. (Of the short ones, all.)
    pub stride: u64,
    /// Of the stops in the brief script one in so many is followed by a second kernel that dies, before one
    /// in so many of its own stores; 1: each pair. Of the others, [`FOLLOWED`] stops are followed by
    /// kernels that die before as many stores, or five times as many if this is 1.
    pub pairs: u64,
    /// How many random chains of [`DEPTH`] kernels, and the seed of the first.
    pub random: u64,
    /// See there.
    pub seed: u64,
}

/// How many kernels die in a random chain.
pub const DEPTH: u64 = 8;

/// How many stops in a longer script are followed by a kernel that dies.
pub const FOLLOWED: u64 = 10;

/// One successor in so many lives on, exercises everything and jumps twice.
const FURTHER: u64 = 8;

/// Processes that share the work.
const WORKERS: u64 = 2;

/// Stops in each sort of claim that stores nothing that a successor sees.
const IN_CLAIMS: u64 = 12;

/// What was done.
#[derive(Clone, PartialEq, Debug, Default)]
struct Figures {
    stores: u64,
    stops: u64,
    chains: u64,
    /// Times that an entry was refused that had ended.
    refused: u64,
    things: u64,
    coverage: Coverage,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.stores += other.stores;
        self.stops += other.stops;
        self.chains += other.chains;
        self.refused += other.refused;
        self.things = self.things.max(other.things);
        self.coverage.all(&other.coverage);
    }

    /// As lines that [`Figures::parse`] reads.
    fn text(&self) -> String {
        let Self { stores, stops, chains, refused, things, coverage } = self;
        let first = format!("{stores} {stops} {chains} {refused} {things}");
        let calls = coverage.lines().map(|(call, stops)| format!("{stops} {call}"));
        std::iter::once(first).chain(calls).collect::<Vec<_>>().join("\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut figures = lines.next()?.split(' ').map(str::parse);
        let mut next = || figures.next()?.ok();
        let (stores, stops, chains) = (next()?, next()?, next()?);
        let (refused, things, mut coverage) = (next()?, next()?, Coverage::default());
        for line in lines {
            let (stops, call) = line.split_once(' ')?;
            coverage.add(call, stops.parse().ok()?);
        }
        Some(Self { stores, stops, chains, refused, things, coverage })
    }
}

/// Lets successors die, one after another.
///
/// # Errors
/// Where they were stopped and what the last one missed; a call of a takeover in which none was stopped.
/// Not a [counting](super) build.
pub fn takeover(options: &Chains) -> Result<(), Failure> {
    if !step::COUNTING {
        return Err("not a build that counts stores: see verify/src/crash/step.rs".into());
    }
    let began = Instant::now();
    let mut all = Figures::default();
    let told = |text: String| println!("{text} ({} s)", began.elapsed().as_secs());
    for script in Script::TAKEOVERS {
        let figures = shared(|bench, worker| pairs(bench, script, options, worker))?;
        let Figures { stores, stops, chains, refused, things, .. } = figures;
        told(format!(
            "{}: {stores} stores, {stops} stops, {chains} chains of two, {refused} times an entry that had \
             ended, up to {things} things found",
            script.name()
        ));
        all.add(&figures);
    }
    let last = options.seed + options.random;
    let figures = shared(|bench, worker| {
        let mut figures = Figures::default();
        for seed in (options.seed..last).filter(|seed| seed % WORKERS == worker) {
            figures.stops += at_random(bench, seed)?;
            figures.chains += 1;
        }
        Ok(figures)
    })?;
    let (random, first) = (options.random, options.seed);
    told(format!(
        "random: {random} chains of {DEPTH} (seeds {first} to {})",
        last.saturating_sub(1)
    ));
    all.add(&figures);
    let (chains, is) = growth(&mut Bench::new(None)?, options.seed..last)?;
    told(format!("growth: {chains} chains of up to 64 deaths leave the same: {is}"));
    all.chains += chains;
    let unseen = shared(in_claims)?;
    told(format!("claims of blocks: {} stops, before stores of all kinds", unseen.stops));
    unseen.coverage.is_whole_of_unseen()?;
    println!("stops in which call:");
    for (call, stops) in all.coverage.lines() {
        println!("  {stops:6}  {call}");
    }
    all.coverage.is_whole_of_seen()?;
    for (call, stops) in unseen.coverage.lines() {
        println!("  {stops:6}  {call}, before stores that a successor does not see");
    }
    println!(
        "takeover: {} stores, {} stops, {} chains of dying successors, 0 lost, 0 with two owners",
        all.stores,
        all.stops + unseen.stops,
        all.chains
    );
    Ok(())
}

/// Has work done by processes that each have a memory of their own; what they did.
fn shared(work: impl Fn(&mut Bench, u64) -> Result<Figures, Failure>) -> Result<Figures, Failure> {
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let report = rustix::fs::memfd_create("figures", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut report = std::fs::File::from(report);
        let child = fork_for(0, || {
            let done = Bench::new(None).and_then(|mut bench| work(&mut bench, worker));
            let (text, code) = match done {
                Ok(figures) => (figures.text(), 0),
                Err(error) => (error.to_string(), 1),
            };
            report.write_all(text.as_bytes()).map_or(2, |()| code)
        })?;
        workers.push((child, report));
    }
    let mut all = Ok(Figures::default());
    for (child, mut report) in workers {
        let end = child.wait()?;
        let mut text = String::new();
        report.rewind()?;
        report.read_to_string(&mut text)?;
        let figures = Figures::parse(&text).filter(|_| end == End::WELL);
        // All are waited for, whatever became of the first.
        if let Ok(sum) = all.as_mut() {
            match figures {
                Some(figures) => sum.add(&figures),
                None => all = Err(Failure::from(format!("{text} ({end:?})"))),
            }
        }
    }
    all
}

/// A kernel takes over, and ends before a store; how many it made, if it did not end by force.
pub(super) fn die(bench: &Bench, script: Script, stop: u64) -> Result<Option<u64>, Failure> {
    match bench.run(script, stop, true)? {
        End::KILLED => {
            bench.journal.died(Some(stop));
            Ok(None)
        }
        End::WELL => Ok(Some(bench.journal.noted())),
        end => Err(format!("{}, to be stopped before store {stop}: {end:?}", script.name()).into()),
    }
}

/// All stores of a takeover.
fn whole(bench: &Bench, script: Script) -> Result<u64, Failure> {
    die(bench, script, u64::MAX)?.ok_or_else(|| format!("{}: killed", script.name()).into())
}

/// The last kernel of a chain; how many things it found, unless the entry has ended.
fn last(
    bench: &mut Bench,
    further: bool,
    what: &dyn Fn() -> String,
) -> Result<Option<u64>, Failure> {
    match bench.successor(further)? {
        (End::WELL, Some(Verdict::Whole(things))) => Ok(Some(things)),
        (End::WELL, Some(Verdict::Ended)) => Ok(None),
        (end, verdict) => {
            let open = bench.under_way();
            let what = what();
            Err(format!("{what}, in {open:?}: the last kernel ended with {end:?}, {verdict:?}")
                .into())
        }
    }
}

/// The entries with which a kernel may start where the last one ended; and whether each is good.
fn entries(bench: &Bench, first: Entry) -> Vec<(Entry, bool)> {
    Promises::of(&bench.journal).entries(first)
}

/// What is done about each stop.
struct Stops<'b> {
    bench: &'b mut Bench,
    /// The entry that the first kernel left.
    first: Entry,
    figures: Figures,
}

impl Stops<'_> {
    /// The last kernel starts where one was stopped, by each entry that there is. Returns the state before
    /// that, if it is asked for.
    fn look(
        &mut self,
        number: u64,
        keep: bool,
        what: &dyn Fn() -> String,
    ) -> Result<Option<State>, Failure> {
        let entries = entries(self.bench, self.first);
        self.figures.coverage.count(&self.bench.journal);
        let state = if keep || entries.len() > 1 { Some(self.bench.save()) } else { None };
        for (n, (entry, _)) in (0..).zip(entries) {
            if let Some(state) = state.as_ref().filter(|_| n > 0) {
                self.bench.load(state);
            }
            self.bench.machine.arena().leave(entry)?;
            let further = (number + n).is_multiple_of(FURTHER);
            let what = || format!("{}, root page {}", what(), entry.root);
            match last(self.bench, further, &what)? {
                Some(things) => self.figures.things = self.figures.things.max(things),
                None => self.figures.refused += 1,
            }
            self.figures.stops += 1;
        }
        Ok(state)
    }
}

/// Every `stride`-th store of a takeover, and after some of these stops as many of the one that follows.
fn pairs(
    bench: &mut Bench,
    script: Script,
    options: &Chains,
    worker: u64,
) -> Result<Figures, Failure> {
    let name = script.name();
    let stride = script.step(options.stride.max(1));
    let life = start(bench, script)?;
    let first = bench.machine.arena().entry()?.ok_or("no entry")?;
    let stores = whole(bench, script)?;
    let pairs = match (script, options.pairs.max(1)) {
        (Script::Brief, pairs) => pairs,
        (_, pairs) => {
            let followed = if pairs == 1 { 5 * FOLLOWED } else { FOLLOWED };
            (stores / stride / followed).max(1)
        }
    };
    let mut stops = Stops { bench, first, figures: Figures::default() };
    // Told once.
    stops.figures.stores = if worker == 0 { stores } else { 0 };
    for i in (0..=stores).step_by(usize::try_from(stride)?) {
        if i / stride % WORKERS != worker {
            continue;
        }
        stops.bench.load(&life);
        die(stops.bench, script, i)?;
        let followed = (i / stride).is_multiple_of(pairs);
        let good = entries(stops.bench, first).into_iter().filter(|(_, good)| *good);
        let good: Vec<_> = good.map(|(entry, _)| entry).collect();
        let state = stops.look(i, followed, &|| format!("{name} {i}"))?;
        let Some(one) = state.filter(|_| followed) else { continue };
        for entry in good {
            let after = |error| format!("after {name}, stopped before {i}: {error}");
            stops.bench.load(&one);
            stops.bench.machine.arena().leave(entry)?;
            // One that goes on in place goes on as it does where there was no other.
            let next = script.next(entry == first);
            let more = whole(stops.bench, next).map_err(after)?;
            // Not the same ones each time.
            let step = stride * pairs;
            for j in (i / stride % step..=more).step_by(usize::try_from(step)?) {
                stops.bench.load(&one);
                stops.bench.machine.arena().leave(entry)?;
                die(stops.bench, next, j).map_err(after)?;
                stops.look(i + j, false, &|| format!("{name} {i} {j}"))?;
                stops.figures.chains += 1;
            }
        }
    }
    Ok(stops.figures)
}

/// A chain of [`DEPTH`] kernels, each stopped anywhere; how many were stopped.
fn at_random(bench: &mut Bench, seed: u64) -> Result<u64, Failure> {
    let mut rng = Rng::new(seed);
    let begin = [Script::Brief, Script::Sweep, Script::Layout, Script::Make];
    let mut next = begin[rng.below(4) as usize];
    let life = start(bench, next)?;
    let first = bench.machine.arena().entry()?.ok_or("no entry")?;
    bench.load(&life);
    let (mut stops, mut told) = (0, format!("seed {seed}"));
    for _ in 0..DEPTH {
        // By any of the entries that are good.
        let good: Vec<_> = entries(bench, first).into_iter().filter(|(_, good)| *good).collect();
        let (entry, _) = good[rng.below(good.len() as u64) as usize];
        bench.machine.arena().leave(entry)?;
        next = next.next(entry == first);
        if next.finds_another().is_none() {
            next = Script::IN_PLACE[rng.below(Script::IN_PLACE.len() as u64) as usize];
        }
        // Early ones too: most of a takeover is at its beginning.
        let most = 1 << (3 + rng.below(7));
        let stop = rng.below(most);
        told = format!("{told}, {} {stop}", next.name());
        let ended = die(bench, next, stop).map_err(|error| format!("{told}: {error}"))?;
        stops += u64::from(ended.is_none());
    }
    let state = bench.save();
    for (n, (entry, _)) in (0_u64..).zip(entries(bench, first)) {
        bench.load(&state);
        bench.machine.arena().leave(entry)?;
        last(bench, n == 0, &|| format!("{told}, root page {}", entry.root))?;
    }
    Ok(stops)
}

/// Stops in each claim that stores nothing that a successor sees, before stores of all kinds.
fn in_claims(bench: &mut Bench, worker: u64) -> Result<Figures, Failure> {
    let script = Script::Brief;
    let life = start(bench, script)?;
    if bench.run(script, u64::MAX, false)? != End::WELL {
        return Err("the script that claims everything failed".into());
    }
    let calls = calls(&bench.journal.lines(0)[life.1[0].len()..]);
    let mut figures = Figures::default();
    for claim in UNSEEN {
        let of = calls.windows(2).filter(|pair| pair[0].0 == claim);
        let all = of.flat_map(|pair| pair[0].1..pair[1].1).collect::<Vec<_>>();
        let step = all.len().div_ceil(usize::try_from(IN_CLAIMS)?).max(1);
        for (n, stop) in (0_u64..).zip(all.iter().step_by(step)) {
            if n % WORKERS != worker {
                continue;
            }
            bench.load(&life);
            let end = bench.run(script, *stop, false)?;
            bench.journal.died(Some(*stop));
            if end != End::KILLED {
                return Err(format!("{claim}, to be stopped before store {stop}: {end:?}").into());
            }
            figures.coverage.count(&bench.journal);
            last(bench, n == 0, &|| format!("{claim}, before store {stop} of all"))?;
            figures.stops += 1;
        }
    }
    Ok(figures)
}
