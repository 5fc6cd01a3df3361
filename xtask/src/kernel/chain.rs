//! What the kernels of a chain say, and what they have to.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// A chain of kernels.
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// A letter for each: `j`, a sealed jump; `c`, a crash at work; `d`, a death in its takeover; `e`, the end;
    /// `l`, Linux: at the start, in the middle, at the end.
    pub(crate) plan: &'static str,
    pub(crate) memory: &'static str,
    /// Whether memory has a hole between 3 and 4 GiB. A PC with as much as that has one.
    pub(crate) hole: bool,
    pub(crate) cpus: u32,
}

/// The most things that a crash may leave without an owner: one that was made and not yet named, or not named any more and not
/// yet freed, for each writer (its work, its timer's handler, its NMI's, on each CPU), two for a session and its buffer.
const LEFT_BY_CRASH: u64 = 4;
/// The most that a death in a takeover may leave: an object in both layouts, the page that says how many kernels there were.
const LEFT_BY_DEATH: u64 = 2;

/// What Linux says when it was handed over what it can read.
const LINUX_TAKES_OVER: &str = "KHO: found kexec handover data";
/// What its own test says when it found what it left in a life before.
const TEST_RESTORED: &str = "KHO restore succeeded";
/// Files of a session: one session by the kernel before, one by the Linux before if there was one.
const FILES: u64 = 4;
/// What is said where something went wrong.
const WRONG: [&str; 5] =
    ["kernel: failed", "between: failed", "between: lost", "Kernel panic", "KHO restore failed"];

/// What kernels found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Totals {
    generations: u64,
    kernels: u64,
    bytes: u64,
    lost: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.generations += other.generations;
        self.kernels += other.kernels;
        self.bytes += other.bytes;
        self.lost += other.lost;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generations, kernels, bytes, lost } = self;
        write!(f, "{generations} generations, {kernels} kernels, {bytes} bytes, {lost} lost")
    }
}

/// What a kernel says when it has taken over.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Report {
    step: u64,
    generation: u64,
    things: u64,
    bytes: u64,
    upgraded: u64,
    lost: u64,
    unclaimed: u64,
}

impl Report {
    /// Reads `kernel: two, step 1, generation 1: ...`; `None`: another line.
    fn read(line: &str) -> Option<Self> {
        let (build, rest) = line.strip_prefix("kernel: ")?.split_once(", step ")?;
        let (step, rest) = rest.split_once(", generation ")?;
        let (generation, rest) = rest.split_once(": ")?;
        let mut parts = rest.split(", ");
        let mut number = |unit| parts.next()?.strip_suffix(unit)?.parse().ok();
        let report = Self {
            step: step.parse().ok()?,
            generation: generation.parse().ok()?,
            things: number(" things")?,
            bytes: number(" bytes compared")?,
            upgraded: number(" upgraded")?,
            lost: number(" lost")?,
            unclaimed: number(" unclaimed")?,
        };
        let expected = if report.step.is_multiple_of(2) { "one" } else { "two" };
        (build == expected && parts.next().is_none()).then_some(report)
    }
}

/// What Linux's first process says when it has compared what was left to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Between {
    step: u64,
    files: u64,
    bytes: u64,
    lost: u64,
}

impl Between {
    /// Reads `between: step 3: 8 files, 1234 bytes, 0 lost`; `None`: another line.
    fn read(line: &str) -> Option<Self> {
        let (step, rest) = line.strip_prefix("between: step ")?.split_once(": ")?;
        let mut parts = rest.split(", ");
        let mut number = |unit| parts.next()?.strip_suffix(unit)?.parse().ok();
        let (files, bytes, lost) = (number(" files")?, number(" bytes")?, number(" lost")?);
        let read = Self { step: step.parse().ok()?, files, bytes, lost };
        parts.next().is_none().then_some(read)
    }
}

