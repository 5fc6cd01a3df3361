//! The short lock is held, and a CPU stays pinned, for a time that does not depend on how much there
//! is: counted in instructions, which are the same in every run, and not timed.
//!
//! A machine's lock sets the processor's trap flag while it is held. Each instruction then ends in a
//! signal, whose handler counts it: a loop within the lock is seen whatever it touches.

use core::ptr::NonNull;
use std::alloc::Layout;
use std::arch::asm;
use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use heirloom::Heirloom;
use heirloom::folio::harness::Ram;
use heirloom::folio::{CpuId, Cpus, DirectMap, Disposition, Machine, NodeId, Request};
use heirloom::kho::{Order, Pfn, PhysAddr, Run};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::slab::{AllocOptions, CacheSpec};

use crate::common::PAGE;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Nothing,
    Locks,
    Pins,
}

/// What this thread counts and has counted.
struct Count {
    what: Cell<What>,
    /// Locks that are held.
    depth: Cell<u32>,
    steps: Cell<u64>,
    seen: Cell<Seen>,
}

/// How many times something was held, and for how many instructions.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    times: u64,
    steps: u64,
    longest: u64,
}

std::thread_local! {
    static COUNT: Count = const {
        Count {
            what: Cell::new(What::Nothing),
            depth: Cell::new(0),
            steps: Cell::new(0),
            seen: Cell::new(Seen { times: 0, steps: 0, longest: 0 }),
        }
    };
}

extern "C" fn stepped(_: libc::c_int) {
    COUNT.with(|count| count.steps.set(count.steps.get() + 1));
}

/// From here on every instruction of this thread is counted.
#[inline(never)]
fn begin() {
    COUNT.with(|count| count.steps.set(0));
    // SAFETY: bit 8 of the flags is the trap flag, which changes no result; `stepped` is in place.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

/// Up to here.
#[inline(never)]
fn end() {
    // SAFETY: as in `begin`.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
    COUNT.with(|count| {
        let (steps, seen) = (count.steps.get(), count.seen.get());
        count.seen.set(Seen {
            times: seen.times + 1,
            steps: seen.steps + steps,
            longest: seen.longest.max(steps),
        });
    });
}

/// Counts during `act`.
fn counting(what: What, act: impl FnOnce()) -> Seen {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let handler: extern "C" fn(libc::c_int) = stepped;
        // SAFETY: the handler touches a cell of its thread and nothing else.
        let before = unsafe { libc::signal(libc::SIGTRAP, handler as libc::sighandler_t) };
        assert_ne!(before, libc::SIG_ERR);
    });
    COUNT.with(|count| {
        count.seen.set(Seen::default());
        count.what.set(what);
        act();
        count.what.set(What::Nothing);
        assert_eq!(count.depth.get(), 0);
        count.seen.get()
    })
}

fn counts(what: What) -> bool {
    COUNT.with(|count| count.what.get() == what)
}

/// A lock that counts what is done while it is held.
struct Short(AtomicBool);

// SAFETY: the flag is taken by one exchange, and given back by the holder.
unsafe impl lock_api::RawMutex for Short {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        assert!(self.try_lock(), "one thread: it would wait for itself");
    }

    fn try_lock(&self) -> bool {
        // Acquire pairs with the Release in `unlock`.
        let taken = self.0.compare_exchange(false, true, Acquire, Relaxed).is_ok();
        if taken && counts(What::Locks) {
            let depth = COUNT.with(|count| count.depth.replace(count.depth.get() + 1));
            if depth == 0 {
                begin();
            }
        }
        taken
    }

    unsafe fn unlock(&self) {
        if counts(What::Locks)
            && COUNT.with(|count| count.depth.replace(count.depth.get() - 1)) == 1
        {
            end();
        }
        self.0.store(false, Release);
    }
}

