//! `void*` buffers: allocate, free, preserve, restore.

use core::alloc::Layout;
use core::ffi::{c_int, c_void};
use core::ptr::NonNull;

use ::heirloom::{AllocOptions, Handle, PAGE_SIZE};

use crate::argument::{bad, memory, some, value};
use crate::error::heirloom_error;
use crate::failure::{Failure, failed, pointer, status};
use crate::object::{at_hand, heirloom, kernel};

/// The alignment of a buffer for which the caller asked for no other, in bytes.
const ALIGN: usize = 16;

/// For heirloom_alloc_with(): filled with zeroes.
pub const HEIRLOOM_ZEROED: u32 = 1;
/// For heirloom_alloc_with(): preserved from birth, and let go by heirloom_free() alone.
pub const HEIRLOOM_PRESERVED: u32 = 2;

/// Sixteen bytes that name a buffer or an object, for the successor to restore it by. They can be
/// copied, stored in memory that survives, and published.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct heirloom_handle {
    /// The bytes, the same for every build and machine.
    pub bytes: [u8; 16],
}

impl heirloom_handle {
    pub(crate) fn get(self) -> Handle {
        Handle::from(self.bytes)
    }
}

impl From<Handle> for heirloom_handle {
    fn from(handle: Handle) -> Self {
        Self { bytes: handle.into() }
    }
}

fn layout(bytes: usize, align: usize) -> Result<Layout, Failure> {
    let bad = ::heirloom::slab::Error::BadLayout { size: bytes, align };
    Ok(Layout::from_size_align(bytes, align).map_err(|_| bad)?)
}

/// Returns the layout of a small buffer for which the caller asked for no other alignment: any size that a call at
/// hand may be about.
#[inline]
pub(crate) const fn small(bytes: usize) -> Option<Layout> {
    // The last byte of what is a multiple of the alignment, as the size classes look at it: the two bounds, here and
    // there, become one. Of no bytes it is far beyond. What is left out here is whole pages.
    let last = bytes.wrapping_sub(1) | (ALIGN - 1);
    if last >= PAGE_SIZE - ALIGN {
        return None;
    }
    // SAFETY: a power of two, and less than a page, which is nowhere near an address's end.
    Some(unsafe { Layout::from_size_align_unchecked(bytes, ALIGN) })
}

/// Allocates a buffer of any kind.
///
/// # Safety
/// As for [`kernel`].
#[inline(never)]
unsafe fn alloc(
    h: *mut heirloom,
    bytes: usize,
    align: usize,
    options: AllocOptions,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let kernel = match unsafe { kernel(h) } {
        Ok(kernel) => kernel,
        Err(failure) => {
            failed(failure);
            return core::ptr::null_mut();
        }
    };
    match layout(bytes, align) {
        Ok(layout) => pointer(kernel.slabs().alloc(layout, options)),
        Err(failure) => {
            failed(failure);
            core::ptr::null_mut()
        }
    }
}

/// Allocates `bytes` bytes, aligned to 16, with whatever they contain. The caller owns them until heirloom_free().
/// From a page on they are whole pages, and aligned to a page.
///
/// @return null if there is no memory, or if `bytes` is 0: heirloom_last_error().
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_alloc(h: *mut heirloom, bytes: usize) -> *mut c_void {
    let Some(layout) = small(bytes) else {
        // SAFETY: the caller's promise.
        return unsafe { alloc_large(h, bytes) };
    };
    // SAFETY: the caller's promise.
    unsafe { alloc_small(h, layout) }
}

/// Allocates a large buffer.
///
/// # Safety
/// As for [`kernel`].
#[inline(never)]
unsafe fn alloc_large(h: *mut heirloom, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    let kernel = unsafe { at_hand(h) };
    if let (Some(kernel), Ok(layout)) = (kernel, Layout::from_size_align(bytes, ALIGN))
        && let Some(buffer) = kernel.slabs().alloc_block_now(layout, AllocOptions::default())
    {
        return buffer.as_ptr().cast();
    }
    // SAFETY: the caller's promise.
    unsafe { alloc(h, bytes, ALIGN, AllocOptions::default()) }
}

/// Allocates a small buffer. (Where the machine is asked for a CPU by a call it needs room on the stack, which
/// a large one is to do without: then it is a function by itself.)
///
/// # Safety
/// As for [`kernel`].
#[cfg_attr(feature = "std", inline(always))]
#[cfg_attr(not(feature = "std"), inline(never))]
#[cfg_attr(feature = "std", expect(clippy::inline_always, reason = "all of one function"))]
unsafe fn alloc_small(h: *mut heirloom, layout: Layout) -> *mut c_void {
    // SAFETY: the caller's promise.
    if let Some(kernel) = unsafe { at_hand(h) }
        && let Some(buffer) = kernel.slabs().alloc_now(layout, false)
    {
        return buffer.as_ptr().cast();
    }
    // SAFETY: the caller's promise.
    unsafe { alloc(h, layout.size(), layout.align(), AllocOptions::default()) }
}

