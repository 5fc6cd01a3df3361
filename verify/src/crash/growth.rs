//! Nothing grows with the number of kernels that died.
//!
//! A chain of kernels, of which each claims everything, makes and lets go of things, and dies somewhere in
//! that; and last ones that do all of it, let go of what the dead had made, and hand over. What their
//! successor finds in use is the same whether none died or many.

use std::ops::Range;

use heirloom::slab::internal::DirectoryPart;
use heirloom_testkit::{ObjectKind, Rng, TestMachine};

use super::actor::{Actor, LAST, Op, Owned};
use super::chains::die;
use super::check::{Verdict, check, preserved};
use super::journal::{Call, Journal, Line, Slack};
use super::script::{Script, base};
use super::stepping::start;
use super::takeover::{heir, revive};
use super::trial::End;
use super::{Bench, Failure, State};

/// How many kernels die in the long chains.
const DEATHS: [u64; 4] = [0, 1, 8, 64];

/// How many in a short one, at most.
const SHORT: u64 = 8;

/// Lets kernels die in chains of [`DEATHS`] deaths, and in a short one for each of `seeds`. Returns how many
/// chains there were, and what each left, in words.
pub(super) fn growth(bench: &mut Bench, seeds: Range<u64>) -> Result<(u64, String), Failure> {
    let life = start(bench, Script::Idle)?;
    let long = DEATHS.into_iter().map(|deaths| (deaths, deaths));
    let short = seeds.map(|seed| (1 + seed % SHORT, seed));
    let (mut left, mut chains) = (None::<String>, 0);
    for (deaths, seed) in long.chain(short) {
        let is = after(bench, &life, deaths, seed)?;
        let without = left.get_or_insert_with(|| is.clone());
        if *without != is {
            let text = format!(
                "{deaths} kernels that died (seed {seed}) leave {is}; without a death, {without}"
            );
            return Err(text.into());
        }
        chains += 1;
    }
    Ok((chains, left.unwrap_or_default()))
}

/// Returns what is in use after a chain.
fn after(bench: &Bench, life: &State, deaths: u64, seed: u64) -> Result<String, Failure> {
    let mut rng = Rng::new(seed);
    bench.load(life);
    let mut stores = die(bench, Script::Idle, u64::MAX)?.ok_or("killed")?;
    bench.load(life);
    for _ in 0..deaths {
        // A kernel that goes on with caches as they are makes fewer stores than one before it that did not.
        while let Some(made) = die(bench, Script::Idle, rng.below(stores))? {
            if made >= stores {
                return Err("a kernel outlived its stop".into());
            }
            stores = made;
        }
    }
    // Once all of it, and once more: what a kernel before it had under way is claimed, and goes.
    for _ in 0..2 {
        die(bench, Script::Idle, u64::MAX)?.ok_or("killed")?;
    }
    let alone = |what: fn(&TestMachine, &Journal)| match bench.child(what)?.wait()? {
        End::WELL => Ok(()),
        end => Err(Failure::from(format!("a kernel behind {deaths} deaths: {end:?}"))),
    };
    alone(let_go)?;
    alone(measure)?;
    let told = bench.journal.lines(0).into_iter().filter_map(|line| match line {
        Line::Told(figure) => Some(figure),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let [nodes, preserved, roll, used] = told[..] else { return Err("four figures".into()) };
    Ok(format!(
        "{nodes} nodes, {preserved} preserved frames, {roll} pages of the cache directory, {used} frames in use"
    ))
}

/// A kernel lets go of what others have made, and died before they let go of it.
fn let_go(machine: &TestMachine, journal: &Journal) {
    let kernel = revive(machine, journal);
    let mut actor = heir(&kernel, journal, base(journal));
    actor.take_over_all();
    // The only name that they make.
    actor.act(Op::Unpublish(3));
    let theirs = |owned: &Owned| !Actor::is_of_the_first(owned.id);
    while let Some(at) = actor.owned.iter().position(theirs) {
        let owned = actor.owned.remove(at);
        actor.owned.push(owned);
        let owners = actor.owned.len();
        actor.act_all(match owned.thing.kind {
            ObjectKind::Area => &[Op::AreaGone(LAST)],
            ObjectKind::Records => &[Op::RecordsGone(LAST)],
            _ if owned.singly() => &[Op::Unpreserve(LAST), Op::Free(LAST)],
            _ => &[Op::Free(LAST)],
        });
        assert!(actor.owned.len() < owners || !actor.owned.contains(&owned), "{owned:?} stays");
    }
}

/// Tells what is in use once a kernel has just taken over, which claims nothing: nodes, preserved frames,
/// pages of the cache directory, frames in use. All that was promised is there.
fn measure(machine: &TestMachine, journal: &Journal) {
    let entry = machine.arena().entry().expect("the first page is sound").expect("an entry");
    journal.log(0).write(Line::Open(Call::Revive, Slack::default(), 0));
    let kernel = machine.revive(entry);
    journal.log(0).write(Line::Close);
    journal.began();
    let mut pages = 0;
    kernel
        .slabs()
        .for_each_table(|part| pages += u64::from(matches!(part, DirectoryPart::Page(_))));
    let frames = preserved(&kernel).iter().map(|block| block.order().frames()).sum();
    let stats = kernel.memory().stats();
    let free = stats.free() + stats.cached;
    let used = machine.frames() - machine.scratch().frames() - free;
    for is in [kernel.memory().preserved().counts().nodes(), frames, pages, used] {
        journal.log(0).write(Line::Told(is));
    }
    drop(kernel);
    assert!(matches!(check(machine, journal, false), Verdict::Whole(_)));
}
