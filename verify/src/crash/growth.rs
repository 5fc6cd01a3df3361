//! Nothing grows with the number of kernels that died.
//!
//! A chain of kernels, of which each claims everything, makes and lets go of things, and dies somewhere in
//! that; and a last one that does all of it, frees what the dead had under way, and hands over. What its
//! successor finds in use is the same whether none died or many.

use heirloom::slab::RollPart;

use super::chains::{State, die, load};
use super::check::{Verdict, check, preserved};
use super::ground::{Dice, Ground};
use super::journal::{Call, Journal, Line, Slack};
use super::script::Script;
use super::stepping::start;
use super::trial::{End, fork};
use super::{Bench, Failure};

/// How many kernels die.
const DEATHS: [u64; 4] = [0, 1, 8, 64];

/// Chains of so many deaths, and what each leaves, in words.
pub(super) fn growth(bench: &mut Bench) -> Result<([u64; 4], String), Failure> {
    let life = start(bench, Script::Idle)?;
    let mut left = None::<String>;
    for deaths in DEATHS {
        let is = after(bench, &life, deaths)?;
        let without = left.get_or_insert_with(|| is.clone());
        if *without != is {
            let text = format!("{deaths} kernels that died leave {is}; without a death, {without}");
            return Err(text.into());
        }
    }
    Ok((DEATHS, left.unwrap_or_default()))
}

/// What is in use after a chain.
fn after(bench: &Bench, life: &State, deaths: u64) -> Result<String, Failure> {
    let mut dice = Dice(deaths);
    load(bench, life)?;
    let mut stores = die(bench, Script::Idle, u64::MAX)?.ok_or("killed")?;
    load(bench, life)?;
    for _ in 0..deaths {
        // A kernel that goes on with caches as they are makes fewer stores than one before it that did not.
        while let Some(made) = die(bench, Script::Idle, dice.below(stores))? {
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
    let child = fork(|| {
        bench.ground.again().map_or(103, |ground| {
            let log = bench.journal.log(0);
            for is in measure(&ground, &bench.journal) {
                log.write(Line::Told(is));
            }
            0
        })
    })?;
    let end = child.wait()?;
    if end != End::WELL {
        return Err(format!("the kernel behind {deaths} deaths ended with {end:?}").into());
    }
    let told = bench.journal.lines(0).into_iter().filter_map(|line| match line {
        Line::Told(figure) => Some(figure),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let [nodes, preserved, roll, used] = told[..] else { return Err("four figures".into()) };
    Ok(format!(
        "{nodes} nodes, {preserved} preserved frames, {roll} pages of the roll, {used} frames in use"
    ))
}

/// What is in use once a kernel has just taken over, which claims nothing: nodes, preserved frames, pages of
/// the roll, frames in use. All that was promised is there.
fn measure(ground: &Ground, journal: &Journal) -> [u64; 4] {
    let entry = ground.arena().entry().expect("the first page is sound").expect("an entry");
    journal.log(0).write(Line::Open(Call::Revive, Slack::default(), 0));
    let kernel = ground.revive(entry).expect("a predecessor that ended at rest");
    journal.log(0).write(Line::Close);
    journal.began();
    let mut pages = 0;
    kernel.slabs().for_each_table(|part| pages += u64::from(matches!(part, RollPart::Page(_))));
    let frames = preserved(&kernel).iter().map(|block| block.order().frames()).sum();
    let stats = kernel.memory().stats();
    let free = stats.free() + stats.cached;
    let used = ground.frames() - ground.scratch().frames() - free;
    let is = [kernel.memory().counts().nodes(), frames, pages, used];
    drop(kernel);
    assert!(matches!(check(ground, journal, false), Verdict::Whole(_)));
    is
}
