//! Ownership in types: a folio is freed by dropping it, a preserved one cannot be.
//!
//! ```text
//! Memory::alloc_folio ──> Owned ── preserve ──> Preserved <── Memory::claim_owned
//!                         │   ^                 │
//!                       drop  └── unpreserve ───┘      (no drop that frees)
//! ```
//!
//! Both are of folios and of runs: [`Folio`] and [`OwnedRun`], [`PreservedFolio`] and [`PreservedRun`].

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::{Block, Refused, Run};

use crate::error::Error;
use crate::extent::Allocation;
use crate::frame_type::FrameType;
use crate::freeze;
use crate::machine::{Machine, NodeId};
use crate::memory::Memory;
use crate::request::Request;

impl<T> From<Refused<T, Self>> for Error {
    fn from(refused: Refused<T, Self>) -> Self {
        refused.error
    }
}

/// Returns the bytes of frames that the caller owns.
fn bytes<M: Machine>(memory: &Memory<M>, run: Run) -> NonNull<[u8]> {
    let start = memory.machine().ptr(run.addr());
    NonNull::slice_from_raw_parts(start, u64_to_usize(run.bytes()))
}

/// Allocated frames of which this is the one owner. Dropping it frees them.
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_folio::{Error, Request};
/// use heirloom_kho::Order;
///
/// let memory = Ram::memory(&Ram::frames(64))?;
/// let mut run = memory.alloc_owned_run(5, Request::new(Order::ZERO))?;
/// run.bytes_mut().fill(7);
/// let run = run.preserve()?;
/// assert_eq!(run.extent().frames(), 5);
/// // Not dropped but let go: it stays preserved.
/// let frames = run.into_raw();
/// assert_eq!(memory.stats().preserved, 5);
/// // SAFETY: given up above, and owned by no other handle.
/// let run = unsafe { heirloom_folio::PreservedRun::from_raw(&memory, frames) };
/// drop(run.unpreserve()?);
/// assert_eq!(memory.stats().preserved, 0);
/// # Ok::<(), Error>(())
/// ```
pub struct Owned<'m, E: Allocation, M: Machine> {
    memory: &'m Memory<M>,
    extent: E,
}

/// Frames that survive a jump, of which this is the one owner in this kernel. It has no drop that frees:
/// letting go of the handle leaves them preserved, and only [`Preserved::unpreserve`] leads back to
/// frames that can be freed.
pub struct Preserved<'m, E: Allocation, M: Machine> {
    memory: &'m Memory<M>,
    extent: E,
}

/// An owned folio: `2^order` frames, naturally aligned.
pub type Folio<'m, M> = Owned<'m, Block, M>;

/// A folio that survives a jump.
pub type PreservedFolio<'m, M> = Preserved<'m, Block, M>;

/// Owned frames in a row, exactly as many as were asked for.
pub type OwnedRun<'m, M> = Owned<'m, Run, M>;

/// Frames in a row that survive a jump.
pub type PreservedRun<'m, M> = Preserved<'m, Run, M>;

impl<'m, E: Allocation, M: Machine> Owned<'m, E, M> {
    /// Makes the owner of frames that were allocated by a raw call, or claimed and let go.
    ///
    /// # Safety
    /// They are allocated from `memory` as a folio or a run, as `extent` says, not preserved, and the
    /// caller's to give away; no other handle for them exists.
    pub unsafe fn from_raw(memory: &'m Memory<M>, extent: E) -> Self {
        freeze::settle(memory.machine().ptr(extent.frames().addr()));
        Self { memory, extent }
    }

    /// Makes the owner of frames that were allocated just now.
    #[inline]
    fn fresh(memory: &'m Memory<M>, extent: E, request: Request) -> Self {
        // What was cleared just now is bytes.
        if !request.wants_zeroes() {
            let bytes = bytes(memory, extent.frames());
            // SAFETY: just allocated.
            unsafe { freeze::settle_any(bytes.cast(), bytes.len()) };
        }
        Self { memory, extent }
    }

    /// Returns the frames, which nothing frees any more but a raw call or [`Owned::from_raw`].
    pub fn into_raw(self) -> E {
        ManuallyDrop::new(self).extent
    }

    /// Returns the frames.
    pub const fn extent(&self) -> E {
        self.extent
    }

