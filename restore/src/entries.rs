//! Two entries for a while: what a running kernel does about its predecessor's, where that has a root page
//! of another make. See `moved`.

use heirloom_folio::Machine;
use heirloom_kho::{Block, Header, Name, PhysAddr, RootView, Run, Subtree};

use crate::area::drop_table;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::moved::{Moved, end, index_of, names_frames};
use crate::predecessor::Held;

impl<M: Machine> Heirloom<M> {
    /// Calls `f` with the predecessor's root page, where that is another and kept, and what is known of it.
    fn before<R>(&self, f: impl FnOnce(&mut Moved, &RootView<'_>) -> R) -> Option<R> {
        let mut moved = self.moved.lock();
        let moved = moved.as_mut()?;
        let view = moved.view(self.memory()).ok()?;
        Some(f(moved, &view))
    }

    /// Notes that a name was claimed.
    pub(crate) fn note_claimed(&self, name: &Name, addr: PhysAddr) {
        self.before(|moved, view| {
            if !moved.ended
                && let Some(index) = index_of(view, name, addr)
            {
                moved.claimed.set(index, true);
            }
        });
    }

    /// Returns whether the block at an address, which this layer has, is what a name led to by
    /// which the predecessor's entry still finds it.
    pub(crate) fn is_claimed_before(&self, addr: PhysAddr) -> bool {
        let claimed = self.before(|moved, view| {
            let mut names = view.subtrees().enumerate();
            !moved.ended
                && names.any(|(index, subtree)| {
                    moved.claimed.has(index) && subtree.is_ok_and(|subtree| subtree.addr == addr)
                })
        });
        claimed == Some(true)
    }

    /// Returns whether the predecessor's root page is another, and is kept.
    pub(crate) fn has_before(&self) -> bool {
        self.moved.lock().is_some()
    }

    /// Returns the predecessor's root page, where that is another, is preserved, and its entry has not
    /// ended.
    pub(crate) fn root_before(&self) -> Option<PhysAddr> {
        let moved = self.moved.lock();
        let moved = moved.as_ref().filter(|moved| !moved.ended)?;
        // What is not preserved may be anything by the time the seal is looked at.
        matches!(moved.held, [Some(Held::Taken(_)), ..]).then_some(moved.root)
    }

    /// Returns whether the predecessor's root page names frames of `run`, its entry being good or
    /// not.
    pub(crate) fn is_named_before(&self, run: Run) -> bool {
        self.before(|_, view| names_frames(view, run)) == Some(true)
    }

    /// Returns whether the predecessor's entry is good and leads to frames of `run`: those to which
    /// `subtree` led are freed then, once it has ended.
    pub(crate) fn note_discarded(&self, subtree: &Subtree, run: Run) -> bool {
        let named = self.before(|moved, view| {
            let named = !moved.ended && names_frames(view, run);
            if named && let Some(index) = index_of(view, &subtree.name, subtree.addr) {
                moved.discarded.set(index, true);
            }
            named
        });
        named == Some(true)
    }

    /// Returns what is to become of an unclaimed block that the predecessor's entry led to, now that it
    /// has ended; `None` if it did not, or that was never another.
    pub(crate) fn ended_name(&self, block: Block) -> Option<Ended> {
        self.before(|moved, view| {
            if !moved.ended || !names_frames(view, block.run()) {
                return None;
            }
            let mut names = view.subtrees().enumerate();
            let discarded = names.any(|(index, subtree)| {
                moved.discarded.has(index)
                    && subtree.is_ok_and(|subtree| subtree.addr == block.addr())
            });
            Some(if discarded { Ended::Free } else { Ended::Ask })
        })?
    }

    /// Ends the predecessor's entry, where it is another than this kernel's, and gives back what was
    /// claimed by its names and is no longer this kernel's. Returns whether it was another.
    #[inline(never)]
    pub(crate) fn end_entry(&self) -> Result<bool, Error> {
        let _alone = self.edit.lock();
        let mut moved = self.moved.lock();
        let Some(moved) = moved.as_mut() else { return Ok(false) };
        let view = moved.view(self.memory())?;
        // It covers that root page, and nodes of the tree, which change by what is given back here and by
        // the caller next: also where an earlier call was stopped behind the end of the entry.
        self.break_seal()?;
        if !moved.ended {
            end(self.memory(), moved.root)?;
            moved.ended = true;
        }
        // Before the page is given back: something else may stand there then.
        let mut page = self.header_page()?;
        if page.read()?.before.is_some() {
            page.renew(&Header { before: None, ..page.read()? })?;
        }
        let ours = self.root_page()?;
        let ours = ours.view()?;
        for (index, subtree) in view.subtrees().enumerate() {
            if !moved.claimed.has(index) {
                continue;
            }
            moved.claimed.set(index, false);
            let block = self.blob_at(subtree?.addr);
            if let Some(block) = block.filter(|block| !names_frames(&ours, block.run())) {
                self.drop_blob(block);
            }
        }
        Ok(true)
    }

    /// Gives back the pages of an entry that was ended.
    #[inline(never)]
    pub(crate) fn drop_ended(&self) -> Result<(), Error> {
        let _alone = self.edit.lock();
        if !self.has_before() {
            return Ok(());
        }
        // What goes was preserved: nodes of the tree change, which a seal that was made since covers.
        self.break_seal()?;
        let Some(moved) = self.moved.lock().take() else { return Ok(()) };
        let mut dropped = Ok(());
        for held in moved.held.into_iter().flatten() {
            match held {
                Held::Taken(block) => drop_table(self.memory(), block),
                Held::Reserved(run) => {
                    // SAFETY: reserved for this page by `revive`, and the entry that led to it has ended.
                    let released = unsafe { self.memory().release(run) };
                    // One that is refused keeps none of the others.
                    dropped = dropped.and(released);
                }
            }
        }
        Ok(dropped?)
    }
}

/// What is to become of a block that only an entry led to that has ended.
pub(crate) enum Ended {
    /// Its name was told, and was to be freed.
    Free,
    /// It was not told yet.
    Ask,
}
