//! The page allocator and its peers, over simulated memory whose frames are never touched.

use std::hint::black_box;
use std::sync::Mutex;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use heirloom_benches::frames_of::{
    Alone, Bitmap, BuddySlab, BuddySystem, Churn, FrameAlloc, FrameDepot, Frames, Heirloom, Locked,
};
use heirloom_benches::{Dice, GIB, order, per_operation, row, time, twice};
use heirloom_kho::Order;

type Row<'c> = BenchmarkGroup<'c, WallTime>;

/// One function of a row for each allocator that one thread uses.
macro_rules! alone {
    ($row:expr, $bench:ident $(, $argument:expr)*) => {{
        $bench::<Heirloom>($row $(, $argument)*);
        $bench::<FrameAlloc>($row $(, $argument)*);
        $bench::<FrameDepot>($row $(, $argument)*);
        $bench::<BuddySlab<Alone<_>>>($row $(, $argument)*);
        $bench::<BuddySystem<Alone<_>>>($row $(, $argument)*);
        $bench::<Bitmap<Alone<_>>>($row $(, $argument)*);
    }};
}

/// The same for two threads: the unsynchronised ones behind a spin lock.
macro_rules! shared {
    ($row:expr, $bench:ident) => {{
        $bench::<Heirloom>($row);
        $bench::<FrameAlloc>($row);
        $bench::<FrameDepot>($row);
        $bench::<BuddySlab<Locked<_>>>($row);
        $bench::<BuddySystem<Locked<_>>>($row);
        $bench::<Bitmap<Locked<_>>>($row);
    }};
}

/// All but what searches linearly for a block of many frames: 0.1 ms and more for each.
macro_rules! buddies {
    ($row:expr, $bench:ident $(, $argument:expr)*) => {{
        $bench::<Heirloom>($row $(, $argument)*);
        $bench::<FrameAlloc>($row $(, $argument)*);
        $bench::<FrameDepot>($row $(, $argument)*);
        $bench::<BuddySlab<Alone<_>>>($row $(, $argument)*);
        $bench::<BuddySystem<Alone<_>>>($row $(, $argument)*);
    }};
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
fn once<F: Frames>(memory: &F, order: Order) {
    let block = memory.take(order).expect("memory is free");
    memory.give(black_box(block));
}

/// Takes so many frames, and does not ask for more: what a refusal costs is another matter.
fn take_all<F: Frames>(memory: &F, order: Order, frames: u64, into: &mut Vec<F::Block>) {
    let Some(first) = memory.take(order) else { return into.clear() };
    // From the second round on the list is as long as it will be: what is timed is one store.
    let most = (frames >> order.get()) as usize;
    into.resize(most, first);
    let mut taken = 0;
    let mut next = Some(first);
    for slot in into.iter_mut() {
        let Some(block) = next else { break };
        *slot = block;
        taken += 1;
        next = if taken == most { None } else { memory.take(order) };
    }
    into.truncate(taken);
}

fn free_all<F: Frames>(memory: &F, blocks: &[F::Block]) {
    for block in blocks {
        memory.give(*block);
    }
}

/// Pairs while a random share of all frames is taken.
fn pair<F: Frames>(row: &mut Row<'_>, frames: u64, order: Order, percent: u64) {
    let memory = F::new(frames);
    if percent > 0 {
        let mut blocks = Vec::new();
        take_all(&memory, Order::ZERO, frames, &mut blocks);
        Dice::new(11).shuffle(&mut blocks);
        let kept = blocks.len() as u64 * percent / 100;
        free_all(&memory, &blocks[kept as usize..]);
    }
    row.bench_function(F::NAME, |b| b.iter(|| once(&memory, order)));
}

fn allocate_all<F: Frames>(row: &mut Row<'_>, order: Order) {
    let memory = F::new(GIB);
    let mut blocks = Vec::with_capacity(GIB as usize);
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, ()) = time(|| take_all(&memory, order, GIB, &mut blocks));
                free_all(&memory, &blocks);
                memory.drain();
                (took, blocks.len() as u64)
            })
        });
    });
}

fn free_them<F: Frames>(row: &mut Row<'_>, order: Order, random: bool) {
    let memory = F::new(GIB);
    let mut dice = Dice::new(7);
    let mut blocks = Vec::with_capacity(GIB as usize);
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                take_all(&memory, order, GIB, &mut blocks);
                if random {
                    dice.shuffle(&mut blocks);
                }
                let (took, ()) = time(|| free_all(&memory, &blocks));
                memory.drain();
                (took, blocks.len() as u64)
            })
        });
    });
}

fn one_thread(c: &mut Criterion) {
    for percent in [0, 50, 90] {
        let mut row = row(c, &format!("order 0, pair at {percent} %"));
        alone!(&mut row, pair, GIB, Order::ZERO, percent);
    }
    for o in [order(0), order(9)] {
        let mut all = row(c, &format!("order {}, allocate all", o.get()));
        if o == Order::ZERO {
            alone!(&mut all, allocate_all, o);
        } else {
            buddies!(&mut all, allocate_all, o);
        }
        all.finish();
        for (random, how) in [(false, "in order"), (true, "in random order")] {
            let mut row = row(c, &format!("order {}, free all {how}", o.get()));
            if o == Order::ZERO {
                alone!(&mut row, free_them, o, random);
            } else {
                buddies!(&mut row, free_them, o, random);
            }
        }
    }
    let mut row = row(c, "order 9, pair");
    buddies!(&mut row, pair, GIB, order(9), 0);
}

