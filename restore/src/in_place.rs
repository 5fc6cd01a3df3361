//! What lay in memory before there was a kernel, kept where it is.

use core::ptr::NonNull;

use heirloom_folio::{Machine, Memory, NodeId, Owned, PreservedRun, Request};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{Order, PAGE_SIZE, Run};

use crate::area::growing;
use crate::error::Error;
use crate::heirloom::Heirloom;

impl<M: Machine> Heirloom<M> {
    /// Makes a preserved run of frames that no range of the map covers, with the bytes in them: a module, say,
    /// or an initial file system, that a boot loader brought and that the map was made without. Each successor
    /// claims it where it is, by its [handle](Heirloom::run_handle); in its map these frames are memory as any other.
    ///
    /// Takes [`Memory::range_bytes`] of memory for a range of its own as long as this kernel runs; a successor's is
    /// part of its [metadata](Heirloom::scratch_bytes), for which its scratch must have room.
    ///
    /// # Errors
    /// [`Error::Folio`]: no frames, or some that a range has; out of memory for the range's metadata: then nothing is
    /// changed. Out of memory for a node of the tracker: then the frames are a run that is not preserved, and
    /// nothing's.
    ///
    /// # Safety
    /// - The machine's direct map covers the frames, contiguously, and nothing else uses them from now on. All of
    ///   their bytes are initialized.
    /// - Nothing else allocates from this memory while the call runs.
    ///
    /// # Examples
    /// See `examples/kernel`, which keeps the images of its successors so.
    pub unsafe fn keep_in_place(
        &self,
        frames: Run,
        node: NodeId,
    ) -> Result<PreservedRun<'_, M>, Error> {
        let memory = self.memory();
        let bytes = Memory::<M>::range_bytes(frames);
        let pages = usize_to_u64(bytes.div_ceil(PAGE_SIZE));
        let request = Request::new(Order::ZERO);
        let space = growing(memory, || memory.alloc_owned_run(pages, request))?;
        let start = memory.ptr(space.extent())?;
        // SAFETY: the map covers the frames, which nothing else uses (contract); the space was allocated just now,
        // and is given up below to the range for good.
        unsafe { memory.add_range(frames, node, NonNull::slice_from_raw_parts(start, bytes)) }?;
        space.into_raw();
        memory.alloc_at(frames)?;
        // SAFETY: allocated just now as a run; its bytes are initialized (contract).
        let run = unsafe { Owned::from_raw(memory, frames) };
        run.preserve().map_err(|refused| {
            // Kept as it is: its bytes may be wanted yet.
            refused.value.into_raw();
            refused.error.into()
        })
    }
}
