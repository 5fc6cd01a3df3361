//! How much memory is in which state, and giving back what is not needed.

use core::ffi::c_int;

use crate::argument::some;
use crate::failure::{failed, status};
use crate::object::{heirloom, kernel};

/// How many pages are in which state: `pages == free + cached + used`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct heirloom_stats {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages that there are.
    pub pages: u64,
    /// Free pages, outside the CPUs' caches.
    pub free: u64,
    /// Pages that are known and absent: see heirloom_online().
    pub absent: u64,
    /// Free pages in the CPUs' caches.
    pub cached: u64,
    /// Pages in use: allocated, reserved, slabs, tables.
    pub used: u64,
    /// Pages that survive the jump, of those in use.
    pub preserved: u64,
    /// Objects and buffers that stayed in use, because the end of their owner could not free them.
    pub refused_frees: u64,
}

/// Writes how many pages are in which state; exact while nothing is allocated or freed.
///
/// @return 0, or HEIRLOOM_ERROR_NULL.
///
/// Context: any; costs a pass over the memory's bitmaps.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `stats` has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_stats(h: *mut heirloom, stats: *mut heirloom_stats) -> c_int {
    let get = || {
        // SAFETY: the caller's promise.
        let (kernel, stats) = (unsafe { kernel(h)? }, some("stats", stats)?);
        let counted = kernel.memory().stats();
        let counted = heirloom_stats {
            page_bytes: ::heirloom::PAGE_SIZE as u64,
            pages: counted.frames,
            free: counted.free(),
            absent: counted.absent,
            cached: counted.cached,
            used: counted.used(),
            preserved: counted.preserved,
            refused_frees: kernel.slabs().refused_frees(),
        };
        // SAFETY: the caller's promise.
        unsafe { stats.write(counted) };
        Ok(())
    };
    status(get())
}

/// Empties what this CPU (or thread) keeps, and nothing else: free objects go to their slabs, free pages are every
/// CPU's. For a CPU that is about to go offline, or that another asks by an interrupt.
///
/// @return whether it did: 1, or 0 where heirloom_os_pin() gives no number, or a lock might have to be waited for.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_flush(h: *mut heirloom) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { kernel(h) } {
        Ok(kernel) => kernel.slabs().flush().into(),
        Err(failure) => {
            failed(failure);
            0
        }
    }
}

/// Gives back what no cache needs: free objects that this CPU keeps go to their slabs, slabs without objects become free
/// memory, and this CPU's free pages are everyone's. Returns how many slabs.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_shrink(h: *mut heirloom) -> u64 {
    // SAFETY: the caller's promise.
    match unsafe { kernel(h) } {
        Ok(kernel) => kernel.slabs().shrink(),
        Err(failure) => {
            failed(failure);
            0
        }
    }
}
