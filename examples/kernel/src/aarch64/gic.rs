//! The interrupt controller, a GICv2: the timer's as IRQ, and in the place of NMIs, which there are none of, two that
//! CPUs send each other as FIQ. A kernel masks IRQs wherever it must not be interrupted, and FIQs never, but where one comes.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// Where its parts are: what all CPUs have of it, and what each one has. As the device tree says.
pub static ALL: AtomicU64 = AtomicU64::new(0);
pub static MINE: AtomicU64 = AtomicU64::new(0);
/// The number of the timer's interrupt.
pub static TIMER: AtomicU32 = AtomicU32::new(27);

/// Numbers of interrupts that come as FIQ: one that does work in the middle of anything, and one that ends a CPU.
pub const NMI: u32 = 0;
pub const STOP: u32 = 1;

/// Registers of what all have: `GICD_CTLR` and so on.
const CONTROL: u64 = 0;
const TYPE: u64 = 4;
const GROUP: u64 = 0x80;
const ENABLE: u64 = 0x100;
const DISABLE: u64 = 0x180;
const NOT_PENDING: u64 = 0x280;
const NOT_ACTIVE: u64 = 0x380;
const PRIORITY: u64 = 0x400;
const SEND: u64 = 0xf00;
const NOT_SENT: u64 = 0xf10;
/// Of what each has: `GICC_CTLR` and so on.
const MASK: u64 = 4;
const ACKNOWLEDGE: u64 = 0xc;
const DONE: u64 = 0x10;

fn write(part: &AtomicU64, register: u64, value: u32) {
    let at = (part.load(Relaxed) + register) as *mut u32;
    // SAFETY: a register of the controller, which is mapped at its own address.
    unsafe { at.write_volatile(value) };
}

fn read(part: &AtomicU64, register: u64) -> u32 {
    let at = (part.load(Relaxed) + register) as *mut u32;
    // SAFETY: as above.
    unsafe { at.read_volatile() }
}

/// Begins anew with what a predecessor left, on this CPU: nothing is pending or active, only the timer's and the two that are
/// FIQs may come.
pub fn begin() {
    let words = u64::from(read(&ALL, TYPE) & 31) + 1;
    for word in 0..words {
        write(&ALL, DISABLE + 4 * word, !0);
        write(&ALL, NOT_PENDING + 4 * word, !0);
        write(&ALL, NOT_ACTIVE + 4 * word, !0);
    }
    for word in 0..4 {
        write(&ALL, NOT_SENT + 4 * word, !0);
    }
    let fast = 1 << NMI | 1 << STOP;
    write(&ALL, GROUP, !fast);
    for word in 0..8 {
        // Those that CPUs send come before the timer's.
        write(&ALL, PRIORITY + 4 * word, if word == 0 { 0x4040_4040 } else { 0x8080_8080 });
    }
    write(&ALL, ENABLE, fast | 1 << TIMER.load(Relaxed));
    write(&ALL, CONTROL, 0b11);
    write(&MINE, MASK, 0xff);
    // Both groups, acknowledged alike; the first as FIQ.
    write(&MINE, CONTROL, 0b1111);
}

/// The number of the interrupt that has come, which is active from now on; 1020 or more: none.
pub fn acknowledge() -> u32 {
    read(&MINE, ACKNOWLEDGE) & 0x3ff
}

/// Ends an interrupt.
pub fn done(number: u32) {
    write(&MINE, DONE, number);
}

/// Sends an interrupt to all other CPUs.
pub fn send(number: u32) {
    // SAFETY: what was written before is seen by those that it goes to.
    unsafe { core::arch::asm!("dsb ishst", options(nostack)) };
    write(&ALL, SEND, 1 << 24 | number);
}
