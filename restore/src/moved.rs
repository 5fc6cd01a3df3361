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
//!  this kernel's entry ──> own root page ──> names ─┘, heirloom ──> header, roll
//! ```
//!
//! What the predecessor preserved is found through either, and so is what this kernel preserves in
//! folios, runs, areas and lists; caches and names of this kernel's through its own entry alone. The
//! predecessor's entry is good until [`Handover::finish`], which ends it by one store. What only the
//! old root page names goes after that.

use heirloom_folio::sync::Ordering::Release;
use heirloom_folio::{Block, Machine, Order, PhysAddr, Run};

use crate::area::drop_table;
use crate::entry::halves;
use crate::error::Error;
use crate::fdt::header;
use crate::handover::Handover;
use crate::past::past_root;
use crate::root::RootView;
use crate::store;

/// What keeps a page of the predecessor's from being used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held {
    /// It is in this block, which is preserved, and this layer's.
    Taken(Block),
    /// It is in these frames, which nothing preserves, and which are reserved.
    Reserved(Run),
}

impl Held {
    /// Whether it is the page at `addr`, preserved as one.
    pub(crate) fn is_page_of(self, addr: PhysAddr) -> bool {
        matches!(self, Self::Taken(block) if block.order() == Order::ZERO && block.addr() == addr)
    }
}

/// The predecessor's root page and scratch list, as long as its entry is good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    root: PhysAddr,
    held: [Option<Held>; 2],
    /// Names that this kernel's root page has no room for.
    full: u32,
}

impl Moved {
    /// Returns what is known of the predecessor whose root page is at `root`, where `full` of its names
    /// have no place in this kernel's.
    pub(crate) const fn new(root: PhysAddr, held: [Option<Held>; 2], full: u32) -> Self {
        Self { root, held, full }
    }

    /// How many of the predecessor's names this kernel's root page has no room for.
    pub(crate) const fn full(&self) -> u32 {
        self.full
    }
}

impl<M: Machine> Handover<M> {
    /// Whether the predecessor's root page, where that is another, names frames of `run`.
    pub(crate) fn is_named_before(&self, run: Run) -> bool {
        let Some(moved) = *self.moved.lock() else { return false };
        let names = |view: RootView<'_>| {
            view.subtrees().any(|subtree| {
                subtree.is_ok_and(|subtree| {
                    subtree.frames().is_some_and(|frames| frames.overlaps(run))
                })
            })
        };
        past_root(self.memory(), moved.root).is_ok_and(names)
    }

    /// Ends the predecessor's entry, where it is another than this kernel's, and gives back its pages
    /// and what it alone names.
    pub(crate) fn end_moved(&self) -> Result<(), Error> {
        let _alone = self.edit.lock();
        let Some(moved) = self.moved.lock().take() else { return Ok(()) };
        let memory = self.memory();
        let view = past_root(memory, moved.root)?;
        let words = halves(self.table_words(moved.root));
        if let Some(word) = words.get(header::MAGIC) {
            // Release: what is given back is given back after this.
            store::word32(word, 0, Release);
        }
        let ours = self.root_page()?;
        for subtree in view.subtrees() {
            let subtree = subtree?;
            let Some(block) = self.blob_at(subtree.addr) else { continue };
            if !names_frames(&ours.view()?, block.run()) {
                self.drop_blob(block);
            }
        }
        for held in moved.held.into_iter().flatten() {
            match held {
                Held::Taken(block) => drop_table(memory, block),
                // SAFETY: reserved for this page by `revive`, and the entry that led to it has ended.
                Held::Reserved(run) => unsafe { memory.release(run) }?,
            }
        }
        Ok(())
    }
}

/// Whether a root page names any frame of `run`.
pub(crate) fn names_frames(view: &RootView<'_>, run: Run) -> bool {
    let mut all = view.subtrees().filter_map(Result::ok);
    all.any(|subtree| subtree.frames().is_some_and(|frames| frames.overlaps(run)))
}
