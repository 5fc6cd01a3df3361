//! The rows that are counted, on one thread, after their caches have filled.

use std::alloc::Layout;
use std::mem::forget;

use heirloom::kho::{Handle, PAGE_SIZE, Parts};
use heirloom_benches::frames_of::{Frames, Heirloom};
use heirloom_benches::kernels::{Lie, boot, machine, preserve, revive};
use heirloom_benches::objects_of::{Machine, Malloc, Objects, slabs};
use heirloom_benches::{Dice, GIB, base, block, order, trace, world};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Run};
use heirloom_slab::{AllocOptions, CacheSpec, Slabs};

use super::pass::count;

fn row(name: &str, operations: u64, work: impl FnOnce()) {
    let before = count();
    work();
    let counted = count() - before;
    let (whole, tenths) = (counted * 1000 / operations, counted * 10_000 / operations % 10);
    println!("count\t{name}\t{whole}.{tenths}");
}

pub(crate) fn all() {
    frames();
    objects();
    tracker();
    claims();
}

fn frames() {
    const ROUNDS: u64 = 100_000;
    let memory = Heirloom::new(GIB);
    let pairs = |o: Order| {
        for _ in 0..ROUNDS {
            memory.give(memory.take(o).expect("memory is free"));
        }
    };
    pairs(Order::ZERO);
    row("order 0, pair at 0 %", 2 * ROUNDS, || pairs(Order::ZERO));
    pairs(order(9));
    row("order 9, pair", 2 * ROUNDS, || pairs(order(9)));
    let mut dice = Dice::new(7);
    for (o, shuffled) in [(0, false), (0, true), (9, false)] {
        let (o, name) = (order(o), format!("order {o}"));
        let mut blocks = Vec::new();
        let all = GIB >> o.get();
        let take = |blocks: &mut Vec<_>| blocks.extend((0..all).map_while(|_| memory.take(o)));
        if shuffled {
            take(&mut blocks);
            dice.shuffle(&mut blocks);
        } else {
            row(&format!("{name}, allocate all"), all, || take(&mut blocks));
        }
        let how = if shuffled { "in random order" } else { "in order" };
        row(&format!("{name}, free all {how}"), all, || {
            for block in &blocks {
                memory.give(*block);
            }
        });
        memory.drain();
    }
    let mut blocks: Vec<_> = (0..GIB).map_while(|_| memory.take(Order::ZERO)).collect();
    dice.shuffle(&mut blocks);
    let half = blocks.split_off(blocks.len() / 2);
    for block in &half {
        memory.give(*block);
    }
    pairs(Order::ZERO);
    row("order 0, pair at 50 %", 2 * ROUNDS, || pairs(Order::ZERO));
    let mut churn = |orders: u64, live: &mut Vec<Block>, name: Option<&str>| {
        let mut step = || {
            for _ in 0..ROUNDS {
                let at = dice.roll(live.len() as u64) as usize;
                memory.give(live.swap_remove(at));
                let o = order(dice.roll(orders) as u8);
                live.extend(memory.take(o).or_else(|| memory.take(Order::ZERO)));
            }
        };
        match name {
            Some(name) => row(name, 2 * ROUNDS, step),
            None => step(),
        }
    };
    churn(1, &mut blocks, None);
    churn(1, &mut blocks, Some("free random and allocate, order 0 at 50 %, 1 GiB"));
    for block in blocks.drain(..) {
        memory.give(block);
    }
    memory.drain();
    let mut live: Vec<_> =
        (0..GIB / 372).filter_map(|i| memory.take(order(i as u8 % 11))).collect();
    churn(11, &mut live, None);
    churn(11, &mut live, Some("churn of orders 0 to 10 at 50 %, 1 GiB"));
}

fn pairs(peer: &impl Objects, layout: Layout, batch: usize) -> u64 {
    const ROUNDS: usize = 4096;
    let mut objects = Vec::with_capacity(batch);
    for _ in 0..ROUNDS {
        objects.extend((0..batch).map(|_| peer.alloc(layout)));
        for object in objects.drain(..) {
            // SAFETY: allocated above with the layout, freed once.
            unsafe { peer.free(object, layout) };
        }
    }
    (2 * ROUNDS * batch) as u64
}

fn objects() {
    let slabs = slabs(2);
    for preserving in [false, true] {
        let kind = if preserving { ", preserving" } else { "" };
        for (size, sized) in [(64, "64 B"), (1024, "1 KiB")] {
            let layout = Layout::from_size_align(size, 8).expect("a power of two");
            let name = format!("{sized}{kind}");
            let cache = slabs.cache(CacheSpec::new(&name, size).preserving(preserving));
            let cache = cache.expect("a new cache");
            for (batch, how) in [(1, "pair"), (64, "64 allocs then 64 frees")] {
                let done = pairs(&cache, layout, batch);
                row(&format!("{name}, {how}"), done, || {
                    pairs(&cache, layout, batch);
                });
            }
            if size == 64 {
                let mut objects = Vec::new();
                let bulk = 1 << 18;
                row(&format!("{name}, bulk: alloc"), bulk, || {
                    objects.extend((0..bulk).map(|_| Objects::alloc(&cache, layout)));
                });
                Dice::new(5).shuffle(&mut objects);
                row(&format!("{name}, bulk: free in random order"), bulk, || {
                    for object in &objects {
                        // SAFETY: allocated above with the layout, freed once.
                        unsafe { Objects::free(&cache, *object, layout) };
                    }
                });
            }
        }
    }
    let preserving = slabs.heap(true);
    for (size, name) in
        [(4096, "4 KiB"), (16_384, "16 KiB"), (65_536, "64 KiB"), (20_480, "20 KiB")]
    {
        let layout = Layout::from_size_align(size, 8).expect("a power of two");
        let done = pairs(&slabs, layout, 1);
        row(&format!("{name}, pair"), done, || {
            pairs(&slabs, layout, 1);
        });
        pairs(&Malloc(preserving), layout, 1);
        row(&format!("{name}, preserving, pair"), done, || {
            pairs(&Malloc(preserving), layout, 1);
        });
    }
    singles(&slabs);
    let trace = trace::objects();
    let mut slots = vec![None; trace.slots];
    row("a kernel's trace, objects", trace.events.len() as u64, || {
        for event in &trace.events {
            match *event {
                trace::Event::Alloc(slot, size) => {
                    let layout = Layout::from_size_align(size.max(1), 8).expect("a size");
                    slots[slot] = Some((Objects::alloc(&slabs, layout), layout));
                }
                trace::Event::Free(slot) => {
                    let (object, layout) = slots[slot].take().expect("allocated before");
                    // SAFETY: allocated with the layout, freed once.
                    unsafe { Objects::free(&slabs, object, layout) };
                }
            }
        }
    });
}

