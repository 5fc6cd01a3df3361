//! Where metadata goes: beside what is busy, where the caller says, and for as many CPUs as there is
//! room for.

use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use heirloom::folio::harness::Ram;
use heirloom::folio::{
    CpuId, Cpus, DirectMap, Disposition, Machine, NodeId, PreservedFolio, Request,
};
use heirloom::kho::{Handle, Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom::restore::{Finished, SealPolicy};
use heirloom::{Error, Heirloom, Placement};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

const PAGE: u64 = PAGE_SIZE as u64;
const MIB: u64 = 1 << 20;
const MEMORY: u64 = 64 * MIB;
const START: u64 = 4 << 30;

fn run(at: u64, bytes: u64) -> Run {
    Run::covering(PhysAddr::new(START + at), bytes).unwrap()
}

fn map() -> [(Run, NodeId); 1] {
    [(run(0, MEMORY), NodeId(0))]
}

/// Areas of 8, 4 and 4 MiB, apart.
fn areas() -> [Run; 3] {
    [run(8 * MIB, 8 * MIB), run(24 * MIB, 4 * MIB), run(40 * MIB, 4 * MIB)]
}

#[expect(clippy::mut_from_ref, reason = "the machine's memory is nobody's between two kernels")]
fn bytes(ram: &Ram, run: Run) -> &mut [u8] {
    let start = ram.ptr(run.addr());
    // SAFETY: in the machine's memory; nothing else uses it while the slice lives.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), run.bytes() as usize) }
}

/// Fills frames with bytes that tell them apart.
fn load(ram: &Ram, run: Run) {
    for (i, byte) in bytes(ram, run).iter_mut().enumerate() {
        *byte = (i % 251) as u8 ^ (i / 4096) as u8;
    }
}

fn is_loaded(ram: &Ram, run: Run) -> bool {
    let mut bytes = bytes(ram, run).iter().enumerate();
    bytes.all(|(i, byte)| *byte == (i % 251) as u8 ^ (i / 4096) as u8)
}

type Kernel<'r> = Heirloom<&'r Ram>;

fn boot<'r>(ram: &'r Ram, scratch: &[Run]) -> Kernel<'r> {
    // SAFETY: the machine has this memory, and one kernel at a time runs on it.
    let kernel = unsafe { Heirloom::boot(ram, &map(), scratch, "first") };
    kernel.unwrap_or_else(|error| panic!("{error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "the kernel before ends here")]
fn revive<'r>(ram: &'r Ram, old: Kernel<'r>, place: Placement<'_>) -> Result<Kernel<'r>, Error> {
    let entry = old.entry();
    // SAFETY: as for `boot`; the one before is gone, and what is busy is no memory of its.
    unsafe { Heirloom::revive_in(ram, &map(), entry, "next", SealPolicy::Checked, place) }
}

/// Something that must come back.
fn keep(kernel: &Kernel<'_>) -> Handle {
    let buffer = kernel.alloc(100_000).unwrap();
    // SAFETY: allocated just now.
    unsafe { kernel.preserve(buffer) }.unwrap()
}