/// Allocates as heirloom_alloc() does, and fills the bytes with zeroes.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_zalloc(h: *mut heirloom, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { alloc(h, bytes, ALIGN, AllocOptions { zeroed: true, ..AllocOptions::default() }) }
}

/// Allocates `bytes` bytes aligned to `align`, a power of two; `flags` are HEIRLOOM_ZEROED, HEIRLOOM_PRESERVED,
/// both, or 0.
///
/// @return null as heirloom_alloc(), or for an alignment or flags that cannot be.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_alloc_with(
    h: *mut heirloom,
    bytes: usize,
    align: usize,
    flags: u32,
) -> *mut c_void {
    if flags & !(HEIRLOOM_ZEROED | HEIRLOOM_PRESERVED) != 0 {
        failed(bad("flags", heirloom_error::BadChoice));
        return core::ptr::null_mut();
    }
    let (zeroed, preserving) = (flags & HEIRLOOM_ZEROED != 0, flags & HEIRLOOM_PRESERVED != 0);
    // SAFETY: the caller's promise.
    unsafe { alloc(h, bytes, align, AllocOptions { zeroed, preserving }) }
}

/// Frees a buffer, or an object of any cache; nothing if `ptr` is null. What was preserved since it was allocated
/// is to be unpreserved first; what was preserved from birth, or restored, is let go by this.
///
/// @return 0, or an error, and the memory stays its owner's: HEIRLOOM_ERROR_DOUBLE_FREE, _INTERIOR, _PRESERVED,
/// _NOT_AN_OBJECT, _UNCLAIMED; of whole pages _FRAME_PRESERVED and the like.
///
/// Context: any, on any CPU, interrupt handlers included (not NMIs).
///
/// # Safety
/// The caller owns what `ptr` leads to, if that is memory of `h` at all, and does not use it any more; no
/// other call frees, preserves or resizes it at the same time. `h` as for heirloom_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_free(h: *mut heirloom, ptr: *mut c_void) -> c_int {
    // A kernel frees by heirloom_pinned_free() first what is small; what it has left is large, if it begins with a page.
    if cfg!(not(feature = "std")) && ptr.addr().is_multiple_of(PAGE_SIZE) {
        // SAFETY: the caller's promise.
        return unsafe { free_large(h, ptr) };
    }
    // SAFETY: the caller's promise.
    unsafe { free_small(h, ptr) }
}

/// Frees what is small, first of all. (See `alloc_small`.)
///
/// # Safety
/// As for heirloom_free().
#[cfg_attr(feature = "std", inline(always))]
#[cfg_attr(not(feature = "std"), inline(never))]
#[cfg_attr(feature = "std", expect(clippy::inline_always, reason = "all of one function"))]
unsafe fn free_small(h: *mut heirloom, ptr: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    if let (Some(kernel), Some(at)) = (unsafe { at_hand(h) }, NonNull::new(ptr))
        // SAFETY: the caller's promise.
        && unsafe { kernel.slabs().free_now(at.cast()) }
    {
        return 0;
    }
    // SAFETY: the caller's promise; nothing was freed.
    unsafe { free_large(h, ptr) }
}

/// Frees what is large, first of all.
///
/// # Safety
/// As for heirloom_free().
#[inline(never)]
unsafe fn free_large(h: *mut heirloom, ptr: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    if let (Some(kernel), Some(at)) = (unsafe { at_hand(h) }, NonNull::new(ptr))
        // SAFETY: the caller's promise.
        && unsafe { kernel.slabs().free_block_now(at.cast()) }
    {
        return 0;
    }
    // SAFETY: the caller's promise; nothing was freed.
    unsafe { free(h, ptr) }
}

/// Frees what is not freed at hand, or says why not.
///
/// # Safety
/// As for heirloom_free().
#[inline(never)]
unsafe fn free(h: *mut heirloom, ptr: *mut c_void) -> c_int {
    let Ok(at) = memory("ptr", ptr) else { return 0 };
    // SAFETY: the caller's promise.
    match unsafe { kernel(h) } {
        // SAFETY: the caller's promise.
        Ok(kernel) => match unsafe { kernel.slabs().free(at) } {
            Ok(()) => 0,
            Err(error) => failed(error.into()),
        },
        Err(failure) => failed(failure),
    }
}

/// Gives a buffer another size, and moves it if it has to; allocates one if `ptr` is null. What lies behind the old
/// size is not initialised. What was preserved from birth, or restored, survives where it moves to.
///
/// @return the buffer. Null if it cannot be, for `bytes` 0 too: `ptr` is as it was, and its owner's. A buffer that
/// was preserved since it was allocated does not move: HEIRLOOM_ERROR_PRESERVED, or _FRAME_PRESERVED.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_free(); if another pointer is returned, `ptr` is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_realloc(
    h: *mut heirloom,
    ptr: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    let Ok(at) = memory("ptr", ptr) else {
        // SAFETY: the caller's promise.
        return unsafe { heirloom_alloc(h, bytes) };
    };
    let resize = || {
        // SAFETY: the caller's promise.
        Ok::<_, Failure>(unsafe { kernel(h)?.slabs().realloc(at, layout(bytes, ALIGN)?) }?)
    };
    pointer(resize())
}

