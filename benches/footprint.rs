//! Memory instead of time: what allocators take for what they are asked for.
//!
//! Each allocator is measured in a process of its own, which this program starts. A line of the
//! output is `footprint`, the row, the allocator, a figure and its unit, with tabs between.
//! heirloom's figure is the frames it took from the page allocator; the others' is how much the
//! process grew, all objects being written to.

use std::alloc::Layout;
use std::hint::black_box;
use std::process::Command;
use std::{env, fs};

use buddy_slab_allocator::BuddyAllocator;
use heirloom_benches::frames_of::{FrameAlloc, Frames};
use heirloom_benches::objects_of::{Objects, SYSTEM, slabs, talc};
use heirloom_benches::trace::{self, Event};
use heirloom_benches::{GIB, World, base, order};
use heirloom_folio::Cpus;
use heirloom_folio::threads::ThreadSlots;
use heirloom_kho::{PAGE_SIZE, Run};
use heirloom_slab::CacheSpec;

fn say(row: &str, who: &str, figure: f64, unit: &str) {
    println!("footprint\t{row}\t{who}\t{figure:.4}\t{unit}");
}

fn ratio(a: usize, b: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below what a mantissa holds")]
    let quotient = a as f64 / b as f64;
    quotient
}

/// Bytes of the process that are in memory.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux's proc");
    let pages = statm.split(' ').nth(1).and_then(|word| word.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

fn write(object: std::ptr::NonNull<u8>, bytes: usize) {
    // SAFETY: allocated just now with as many bytes, and nobody else's.
    unsafe { object.write_bytes(0xA5, bytes) };
    // Else a compiler that knows what `malloc` is may do without.
    black_box(object);
}

/// 64 MiB of 64-byte objects.
fn overhead(who: &str, peer: &impl Objects, taken: impl Fn() -> usize) {
    const COUNT: usize = 1 << 20;
    let layout = Layout::from_size_align(64, 8).expect("a power of two");
    let before = taken();
    for _ in 0..COUNT {
        write(peer.alloc(layout), 64);
    }
    let (live, taken) = (COUNT * 64, taken() - before);
    say("64 B objects, 64 MiB live: overhead", who, 100.0 * (ratio(taken, live) - 1.0), "%");
}

/// The most that the trace of a kernel's objects took, against the most that was live.
fn traced(who: &str, peer: &impl Objects, taken: impl Fn() -> usize) {
    let trace = trace::objects();
    let mut slots = vec![None; trace.slots];
    // Touched now, so that it is not counted as the allocator's.
    slots.fill(Some((std::ptr::NonNull::<u8>::dangling(), Layout::new::<u8>())));
    slots.fill(None);
    let before = taken();
    let (mut live, mut most_live, mut most_taken) = (0, 0, 0);
    for (i, event) in trace.events.iter().enumerate() {
        match *event {
            Event::Alloc(slot, size) => {
                let layout = Layout::from_size_align(size.max(1), 8).expect("a size");
                let object = peer.alloc(layout);
                write(object, layout.size());
                slots[slot] = Some((object, layout));
                live += layout.size();
            }
            Event::Free(slot) => {
                let (object, layout) = slots[slot].take().expect("allocated before");
                // SAFETY: allocated with the layout, freed once.
                unsafe { peer.free(object, layout) };
                live -= layout.size();
            }
        }
        most_live = most_live.max(live);
        if i % 1024 == 0 {
            most_taken = most_taken.max(taken() - before);
        }
    }
    say(
        "a kernel's trace, objects: peak memory by peak live bytes",
        who,
        ratio(most_taken, most_live),
        "x",
    );
}

/// Bytes of metadata a frame.
fn metadata() {
    let row = "frames: metadata";
    let frames = (8 * GIB) as usize;
    let run = Run::new(base(), 8 * GIB).expect("below the last frame");
    let told = World::range_bytes(run) + World::cpu_bytes(ThreadSlots::default().count());
    say(row, "heirloom", ratio(told, frames), "bytes a frame");
    say(
        "frames: metadata without the per-frame kind",
        "heirloom",
        ratio(told - frames, frames),
        "bytes a frame",
    );
    let peer = FrameAlloc::new(8 * GIB);
    let mut got = 0;
    for o in (0..=10).rev() {
        while peer.take(order(o)).is_some() {
            got += 1 << o;
        }
    }
    say(row, "frame-alloc", ratio((frames - got) * PAGE_SIZE, frames), "bytes a frame");
    let bytes = <BuddyAllocator>::required_meta_size(frames * PAGE_SIZE);
    say(row, "buddy-slab-allocator", ratio(bytes, frames), "bytes a frame");
    let bytes = size_of::<bitmap_allocator::BitAlloc16M>();
    say(row, "bitmap-allocator", ratio(bytes, 1 << 24), "bytes a frame");
}

fn peer(who: &str, peer: &impl Objects, what: &str) {
    match what {
        "overhead" => overhead(who, peer, resident),
        _ => traced(who, peer, resident),
    }
}

fn measure(who: &str, what: &str) {
    match who {
        "heirloom" => {
            let slabs = slabs(2);
            let used = || usize::try_from(slabs.memory().stats().used()).expect("fits") * PAGE_SIZE;
            if what == "overhead" {
                let cache = slabs.cache(CacheSpec::new("overhead", 64)).expect("a new cache");
                overhead(who, &cache, used);
            } else {
                traced(who, &slabs, used);
            }
        }
        #[cfg(feature = "native-peers")]
        "mimalloc" => peer(who, &heirloom_benches::objects_of::Malloc(mimalloc::MiMalloc), what),
        #[cfg(feature = "native-peers")]
        "snmalloc" => peer(who, &heirloom_benches::objects_of::Malloc(snmalloc_rs::SnMalloc), what),
        #[cfg(feature = "native-peers")]
        "jemalloc" => {
            peer(who, &heirloom_benches::objects_of::Malloc(tikv_jemallocator::Jemalloc), what);
        }
        "talc" => peer(who, &talc(), what),
        _ => peer(who, &SYSTEM, what),
    }
}

fn main() {
    let asked: Vec<String> = env::args().skip_while(|word| word != "measure").skip(1).collect();
    if let [who, what] = &asked[..] {
        return measure(who, what);
    }
    metadata();
    let mut whose = vec!["heirloom"];
    if cfg!(feature = "native-peers") {
        whose.extend(["mimalloc", "snmalloc", "jemalloc"]);
    }
    whose.extend(["glibc", "talc"]);
    for what in ["overhead", "trace"] {
        for who in &whose {
            let program = env::current_exe().expect("this program");
            let ended = Command::new(program).args(["measure", who, what]).status();
            assert!(ended.expect("this program runs").success(), "{who}, {what}");
        }
    }
}
