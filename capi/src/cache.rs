//! Caches of objects of one size.

mod reservation;

use core::ffi::{c_char, c_int, c_void};
use core::ptr::NonNull;

use ::heirloom::kho::Parts;
use ::heirloom::slab::{Objects, RawCache};
use ::heirloom::{Cache, CacheSpec, Handle};

use crate::argument::{bad, memory, some, text, value};
use crate::buffers::heirloom_handle;
use crate::error::heirloom_error;
use crate::failure::{Failure, failed, pointer, status};
use crate::object::{Machine, heirloom, kernel};

pub use reservation::*;

/// For `flags` of a heirloom_cache_spec: every object survives the jump from birth, at no cost for each, until it
/// is freed.
pub const HEIRLOOM_CACHE_PRESERVING: u32 = 1;
/// For `flags` of a heirloom_cache_spec: adopting or resuming fails if the predecessor left no such cache, instead
/// of creating one.
pub const HEIRLOOM_CACHE_INHERITED: u32 = 2;

/// A cache. It stays until heirloom_cache_destroy(), or as long as its kernel's object.
pub struct heirloom_cache {
    _opaque: [u8; 0],
}

/// What a cache is to be like. All zeroes but for name and size is a plain one.
#[repr(C)]
pub struct heirloom_cache_spec {
    /// Its name, by which a successor finds it: 1 to 31 bytes of UTF-8. `buffer-` and `preserved-` are no beginnings.
    pub name: *const c_char,
    /// Bytes of an object, up to 512 KiB.
    pub size: usize,
    /// The alignment of an object, a power of two; 0: 8 bytes, or less if the size is no multiple of that.
    pub align: usize,
    /// A number that changes when the objects' layout does: a successor with another is refused them. 0: one made
    /// of size and alignment.
    pub fingerprint: u64,
    /// HEIRLOOM_CACHE_PRESERVING, HEIRLOOM_CACHE_INHERITED, both, or 0.
    pub flags: u32,
    /// Called once for each place in a slab, when the slab is made or adopted, and not at each allocation; null: not
    /// at all. An object that is allocated is as this left it, or as the caller that freed it before did, which
    /// has to be the same. Objects that a predecessor left are not constructed again.
    ///
    /// No lock is held meanwhile: it may allocate and free. Called from wherever a call of the cache is made, by
    /// several threads or processors at once. One in C++ must not throw.
    pub construct: Option<unsafe extern "C" fn(object: *mut c_void)>,
}

impl heirloom_cache_spec {
    /// Returns the spec, and whether the predecessor must have left such a cache.
    ///
    /// # Safety
    /// The name is null, or ends with a zero byte.
    unsafe fn get(&self) -> Result<(CacheSpec, bool), Failure> {
        if self.flags & !(HEIRLOOM_CACHE_PRESERVING | HEIRLOOM_CACHE_INHERITED) != 0 {
            return Err(bad("flags", heirloom_error::BadChoice));
        }
        // SAFETY: the caller's promise.
        let name = unsafe { text("name", self.name) }?;
        let mut spec =
            CacheSpec::new(name, self.size).preserving(self.flags & HEIRLOOM_CACHE_PRESERVING != 0);
        if self.align != 0 {
            spec = spec.align(self.align);
        }
        if self.fingerprint != 0 {
            spec = spec.fingerprint(self.fingerprint);
        }
        if let Some(construct) = self.construct {
            // SAFETY: what a field of this type promises: see it.
            spec = unsafe { spec.c_constructor(construct) };
        }
        Ok((spec, self.flags & HEIRLOOM_CACHE_INHERITED != 0))
    }
}

/// Returns the cache that C has a pointer to.
///
/// # Safety
/// The pointer is null, or from a call that returned it, and the kernel's object is not closed as long as the
/// result is used.
#[inline]
unsafe fn cache<'a>(cache: *mut heirloom_cache) -> Result<Cache<'a, Machine>, Failure> {
    let raw = some("cache", cache)?.cast::<RawCache>();
    // SAFETY: from `made`, of a cache of a kernel's object, which does not move as long as it is not closed.
    Ok(unsafe { Cache::from_raw(raw) })
}

/// Returns the cache that C has a pointer to, for a call at hand: what is wrong is told by another.
///
/// # Safety
/// As for [`cache`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "a comparison and a load")]
pub(crate) unsafe fn at_hand<'a>(cache: *mut heirloom_cache) -> Option<Cache<'a, Machine>> {
    let raw = NonNull::new(cache)?.cast::<RawCache>();
    // SAFETY: as in `cache`.
    Some(unsafe { Cache::from_raw(raw) })
}

