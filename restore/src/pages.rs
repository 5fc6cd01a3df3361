//! Where tables are read from, and how: memory as words, read atomically.
//!
//! A table of a predecessor is bytes that are not trusted, in frames that may turn out to be any
//! owner's. Readers therefore ask [`Pages`] before each step whether a block is preserved, and
//! load words one by one; they never make a reference to plain bytes.

use core::fmt;

use heirloom_folio::{Machine, Memory};
pub(crate) use heirloom_kho::Pages;
pub(crate) use heirloom_kho::internal::{halves, table_at};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{Block, PhysAddr, Run};

/// What is preserved in a memory, of which a predecessor's tables are read.
pub struct Inherited<'m, M: Machine>(&'m Memory<M>);

impl<M: Machine> fmt::Debug for Inherited<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inherited")
    }
}

impl<'m, M: Machine> Inherited<'m, M> {
    /// Returns the inheritance of `memory`.
    ///
    /// # Safety
    /// While the value or anything read through it lives, nothing else in this kernel writes, other
    /// than atomically, into a block that the predecessor preserved or a node of its tree: not
    /// even its new owner, once it is claimed.
    pub const unsafe fn new(memory: &'m Memory<M>) -> Self {
        Self(memory)
    }
}

impl<M: Machine> Pages for Inherited<'_, M> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        // SAFETY: only tables that the predecessor left are asked for, and `new` was promised
        // that nothing else writes them meanwhile.
        unsafe { words_at(self.0, addr, bytes) }
    }

    fn holds(&self, block: Block) -> bool {
        self.0.preserved().contains(block)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.0.contains(run)
    }
}

/// This kernel's own tables, each of which is preserved, and claimed if it was inherited.
pub(crate) struct Own<'m, M: Machine>(pub(crate) &'m Memory<M>);

impl<M: Machine> Pages for Own<'_, M> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        // SAFETY: this layer's owners of tables ask for the pages of their own tables, which
        // nothing else reaches.
        unsafe { words_at(self.0, addr, bytes) }
    }

    fn holds(&self, block: Block) -> bool {
        self.0.preserved().contains(block) && !self.0.predecessor().contains(block)
    }
}

/// `bytes` bytes of memory from `addr` as words.
///
/// # Safety
/// While the words are in use, nothing writes the memory other than atomically.
pub(crate) unsafe fn words_at<M: Machine>(
    memory: &Memory<M>,
    addr: PhysAddr,
    bytes: usize,
) -> Option<&[AtomicU64]> {
    if !addr.get().is_multiple_of(8) {
        return None;
    }
    let words = bytes.div_ceil(8);
    let run = Run::covering(addr, usize_to_u64(words * 8))?;
    let start = memory.ptr(run).ok()?;
    // SAFETY: `ptr` is good for the whole run; `addr` lies in its first frame, a multiple of 8
    // from a page-aligned start; the words end within the run. Any bytes are an `AtomicU64`; the
    // caller promises that there is no write that is not atomic.
    Some(unsafe {
        let first = start.add(addr.offset_in_page()).cast::<AtomicU64>();
        core::slice::from_raw_parts(first.as_ptr(), words)
    })
}
