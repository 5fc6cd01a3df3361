//! The kernel's object, as C has it.

use ::heirloom::Heirloom;
#[cfg(feature = "std")]
use ::heirloom::arena::Arena;

use crate::argument::some;
use crate::failure::Failure;

/// What heirloom runs on: threads over an arena, or the kernel's own CPUs.
#[cfg(feature = "std")]
pub(crate) type Machine = &'static Arena;
/// What heirloom runs on: threads over an arena, or the kernel's own CPUs.
#[cfg(not(feature = "std"))]
pub(crate) type Machine = crate::os::Os;

/// Memory that outlives its kernel: buffers, caches, and what is handed over.
#[cfg_attr(not(feature = "std"), repr(transparent))]
pub struct heirloom {
    pub(crate) kernel: Heirloom<Machine>,
    /// What it runs on, which must not be closed before.
    #[cfg(feature = "std")]
    pub(crate) arena: core::ptr::NonNull<heirloom_arena>,
}

/// Physical memory made of a memfd, for this process and its successors. One process at a time has it.
#[cfg(feature = "std")]
pub struct heirloom_arena {
    pub(crate) arena: Arena,
    /// A kernel's object is over it.
    pub(crate) in_use: core::sync::atomic::AtomicBool,
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

/// Returns the object that C has a pointer to, for a call at hand: what is wrong is told by another.
///
/// # Safety
/// As for [`kernel`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "a comparison")]
pub(crate) unsafe fn at_hand<'a>(h: *mut heirloom) -> Option<&'a Heirloom<Machine>> {
    // SAFETY: the caller's promise; nothing changes the object but through atomics.
    unsafe { h.as_ref() }.map(|object| &object.kernel)
}