/// What a boot loader brought lies in no range of the first kernel's map, and in every successor's.
#[test]
fn a_module_is_kept_in_place_over_generations() {
    for (at, length) in [(17 * MIB, 5 * MIB + 4096), (16 * MIB, MIB), (63 * MIB, MIB)] {
        let ram = Ram::over(&map());
        let module = run(at, length);
        load(&ram, module);
        let around = [run(0, at), run(at + length, MEMORY - at - length)];
        let around = around.map(|run| (run, NodeId(0)));
        let around: Vec<_> = around.into_iter().filter(|(run, _)| !run.is_empty()).collect();
        // SAFETY: the machine has this memory, and one kernel at a time runs on it.
        let kernel = unsafe { Heirloom::boot(&ram, &around, &areas()[..1], "first") }.unwrap();
        // SAFETY: nothing else uses the frames, and nothing runs beside this.
        let kept = unsafe { kernel.keep_in_place(module, NodeId(0)) }.unwrap();
        let handle = kernel.run_handle(&kept).unwrap();
        // SAFETY: as above.
        let again = unsafe { kernel.keep_in_place(module, NodeId(0)) };
        assert!(matches!(again, Err(Error::Folio(heirloom::folio::Error::RangeOverlaps { .. }))));
        let other = keep(&kernel);
        kernel.memory().audit().unwrap();
        let mut kernel = kernel;
        for _ in 0..3 {
            kernel = revive(&ram, kernel, Placement::default()).unwrap();
            let kept = kernel.claim_run(handle).unwrap();
            assert_eq!(kept.extent(), module);
            assert!(is_loaded(&ram, module));
            kernel.restore(other).unwrap();
            assert_eq!(kernel.finish(|_| Disposition::Free).unwrap(), Finished::default());
            kernel.memory().audit().unwrap();
        }
        let kernel = revive(&ram, kernel, Placement::default()).unwrap();
        let kept = kernel.claim_run(handle).unwrap();
        let before = kernel.memory().stats().free();
        drop(kept.unpreserve().unwrap());
        assert_eq!(kernel.memory().stats().free(), before + module.frames());
    }
}

#[test]
fn an_initrd_in_scratch_survives_a_revive() {
    let ram = Ram::over(&map());
    let old = boot(&ram, &areas());
    let handle = keep(&old);
    // As Linux loads it, behind the kernel's first pages: 5.3 MiB.
    let initrd = run(8 * MIB + 0x6000, 5_557_453);
    load(&ram, initrd);
    let busy = [run(8 * MIB, 0x1000), initrd, run(14 * MIB, MIB)];
    let new = revive(&ram, old, Placement { busy: &busy, ..Placement::default() }).unwrap();
    assert!(is_loaded(&ram, initrd));
    assert!(!busy.iter().any(|run| run.overlaps(new.metadata())), "{:?}", new.metadata());
    assert!(areas()[1].covers(new.metadata()) || areas()[2].covers(new.metadata()));
    assert_eq!(new.scratch().collect::<Vec<_>>(), areas());
    new.restore(handle).unwrap();
    let finished = new.finish(|_| Disposition::Free).unwrap();
    assert_eq!(finished, Finished::default());
    assert!(is_loaded(&ram, initrd));
}

#[test]
fn metadata_lies_where_it_was_put() {
    let small = run(60 * MIB, MIB);
    for at in [areas()[2], run(32 * MIB, MIB), small] {
        // In scratch; in memory that is no scratch, for a successor that knows it to be free.
        let ram = Ram::over(&map());
        let place = Placement { metadata: Some(at), busy: &[] };
        // SAFETY: as for `boot`.
        let old = unsafe { Heirloom::boot_in(&ram, &map(), &areas(), "first", place) };
        let old = old.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(old.metadata().start(), at.start());
        assert!(at.covers(old.metadata()));
        let taken = old.metadata();
        let handle = keep(&old);
        let mut blocks = Vec::new();
        while let Ok(block) = old.memory().alloc(Request::new(Order::ZERO)) {
            assert!(
                !taken.contains(block.pfn()) && !areas().iter().any(|a| a.contains(block.pfn()))
            );
            blocks.push(block);
        }
        let place = Placement { metadata: Some(taken), busy: &[] };
        let new = revive(&ram, old, place).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(new.metadata(), taken);
        new.restore(handle).unwrap();
        assert_eq!(new.finish(|_| Disposition::Free).unwrap(), Finished::default());
        new.memory().audit().unwrap();
    }
}

