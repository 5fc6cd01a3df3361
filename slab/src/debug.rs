//! What the feature `debug` adds: poison in free objects, and red zones behind all.
//!
//! A free object is filled with one byte and must still be when it is allocated; the zone behind
//! an object is filled with another and must still be when it is freed. Objects of caches with a
//! constructor keep their contents while they are free, and are not poisoned. Freeing takes an
//! atomic exchange, so that of two frees at the same time one is found.
//!
//! Red zones change the stride. A cache that adopts slabs of a build without them has none.

use core::ptr::NonNull;

use crate::geometry::Geometry;

/// Whether this build checks.
pub(crate) const ENABLED: bool = cfg!(feature = "debug");

/// What free objects are filled with.
pub(crate) const POISON: u8 = 0x5b;
/// What red zones are filled with.
pub(crate) const ZONE: u8 = 0xbb;

/// Fills an object that is free.
///
/// # Safety
/// The object is of this geometry, free, and the caller's alone.
pub(crate) unsafe fn poison(object: NonNull<u8>, geometry: &Geometry) {
    // SAFETY: `size` bytes of the caller's.
    unsafe { object.write_bytes(POISON, geometry.size as usize) };
}

/// Fills the red zone behind an object, if there is one.
///
/// # Safety
/// The object is of this geometry, and nobody else writes behind it at the same time.
pub(crate) unsafe fn fence(object: NonNull<u8>, geometry: &Geometry) {
    if geometry.zones {
        let (size, stride) = (geometry.size as usize, geometry.stride as usize);
        // SAFETY: the bytes from `size` to `stride` are this object's, and nobody's to use.
        unsafe { object.add(size).write_bytes(ZONE, stride - size) };
    }
}

/// How far into a free object the first byte is that is not poison.
///
/// # Safety
/// As for [`poison`].
pub(crate) unsafe fn spoiled(object: NonNull<u8>, geometry: &Geometry) -> Option<usize> {
    // SAFETY: the caller's promise.
    unsafe { first_other(object, 0, geometry.size as usize, POISON) }
}

/// How far behind the start of an object the first byte of its red zone is that was overwritten.
///
/// # Safety
/// The object is of this geometry, and nobody writes behind it at the same time.
pub(crate) unsafe fn overrun(object: NonNull<u8>, geometry: &Geometry) -> Option<usize> {
    if !geometry.zones {
        return None;
    }
    // SAFETY: the bytes behind the object up to the stride are of its slab.
    unsafe { first_other(object, geometry.size as usize, geometry.stride as usize, ZONE) }
}

/// The first of the bytes `from..to` behind `start` that is not `byte`.
///
/// # Safety
/// They are readable, and nobody writes them at the same time.
unsafe fn first_other(start: NonNull<u8>, from: usize, to: usize, byte: u8) -> Option<usize> {
    // SAFETY: the caller's promise.
    (from..to).find(|at| unsafe { start.add(*at).read() } != byte)
}
