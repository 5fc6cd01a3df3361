//! What the predecessor left and nothing claimed: told, and freed or kept.

use core::ffi::{c_char, c_int, c_void};
use core::fmt::Write;

use ::heirloom::{Disposition, Unclaimed};

use crate::failure::{Room, status};
use crate::object::{heirloom, kernel};

/// What an unclaimed thing is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum heirloom_kind {
    /// What was published under a name: `name`.
    Name = 0,
    /// Whole pages: a folio, or a block of a larger buffer.
    Pages = 1,
    /// A slab of a cache that was neither adopted nor resumed, with all that is in it: `name` is the cache's.
    Slab = 2,
    /// An object of a cache that was adopted, or a small buffer: `name` is the cache's.
    Object = 3,
}

/// Something that a predecessor preserved and that was not claimed.
#[repr(C)]
pub struct heirloom_unclaimed {
    /// What it is.
    pub kind: heirloom_kind,
    /// Preserved objects in a slab; 0 of all else.
    pub objects: u32,
    /// The physical address of its first byte.
    pub addr: u64,
    /// How many bytes; 0 if that is not known.
    pub bytes: u64,
    /// Its name, or its cache's; empty for pages.
    pub name: [c_char; 40],
}

impl heirloom_unclaimed {
    fn new(kind: heirloom_kind, addr: u64, bytes: u64, objects: u32, name: &str) -> Self {
        let mut this = Self { kind, objects, addr, bytes, name: [0; 40] };
        // SAFETY: the field's own room, which lives as long as the value.
        let mut room = unsafe { Room::new(this.name.as_mut_ptr(), this.name.len()) };
        // It counts what has no room, and fails never.
        let _ = room.write_str(name);
        room.end();
        this
    }
}

impl From<Unclaimed> for heirloom_unclaimed {
    fn from(unclaimed: Unclaimed) -> Self {
        use heirloom_kind::{Name, Object, Pages, Slab};
        match unclaimed {
            Unclaimed::Subtree { name, addr, bytes } => {
                Self::new(Name, addr.get(), bytes.unwrap_or(0), 0, name.as_str())
            }
            Unclaimed::Folio(block) => {
                Self::new(Pages, block.addr().get(), block.run().bytes(), 0, "")
            }
            Unclaimed::Slab { cache, slab, objects } => {
                Self::new(Slab, slab.addr().get(), slab.run().bytes(), objects, cache.as_str())
            }
            Unclaimed::Object { cache, addr, size } => {
                Self::new(Object, addr.get(), size.into(), 0, cache.as_str())
            }
            // Of a kind that this layer does not know yet: told without a place.
            _ => Self::new(Pages, 0, 0, 0, ""),
        }
    }
}

/// Says what becomes of an unclaimed thing: it is freed if the function returns 0, and stays preserved, to be
/// claimed in this kernel or the next, if it returns anything else. `unclaimed` is there during the call alone.
///
/// No lock is held meanwhile: it may call anything, heirloom_restore() too. One in C++ must not throw: hl::memory::finish()
/// of heirloom.hpp calls what may.
pub type heirloom_fate = Option<
    unsafe extern "C" fn(unclaimed: *const heirloom_unclaimed, context: *mut c_void) -> c_int,
>;

/// How much was not claimed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct heirloom_finished {
    /// Names that were not retrieved.
    pub names: u64,
    /// Blocks of whole pages that were not claimed.
    pub blocks: u64,
    /// Pages in them.
    pub pages: u64,
    /// Slabs of caches that were neither adopted nor resumed.
    pub slabs: u64,
    /// Objects that were not claimed, in slabs that were adopted.
    pub objects: u64,
}

/// Tells what the predecessor preserved and nothing claimed, and frees it, or keeps it, as `disposition` says; frees all if
/// `disposition` is null. When every owner has had its turn, or never: what is not claimed costs its memory, and nothing else.
/// Can be repeated.
///
/// @param finished how much there was; may be null.
/// @return 0, or an error: what was decided by then stands.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `disposition` is null, or can be called with `context`;
/// `finished` is null, or has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_finish(
    h: *mut heirloom,
    disposition: heirloom_fate,
    context: *mut c_void,
    finished: *mut heirloom_finished,
) -> c_int {
    let finish = || {
        // SAFETY: the caller's promise.
        let kernel = unsafe { kernel(h)? };
        let told = kernel.finish(|unclaimed| {
            let Some(disposition) = disposition else { return Disposition::Free };
            let unclaimed = heirloom_unclaimed::from(unclaimed);
            // SAFETY: the caller's promise; what it is given is there as long as the call.
            if unsafe { disposition(&raw const unclaimed, context) } == 0 {
                Disposition::Free
            } else {
                Disposition::Keep
            }
        })?;
        if !finished.is_null() {
            let ::heirloom::Finished { subtrees, folios, frames, slabs, objects } = told;
            let told = heirloom_finished {
                names: subtrees,
                blocks: folios,
                pages: frames,
                slabs,
                objects,
            };
            // SAFETY: the caller's promise.
            unsafe { finished.write(told) };
        }
        Ok(())
    };
    status(finish())
}
