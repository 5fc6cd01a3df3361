//! The page allocator over simulated memory whose frames are never touched.

use std::hint::black_box;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use heirloom_benches::{Dice, GIB, World, free, group, order, per_operation, rmw, time, world};
use heirloom_folio::{Block, Order, Request};

#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
fn take(memory: &World, order: Order) -> Option<Block> {
    memory.alloc(Request::new(order)).ok()
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
fn pair(memory: &World, order: Order) {
    let block = take(memory, order).expect("memory is free");
    black_box(block.pfn());
    free(memory, block);
}

/// Takes all of a gibibyte, and does not ask for more: what a refusal costs is another matter.
fn take_all(memory: &World, order: Order, into: &mut Vec<Block>) {
    into.clear();
    into.extend((0..GIB >> order.get()).map_while(|_| take(memory, order)));
}

fn free_all(memory: &World, blocks: &[Block]) {
    for block in blocks {
        free(memory, *block);
    }
}

/// All frames taken, and a random half of them free again.
fn half_full(memory: &World, dice: &mut Dice) -> Vec<Block> {
    let mut blocks = Vec::new();
    take_all(memory, Order::ZERO, &mut blocks);
    dice.shuffle(&mut blocks);
    let half = blocks.len() / 2;
    free_all(memory, &blocks[half..]);
    blocks.truncate(half);
    blocks
}

fn one_thread(c: &mut Criterion) {
    let mut g = group(c, "frames");
    rmw(&mut g);

    let memory = world(GIB);
    g.bench_function("order 0/pair", |b| b.iter(|| pair(&memory, Order::ZERO)));
    g.bench_function("order 9/pair", |b| b.iter(|| pair(&memory, order(9))));

    for o in [0, 9] {
        let o = order(o);
        let mut blocks = Vec::with_capacity(GIB as usize);
        let mut dice = Dice::new(7);
        memory.drain();
        g.bench_function(format!("order {}/allocate all", o.get()), |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (took, ()) = time(|| take_all(&memory, o, &mut blocks));
                    free_all(&memory, &blocks);
                    memory.drain();
                    (took, blocks.len() as u64)
                })
            });
        });
        for random in [false, true] {
            let how = if random { "in random order" } else { "in order" };
            g.bench_function(format!("order {}/free all {how}", o.get()), |b| {
                b.iter_custom(|n| {
                    per_operation(n, || {
                        take_all(&memory, o, &mut blocks);
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
    }

    let mut dice = Dice::new(11);
    let kept = half_full(&memory, &mut dice);
    g.bench_function("order 0/pair at 50 %", |b| b.iter(|| pair(&memory, Order::ZERO)));
    free_all(&memory, &kept);
    g.finish();
}

/// Frees a random block and takes one of a random order, memory being half full.
struct Churn {
    memory: World,
    live: Vec<Block>,
    used: u64,
    dice: Dice,
    limit: u64,
    orders: u64,
}

impl Churn {
    fn new(frames: u64, orders: u64) -> Self {
        let (memory, dice) = (world(frames), Dice::new(13));
        let mut churn = Self { memory, live: Vec::new(), used: 0, dice, limit: frames / 2, orders };
        while churn.used < churn.limit {
            churn.take();
        }
        // What is free is scattered as after a long time.
        for _ in 0..2 * churn.live.len() {
            churn.step();
        }
        churn
    }

    fn take(&mut self) {
        let order = order(self.dice.roll(self.orders) as u8);
        if let Some(block) = take(&self.memory, order) {
            self.used += order.frames();
            self.live.push(block);
        }
    }

    fn give(&mut self) {
        let at = self.dice.roll(self.live.len() as u64) as usize;
        let block = self.live.swap_remove(at);
        self.used -= block.order().frames();
        free(&self.memory, block);
    }

    /// One operation: whichever keeps memory half full.
    fn step(&mut self) {
        if self.used < self.limit { self.take() } else { self.give() }
    }
}

fn churn(c: &mut Criterion) {
    let mut g = group(c, "churn");
    rmw(&mut g);
    for gib in [1, 8] {
        let mut churn = Churn::new(gib * GIB, 11);
        g.bench_function(format!("orders 0..10, {gib} GiB"), |b| b.iter(|| churn.step()));
        let mut churn = Churn::new(gib * GIB, 1);
        g.bench_function(format!("order 0 random, {gib} GiB"), |b| b.iter(|| churn.step()));
    }
    // What the harness itself takes: the dice and a random place of a list of blocks.
    let mut dice = Dice::new(13);
    let mut live = vec![0_u128; 1 << 20];
    g.bench_function("order 0 random, 8 GiB, without the allocator", |b| {
        b.iter(|| {
            let at = dice.roll(live.len() as u64) as usize;
            let block = live.swap_remove(at);
            live.push(black_box(block));
        });
    });
    g.finish();
}

/// Runs `work` on two threads at the same time; the time until both are done.
fn twice(work: impl Fn(usize) + Sync) -> Duration {
    let start = Barrier::new(3);
    thread::scope(|s| {
        let threads = [0, 1].map(|i| {
            let (start, work) = (&start, &work);
            s.spawn(move || {
                start.wait();
                let begun = Instant::now();
                work(i);
                begun.elapsed()
            })
        });
        start.wait();
        threads.map(|t| t.join().expect("no panic")).into_iter().max().unwrap_or_default()
    })
}

fn two_threads(c: &mut Criterion) {
    let mut g = group(c, "frames, two threads");
    rmw(&mut g);
    let memory = world(GIB);
    g.bench_function("order 0/pair", |b| {
        b.iter_custom(|n| {
            twice(|_| {
                for _ in 0..n {
                    pair(&memory, Order::ZERO);
                }
            })
        });
    });
    // Per operation and thread: each takes half of all.
    let half = GIB / 2 - 128;
    let take_half = |_: usize| {
        let mut mine = Vec::with_capacity(half as usize);
        mine.extend((0..half).map_while(|_| take(&memory, Order::ZERO)));
        mine
    };
    g.bench_function("order 0/allocate all", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (sender, taken) = mpsc::channel();
                let took = twice(|i| sender.send(take_half(i)).expect("a receiver"));
                drop(sender);
                for blocks in &taken {
                    free_all(&memory, &blocks);
                }
                memory.drain();
                (took, half)
            })
        });
    });
    g.bench_function("order 0/free what the other allocated", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let both = [take_half(0), take_half(1)];
                let took = twice(|i| free_all(&memory, &both[i]));
                memory.drain();
                (took, half)
            })
        });
    });
    g.finish();
}

criterion_group!(benches, one_thread, churn, two_threads);
criterion_main!(benches);
