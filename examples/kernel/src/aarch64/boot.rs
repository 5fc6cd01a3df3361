//! The first instructions: from Linux's boot protocol for arm64 to `start`, and a second CPU from PSCI to
//! `start_other`. Both come in EL1, with caches and address translation off.
//!
//! What is written before the caches are on would lie in memory below what the caches hold. So nothing is: the table that
//! shows memory at its own addresses is part of the image, one page, and no address in it depends on where that lies.

use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::cpu::{STACK, STACKS};
use crate::machine::MAPPED;

/// Of level 1: an entry for each GiB.
#[repr(C, align(4096))]
struct Gigabytes([AtomicU64; 512]);
static TABLE: Gigabytes = Gigabytes(gigabytes());

/// Kinds of memory, by their places in MAIR: devices; memory, written back.
const MAIR: u64 = 0xff00;
/// Blocks of memory: accessed before, shared by all CPUs; no code of a process's.
const BLOCK: u64 = 1 | 1 << 10 | 3 << 8 | 1 << 54;
/// Addresses of 39 bits, tables of 4 KiB in memory that is written back and shared, physical addresses of 40 bits; no
/// upper half.
const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32;
/// What has to be one; and: translation, both caches.
const SCTLR: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 12;

/// The first GiB is `virt`'s devices, without code; memory begins behind it.
const fn gigabytes() -> [AtomicU64; 512] {
    let mut table = [const { AtomicU64::new(0) }; 512];
    table[0] = AtomicU64::new(BLOCK | 1 << 53);
    let mut at = 1;
    while at < MAPPED {
        table[at as usize] = AtomicU64::new(BLOCK | 1 << 2 | at << 30);
        at += 1;
    }
    table
}

/// Shows nothing at a GiB any more: what goes there faults.
///
/// # Safety
/// Nothing goes there.
pub unsafe fn hide(gigabyte: u64) {
    if let Some(entry) = TABLE.0.get(gigabyte as usize) {
        entry.store(0, Relaxed);
    }
    // SAFETY: the caller's promise; all else is shown as before.
    unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) };
}

unsafe extern "C" {
    /// Where another CPU begins, with its number in X0.
    pub static other: u8;
}

// X0 holds the address of the device tree.
global_asm!(
    r#"
    .section .head, "ax"
    .globl head, other
head:
    b first
    .long 0
    .quad 0                    // from a multiple of 2 MiB
    .quad image_end - head
    .quad 0xa                  // little-endian, pages of 4 KiB, anywhere
    .quad 0, 0, 0
    .ascii "ARMd"
    .long 0

first:
    mov x19, x0
    bl translate
    // Every address in the data: the image was linked to 0.
    adr x0, head
    adrp x1, rela_start
    add x1, x1, :lo12:rela_start
    adrp x2, rela_end
    add x2, x2, :lo12:rela_end
1:  cmp x1, x2
    b.hs 2f
    ldr x3, [x1]
    ldr x4, [x1, #16]
    add x4, x4, x0
    str x4, [x3, x0]
    add x1, x1, #24
    b 1b
2:  mov x0, #0
    bl stack
    mov x1, x19
    bl {start}
    brk #1

other:
    mov x19, x0
    bl translate
    mov x0, x19
    bl stack
    bl {start_other}
    brk #1

stack:                         // of CPU X0
    adrp x1, {stacks}
    add x1, x1, :lo12:{stacks}
    mov x2, #{stack}
    madd x1, x0, x2, x1
    add sp, x1, x2
    mov x29, #0
    ret

translate:
    msr daifset, #15
    msr spsel, #1
    mrs x1, CurrentEL
    cmp x1, #4                 // in EL2 it would be another kernel, and nothing can be said yet
3:  b.ne 3b
    ic iallu
    tlbi vmalle1
    mov x1, #{mair}
    msr mair_el1, x1
    movz x1, #{tcr} & 0xffff
    movk x1, #({tcr} >> 16) & 0xffff, lsl #16
    movk x1, #({tcr} >> 32) & 0xffff, lsl #32
    msr tcr_el1, x1
    adrp x1, {table}
    add x1, x1, :lo12:{table}
    msr ttbr0_el1, x1
    mov x1, #(3 << 20)         // the compiler uses vector registers
    msr cpacr_el1, x1
    movz x1, #{sctlr} & 0xffff
    movk x1, #({sctlr} >> 16) & 0xffff, lsl #16
    dsb sy
    isb
    msr sctlr_el1, x1
    isb
    ret
    "#,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    table = sym TABLE,
    stacks = sym STACKS,
    stack = const STACK,
    start = sym begin,
    start_other = sym super::cpu::start_other,
);

extern "C" fn begin(_first: u64, tree: u64) -> ! {
    crate::start(0, tree)
}
