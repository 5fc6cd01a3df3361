//! The serial line: all that the kernel says.

use core::fmt::{self, Write};

use lock_api::Mutex;

pub use crate::arch::serial::off;
use crate::arch::serial::put;
use crate::machine::Lock;

static LINE: Mutex<Lock, ()> = Mutex::new(());

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(put);
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

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
