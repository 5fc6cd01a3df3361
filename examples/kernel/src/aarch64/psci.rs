//! What firmware does for a kernel: CPUs on and off, and the end of the machine. `virt` has it in the place of a
//! hypervisor.

use core::arch::asm;

/// Calls it. Returns what it says: 0 or more, or an error.
fn call(function: u32, [first, second, third]: [u64; 3]) -> i64 {
    let result;
    // SAFETY: the functions below; what they change is theirs, and registers as of any call.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") u64::from(function) => result,
            inout("x1") first => _,
            inout("x2") second => _,
            inout("x3") third => _,
            clobber_abi("C"),
            options(nostack),
        );
    }
    result
}

/// Turns a CPU on, which begins at an address, with a number in X0.
///
/// # Safety
/// What lies there is for a CPU to begin with, and this number is its own.
pub unsafe fn turn_on(affinity: u64, at: u64, number: u64) -> i64 {
    call(0xc400_0003, [affinity, at, number])
}

/// Turns this CPU off.
pub fn turn_off() -> ! {
    loop {
        call(0x8400_0002, [0; 3]);
    }
}

/// Whether a CPU is off.
pub fn is_off(affinity: u64) -> bool {
    call(0xc400_0004, [affinity, 0, 0]) == 1
}

/// Turns the machine off.
pub fn end() -> ! {
    loop {
        call(0x8400_0008, [0; 3]);
    }
}
