//! The kernel's object, as C has it.

use ::heirloom::Heirloom;

use crate::argument::some;
use crate::failure::Failure;

/// What heirloom runs on: threads over an arena, or the kernel's own CPUs.
#[cfg(feature = "std")]
pub(crate) type Machine = &'static ::heirloom::arena::Arena;
/// What heirloom runs on: threads over an arena, or the kernel's own CPUs.
#[cfg(not(feature = "std"))]
pub(crate) type Machine = crate::os::Os;

/// Memory that outlives its kernel: buffers, caches, and what is handed over.
pub struct heirloom {
    pub(crate) kernel: Heirloom<Machine>,
    /// What it runs on, which must not be closed before.
    #[cfg(feature = "std")]
    pub(crate) arena: core::ptr::NonNull<crate::arena::heirloom_arena>,
}

/// Returns the object that C has a pointer to.
///
/// # Safety
/// `h` is null, or from a call that boots or revives, and is not closed as long as the result is used.
#[inline]
pub(crate) unsafe fn kernel<'a>(h: *mut heirloom) -> Result<&'a Heirloom<Machine>, Failure> {
    // SAFETY: the caller's promise; nothing changes the object but through atomics.
    Ok(unsafe { &some("heirloom", h)?.as_ref().kernel })
}
