//! A small kernel on heirloom: it boots, works, and hands its memory to its successor, the other build.
//!
//! ```text
//!   PVH, boot_params ───> Told ─> map ─> boot ───────┬─> work on all CPUs ─> jump: sealed, or
//!   or a device tree       │            revive, claim ┘    timers, NMIs        from an interrupt
//!                          └─> successor loaded ──────────────────────────────────┘
//! ```
//!
//! | file | what it shows |
//! |---|---|
//! | `machine.rs` | **the port to heirloom** |
//! | `cpu.rs` | what each CPU has of its own |
//! | `told.rs` | memory map, command line, handover |
//! | `jump.rs` | the successor's image, found and loaded |
//! | `takeover.rs`, `layout.rs` | claims, comparison, upgrade |
//! | `work.rs`, `ledger.rs` | allocation from work, interrupts and NMIs |
//! | `linux.rs` | what Linux left passed on, a session left for it |
//! | `x86_64/` | entry by PVH and by Linux's 64-bit protocol, APIC, a loader by `heirloom-x86` |
//! | `aarch64/` | entry by Linux's protocol for arm64, device trees read and written, GIC, PSCI |
//!
//! The command line says what each kernel of a chain does at its end: `plan=jcde`, a letter for each.
//! `j`: a sealed jump. `c`: a crash, the jump from an interrupt in the middle of all CPUs' work. `d`: a crash
//! during its own takeover. `e`: the end. `l`: not this kernel but Linux.

#![no_std]
#![no_main]

extern crate alloc;

#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
mod arch;
mod cpu;
mod jump;
mod layout;
mod ledger;
mod linux;
mod machine;
#[path = "../../between/pattern.rs"]
mod pattern;
mod serial;
mod takeover;
mod told;
mod work;

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use heirloom::folio::{NodeId, Request};
use heirloom::slab::{EarlyRoom, Global};
use heirloom::{
    DirectMap, Disposition, Heirloom, Order, PAGE_SIZE, PhysAddr, Placement, PreservedRun, Run,
    SealPolicy, TypedCache,
};
use heirloom_x86::map::LINUX_SCRATCH_ALIGN;
use jump::Loaded;
use layout::Session;
use ledger::Ledger;
use lock_api::Mutex;
use machine::{Lock, Port};
use serial::{fail, say};
use spin::Once;
use takeover::{Found, Root};
use told::Told;
use zerocopy::IntoBytes;

/// What is allocated before there is memory: a command line.
static EARLY: EarlyRoom<1024> = EarlyRoom::new();
#[global_allocator]
static HEAP: Global<Port> = Global::early(&EARLY);

/// What the first CPU sets, before there is another.
static KERNEL: Once<Heirloom<Port>> = Once::new();
static SESSIONS: Once<TypedCache<'static, Session, Port>> = Once::new();
static LEDGER: Once<&'static Ledger> = Once::new();
/// The successor, ready to be entered. It is loaded again where what is handed over changes.
static NEXT: Mutex<Lock, Option<Loaded>> = Mutex::new(None);

/// Whether CPUs work: from then on the first three are set.
static WORKING: AtomicBool = AtomicBool::new(false);
/// At which of the first CPU's ticks the kernel crashes: in its work, or, if it is to die in its takeover, the first.
static CRASH_AT: AtomicU64 = AtomicU64::new(u64::MAX);

pub fn is_working() -> bool {
    // Acquire pairs with the Release in `start`.
    WORKING.load(Acquire)
}

pub fn kernel() -> &'static Heirloom<Port> {
    KERNEL.get().expect("asked for at work")
}

pub fn sessions() -> &'static TypedCache<'static, Session, Port> {
    SESSIONS.get().expect("asked for at work")
}

pub fn ledger() -> &'static Ledger {
    LEDGER.get().expect("asked for at work")
}

/// What the kernel does: for the report of one that dies, and for when it is to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Revive,
    Claim,
    Upgrade,
    Finish,
    Work,
    Jump,
}

static PHASE: AtomicUsize = AtomicUsize::new(0);
/// The phase of its takeover in which the kernel is to die, or later; none.
static DIE_IN: AtomicUsize = AtomicUsize::new(usize::MAX);

