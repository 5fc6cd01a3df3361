//! What the predecessor left: checked, gone on with, looked up by its owners, and in the end told.

use heirloom_folio::{Disposition, Machine};
use heirloom_kho::internal::Edit;
use heirloom_kho::{Block, Name, PhysAddr, Producer, RootPage, RootView, Run, Subtree};
use heirloom_slab::Name as CacheName;

use crate::claim;
use crate::entries::Ended;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::moved::{Moved, names_frames};
use crate::names::Owner;
use crate::pages::halves;
use crate::published::place_of;

/// Something that a predecessor preserved and that was not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unclaimed {
    /// A subtree of the root page: what was published under a name, or added.
    Subtree {
        /// The name.
        name: Name,
        /// Where its bytes start.
        addr: PhysAddr,
        /// How many, where its writer said so.
        bytes: Option<u64>,
    },
    /// A folio, or a block of a run, an area or a large buffer: the tree does not tell which.
    Folio(Block),
    /// A slab of a cache that was not adopted, whole.
    Slab {
        /// The cache, as the predecessor named it.
        cache: CacheName,
        /// The slab.
        slab: Block,
        /// Preserved objects in it.
        objects: u32,
    },
    /// An object in a cache that was adopted, or a small buffer.
    Object {
        /// Its cache.
        cache: CacheName,
        /// Its address.
        addr: PhysAddr,
        /// Its size in bytes.
        size: u32,
    },
}

impl From<heirloom_slab::Unclaimed> for Unclaimed {
    fn from(unclaimed: heirloom_slab::Unclaimed) -> Self {
        match unclaimed {
            heirloom_slab::Unclaimed::Slab { cache, slab, objects } => {
                Self::Slab { cache, slab, objects }
            }
            heirloom_slab::Unclaimed::Object { cache, addr, size } => {
                Self::Object { cache, addr, size }
            }
        }
    }
}

/// What [`Heirloom::finish`] found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    /// Subtrees that were not claimed.
    pub subtrees: u64,
    /// Blocks that were not claimed.
    pub folios: u64,
    /// Frames in them.
    pub frames: u64,
    /// Slabs of caches that were not adopted.
    pub slabs: u64,
    /// Objects that were not claimed, in slabs that were adopted.
    pub objects: u64,
}

/// A root that the predecessor published, claimed: a view of its bytes.
///
/// It stays published, and preserved, once the view is dropped: [`Heirloom::unpublish`] takes it back,
/// and [`Heirloom::publish`] replaces it. As long as the view is there, both are refused.
pub struct Root<'h, M: Machine> {
    handover: &'h Heirloom<M>,
    name: Name,
    block: Block,
    bytes: usize,
}

impl<M: Machine> Root<'_, M> {
    /// Returns what was published.
    pub fn bytes(&self) -> &[u8] {
        let start = self.handover.memory().machine().ptr(self.block.addr());
        // SAFETY: the block is this layer's, holds that many bytes, and is neither written nor given back
        // as long as the view is there.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), self.bytes) }
    }

    /// Returns its name.
    pub const fn name(&self) -> Name {
        self.name
    }
}

impl<M: Machine> core::fmt::Debug for Root<'_, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Root({}, {} bytes)", self.name, self.bytes)
    }
}

impl<M: Machine> Drop for Root<'_, M> {
    fn drop(&mut self) {
        let mut names = self.handover.edit.lock();
        let page = self.handover.root_page();
        let there = page.and_then(|page| place_of(&page.view()?, &self.name));
        if let Ok(Some((index, _))) = there {
            names.set(index, Some(Owner::Made));
        }
    }
}

impl<M: Machine> Heirloom<M> {
    /// Returns the name of the kernel that wrote the handover that this kernel came from, if it was
    /// written with heirloom.
    pub const fn predecessor(&self) -> Option<Producer> {
        self.predecessor
    }

    /// Returns how many names of a predecessor whose root page is of another make have no room in this
    /// kernel's. They are lost when its entry is ended: by [`Heirloom::finish`], or by the first kernel
    /// that starts with this one's entry, which tells what they led to as folios.
    pub fn names_left_behind(&self) -> u32 {
        self.moved.lock().as_ref().map_or(0, Moved::full)
    }

    /// Returns how many of the predecessor's names led to frames that were let go before the name was
    /// taken away: [`Heirloom::revive_memory`] has taken these names out.
    pub const fn names_lost(&self) -> u32 {
        self.lost
    }