/// One object, and one large buffer, preserved and let go.
fn singles(slabs: &Slabs<Machine>) {
    const ROUNDS: u64 = 4096;
    let cache = slabs.cache(CacheSpec::new("single", 64)).expect("a new cache");
    let [object, other] = [(); 2].map(|()| cache.alloc().expect("memory is free"));
    let pairs = |ptr| {
        for _ in 0..ROUNDS {
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { slabs.preserve(ptr) }.expect("in use");
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { slabs.unpreserve(ptr) }.expect("preserved");
        }
    };
    pairs(object);
    row("an object, preserve and unpreserve, a pair", ROUNDS, || pairs(object));
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { slabs.preserve(other) }.expect("in use");
    row("an object beside a preserved one, a pair", ROUNDS, || pairs(object));
    for (bytes, name) in [(4096, "4 KiB"), (20_480, "20 KiB")] {
        let layout = Layout::from_size_align(bytes, 8).expect("a power of two");
        let buffer = slabs.alloc(layout, AllocOptions::default()).expect("memory is free");
        pairs(buffer);
        row(&format!("{name}, preserve and unpreserve, a pair"), ROUNDS, || pairs(buffer));
    }
}

fn tracker() {
    let memory = world(64 * GIB);
    let blocks: Vec<Block> = (0..GIB).map(|i| block(i, Order::ZERO)).collect();
    for block in &blocks {
        memory.alloc_at(*block).expect("free");
    }
    row("contiguous: preserve", GIB, || {
        for block in &blocks {
            // SAFETY: allocated above, and nothing else uses it.
            unsafe { memory.preserve(*block) }.expect("allocated");
        }
    });
    row("contiguous: unpreserve", GIB, || {
        for block in &blocks {
            // SAFETY: as above.
            unsafe { memory.unpreserve(*block) }.expect("preserved");
        }
    });
    row("64 adjacent folios, a folio", GIB, || {
        for first in blocks.iter().step_by(64) {
            let row = FolioRange::new(*first, 64).expect("aligned");
            // SAFETY: as above.
            unsafe { memory.preserve(row) }.expect("allocated");
        }
    });
    let run = Run::new(base().add(16 * GIB), 16 * GIB).expect("in memory");
    memory.alloc_at(run).expect("free");
    row("a run of 16 GiB, aligned", 1, || {
        // SAFETY: allocated just now, and nothing else uses it.
        unsafe { memory.preserve(run) }.expect("allocated");
    });
}

/// What a successor claims of what it took over.
#[expect(clippy::drop_non_drop, reason = "it says where a kernel ends and its successor starts")]
fn claims() {
    const COUNT: u64 = 10_000;
    let (map, ram) = machine(16);
    let specs = [("preserving", true), ("plain", false)]
        .map(|(name, preserving)| CacheSpec::new(name, 64).preserving(preserving));
    let old = boot(&ram, &map);
    let folio = |block| Handle::new(Parts::Folio(block)).expect("a folio");
    let folios = preserve(&old, &map, Lie::Scattered, COUNT).into_iter().map(folio);
    let folios: Vec<_> = folios.collect();
    let handles = [true, false].map(|preserving| {
        let spec = specs[usize::from(!preserving)];
        let cache = old.slabs().cache(spec).expect("a new cache");
        let object = |_| {
            let object = cache.alloc().expect("memory is free");
            if preserving {
                return old.handle_of(object).expect("a live object");
            }
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { old.preserve(object) }.expect("memory for the slab's entry")
        };
        (0..COUNT).map(object).collect::<Vec<_>>()
    });
    let buffer = |_| {
        let buffer = old.alloc(5 * PAGE_SIZE).expect("memory is free");
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { old.preserve(buffer) }.expect("memory for nodes")
    };
    let large: Vec<_> = (0..COUNT / 10).map(buffer).collect();
    let entry = old.entry();
    drop(old);
    let new = revive(&ram, &map, entry);
    let (one, all) = folios.split_at(folios.len() / 2);
    row("claim a folio", one.len() as u64, || {
        for handle in one {
            new.claim_folio(*handle).expect("once");
        }
    });
    row("claim a folio, many at once", all.len() as u64, || {
        new.claim_folios(all, forget).expect("once");
    });
    row("claim a large buffer", large.len() as u64, || {
        for handle in &large {
            new.restore(*handle).expect("once");
        }
    });
    for (spec, handles, name) in [
        (specs[0], &handles[0], "claim an object by handle"),
        (specs[1], &handles[1], "claim an object by handle, plain cache"),
    ] {
        new.slabs().adopt(spec).expect("sound");
        row(name, handles.len() as u64, || {
            for handle in handles {
                new.restore(*handle).expect("once");
            }
        });
    }
}