/// Returns what C gets for a cache.
fn made(made: Result<Cache<'_, Machine>, Failure>) -> *mut heirloom_cache {
    match made {
        Ok(cache) => cache.into_raw().cast().as_ptr(),
        Err(failure) => {
            failed(failure);
            core::ptr::null_mut()
        }
    }
}

/// Returns the cache of this name, which is created if there is none. What a predecessor's cache of the same name has left
/// stays as it is: see heirloom_cache_adopt() and heirloom_cache_resume().
///
/// @return null if it cannot be: HEIRLOOM_ERROR_BAD_SPEC, _MISMATCH (there is one, of another size, alignment or
/// fingerprint, or with a constructor where this has none), _RESERVED_NAME, _OUT_OF_MEMORY.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed. `spec` leads to one, and its name to a text that
/// ends with a zero byte; neither is kept. Its constructor, if it has one, is there as long as the cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_create(
    h: *mut heirloom,
    spec: *const heirloom_cache_spec,
) -> *mut heirloom_cache {
    let create = || {
        // SAFETY: the caller's promise.
        let (kernel, (spec, _)) = unsafe { (kernel(h)?, value("spec", spec)?.get()?) };
        Ok(kernel.slabs().cache(spec)?)
    };
    made(create())
}

/// Returns the cache of this name, with the slabs that the predecessor's cache of that name left: each of its objects is to
/// be restored by its handle, with heirloom_restore(). The cache is created if there was none.
///
/// @param unclaimed how many objects are there to be restored; may be null.
/// @return null as heirloom_cache_create(); also if a slab of the predecessor's is not sound (_BAD_SLAB).
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_cache_create(); `unclaimed` is null, or has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_adopt(
    h: *mut heirloom,
    spec: *const heirloom_cache_spec,
    unclaimed: *mut u64,
) -> *mut heirloom_cache {
    let adopt = || {
        // SAFETY: the caller's promise.
        let (kernel, (spec, inherited)) = unsafe { (kernel(h)?, value("spec", spec)?.get()?) };
        let slabs = kernel.slabs();
        let (cache, adopted) =
            if inherited { slabs.adopt(spec) } else { slabs.adopt_or_create(spec) }?;
        if !unclaimed.is_null() {
            // SAFETY: the caller's promise.
            unsafe { unclaimed.write(adopted.unclaimed) };
        }
        Ok(cache)
    };
    made(adopt())
}

/// Returns the cache of this name, with all objects that the predecessor's cache of that name left in use as they were:
/// none is to be restored, and none costs anything. The cache is created if there was none.
///
/// For an owner that finds its objects by physical addresses, or handles and heirloom_find(), in memory that survives.
///
/// @return null as heirloom_cache_create(); also if it was adopted before (_ADOPTED).
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_cache_create().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_resume(
    h: *mut heirloom,
    spec: *const heirloom_cache_spec,
) -> *mut heirloom_cache {
    let resume = || {
        // SAFETY: the caller's promise.
        let (kernel, (spec, inherited)) = unsafe { (kernel(h)?, value("spec", spec)?.get()?) };
        let slabs = kernel.slabs();
        Ok(if inherited { slabs.resume(spec) } else { slabs.resume_or_create(spec) }?)
    };
    made(resume())
}

/// Allocates an object, with whatever it contains. The caller owns it until heirloom_cache_free().
///
/// @return null if there is no memory: heirloom_last_error().
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// `c` is from a call that returned it, and its kernel's object is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_alloc(c: *mut heirloom_cache) -> *mut c_void {
    // SAFETY: the caller's promise.
    if let Some(cache) = unsafe { at_hand(c) }
        && let Some(object) = cache.alloc_now()
    {
        return object.as_ptr().cast();
    }
    // SAFETY: the caller's promise.
    unsafe { alloc(c) }
}

/// Allocates an object that is not at hand.
///
/// # Safety
/// As for heirloom_cache_alloc().
#[inline(never)]
unsafe fn alloc(c: *mut heirloom_cache) -> *mut c_void {
    // SAFETY: the caller's promise.
    match unsafe { cache(c) } {
        Ok(cache) => pointer(cache.alloc()),
        Err(failure) => {
            failed(failure);
            core::ptr::null_mut()
        }
    }
}

/// Allocates an object filled with zeroes, as heirloom_cache_alloc().
///
/// @return null also if the cache has a constructor: HEIRLOOM_ERROR_CONSTRUCTED.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_cache_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_zalloc(c: *mut heirloom_cache) -> *mut c_void {
    // SAFETY: the caller's promise.
    match unsafe { cache(c) } {
        Ok(cache) => pointer(cache.alloc_zeroed()),
        Err(failure) => {
            failed(failure);
            core::ptr::null_mut()
        }
    }
}

