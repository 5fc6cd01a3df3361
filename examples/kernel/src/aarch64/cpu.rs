//! A CPU: which one this is, its interrupts, how others are started and stopped.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64};

use super::{boot, gic, psci};
use crate::cpu::{CPUS, Cpu, STARTED};
use crate::serial::fail;

/// What firmware knows each CPU by, that which firmware started the first: see MPIDR_EL1.
static AFFINITIES: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
/// How many there are of those.
static KNOWN: AtomicU32 = AtomicU32::new(1);
/// Periods of the timer's clock between two of a CPU's ticks.
static PERIODS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// Notes a CPU that there is, of which this may be one.
pub fn note(affinity: u64) {
    let mine: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mine, options(nomem, nostack)) };
    let known = KNOWN.load(Relaxed) as usize;
    if mine & 0xff_00ff_ffff == affinity {
        AFFINITIES[0].store(affinity, Relaxed);
    } else if let Some(next) = AFFINITIES.get(known) {
        next.store(affinity, Relaxed);
        KNOWN.store(known as u32 + 1, Relaxed);
    }
}

/// The number of the CPU that this runs on.
pub fn number() -> usize {
    let number: u32;
    // SAFETY: `begin` stored in TPIDR_EL1 the address of this CPU's own data, and the first word there is the CPU's number.
    unsafe {
        asm!("mrs {at}, tpidr_el1", "ldr {number:w}, [{at}]", at = out(reg) _, number = lateout(reg) number,
            options(nostack, readonly, pure));
    }
    number as usize
}

/// Begins as this CPU, with handlers for all interrupts, of which IRQs do not come yet. Where the controller is, the first
/// learns later.
pub fn begin(cpu: &'static Cpu) {
    unsafe extern "C" {
        static handlers: u8;
    }
    let cpu = core::ptr::from_ref(cpu);
    // SAFETY: the register is this kernel's to use, and each entry leads to its handler.
    unsafe {
        asm!("msr tpidr_el1, {}", "msr vbar_el1, {}", "isb", in(reg) cpu, in(reg) &raw const handlers,
            options(nostack));
    }
    if gic::ALL.load(Relaxed) != 0 {
        let_come();
        // From now on it can be stopped. Release pairs with the Acquire of the CPU that waits for it.
        STARTED.fetch_add(1, Release);
    }
}

/// Lets interrupts come that are FIQs, and those that a kernel does not ask for.
pub fn let_come() {
    timer(0);
    gic::begin();
    // SAFETY: each has a handler.
    unsafe { asm!("msr daifclr, #5", options(nostack)) };
}

/// Masks this CPU's interrupts. Returns whether they came.
pub fn mask() -> bool {
    let flags: u64;
    // SAFETY: reads the flags, and sets one.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) flags, options(nostack)) };
    flags & (1 << 7) == 0
}

