//! Arguments from C, checked as far as they can be.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::NonNull;

use crate::error::heirloom_error;
use crate::failure::Failure;

/// Says what is wrong with an argument.
pub(crate) const fn bad(name: &'static str, error: heirloom_error) -> Failure {
    Failure::Argument { name, error }
}

/// Returns a pointer that must not be null.
#[inline]
pub(crate) fn some<T>(name: &'static str, pointer: *mut T) -> Result<NonNull<T>, Failure> {
    NonNull::new(pointer).ok_or(bad(name, heirloom_error::Null))
}

/// Returns a pointer to memory of heirloom's.
#[inline]
pub(crate) fn memory(name: &'static str, pointer: *const c_void) -> Result<NonNull<u8>, Failure> {
    some(name, pointer.cast_mut().cast())
}

/// Returns what a pointer leads to.
///
/// # Safety
/// `pointer` is null, or leads to a value that stays, and that is not changed, as long as the result is used.
pub(crate) unsafe fn value<'a, T>(name: &'static str, pointer: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or(bad(name, heirloom_error::Null))
}

/// Returns what a pointer leads to, of which there are so many.
///
/// # Safety
/// As for [`value`], of all of them.
pub(crate) unsafe fn values<'a, T>(
    name: &'static str,
    pointer: *const T,
    count: usize,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(bad(name, heirloom_error::TooMany));
    }
    let start = some(name, pointer.cast_mut())?;
    // SAFETY: the caller's promise; no more bytes than an address space has.
    Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), count) })
}

/// Returns a text.
///
/// # Safety
/// `text` is null, or leads to bytes that end with a zero byte, and stay as they are as long as the result is
/// used.
pub(crate) unsafe fn text<'a>(name: &'static str, text: *const c_char) -> Result<&'a str, Failure> {
    let text = some(name, text.cast_mut())?;
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    text.to_str().map_err(|_| bad(name, heirloom_error::NotText))
}

/// A range of physical memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct heirloom_range {
    /// The physical address of the first byte: a multiple of the page size.
    pub start: u64,
    /// How many bytes: a multiple of the page size.
    pub bytes: u64,
    /// The NUMA node that it belongs to: 0 where there is one alone.
    pub node: u16,
}
