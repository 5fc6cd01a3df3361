//! What is run: lives in a row, and what must come of them.

use anyhow::{Result, ensure};

use super::build::{Build, Builder, Which};
use super::life::{Life, Wish};
use super::summary::Summary;

/// Lives in a row.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// The lives that are asked for.
    wishes: fn() -> Vec<Wish>,
    /// How many of them live: in the others, the takeover is stopped.
    lives: u64,
}

/// What continuous integration runs.
pub(super) const SHORT: &[Scenario] = &[
    Scenario { name: "three lives", wishes: || vec![Wish::plain(THREE); 3], lives: 3 },
    Scenario { name: "jumps amid traffic", wishes: traffic, lives: 3 },
    Scenario { name: "sealed", wishes: sealed, lives: 3 },
    Scenario { name: "stopped takeovers", wishes: stopped, lives: 2 },
];

/// What takes longer.
pub(super) const LONG: &[Scenario] = &[
    Scenario { name: "checked", wishes: checked, lives: 3 },
    Scenario { name: "checked amid traffic", wishes: checked_amid_traffic, lives: 3 },
    Scenario { name: EVERY_STORE, wishes: stopped_everywhere, lives: 2 },
    Scenario { name: "three kernels", wishes: kernels, lives: 3 },
    Scenario { name: "three kernels amid traffic", wishes: kernels_amid_traffic, lives: 3 },
];

const THREE: &str = "lives=3 sessions=2000 stress_ms=1000";

/// Threads and timers go on until their CPUs are stopped; each kernel has another number of these.
fn traffic() -> Vec<Wish> {
    let life = |cpus| Wish { cpus, ..amid_traffic(2000) };
    vec![life(4), life(2), life(3)]
}

/// What traffic preserved at the jump is claimed by nothing, and freed.
fn amid_traffic(sessions: u32) -> Wish {
    Wish {
        module: "unclaimed=free".into(),
        ..Wish::plain(format!("lives=3 sessions={sessions} traffic=1"))
    }
}

/// Each seals what it leaves, and takes over what is sealed alone.
fn sealed() -> Vec<Wish> {
    let life = Wish {
        module: "sealed=1".into(),
        ..Wish::plain("lives=3 sessions=1000 stress_ms=200 sealed=1")
    };
    vec![life; 3]
}

/// The stores before which the takeovers between the two lives are stopped; -2: the last one.
const STOPS: &[i64] = &[0, 5, 10, -2];

/// The scenario in which there must be no store before which no takeover was stopped.
const EVERY_STORE: &str = "stopped before every store";

/// All of them, as many as a takeover makes; three are the module's own, the last of all is one of these.
const ALL_STOPS: &[i64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, -2];

/// After the first life comes one takeover after another that is stopped, and then one that is not.
fn stopped_at(stops: &[i64]) -> Vec<Wish> {
    let life = Wish {
        build: Build::Stoppable,
        ..Wish::plain("lives=2 sessions=1000 stress_ms=200 grow_mb=16")
    };
    let stopped = stops.iter().map(|at| Wish { module: format!("stop_at={at}"), ..life.clone() });
    [vec![life.clone()], stopped.collect(), vec![life.clone()]].concat()
}

fn stopped() -> Vec<Wish> {
    stopped_at(STOPS)
}

fn stopped_everywhere() -> Vec<Wish> {
    stopped_at(ALL_STOPS)
}

/// Kernels that check themselves, and with them what the module does in a takeover.
fn checked() -> Vec<Wish> {
    let life = Wish::plain("lives=3 sessions=1000 stress_ms=2000");
    vec![Wish { kernel: Which::Checked, ..life }; 3]
}

fn checked_amid_traffic() -> Vec<Wish> {
    vec![Wish { kernel: Which::Checked, ..amid_traffic(1000) }; 3]
}

/// A kernel that checks itself, one with the module built in, a plain one.
fn kernels() -> Vec<Wish> {
    in_three_kernels(&Wish::plain("lives=3 sessions=1000 stress_ms=2000"))
}

fn kernels_amid_traffic() -> Vec<Wish> {
    in_three_kernels(&amid_traffic(1000))
}

