//! A CPU: which one this is, its interrupts, how others are started and stopped.

use core::arch::{asm, global_asm};
use core::array;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use spin::Once;

use super::boot::{LOW, place_low};
use super::serial::out;
use crate::cpu::{Cpu, STARTED};
use crate::serial::fail;

/// Vectors: all other interrupts are of no use here. Linux's timer has 236, and may be pending when a
/// kernel that it loaded lets interrupts come: so all 256 have an entry.
pub const NMI: u64 = 2;
pub const TIMER: u64 = 64;

/// The number of the CPU that this runs on.
pub fn number() -> usize {
    let number: u32;
    // SAFETY: `begin` led GS to what this CPU has of its own, whose first word is its number.
    unsafe { asm!("mov {:e}, gs:[0]", out(reg) number, options(nostack, readonly, pure)) };
    number as usize
}

/// Begins as this CPU, with handlers for all interrupts, which do not come yet.
pub fn begin(cpu: &'static Cpu) {
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

/// Waits for an interrupt.
pub fn halt() {
    // SAFETY: every vector has a handler.
    unsafe { asm!("hlt", options(nostack)) };
}

/// Writes a register of this CPU's APIC.
fn apic(register: u64, value: u32) {
    let at = (0xfee0_0000 + register) as *mut u32;
    // SAFETY: a register of the APIC, which is mapped at its own address, uncached.
    unsafe { at.write_volatile(value) };
}

/// Lets the timer come, again and again, after so many of its clock's periods, nanoseconds here; 0: not at all.
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
    // SAFETY: the first CPU, once in a kernel; no other runs.
    unsafe { place_low() };
    for waits in [200, 1_000_000] {
        apic(0x300, 0x000c_4600 | (LOW >> 12) as u32);
        let have_started = |_| {
            pause(1);
            STARTED.load(Acquire) >= cpus
        };
        if (0..waits).any(have_started) {
            return;
        }
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
    .irp register, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11
    push \register
    .endr
    mov rdi, [rsp + 72]
    lea rsi, [rsp + 80]
    cld
    call {interrupt}
    .irp register, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax
    pop \register
    .endr
    add rsp, 16
    iretq
    "#,
    interrupt = sym interrupt,
);

/// Every interrupt comes here, with what the CPU pushes first.
extern "C" fn interrupt(vector: u64, [error, rip]: &[u64; 2]) {
    match vector {
        NMI => crate::cpu::nmi(),
        TIMER => {
            apic(0xb0, 0);
            crate::cpu::tick();
        }
        0..32 => {
            let address: u64;
            // SAFETY: reads a register.
            unsafe { asm!("mov {}, cr2", out(reg) address) };
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
struct Gate(u64, u64);

static GATES: Once<[Gate; 256]> = Once::new();

fn load_handlers() {
    unsafe extern "C" {
        static handlers: u8;
    }
    #[repr(C, packed)]
    struct Table(u16, u64);
    let gates = GATES.call_once(|| {
        array::from_fn(|vector| {
            let at = &raw const handlers as u64 + 16 * vector as u64;
            let low = (at & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (at & 0xffff_0000) << 32;
            Gate(low, at >> 32)
        })
    });
    let table = Table(size_of_val(gates) as u16 - 1, gates.as_ptr() as u64);
    // SAFETY: each gate leads to its handler.
    unsafe { asm!("lidt [{}]", in(reg) &raw const table, options(nostack)) };
}