    /// Calls `each` with the name, address and size of every subtree that the predecessor left and that
    /// was not claimed, taken over by [`Heirloom::add_subtree`], or removed, in the order of the names.
    /// No lock is held meanwhile: `each` may call anything.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the root page.
    pub fn for_each_inherited_subtree(
        &self,
        mut each: impl FnMut(&str, PhysAddr, Option<u64>),
    ) -> Result<(), Error> {
        self.each_unclaimed_subtree(|subtree| {
            each(subtree.name.as_str(), subtree.addr, subtree.size);
            Ok(())
        })
    }

    /// Calls `each` with every subtree that is the predecessor's still, with no lock held. In the order of
    /// their names: where one stands may change meanwhile.
    #[inline(never)]
    fn each_unclaimed_subtree(
        &self,
        mut each: impl FnMut(Subtree) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Checked once: what the names are is then read anew for each that is told.
        let root = {
            let _names = self.edit.lock();
            self.root_page()?.at()
        };
        let mut last: Option<Name> = None;
        while let Some(subtree) = self.unclaimed_behind(root, last)? {
            last = Some(subtree.name);
            each(subtree)?;
        }
        Ok(())
    }

    /// Returns the first subtree behind a name that is the predecessor's still.
    #[inline(never)]
    fn unclaimed_behind(
        &self,
        root: PhysAddr,
        last: Option<Name>,
    ) -> Result<Option<Subtree>, Error> {
        let names = self.edit.lock();
        let view = RootView::again(halves(self.table_words(root)), root)?;
        let behind = |subtree: &Subtree| last.is_none_or(|last| subtree.name > last);
        let unclaimed = names.unclaimed(&view).map(|(_, subtree)| subtree);
        Ok(unclaimed.filter(behind).min_by_key(|subtree| subtree.name))
    }