/// Memory whose short locks and pinned closures are counted.
struct Counted(Ram);

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for Counted {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.0.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.0.phys(ptr)
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl Cpus for Counted {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        if !counts(What::Pins) {
            return self.0.with_cpu(f);
        }
        self.0.with_cpu(|cpu| {
            begin();
            let result = f(cpu);
            end();
            result
        })
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.0.with_offline_cpu(cpu, f)
    }
}

impl Machine for Counted {
    type Lock = Short;
    type Mutex = heirloom::folio::threads::YieldingMutex;
}

type Kernel<'w> = Heirloom<&'w Counted>;

struct World {
    machine: Counted,
    ranges: Vec<(Run, NodeId)>,
    scratch: Run,
}

impl World {
    fn new(frames: u64) -> Self {
        let ranges = Ram::frames(frames).to_vec();
        let machine = Counted(Ram::over(&ranges));
        let bytes = Kernel::scratch_bytes(&ranges, machine.count()) as u64;
        let end = ranges[0].0.end();
        let scratch = Run::new(Pfn::new(end.get() - bytes / PAGE), bytes / PAGE).unwrap();
        Self { machine, ranges, scratch }
    }

    fn boot(&self) -> Kernel<'_> {
        // SAFETY: the machine covers the ranges, and one kernel at a time runs on it.
        unsafe { Heirloom::boot(&self.machine, &self.ranges, &[self.scratch], "test") }.unwrap()
    }

    fn revive(&self, entry: Entry) -> Kernel<'_> {
        let policy = SealPolicy::Checked;
        // SAFETY: as for `boot`; the predecessor was dropped.
        unsafe { Heirloom::revive(&self.machine, &self.ranges, entry, "test", policy) }.unwrap()
    }
}

const BORN: CacheSpec = CacheSpec::new("born", 2000).preserving(true);
const PLAIN: CacheSpec = CacheSpec::new("plain", 2000);

/// A kernel with `count` slabs of either kind of cache, folios, large buffers of either kind, and a
/// cache for every eighth of them.
fn fill(kernel: &Kernel<'_>, count: u64) {
    for (spec, preserve) in [(BORN, false), (PLAIN, true)] {
        let cache = kernel.slabs().cache(spec).unwrap();
        let mut slabs = 0;
        while slabs < count {
            let object = cache.alloc().unwrap();
            // One in each slab, as it comes.
            if core::mem::replace(&mut slabs, cache.stats().slabs) < slabs && preserve {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { kernel.preserve(object) }.unwrap();
            }
        }
    }
    for n in 0..count {
        kernel
            .memory()
            .alloc_folio(Request::new(Order::ZERO))
            .unwrap()
            .preserve()
            .unwrap()
            .into_raw();
        born(kernel);
        let large = kernel.alloc(3 * PAGE as usize).unwrap();
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { kernel.preserve(large) }.unwrap();
        if n.is_multiple_of(8) {
            let name = format!("cache {n}");
            let spec = CacheSpec::new(&name, 500).preserving(true);
            kernel.slabs().cache(spec).unwrap().alloc().unwrap();
        }
    }
}

/// A large buffer that is preserved from birth.
fn born(kernel: &Kernel<'_>) {
    let layout = Layout::from_size_align(5 * PAGE as usize, 8).unwrap();
    kernel.slabs().alloc(layout, AllocOptions { preserving: true, zeroed: false }).unwrap();
}

