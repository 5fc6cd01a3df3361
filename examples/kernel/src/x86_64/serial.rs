//! Ports: the serial line, and the end of the machine.

const COM1: u16 = 0x3f8;

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

/// Sends a byte over the line.
pub fn put(byte: u8) {
    while input(COM1 + 5) & 0x20 == 0 {}
    // SAFETY: the line is ready for a byte.
    unsafe { out(COM1, byte) };
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
