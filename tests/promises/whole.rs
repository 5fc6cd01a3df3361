//! Every operation is all or nothing: each is tried with no frame left, with one, with two, and
//! so on until it succeeds, and where it fails everything is as before.

use std::alloc::Layout;

use heirloom::folio::{DirectMap, Disposition, FrameType, Request};
use heirloom::kho::{AreaInfo, Block, Handle, Order, Parts, PhysAddr, Run};
use heirloom::restore::{Error, PreservedArea, Records};
use heirloom::slab::{AllocOptions, CacheSpec};

use crate::common::{
    Kernel, PAGE, State, World, fill, finish_freeing, free_folio, keep_area, keep_buffer,
    keep_folio, order, out_of_memory, unfill,
};
use crate::owned::Owned as _;

const FRAMES: u64 = 768;
const PRESERVING: CacheSpec = CacheSpec::new("preserving", 600).preserving(true);
const PLAIN: CacheSpec = CacheSpec::new("plain", 600);
type Entry = [u64; 4];

/// What the predecessor left, and what was prepared by this kernel.
#[derive(Default)]
struct Things {
    handles: Vec<Handle>,
    blocks: Vec<Block>,
    runs: Vec<Run>,
    ptrs: Vec<PhysAddr>,
    lists: Vec<PhysAddr>,
}

