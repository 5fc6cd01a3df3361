//! Where blocks are taken, by what that leaves: the share of requests that are refused where memory is
//! nearly full, and the largest block that is free then.
//!
//! A churn as the rows of `frames` have it, with fixed dice, on one thread: no figure depends on the machine.
//! After 64 operations for each block that is live the next 32 for each are looked at. A line of the output
//! is `fragmentation`, the memory and how full it is kept, the allocator, the operations of which one was refused
//! in percent, and the order of the largest block that is free at the end, with tabs between.

use std::env;

use heirloom_benches::frames_of::{Alone, BuddySystem, Churn, FrameAlloc, Frames, Heirloom};
use heirloom_benches::{GIB, order};

/// Orders 0 to 10, each as often.
const ORDERS: u64 = 11;

/// Returns the order of the largest block of up to 4 MiB that is free.
fn largest<F: Frames>(memory: &F) -> u8 {
    memory.drain();
    let largest = (0..ORDERS as u8).rev().find_map(|o| Some((o, memory.take(order(o))?)));
    largest.map_or(0, |(o, block)| {
        memory.give(block);
        o
    })
}

fn measure<F: Frames>(gib: u64, percent: u64) {
    let mut churn = Churn::<F>::new(gib * GIB, ORDERS, gib * GIB * percent / 100);
    let live = churn.live.len();
    (0..62 * live).for_each(|_| churn.step());
    churn.refused = 0;
    let steps = 32 * live;
    (0..steps).for_each(|_| churn.step());
    #[expect(clippy::cast_precision_loss, reason = "far below what a mantissa holds")]
    let share = 100.0 * churn.refused as f64 / steps as f64;
    let (name, largest) = (F::NAME, largest(&churn.memory));
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
