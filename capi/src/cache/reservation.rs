//! Objects of a cache that are set aside for a caller that must not fail.

use core::ffi::{c_int, c_void};
use core::ptr::NonNull;

use ::heirloom::slab::Reservation;

use super::{cache, heirloom_cache};
use crate::argument::some;
use crate::failure::status;
use crate::object::Machine;

/// Objects of a cache that are set aside: see heirloom_cache_reserve(). The caller has room for it, and does not move it.
#[repr(C)]
pub struct heirloom_reservation {
    /// heirloom's own.
    pub words: [u64; 8],
}

/// Objects that are set aside, in the room that C has for them.
type Reserved = Reservation<'static, Machine>;

const _: () = assert!(
    size_of::<Reserved>() <= size_of::<heirloom_reservation>()
        && align_of::<Reserved>() <= align_of::<heirloom_reservation>(),
    "C has room for a reservation"
);

/// Sets objects aside: as many calls of heirloom_reserved_alloc() cannot fail, whatever others do meanwhile. Of a preserving
/// cache what they return survives from then on, for an owner that is to preserve in the middle of something.
///
/// @param reservation room for it; ended by heirloom_unreserve().
/// @return 0, or an error, and nothing is set aside, nor to be ended: HEIRLOOM_ERROR_OUT_OF_MEMORY.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_cache_alloc(); `reservation` has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_reserve(
    c: *mut heirloom_cache,
    objects: usize,
    reservation: *mut heirloom_reservation,
) -> c_int {
    let reserve = || {
        let room = some("reservation", reservation)?.cast::<Reserved>();
        // SAFETY: the caller's promise, for as long as the reservation is used.
        let reserved = unsafe { cache(c)?.reserve(objects) }?;
        // SAFETY: the caller's promise; it is large and aligned enough, as asserted above.
        unsafe { room.write(reserved) };
        Ok(())
    };
    status(reserve())
}

/// Allocates one of the objects that were set aside, with whatever it contains. It is the caller's until heirloom_cache_free(),
/// like any other of the cache. Takes no lock.
///
/// @return null once as many were allocated as were reserved, and never before.
///
/// Context: any, NMIs included.
///
/// # Safety
/// `reservation` is from heirloom_cache_reserve(), which returned 0, and not ended; its kernel's object is not closed; no
/// other call uses it at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_reserved_alloc(
    reservation: *mut heirloom_reservation,
) -> *mut c_void {
    // SAFETY: the caller's promise: null, or written by `heirloom_cache_reserve`.
    let reserved = unsafe { reservation.cast::<Reserved>().as_mut() };
    let object = reserved.and_then(Reservation::alloc);
    object.map_or(core::ptr::null_mut(), |object| object.as_ptr().cast())
}

/// Ends a reservation: what of it was not allocated goes back to the cache. Nothing if it is null.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_reserved_alloc(); the reservation is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_unreserve(reservation: *mut heirloom_reservation) {
    if let Some(reserved) = NonNull::new(reservation.cast::<Reserved>()) {
        // SAFETY: the caller's promise: written by `heirloom_cache_reserve`, and ended once.
        unsafe { reserved.drop_in_place() };
    }
}
