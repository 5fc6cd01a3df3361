//! CPUs: what each has of its own, which one this is, what its interrupts do.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use heirloom::folio::MaskDepth;

use crate::arch::cpu::{begin, halt, number};
pub use crate::arch::cpu::{mask, send_nmi, start_others, stop_others, timer, unmask};

/// CPUs that there can be.
pub const CPUS: usize = 4;
/// Bytes of a CPU's stack.
pub const STACK: usize = 64 << 10;

/// The stacks, that of the first CPU first.
#[repr(C, align(4096))]
pub struct Stacks(pub [[u8; STACK]; CPUS]);
pub static mut STACKS: Stacks = Stacks([[0; STACK]; CPUS]);

/// What a CPU has of its own. A register of the CPU leads to it.
#[repr(C, align(64))]
pub struct Cpu {
    pub number: AtomicU32,
    /// Whether something runs as this CPU: see `Cpus::with_cpu`.
    pub pinned: AtomicBool,
    pub in_nmi: AtomicBool,
    pub in_interrupt: AtomicBool,
    pub masked: MaskDepth,
    pub ticks: AtomicU64,
    pub nmis: AtomicU64,
    /// Calls that found the CPU pinned.
    pub unpinned: AtomicU64,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            number: AtomicU32::new(0),
            pinned: AtomicBool::new(false),
            in_nmi: AtomicBool::new(false),
            in_interrupt: AtomicBool::new(false),
            masked: MaskDepth::new(),
            ticks: AtomicU64::new(0),
            nmis: AtomicU64::new(0),
            unpinned: AtomicU64::new(0),
        }
    }
}

/// All CPUs that there can be.
pub static ALL: [Cpu; CPUS] = [const { Cpu::new() }; CPUS];
/// How many CPUs have started.
pub static STARTED: AtomicU32 = AtomicU32::new(1);

/// The CPU that this runs on. A handler of another interrupt that asks has the same.
pub fn this() -> &'static Cpu {
    &ALL[number()]
}

/// Makes this CPU number so and so, with handlers for all interrupts, which do not come yet.
pub fn init(number: usize) {
    let cpu = &ALL[number];
    cpu.number.store(number as u32, Relaxed);
    begin(cpu);
}

/// An NMI's handler.
pub fn nmi() {
    let cpu = this();
    cpu.in_nmi.store(true, Relaxed);
    cpu.nmis.fetch_add(1, Relaxed);
    crate::work::nmi();
    cpu.in_nmi.store(false, Relaxed);
}

/// The timer's handler.
pub fn tick() {
    let cpu = this();
    cpu.in_interrupt.store(true, Relaxed);
    cpu.ticks.fetch_add(1, Relaxed);
    crate::tick();
    cpu.in_interrupt.store(false, Relaxed);
}

/// Waits for interrupts, for good.
pub fn idle() -> ! {
    unmask();
    loop {
        halt();
    }
}

/// Whether other CPUs are to stop what they do, and how many have.
pub static PARK: AtomicBool = AtomicBool::new(false);
pub static PARKED: AtomicU32 = AtomicU32::new(0);

/// Waits until all others have stopped between two steps of their work.
pub fn park_others() {
    // Release pairs with the Acquire of those that look at it.
    PARK.store(true, Release);
    // Acquire pairs with the Release below: what they did is done.
    while PARKED.load(Acquire) + 1 < STARTED.load(Acquire) {
        core::hint::spin_loop();
    }
}

/// Stops for good: nothing but an NMI comes any more.
pub fn park() -> ! {
    mask();
    timer(0);
    PARKED.fetch_add(1, Release);
    loop {
        halt();
    }
}
