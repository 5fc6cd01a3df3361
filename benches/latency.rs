//! How long single calls take: the median, the 99.9th of a hundred and the worst, under churn.
//!
//! A churn as the rows of `frames` and `slab` have it, with fixed dice, on one thread. Each allocator runs in processes of
//! its own, which this program starts, several times over the same calls. Of a call the shortest time counts: what
//! an interrupt or another process added to one of them is in none of the others, and what the allocator had to do is in all.
//! A line of the output is `latency`, the row, the allocator, and three figures in nanoseconds, with tabs between.

use std::alloc::Layout;
use std::env;
use std::io::{self, Write as _};
use std::process::Command;
use std::ptr::NonNull;
use std::time::Instant;

use heirloom_benches::frames_of::{Alone, BuddySystem, Churn, FrameAlloc, Frames, Heirloom};
use heirloom_benches::objects_of::{Objects, SYSTEM, slabs, talc};
use heirloom_benches::{Dice, GIB, order};
use heirloom_kho::Order;

/// Calls that are timed in a run.
const CALLS: usize = 1 << 20;
/// Runs of the same calls.
const RUNS: usize = 5;
/// Orders 0 to 10, each as often.
const ORDERS: u64 = 11;
/// How full memory is kept, in percent.
const FULL: [u64; 3] = [50, 90, 99];
/// Objects that are live.
const LIVE: usize = 10_000;

/// Returns a clock's ticks, once all before it is done and before anything after it begins.
#[cfg(target_arch = "x86_64")]
#[inline]
fn ticks() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: both are there on every x86-64, and touch no memory.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// Returns a clock's ticks.
#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    use std::sync::LazyLock;
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_nanos() as u64
}

/// What each call took, in ticks.
struct Times {
    taken: spin::Mutex<Vec<u64>>,
}

impl Times {
    fn new() -> Self {
        Self { taken: spin::Mutex::new(Vec::with_capacity(2 * CALLS)) }
    }

    /// Times one call.
    #[expect(clippy::inline_always, reason = "nothing but the call that is measured")]
    #[inline(always)]
    fn time<R>(&self, call: impl FnOnce() -> R) -> R {
        let before = ticks();
        let result = call();
        let took = ticks() - before;
        self.taken.lock().push(took);
        result
    }

    fn len(&self) -> usize {
        self.taken.lock().len()
    }
}

/// A page allocator of which each call is timed.
struct Timed<F> {
    inner: F,
    times: Times,
}

impl<F: Frames> Frames for Timed<F> {
    const NAME: &'static str = F::NAME;
    type Block = F::Block;

    /// Each frame has been handed out before: no call is the first that touches its metadata, which would take a
    /// fault of the page.
    fn new(frames: u64) -> Self {
        let inner = F::new(frames);
        let all: Vec<_> = std::iter::from_fn(|| inner.take(order(0))).collect();
        for block in all {
            inner.give(block);
        }
        inner.drain();
        Self { inner, times: Times::new() }
    }

    fn take(&self, order: Order) -> Option<F::Block> {
        self.times.time(|| self.inner.take(order))
    }

    fn give(&self, block: F::Block) {
        self.times.time(|| self.inner.give(block));
    }

    fn order(block: F::Block) -> Order {
        F::order(block)
    }
}

/// Times the calls of a churn of frames, once what is free is scattered.
fn frames<F: Frames>(percent: u64, calls: usize) -> Vec<u64> {
    let mut churn = Churn::<Timed<F>>::new(GIB, ORDERS, GIB * percent / 100);
    (0..8 * churn.live.len()).for_each(|_| churn.step());
    churn.memory.times.taken.lock().clear();
    while churn.memory.times.len() < calls {
        churn.step();
    }
    churn.memory.times.taken.into_inner()
}

/// Times the calls that replace one object after another, of 64 bytes to 4 KiB, picked at random.
fn objects(peer: &impl Objects, calls: usize) -> Vec<u64> {
    let (mut dice, times) = (Dice::new(13), Times::new());
    let mut layout = || {
        let bytes = 64 + dice.roll(4033) as usize;
        (dice.roll(LIVE as u64) as usize, Layout::from_size_align(bytes, 8).expect("a size"))
    };
    let mut live: Vec<(NonNull<u8>, Layout)> = Vec::new();
    for _ in 0..LIVE {
        let (_, layout) = layout();
        live.push((peer.alloc(layout), layout));
    }
    // Before anything is timed each has been replaced a few times.
    let mut left = 4 * LIVE;
    while times.len() < calls {
        let (at, new) = layout();
        let (old, was) = live[at];
        // SAFETY: allocated with this layout, and replaced below.
        let free = || unsafe { peer.free(old, was) };
        let object = if left > 0 {
            left -= 1;
            free();
            peer.alloc(new)
        } else {
            times.time(free);
            times.time(|| peer.alloc(new))
        };
        // SAFETY: allocated just now, of as many bytes; its first page is there from here on.
        unsafe { object.write(1) };
        live[at] = (object, new);
    }
    times.taken.into_inner()
}

