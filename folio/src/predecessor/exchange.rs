//! The exchange that decides which caller gets an unclaimed block.
//!
//! Two words say what a block is: its bit in the tree, and the byte of its first frame.
//!
//! ```text
//!               its bit in the tree   the byte of its first frame
//! unclaimed     set                   never handed out, or a slab's label
//! claimed       set                   that of a preserved block, of the kind that it is claimed as
//! disposed of   clear                 freed
//! ```
//!
//! Of several that exchange the byte for what they make of the block, one succeeds. Three rules make
//! that enough:
//!
//! - A call that takes a block sees the bit first, then exchanges the byte. The bit of an unclaimed
//!   block is cleared only by a call that has exchanged its byte; so the bit is still set.
//! - An owner in this kernel writes the byte before it sets the bit. So where the bit is an owner's,
//!   the byte is not that of an unclaimed block.
//! - The byte becomes again what it was only when a claim is taken back, which leaves the bit set: from
//!   the last block of a run to the first, so that what can be claimed anew is followed by no tail.

use heirloom_kho::sync::{Acquire, AtomicU8, Relaxed, Release};
use heirloom_kho::{Block, Order, Run};

use crate::error::Error;
use crate::frame_type::{self, FrameState, FrameType};

/// Where a block's two words are.
pub(super) trait Places {
    /// Returns the byte of the block's first frame.
    fn byte(&self, block: Block) -> Option<&AtomicU8>;

    /// Returns whether the tree has exactly this block. Acquire, as in
    /// [`Tracker::contains`](crate::tracker::Tracker::contains).
    fn has_bit(&self, block: Block) -> bool;
}

/// Where blocks are disposed of, too.
pub(super) trait Disposal: Places {
    /// Takes the block out of the tree.
    fn clear_bit(&self, block: Block);

    /// Makes the block's frames free memory.
    fn free(&self, block: Block);
}

/// Returns the byte of a block that is claimed as `kind`.
#[inline]
fn claimed(block: Block, kind: FrameType) -> u8 {
    let order = block.order().min(Order::MAX_FOLIO);
    frame_type::encode(frame_type::initial(kind), order, kind != FrameType::Tail)
}

/// Takes an unclaimed block as one of `kind`: a label, if it has one, says the same. From now on it is
/// the caller's.
#[inline]
pub(super) fn take<P: Places>(places: &P, block: Block, kind: FrameType) -> Result<(), Error> {
    let gone = Error::NotPreserved { block };
    let byte = places.byte(block).ok_or(gone)?;
    // First the bit, then the byte: the first rule.
    if !places.has_bit(block) {
        return Err(gone);
    }
    let ours = claimed(block, kind);
    // Acquire pairs with the Release in `put_back`: what had the block before is done with it.
    match byte.compare_exchange(frame_type::NEVER, ours, Acquire, Relaxed) {
        Ok(_) => Ok(()),
        Err(now) => take_labelled_slow(byte, now, ours, block, kind),
    }
}

/// Takes an unclaimed block that has no label, whose byte says `ours` from now on. Returns whether it did.
#[inline]
pub(super) fn take_unlabelled<P: Places>(places: &P, block: Block, ours: u8) -> bool {
    // First the bit, then the byte, and Acquire: as in `take`.
    let Some(byte) = places.byte(block) else { return false };
    places.has_bit(block)
        && byte.compare_exchange(frame_type::NEVER, ours, Acquire, Relaxed).is_ok()
}

/// Exchanges the byte of a block that may have a label, `now`, for `ours`.
#[cold]
#[inline(never)]
fn take_labelled_slow(
    byte: &AtomicU8,
    now: u8,
    ours: u8,
    block: Block,
    kind: FrameType,
) -> Result<(), Error> {
    let gone = Error::NotPreserved { block };
    match frame_type::labelled(now) {
        Some((found, order)) if order == block.order() => {
            if found != kind {
                return Err(Error::WrongType { pfn: block.pfn(), expected: kind, found });
            }
            if !frame_type::is_unclaimed(now) {
                return Err(gone);
            }
            // Acquire as in `take`.
            byte.compare_exchange(now, ours, Acquire, Relaxed).map(|_| ()).map_err(|_| gone)
        }
        _ => Err(taken(block, kind, now)),
    }
}

/// Returns why a block cannot be claimed as `kind` if its first byte says `now`.
pub(super) fn taken(block: Block, kind: FrameType, now: u8) -> Error {
    match frame_type::decode(now) {
        // What a layer above keeps is said to be that, to a caller that takes it for something else.
        FrameState::Head { kind: found @ (FrameType::Slab | FrameType::Table), .. }
            if found != kind =>
        {
            Error::WrongType { pfn: block.pfn(), expected: kind, found }
        }
        _ => Error::NotPreserved { block },
    }
}

/// Gives an unclaimed block, with its bit set, the label with this byte.
pub(super) fn label(
    byte: &AtomicU8,
    block: Block,
    kind: FrameType,
    label: u8,
) -> Result<(), Error> {
    match byte.compare_exchange(frame_type::NEVER, label, Relaxed, Relaxed) {
        Ok(_) => Ok(()),
        Err(now) => match frame_type::decode(now) {
            FrameState::Head { kind: found @ (FrameType::Slab | FrameType::Table), .. } => {
                Err(Error::WrongType { pfn: block.pfn(), expected: kind, found })
            }
            _ => Err(Error::NotPreserved { block }),
        },
    }
}

/// Takes a run, all of its blocks or none, the first of them as one of `kind`.
pub(super) fn take_run<P: Places>(places: &P, run: Run, kind: FrameType) -> Result<(), Error> {
    let mut part = kind;
    for block in run.blocks() {
        if let Err(error) = take(places, block, part) {
            // The blocks before this one, as the run has them.
            if let Some(taken) = Run::between(run.start(), block.pfn()) {
                put_back_run(places, taken);
            }
            return Err(error);
        }
        part = FrameType::Tail;
    }
    // What the tree has as one block may be more than one here.
    if run.frames() > Order::MAX_FOLIO.frames() {
        for block in run.blocks_up_to(Order::MAX_FOLIO).skip(1) {
            if let Some(byte) = places.byte(block) {
                byte.store(claimed(block, FrameType::Tail), Relaxed);
            }
        }
    }
    Ok(())
}

/// Puts a block back that the caller took, and makes its byte `now`: that of an unclaimed
/// block.
pub(super) fn put_back(byte: &AtomicU8, now: u8) {
    debug_assert!(frame_type::is_unclaimed(now));
    // Release pairs with the Acquire in `take`: what the caller did to the block comes before.
    byte.store(now, Release);
}

/// Puts back all blocks of a run that the caller took: the third rule.
pub(super) fn put_back_run<P: Places>(places: &P, run: Run) {
    // Only the first part of a block can be claimed: it comes last.
    for part in run.blocks_up_to(Order::MAX_FOLIO).rev() {
        if let Some(byte) = places.byte(part) {
            put_back(byte, frame_type::NEVER);
        }
    }
}

/// Frees an unclaimed block that has no label. Returns whether it was one.
pub(super) fn dispose_of<P: Disposal>(places: &P, block: Block) -> bool {
    let Some(byte) = places.byte(block) else { return false };
    if !places.has_bit(block) {
        return false;
    }
    // Acquire as in `take`.
    if byte
        .compare_exchange(frame_type::NEVER, claimed(block, FrameType::Folio), Acquire, Relaxed)
        .is_err()
    {
        return false;
    }
    // Unlinked, then released: a successor that finds the bit finds the frames as they were.
    places.clear_bit(block);
    places.free(block);
    true
}
