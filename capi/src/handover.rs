//! What is handed over beside buffers and objects: names, the entry, the seal.

use core::ffi::{c_char, c_int, c_void};

use ::heirloom::{Entry, PhysAddr, SealPolicy};

use crate::argument::{bad, some, text, values};
use crate::error::heirloom_error;
use crate::failure::{Failure, failed, status};
use crate::object::{heirloom, kernel};

/// All that passes from a kernel to its successor beside memory itself. It is fixed at the first boot and holds for
/// all successors.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct heirloom_entry {
    /// The physical address of the root page.
    pub root: u64,
    /// The physical address of the scratch list.
    pub scratch: u64,
    /// Bytes of the scratch list.
    pub scratch_bytes: u64,
}

impl From<Entry> for heirloom_entry {
    fn from(entry: Entry) -> Self {
        let Entry { root, scratch, scratch_bytes } = entry;
        Self { root: root.get(), scratch: scratch.get(), scratch_bytes }
    }
}

impl From<heirloom_entry> for Entry {
    fn from(entry: heirloom_entry) -> Self {
        let heirloom_entry { root, scratch, scratch_bytes } = entry;
        Self { root: PhysAddr::new(root), scratch: PhysAddr::new(scratch), scratch_bytes }
    }
}

/// A seal that is broken is refused; a handover that is not sealed, or was opened by a successor, is taken. What
/// zeroes mean.
pub const HEIRLOOM_SEAL_CHECKED: u32 = 0;
/// A handover that never was sealed is refused too.
pub const HEIRLOOM_SEAL_REQUIRED: u32 = 1;
/// Only a handover that is sealed now is taken.
pub const HEIRLOOM_SEAL_ONLY: u32 = 2;
/// The seal is not looked at: structure alone is checked.
pub const HEIRLOOM_SEAL_IGNORED: u32 = 3;

/// Returns the policy of a number.
pub(crate) fn policy(seal: u32) -> Result<SealPolicy, Failure> {
    match seal {
        HEIRLOOM_SEAL_CHECKED => Ok(SealPolicy::Checked),
        HEIRLOOM_SEAL_REQUIRED => Ok(SealPolicy::Required),
        HEIRLOOM_SEAL_ONLY => Ok(SealPolicy::SealedOnly),
        HEIRLOOM_SEAL_IGNORED => Ok(SealPolicy::Ignored),
        _ => Err(bad("seal", heirloom_error::BadChoice)),
    }
}

/// Writes what to tell the successor.
///
/// @return 0, or HEIRLOOM_ERROR_NULL.
///
/// Context: any.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `entry` has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_entry(h: *mut heirloom, entry: *mut heirloom_entry) -> c_int {
    let get = || {
        // SAFETY: the caller's promise.
        let (kernel, entry) = (unsafe { kernel(h)? }, some("entry", entry)?);
        // SAFETY: the caller's promise.
        unsafe { entry.write(kernel.entry().into()) };
        Ok(())
    };
    status(get())
}

/// Returns how many handovers led to this kernel: 0 for the first.
///
/// Context: any.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_generation(h: *mut heirloom) -> u64 {
    // SAFETY: the caller's promise.
    match unsafe { kernel(h) } {
        Ok(kernel) => kernel.generation(),
        Err(failure) => {
            failed(failure);
            0
        }
    }
}

/// Publishes bytes under a name, in place of what this kernel published under it before: the successor gets them from
/// heirloom_retrieve(). Usually a few handles, from which all else is found. At any instant the old bytes are there, or
/// the new.
///
/// @return 0, or an error, and what was published before stays: HEIRLOOM_ERROR_BAD_NAME (a name has 1 to 31 letters,
/// digits and `,._+-`), _NAME_TAKEN (the predecessor's, not retrieved), _ROOT_FULL, _OUT_OF_MEMORY.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `name` ends with a zero byte; `data` has `bytes`
/// bytes, or these are 0. Neither is kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_publish(
    h: *mut heirloom,
    name: *const c_char,
    data: *const c_void,
    bytes: usize,
) -> c_int {
    let publish = || {
        // SAFETY: the caller's promise.
        let (kernel, name) = unsafe { (kernel(h)?, text("name", name)?) };
        // SAFETY: the caller's promise.
        let data = unsafe { values("data", data.cast::<u8>(), bytes) }?;
        Ok(kernel.publish(name, data)?)
    };
    status(publish())
}

/// Takes back what was published under a name, by this kernel, or retrieved by it.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NO_SUCH_NAME, _BAD_NAME.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `name` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_unpublish(h: *mut heirloom, name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let unpublish = || Ok(unsafe { kernel(h)?.unpublish(text("name", name)?) }?);
    status(unpublish())
}

/// Claims what the predecessor published under a name, once, and copies it. It stays published, for the next successor,
/// until heirloom_publish() replaces it or heirloom_unpublish() takes it back.
///
/// @param data where it is copied to.
/// @param bytes the room there; the bytes that were published, afterwards, also if the room is too small.
/// @return 0, or an error, and nothing is claimed: HEIRLOOM_ERROR_TOO_SMALL, _NO_SUCH_NAME, _NOT_INHERITED (retrieved
/// already, or this kernel's), _BAD_NAME.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `name` ends with a zero byte; `bytes` leads to a
/// number of bytes that `data` has room for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_retrieve(
    h: *mut heirloom,
    name: *const c_char,
    data: *mut c_void,
    bytes: *mut usize,
) -> c_int {
    let retrieve = || {
        // SAFETY: the caller's promise.
        let (kernel, name) = unsafe { (kernel(h)?, text("name", name)?) };
        let bytes = some("bytes", bytes)?;
        // SAFETY: the caller's promise.
        let given = unsafe { bytes.read() };
        let mut needed = 0;
        kernel.for_each_inherited_subtree(|inherited, _, size| {
            if inherited == name {
                needed = usize::try_from(size.unwrap_or(0)).unwrap_or(usize::MAX);
            }
        })?;
        if needed > given {
            // SAFETY: the caller's promise.
            unsafe { bytes.write(needed) };
            return Err(Failure::TooSmall { needed, given });
        }
        if needed > 0 {
            some("data", data)?;
        }
        let root = kernel.claim_root(name)?;
        let found = root.bytes();
        // What is not claimed changes neither bytes nor their number, so there is room.
        let count = found.len().min(given);
        if count > 0 {
            // SAFETY: the caller's promise: `given` bytes of its own.
            unsafe { data.cast::<u8>().copy_from_nonoverlapping(found.as_ptr(), count) };
        }
        // SAFETY: the caller's promise.
        unsafe { bytes.write(found.len()) };
        Ok(())
    };
    status(retrieve())
}

/// Adds checksums over all tables, so that the successor finds what changed on the way. Not needed: the handover is
/// valid without. The last call before a planned jump: what is preserved or published later makes the
/// seal untrue.
///
/// @return 0, or an error: HEIRLOOM_ERROR_OUT_OF_MEMORY.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_seal(h: *mut heirloom) -> c_int {
    // SAFETY: the caller's promise.
    let seal = || Ok(unsafe { kernel(h)? }.seal()?);
    status(seal())
}

/// Breaks the seal: for normal work after a jump that failed.
///
/// @return 0, or an error.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_unseal(h: *mut heirloom) -> c_int {
    // SAFETY: the caller's promise.
    let unseal = || Ok(unsafe { kernel(h)? }.unseal()?);
    status(unseal())
}