#[test]
fn metadata_may_lie_outside_the_map() {
    // The last MiB is a kernel's own data, and in no range.
    let outside = run(MEMORY - MIB, MIB);
    let map = [(run(0, MEMORY - MIB), NodeId(0))];
    let ram = Ram::over(&self::map());
    let place = Placement { metadata: Some(outside), busy: &[] };
    for scratch in [&areas()[..], &[]] {
        // SAFETY: as for `boot`.
        let old = unsafe { Heirloom::boot_in(&ram, &map, scratch, "first", place) }.unwrap();
        let handle = keep(&old);
        let entry = old.entry();
        // SAFETY: as for `revive`.
        let new =
            unsafe { Heirloom::revive_in(&ram, &map, entry, "next", SealPolicy::Checked, place) };
        let new = new.unwrap_or_else(|error| panic!("{error}"));
        assert!(outside.covers(new.metadata()));
        new.restore(handle).unwrap();
        assert_eq!(new.finish(|_| Disposition::Free).unwrap(), Finished::default());
    }
}

#[test]
fn metadata_that_lies_in_something_else_is_refused() {
    let ram = Ram::over(&map());
    let [area, ..] = areas();
    let busy = [run(9 * MIB, PAGE)];
    let at_end = run(MEMORY - MIB, 2 * MIB);
    let half = run(7 * MIB, 2 * MIB);
    for (metadata, with) in [(area, busy[0]), (half, area), (at_end, map()[0].0)] {
        let place = Placement { metadata: Some(metadata), busy: &busy };
        // SAFETY: as for `boot`.
        let refused = unsafe { Heirloom::boot_in(&ram, &map(), &areas(), "first", place) }.err();
        assert_eq!(refused, Some(Error::MetadataInUse { metadata, with }));
    }
    let old = boot(&ram, &areas());
    let root = Run::covering(old.entry().root, PAGE).unwrap();
    let metadata = Run::new(Pfn::new(root.start().get()), 512).unwrap();
    let refused = revive(&ram, old, Placement { metadata: Some(metadata), busy: &[] }).err();
    assert_eq!(refused, Some(Error::MetadataInUse { metadata, with: root }));
    let old = boot(&ram, &areas());
    let one = Placement { metadata: Some(run(9 * MIB, PAGE)), busy: &[] };
    let error = revive(&ram, old, one).err().unwrap();
    assert!(matches!(error, Error::ScratchTooSmall { largest: PAGE_SIZE, .. }), "{error}");
}

/// A machine of as many CPUs as one likes: threads are on those of the highest numbers.
struct Many {
    ram: Ram,
    cpus: AtomicUsize,
}

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for Many {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.ram.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.ram.phys(ptr)
    }
}

// SAFETY: a thread's own slot stands for one CPU, and another for each other; the count changes
// between kernels alone.
unsafe impl Cpus for Many {
    fn count(&self) -> usize {
        self.cpus.load(Relaxed)
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        let last = self.count() as u32 - 1;
        self.ram.with_cpu(|cpu| f(cpu.and_then(|cpu| Some(CpuId(last.checked_sub(cpu.0)?)))))
    }
}

impl Machine for Many {
    type Lock = <Ram as Machine>::Lock;
    type Mutex = <Ram as Machine>::Mutex;
}