fn nothing(_: &Kernel<'_>, _: &mut Things) {}

/// Tries `op` with ever more memory. `leave` is what the predecessor does, `prepare` what is done
/// before memory runs out. Returns how often it failed before it succeeded.
fn all_or_nothing(
    what: &str,
    leave: impl Fn(&Kernel<'_>, &mut Things),
    prepare: impl Fn(&Kernel<'_>, &mut Things),
    op: impl Fn(&Kernel<'_>, &Things) -> Result<(), Error>,
) -> usize {
    for frames in 0..200 {
        let world = World::new(FRAMES);
        let mut things = Things::default();
        let old = world.boot();
        leave(&old, &mut things);
        let kernel = world.jump(old);
        prepare(&kernel, &mut things);
        let filler = fill(&kernel, frames);
        let before = State::of(&kernel);
        match op(&kernel, &things) {
            Ok(()) => return frames,
            Err(error) => {
                assert!(out_of_memory(&error), "{what} with {frames} frames: {error}");
                // Bookkeeping may stay for the next attempt (a control block, a page of the cache directory),
                // but nothing else, and not one page more the next time.
                let after = State::of(&kernel);
                let (was, is) = (before.but_tables(&kernel), after.but_tables(&kernel));
                assert!(was == is, "{what}, {frames} left:\n{was:?}\n{is:?}");
                let more = after.tables() - before.tables();
                assert!(more <= 4, "{what}, {frames} left: {more} tables");
                assert!(op(&kernel, &things).is_err());
                let again = State::of(&kernel);
                assert!(again == after, "{what}, {frames} left, again:\n{after:?}\n{again:?}");
                // And with memory it works, as if it had not been tried.
                unfill(&kernel, filler);
                op(&kernel, &things).unwrap_or_else(|e| panic!("{what} after {frames}: {e}"));
            }
        }
    }
    panic!("{what} always fails");
}

fn ptr(kernel: &Kernel<'_>, addr: PhysAddr) -> std::ptr::NonNull<u8> {
    kernel.memory().machine().ptr(addr)
}

fn at(kernel: &Kernel<'_>, ptr: std::ptr::NonNull<u8>) -> PhysAddr {
    kernel.memory().machine().phys(ptr).unwrap()
}

#[test]
fn every_operation_is_all_or_nothing() {
    let alloc_folio = |n: u8| {
        move |kernel: &Kernel<'_>, things: &mut Things| {
            things.blocks.push(kernel.memory().alloc(Request::new(order(n))).unwrap());
        }
    };
    let mut failures = Vec::new();
    let mut tried = |what, failed| failures.push((what, failed));

    // Of order 0, a leaf is there already: the handover's own pages have it.
    for n in [1, 3, 5] {
        let op =
            |kernel: &Kernel<'_>, things: &Things| Ok(kernel.memory().keep(things.blocks[0])?);
        tried("preserve a folio", all_or_nothing("preserve a folio", nothing, alloc_folio(n), op));
    }
    let prepare = |kernel: &Kernel<'_>, things: &mut Things| {
        let request = Request::new(Order::ZERO).frame_type(FrameType::Run);
        things.runs.push(kernel.memory().alloc_run(31, request).unwrap());
    };
    let op = |kernel: &Kernel<'_>, things: &Things| Ok(kernel.memory().keep(things.runs[0])?);
    tried("preserve a run", all_or_nothing("preserve a run", nothing, prepare, op));

    let small = |kernel: &Kernel<'_>, things: &mut Things| {
        things.ptrs.push(at(kernel, kernel.alloc(100).unwrap()));
    };
    let large = |kernel: &Kernel<'_>, things: &mut Things| {
        things.ptrs.push(at(kernel, kernel.alloc(7 * PAGE as usize).unwrap()));
    };
    let object = |kernel: &Kernel<'_>, things: &mut Things| {
        let cache = kernel.slabs().cache(PLAIN).unwrap();
        things.ptrs.push(at(kernel, cache.alloc().unwrap()));
    };
    let op = |kernel: &Kernel<'_>, things: &Things| {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { kernel.preserve(ptr(kernel, things.ptrs[0])) }.map(|_| ())
    };
    tried("preserve a buffer", all_or_nothing("preserve a small buffer", nothing, small, op));
    tried("preserve a buffer", all_or_nothing("preserve a large buffer", nothing, large, op));
    tried("preserve an object", all_or_nothing("preserve an object", nothing, object, op));

    let op = |kernel: &Kernel<'_>, _: &Things| kernel.publish("root", &[7; 9000]);
    tried("publish", all_or_nothing("publish", nothing, nothing, op));
    let before = |kernel: &Kernel<'_>, _: &mut Things| kernel.publish("root", b"before").unwrap();
    tried("publish anew", all_or_nothing("publish anew", nothing, before, op));

    let blocks = |kernel: &Kernel<'_>, things: &mut Things| {
        for _ in 0..6 {
            alloc_folio(1)(kernel, things);
        }
    };
    let op = |kernel: &Kernel<'_>, things: &Things| {
        let blocks = things.blocks.iter().copied();
        // SAFETY: allocated by this test, and told to nothing else.
        unsafe { PreservedArea::preserve(kernel.memory(), blocks, order(1), false) }?.into_raw();
        Ok(())
    };
    tried("preserve an area", all_or_nothing("preserve an area", nothing, blocks, op));

    let op = |kernel: &Kernel<'_>, _: &Things| {
        let records = Records::<_, Entry>::new(kernel.memory())?;
        assert!(records.is_empty());
        Ok(())
    };
    tried("a new list", all_or_nothing("a new list", nothing, nothing, op));
    let full = |kernel: &Kernel<'_>, things: &mut Things| {
        let mut records = Records::<_, Entry>::new(kernel.memory()).unwrap();
        for i in 0..127 {
            records.push(&[i; 4]).unwrap();
        }
        things.lists.push(records.first());
    };
    let op = |kernel: &Kernel<'_>, things: &Things| {
        // SAFETY: the list that was let go while preparing, or by a push before.
        let mut records =
            unsafe { Records::<_, Entry>::from_raw(kernel.memory(), things.lists[0]) }?;
        records.push(&[127; 4]).map(|()| assert_eq!(records.len(), 128))
    };
    tried("push a record", all_or_nothing("push a record", nothing, full, op));

    for preserving in [false, true] {
        for bytes in [100, 3000, 6 * PAGE as usize] {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            let op = |kernel: &Kernel<'_>, _: &Things| {
                kernel.slabs().alloc(layout, AllocOptions { preserving, zeroed: true })?;
                Ok(())
            };
            tried("alloc", all_or_nothing("alloc", nothing, nothing, op));
        }
    }
    let op = |kernel: &Kernel<'_>, things: &Things| {
        let layout = Layout::from_size_align(30 * PAGE as usize, 8).unwrap();
        // SAFETY: allocated while preparing, and not used again.
        unsafe { kernel.slabs().realloc(ptr(kernel, things.ptrs[0]), layout) }?;
        Ok(())
    };
    tried("realloc", all_or_nothing("realloc a small buffer", nothing, small, op));
    tried("realloc", all_or_nothing("realloc a large buffer", nothing, large, op));
    tried("seal", all_or_nothing("seal", nothing, nothing, |kernel, _| kernel.seal()));
    assert!(failures.iter().all(|(_, failed)| *failed > 0), "{failures:?}");
}

