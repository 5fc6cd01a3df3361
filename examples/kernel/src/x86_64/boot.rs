//! The first instructions: from PVH's 32-bit mode or from the 64-bit boot protocol to `start`, and a second CPU
//! from real mode to `start_other`.
//!
//! Both ways come to `common`, which brings what the kernel must not do without once its predecessor's memory is not
//! its own any more: page tables (memory below 16 GiB at its own addresses), segments, a stack.

use core::arch::global_asm;

use crate::cpu::{CPUS, STACK, STACKS, STARTED};
use crate::machine::MAPPED;

/// What the kernel is linked to, and where PVH loads it.
const LINKED: u64 = 0x20_0000;
/// Where other CPUs start: below 1 MiB, which is in no map. The page behind it is theirs too.
pub const LOW: u64 = 0x8000;

/// Page tables: of levels 5, 4 and 3, and one of level 2 for each GiB.
#[repr(C, align(4096))]
struct Tables([[u64; 512]; 3 + MAPPED as usize]);
static mut TABLES: Tables = Tables([[0; 512]; 3 + MAPPED as usize]);

unsafe extern "C" {
    /// What other CPUs start with, to be copied to `LOW`, and its end.
    static low_start: u8;
    static low_end: u8;
    /// Where they go to from there.
    static other: u8;
}