/// Returns how many bytes the buffer or object has, at least as many as were asked for; all are the owner's. 0 if no
/// buffer or object in use starts there.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_alloc(). Any pointer may be asked about.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_usable_size(h: *mut heirloom, ptr: *const c_void) -> usize {
    let size = || {
        let at = memory("ptr", ptr)?;
        // SAFETY: the caller's promise.
        Ok::<_, Failure>(unsafe { kernel(h)? }.slabs().size_of(at))
    };
    size().ok().flatten().unwrap_or(0)
}

/// Makes a buffer or an object survive the jump from now on, whatever ends this kernel, and writes the handle that the
/// successor restores it by (unless `handle` is null).
///
/// @return 0, or an error, and nothing is preserved: HEIRLOOM_ERROR_ALREADY_PRESERVED, _OUT_OF_MEMORY,
/// _DOUBLE_FREE, _INTERIOR, _NOT_AN_OBJECT; of whole pages _FRAME_ALREADY_PRESERVED and the like.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_free(); and `handle` is null, or has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_preserve(
    h: *mut heirloom,
    ptr: *mut c_void,
    handle: *mut heirloom_handle,
) -> c_int {
    let preserve = || {
        // SAFETY: the caller's promise.
        let (kernel, ptr) = (unsafe { kernel(h) }?, memory("ptr", ptr)?);
        if handle.is_null() {
            // SAFETY: the caller's promise.
            return Ok(unsafe { kernel.slabs().preserve(ptr) }?);
        }
        // SAFETY: the caller's promise.
        unsafe { handle.write(kernel.preserve(ptr)?.into()) };
        Ok(())
    };
    status(preserve())
}

/// Lets a buffer or an object go: it no longer survives, its handle names nothing any more, and it can be freed.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NOT_PRESERVED and those of heirloom_free().
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_unpreserve(h: *mut heirloom, ptr: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let unpreserve = || Ok(unsafe { kernel(h)?.unpreserve(memory("ptr", ptr)?) }?);
    status(unpreserve())
}

/// Writes the handle of a buffer or an object in use: good for the successor if it is preserved, from birth
/// or since. It stays the same until the memory is freed, over any number of successors.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NOT_AN_OBJECT.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_alloc(). Any pointer may be asked about; `handle` has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_handle(
    h: *mut heirloom,
    ptr: *const c_void,
    handle: *mut heirloom_handle,
) -> c_int {
    let name = || {
        let handle = some("handle", handle)?;
        // SAFETY: the caller's promise.
        let named = unsafe { kernel(h)? }.handle_of(memory("ptr", ptr)?)?;
        // SAFETY: the caller's promise.
        unsafe { handle.write(named.into()) };
        Ok(())
    };
    status(name())
}

/// Claims a buffer that the predecessor preserved, or an object of a cache that was adopted; once. It is the caller's
/// from now on, survives the next jump too, and goes by heirloom_free(), or stays without surviving after
/// heirloom_unpreserve(). Its handle stays the same.
///
/// @return where it is. Null for what is no handle of a buffer or object (HEIRLOOM_ERROR_BAD_HANDLE), an earlier object
/// in the same place (_STALE), another length, what is claimed already (_NOT_UNCLAIMED, _FRAME_NOT_PRESERVED),
/// or a cache that was not adopted (_NOT_ADOPTED): nothing is changed then.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_alloc(); `handle` leads to one. Its bytes may be any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_restore(
    h: *mut heirloom,
    handle: *const heirloom_handle,
) -> *mut c_void {
    let restore = || {
        // SAFETY: the caller's promise.
        let (kernel, handle) = unsafe { (kernel(h)?, value("handle", handle)?) };
        Ok::<_, Failure>(kernel.restore(handle.get())?)
    };
    pointer(restore())
}

/// Returns where the buffer or object of a handle is, if it is in use: restored, resumed, or allocated by this
/// kernel. As often as one likes: nothing is claimed. Null otherwise.
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_restore().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_find(
    h: *mut heirloom,
    handle: *const heirloom_handle,
) -> *mut c_void {
    let find = || {
        // SAFETY: the caller's promise.
        let (kernel, handle) = unsafe { (kernel(h)?, value("handle", handle)?) };
        Ok::<_, Failure>(kernel.find(handle.get())?)
    };
    pointer(find())
}

/// Takes into use all small buffers that the predecessor preserved, as they are: none is to be restored. Large ones,
/// from a page on, are restored each by its handle.
///
/// @return 0, or an error: HEIRLOOM_ERROR_ADOPTED if a small buffer was restored before.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_resume(h: *mut heirloom) -> c_int {
    // SAFETY: the caller's promise.
    let resume = || Ok(unsafe { kernel(h)? }.slabs().resume_buffers()?);
    status(resume())
}