#[test]
fn every_claim_is_all_or_nothing() {
    let area = |kernel: &Kernel<'_>, things: &mut Things| {
        things.handles.push(keep_area(kernel, 600 / 8, 1, 5).unwrap());
    };
    let op = |kernel: &Kernel<'_>, things: &Things| {
        let info: AreaInfo = kernel.claim_area(things.handles[0])?.into_raw();
        assert_eq!(info.pages(), 150);
        Ok(())
    };
    // What is claimed is preserved already: nothing is needed for it.
    assert_eq!(all_or_nothing("claim an area", area, nothing, op), 0);

    let list = |kernel: &Kernel<'_>, things: &mut Things| {
        let mut records = Records::<_, Entry>::new(kernel.memory()).unwrap();
        for i in 0..1000 {
            records.push(&[i; 4]).unwrap();
        }
        let (first, entry) = (records.first(), 32);
        things.handles.push(Handle::new(Parts::Records { first, entry }).unwrap());
    };
    let op = |kernel: &Kernel<'_>, things: &Things| {
        let records = kernel.claim_records::<Entry>(things.handles[0])?;
        assert_eq!(records.len(), 1000);
        Ok(())
    };
    assert_eq!(all_or_nothing("claim a list", list, nothing, op), 0);

    let buffer = |bytes| {
        move |kernel: &Kernel<'_>, things: &mut Things| {
            things.handles.push(keep_buffer(kernel, bytes, false, 3).unwrap());
        }
    };
    let op = |kernel: &Kernel<'_>, things: &Things| kernel.restore(things.handles[0]).map(|_| ());
    let failed = all_or_nothing("claim a large buffer", buffer(3 * PAGE as usize), nothing, op);
    assert_eq!(failed, 0);
    let claim_large = |kernel: &Kernel<'_>, things: &Things| {
        let Ok(Parts::Buffer { addr, bytes }) = things.handles[0].parts() else { panic!() };
        kernel.slabs().claim_large(addr, bytes)?;
        Ok(())
    };
    let failed =
        all_or_nothing("claim a buffer to keep", buffer(3 * PAGE as usize), nothing, claim_large);
    assert_eq!(failed, 0);
    // It is adopted with its slab, by a cache that needs a control block.
    assert!(all_or_nothing("claim a small buffer", buffer(200), nothing, op) > 0);
}

/// A cache of several slabs, for a successor.
fn leave_cache(spec: CacheSpec, count: usize) -> impl Fn(&Kernel<'_>, &mut Things) {
    move |kernel, things| {
        let cache = kernel.slabs().cache(spec).unwrap();
        for _ in 0..count {
            let object = cache.alloc().unwrap();
            if !cache.is_preserving() {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { kernel.preserve(object) }.unwrap();
            }
            things.handles.push(kernel.handle_of(object).unwrap());
        }
    }
}

#[test]
fn adopting_goes_on_where_memory_ran_out() {
    const COUNT: usize = 120;
    for spec in [PLAIN, PRESERVING] {
        let mut failed = 0;
        for frames in 0.. {
            let world = World::new(FRAMES);
            let mut things = Things::default();
            let old = world.boot();
            leave_cache(spec, COUNT)(&old, &mut things);
            let kernel = world.jump(old);
            let filler = fill(&kernel, frames);
            let first = kernel.slabs().adopt(spec).map(|(_, adopted)| adopted.unclaimed);
            kernel.memory().audit().unwrap();
            unfill(&kernel, filler);
            if first.is_err() {
                failed += 1;
                kernel.slabs().adopt(spec).unwrap();
            } else {
                assert_eq!(first, Ok(COUNT as u64));
            }
            for handle in things.handles {
                let object = kernel.restore(handle).unwrap();
                // SAFETY: claimed just now.
                unsafe { kernel.free(object) }.unwrap();
            }
            assert_eq!(finish_freeing(&kernel), []);
            if first.is_ok() {
                break;
            }
        }
        // For the cache alone: what is adopted needs nothing.
        assert!((1..5).contains(&failed), "{failed}");
    }
}

#[test]
fn keeping_needs_no_memory() {
    for frames in 0..3 {
        let world = World::new(FRAMES);
        let mut things = Things::default();
        let old = world.boot();
        leave_cache(PRESERVING, 40)(&old, &mut things);
        leave_cache(PLAIN, 40)(&old, &mut things);
        for n in 0..6 {
            things.handles.push(keep_folio(&old, n, 9).unwrap());
        }
        let kernel = world.jump(old);
        let before = kernel.memory().stats().used();
        let filler = fill(&kernel, frames);
        kernel.finish(|_| Disposition::Keep).unwrap();
        kernel.memory().audit().unwrap();
        unfill(&kernel, filler);
        assert!(kernel.memory().stats().used() <= before + kernel.reserve());
        // The next kernel finds everything that was kept.
        let next = world.jump(kernel);
        next.slabs().adopt(PLAIN).unwrap();
        next.slabs().adopt(PRESERVING).unwrap();
        for handle in things.handles {
            if let Parts::Folio(_) = handle.parts().unwrap() {
                free_folio(next.claim_folio(handle).unwrap());
            } else {
                let object = next.restore(handle).unwrap();
                // SAFETY: claimed just now.
                unsafe { next.free(object) }.unwrap();
            }
        }
        assert_eq!(finish_freeing(&next), []);
    }
}