impl Chain {
    /// Compares what was said with the plan.
    pub(crate) fn judge(&self, said: &str) -> Result<Totals> {
        let mut totals = Totals { kernels: self.plan.len() as u64, ..Totals::default() };
        let reports: Vec<_> = said.lines().filter_map(Report::read).collect();
        let mut reports = reports.iter();
        let mut crashes = said.lines().filter_map(|line| line.strip_prefix("kernel: crashes in "));
        let mut next_crash = || crashes.next().context("a kernel that was to crash did not");
        // How the last kernel that worked ended.
        let (mut before, mut deaths, mut upgraded, mut lives) = ('j', 0, 0, 0);
        let between: Vec<_> = said.lines().filter_map(Between::read).collect();
        let mut between = between.iter();
        // The generation that the next kernel is of: one that dies after its `revive` was one too.
        let mut generation = 0..=0;
        for (step, act) in (0..).zip(self.plan.chars()) {
            if act == 'l' {
                let found =
                    between.next().with_context(|| format!("Linux, {step}, says nothing"))?;
                let sessions = u64::from(step > 0) + u64::from(lives > 0);
                ensure!(
                    (found.step, found.files, found.lost) == (step, sessions * FILES, 0),
                    "{found:?} of Linux, {step}"
                );
                if step > 0 {
                    let count = format!("(count {step})");
                    let counted =
                        |line: &str| line.contains("exec from: ") && line.contains(&count);
                    ensure!(said.lines().any(counted), "Linux, {step}, does not know {count}");
                }
                totals.bytes += found.bytes;
                totals.lost += found.lost;
                // Its test leaves something in one life, and takes it up in the next.
                (before, lives, generation) = ('l', lives + 1, 1..=1);
                continue;
            }
            if act == 'd' {
                let phase = next_crash()?;
                ensure!(
                    ["revive", "claim", "upgrade", "finish"].contains(&phase),
                    "kernel {step} was to die in its takeover, and died in {phase}"
                );
                deaths += 1;
                let sure = u64::from(phase != "revive");
                generation = generation.start() + sure..=generation.end() + 1;
                continue;
            }
            let report = reports.next().with_context(|| format!("kernel {step} says nothing"))?;
            ensure!(report.step == step, "{report:?} of kernel {step}");
            ensure!(generation.contains(&report.generation), "{report:?} in {generation:?}");
            generation = report.generation + 1..=report.generation + 1;
            ensure!(report.lost == 0, "kernel {step} lost {}", report.lost);
            let crash = if before == 'c' { LEFT_BY_CRASH * u64::from(self.cpus) } else { 0 };
            let limit = crash + deaths * LEFT_BY_DEATH;
            ensure!(
                report.unclaimed <= limit,
                "{} things that nothing named, where there may be {limit}",
                report.unclaimed
            );
            ensure!((report.things > 0) == (step > 0), "{} things survived", report.things);
            if act == 'c' {
                let phase = next_crash()?;
                ensure!(phase == "work", "kernel {step} was to crash at work, and did in {phase}");
            }
            totals.generations += 1;
            totals.bytes += report.bytes;
            totals.lost += report.lost;
            (before, deaths, upgraded) = (act, 0, upgraded + report.upgraded);
        }
        let times = |text| said.lines().filter(|line| line.contains(text)).count();
        let handed = self.plan.chars().skip(1).filter(|act| *act == 'l').count();
        ensure!(times(LINUX_TAKES_OVER) == handed, "Linux was not handed anything");
        ensure!(
            times(TEST_RESTORED) == lives / 2,
            "Linux's own test did not find all that it left"
        );
        // One that died may have done it all, and says nothing.
        let told = upgraded > 0 || self.plan.contains('d');
        ensure!(told, "no session came to the other layout");
        let more = reports.next().is_some() || crashes.next().is_some() || between.next().is_some();
        ensure!(!more, "more was said than planned");
        let works = said.lines().filter(|line| line.contains(" rounds, "));
        let (mut worked, jumps) = (0, self.plan.matches('j').count());
        for line in works {
            ensure!(line.contains(" 0 wrong, 0 refused"), "{line}");
            worked += 1;
        }
        ensure!(worked == jumps, "{worked} kernels say how they worked, of {jumps}");
        if let Some(line) = said.lines().find(|line| WRONG.iter().any(|wrong| line.contains(wrong)))
        {
            bail!("{line}");
        }
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Chain = Chain { name: "test", plan: "jcde", memory: "512M", hole: false, cpus: 2 };

    const SAID: [&str; 6] = [
        "kernel: one, step 0, generation 0: 0 things, 0 bytes compared, 0 upgraded, 0 lost, 0 unclaimed",
        "kernel: one, step 0: 70 rounds, 30 ticks, 9 NMIs, 3 calls without a CPU, 0 wrong, 0 refused; 1 bytes of stack, 2 of image",
        "kernel: two, step 1, generation 1: 90 things, 5000 bytes compared, 9 upgraded, 0 lost, 0 unclaimed",
        "kernel: crashes in work",
        "kernel: crashes in claim",
        "kernel: two, step 3, generation 3: 91 things, 6000 bytes compared, 0 upgraded, 0 lost, 8 unclaimed",
    ];

    fn judge(from: &str, to: &str) -> Result<Totals> {
        let said = SAID.join("\n");
        assert!(said.contains(from), "{from}");
        CHAIN.judge(&said.replacen(from, to, 1))
    }

    #[test]
    fn what_is_found_is_added_up() {
        let expected = Totals { generations: 3, kernels: 4, bytes: 11000, lost: 0 };
        assert_eq!(judge("", "").unwrap(), expected);
        assert_eq!(expected.to_string(), "3 generations, 4 kernels, 11000 bytes, 0 lost");
    }

    /// What Linux says in a chain: takes over, counts, finds its test's folios, compares.
    fn linux(step: u64, files: u64, restored: &str) -> String {
        let over = if step > 0 { LINUX_TAKES_OVER } else { "" };
        let count =
            if step > 0 { format!("KHO: exec from: 7.3.4 (count {step})") } else { String::new() };
        format!(
            "[    0.0] {over}.\n[    0.1] {count}\n[    0.5] {restored}\n\
             between: step {step}: {files} files, 100 bytes, 0 lost\n"
        )
    }

    #[test]
    fn linux_has_to_take_over_and_to_find_everything() {
        let chain = Chain { plan: "jcl", ..CHAIN };
        let said = format!("{}\n", SAID[..4].join("\n"));
        assert!(chain.judge(&said).is_err());
        let all = said.clone() + &linux(2, 4, "");
        let totals = chain.judge(&all).unwrap();
        assert_eq!((totals.generations, totals.kernels, totals.bytes), (2, 3, 5100));
        for (from, to) in [
            (LINUX_TAKES_OVER, ""),
            ("4 files", "3 files"),
            ("100 bytes, 0 lost", "100 bytes, 1 lost"),
            ("(count 2)", "(count 1)"),
            ("between: step 2", "between: step 1"),
            ("9 upgraded", "0 upgraded"),
            ("between: step", "between: failed: no session linux\nbetween: step"),
            ("between: step", "Kernel panic - not syncing\nbetween: step"),
        ] {
            assert!(all.contains(from), "{from}");
            assert!(chain.judge(&all.replacen(from, to, 1)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn each_other_linux_finds_what_its_test_left() {
        let chain = Chain { plan: "ljcl", ..CHAIN };
        let kernels = [
            "kernel: two, step 1, generation 1: 4 things, 100 bytes compared, 0 upgraded, 0 lost, 0 unclaimed",
            "kernel: two, step 1: 70 rounds, 30 ticks, 9 NMIs, 3 calls without a CPU, 0 wrong, 0 refused; 1 bytes of stack, 2 of image",
            "kernel: one, step 2, generation 2: 90 things, 5000 bytes compared, 9 upgraded, 0 lost, 0 unclaimed",
            "kernel: crashes in work\n",
        ];
        let said = linux(0, 0, "") + &kernels.join("\n") + &linux(3, 8, TEST_RESTORED);
        let totals = chain.judge(&said).unwrap();
        assert_eq!((totals.generations, totals.kernels, totals.bytes), (2, 4, 5300));
        assert!(chain.judge(&said.replace(TEST_RESTORED, "")).is_err());
        assert!(chain.judge(&said.replace("generation 2", "generation 1")).is_err());
    }

    /// A kernel that dies in `revive` is a generation if it had come to its end.
    #[test]
    fn a_death_in_revive_may_count() {
        for generation in ["generation 2", "generation 3"] {
            let said = SAID.join("\n").replace("generation 3", generation);
            assert!(CHAIN.judge(&said.replace("crashes in claim", "crashes in revive")).is_ok());
        }
    }

    #[test]
    fn each_line_has_to_be_said_and_to_be_good() {
        for (from, to) in [
            (SAID[2], ""),
            (SAID[1], ""),
            (SAID[3], ""),
            (SAID[4], "kernel: crashes in work"),
            ("0 lost, 8", "1 lost, 8"),
            ("8 unclaimed", "11 unclaimed"),
            ("0 lost, 0 unclaimed\nkernel: crashes", "0 lost, 1 unclaimed\nkernel: crashes"),
            ("generation 3", "generation 2"),
            ("generation 3", "generation 4"),
            ("crashes in claim", "crashes in finish, or somewhere"),
            ("kernel: two, step 3", "kernel: one, step 3"),
            ("0 wrong", "1 wrong"),
            ("91 things", "0 things"),
            (SAID[5], &format!("{}\nkernel: failed: no images", SAID[5])),
        ] {
            assert!(judge(from, to).is_err(), "{from} -> {to}");
        }
    }
}
