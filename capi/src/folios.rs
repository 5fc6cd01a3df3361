//! Folios: `2^order` pages in a row, named by their first byte and their order, as Linux's `free_pages()` names them.

use core::ffi::{c_int, c_uint, c_void};
use core::ptr::NonNull;

use ::heirloom::kho::Parts;
use ::heirloom::{Block, DirectMap, Handle, Heirloom, Order, Request};

use crate::argument::{bad, memory, some, value};
use crate::buffers::{HEIRLOOM_ZEROED, heirloom_handle};
use crate::error::heirloom_error;
use crate::failure::{Failure, pointer, status};
use crate::object::{Machine, heirloom, kernel};

fn folio_order(order: c_uint) -> Result<Order, Failure> {
    let small = u8::try_from(order).ok().and_then(Order::new);
    small.ok_or(bad("order", heirloom_error::BadChoice))
}

/// Returns where the bytes of a folio that the caller has are.
#[inline]
fn at(kernel: &Heirloom<Machine>, folio: Block) -> NonNull<u8> {
    kernel.memory().machine().ptr(folio.addr())
}

/// Returns the block of `1 << order` pages that starts at `ptr`.
///
/// # Safety
/// As for [`kernel`].
#[inline]
unsafe fn folio<'a>(
    h: *mut heirloom,
    ptr: *const c_void,
    order: c_uint,
) -> Result<(&'a Heirloom<Machine>, Block), Failure> {
    // SAFETY: the caller's promise.
    let kernel = unsafe { kernel(h) }?;
    let (ptr, order) = (memory("ptr", ptr)?, folio_order(order)?);
    let outside = bad("ptr", heirloom_error::NotMemory);
    let addr = kernel.memory().machine().phys(ptr).ok_or(outside)?;
    let block = Block::containing(addr.pfn(), order);
    if block.addr() != addr {
        return Err(bad("ptr", heirloom_error::Misaligned));
    }
    Ok((kernel, block))
}

/// Allocates a folio: `1 << order` pages in a row, aligned to as many, with whatever they contain. The caller owns them
/// until heirloom_folio_free(). `flags` are HEIRLOOM_ZEROED, or 0.
///
/// A folio is not looked up by its pointer, so calls for it are told its order, and take fewer instructions than those for
/// a buffer of as many bytes. It is no buffer: heirloom_free() refuses it, and heirloom_folio_free() a buffer.
///
/// @return null if there is no free folio of this order, or for an order or flags that cannot be: heirloom_last_error().
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_folio_alloc(
    h: *mut heirloom,
    order: c_uint,
    flags: u32,
) -> *mut c_void {
    let alloc = || {
        if flags & !HEIRLOOM_ZEROED != 0 {
            return Err(bad("flags", heirloom_error::BadChoice));
        }
        // SAFETY: the caller's promise.
        let (kernel, request) = (unsafe { kernel(h) }?, Request::new(folio_order(order)?));
        let request = if flags & HEIRLOOM_ZEROED != 0 { request.zeroed() } else { request };
        Ok::<_, Failure>(at(kernel, kernel.memory().alloc(request)?))
    };
    pointer(alloc())
}

/// Frees a folio; nothing if `ptr` is null. One that is preserved, restored ones too, is to be unpreserved first.
///
/// @return 0, or an error, and the folio stays its owner's: HEIRLOOM_ERROR_FRAME_DOUBLE_FREE, _FRAME_INTERIOR,
/// _FRAME_WRONG_ORDER, _FRAME_WRONG_KIND (no folio), _FRAME_PRESERVED, _NOT_MEMORY, _MISALIGNED.
///
/// Context: as for heirloom_folio_alloc().
///
/// # Safety
/// The caller owns the folio at `ptr`, if there is one, and does not use it any more; no other call frees or preserves
/// it at the same time. `h` as for heirloom_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_folio_free(
    h: *mut heirloom,
    ptr: *mut c_void,
    order: c_uint,
) -> c_int {
    if ptr.is_null() {
        return 0;
    }
    let free = || {
        // SAFETY: the caller's promise.
        let (kernel, block) = unsafe { folio(h, ptr, order) }?;
        // SAFETY: the caller's promise.
        Ok(unsafe { kernel.memory().free(block) }?)
    };
    status(free())
}

/// Makes a folio survive the jump from now on, whatever ends this kernel, and writes the handle that the successor
/// restores it by (unless `handle` is null).
///
/// @return 0, or an error, and nothing is preserved: HEIRLOOM_ERROR_FRAME_ALREADY_PRESERVED, _OUT_OF_MEMORY, and as
/// heirloom_folio_free().
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_folio_free(); and `handle` is null, or has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_folio_preserve(
    h: *mut heirloom,
    ptr: *mut c_void,
    order: c_uint,
    handle: *mut heirloom_handle,
) -> c_int {
    let preserve = || {
        // SAFETY: the caller's promise.
        let (kernel, block) = unsafe { folio(h, ptr, order) }?;
        if handle.is_null() {
            // SAFETY: the caller's promise.
            return Ok(unsafe { kernel.memory().preserve(block) }?);
        }
        // What has no handle is not preserved.
        let named = Handle::new(Parts::Folio(block)).map_err(::heirloom::Error::from)?;
        // SAFETY: the caller's promise.
        unsafe {
            kernel.memory().preserve(block)?;
            handle.write(named.into());
        }
        Ok(())
    };
    status(preserve())
}

/// Lets a folio go: it no longer survives, its handle names nothing any more, and it can be freed.
///
/// @return 0, or an error: HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, and as heirloom_folio_free().
///
/// Context: any, interrupt handlers included (not NMIs).
///
/// # Safety
/// As for heirloom_folio_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_folio_unpreserve(
    h: *mut heirloom,
    ptr: *mut c_void,
    order: c_uint,
) -> c_int {
    let unpreserve = || {
        // SAFETY: the caller's promise.
        let (kernel, block) = unsafe { folio(h, ptr, order) }?;
        // SAFETY: the caller's promise.
        Ok(unsafe { kernel.memory().unpreserve(block) }?)
    };
    status(unpreserve())
}

/// Claims a folio that the predecessor preserved; once. It is the caller's from now on, and survives the next jump too,
/// until heirloom_folio_unpreserve(). Its handle stays the same.
///
/// @param order its order; may be null.
/// @return where it is. Null for what is no handle of a folio (HEIRLOOM_ERROR_BAD_HANDLE), and for what is not preserved
/// with this order, or claimed already (_FRAME_NOT_PRESERVED): nothing is changed then.
///
/// Context: where one may sleep.
///
/// # Safety
/// As for heirloom_restore(); `order` is null, or has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_folio_restore(
    h: *mut heirloom,
    handle: *const heirloom_handle,
    order: *mut c_uint,
) -> *mut c_void {
    let restore = || {
        // SAFETY: the caller's promise.
        let (kernel, handle) = unsafe { (kernel(h)?, value("handle", handle)?) };
        let block = kernel.claim_folio(handle.get())?.into_raw();
        if let Ok(order) = some("order", order) {
            // SAFETY: the caller's promise.
            unsafe { order.write(block.order().get().into()) };
        }
        Ok::<_, Failure>(at(kernel, block))
    };
    pointer(restore())
}