impl Phase {
    /// Begins the phase. If the kernel is to die in it, the timer will end it at its first tick.
    pub fn begin(self) {
        PHASE.store(self as usize, Relaxed);
        if DIE_IN.load(Relaxed) == self as usize {
            CRASH_AT.store(0, Relaxed);
            cpu::timer(TICK / 20);
            cpu::unmask();
        }
    }

    /// The name of the one that was begun last.
    fn name() -> &'static str {
        let names = ["revive", "claim", "upgrade", "finish", "work", "jump"];
        names[PHASE.load(Relaxed) % names.len()]
    }
}

/// The timer's handler, on each CPU.
pub fn tick() {
    let cpu = cpu::this();
    let ticks = cpu.ticks.load(Relaxed);
    if cpu.number.load(Relaxed) == 0 && ticks >= CRASH_AT.load(Relaxed) {
        crash();
    }
    if is_working() {
        work::tick(ticks);
        if ticks.is_multiple_of(3) {
            cpu::send_nmi();
        }
    }
}

// ANCHOR: crash
/// Ends this kernel here and now, in an interrupt: no lock is taken, nothing is put in order.
fn crash() -> ! {
    cpu::stop_others();
    serial::cry(format_args!("crashes in {}", Phase::name()));
    let next = NEXT.lock().take().expect("loaded before interrupts come");
    // SAFETY: busy since it was loaded; all other CPUs have stopped.
    unsafe { next.enter() }
}
// ANCHOR_END: crash

/// Where the image begins.
extern "C" fn start(kind: u64, info: u64) -> ! {
    cpu::init(0);
    life(kind, info);
    serial::off()
}

/// A kernel that has its memory, and what it found in it.
type Taken = (&'static Heirloom<Port>, Found);

/// What there must be: an error ends the machine, and says why.
pub fn sure<T, E: core::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| fail(format_args!("{error}")))
}

/// The kernel's life, which returns where the chain ends.
fn life(kind: u64, info: u64) {
    let told = sure(told::read(kind, info));
    let plan = told.word("plan").unwrap_or("e").as_bytes();
    let step = told.number("step", 0);
    let act = plan.get(step).copied().unwrap_or(b'e');
    let seed = told.number("seed", 1);
    let (kernel, mut found) = match told.entry {
        None => first(&told),
        Some(entry) => later(&told, entry, act, seed + step),
    };
    SESSIONS.call_once(|| sure(kernel.slabs().typed::<Session>(layout::CACHE, true)));
    // What no slot names is freed.
    sure(kernel.finish(|_| {
        found.unclaimed += 1;
        Disposition::Free
    }));
    if plan.get(step + 1) == Some(&b'l') {
        let first = pattern::first_file(seed as u64, step as u64);
        // SAFETY: the first CPU; the only interrupt that comes ends this kernel.
        sure(unsafe { linux::leave(kernel, first) });
    }
    let Found { things, bytes, upgraded, lost, unclaimed } = found;
    let (build, generation) = (layout::BUILD, kernel.generation());
    say(format_args!(
        "{build}, step {step}, generation {generation}: {things} things, {bytes} bytes compared, \
         {upgraded} upgraded, {lost} lost, {unclaimed} unclaimed"
    ));
    if act == b'e' {
        return;
    }
    Phase::Work.begin();
    // What the first CPU set is read by others from now on: Release pairs with the Acquire in `is_working`.
    WORKING.store(true, Release);
    let ticks = cpu::ALL[0].ticks.load(Relaxed);
    let last = ticks + 20 + (seed as u64 * 7 + step as u64 * 13) % 23;
    if act == b'c' {
        CRASH_AT.store(last, Relaxed);
    }
    cpu::start_others(told.number("cpus", 1) as u32);
    cpu::timer(TICK);
    cpu::unmask();
    let mut round = step as u64 * 1000;
    while act == b'c' || cpu::ALL[0].ticks.load(Relaxed) < last {
        work::step(round);
        round += 1;
    }
    Phase::Jump.begin();
    cpu::park_others();
    cpu::timer(0);
    cpu::mask();
    let (nmis, unpinned) = cpu::ALL.iter().fold((0, 0), |(nmis, unpinned), cpu| {
        (nmis + cpu.nmis.load(Relaxed), unpinned + cpu.unpinned.load(Relaxed))
    });
    let (wrong, refused) = (work::WRONG.load(Relaxed), work::REFUSED.load(Relaxed));
    say(format_args!(
        "{build}, step {step}: {} rounds, {last} ticks, {nmis} NMIs, {unpinned} calls without a CPU, {wrong} wrong, \
         {refused} refused; {} bytes of stack, {} of image",
        round - step as u64 * 1000,
        stack(),
        told::image().bytes()
    ));
    // ANCHOR: leave
    sure(kernel.seal());
    cpu::stop_others();
    let next = NEXT.lock().take().expect("loaded above");
    // SAFETY: busy since it was loaded; all other CPUs have stopped.
    unsafe { next.enter() }
    // ANCHOR_END: leave
}