/// Lets this CPU's interrupts come.
pub fn unmask() {
    // SAFETY: each has a handler.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// Waits for an interrupt.
pub fn halt() {
    // SAFETY: each has a handler.
    unsafe { asm!("wfi", options(nostack)) };
}

/// Lets the timer come, again and again, after so many nanoseconds; 0: not at all.
pub fn timer(nanoseconds: u32) {
    let frequency: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    let periods = u64::from(nanoseconds) * frequency / 1_000_000_000;
    PERIODS[number()].store(periods, Relaxed);
    again();
}

/// Sets the timer for this CPU's next tick.
fn again() {
    let periods = PERIODS[number()].load(Relaxed);
    // SAFETY: the virtual timer is this kernel's.
    unsafe {
        asm!("msr cntv_tval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) periods,
            in(reg) u64::from(periods != 0), options(nostack));
    }
}

/// Sends what is in the place of an NMI to all other CPUs.
pub fn send_nmi() {
    gic::send(gic::NMI);
}

/// Waits for something, ten seconds at most. Returns whether it came.
fn wait_for(it: impl Fn() -> bool) -> bool {
    let clock = || {
        let (now, second): (u64, u64);
        // SAFETY: reads two registers.
        unsafe {
            asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) now, out(reg) second,
                options(nostack));
        }
        (now, second)
    };
    let (start, second) = clock();
    while !it() {
        if clock().0 - start > 10 * second {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Stops all other CPUs, wherever they are: they are off, and wait to be turned on.
pub fn stop_others() {
    gic::send(gic::STOP);
    for affinity in &AFFINITIES[1..STARTED.load(Relaxed) as usize] {
        if !wait_for(|| psci::is_off(affinity.load(Relaxed))) {
            fail(format_args!("CPU {:#x} does not stop", affinity.load(Relaxed)));
        }
    }
}

/// Starts others until there are `cpus` in all.
pub fn start_others(cpus: u32) {
    if cpus > KNOWN.load(Relaxed) {
        fail(format_args!("{} CPUs known of {cpus}", KNOWN.load(Relaxed)));
    }
    for number in 1..cpus {
        let affinity = AFFINITIES[number as usize].load(Relaxed);
        let at = &raw const boot::other as u64;
        // SAFETY: a CPU's first instructions, and its number.
        let error = unsafe { psci::turn_on(affinity, at, u64::from(number)) };
        if error != 0 || !wait_for(|| STARTED.load(Acquire) > number) {
            fail(format_args!("CPU {affinity:#x} does not start: {error}"));
        }
    }
}

/// Where every other CPU comes from its first instructions.
pub extern "C" fn start_other(number: u32) -> ! {
    crate::start_other(number)
}

// Sixteen entries, of 128 bytes each: of this level with another stack, of this level, of what there is none of. An entry
// keeps what it needs to say which one it is; what follows keeps all that a function may change.
global_asm!(
    r#"
    .text
    .balign 2048
    .globl handlers
handlers:
    .set entry, 0
    .rept 16
    .balign 128
    sub sp, sp, #720
    stp x0, x1, [sp]
    mov x0, #entry
    b handle
    .set entry, entry + 1
    .endr
    .balign 128
handle:
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x29, [sp, #144]
    mrs x1, elr_el1
    mrs x2, spsr_el1
    stp x30, x1, [sp, #160]
    mrs x3, fpsr
    mrs x4, fpcr
    stp x2, x3, [sp, #176]
    str x4, [sp, #192]
    add x5, sp, #208
    stp q0, q1, [x5]
    stp q2, q3, [x5, #32]
    stp q4, q5, [x5, #64]
    stp q6, q7, [x5, #96]
    stp q8, q9, [x5, #128]
    stp q10, q11, [x5, #160]
    stp q12, q13, [x5, #192]
    stp q14, q15, [x5, #224]
    stp q16, q17, [x5, #256]
    stp q18, q19, [x5, #288]
    stp q20, q21, [x5, #320]
    stp q22, q23, [x5, #352]
    stp q24, q25, [x5, #384]
    stp q26, q27, [x5, #416]
    stp q28, q29, [x5, #448]
    stp q30, q31, [x5, #480]
    bl {interrupt}
    add x5, sp, #208
    ldp q0, q1, [x5]
    ldp q2, q3, [x5, #32]
    ldp q4, q5, [x5, #64]
    ldp q6, q7, [x5, #96]
    ldp q8, q9, [x5, #128]
    ldp q10, q11, [x5, #160]
    ldp q12, q13, [x5, #192]
    ldp q14, q15, [x5, #224]
    ldp q16, q17, [x5, #256]
    ldp q18, q19, [x5, #288]
    ldp q20, q21, [x5, #320]
    ldp q22, q23, [x5, #352]
    ldp q24, q25, [x5, #384]
    ldp q26, q27, [x5, #416]
    ldp q28, q29, [x5, #448]
    ldp q30, q31, [x5, #480]
    ldr x4, [sp, #192]
    ldp x2, x3, [sp, #176]
    msr fpcr, x4
    msr fpsr, x3
    ldp x30, x1, [sp, #160]
    msr spsr_el1, x2
    msr elr_el1, x1
    ldp x18, x29, [sp, #144]
    ldp x16, x17, [sp, #128]
    ldp x14, x15, [sp, #112]
    ldp x12, x13, [sp, #96]
    ldp x10, x11, [sp, #80]
    ldp x8, x9, [sp, #64]
    ldp x6, x7, [sp, #48]
    ldp x4, x5, [sp, #32]
    ldp x2, x3, [sp, #16]
    ldp x0, x1, [sp]
    add sp, sp, #720
    eret
    "#,
    interrupt = sym interrupt,
);

/// Entries that there are interrupts of: of this level, with its own stack.
const IRQ: u64 = 5;
const FIQ: u64 = 6;

/// Every interrupt comes here, with all masked.
extern "C" fn interrupt(entry: u64, at: u64) {
    if entry != IRQ && entry != FIQ {
        let (why, address): (u64, u64);
        // SAFETY: reads two registers.
        unsafe {
            asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) why, out(reg) address, options(nomem, nostack));
        }
        fail(format_args!(
            "exception {entry}, syndrome {why:#x}, at {at:#x}, address {address:#x}"
        ));
    }
    // One that is to be a FIQ may become pending as an IRQ is taken, and is told first.
    let number = gic::acknowledge();
    if number >= 1020 {
        return;
    }
    let ticks = number == gic::TIMER.load(Relaxed) && entry == IRQ;
    if ticks {
        again();
    }
    // Ended before its work is done, as a kernel may end in the middle of that.
    gic::done(number);
    match number {
        gic::NMI => crate::cpu::nmi(),
        gic::STOP => psci::turn_off(),
        _ if ticks => {
            // FIQs come in the middle of this as of anything.
            // SAFETY: what this interrupted is kept, and they are masked again before that is taken up.
            unsafe { asm!("msr daifclr, #1", options(nostack)) };
            crate::cpu::tick();
            // SAFETY: as above.
            unsafe { asm!("msr daifset, #1", options(nostack)) };
        }
        // Of no use here; or the timer's, which comes again.
        _ => {}
    }
}
