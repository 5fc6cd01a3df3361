//! Where successors are to end, drawn at random from what a takeover is known to take, and what came of
//! it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::steps::{EndAt, Stage};

/// Where a successor is to end.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// So long after it first came to a stage, wherever it is then: the supervisor's clock decides.
    Clock(Stage, Duration),
    /// At a step or in the call that comes then, by itself.
    Step(EndAt),
}

/// A successor's way through its takeover, as it was told.
pub(crate) struct Course {
    pub(crate) end: Option<End>,
    ended: bool,
    /// Where it is.
    stage: Stage,
    /// Of each stage when it came to it first, and when it left it last.
    times: [Option<(Instant, Instant)>; Stage::ALL.len()],
    /// How many steps of each stage there were, where it has left it.
    steps: [u64; Stage::ALL.len()],
}

impl Course {
    /// Begins with the start of a process.
    pub(crate) fn begin(end: Option<End>) -> Self {
        let mut course = Self {
            end,
            ended: false,
            stage: Stage::Start,
            times: Default::default(),
            steps: Default::default(),
        };
        course.enter(Stage::Start, 0);
        course
    }

    /// Notes that it came to `stage`, after so many steps of the one before.
    pub(crate) fn enter(&mut self, stage: Stage, steps: u64) {
        let now = Instant::now();
        self.steps[self.stage as usize] = steps;
        if let Some((_, left)) = &mut self.times[self.stage as usize] {
            *left = now;
        }
        self.times[stage as usize].get_or_insert((now, now));
        self.stage = stage;
    }

    /// Notes that it has ended, by the signal that was meant for it or in another way.
    pub(crate) fn end(&mut self, ended: bool) {
        self.ended = ended;
    }

    /// Whether it came to `stage`.
    pub(crate) fn came_to(&self, stage: Stage) -> bool {
        self.times[stage as usize].is_some()
    }

    /// When it is to be ended, once that is known.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let Some(End::Clock(stage, after)) = self.end else { return None };
        let (since, _) = self.times[stage as usize]?;
        Some(since + after)
    }
}

/// What is known of a stage.
#[derive(Clone, Copy, Default)]
struct Known {
    /// How long it was from when the last successor that was let through came to it, until that left it.
    span: Duration,
    /// The most steps that it ever had.
    steps: u64,
    /// How many successors ended in it.
    ends: u64,
}

/// Draws where successors end, and counts where they did.
pub(crate) struct Plan {
    seed: u64,
    dice: Dice,
    stages: [Known; Stage::ALL.len()],
    /// How many more are to end before one is let through.
    row: u64,
    started: u64,
    by_clock: u64,
    by_step: u64,
    ended_in_a_row: u64,
    longest_row: u64,
}

impl Plan {
    /// The first successor is let through, so that it is known what a takeover takes.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice(seed),
            stages: Default::default(),
            row: 0,
            started: 0,
            by_clock: 0,
            by_step: 0,
            ended_in_a_row: 0,
            longest_row: 0,
        }
    }

    /// Draws where the next successor is to end, if it is.
    pub(crate) fn next(&mut self) -> Option<End> {
        if self.row == 0 {
            return None;
        }
        // Where a step is never reached, or the clock is late, the end is in the last one anyway.
        let stage = Stage::ALL[self.dice.below(Stage::ALL.len() as u64 - 1) as usize];
        let known = self.stages[stage as usize];
        Some(if self.dice.below(2) == 0 {
            End::Clock(stage, known.span.mul_f64(self.dice.share()))
        } else {
            let step = self.dice.below(known.steps.max(1));
            // Calls take from less than a microsecond to many.
            let most = 1 << self.dice.below(18);
            End::Step(EndAt { stage, step, nanos: self.dice.below(most) as u32 })
        })
    }

    /// Learns from a successor's way what the next one's may be.
    pub(crate) fn learn(&mut self, course: &Course, whole: bool) {
        self.started += 1;
        for (known, (times, steps)) in
            self.stages.iter_mut().zip(course.times.iter().zip(course.steps))
        {
            known.steps = known.steps.max(steps);
            if let (true, Some((since, until))) = (whole, times) {
                known.span = until.saturating_duration_since(*since);
            }
        }
        if course.ended {
            self.stages[course.stage as usize].ends += 1;
            self.row = self.row.saturating_sub(1);
            self.ended_in_a_row += 1;
            self.longest_row = self.longest_row.max(self.ended_in_a_row);
            match course.end {
                Some(End::Clock(..)) => self.by_clock += 1,
                _ => self.by_step += 1,
            }
        } else {
            self.ended_in_a_row = 0;
        }
        if whole {
            // Before one generation of three ten end in a row, if the clock hits each of them.
            self.row = if self.dice.below(3) == 0 { 10 } else { self.dice.below(6) };
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, started, by_clock, by_step, longest_row, .. } = self;
        writeln!(
            f,
            "ended {} of {started} successors, {by_clock} by the clock, {by_step} at a step, up to \
             {longest_row} in a row (seed {seed}):",
            by_clock + by_step,
        )?;
        let ends = Stage::ALL.iter().map(|stage| (stage, self.stages[*stage as usize].ends));
        let ends: Vec<_> = ends.map(|(stage, ends)| format!("{stage} {ends}")).collect();
        write!(f, "  {}", ends.join(", "))
    }
}

/// Numbers that look random, and are the same for the same seed (`SplitMix64`). Not the test kit's `Rng`: the
/// example is published, and the kit is not.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A part of one.
    fn share(&mut self) -> f64 {
        f64::from(self.next() as u32) / f64::from(u32::MAX)
    }
}
