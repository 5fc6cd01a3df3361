//! Where blocks are taken, by what that leaves: the share of requests that are refused where memory is
//! nearly full, and the largest block that is free then.
//!
//! A churn as the rows of `frames` have it, with fixed dice, on one thread: no figure depends on the machine.
//! After 64 operations for each block that is live the next 32 for each are looked at. A line of the output
//! is `fragmentation`, the memory and how full it is kept, the allocator, the operations of which one was refused
//! in percent, and the order of the largest block that is free at the end, with tabs between.

use std::env;

use heirloom_benches::frames_of::{Alone, BuddySystem, FrameAlloc, Frames, Heirloom};
use heirloom_benches::{Dice, GIB, order};

/// Orders 0 to 10, each as often.
const ORDERS: u64 = 11;

struct Churn<F: Frames> {
    memory: F,
    live: Vec<F::Block>,
    used: u64,
    dice: Dice,
    limit: u64,
    refused: u64,
}

impl<F: Frames> Churn<F> {
    fn new(frames: u64, percent: u64) -> Self {
        let (memory, dice) = (F::new(frames), Dice::new(13));
        Self { memory, live: Vec::new(), used: 0, dice, limit: frames * percent / 100, refused: 0 }
    }

    /// Takes a block while less than the limit is taken, frees a random one otherwise, and where none is to be had.
    fn step(&mut self) {
        if self.used < self.limit {
            let order = order(self.dice.roll(ORDERS) as u8);
            if let Some(block) = self.memory.take(order) {
                self.used += order.frames();
                return self.live.push(block);
            }
            self.refused += 1;
        }
        let at = self.dice.roll(self.live.len() as u64) as usize;
        let block = self.live.swap_remove(at);
        self.used -= F::order(block).frames();
        self.memory.give(block);
    }

    fn steps(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// The order of the largest block of up to 4 MiB that is free.
    fn largest(&self) -> u8 {
        self.memory.drain();
        let mut orders = (0..ORDERS as u8).rev();
        let largest = orders.find_map(|o| Some((o, self.memory.take(order(o))?)));
        largest.map_or(0, |(o, block)| {
            self.memory.give(block);
            o
        })
    }
}

fn measure<F: Frames>(gib: u64, percent: u64) {
    let mut churn = Churn::<F>::new(gib * GIB, percent);
    while churn.used < churn.limit && churn.refused == 0 {
        churn.step();
    }
    let live = churn.live.len();
    churn.steps(64 * live);
    churn.refused = 0;
    let steps = 32 * live;
    churn.steps(steps);
    #[expect(clippy::cast_precision_loss, reason = "far below what a mantissa holds")]
    let share = 100.0 * churn.refused as f64 / steps as f64;
    let (name, largest) = (F::NAME, churn.largest());
    println!("fragmentation\t{gib} GiB at {percent} %\t{name}\t{share:.3}\t{largest}");
}

fn main() {
    // The harness's own arguments, which a bench without it is given too.
    let only = env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for gib in [1, 8] {
        for percent in [50, 75, 90, 95, 99] {
            if only.as_ref().is_some_and(|only| *only != format!("{gib}")) {
                continue;
            }
            measure::<Heirloom>(gib, percent);
            measure::<FrameAlloc>(gib, percent);
            measure::<BuddySystem<Alone<_>>>(gib, percent);
        }
    }
}
