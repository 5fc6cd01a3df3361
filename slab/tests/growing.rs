//! Memory that runs out, and a machine that finds more.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

use heirloom_folio::harness::Ram;
use heirloom_folio::{CpuId, Cpus, DirectMap, Error as FolioError, Machine, Memory, NodeId};
use heirloom_kho::{Order, PAGE_SIZE, PhysAddr, Run};
use heirloom_slab::{AllocOptions, CacheSpec, Error, Slabs};

const FRAMES: u64 = 2048;
/// Frames that the machine lends at once, at least.
const CHUNK: u64 = 16;

/// A machine that lends an instance its frames, one chunk after the other.
struct Lender {
    ram: Ram,
    /// The instance's memory, once it has its place.
    to: AtomicPtr<Memory<Self>>,
    lent: AtomicU64,
    asked: AtomicU64,
    may_reclaim: AtomicBool,
}

fn frames(start: u64, count: u64) -> Run {
    let [(all, _)] = Ram::frames(FRAMES);
    Run::new(all.start().add(start), count).unwrap()
}

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for Lender {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.ram.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.ram.phys(ptr)
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl Cpus for Lender {
    fn count(&self) -> usize {
        self.ram.count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.ram.with_cpu(f)
    }
}

impl Machine for Lender {
    type Lock = spin::Mutex<()>;
    type Mutex = spin::Mutex<()>;

    fn may_reclaim(&self) -> bool {
        self.may_reclaim.load(Relaxed)
    }

    fn grow(&self, wanted: u64) -> bool {
        self.asked.fetch_add(1, Relaxed);
        // SAFETY: null, or the memory of the test that called, which lives as long as its calls.
        let Some(memory) = (unsafe { self.to.load(Relaxed).as_ref() }) else { return false };
        // Aligned, so that a block of the order wanted is in it.
        let count = wanted.max(CHUNK).next_power_of_two();
        let start = self.lent.load(Relaxed).next_multiple_of(count);
        if start + count > FRAMES {
            return false;
        }
        self.lent.store(start + count, Relaxed);
        // SAFETY: the machine's frames, lent once.
        unsafe { memory.online(frames(start, count)) }.is_ok()
    }
}

/// Returns an instance that begins with one chunk of an absent range.
fn instance() -> Box<Slabs<Lender>> {
    let lender = Lender {
        ram: Ram::over(&Ram::frames(FRAMES)),
        to: AtomicPtr::new(null_mut()),
        lent: AtomicU64::new(CHUNK),
        asked: AtomicU64::new(0),
        may_reclaim: AtomicBool::new(true),
    };
    let all = frames(0, FRAMES);
    let cpus = lender.ram.space(Memory::<Lender>::cpu_bytes(lender.count()));
    let range = lender.ram.space(Memory::<Lender>::range_bytes(all));
    // SAFETY: the machine has the spaces as long as it lives, and maps its frames.
    let memory = unsafe {
        let memory = Memory::new(lender, cpus).unwrap();
        memory.add_absent_range(all, NodeId(0), range).unwrap();
        memory.online(frames(0, CHUNK)).unwrap();
        memory
    };
    let slabs = Box::new(Slabs::new(memory).unwrap());
    slabs.memory().machine().to.store((&raw const *slabs.memory()).cast_mut(), Relaxed);
    slabs
}

fn is_full(error: Error) -> bool {
    matches!(error, Error::Folio(FolioError::OutOfMemory { .. } | FolioError::NoRun { .. }))
}

#[test]
fn an_instance_grows_until_nothing_is_lent() {
    let slabs = instance();
    let layout = Layout::from_size_align(512, 8).unwrap();
    let keep = AllocOptions { preserving: true, zeroed: false };
    let mut buffers = Vec::new();
    let full = loop {
        match slabs.alloc(layout, keep) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => break error,
        }
    };
    assert!(is_full(full), "{full}");
    let memory = slabs.memory();
    assert_eq!(memory.frames(), FRAMES);
    // A slab of the class takes a block of several frames, which the last ones may be too few for.
    let used = memory.stats().used();
    assert!(used > FRAMES * 9 / 10, "{used} frames of {FRAMES} are in use");
    assert_eq!(memory.machine().lent.load(Relaxed), FRAMES);
    for buffer in buffers {
        // SAFETY: allocated above.
        unsafe { slabs.free(buffer) }.unwrap();
    }
}

#[test]
fn a_large_buffer_gets_as_much_as_it_wants() {
    let slabs = instance();
    let layout = Layout::from_size_align(300 * PAGE_SIZE, PAGE_SIZE).unwrap();
    let buffer = slabs.alloc(layout, AllocOptions::default()).unwrap();
    assert_eq!(slabs.memory().machine().asked.load(Relaxed), 1);
    // SAFETY: allocated above; refused, or freed, once.
    unsafe { slabs.free(buffer) }.unwrap();
    let run = frames(512, 512);
    slabs.memory().offline(run).unwrap();
    assert!(!slabs.memory().contains(run));
}

#[test]
fn what_can_be_given_back_is_asked_for_first_where_there_is_time() {
    for may in [true, false] {
        let slabs = instance();
        let machine = slabs.memory().machine();
        machine.may_reclaim.store(may, Relaxed);
        let lent = || machine.lent.load(Relaxed);
        let (one, other) = (CacheSpec::new("one", 1024), CacheSpec::new("other", 512));
        let one = slabs.cache(one.order(Order::ZERO)).unwrap();
        let other = slabs.cache(other.order(Order::ZERO)).unwrap();
        let mut objects = Vec::new();
        while lent() < 4 * CHUNK {
            objects.push(one.alloc().unwrap());
        }
        for object in objects {
            // SAFETY: allocated above.
            unsafe { one.free(object) }.unwrap();
        }
        let before = lent();
        for _ in 0..2 * CHUNK as usize * PAGE_SIZE / 512 {
            other.alloc().unwrap();
        }
        // The slabs of `one` are empty: they are as good as what the machine would lend.
        assert_eq!(lent() == before, may, "may give back: {may}");
    }
}

#[test]
fn a_reservation_has_the_machine_lend_what_it_needs_and_none_for_what_it_never_has() {
    let slabs = instance();
    let (memory, machine) = (slabs.memory(), slabs.memory().machine());
    let cache = slabs.cache(CacheSpec::new("things", 512)).unwrap();
    drop(cache.reserve(1).unwrap());
    let (asked, lent) = (machine.asked.load(Relaxed), machine.lent.load(Relaxed));
    for count in [usize::MAX, usize::MAX / 2] {
        assert!(is_full(cache.reserve(count).unwrap_err()));
    }
    assert_eq!((machine.asked.load(Relaxed), machine.lent.load(Relaxed)), (asked, lent));
    // Many times what there is so far.
    let count = FRAMES as usize / 2 * PAGE_SIZE / 512;
    let reserved = cache.reserve(count).unwrap();
    assert_eq!(reserved.remaining(), count);
    assert!(machine.lent.load(Relaxed) < FRAMES * 3 / 4);
    // More than it has: all is lent, and none of it taken.
    let used = memory.stats().used();
    assert!(is_full(cache.reserve(count).map(|more| more.remaining()).unwrap_err()));
    assert_eq!(memory.frames(), FRAMES);
    assert_eq!(memory.stats().used(), used);
    let other = Layout::from_size_align(300 * PAGE_SIZE, PAGE_SIZE).unwrap();
    slabs.alloc(other, AllocOptions::default()).unwrap();
    drop(reserved);
}
