//! What the benches share: physical memory that is never touched, a fixed dice, and timing by the
//! operation.
//!
//! A row is a criterion group, and a peer is a function in it, so that all of a row is measured in
//! one run on the same work. Every row has a function `rmw`, one uncontended atomic
//! read-modify-write: compare the others with it, not with another machine's figures.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

pub mod frames_of;
pub mod kernels;
pub mod objects_of;
pub mod sets_of;
pub mod trace;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use heirloom_folio::threads::Host;
use heirloom_folio::{Linear, Memory, NodeId};
use heirloom_kho::{Block, Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// A process's threads as CPUs over one linear map.
pub type World = Memory<Host<Linear>>;

/// Frames in a gibibyte.
pub const GIB: u64 = (1 << 30) / PAGE_SIZE as u64;

/// Address space that is backed as it is touched. It stays until the process ends.
///
/// # Panics
/// If there is not as much address space.
pub fn reserve(bytes: usize) -> NonNull<u8> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh mapping wherever there is room replaces nothing.
    let mapped = unsafe {
        mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
    };
    let mapped = mapped.expect("address space");
    // A kernel's direct map is of huge pages. Where there are none, figures are of small ones.
    // SAFETY: advice about the mapping of just now.
    let _advice = unsafe { madvise(mapped, bytes, Advice::LinuxHugepage) };
    NonNull::new(mapped.cast()).expect("not at zero")
}

fn space(bytes: usize) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(reserve(bytes), bytes)
}

/// The first frame of every world.
pub fn base() -> Pfn {
    PhysAddr::new(4 << 30).pfn()
}

/// A memory of `frames` free frames on one node, none of which was ever touched.
///
/// # Panics
/// If there is not as much address space.
pub fn world(frames: u64) -> World {
    let run = Run::new(base(), frames).expect("below the last frame");
    let bytes = usize::try_from(run.bytes()).expect("fits the address space");
    // SAFETY: mapped for good, and nothing else knows of it.
    let host = Host::new(unsafe { Linear::new(reserve(bytes), run.addr(), bytes) });
    let cpus = heirloom_folio::Cpus::count(&host);
    // SAFETY: the spaces are mapped for good and nobody else's; the map covers the run.
    unsafe {
        let memory = World::new(host, space(World::cpu_bytes(cpus))).expect("enough space");
        memory.add_range(run, NodeId(0), space(World::range_bytes(run))).expect("fresh frames");
        memory
    }
}

/// The block of `order` at `frame` from the base.
///
/// # Panics
/// If `frame` is no multiple of the order's.
pub fn block(frame: u64, order: Order) -> Block {
    Block::new(base().add(frame), order).expect("aligned")
}

/// The order `o`.
///
/// # Panics
/// If there is no such order.
pub fn order(o: u8) -> Order {
    Order::new(o).expect("an order")
}

/// Frees a folio of the bench's own.
///
/// # Panics
/// If it is not.
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
pub fn free(memory: &World, block: Block) {
    // SAFETY: the benches allocated the block and forget it here.
    unsafe { memory.free(block) }.expect("ours to free");
}

/// A small generator (xorshift64*), the same numbers every time.
pub struct Dice(u64);

impl Dice {
    /// From a seed, which must not be 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    #[inline]
    pub const fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (high * sides) >> 32
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.roll(i as u64 + 1) as usize);
        }
    }
}

/// One row. Its functions take about half a second each.
pub fn row<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut row = c.benchmark_group(name);
    row.warm_up_time(Duration::from_millis(100));
    row.measurement_time(Duration::from_millis(400));
    row.sample_size(10);
    row.sampling_mode(SamplingMode::Flat);
    rmw(&mut row);
    row
}

/// What the others in the row are compared with.
fn rmw(row: &mut BenchmarkGroup<'_, WallTime>) {
    let word = AtomicU64::new(0);
    row.bench_function("rmw", |b| {
        let mut bit = 1_u64;
        b.iter(|| {
            bit = bit.rotate_left(1);
            black_box(&word).fetch_or(bit, Relaxed)
        });
    });
}

/// The time of one operation, where a round is many: `round` does them all, and says how long
/// that took and how many they were, without what it took to get there.
///
/// # Panics
/// If a round did nothing.
pub fn per_operation(iterations: u64, mut round: impl FnMut() -> (Duration, u64)) -> Duration {
    let (mut time, mut done) = (Duration::ZERO, 0);
    while done < iterations {
        let (took, operations) = round();
        assert_ne!(operations, 0, "an allocator that refused everything");
        time += took;
        done += operations;
    }
    let share = time.as_nanos() * u128::from(iterations) / u128::from(done);
    Duration::from_nanos(share as u64)
}

/// The same where setting a round up takes so long that one must do for any number of operations:
/// much longer than the operations, or the number that is asked for grows beyond all measure.
pub fn once_for_all(iterations: u64, round: impl FnOnce() -> (Duration, u64)) -> Duration {
    let (took, operations) = round();
    let share = took.as_nanos() * u128::from(iterations) / u128::from(operations.max(1));
    Duration::from_nanos(share as u64)
}

/// How long `work` takes.
pub fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Runs `work` on two threads at the same time; the time until both are done.
///
/// # Panics
/// If one of the threads does.
pub fn twice(work: impl Fn(usize) + Sync) -> Duration {
    let start = Barrier::new(2);
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
        threads.map(|t| t.join().expect("no panic")).into_iter().max().unwrap_or_default()
    })
}
