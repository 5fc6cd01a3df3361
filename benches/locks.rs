//! How long locks are held and CPUs stay pinned, at the longest, while a million objects are adopted,
//! upgraded, claimed or ended, their caches counted and shrunk, and the handover sealed.
//!
//! ```text
//! cargo bench -p heirloom-benches --bench locks
//! ```
//!
//! Each figure is the median, over five successors of five kernels, of the longest time of all. One
//! thread runs, so that nothing is waited for. The last column is the machine's own: the longest time
//! of as many that do nothing, as locks were taken or CPUs pinned, whichever is more. With `--test`, a thousand objects and one run.

use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::time::Instant;

use heirloom::Heirloom;
use heirloom::folio::threads::Host;
use heirloom::folio::{CpuId, Cpus, DirectMap, Disposition, Linear, Machine, NodeId};
use heirloom::kho::{PhysAddr, Run};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::slab::CacheSpec;
use heirloom_benches::{GIB, base, reserve};

/// What is timed: one thing at a time, so that looking at the clock is part of no other figure.
static TIMED: AtomicU8 = AtomicU8::new(NOTHING);
const NOTHING: u8 = 0;
const LOCK: u8 = 1;
const MUTEX: u8 = 2;
const PIN: u8 = 3;

/// Nanoseconds, at the longest.
static LONGEST: AtomicU64 = AtomicU64::new(0);
/// When what is timed began, in nanoseconds since the program did.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// How many there were.
static TIMES: AtomicU64 = AtomicU64::new(0);
/// How many of them are nested.
static DEPTH: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).expect("not for long")
}

fn begin(what: u8) {
    if TIMED.load(Relaxed) == what && DEPTH.fetch_add(1, Relaxed) == 0 {
        BEGAN.store(now(), Relaxed);
    }
}

fn end(what: u8) {
    if TIMED.load(Relaxed) == what && DEPTH.fetch_sub(1, Relaxed) == 1 {
        TIMES.fetch_add(1, Relaxed);
        LONGEST.fetch_max(now() - BEGAN.load(Relaxed), Relaxed);
    }
}

/// A lock that times how long it is held.
struct Timed<const WHAT: u8>(AtomicBool);

// SAFETY: the flag is taken by one exchange, and given back by the holder.
unsafe impl<const WHAT: u8> lock_api::RawMutex for Timed<WHAT> {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        assert!(self.try_lock(), "one thread: it would wait for itself");
    }

    fn try_lock(&self) -> bool {
        // Acquire pairs with the Release in `unlock`.
        let taken = self.0.compare_exchange(false, true, Acquire, Relaxed).is_ok();
        if taken {
            begin(WHAT);
        }
        taken
    }

    unsafe fn unlock(&self) {
        end(WHAT);
        self.0.store(false, Release);
    }
}

/// A machine whose CPUs are threads of a process, with each lock and each pin timed.
struct Ram(Host<Linear>);

// SAFETY: delegates to `Host`.
unsafe impl DirectMap for Ram {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.0.ptr(addr)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.0.phys(ptr)
    }
}

// SAFETY: delegates to `Host`.
unsafe impl Cpus for Ram {
    fn count(&self) -> usize {
        self.0.count()
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.0.with_cpu(|cpu| {
            begin(PIN);
            let result = f(cpu);
            end(PIN);
            result
        })
    }
}

impl Machine for Ram {
    type Lock = Timed<LOCK>;
    type Mutex = Timed<MUTEX>;
}

type Kernel<'r> = Heirloom<&'r Ram>;
type Map = [(Run, NodeId); 1];

const SPEC: CacheSpec = CacheSpec::new("left", 64).preserving(true);

