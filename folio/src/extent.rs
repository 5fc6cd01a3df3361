//! What the verbs of a memory take: frames that are named as one.
//!
//! ```text
//!               is                            preserve, unpreserve, claim   alloc_at, free
//! Block         a folio                       yes                           yes
//! Run           frames in a row               yes                           yes
//! FolioRange      folios of one order in a row  all or none                   -
//! &[Block]      folios, wherever they lie     all or none                   -
//! ```
//!
//! A block is a folio and a run is a run, unless a call says otherwise: those that end in `_as` take
//! the kind too, for a layer above that keeps tables, slabs or buffers.

use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Run};

use crate::error::Error;
use crate::frame_type::FrameType;
use crate::machine::Machine;
use crate::memory::Memory;

/// Frames that a call names as one: a [`Block`], a [`Run`], [`FolioRange`] folios, or a slice or array of blocks.
///
/// A verb of [`Memory`] does the same to each, and all of it or nothing. No other crate can implement
/// the trait.
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_folio::{Error, Request};
/// use heirloom_kho::Order;
///
/// let memory = Ram::memory(&Ram::frames(64))?;
/// let block = memory.alloc(Request::new(Order::new(2).unwrap()))?;
/// let run = memory.alloc_run(5, Request::new(Order::ZERO))?;
/// // SAFETY: allocated just now, and told to nothing else.
/// unsafe {
///     memory.preserve(block)?;
///     memory.preserve(run)?;
///     memory.unpreserve(run)?;
///     memory.free(run)?;
/// }
/// assert!(memory.preserved().contains(block));
/// # Ok::<(), Error>(())
/// ```
pub trait Extent: Verbs {}

/// An [`Extent`] that is allocated and freed as one, and that a handle can own: a [`Block`] or a [`Run`].
pub trait Allocation: Extent + Whole {}

impl<E: Verbs> Extent for E {}
impl<E: Whole> Allocation for E {}

/// What each extent does for the verbs of a memory, which say what is promised and what is asked for.
pub trait Verbs: Copy {
    fn preserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error>;
    fn unpreserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error>;
    fn claim<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error>;
}

/// What an extent does that is one allocation.
pub trait Whole: Verbs + core::fmt::Display {
    /// What it is unless a call says otherwise.
    const KIND: FrameType;

    /// Returns all frames.
    fn frames(self) -> Run;

    fn alloc_at<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error>;
    fn preserve_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error>;
    fn unpreserve_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error>;
    fn claim_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error>;

    /// # Safety
    /// As for [`Memory::free`].
    unsafe fn free<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error>;

    /// # Safety
    /// As for [`Memory::unclaim_as`].
    unsafe fn unclaim<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error>;
}

impl Verbs for Block {
    #[inline]
    fn preserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.preserve_block(self, FrameType::Folio)
    }

    #[inline]
    fn unpreserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.unpreserve_block(self, FrameType::Folio)
    }

    #[inline]
    fn claim<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.claim_block(self, FrameType::Folio)
    }
}

impl Whole for Block {
    const KIND: FrameType = FrameType::Folio;

    #[inline]
    fn frames(self) -> Run {
        self.run()
    }

    fn alloc_at<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.alloc_block_at(self, kind)
    }

    #[inline]
    fn preserve_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.preserve_block(self, kind)
    }

    #[inline]
    fn unpreserve_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.unpreserve_block(self, kind)
    }

    #[inline]
    fn claim_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.claim_block(self, kind)
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few loads and stores: a call costs as much again")]
    unsafe fn free<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { memory.free_block(self, kind) }
    }

    #[inline]
    unsafe fn unclaim<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { memory.unclaim_block(self, kind, None) }
    }
}

impl Verbs for Run {
    #[inline]
    fn preserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.preserve_run(self, FrameType::Run)
    }

    #[inline]
    fn unpreserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.unpreserve_run(self, FrameType::Run)
    }

    #[inline]
    fn claim<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.claim_run(self, FrameType::Run)
    }
}

impl Whole for Run {
    const KIND: FrameType = FrameType::Run;

    #[inline]
    fn frames(self) -> Run {
        self
    }

    fn alloc_at<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.alloc_run_at(self, kind)
    }

    #[inline]
    fn preserve_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.preserve_run(self, kind)
    }

    #[inline]
    fn unpreserve_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.unpreserve_run(self, kind)
    }

    #[inline]
    fn claim_as<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        memory.claim_run(self, kind)
    }

    #[inline]
    unsafe fn free<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { memory.free_run(self, kind) }
    }

    #[inline]
    unsafe fn unclaim<M: Machine>(self, memory: &Memory<M>, kind: FrameType) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { memory.unclaim_run(self, kind) }
    }
}

impl Verbs for FolioRange {
    #[inline]
    fn preserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.preserve_range(self)
    }

    #[inline]
    fn unpreserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.unpreserve_range(self)
    }

    #[inline]
    fn claim<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.claim_range(self)
    }
}

impl Verbs for &[Block] {
    #[inline]
    fn preserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.preserve_all(self)
    }

    #[inline]
    fn unpreserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.unpreserve_all(self)
    }

    #[inline]
    fn claim<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        memory.claim_all(self)
    }
}

impl<const N: usize> Verbs for &[Block; N] {
    #[inline]
    fn preserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        self.as_slice().preserve(memory)
    }

    #[inline]
    fn unpreserve<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        self.as_slice().unpreserve(memory)
    }

    #[inline]
    fn claim<M: Machine>(self, memory: &Memory<M>) -> Result<(), Error> {
        self.as_slice().claim(memory)
    }
}
