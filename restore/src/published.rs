//! Names in the root page: what is published, and subtrees of other makes.

use core::ptr::NonNull;

use heirloom_folio::{FrameType, Machine, Request};
use heirloom_kho::internal::Edit;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::written;
use heirloom_kho::{Block, Name, Order, PAGE_SIZE, PhysAddr, RootView, Run, Subtree};

use crate::area::{drop_table, growing};
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::moved::names_frames;
use crate::names::Owner;

/// Returns where among the subtrees one is, and where it leads.
pub(crate) fn place_of(
    view: &RootView<'_>,
    name: &Name,
) -> Result<Option<(usize, PhysAddr)>, Error> {
    for (index, subtree) in view.subtrees().enumerate() {
        let subtree = subtree?;
        if subtree.name == *name {
            return Ok(Some((index, subtree.addr)));
        }
    }
    Ok(None)
}

impl<M: Machine> Heirloom<M> {
    /// Publishes `bytes` under `name`, in place of what was published under it before: the
    /// successor gets them from [`Heirloom::claim_root`].
    ///
    /// Usually a few handles, from which everything else is found.
    ///
    /// # Errors
    /// [`Error::RootFull`]; [`Error::NameTaken`]: a subtree that was added, not published; or the
    /// predecessor's, which was not claimed, or of which a [`Root`](crate::Root) is there;
    /// [`Error::BadName`]; [`Error::Folio`]: no memory, or more bytes than the largest folio has.
    /// What was published before stays. The seal does too, but where there is no memory for a node
    /// of the tracker.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let name = Name::new(name)?;
        let blob = self.new_blob(bytes)?;
        // What is preserved and unpreserved here changes the tracker's nodes, which a seal covers:
        // no seal is made before all of it is done.
        let mut made = self.edit.lock();
        let mut published = self.root_page().and_then(|mut page| {
            let new = Subtree { name, addr: blob.addr(), size: Some(usize_to_u64(bytes.len())) };
            let (there, count) = (place_of(&page.view()?, &name)?, page.view()?.subtrees().count());
            let edit = match there {
                None => Edit::Add(new),
                Some((index, _)) if made.is(index, Owner::Made) => Edit::Replace(new),
                Some(_) => return Err(Error::NameTaken { name }),
            };
            page.edit(edit, || {
                self.break_seal()?;
                // SAFETY: from `new_blob`, and this call's alone.
                let keep = || unsafe { self.memory().preserve_as(blob, FrameType::Table) };
                Ok::<_, Error>(growing(self.memory(), keep)?)
            })?;
            match there {
                None => made.set(count, Some(Owner::Made)),
                Some((_, before)) => self.drop_blob_unless_named(&page.view()?, before),
            }
            Ok(())
        });
        if let Err(error) = &mut published {
            made.count_inherited(error);
            self.drop_blob(blob);
        }
        published
    }

    /// Takes back what was published under `name`, by this kernel, or claimed by it.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]: nothing was; [`Error::NameTaken`]: a [`Root`](crate::Root) of it is
    /// there; [`Error::BadName`].
    pub fn unpublish(&self, name: &str) -> Result<(), Error> {
        let name = Name::new(name)?;
        let mut made = self.edit.lock();
        let mut page = self.root_page()?;
        let there = place_of(&page.view()?, &name)?.filter(|(index, _)| made.is_made(*index));
        let (index, addr) = there.ok_or(Error::NoSuchSubtree { name })?;
        if made.is(index, Owner::Lent) {
            return Err(Error::NameTaken { name });
        }
        page.edit(Edit::Remove(name), || self.break_seal())?;
        made.remove(index);
        // As in `publish`: before the next seal.
        self.drop_blob_unless_named(&page.view()?, addr);
        Ok(())
    }

    /// Adds a subtree as Linux has them: `bytes` bytes at `addr`, in any format, whose frames the
    /// caller preserves and keeps preserved. It is [removed](Heirloom::remove_subtree) before they are
    /// let go: a successor takes out a name whose frames are not preserved.
    ///
    /// One of the predecessor's of this name, with the same bytes, is the caller's from now on.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::RootFull`], [`Error::BadName`]; [`Error::NotPreserved`]: a
    /// frame of it is not preserved, or by the predecessor alone; [`Error::Folio`]: a slab, a large
    /// buffer or a table, which only the layer that keeps it names.
    pub fn add_subtree(&self, name: &str, addr: PhysAddr, bytes: u64) -> Result<(), Error> {
        let name = Name::new(name)?;
        let none = Error::NotPreserved { at: addr };
        let run = Run::covering(addr, bytes).filter(|run| !run.is_empty()).ok_or(none)?;
        let mut at = run.start();
        while at < run.end() {
            // A node of the tree is preserved without a bit of its own.
            match self.memory().owning_block(at) {
                Some((holder, found, true))
                    if found == FrameType::Table
                        || holder
                            .blocks()
                            .all(|block| self.memory().preserved().contains(block)) =>
                {
                    if !matches!(found, FrameType::Folio | FrameType::Run) {
                        let expected = FrameType::Folio;
                        Err(heirloom_folio::Error::WrongType { pfn: at, expected, found })?;
                    }
                    at = holder.end();
                }
                _ => return Err(Error::NotPreserved { at: at.addr() }),
            }
        }
        let mut names = self.edit.lock();
        let new = Subtree { name, addr, size: Some(bytes) };
        let mut page = self.root_page()?;
        let there = page.view()?.subtrees().position(|subtree| subtree == Ok(new));
        if let Some(index) = there.filter(|index| names.is(*index, Owner::Inherited)) {
            names.set(index, None);
            return Ok(());
        }
        let mut added = page.edit(Edit::Add(new), || self.break_seal());
        if let Err(error) = &mut added {
            names.count_inherited(error);
        }
        added
    }

    /// Removes a subtree that [`Heirloom::add_subtree`] added, or one of the predecessor's that was not
    /// claimed; its frames stay as they are.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`], [`Error::BadName`].
    pub fn remove_subtree(&self, name: &str) -> Result<(), Error> {
        let name = Name::new(name)?;
        let mut made = self.edit.lock();
        let mut page = self.root_page()?;
        let there = place_of(&page.view()?, &name)?;
        // Neither what `publish` made nor heirloom's own.
        let there =
            there.filter(|(index, addr)| !made.is_made(*index) && *addr != self.pages.header);
        let (index, _) = there.ok_or(Error::NoSuchSubtree { name })?;
        page.edit(Edit::Remove(name), || self.break_seal())?;
        made.remove(index);
        Ok(())
    }

    /// Calls `each` with the name, address and size of every subtree that this kernel leaves. No
    /// lock is held meanwhile: of what is added or removed before it returns, also by `each`, it may
    /// tell or not.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the root page.
    pub fn for_each_subtree(&self, mut each: impl FnMut(&str, PhysAddr, u64)) -> Result<(), Error> {
        let mut last = None;
        while let Some((index, subtree)) = self.subtree_after(last)? {
            each(subtree.name.as_str(), subtree.addr, subtree.size.unwrap_or(0));
            last = Some((index, subtree.name));
        }
        Ok(())
    }

    /// Returns the subtree behind one of this name, which stood at an index, and its own index.
    /// Where that name is gone, the one that stands there now.
    fn subtree_after(
        &self,
        last: Option<(usize, Name)>,
    ) -> Result<Option<(usize, Subtree)>, Error> {
        let _alone = self.edit.lock();
        let page = self.root_page()?;
        let view = page.view()?;
        let next = match &last {
            None => 0,
            Some((index, name)) => place_of(&view, name)?.map_or(*index, |(there, _)| there + 1),
        };
        Ok(view.subtrees().nth(next).transpose()?.map(|subtree| (next, subtree)))
    }

    /// Returns the block that `publish` made at `addr`, or `claim_root` took.
    pub(crate) fn blob_at(&self, addr: PhysAddr) -> Option<Block> {
        match self.memory().state(addr.pfn()).ok()? {
            heirloom_folio::FrameState::Head { kind: FrameType::Table, order, .. } => {
                Block::new(addr.pfn(), order).filter(|block| block.addr() == addr)
            }
            _ => None,
        }
    }

    /// Gives back what a name led to at `addr`, which is struck out, unless another name in `view` leads
    /// there, or one in a predecessor's root page whose entry is good.
    fn drop_blob_unless_named(&self, view: &RootView<'_>, addr: PhysAddr) {
        let Some(block) = self.blob_at(addr) else { return };
        if !names_frames(view, block.run()) && !self.is_claimed_before(addr) {
            self.drop_blob(block);
        }
    }

    /// Returns a folio that starts with `bytes`, not preserved yet.
    fn new_blob(&self, bytes: &[u8]) -> Result<Block, Error> {
        let memory = self.memory();
        let frames = usize_to_u64(bytes.len().max(1).div_ceil(PAGE_SIZE));
        let order = Order::for_frames(frames).unwrap_or(Order::MAX);
        let request = Request::new(order).frame_type(FrameType::Table).zeroed();
        let block = growing(memory, || memory.alloc(request))?;
        let start = memory.machine().ptr(block.addr());
        // SAFETY: the block is new, holds that many bytes, and is this call's alone.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        written(start, bytes.len().next_multiple_of(size_of::<u64>()));
        Ok(block)
    }

    /// Gives back a folio that is not published, or no longer, preserved or not.
    pub(crate) fn drop_blob(&self, block: Block) {
        let memory = self.memory();
        if memory.preserved().contains(block) {
            return drop_table(memory, block);
        }
        // SAFETY: from `new_blob`, and no name leads to it (any more).
        let freed = unsafe { memory.free_as(block, FrameType::Table) };
        debug_assert!(freed.is_ok(), "a folio of `publish` can be freed: {freed:?}");
    }
}
