//! The process ends before its n-th store, for every n.

use std::path::Path;
use std::time::Instant;

use super::check::Verdict;
use super::script::Script;
use super::trial::End;
use super::{Bench, Failure, State, step};

/// One successor in so many lives on, exercises everything and jumps twice; the others end when
/// everything is claimed, accounted for, and all free memory was written over.
const FURTHER: u64 = 8;

/// What is stepped through.
#[derive(Clone, Copy, Debug)]
pub struct Stepping<'a> {
    /// Of each script one store in so many; 1: all.
    pub stride: u64,
    /// The script of this name alone.
    pub script: Option<&'a str>,
    /// From this store on.
    pub from: u64,
    /// How many stops at most, of each script.
    pub stops: u64,
    /// The program whose [successor](super::successor) mode checks some of them.
    pub program: Option<&'a Path>,
}

/// Ends old kernels before each of their stores, and checks what a successor finds.
///
/// # Errors
/// Where it was stopped and what the successor missed. Not a [counting](super) build.
pub fn stepping(options: &Stepping<'_>) -> Result<(), Failure> {
    if !step::COUNTING {
        return Err("not a build that counts stores: see verify/src/crash/step.rs".into());
    }
    let mut bench = Bench::new(options.program)?;
    let began = Instant::now();
    let (mut stores, mut stops) = (0, 0);
    let wanted = |script: &Script| options.script.is_none_or(|name| name == script.name());
    if !Script::ALL.iter().any(wanted) {
        return Err("no script of that name".into());
    }
    for script in Script::ALL.into_iter().filter(wanted) {
        let done = one(&mut bench, script, options)?;
        stores += done.stores;
        stops += done.stops;
    }
    println!(
        "stepping: {stores} stores, {stops} stops, 0 lost, 0 with two owners ({} s)",
        began.elapsed().as_secs()
    );
    Ok(())
}

/// What was done with a script.
#[derive(Default)]
struct Done {
    stores: u64,
    stops: u64,
}

/// Lives the life before a script. Returns what the script starts from.
pub(super) fn start(bench: &Bench, script: Script) -> Result<State, Failure> {
    bench.machine.load(&bench.used);
    bench.journal.clear();
    if let Some(life) = script.after() {
        let end = bench.run(life, u64::MAX, false)?;
        if end != End::WELL {
            return Err(format!("the life before {}: {end:?}", script.name()).into());
        }
        script.prepare(&bench.machine, &bench.journal)?;
    }
    Ok(bench.save())
}

fn one(bench: &mut Bench, script: Script, options: &Stepping<'_>) -> Result<Done, Failure> {
    let began = Instant::now();
    let state = start(bench, script)?;
    let end = bench.run(script, u64::MAX, false)?;
    if end != End::WELL {
        return Err(format!("{}, not stopped: {end:?}", script.name()).into());
    }
    let stores = bench.journal.noted();
    let mut done = Done { stores, stops: 0 };
    let mut most = 0;
    let mut nothing = 0_u64;
    let stride = usize::try_from(script.stride(options.stride.max(1)))?;
    // And once more behind the last.
    let stops = (options.from..=stores).step_by(stride).take(usize::try_from(options.stops)?);
    for stop in stops {
        bench.load(&state);
        let end = bench.run(script, stop, false)?;
        bench.journal.died(Some(stop));
        let expected = if stop < stores { End::KILLED } else { End::WELL };
        let (name, calls) = (script.name(), bench.under_way());
        let (found, verdict) = bench.successor(stop % FURTHER == 0)?;
        match verdict {
            Some(Verdict::Whole(things)) => most = most.max(things),
            Some(Verdict::Nothing) => nothing += 1,
            Some(Verdict::Ended) | None => {}
        }
        if end != expected || found != End::WELL || !verdict.is_some_and(Verdict::is_whole) {
            // Once more, as the successor has written over what it found.
            bench.load(&state);
            bench.run(script, stop, false)?;
            let dump = bench.dump(&format!("{name}-{stop}"))?;
            return Err(format!(
                "{name}, stopped before store {stop} of {stores} ({end:?}) in {calls:?}: the \
                 successor ended with {found:?}; the memory is in {}",
                dump.display()
            )
            .into());
        }
        done.stops += 1;
    }
    println!(
        "{}: {stores} stores, {} stops: {nothing} before there was an entry, up to {most} things \
         found ({} s)",
        script.name(),
        done.stops,
        began.elapsed().as_secs()
    );
    Ok(done)
}
