//! A predecessor whose root page is of another make: Linux's, or another layout of heirloom's.
//!
//! It cannot be edited in place. So this kernel has a root page, and an entry, of its own, and both
//! entries lead to one tree:
//!
//! ```text
//!  predecessor's entry ──> its root page ──> names ─┐
//!                               └── map ──┐         ├──> what was published
//!                                         v         │
//!                                       the tree    │
//!                               ┌── map ──^         │
//!  this kernel's entry ──> own root page ──> names ─┘, heirloom ──> header, cache directory
//! ```
//!
//! What the predecessor preserved is found through either, and so is what this kernel preserves in
//! folios, runs, areas and lists; caches and names of this kernel's through its own entry alone. The
//! predecessor's entry is good until [`Heirloom::finish`](crate::Heirloom::finish), which ends it by one
//! store. What the old root page names is given back after that. A kernel that ends before it has come
//! there leaves both entries good. The next one that starts with the predecessor's does all of this again;
//! one that starts with the other finds in the header which root page there was before, and ends that
//! entry first.

use heirloom_folio::{Machine, Memory};
use heirloom_kho::internal::{FDT_ENDED, MAGIC_WORD, PAGE_BYTES};
use heirloom_kho::sync::Ordering::Release;
use heirloom_kho::{Name, PhysAddr, RootView, Run, Subtree, Table, store};

use crate::check::{self, NameBits, Place};
use crate::error::Error;
use crate::pages::halves;
use crate::predecessor::{Held, check_root, left, past_root, past_words};

/// The predecessor's root page and scratch list, as long as they are kept.
///
/// What the root page names is not given back before its entry has ended: another owner's bytes would
/// stand under that name. Names that this kernel is done with are noted here meanwhile, by their place
/// in that page: what lies at an address does not tell whether it is what the name led to.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) root: PhysAddr,
    /// The root page, the scratch list, and a header page that was replaced.
    pub(crate) held: [Option<Held>; 3],
    /// Names that this kernel's root page has no room for.
    full: u32,
    /// The entry leads nowhere any more.
    pub(crate) ended: bool,
    /// Names that were claimed: the block is this layer's.
    pub(crate) claimed: NameBits,
    /// Names whose block is to be freed, unclaimed.
    pub(crate) discarded: NameBits,
}

impl Moved {
    /// Returns what is known of the predecessor whose root page is at `root`, where `full` of its names
    /// have no place in this kernel's.
    pub(crate) const fn new(root: PhysAddr, held: [Option<Held>; 3], full: u32) -> Self {
        let (claimed, discarded) = (NameBits::NONE, NameBits::NONE);
        Self { root, held, full, ended: false, claimed, discarded }
    }

    /// Returns how many of the predecessor's names this kernel's root page has no room for.
    pub(crate) const fn full(&self) -> u32 {
        self.full
    }

    /// Returns the predecessor's root page.
    pub(crate) fn view<'m, M: Machine>(
        &self,
        memory: &'m Memory<M>,
    ) -> Result<RootView<'m>, Error> {
        if self.ended {
            return Ok(RootView::ended(halves(past_words(memory, self.root)?), self.root)?);
        }
        past_root(memory, self.root)
    }
}

/// Returns where in a root page a name stands that leads to an address.
pub(crate) fn index_of(view: &RootView<'_>, name: &Name, addr: PhysAddr) -> Option<usize> {
    let is = |subtree: Subtree| subtree.name == *name && subtree.addr == addr;
    view.subtrees().position(|subtree| subtree.is_ok_and(is))
}

/// Ends the entry of the root page at `root`, by one store.
pub(crate) fn end<M: Machine>(memory: &Memory<M>, root: PhysAddr) -> Result<(), Error> {
    if let Some(word) = halves(past_words(memory, root)?).get(MAGIC_WORD) {
        // Release: what is given back is given back after this.
        store::word32(word, FDT_ENDED, Release);
    }
    Ok(())
}

/// Ends the entry of the root page at `before`, beside which the one at `root` was made by a kernel
/// that ended before it had done so.
///
/// Its page is told by [`Heirloom::finish`] with what is unclaimed, if it is preserved. Where something
/// else stands there by now, nothing is changed: the entry leads nowhere then.
#[inline(never)]
pub(crate) fn end_before<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
    before: Option<PhysAddr>,
) -> Result<(), Error> {
    let Some(before) = before.filter(|before| *before != root) else { return Ok(()) };
    let frames = Run::covering(before, PAGE_BYTES).filter(|run| memory.contains(*run));
    let Some(frames) = frames else { return Ok(()) };
    let map = past_root(memory, root)?.map();
    let leads_to_the_tree = || check_root(memory, before).is_ok_and(|view| view.map() == map);
    match check::place(&left(memory), Table::Root, frames) {
        Ok(Place::Preserved(block)) => {
            // No slab, and none of the tables that this kernel goes on with.
            let apart = memory.predecessor().contains(block)
                && memory.predecessor().label_of(block).is_none();
            if apart && leads_to_the_tree() { end(memory, before) } else { Ok(()) }
        }
        // Nothing preserves it, so it must be free: in use are tables of this kernel's, and scratch.
        Ok(Place::Free(frames)) if memory.reserve(frames).is_ok() => {
            let ended = if leads_to_the_tree() { end(memory, before) } else { Ok(()) };
            // SAFETY: reserved above, and looked at by nothing else.
            unsafe { memory.release(frames) }?;
            ended
        }
        _ => Ok(()),
    }
}

/// Returns whether a root page names any frame of `run`.
pub(crate) fn names_frames(view: &RootView<'_>, run: Run) -> bool {
    let mut all = view.subtrees().filter_map(Result::ok);
    all.any(|subtree| subtree.frames().is_some_and(|frames| frames.overlaps(run)))
}