type Call = fn(&Kernel<'_>);

/// What is counted of a kernel that took over from one that [`fill`] filled.
const CALLS: [(&str, Call); 11] = [
    ("adopt", |kernel| {
        without_counting(|| {
            begin_with(kernel, BORN, false);
            begin_with(kernel, PLAIN, true);
        });
        kernel.slabs().adopt(BORN).unwrap();
        kernel.slabs().adopt(PLAIN).unwrap();
    }),
    ("upgrade", |kernel| {
        let record = kernel.slabs().inherited("born").unwrap();
        assert_ne!(kernel.slabs().upgrade(&record, |_| Ok(())), Ok(0));
    }),
    ("finish, freeing", |kernel| {
        kernel.finish(|_| Disposition::Free).unwrap();
    }),
    ("finish, keeping", |kernel| {
        kernel.finish(|_| Disposition::Keep).unwrap();
    }),
    ("adopt and finish, freeing", |kernel| {
        without_counting(|| {
            kernel.slabs().adopt(PLAIN).unwrap();
        });
        kernel.finish(|_| Disposition::Free).unwrap();
    }),
    ("seal", |kernel| {
        without_counting(|| kept(kernel));
        kernel.seal().unwrap();
    }),
    ("publish", |kernel| {
        without_counting(|| kept(kernel));
        kernel.publish("name", b"bytes").unwrap();
        kernel.publish("name", b"other bytes").unwrap();
        kernel.unpublish("name").unwrap();
    }),
    ("claim an object", |kernel| {
        without_counting(|| {
            kernel.slabs().adopt(PLAIN).unwrap();
        });
        let cache = kernel.slabs().cache(PLAIN).unwrap();
        for (addr, _) in cache.unclaimed() {
            cache.claim(addr).unwrap();
        }
    }),
    ("statistics", |kernel| {
        without_counting(|| kept(kernel));
        for cache in kernel.slabs().caches() {
            cache.stats();
        }
    }),
    ("shrink", |kernel| {
        without_counting(|| {
            kernel.slabs().adopt(PLAIN).unwrap();
            let cache = kernel.slabs().cache(PLAIN).unwrap();
            for (addr, _) in cache.unclaimed() {
                let object = cache.claim(addr).unwrap();
                // SAFETY: claimed just now, and used by nothing.
                unsafe { cache.free(object) }.unwrap();
            }
        });
        kernel.slabs().shrink();
    }),
    ("preserve what is new", |kernel| {
        let new = CacheSpec::new("new", 2000);
        without_counting(|| begin_with(kernel, new, true));
        let cache = kernel.slabs().cache(new).unwrap();
        for _ in 0..20 {
            let object = cache.alloc().unwrap();
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { kernel.preserve(object) }.unwrap();
        }
    }),
];

/// A cache with one preserved object, whose name and first slabs have their place in the cache directory: making
/// it takes longer than what comes after, and would hide what that takes.
fn begin_with(kernel: &Kernel<'_>, spec: CacheSpec, preserve: bool) {
    let object = kernel.slabs().cache(spec).unwrap().alloc().unwrap();
    if preserve {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { kernel.preserve(object) }.unwrap();
    }
}

/// Takes everything over, unclaimed.
fn kept(kernel: &Kernel<'_>) {
    kernel.finish(|_| Disposition::Keep).unwrap();
}

fn without_counting(act: impl FnOnce()) {
    COUNT.with(|count| {
        let what = count.what.replace(What::Nothing);
        act();
        count.what.set(what);
    });
}

/// Frames of memory.
const FRAMES: u64 = 32768;

/// How much is left, first and then.
const LEFT: [u64; 2] = [12, 32];

/// The same for what is done by so many at a time, at most, as there are in the first.
const BATCHES: [u64; 2] = [132, 152];

fn longest(what: What) {
    let mut failed = Vec::new();
    for (name, call) in CALLS {
        let left = if name == "shrink" { BATCHES } else { LEFT };
        let [few, many] = left.map(|count| {
            let world = World::new(FRAMES);
            let kernel = world.boot();
            fill(&kernel, count);
            let entry = kernel.entry();
            drop(kernel);
            let kernel = world.revive(entry);
            counting(what, || call(&kernel))
        });
        println!("{name}, with {left:?}: {few:?}, {many:?}");
        // A pass over all of it takes an instruction for each at the very least.
        let more = left[1] - left[0];
        if many.longest >= few.longest + more {
            failed.push(name);
        }
    }
    assert_eq!(failed, [""; 0]);
}

#[test]
fn the_short_lock_is_held_no_longer_the_more_there_is() {
    longest(What::Locks);
}

#[test]
fn a_cpu_stays_pinned_no_longer_the_more_there_is() {
    longest(What::Pins);
}
