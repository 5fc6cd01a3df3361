//! Asking for a cache line before it is needed, so that two that are far away come together.
#![allow(unsafe_code, reason = "an instruction that core has no name for")]

/// Asks for the line that holds `place`; where the machine has no such hint, does nothing.
#[inline]
pub fn prefetch<T>(place: &T) {
    prefetch_at(place);
}

/// Does the same for a place that may be free by now.
#[inline]
pub fn prefetch_at<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(any(miri, loom))))]
    // SAFETY: a hint, which neither reads nor writes as far as a program can tell.
    unsafe {
        let at = place.addr();
        core::arch::asm!("prefetcht0 [{}]", in(reg) at, options(nomem, nostack, preserves_flags));
    }
    #[cfg(all(target_arch = "aarch64", not(any(miri, loom))))]
    // SAFETY: as above.
    unsafe {
        let at = place.addr();
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nomem, nostack, preserves_flags));
    }
    let _ = place;
}
