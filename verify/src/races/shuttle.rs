//! Random schedules: shuttle decides before each atomic operation which thread comes next.
//!
//! Operations take effect in the order in which they come (no weak memory: that is loom's part), so
//! that whole operations of several threads can be tried, many thousand times.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use heirloom::kho::sync::{Op, Orders, Watcher};
use heirloom_testkit::checker::{Checker, under};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Lets another thread come before each operation, while armed.
#[derive(Default)]
struct Turns {
    armed: Cell<bool>,
    operations: Cell<u64>,
}

// SAFETY: shuttle runs all threads in turns on one thread.
unsafe impl Sync for Turns {}

impl Turns {
    fn switch(&self) {
        // A thread that unwinds is alone.
        if self.armed.get() && !std::thread::panicking() {
            self.operations.set(self.operations.get() + 1);
            // Any operation of shuttle's own is a point at which it may turn to another thread.
            shuttle::sync::atomic::AtomicBool::new(false).load(SeqCst);
        }
    }
}

impl Watcher for Turns {
    fn word(
        &self,
        _: *const (),
        _: usize,
        _: u64,
        _: Op<u64>,
        _: Orders,
    ) -> Option<Result<u64, u64>> {
        self.switch();
        None
    }

    fn pointer(
        &self,
        _: *const (),
        _: *mut (),
        _: Op<*mut ()>,
        _: Orders,
    ) -> Option<Result<*mut (), *mut ()>> {
        self.switch();
        None
    }
}

impl Checker for Turns {
    fn thread(&self) -> usize {
        if self.armed.get() { usize::from(shuttle::current::me()) } else { 0 }
    }

    fn pause(&self) {
        assert!(self.armed.get(), "a lock that nobody will give back");
        shuttle::thread::yield_now();
    }
}

/// How many schedules of each kind a program is tried with: `HEIRLOOM_SCHEDULES`, or `short`.
///
/// # Panics
/// If the variable is no number.
pub fn schedules(short: usize) -> usize {
    match std::env::var("HEIRLOOM_SCHEDULES") {
        Ok(number) => number.parse().expect("HEIRLOOM_SCHEDULES is a number"),
        Err(_) => short,
    }
}

/// Tries programs in random schedules. For each of `count` seeds, `body` sets a world up and gives
/// what is to be done at the same time, and what must be true then.
///
/// # Panics
/// If that is not so, naming the seed.
pub fn programs<S: Send + Sync + 'static>(
    name: &'static str,
    count: u64,
    schedules: usize,
    body: impl Fn(u64) -> Program<S> + Send + Sync + Copy + 'static,
) {
    let turns: &'static Turns = Box::leak(Box::default());
    let (mut tried, mut steps) = (0, 0);
    for seed in 0..count {
        let random = RandomScheduler::new_from_seed(seed, schedules);
        let depth = 3 + seed as usize % 3;
        let pct = PctScheduler::new_from_seed(seed, depth, schedules);
        tried += each(turns, random, move || execute(turns, seed, body));
        tried += each(turns, pct, move || execute(turns, seed, body));
        steps += turns.operations.take();
    }
    println!(
        "shuttle: {name}: {tried} schedules (random, and PCT of 3 to 5 changes) of {count} programs, \
         seeds 0 to {}, {steps} atomic operations",
        count - 1
    );
}

/// A world, what threads do in it, and what must be true then.
pub type Program<S> = (S, Vec<fn(&S, usize)>, fn(S));

fn each(
    turns: &'static Turns,
    scheduler: impl Scheduler + 'static,
    body: impl Fn() + Send + Sync + 'static,
) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    config.max_steps = MaxSteps::FailAfter(2_000_000);
    let tried = Runner::new(scheduler, config).run(body);
    turns.armed.set(false);
    under::<Turns>(None);
    tried
}

fn execute<S: Send + Sync + 'static>(
    turns: &'static Turns,
    seed: u64,
    body: impl Fn(u64) -> Program<S>,
) {
    turns.armed.set(false);
    under(Some(turns));
    let (shared, threads, after) = body(seed);
    let shared = std::sync::Arc::new(shared);
    turns.armed.set(true);
    let running: Vec<_> = threads
        .into_iter()
        .enumerate()
        .map(|(number, thread)| {
            let shared = shared.clone();
            shuttle::thread::spawn(move || thread(&shared, number))
        })
        .collect();
    for thread in running {
        thread.join().unwrap_or_else(|_| panic!("seed {seed}"));
    }
    turns.armed.set(false);
    let Ok(shared) = std::sync::Arc::try_unwrap(shared) else { panic!("all threads have ended") };
    after(shared);
}