/// Nanoseconds between two ticks.
const TICK: u32 = 1_000_000;
/// Bytes of a scratch area: two images, and metadata; tens of MiB where Linux may follow.
const AREA: u64 = 64 << 20;

/// The first kernel: no predecessor.
fn first(told: &Told) -> Taken {
    let (images, length) = sure(told.images.ok_or("no images"));
    let mut map = sure(told.map());
    // What is there already: this image, and the module, which is in no map while it is copied.
    let module = Run::covering(images, length).filter(|run| run.addr() == images);
    let module = sure(module.ok_or("the images do not start with a page"));
    sure([told::image(), module].into_iter().try_for_each(|run| map.remove(run)));
    let place = |taken: &[_]| map.place(AREA, LINUX_SCRATCH_ALIGN, PhysAddr::new(4 << 30), taken);
    // ANCHOR: boot
    let low = sure(place(&[]));
    let scratch = [low, sure(place(&[low]))];
    // SAFETY: the page tables show the map, of which nothing is in use.
    let kernel = unsafe { Heirloom::boot(Port, map.ranges(), &scratch, layout::BUILD) };
    // ANCHOR_END: boot
    let kernel = keep(sure(kernel));
    // ANCHOR: module
    // The module stays where it is, and survives there.
    // SAFETY: the loader put it there, and it is in no map; nothing else runs.
    let run = unsafe { kernel.keep_in_place(module, NodeId(0)) };
    // ANCHOR_END: module
    sure(begin(told, kernel, scratch.into_iter(), sure(run), length))
}

/// From now on there is a heap.
fn keep(kernel: Heirloom<Port>) -> &'static Heirloom<Port> {
    let kernel = KERNEL.call_once(|| kernel);
    HEAP.set(kernel.slabs()).unwrap_or_else(|_| fail(format_args!("two heaps")));
    kernel
}

/// What a kernel does that has no ledger: the first, and one that comes behind Linux.
fn begin(
    told: &Told,
    kernel: &'static Heirloom<Port>,
    areas: impl Iterator<Item = Run> + Clone,
    images: PreservedRun<'_, Port>,
    length: u64,
) -> Result<Taken, heirloom::Error> {
    let mut found = Found::default();
    // SAFETY: the first CPU; no interrupt comes.
    unsafe { linux::pass_on(kernel, &mut found) }?;
    let memory = kernel.memory();
    let handle = kernel.run_handle(&images)?.into();
    let images_at = images.into_raw().addr();
    let frames = size_of::<Ledger>().div_ceil(PAGE_SIZE) as u64;
    let run = memory.alloc_owned_run(frames, Request::new(Order::ZERO).zeroed())?;
    let run = run.preserve().map_err(|refused| refused.error)?;
    let ledger = kernel.run_handle(&run)?.into();
    let at = memory.ptr(run.into_raw())?.cast::<Ledger>();
    let root = Root { ledger, images: handle, images_bytes: length };
    kernel.publish("kernel", root.as_bytes())?;
    // SAFETY: a ledger of zeroes is an empty one; it is never freed.
    LEDGER.call_once(|| unsafe { at.as_ref() });
    let busy = [kernel.metadata(), told::image()];
    // SAFETY: what is busy is all that is in use of scratch; the images were claimed.
    let next = unsafe { jump::load(told, areas, &busy, (images_at, length), kernel.entry()) };
    *NEXT.lock() = Some(next);
    Ok((kernel, found))
}

