//! CPUs: which one this is, their interrupts, how others are started and stopped.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use heirloom::folio::MaskDepth;

use crate::boot::{CPUS, LOW};
use crate::serial::{fail, out};

/// Vectors: all other interrupts are of no use here. Linux's timer has 236, and may be pending when a
/// kernel that it loaded lets interrupts come: so all 256 have an entry.
pub const NMI: u64 = 2;
pub const TIMER: u64 = 64;

/// What a CPU has of its own. GS leads to it.
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

static ALL: [Cpu; CPUS] = [const { Cpu::new() }; CPUS];
/// How many CPUs have started.
pub static STARTED: AtomicU32 = AtomicU32::new(1);

/// The CPU that this runs on. A handler of another interrupt that asks has the same.
pub fn this() -> &'static Cpu {
    let number: u32;
    // SAFETY: `init` led GS to this CPU's part of `ALL`, whose first word is its number.
    unsafe { asm!("mov {:e}, gs:[0]", out(reg) number, options(nostack, readonly, pure)) };
    &ALL[number as usize]
}

/// A CPU by its number.
pub fn of(number: usize) -> &'static Cpu {
    &ALL[number]
}

/// Makes this CPU number so and so, with handlers for all interrupts, which do not come yet.
pub fn init(number: usize) {
    let cpu = &ALL[number];
    cpu.number.store(number as u32, Relaxed);
    let base = core::ptr::from_ref(cpu) as u64;
    // SAFETY: GS is this kernel's to use.
    unsafe {
        asm!("wrmsr", in("ecx") 0xc000_0101_u32, in("eax") base as u32, in("edx") (base >> 32) as u32);
    }
    load_handlers();
    // No interrupts from the old controllers; the APIC on, spurious interrupts at 255.
    // SAFETY: the ports are theirs.
    unsafe {
        out(0x21, 0xff);
        out(0xa1, 0xff);
    }
    apic(0xf0, 0x1ff);
    apic(0x80, 0);
}

/// Masks this CPU's interrupts. Returns whether they came.
pub fn mask() -> bool {
    let flags: u64;
    // SAFETY: reads the flags, and clears one.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    flags & (1 << 9) != 0
}

/// Lets this CPU's interrupts come.
pub fn unmask() {
    // SAFETY: every vector has a handler.
    unsafe { asm!("sti", options(nostack)) };
}

/// Waits for interrupts, for good.
pub fn idle() -> ! {
    loop {
        // SAFETY: every vector has a handler.
        unsafe { asm!("sti", "hlt", options(nostack)) };
    }
}

/// Writes a register of this CPU's APIC.
fn apic(register: u64, value: u32) {
    let at = (0xfee0_0000 + register) as *mut u32;
    // SAFETY: a register of the APIC, which is mapped at its own address, uncached.
    unsafe { at.write_volatile(value) };
}

/// Lets the timer come, again and again, after so many of its clock's periods; 0: not at all.
pub fn timer(periods: u32) {
    apic(0x3e0, 0b1011);
    apic(0x320, if periods == 0 { 1 << 16 } else { 1 << 17 | TIMER as u32 });
    apic(0x380, periods);
}

/// Sends an NMI to all other CPUs.
pub fn send_nmi() {
    apic(0x300, 0x000c_4400);
}

/// Stops all other CPUs, wherever they are: they wait to be started.
pub fn stop_others() {
    apic(0x300, 0x000c_4500);
    pause(10_000);
}

/// Starts others until there are `cpus` in all. Those that a predecessor left waiting wait for just this.
pub fn start_others(cpus: u32) {
    stop_others();
    for _ in 0..2 {
        apic(0x300, 0x000c_4600 | (LOW >> 12) as u32);
        pause(200);
        if STARTED.load(Acquire) >= cpus {
            return;
        }
    }
    for _ in 0..1_000_000 {
        if STARTED.load(Acquire) >= cpus {
            return;
        }
        pause(1);
    }
    fail(format_args!("{} CPUs started of {cpus}", STARTED.load(Relaxed)));
}

/// Waits some microseconds: a write to port 0x80 takes about one.
fn pause(microseconds: u32) {
    for _ in 0..microseconds {
        // SAFETY: the port is for nothing else.
        unsafe { out(0x80, 0) };
    }
}

// An entry for each vector, 16 bytes each: an error code where the CPU pushes none, and the vector.
global_asm!(
    r#"
    .text
    .balign 16
    .globl handlers
handlers:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push 0
    .endif
    .byte 0x68
    .long vector
    jmp handle
    .set vector, vector + 1
    .endr
handle:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    mov rdi, [rsp + 72]
    lea rsi, [rsp + 80]
    cld
    call {interrupt}
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
    "#,
    interrupt = sym interrupt,
);

/// What the CPU pushes.
#[repr(C)]
struct Frame {
    error: u64,
    rip: u64,
}

/// Every interrupt comes here.
extern "C" fn interrupt(vector: u64, frame: &Frame) {
    let cpu = this();
    match vector {
        NMI => {
            cpu.in_nmi.store(true, Relaxed);
            cpu.nmis.fetch_add(1, Relaxed);
            crate::work::nmi();
            cpu.in_nmi.store(false, Relaxed);
        }
        TIMER => {
            cpu.in_interrupt.store(true, Relaxed);
            cpu.ticks.fetch_add(1, Relaxed);
            apic(0xb0, 0);
            crate::tick();
            cpu.in_interrupt.store(false, Relaxed);
        }
        0..32 => {
            let address: u64;
            // SAFETY: reads a register.
            unsafe { asm!("mov {}, cr2", out(reg) address) };
            let Frame { error, rip } = frame;
            fail(format_args!(
                "exception {vector}, error {error:#x}, at {rip:#x}, address {address:#x}"
            ));
        }
        // A predecessor's, or a spurious one.
        _ => apic(0xb0, 0),
    }
}

/// An entry of the table of handlers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate(u64, u64);

struct Gates(core::cell::UnsafeCell<[Gate; 256]>);
// SAFETY: written by the first CPU, before there is another.
unsafe impl Sync for Gates {}
static GATES: Gates = Gates(core::cell::UnsafeCell::new([Gate(0, 0); 256]));

fn load_handlers() {
    unsafe extern "C" {
        static handlers: u8;
    }
    #[repr(C, packed)]
    struct Table(u16, u64);
    if STARTED.load(Relaxed) == 1 {
        // SAFETY: this is the only CPU.
        for (vector, gate) in unsafe { &mut *GATES.0.get() }.iter_mut().enumerate() {
            let at = &raw const handlers as u64 + 16 * vector as u64;
            let low = (at & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (at & 0xffff_0000) << 32;
            *gate = Gate(low, at >> 32);
        }
    }
    let table = Table((256 * size_of::<Gate>() - 1) as u16, GATES.0.get() as u64);
    // SAFETY: each gate leads to its handler.
    unsafe { asm!("lidt [{}]", in(reg) &raw const table, options(nostack)) };
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

/// Stops for good.
pub fn park() -> ! {
    mask();
    timer(0);
    PARKED.fetch_add(1, Release);
    loop {
        // SAFETY: nothing but an NMI comes any more.
        unsafe { asm!("hlt", options(nostack)) };
    }
}
