//! Stretches of a process's address space, and parts of a file mapped into them.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags};

use super::ArenaError;
use super::error::map;
use super::process::Part;

/// Reserved addresses: unusable until something is [placed](Reservation::place) there; given back
/// on drop.
#[derive(Debug)]
pub(super) struct Reservation {
    /// What was reserved, with the room to align.
    whole: NonNull<u8>,
    whole_bytes: usize,
    base: NonNull<u8>,
    bytes: usize,
    /// What a forked child gets of it, and whether the process owns the file.
    part: Part,
}

// SAFETY: the reservation owns its addresses, which belong to the process and not to a thread.
unsafe impl Send for Reservation {}
// SAFETY: shared access reads the fields and nothing else.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes` addresses, the first of which is `like` modulo `align`, a power of two.
    ///
    /// A forked child can read what of `file` is placed there, and nothing where there is no
    /// `file`, which stays open as long as the reservation lives.
    pub(super) fn new(
        bytes: usize,
        like: u64,
        align: u64,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Self, ArenaError> {
        let too_many = ArenaError::Span { bytes: bytes as u64, limit: super::MAX_SPAN };
        let align = usize::try_from(align).map_err(|_| too_many)?;
        let whole_bytes = bytes.checked_add(align).ok_or(too_many)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let part = Part::new(file)?;
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let whole = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                whole_bytes,
                ProtFlags::empty(),
                flags,
            )
        };
        let whole = whole.map_err(map(bytes))?.cast::<u8>();
        // Without MAP_FIXED Linux never maps at zero.
        let Some(whole) = NonNull::new(whole) else { return Err(too_many) };
        let skip = (like as usize).wrapping_sub(whole.addr().get()) & (align - 1);
        // SAFETY: `skip < align`, and `bytes + align` were reserved.
        let base = unsafe { whole.add(skip) };
        if file.is_none() {
            part.bar(base.as_ptr().cast(), bytes);
        }
        Ok(Self { whole, whole_bytes, base, bytes, part })
    }

    /// Returns the first address. The pointer is good for the whole reservation, where something is
    /// placed.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes this process the owner of the file.
    pub(super) fn own(&self) -> Result<(), ArenaError> {
        self.part.own()
    }

    /// Maps `bytes` of `fd` from `offset`, shared and writable, `at` bytes into the reservation.
    pub(super) fn place(
        &mut self,
        at: usize,
        bytes: usize,
        fd: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), ArenaError> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(ArenaError::Span { bytes: bytes as u64, limit: self.bytes as u64 });
        }
        // SAFETY: in bounds of the reservation, checked above.
        let place: *mut c_void = unsafe { self.base.add(at) }.as_ptr().cast();
        // SAFETY: only addresses of this reservation, which is borrowed exclusively, so nothing
        // uses what was mapped there.
        unsafe { self.part.map(place, bytes, fd, offset) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // In a child that the C library did not make the addresses may be another mapping's.
        if !self.part.is_own() {
            return;
        }
        // SAFETY: exactly what `new` reserved; those that were given pointers were told that they
        // end here. It can fail only where unmapping splits a mapping, and this covers all of them.
        let _ = unsafe { rustix::mm::munmap(self.whole.as_ptr().cast(), self.whole_bytes) };
    }
}

/// Scattered frames, seen as one contiguous stretch of bytes: a second way to memory that an
/// arena shows already. From [`Arena::map_area`](super::Arena::map_area).
///
/// It outlives the arena it came from and is unmapped on drop. It says nothing about the owner of
/// the frames: a caller that maps frames of another owner sees them change.
#[derive(Debug)]
pub struct Mapping {
    mapped: Reservation,
}

impl Mapping {
    pub(super) const fn new(mapped: Reservation) -> Self {
        Self { mapped }
    }

    /// Returns the bytes, readable and writable until the mapping is dropped.
    ///
    /// The pointer may be followed by the owner of the frames, and not while a reference to the
    /// same memory, through this mapping or the arena, forbids it.
    pub const fn as_ptr(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.mapped.base(), self.mapped.bytes())
    }

    /// Returns how many bytes: at least one page.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> usize {
        self.mapped.bytes()
    }

    /// Returns the bytes, to read.
    ///
    /// # Safety
    /// While the slice lives:
    /// - nothing writes to the frames, neither through this or another mapping nor through the
    ///   arena, in this process or another.
    pub const unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives; not written meanwhile (contract).
        unsafe { self.as_ptr().as_ref() }
    }

    /// Returns the bytes, to read and write.
    ///
    /// # Safety
    /// While the slice lives:
    /// - nothing else reads or writes the frames, neither through another mapping nor through the
    ///   arena, in this process or another;
    /// - no frame is in the mapping twice.
    pub const unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for as long as `self` lives; reached in no other way meanwhile
        // (contract).
        unsafe { self.as_ptr().as_mut() }
    }
}