    /// Claims what the predecessor published under `name`; once. It stays published.
    ///
    /// What was added by [`Heirloom::add_subtree`] is not told apart from what was published: its first
    /// block would be this layer's then, and no longer there for its owner's handle. Claim it by that, and
    /// add it again.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]: there is nothing of that name. [`Error::NotInherited`]: it is
    /// claimed already, or this kernel's, or no folio holds all of it (a subtree of another make: read
    /// its address with [`Heirloom::for_each_inherited_subtree`]). [`Error::BadName`].
    pub fn claim_root(&self, name: &str) -> Result<Root<'_, M>, Error> {
        let name = Name::new(name)?;
        let mut names = self.edit.lock();
        let page = self.root_page()?;
        let view = page.view()?;
        let (index, addr) = place_of(&view, &name)?.ok_or(Error::NoSuchSubtree { name })?;
        let none = Error::NotInherited { at: addr };
        let bytes = view.find(&name)?.size.ok_or(none)?;
        if !names.is(index, Owner::Inherited) {
            return Err(none);
        }
        let block = claim::blob(self.memory(), addr, bytes)?;
        names.set(index, Some(Owner::Lent));
        self.note_claimed(&name, addr);
        Ok(Root { handover: self, name, block, bytes: usize::try_from(bytes).unwrap_or(0) })
    }

    /// Tells what was not claimed. `disposition` is asked about everything, and decides whether it becomes free
    /// memory or stays as it is: preserved, and there to be claimed, in this kernel or the next.
    ///
    /// This layer holds no lock while it calls `disposition`, which may call anything, this too. What is claimed
    /// meanwhile, in it or by another thread, is left to its owner. If `disposition` panics, what was decided
    /// stands. The call can be repeated at any time, and can be left out for as long as one likes: what
    /// is not claimed costs its memory, and nothing else.
    ///
    /// Where the predecessor's root page is of another make, this breaks the seal, if there is one, and
    /// ends the predecessor's entry, by one store: what leads the next kernel here must name [`Heirloom::entry`] before. What that root page
    /// names is given back after it, and what only it names is told after it; all else, before.
    ///
    /// Returns what was told by this call.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the root page; [`Error::Slab`] as for
    /// [`Slabs::finish_inherited`](heirloom_slab::Slabs::finish_inherited). What was decided so far stands,
    /// and the call can be repeated.
    pub fn finish(
        &self,
        mut disposition: impl FnMut(Unclaimed) -> Disposition,
    ) -> Result<Finished, Error> {
        let mut finished = Finished::default();
        self.each_unclaimed_subtree(|subtree| {
            let Subtree { name, addr, size: bytes } = subtree;
            finished.subtrees += 1;
            match disposition(Unclaimed::Subtree { name, addr, bytes }) {
                Disposition::Free => self.discard_subtree(&subtree),
                Disposition::Keep => Ok(()),
            }
        })?;
        let count = |unclaimed: heirloom_slab::Unclaimed, _| match unclaimed {
            heirloom_slab::Unclaimed::Slab { .. } => finished.slabs += 1,
            heirloom_slab::Unclaimed::Object { .. } => finished.objects += 1,
        };
        self.slabs.finish_inherited_noting(|unclaimed| disposition(unclaimed.into()), count)?;
        let before = self.has_before();
        self.finish_blocks(&mut finished, &mut disposition, |kernel, block| {
            // What the predecessor's entry names comes last.
            if before && kernel.is_named_before(block.run()) { Due::Keep } else { Due::Ask }
        })?;
        if self.end_entry()? {
            self.finish_blocks(&mut finished, &mut disposition, |kernel, block| {
                match kernel.ended_name(block) {
                    None => Due::Keep,
                    Some(Ended::Free) => Due::Free,
                    Some(Ended::Ask) => Due::Ask,
                }
            })?;
            self.drop_ended()?;
        }
        self.fill_reserve();
        Ok(finished)
    }

    /// Asks `disposition` about the blocks that are not claimed, and that are not slabs or a name's, where that
    /// is what `due` says.
    #[inline(never)]
    fn finish_blocks(
        &self,
        finished: &mut Finished,
        disposition: &mut impl FnMut(Unclaimed) -> Disposition,
        due: impl Fn(&Self, Block) -> Due,
    ) -> Result<(), Error> {
        let named = self.unclaimed_frames()?;
        self.memory().predecessor().finish(|block| {
            // Names were asked about. (So were slabs; they and tables have labels, and are not told here.)
            if named.have(self, block) {
                return Disposition::Keep;
            }
            match due(self, block) {
                Due::Keep => Disposition::Keep,
                Due::Free => Disposition::Free,
                Due::Ask => {
                    finished.folios += 1;
                    finished.frames += block.order().frames();
                    disposition(Unclaimed::Folio(block))
                }
            }
        });
        Ok(())
    }

    /// Strikes out a name that is the predecessor's still, and frees what only it leads to.
    #[inline(never)]
    fn discard_subtree(&self, subtree: &Subtree) -> Result<(), Error> {
        let mut names = self.edit.lock();
        let mut page = self.root_page()?;
        let there = place_of(&page.view()?, &subtree.name)?;
        let there = there.filter(|(index, _)| names.is(*index, Owner::Inherited));
        let Some((index, _)) = there else { return Ok(()) };
        page.edit(Edit::Remove(subtree.name), || self.break_seal())?;
        names.remove(index);
        let block = self.memory().predecessor().block_at(subtree.addr.pfn());
        if let Some(block) = block.filter(|block| block.addr() == subtree.addr)
            && self.memory().predecessor().label_of(block).is_none()
            && !names_frames(&page.view()?, block.run())
            && !self.note_discarded(subtree, block.run())
        {
            self.memory().predecessor().dispose_of(block);
        }
        Ok(())
    }

    /// Returns the frames of the names that are the predecessor's still.
    fn unclaimed_frames(&self) -> Result<NamedFrames, Error> {
        let names = self.edit.lock();
        let page = self.root_page()?;
        let view = page.view()?;
        let mut frames = NamedFrames { runs: [None; NAMED], count: 0, more: false };
        for (_, subtree) in names.unclaimed(&view) {
            match frames.runs.get_mut(frames.count) {
                Some(slot) => (*slot, frames.count) = (subtree.frames(), frames.count + 1),
                None => frames.more = true,
            }
        }
        Ok(frames)
    }
}

/// What is to become of a block.
enum Due {
    Keep,
    Free,
    Ask,
}

/// How many names are kept at hand while blocks are gone through: more than a page of 4 KiB has.
const NAMED: usize = 32;

/// The frames of names, a few of them at hand.
struct NamedFrames {
    runs: [Option<Run>; NAMED],
    /// How many of them are there.
    count: usize,
    /// There are more, to be looked up.
    more: bool,
}

impl NamedFrames {
    /// Returns whether a frame of `block` is that of a name.
    fn have<M: Machine>(&self, handover: &Heirloom<M>, block: Block) -> bool {
        let run = block.run();
        if self.runs.iter().take(self.count).flatten().any(|named| named.overlaps(run)) {
            return true;
        }
        self.more && {
            let names = handover.edit.lock();
            let page = handover.root_page();
            let view = page.as_ref().map(RootPage::view);
            let Ok(Ok(view)) = view else { return true };
            let mut unclaimed = names.unclaimed(&view);
            unclaimed.any(|(_, subtree)| subtree.frames().is_some_and(|named| named.overlaps(run)))
        }
    }
}