    /// Returns the contents: what was there before where nothing was written since.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the frames are ours alone, mapped, and writes need `&mut self`; each byte has a value
        // since the handle was made.
        unsafe { bytes(self.memory, self.extent.frames()).as_ref() }
    }

    /// Returns the contents, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the frames are ours alone, mapped, and we are borrowed mutably; each byte has a value
        // since the handle was made.
        unsafe { bytes(self.memory, self.extent.frames()).as_mut() }
    }

    /// Returns the node that the frames belong to.
    pub fn node(&self) -> NodeId {
        self.memory.node_of(self.extent.frames().start()).unwrap_or_default()
    }

    /// Makes the frames survive a jump.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for a node of the tracker. The value comes back unchanged.
    pub fn preserve(self) -> Result<Preserved<'m, E, M>, Refused<Self, Error>> {
        // The contract of the raw call: the handle is the frames' one owner, and is given up.
        match self.extent.preserve(self.memory) {
            Ok(()) => Ok(Preserved { memory: self.memory, extent: ManuallyDrop::new(self).extent }),
            Err(error) => Err(Refused { error, value: self }),
        }
    }
}

impl<E: Allocation, M: Machine> Drop for Owned<'_, E, M> {
    fn drop(&mut self) {
        // SAFETY: the handle is the frames' one owner, and it ends here.
        let freed = unsafe { self.memory.free(self.extent) };
        debug_assert!(freed.is_ok(), "the frames of a handle are allocated: {freed:?}");
    }
}

impl<'m, E: Allocation, M: Machine> Preserved<'m, E, M> {
    /// Makes the owner of preserved frames that [`Preserved::into_raw`] gave up, or that were claimed.
    ///
    /// # Safety
    /// They are allocated from `memory` as a folio or a run, as `extent` says, preserved, and the
    /// caller's to give away; no other handle for them exists.
    pub unsafe fn from_raw(memory: &'m Memory<M>, extent: E) -> Self {
        freeze::settle(memory.machine().ptr(extent.frames().addr()));
        Self { memory, extent }
    }

    /// Returns the frames; they stay preserved.
    pub fn into_raw(self) -> E {
        self.extent
    }

    /// Returns the frames.
    pub const fn extent(&self) -> E {
        self.extent
    }

    /// Returns the contents: what was there before where nothing was written since.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the frames are ours alone, mapped, and writes need `&mut self`; each byte has a value
        // since the handle was made.
        unsafe { bytes(self.memory, self.extent.frames()).as_ref() }
    }

    /// Returns the contents, to write: what stands here at the jump is what survives.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the frames are ours alone, mapped, and we are borrowed mutably; each byte has a value
        // since the handle was made.
        unsafe { bytes(self.memory, self.extent.frames()).as_mut() }
    }

    /// Gives the frames back as ones that do not survive, and that dropping frees.
    ///
    /// # Errors
    /// None for frames that are preserved, which those of a handle are.
    pub fn unpreserve(self) -> Result<Owned<'m, E, M>, Refused<Self, Error>> {
        // The contract of the raw call: as in `preserve`.
        match self.extent.unpreserve(self.memory) {
            Ok(()) => Ok(Owned { memory: self.memory, extent: self.extent }),
            Err(error) => Err(Refused { error, value: self }),
        }
    }
}

impl<E: Allocation, M: Machine> fmt::Debug for Owned<'_, E, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owned({})", self.extent)
    }
}

impl<E: Allocation, M: Machine> fmt::Debug for Preserved<'_, E, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Preserved({})", self.extent)
    }
}

impl<M: Machine> Memory<M> {
    /// Allocates an owned folio.
    ///
    /// # Errors
    /// As for [`Memory::alloc`]; the request is for a folio whatever it says.
    pub fn alloc_folio(&self, request: Request) -> Result<Folio<'_, M>, Error> {
        let block = self.alloc(request.frame_type(FrameType::Folio))?;
        Ok(Owned::fresh(self, block, request))
    }

    /// Allocates an owned run of exactly `frames` frames.
    ///
    /// # Errors
    /// As for [`Memory::alloc_run`]; the request is for a run whatever it says.
    pub fn alloc_owned_run(&self, frames: u64, request: Request) -> Result<OwnedRun<'_, M>, Error> {
        let run = self.alloc_run(frames, request.frame_type(FrameType::Run))?;
        Ok(Owned::fresh(self, run, request))
    }

    /// Claims a folio or a run that a predecessor preserved, and makes its owner; once. It stays preserved.
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    pub fn claim_owned<E: Allocation>(&self, extent: E) -> Result<Preserved<'_, E, M>, Error> {
        self.claim(extent)?;
        // SAFETY: claimed just now, by this call alone.
        Ok(unsafe { Preserved::from_raw(self, extent) })
    }
}
