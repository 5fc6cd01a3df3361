//! The whole library on memory as firmware describes it: in many ranges, split otherwise in each life,
//! in any order, and with as many scratch areas as a list holds.

use heirloom::folio::harness::Ram;
use heirloom::folio::{Cpus, Disposition, NodeId, PreservedFolio, Request};
use heirloom::kho::{Handle, Order, PAGE_SIZE, Parts, Pfn, Run, ScratchList};
use heirloom::restore::{Entry, Finished, SealPolicy};
use heirloom::{Error, Heirloom};

const FRAMES: u64 = 8192;
const NODE: NodeId = NodeId(0);

type Kernel<'r> = Heirloom<&'r Ram>;
type Map = Vec<(Run, NodeId)>;

fn run(at: u64, frames: u64) -> Run {
    let first = Ram::frames(FRAMES)[0].0.start();
    Run::new(Pfn::new(first.get() + at), frames).unwrap()
}

/// All memory, split before every so many frames.
fn split(every: u64) -> Map {
    let starts = (0..FRAMES).step_by(usize::try_from(every).unwrap());
    starts.map(|at| (run(at, every.min(FRAMES - at)), NODE)).collect()
}

fn scratch(ram: &Ram, map: &Map) -> Run {
    run(0, (Heirloom::<&Ram>::scratch_bytes(map, ram.count()) / PAGE_SIZE) as u64)
}

fn boot<'r>(ram: &'r Ram, map: &Map, scratch: &[Run]) -> Kernel<'r> {
    // SAFETY: the machine has this memory, and one kernel at a time runs on it.
    let kernel = unsafe { Heirloom::boot(ram, map, scratch, "first") };
    kernel.unwrap_or_else(|error| panic!("{error}"))
}

fn revive<'r>(ram: &'r Ram, map: &Map, entry: Entry) -> Result<Kernel<'r>, Error> {
    // SAFETY: as for `boot`; the one before is gone.
    unsafe { Heirloom::revive(ram, map, entry, "next", SealPolicy::Checked) }
}

/// Folios of many orders and buffers of many sizes, all preserved.
fn keep(kernel: &Kernel<'_>) -> Vec<Handle> {
    let folio = |o: u8| {
        let folio = kernel.memory().alloc_folio(Request::new(Order::new(o).unwrap())).unwrap();
        let kept = folio.preserve().map(PreservedFolio::into_raw);
        let block = kept.unwrap_or_else(|refused| panic!("{}", refused.error));
        Handle::new(Parts::Folio(block)).unwrap()
    };
    let mut kept: Vec<_> = (0..10).map(folio).collect();
    for bytes in [8, 200, 5000, 100_000, 3 << 20] {
        let buffer = kernel.alloc(bytes).unwrap();
        // SAFETY: allocated just now.
        kept.push(unsafe { kernel.preserve(buffer) }.unwrap());
    }
    kept
}

/// Claims all of it, which survives as before.
fn pass_on(kernel: &Kernel<'_>, kept: &mut [Handle]) {
    for handle in kept {
        if let Ok(Parts::Folio(_)) = handle.parts() {
            kernel.claim_folio(*handle).unwrap_or_else(|error| panic!("{error}"));
        } else {
            let buffer = kernel.restore(*handle).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(kernel.handle_of(buffer), Ok(*handle));
        }
    }
    let finished = kernel.finish(|_| Disposition::Free).unwrap();
    assert_eq!(finished, Finished::default());
    kernel.memory().drain();
    kernel.memory().audit().unwrap();
}

/// Scratch is what the first map asks for: that a later one says the same in more pieces needs no
/// more.
#[test]
fn memory_that_firmware_splits_otherwise_in_each_life_is_taken_over() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let whole = split(FRAMES);
    let area = scratch(&ram, &whole);
    let first = boot(&ram, &whole, &[area]);
    let mut kept = keep(&first);
    let mut entry = first.entry();
    for every in [4096, 100, 16, 1, 37, FRAMES] {
        let map = split(every);
        let next = revive(&ram, &map, entry);
        let next = next.unwrap_or_else(|error| panic!("{} ranges: {error}", map.len()));
        assert_eq!(next.cpus(), ram.count(), "{} ranges", map.len());
        pass_on(&next, &mut kept);
        entry = next.entry();
    }
}

/// The order in which ranges are listed says nothing.
#[test]
fn ranges_may_be_listed_in_any_order() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let mut map = split(100);
    // Each area lies across a border.
    let areas = [run(50, 900), run(2050, 100)];
    let first = boot(&ram, &map, &areas);
    let mut kept = keep(&first);
    let mut entry = first.entry();
    map.reverse();
    for _ in 0..3 {
        let next = revive(&ram, &map, entry).unwrap_or_else(|error| panic!("{error}"));
        pass_on(&next, &mut kept);
        entry = next.entry();
        let half = map.len() / 2;
        map.rotate_left(half);
    }
}

/// Ranges that do not touch, more than any fixed table of them holds.
#[test]
fn hundreds_of_ranges_apart_are_taken_over() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    // Two thousand frames in a row for scratch and the larger folios; then holes.
    let mut map = vec![(run(0, 5000), NODE)];
    map.extend((0..300).map(|n| (run(5001 + n * 10, 9), NodeId(n as u16 % 2))));
    let area = scratch(&ram, &map);
    let first = boot(&ram, &map, &[area]);
    let mut kept = keep(&first);
    // And something in each of the small ranges, wherever it is free.
    for n in 0..300 {
        let frames = run(5001 + n * 10, 9).blocks_up_to(Order::ZERO);
        let mut taken = frames.filter(|at| first.memory().alloc_at(*at).is_ok());
        // Where the tracker's nodes have not taken all of it.
        let Some(block) = taken.next() else { continue };
        // SAFETY: allocated by this test, and told to nothing else.
        unsafe { first.memory().preserve(block) }.unwrap();
        kept.push(Handle::new(Parts::Folio(block)).unwrap());
    }
    assert!(kept.len() > 290, "{}", kept.len());
    first.seal().unwrap();
    let mut entry = first.entry();
    for _ in 0..2 {
        let next = revive(&ram, &map, entry).unwrap_or_else(|error| panic!("{error}"));
        pass_on(&next, &mut kept);
        entry = next.entry();
    }
}

/// As many areas as a list holds, the largest of them last.
#[test]
fn as_many_scratch_areas_as_a_list_holds_serve_the_whole_library() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let map = split(FRAMES);
    let large = scratch(&ram, &map);
    let small = ScratchList::LIMIT as u64 - 1;
    let mut areas: Vec<_> =
        (0..small).map(|n| run(large.frames() + 1 + n * 4, 1 + n % 2)).collect();
    areas.push(large);
    let first = boot(&ram, &map, &areas);
    assert_eq!(first.metadata(), large);
    let mut kept = keep(&first);
    let mut entry = first.entry();
    for _ in 0..3 {
        let next = revive(&ram, &map, entry).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(next.scratch().collect::<Vec<_>>(), areas);
        assert_eq!(next.metadata(), large);
        pass_on(&next, &mut kept);
        entry = next.entry();
    }
}
