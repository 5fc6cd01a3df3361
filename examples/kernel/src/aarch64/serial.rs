//! The serial line, a PL011, and the end of the machine.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

pub use super::psci::end as off;

/// Where it is: where `virt` has it, until the device tree says.
pub static LINE: AtomicU64 = AtomicU64::new(0x0900_0000);

/// Sends a byte over the line.
pub fn put(byte: u8) {
    let line = LINE.load(Relaxed) as *mut u32;
    // SAFETY: registers of the line, which are mapped at their own addresses: its state, of which a bit says that it
    // takes no byte now, and what it sends.
    unsafe {
        while line.byte_add(0x18).read_volatile() & 1 << 5 != 0 {}
        line.write_volatile(u32::from(byte));
    }
}