/// Returns the ticks of each call of an allocator in `row`.
fn timed(row: &str, allocator: &str, calls: usize) -> Vec<u64> {
    let percent = FULL.into_iter().find(|percent| *row == of_frames(*percent));
    match (percent, allocator) {
        (Some(percent), "frame-alloc") => frames::<FrameAlloc>(percent, calls),
        (Some(percent), "buddy_system_allocator") => {
            frames::<BuddySystem<Alone<_>>>(percent, calls)
        }
        (Some(percent), _) => frames::<Heirloom>(percent, calls),
        (None, "heirloom") => objects(&slabs(2), calls),
        #[cfg(feature = "native-peers")]
        (None, "mimalloc") => {
            objects(&heirloom_benches::objects_of::Malloc(mimalloc::MiMalloc), calls)
        }
        #[cfg(feature = "native-peers")]
        (None, "snmalloc") => {
            objects(&heirloom_benches::objects_of::Malloc(snmalloc_rs::SnMalloc), calls)
        }
        #[cfg(feature = "native-peers")]
        (None, "jemalloc") => {
            objects(&heirloom_benches::objects_of::Malloc(tikv_jemallocator::Jemalloc), calls)
        }
        (None, "talc") => objects(&talc(), calls),
        (None, _) => objects(&SYSTEM, calls),
    }
}

fn of_frames(percent: u64) -> String {
    format!("churn of orders 0 to 10 at {percent} %, 1 GiB")
}

/// A run: the times of its calls in nanoseconds, written as single floats.
#[expect(clippy::cast_precision_loss, reason = "far below what a mantissa holds")]
fn run(row: &str, allocator: &str, calls: usize) -> io::Result<()> {
    let (began, first) = (Instant::now(), ticks());
    let times = timed(row, allocator, calls);
    let nanoseconds = began.elapsed().as_nanos() as f64 / (ticks() - first) as f64;
    // What the clock itself takes.
    let empty = (0..10_000).map(|_| {
        let before = ticks();
        ticks() - before
    });
    let empty = empty.min().unwrap_or(0);
    let mut bytes = Vec::with_capacity(4 * calls);
    for time in times.iter().take(calls) {
        let time = time.saturating_sub(empty) as f64 * nanoseconds;
        bytes.extend_from_slice(&(time as f32).to_le_bytes());
    }
    io::stdout().write_all(&bytes)
}

/// Runs the calls of an allocator in processes of their own, and prints the median, the 99.9th of a hundred and the longest.
fn measure(row: &str, allocator: &str, calls: usize, runs: usize) {
    let mut least: Vec<f32> = Vec::new();
    for _ in 0..runs {
        let program = env::current_exe().expect("this program");
        let calls = calls.to_string();
        let output = Command::new(program).args(["measure", row, allocator, &calls]).output();
        let output = output.expect("this program runs");
        assert!(output.status.success(), "{allocator}, {row}: {output:?}");
        let times = output.stdout.chunks_exact(4).map(|bytes| {
            let bytes = bytes.try_into().expect("four bytes");
            f32::from_le_bytes(bytes)
        });
        if least.is_empty() {
            least = times.collect();
        } else {
            least.iter_mut().zip(times).for_each(|(least, time)| *least = least.min(time));
        }
    }
    least.sort_by(f32::total_cmp);
    let at = |per_mille: usize| least[(least.len() - 1) * per_mille / 1000];
    println!("latency\t{row}\t{allocator}\t{:.1}\t{:.1}\t{:.1}", at(500), at(999), at(1000));
}

fn main() -> io::Result<()> {
    let asked: Vec<String> = env::args().skip_while(|word| word != "measure").skip(1).collect();
    if let [row, allocator, calls] = &asked[..] {
        return run(row, allocator, calls.parse().expect("a number"));
    }
    // Tried once, so that it does not rot.
    let (calls, runs) =
        if env::args().any(|word| word == "--test") { (1 << 12, 2) } else { (CALLS, RUNS) };
    for percent in FULL {
        for allocator in ["heirloom", "frame-alloc", "buddy_system_allocator"] {
            measure(&of_frames(percent), allocator, calls, runs);
        }
    }
    let mut allocators = vec!["heirloom"];
    if cfg!(feature = "native-peers") {
        allocators.extend(["mimalloc", "snmalloc", "jemalloc"]);
    }
    allocators.extend(["glibc", "talc"]);
    for allocator in allocators {
        measure("churn of 64 B to 4 KiB, 10000 live", allocator, calls, runs);
    }
    Ok(())
}
