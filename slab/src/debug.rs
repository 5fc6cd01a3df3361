//! What the feature `debug` adds: poison in free objects, and red zones behind all.
//!
//! A free object is filled with one byte and must still be when it is allocated; the red zone behind
//! an object is filled with another and must still be when it is freed. Objects of caches with a
//! constructor keep their contents while they are free, and are not poisoned. Freeing takes an
//! atomic exchange, so that of two frees at the same time one is found.
//!
//! Red zones change the stride. A cache that adopts slabs of a build without them has none.

use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{u32_to_usize, usize_to_u64};
use heirloom_kho::sync::Ordering::Relaxed;

use crate::error::{Action, Error};
use crate::geometry::Geometry;
use crate::object_ref::ObjectRef;
use crate::state::{ObjectState, State};

/// Whether this build checks.
pub(crate) const ENABLED: bool = cfg!(feature = "debug");

/// What free objects are filled with.
const POISON: u8 = 0x5b;
/// What red zones are filled with.
const REDZONE_BYTE: u8 = 0xbb;

/// Fills an object that is free.
///
/// # Safety
/// The object is of this geometry, free, and the caller's alone.
pub(crate) unsafe fn poison(object: NonNull<u8>, geometry: &Geometry) {
    // SAFETY: `size` bytes of the caller's.
    unsafe { object.write_bytes(POISON, u32_to_usize(geometry.size)) };
}

/// Fills the red zone behind an object, if there is one.
///
/// # Safety
/// The object is of this geometry, and nothing else writes behind it at the same time.
pub(crate) unsafe fn fill_redzone(object: NonNull<u8>, geometry: &Geometry) {
    if geometry.redzone {
        let (size, stride) = (u32_to_usize(geometry.size), u32_to_usize(geometry.stride));
        // SAFETY: the bytes from `size` to `stride` are this object's, and no caller's to use.
        unsafe { object.add(size).write_bytes(REDZONE_BYTE, stride - size) };
    }
}

/// Checks an object that is about to be freed, makes it free, and poisons it.
///
/// # Safety
/// The caller owns the object.
pub(crate) unsafe fn check_free<M: Machine>(
    object_ref: &ObjectRef<'_, '_, M>,
    state: State,
) -> Result<(), Error> {
    let geometry = &object_ref.inner.geometry;
    let object = object_ref.slab.object(geometry, object_ref.index);
    // SAFETY: the caller owns the object, and nothing else writes behind it but by mistake.
    if ENABLED && let Some(at) = unsafe { overrun(object, geometry) } {
        return Err(overwritten(object_ref, at));
    }
    let state = object_ref.release(state);
    // Of two frees at the same time one loses here.
    if !object_ref.exchange(state, ObjectState::Free) {
        return Err(object_ref.refused(Action::Free));
    }
    if ENABLED && object_ref.inner.constructor().is_none() {
        // SAFETY: the caller gave the object up, and it is in no magazine yet.
        unsafe { poison(object, geometry) };
    }
    Ok(())
}

/// Checks an object that is about to be handed out. One that was written to is taken out of use.
pub(crate) fn check_alloc<M: Machine>(object_ref: &ObjectRef<'_, '_, M>) -> Result<(), Error> {
    let state = object_ref.state();
    let geometry = &object_ref.inner.geometry;
    let object = object_ref.slab.object(geometry, object_ref.index);
    let spoiled = match object_ref.inner.constructor() {
        Some(_) => None,
        // SAFETY: the object came from a magazine and is ours alone.
        None => unsafe { first_other(object, 0, u32_to_usize(geometry.size), POISON) },
    };
    // SAFETY: as above; behind it nothing writes but by mistake.
    let at = spoiled.or_else(|| unsafe { overrun(object, geometry) });
    let at = at.or(if state.is(ObjectState::Free) { None } else { Some(0) });
    at.map_or(Ok(()), |at| {
        let bad = state.to(ObjectState::Quarantined);
        object_ref.slab.state(geometry, object_ref.index).store(bad.0, Relaxed);
        Err(overwritten(object_ref, at))
    })
}

fn overwritten<M: Machine>(object_ref: &ObjectRef<'_, '_, M>, at: usize) -> Error {
    let addr = object_ref.addr();
    let at = PhysAddr::new(addr.get() + usize_to_u64(at));
    Error::Overwritten { cache: object_ref.inner.name, addr, at }
}

/// Returns how far behind the start of an object the first byte of its red zone is that was
/// overwritten.
///
/// # Safety
/// The object is of this geometry, and nothing writes behind it at the same time.
unsafe fn overrun(object: NonNull<u8>, geometry: &Geometry) -> Option<usize> {
    if !geometry.redzone {
        return None;
    }
    // SAFETY: the bytes behind the object up to the stride are of its slab.
    unsafe {
        first_other(
            object,
            u32_to_usize(geometry.size),
            u32_to_usize(geometry.stride),
            REDZONE_BYTE,
        )
    }
}

/// Returns the first of the bytes `from..to` behind `start` that is not `byte`.
///
/// # Safety
/// They are readable, and nothing writes them at the same time.
unsafe fn first_other(start: NonNull<u8>, from: usize, to: usize, byte: u8) -> Option<usize> {
    // SAFETY: the caller's promise.
    (from..to).find(|at| unsafe { start.add(*at).read() } != byte)
}
