//! Asking for a cache line before it is needed.

use core::ptr::NonNull;

/// Asks for the line that `ptr` is on; any pointer will do. Where there is no such instruction
/// this does nothing.
#[inline]
pub(crate) fn prefetch(ptr: NonNull<u8>) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing that could be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse", not(miri))))]
    let _ = ptr;
}