fn in_three_kernels(life: &Wish) -> Vec<Wish> {
    let kernels = [(Which::Checked, 0), (Which::BuiltIn, 2), (Which::Plain, 3)];
    kernels.map(|(kernel, cpus)| Wish { kernel, cpus, ..life.clone() }).to_vec()
}

impl Scenario {
    /// A scenario of lives that are made elsewhere.
    pub(super) const fn new(name: &'static str, wishes: fn() -> Vec<Wish>, lives: u64) -> Self {
        Self { name, wishes, lives }
    }

    /// Returns how much memory the machine has: more where a kernel checks itself, or has many lives within.
    pub(super) fn memory(&self) -> &'static str {
        let wishes = (self.wishes)();
        match wishes.len() {
            9.. => "4G",
            _ if wishes.iter().any(|wish| wish.kernel == Which::Checked) => "2G",
            _ => "1G",
        }
    }

    /// Builds the lives.
    pub(super) fn lives(&self, builder: &Builder<'_>) -> Result<Vec<Life>> {
        (self.wishes)().iter().map(|wish| wish.build(builder)).collect()
    }

    /// Checks what came of it.
    pub(super) fn check(&self, found: &Summary, console: &str) -> Result<()> {
        let wishes = (self.wishes)();
        let jumps = wishes.len().saturating_sub(1) as u64;
        ensure!(
            found.faults.is_empty(),
            "{} faults:\n{}",
            found.faults.len(),
            found.faults.join("\n")
        );
        ensure!(found.lost == 0, "{} objects are lost", found.lost);
        ensure!(found.lives == self.lives, "{} lives, not {}", found.lives, self.lives);
        ensure!(found.kexecs == jumps, "{} jumps, not {jumps}", found.kexecs);
        let stops = wishes.iter().filter(|wish| wish.module.contains("stop_at")).count();
        let stopped = console.matches("heirloom: stopped before store ").count();
        ensure!(stopped == stops, "{stopped} takeovers were stopped, not {stops}");
        let made = stores_made(console);
        ensure!(
            self.name != EVERY_STORE || made == Some(stops),
            "the last takeover made {made:?} stores, and {stops} were stopped before one",
        );
        ensure!(found.objects > 0, "no object was there in any life");
        Ok(())
    }
}

/// Returns how many stores the last takeover made that outlive it.
fn stores_made(console: &str) -> Option<usize> {
    let told = |line: &str| {
        let made = line.strip_prefix("heirloom: the start made ")?;
        made.strip_suffix(" stores that outlive it")?.parse().ok()
    };
    console.lines().filter_map(told).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_fails_for_each_thing_that_is_not_as_it_must_be() {
        let right =
            Summary { lives: 2, kexecs: 5, objects: 10, bytes: 20, lost: 0, faults: Vec::new() };
        let scenario = Scenario::new("test", stopped, 2);
        let console = "heirloom: stopped before store 1\n".repeat(STOPS.len());
        scenario.check(&right, &console).expect("as it must be");
        let wrong = [
            Summary { lives: 1, ..right.clone() },
            Summary { kexecs: 4, ..right.clone() },
            Summary { objects: 0, ..right.clone() },
            Summary { lost: 1, ..right.clone() },
            Summary { faults: vec!["WARNING".into()], ..right.clone() },
        ];
        for wrong in wrong {
            scenario.check(&wrong, &console).expect_err("wrong");
        }
        scenario.check(&right, "").expect_err("no takeover was stopped");
        let every = Scenario::new(EVERY_STORE, stopped, 2);
        let made =
            |stores| format!("{console}heirloom: the start made {stores} stores that outlive it\n");
        every.check(&right, &made(STOPS.len())).expect("all of them");
        every.check(&right, &made(STOPS.len() + 1)).expect_err("one more");
        every.check(&right, &console).expect_err("not told");
    }

    #[test]
    fn names_are_each_scenarios_own() {
        let mut names: Vec<_> = SHORT.iter().chain(LONG).map(|it| it.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SHORT.len() + LONG.len());
    }
}
