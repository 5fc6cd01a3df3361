//! Frames as bytes, whatever their last owner left there.
//!
//! To the language a byte that no value covers, the padding in a struct, has no value at all, and
//! memory keeps that for the next owner: reading it is undefined, though the machine has some byte
//! there. An owned handle gives its frames as `&[u8]`, so it settles on the bytes that are there
//! when it is made. That costs no instruction where an assembly block can be written, and
//! elsewhere, as under an interpreter, the frames are filled.

use core::ptr::NonNull;

/// Gives every byte of frames a value, of which the contents do not matter.
///
/// # Safety
/// `bytes` bytes at `start` are the caller's alone, and mapped.
#[inline]
pub(crate) unsafe fn settle_any(start: NonNull<u8>, bytes: usize) {
    if ASSEMBLY {
        settle(start);
    } else {
        // SAFETY: the caller's promise.
        unsafe { start.write_bytes(FILL, bytes) };
        heirloom_kho::sync::written(start, bytes);
    }
}

/// Not zero, so that no caller takes memory for cleared that was not asked for so.
const FILL: u8 = 0xa5;

/// Whether [`settle`] does it.
const ASSEMBLY: bool = cfg!(all(
    any(
        target_arch = "x86",
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv32",
        target_arch = "riscv64",
        target_arch = "loongarch64"
    ),
    not(miri)
));

/// Settles memory that is the caller's alone from `start` on: afterwards each byte has the value that it
/// has in the machine.
///
/// What an interpreter, and a target without assembly, has from a predecessor is read as it is: a
/// predecessor is another program there, to which a byte is a byte.
#[inline]
pub(crate) fn settle(start: NonNull<u8>) {
    #[cfg(all(
        any(
            target_arch = "x86",
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv32",
            target_arch = "riscv64",
            target_arch = "loongarch64"
        ),
        not(miri)
    ))]
    // SAFETY: no instruction. To the compiler the block may store to what the pointer leads to, and
    // what it stores are bytes: those that the machine has there.
    unsafe {
        core::arch::asm!("/* {} */", in(reg) start.as_ptr(), options(nostack, preserves_flags));
    }
    let _ = start;
}
