//! A real kernel's allocations, an event at a time; what lives at the end is freed off the clock.

use std::alloc::Layout;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use heirloom_benches::frames_of::{
    Alone, Bitmap, BuddySlab, BuddySystem, FrameAlloc, FrameDepot, Frames, Heirloom,
};
use heirloom_benches::objects_of::{Objects, SYSTEM, slabs, talc};
use heirloom_benches::trace::{self, Event, Trace};
use heirloom_benches::{GIB, order, per_operation, row, time};

type Row<'c> = BenchmarkGroup<'c, WallTime>;

fn replay<T: Copy>(
    trace: &Trace,
    slots: &mut Vec<Option<T>>,
    alloc: impl Fn(usize) -> T,
    free: impl Fn(T),
) -> (Duration, u64) {
    slots.clear();
    slots.resize(trace.slots, None);
    let (took, ()) = time(|| {
        for event in &trace.events {
            match *event {
                Event::Alloc(slot, what) => slots[slot] = Some(alloc(what)),
                Event::Free(slot) => free(slots[slot].take().expect("allocated before")),
            }
        }
    });
    slots.iter_mut().filter_map(Option::take).for_each(free);
    (took, trace.events.len() as u64)
}

fn folios<F: Frames>(row: &mut Row<'_>, trace: &Trace) {
    let memory = F::new(GIB);
    let mut slots = Vec::new();
    let alloc = |o: usize| memory.take(order(o as u8)).expect("memory is free");
    row.bench_function(F::NAME, |b| {
        b.iter_custom(|n| {
            per_operation(n, || replay(trace, &mut slots, alloc, |block| memory.give(block)))
        });
    });
}

fn objects(row: &mut Row<'_>, name: &str, peer: &impl Objects, trace: &Trace) {
    let mut slots = Vec::new();
    let alloc = |size: usize| {
        let layout = Layout::from_size_align(size.max(1), 8).expect("a size");
        (peer.alloc(layout), layout)
    };
    // SAFETY: a replay frees what it allocated, with its layout, once.
    let free = |(object, layout)| unsafe { peer.free(object, layout) };
    row.bench_function(name, |b| {
        b.iter_custom(|n| per_operation(n, || replay(trace, &mut slots, alloc, free)));
    });
}

fn replays(c: &mut Criterion) {
    let trace = trace::folios();
    let mut frames = row(c, "a kernel's trace, folios");
    folios::<Heirloom>(&mut frames, &trace);
    folios::<FrameAlloc>(&mut frames, &trace);
    folios::<FrameDepot>(&mut frames, &trace);
    folios::<BuddySlab<Alone<_>>>(&mut frames, &trace);
    folios::<BuddySystem<Alone<_>>>(&mut frames, &trace);
    folios::<Bitmap<Alone<_>>>(&mut frames, &trace);
    frames.finish();

    let trace = trace::objects();
    let mut row = row(c, "a kernel's trace, objects");
    objects(&mut row, "heirloom, buffer", &slabs(2), &trace);
    #[cfg(feature = "native-peers")]
    {
        use heirloom_benches::objects_of::Malloc;
        objects(&mut row, "mimalloc", &Malloc(mimalloc::MiMalloc), &trace);
        objects(&mut row, "snmalloc", &Malloc(snmalloc_rs::SnMalloc), &trace);
        objects(&mut row, "jemalloc", &Malloc(tikv_jemallocator::Jemalloc), &trace);
    }
    objects(&mut row, "glibc", &SYSTEM, &trace);
    objects(&mut row, "talc", &talc(), &trace);
}

criterion_group!(benches, replays);
criterion_main!(benches);