// PVH: EBX holds the address of start_info; 32-bit mode, flat segments, no paging, no stack.
global_asm!(
    r#"
    .section .note.pvh, "a"
    .long 4, 4, 18             # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long {linked} + (pvh - head)

    .section .head, "awx"
    .globl head, pvh, other
    .code32
head:
    .balign 4
tables_at:
    .long {tables} - head
gdt_linked:
    .word 31
    .long {linked} + (gdt - head)
    .balign 8
gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_here:
    .word 31
    .quad 0
    .set tables_here, tables_at - head
    .set gdt_low, gdt_linked - head

pvh:
    cli
    mov ebp, {linked}
    mov edi, [ebp + tables_here]
    add edi, ebp               # TABLES
    lea eax, [edi + 0x2003]    # level 4: the first entry, to level 3
    mov [edi + 0x1000], eax
    lea eax, [edi + 0x3003]    # level 3: the first entry, to level 2: 1 GiB
    mov [edi + 0x2000], eax
    mov eax, 0x83              # present, writable, 2 MiB
    xor ecx, ecx
2:  mov [edi + 0x3000 + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 512
    jne 2b
    lea eax, [edi + 0x1000]
    mov cr3, eax
    mov eax, 0x20              # PAE
    mov cr4, eax
    mov ecx, 0xc0000080        # EFER.LME
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000011        # PG, ET, PE
    mov cr0, eax
    lgdt [ebp + gdt_low]
    .byte 0xea                 # jmp 0x10:pvh64
    .long {linked} + (pvh64 - head)
    .word 0x10

    .code64
pvh64:
    xor r15d, r15d             # 0: start_info
    mov r14d, ebx
    jmp common

    # Linux's 64-bit boot protocol: RSI holds the address of boot_params; page tables that show this image.
    .org 0x200
    mov r15d, 1                # 1: boot_params
    mov r14, rsi
common:
    cli
    cld
    lea rbp, [rip + head]
    lea rdi, [rip + {tables}]
    lea rax, [rdi + 0x1003]
    mov [rdi], rax
    lea rax, [rdi + 0x2003]
    mov [rdi + 0x1000], rax
    lea rax, [rdi + 0x3003]
    xor ecx, ecx
2:  mov [rdi + 0x2000 + rcx * 8], rax
    add rax, 0x1000
    inc ecx
    cmp ecx, {mapped}
    jne 2b
    mov eax, 0x83
    xor ecx, ecx
2:  mov [rdi + 0x3000 + rcx * 8], rax
    add rax, 0x200000
    inc ecx
    cmp ecx, {mapped} * 512
    jne 2b
    or qword ptr [rdi + 0x3000 + 8 * (0xfee00000 >> 21)], 0x18    # the APIC: not cached
    mov rax, cr4
    bt rax, 12                 # five levels, which cannot be changed here
    mov rax, rdi
    jc 3f
    add rax, 0x1000
3:  mov cr3, rax
    lea rsp, [rip + {stacks} + {stack}]
    # Every address in the data: moved by as much as the image was.
    mov rax, rbp
    sub rax, {linked}
    lea rbx, [rip + rela_start]
    lea rcx, [rip + rela_end]
4:  cmp rbx, rcx
    jae 5f
    mov rdx, [rbx]
    mov rsi, [rbx + 16]
    add rsi, rax
    mov [rdx + rax], rsi
    add rbx, 24
    jmp 4b
5:  call segments
    mov rdi, r15
    mov rsi, r14
    call {start}
    ud2

segments:
    lea rax, [rip + gdt]
    mov [rip + gdt_here + 2], rax
    lgdt [rip + gdt_here]
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    pop rax
    push 0x10
    push rax
    retfq

    # The number of a CPU that was started: the order in which they come.
other:
    mov eax, 1
    lock xadd [rip + {started}], eax
    cmp eax, {cpus}
6:  jae 6b
    mov ebx, eax
    inc eax
    imul rax, rax, {stack}
    lea rsp, [rip + {stacks}]
    add rsp, rax
    call segments
    mov edi, ebx
    call {start_other}
    ud2
    "#,
    linked = const LINKED,
    mapped = const MAPPED,
    stack = const STACK,
    cpus = const CPUS,
    tables = sym TABLES,
    stacks = sym STACKS,
    started = sym STARTED,
    start = sym crate::start,
    start_other = sym crate::start_other,
);

// Another CPU: real mode, CS at this very page. It goes to 64-bit mode at once, by the tables in the next
// page, as those of the image may lie above 4 GiB.
global_asm!(
    r#"
    .section .rodata.low, "a"
    .globl low_start, low_end
    .code16
low_start:
    jmp low_go
    .balign 8
low_cr4:   .quad 0
low_cr3:   .quad 0
low_other: .quad 0
low_gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
low_gdt_at:
    .word 31
    .long {low} + (low_gdt - low_start)
    .set low_cr4_at, {low} + (low_cr4 - low_start)
    .set low_gdt_here, {low} + (low_gdt_at - low_start)
low_go:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov eax, dword ptr [low_cr4_at]
    mov cr4, eax
    mov eax, {low} + 0x1000
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    lgdtd [low_gdt_here]
    mov eax, 0x80000011
    mov cr0, eax
    .byte 0x66, 0xea
    .long {low} + (low64 - low_start)
    .word 0x10
    .code64
low64:
    mov rax, [rip + low_cr3]
    mov cr3, rax
    jmp qword ptr [rip + low_other]
low_end:
    "#,
    low = const LOW,
);

/// Puts what other CPUs start with below 1 MiB.
///
/// # Safety
/// Once, on the first CPU, before any other is started.
pub unsafe fn place_low() {
    let (cr3, cr4): (u64, u64);
    // SAFETY: the page and the one behind it are in no map, and mapped at their own addresses; the three words
    // behind the first of what is copied are to be filled in.
    unsafe {
        core::arch::asm!("mov {}, cr3", "mov {}, cr4", out(reg) cr3, out(reg) cr4);
        let (from, to) = (&raw const low_start, LOW as *mut u8);
        let bytes = (&raw const low_end).offset_from_unsigned(from);
        to.copy_from_nonoverlapping(from, bytes);
        let words = to.cast::<u64>();
        words.add(1).write(cr4);
        words.add(2).write(cr3);
        words.add(3).write(&raw const other as u64);
        to.add(4096).copy_from_nonoverlapping(cr3 as *const u8, 4096);
    }
}