/// Frees an object of this cache; nothing if `ptr` is null.
///
/// @return 0, or an error as heirloom_free(), and HEIRLOOM_ERROR_WRONG_CACHE: the object stays its owner's.
///
/// Context: any, on any CPU, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_cache_alloc(); the caller owns what `ptr` leads to, if that is memory of heirloom's at all, and
/// does not use it any more; no other call frees or preserves it at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_free(c: *mut heirloom_cache, ptr: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    if let (Some(cache), Some(at)) = (unsafe { at_hand(c) }, NonNull::new(ptr))
        // SAFETY: the caller's promise.
        && unsafe { cache.free_now(at.cast()) }
    {
        return 0;
    }
    // SAFETY: the caller's promise; nothing was freed.
    unsafe { free(c, ptr) }
}

/// Frees an object that is not freed at hand, or says why not.
///
/// # Safety
/// As for heirloom_cache_free().
#[inline(never)]
unsafe fn free(c: *mut heirloom_cache, ptr: *mut c_void) -> c_int {
    let Ok(at) = memory("ptr", ptr) else { return 0 };
    // SAFETY: the caller's promise.
    match unsafe { cache(c) } {
        // SAFETY: the caller's promise.
        Ok(cache) => match unsafe { cache.free(at) } {
            Ok(()) => 0,
            Err(error) => failed(error.into()),
        },
        Err(failure) => failed(failure),
    }
}

/// Gives back what the cache does not need: what this CPU keeps of free objects goes to their slabs, and slabs without
/// objects become free memory. Returns how many slabs.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_cache_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_shrink(c: *mut heirloom_cache) -> u64 {
    // SAFETY: the caller's promise.
    match unsafe { cache(c) } {
        Ok(cache) => cache.shrink(),
        Err(failure) => {
            failed(failure);
            0
        }
    }
}

/// Ends a cache: gives back all of its memory but for what the next cache of the same name and layout takes up again. Nothing
/// if it is null. What remains of a cache that is not destroyed ends with the kernel's object.
///
/// @return 0, or an error, and the cache goes on: HEIRLOOM_ERROR_CACHE_IN_USE (an object is in use, or the predecessor's and
/// not claimed), _CACHE_DESTROYED.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_cache_alloc(); nothing else uses the cache during the call, on any CPU, or asks for it by its name. If it
/// returns 0, nothing uses it later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_destroy(c: *mut heirloom_cache) -> c_int {
    if c.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise.
    let destroy = || Ok(unsafe { cache(c)?.destroy() }?);
    status(destroy())
}

/// Called for an object, with its handle and the context that was given. What is not 0 ends the walk.
///
/// No lock is held meanwhile: it may call anything, heirloom_restore() with the handle too. One in C++ must not throw:
/// hl::cache::each_preserved() and each_unclaimed() of heirloom.hpp call what may.
pub type heirloom_each =
    Option<unsafe extern "C" fn(handle: *const heirloom_handle, context: *mut c_void) -> c_int>;

/// Calls `each` with the handle of every object of the cache that the predecessor left and that is not restored.
/// What is restored or freed meanwhile may or may not be among them.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NULL.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_cache_alloc(); `each` can be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_each_unclaimed(
    c: *mut heirloom_cache,
    each: heirloom_each,
    context: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    status(unsafe { walk(c, Cache::unclaimed, each, context) })
}

/// Calls `each` with the handle of every object of the cache that is in use and survives the jump: what
/// heirloom_find() finds. What changes meanwhile may or may not be among them.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NULL.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_cache_each_unclaimed().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_each_preserved(
    c: *mut heirloom_cache,
    each: heirloom_each,
    context: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    status(unsafe { walk(c, Cache::preserved, each, context) })
}

/// Calls `each` with the handles of some of a cache's objects.
///
/// # Safety
/// As for heirloom_cache_each_unclaimed().
unsafe fn walk<'a>(
    c: *mut heirloom_cache,
    objects: impl Fn(&Cache<'a, Machine>) -> Objects<'a, Machine>,
    each: heirloom_each,
    context: *mut c_void,
) -> Result<(), Failure> {
    let each = each.ok_or(bad("each", heirloom_error::Null))?;
    // SAFETY: the caller's promise.
    let cache = unsafe { cache(c) }?;
    let bytes = cache.object_size() as u64;
    for (addr, tag) in objects(&cache) {
        let handle = heirloom_handle::from(Handle::new(Parts::Object { addr, bytes, tag })?);
        // SAFETY: the caller's promise; the handle is there as long as the call.
        if unsafe { each(NonNull::from(&handle).as_ptr(), context) } != 0 {
            break;
        }
    }
    Ok(())
}