/// A kernel that leaves so many objects: where its successor finds them.
fn leave(ram: &Ram, map: &Map, objects: u64) -> Entry {
    let bytes = Kernel::scratch_bytes(map, ram.count()) as u64;
    let scratch = Run::covering(map[0].0.addr(), bytes).expect("scratch ends in memory");
    // SAFETY: the machine's memory is used by one kernel at a time.
    let kernel = unsafe { Heirloom::boot(ram, map, &[scratch], "bench") }.expect("fresh memory");
    let cache = kernel.slabs().cache(SPEC).expect("a new cache");
    for _ in 0..objects {
        cache.alloc().expect("memory is free");
    }
    kernel.entry()
}

fn adopt(kernel: &Kernel<'_>) {
    kernel.slabs().adopt(SPEC).expect("sound");
}

fn keep(kernel: &Kernel<'_>) {
    kernel.finish(|_| Disposition::Keep).expect("sound");
}

fn free(kernel: &Kernel<'_>) {
    kernel.finish(|_| Disposition::Free).expect("sound");
}

type Act = fn(&Kernel<'_>);

/// What is timed in a successor, after what is not.
const ACTS: [(&str, Act, Act); 8] = [
    ("adopt", |_| (), adopt),
    (
        "upgrade",
        |_| (),
        |kernel| {
            let record = kernel.slabs().inherited("left").expect("left");
            kernel.slabs().upgrade(&record, |_| Ok(())).expect("sound");
        },
    ),
    ("finish, slabs", |_| (), free),
    ("finish, objects", adopt, free),
    ("seal", keep, |kernel| kernel.seal().expect("memory for the table")),
    ("publish", keep, |kernel| kernel.publish("name", b"bytes").expect("room")),
    ("statistics", adopt, |kernel| {
        kernel.slabs().cache(SPEC).expect("adopted").stats();
    }),
    (
        "shrink",
        |kernel| {
            adopt(kernel);
            free(kernel);
        },
        |kernel| {
            kernel.slabs().shrink();
        },
    ),
];

/// The longest time of one successor, and of so many times nothing.
fn longest(ram: &Ram, map: &Map, objects: u64, what: u8, (before, act): (Act, Act)) -> [u64; 2] {
    let entry = leave(ram, map, objects);
    let policy = SealPolicy::Checked;
    // SAFETY: as in `leave`; the kernel before is gone.
    let kernel = unsafe { Heirloom::revive(ram, map, entry, "bench", policy) }.expect("sound");
    before(&kernel);
    TIMES.store(0, Relaxed);
    let times = |act: &dyn Fn()| {
        LONGEST.store(0, Relaxed);
        TIMED.store(what, Relaxed);
        act();
        TIMED.store(NOTHING, Relaxed);
        LONGEST.load(Relaxed)
    };
    let acted = times(&|| act(&kernel));
    let many = TIMES.load(Relaxed);
    let nothing = times(&|| {
        for _ in 0..many {
            begin(what);
            end(what);
        }
    });
    [acted, nothing]
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all[all.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let run = Run::new(base(), GIB).expect("below the last frame");
    let bytes = usize::try_from(run.bytes()).expect("fits the address space");
    // SAFETY: mapped for good, and nothing else knows of it.
    let ram = Ram(Host::new(unsafe { Linear::new(reserve(bytes), run.addr(), bytes) }));
    let map = [(run, NodeId(0))];
    println!(
        "longest of all, in ns: {:>15} {:>10} {:>10} {:>10} {:>10}",
        "objects", "Lock", "Mutex", "pinned", "machine"
    );
    for (name, before, act) in ACTS {
        for objects in if quick { &[1_000][..] } else { &[1_000, 100_000, 1_000_000] } {
            let figures = [LOCK, MUTEX, PIN].map(|what| {
                let runs = if quick { 1 } else { 5 };
                let all = (0..runs).map(|_| longest(&ram, &map, *objects, what, (before, act)));
                let (acted, nothing) = all.map(|[acted, nothing]| (acted, nothing)).unzip();
                (median(acted), median(nothing))
            });
            let [(lock, none), (mutex, _), (pin, no_pin)] = figures;
            let machine = none.max(no_pin);
            println!("{name:<23}{objects:>15} {lock:>10} {mutex:>10} {pin:>10} {machine:>10}");
        }
    }
}