#[test]
fn a_machine_of_more_cpus_than_scratch_has_room_for_comes_up() {
    let machine = Many { ram: Ram::over(&map()), cpus: AtomicUsize::new(2) };
    let frames = (Heirloom::<&Many>::scratch_bytes(&map(), 2) / PAGE_SIZE) as u64;
    let scratch = [run(0, frames * PAGE)];
    // SAFETY: as for `boot`.
    let old = unsafe { Heirloom::boot(&machine, &map(), &scratch, "two") }.unwrap();
    assert_eq!(old.cpus(), 2);
    // SAFETY: allocated just now.
    let buffer = |_| unsafe { old.preserve(old.alloc(200).unwrap()) }.unwrap();
    let mut handles: Vec<_> = (0..64).map(buffer).collect();
    let mut entry = old.entry();
    for cpus in [3, 64, 1000, 1] {
        machine.cpus.store(cpus, Relaxed);
        // SAFETY: as for `revive`.
        let new = unsafe { Heirloom::revive(&machine, &map(), entry, "more", SealPolicy::Checked) };
        let new = new.unwrap_or_else(|error| panic!("{cpus} CPUs: {error}"));
        // A page holds more than one slot: what is left of the last one serves too.
        assert!(new.cpus() >= cpus.min(2) && new.cpus() <= cpus.min(4), "{} of {cpus}", new.cpus());
        thread::scope(|scope| {
            for part in handles.chunks_mut(16) {
                let new = &new;
                scope.spawn(move || {
                    for handle in part {
                        let buffer = new.restore(*handle).unwrap();
                        // SAFETY: claimed just now.
                        *handle = unsafe { new.preserve(buffer) }.unwrap();
                        let folio =
                            new.memory().alloc_folio(Request::new(Order::new(3).unwrap())).unwrap();
                        drop(folio.preserve().map(PreservedFolio::unpreserve));
                        let other = new.alloc(3000).unwrap();
                        // SAFETY: allocated just now.
                        unsafe { new.free(other) }.unwrap();
                    }
                });
            }
        });
        assert_eq!(new.finish(|_| Disposition::Free).unwrap(), Finished::default());
        new.memory().drain();
        new.memory().audit().unwrap();
        entry = new.entry();
    }
    // As many as a number can say are not tried one by one.
    machine.cpus.store(i32::MAX as usize, Relaxed);
    // SAFETY: as for `revive`.
    let new = unsafe { Heirloom::revive(&machine, &map(), entry, "most", SealPolicy::Checked) };
    assert!((2..=4).contains(&new.unwrap().cpus()));
    // Not at the first boot: scratch can still be chosen.
    machine.cpus.store(64, Relaxed);
    // SAFETY: as for `boot`.
    let refused = unsafe { Heirloom::boot(&machine, &map(), &scratch, "many") }.err().unwrap();
    assert!(matches!(refused, Error::ScratchTooSmall { .. }), "{refused}");
}

/// A run at the start, in the middle or at the end of each area, or over all of it.
fn busy() -> impl Strategy<Value = Vec<Run>> {
    let edge = (0_u8..5, 1_u64..200, 0_u64..1000);
    prop::collection::vec(edge, 3).prop_map(|edges| {
        let each = edges.into_iter().zip(areas()).filter_map(|((edge, frames, at), area)| {
            let (start, end) = (area.start().get(), area.end().get());
            let from = match edge {
                0 => start,
                1 => end - frames,
                2 => start + at.min(area.frames() - frames),
                // Over the edge.
                3 => start - frames / 2,
                _ => return None,
            };
            Run::new(Pfn::new(from), frames)
        });
        each.collect()
    })
}

proptest! {
    #![proptest_config(Config {
        cases: 24,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x0062_7573_7921),
        ..Config::default()
    })]

    #[test]
    fn what_is_busy_is_spared_wherever_it_lies(busy in busy(), full in 0_usize..4) {
        let ram = Ram::over(&map());
        let old = boot(&ram, &areas());
        let mut busy = busy;
        // So many areas are busy as a whole.
        busy.extend(areas().into_iter().take(full));
        for run in &busy {
            load(&ram, *run);
        }
        // Runs over one another are loaded with the last that was.
        let before: Vec<Vec<u8>> = busy.iter().map(|run| bytes(&ram, *run).to_vec()).collect();
        let place = Placement { busy: &busy, ..Placement::default() };
        match revive(&ram, old, place) {
            Ok(new) => {
                prop_assert!(full < 3);
                prop_assert!(areas().iter().any(|area| area.covers(new.metadata())));
                prop_assert!(!busy.iter().any(|run| run.overlaps(new.metadata())));
            }
            Err(error) => {
                let small = matches!(error, Error::ScratchTooSmall { largest: 0, .. });
                prop_assert!(full == 3 && small, "{error}");
            }
        }
        for (run, before) in busy.iter().zip(&before) {
            prop_assert!(bytes(&ram, *run) == &before[..], "{run} was written");
        }
    }
}
