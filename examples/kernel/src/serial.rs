//! The serial line: all that the kernel says. And the end of the machine.

use core::fmt::{self, Write};

use lock_api::Mutex;

use crate::machine::Lock;

const COM1: u16 = 0x3f8;

static LINE: Mutex<Lock, ()> = Mutex::new(());

/// Writes a byte to a port.
///
/// # Safety
/// As the device behind it has it.
pub unsafe fn out(port: u16, byte: u8) {
    // SAFETY: the caller's promise.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") byte, options(nostack)) };
}

fn input(port: u16) -> u8 {
    let byte;
    // SAFETY: reading the line's state changes nothing.
    unsafe { core::arch::asm!("in al, dx", in("dx") port, out("al") byte, options(nostack)) };
    byte
}

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while input(COM1 + 5) & 0x20 == 0 {}
            // SAFETY: the line is ready for a byte.
            unsafe { out(COM1, byte) };
        }
        Ok(())
    }
}

/// Says one line.
pub fn say(text: fmt::Arguments<'_>) {
    let _turn = LINE.lock();
    // The line takes every byte.
    let _ = writeln!(Serial, "kernel: {text}");
}

/// Says it in an interrupt, whatever this came in the middle of: no other CPU says anything.
pub fn cry(text: fmt::Arguments<'_>) {
    let _ = writeln!(Serial, "\nkernel: {text}");
}

/// Says it without waiting for another CPU, and turns the machine off: what went wrong is worth more than a whole line.
pub fn fail(text: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Serial, "\nkernel: failed: {text}");
    off()
}

/// Turns the machine off: QEMU's, by ACPI.
pub fn off() -> ! {
    loop {
        // SAFETY: the port of QEMU's power management, and its value for off.
        unsafe {
            core::arch::asm!("out dx, ax", in("dx") 0x604_u16, in("ax") 0x2000_u16);
            core::arch::asm!("cli", "hlt");
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