/// Any other: loads its own successor before all else, so that it may die at any instant; then takes over.
fn later(told: &Told, entry: heirloom::Entry, act: u8, seed: usize) -> Taken {
    if told.number("look", 0) > 0 {
        jump::show(entry, told.number("step", 0));
    }
    let (map, image) = (sure(told.map()), told::image());
    let images = sure(told.images.ok_or("no images"));
    // SAFETY: the runs are in the map, which the page tables show; the predecessor has ended.
    let areas = sure(unsafe {
        entry.scratch_areas(&Port, |run| map.ranges().iter().any(|(range, _)| range.covers(run)))
    });
    let brought = Run::covering(images.0, images.1).unwrap_or(image);
    // SAFETY: this image and what came with it are all that is in use of scratch.
    let next = unsafe { jump::load(told, areas.runs(), &[image, brought], images, entry) };
    let busy = [image, brought, next.image, next.params];
    *NEXT.lock() = Some(next);
    if act == b'd' {
        DIE_IN.store(seed % 4, Relaxed);
    }
    Phase::Revive.begin();
    // ANCHOR: revive
    let placement = Placement { metadata: None, busy: &busy };
    let (checked, build) = (SealPolicy::Checked, layout::BUILD);
    // SAFETY: the page tables show the map, of which what is busy is in use; the predecessor has ended.
    let kernel =
        unsafe { Heirloom::revive_in(Port, map.ranges(), entry, build, checked, placement) };
    // ANCHOR_END: revive
    Phase::Claim.begin();
    let kernel = keep(sure(kernel));
    if kernel.predecessor().is_none() {
        return sure(behind_linux(told, kernel, areas.runs(), images));
    }
    let (ledger, images_at, length) = sure(takeover::roots(kernel));
    let mut found = sure(takeover::claim(kernel, ledger));
    // SAFETY: the first CPU; the only interrupt that comes ends this kernel.
    sure(unsafe { linux::pass_on(kernel, &mut found) });
    found.bytes += jump::check(images, (images_at, length));
    Phase::Finish.begin();
    if act == b'd' {
        cpu::idle();
    }
    LEDGER.call_once(|| ledger);
    (kernel, found)
}

/// The first kernel behind Linux, which knows nothing of ledgers: what it brought lies in scratch, and moves.
fn behind_linux(
    told: &Told,
    kernel: &'static Heirloom<Port>,
    areas: impl Iterator<Item = Run> + Clone,
    (images, length): (PhysAddr, u64),
) -> Result<Taken, heirloom::Error> {
    let frames = length.div_ceil(PAGE_SIZE as u64);
    let mut run = kernel.memory().alloc_owned_run(frames, Request::new(Order::ZERO))?;
    // SAFETY: Linux put it there; nothing else uses it.
    let brought = unsafe { work::bytes(Port.ptr(images), length as usize) };
    run.bytes_mut()[..brought.len()].copy_from_slice(brought);
    let run = run.preserve().map_err(|refused| refused.error)?;
    begin(told, kernel, areas, run, length)
}

/// Bytes of the first CPU's stack that were ever written.
fn stack() -> usize {
    let stack = (&raw const cpu::STACKS).cast::<u8>();
    // SAFETY: the first of the stacks, which the loader cleared; this very CPU uses it.
    let unused = (0..cpu::STACK).take_while(|at| unsafe { stack.add(*at).read_volatile() } == 0);
    cpu::STACK - unused.count()
}

/// Where every other CPU begins.
extern "C" fn start_other(number: u32) -> ! {
    cpu::init(number as usize);
    cpu::timer(TICK + 3000 * number);
    cpu::unmask();
    let mut round = u64::from(number) << 32;
    // Acquire pairs with the Release in `park_others`.
    while !cpu::PARK.load(Acquire) {
        work::step(round);
        round += 1;
    }
    cpu::park()
}
