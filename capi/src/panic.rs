//! Where the kernel flavour ends if it finds itself at fault.

use core::fmt::Write;

use crate::failure::Room;
use crate::os::heirloom_os_panic;

/// Bytes of the text.
const BYTES: usize = 256;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut text = [0; BYTES];
    // SAFETY: the array lives longer than the value.
    let mut room = unsafe { Room::new(text.as_mut_ptr(), BYTES) };
    // It counts what has no room, and fails never.
    let _ = write!(room, "{info}");
    let bytes = room.end().min(BYTES - 1);
    // SAFETY: a text of so many bytes, and a zero byte behind them.
    unsafe { heirloom_os_panic(text.as_ptr(), bytes) }
}