fn churned<F: Frames>(row: &mut Row<'_>, frames: u64, orders: u64, limit: u64) {
    let mut churn = Churn::<F>::new(frames, orders, limit);
    row.bench_function(F::NAME, |b| b.iter(|| churn.step()));
}

fn churn(c: &mut Criterion) {
    for percent in [10, 25, 50, 75, 90] {
        let mut row = row(c, &format!("churn of orders 0 to 10 at {percent} %, 1 GiB"));
        buddies!(&mut row, churned, GIB, 11, GIB * percent / 100);
    }
    let mut orders = row(c, "churn of orders 0 to 10 at 50 %, 8 GiB");
    buddies!(&mut orders, churned, 8 * GIB, 11, 4 * GIB);
    orders.finish();
    for gib in [1, 8] {
        let mut row = row(c, &format!("free random and allocate, order 0 at 50 %, {gib} GiB"));
        alone!(&mut row, churned, gib * GIB, 1, gib * GIB / 2);
        // What the harness itself takes: the dice and a random place of a list of blocks.
        let (mut dice, mut live) = (Dice::new(13), vec![0_u128; (gib * GIB / 2) as usize]);
        row.bench_function("no allocator", |b| {
            b.iter(|| {
                let at = dice.roll(live.len() as u64) as usize;
                let block = live.swap_remove(at);
                live.push(black_box(block));
            });
        });
    }
}

/// The metadata is address space too: what is not used of it is never touched.
fn terabyte(c: &mut Criterion) {
    let mut pairs = row(c, "order 0, pair, 1 TiB");
    pair::<Heirloom>(&mut pairs, 1024 * GIB, Order::ZERO, 0);
    pair::<FrameAlloc>(&mut pairs, 1024 * GIB, Order::ZERO, 0);
    pair::<FrameDepot>(&mut pairs, 1024 * GIB, Order::ZERO, 0);
    pair::<BuddySystem<Alone<_>>>(&mut pairs, 1024 * GIB, Order::ZERO, 0);
    pairs.finish();
    let mut orders = row(c, "churn of orders 0 to 10, 128 GiB live, 1 TiB");
    churned::<Heirloom>(&mut orders, 1024 * GIB, 11, 128 * GIB);
    churned::<FrameAlloc>(&mut orders, 1024 * GIB, 11, 128 * GIB);
    churned::<FrameDepot>(&mut orders, 1024 * GIB, 11, 128 * GIB);
    churned::<BuddySystem<Alone<_>>>(&mut orders, 1024 * GIB, 11, 128 * GIB);
}

/// What each of two threads takes of a gibibyte; some is left, so that neither is refused.
const HALF: u64 = GIB / 2 - 1024;

fn pair_twice<F: Frames>(row: &mut Row<'_>) {
    let memory = F::new(GIB);
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            twice(|_| {
                for _ in 0..n {
                    once(&memory, Order::ZERO);
                }
            })
        });
    });
}

/// A list for each thread, whose room is there before the clock starts.
fn lists<F: Frames>() -> [Mutex<Vec<F::Block>>; 2] {
    [(); 2].map(|()| Mutex::new(Vec::with_capacity(HALF as usize)))
}

fn allocate_twice<F: Frames>(row: &mut Row<'_>) {
    let (memory, lists) = (F::new(GIB), lists::<F>());
    let take = |i: usize| {
        let mut mine = lists[i].lock().expect("no panic");
        take_all(&memory, Order::ZERO, HALF, &mut mine);
    };
    let round = || {
        let took = twice(take);
        for list in &lists {
            free_all(&memory, &list.lock().expect("no panic"));
        }
        memory.drain();
        (took, HALF)
    };
    // The lists' own pages are touched once before.
    round();
    row.bench_function(F::NAME, |b| b.iter_custom(|n| per_operation(n, round)));
}

fn free_foreign<F: Frames>(row: &mut Row<'_>) {
    let (memory, lists) = (F::new(GIB), lists::<F>());
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                twice(|i| {
                    let mut mine = lists[i].lock().expect("no panic");
                    take_all(&memory, Order::ZERO, HALF, &mut mine);
                });
                let took = twice(|i| free_all(&memory, &lists[1 - i].lock().expect("no panic")));
                memory.drain();
                (took, HALF)
            })
        });
    });
}

fn two_threads(c: &mut Criterion) {
    let mut pairs = row(c, "2T: order 0, pair");
    shared!(&mut pairs, pair_twice);
    pairs.finish();
    let mut all = row(c, "2T: order 0, allocate all");
    shared!(&mut all, allocate_twice);
    all.finish();
    let mut foreign = row(c, "2T: order 0, free what the other allocated");
    shared!(&mut foreign, free_foreign);
}

criterion_group!(benches, one_thread, churn, terabyte, two_threads);
criterion_main!(benches);
