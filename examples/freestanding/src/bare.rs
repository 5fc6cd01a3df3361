//! What a program without a C library has to bring: an entry point, two system calls, the memory
//! functions that the compiler calls, a panic handler. x86-64 Linux.

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

extern "C" fn entry() -> ! {
    exit(crate::main())
}

fn exit(status: i32) -> ! {
    // SAFETY: `exit_group(status)` does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack)) }
}

struct Stderr;

impl Write for Stderr {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // SAFETY: `write(2, s, s.len())` reads `s` and changes rax, rcx and r11 only.
        unsafe {
            asm!("syscall", inout("rax") 1_usize => _, in("rdi") 2, in("rsi") s.as_ptr(),
                 in("rdx") s.len(), out("rcx") _, out("r11") _, options(nostack, readonly));
        }
        Ok(())
    }
}

/// Prints to standard error.
pub fn print(text: fmt::Arguments<'_>) {
    // Standard error that cannot be written to cannot be complained to either.
    let _ = Stderr.write_fmt(text);
}

/// Prints an error and returns the exit status.
pub fn fail(status: i32, error: &dyn fmt::Display) -> i32 {
    print(format_args!("freestanding: step {status}: {error}\n"));
    status
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print(format_args!("{info}\n"));
    exit(101)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's buffers are as long as it says; the direction flag is clear.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") bytes => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if (to.addr()).wrapping_sub(from.addr()) >= bytes {
        // SAFETY: copying upward reads every byte before it is overwritten.
        return unsafe { memcpy(to, from, bytes) };
    }
    let (last_to, last_from) =
        (to.wrapping_add(bytes).wrapping_sub(1), from.wrapping_add(bytes).wrapping_sub(1));
    // SAFETY: copying downward reads every byte before it is overwritten; the flag is cleared.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") last_to => _, inout("rsi") last_from => _,
             inout("rcx") bytes => _, options(nostack));
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's buffer is as long as it says; the direction flag is clear.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") bytes => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    for i in 0..bytes {
        // SAFETY: the caller's buffers are as long as it says.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, bytes) }
}

/// core comes compiled for unwinding and names this; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
