//! Both sides of the jump in one object: what this kernel leaves, and what it was left.
//!
//! ```text
//!   root page ──check──> go on with it ──> claim … finish        what it was left
//!       │                                     │
//!       ├── map ── tree                       │ preserve, publish   what it leaves
//!       └── subtrees ── heirloom (roll, seal) v
//! ```

use core::ptr::NonNull;
use heirloom_folio::sync::{AtomicU64, written};

use heirloom_folio::{
    Block, Kind, Machine, Memory, Order, PAGE_SIZE, PhysAddr, PreservedFolio, PreservedRun,
    Request, Run,
};
use heirloom_slab::{NewSlabs, Slabs};
use lock_api::Mutex;

use crate::area::{PreservedArea, drop_table, new_table};
use crate::claim;
use crate::entry::Entry;
use crate::error::Error;
use crate::moved::{Moved, names_frames};
use crate::names::{Names, Owner};
use crate::pages::halves;
use crate::pages::words_at;
use crate::records::Records;
use crate::reserve::Reserve;
use heirloom_kho::HandleFault;
use heirloom_kho::Record;
use heirloom_kho::internal::Edit;
use heirloom_kho::{Handle, Parts};
use heirloom_kho::{Header, HeaderPage, Producer, SUBTREE, SealState};
use heirloom_kho::{Name, RootPage, RootView, Subtree};
use heirloom_kho::{ScratchList, ScratchWords};

/// The handover of one kernel: what it leaves to its successor, and what its predecessor left.
///
/// At any instant the root page describes a whole handover; nothing has to be finished before a
/// jump, or before a crash into the successor.
pub struct Handover<M: Machine> {
    pub(crate) slabs: Slabs<M>,
    pub(crate) pages: OwnPages,
    pub(crate) predecessor: Option<Producer>,
    /// Names that `revive` took out, as their frames were let go.
    pub(crate) lost: u32,
    /// Held while the root page or the seal is edited.
    pub(crate) edit: Mutex<M::Mutex, Names>,
    /// The predecessor's entry, where it is another and still good. Taken last.
    pub(crate) moved: Mutex<M::Mutex, Option<Moved>>,
    /// Held while it is filled up.
    pub(crate) reserve: Mutex<M::Mutex, Reserve>,
}

/// The pages of the handover itself, and what was written into them.
#[derive(Clone, Copy)]
pub(crate) struct OwnPages {
    pub(crate) entry: Entry,
    pub(crate) header: PhysAddr,
    pub(crate) generation: u64,
}

impl OwnPages {
    /// Writes a handover with nothing in it but itself.
    #[inline(never)]
    pub(crate) fn create<M: Machine>(
        slabs: &NewSlabs<M>,
        scratch: impl Iterator<Item = Run> + Clone,
        producer: &str,
        generation: u64,
    ) -> Result<Self, Error> {
        let list = write_scratch(slabs.memory(), scratch)?;
        let header = write_header(slabs, producer, generation)?;
        Self::around(slabs.memory(), list, generation, header)
    }

    /// Writes a root page and a scratch list beside a predecessor's, with this page of the `heirloom`
    /// subtree.
    #[inline(never)]
    pub(crate) fn beside<M: Machine>(
        memory: &Memory<M>,
        scratch: impl Iterator<Item = Run> + Clone,
        generation: u64,
        header: PhysAddr,
    ) -> Result<Self, Error> {
        Self::around(memory, write_scratch(memory, scratch)?, generation, header)
    }

    fn around<M: Machine>(
        memory: &Memory<M>,
        (scratch, scratch_bytes): (PhysAddr, u64),
        generation: u64,
        header: PhysAddr,
    ) -> Result<Self, Error> {
        let root = write_root(memory, header)?;
        Ok(Self { entry: Entry { root, scratch, scratch_bytes }, header, generation })
    }
}

// Each page by a function of its own: what one needs of the stack is gone before the next.

/// Writes a scratch list: where it is, and how many bytes.
#[inline(never)]
fn write_scratch<M: Machine>(
    memory: &Memory<M>,
    scratch: impl Iterator<Item = Run> + Clone,
) -> Result<(PhysAddr, u64), Error> {
    let (list, words) = new_table(memory)?;
    Ok((list, ScratchWords::new(words, list).write(scratch)? as u64))
}

/// Writes the page of the `heirloom` subtree.
#[inline(never)]
fn write_header<M: Machine>(
    slabs: &NewSlabs<M>,
    producer: &str,
    generation: u64,
) -> Result<PhysAddr, Error> {
    let (header, words) = new_table(slabs.memory())?;
    let (roll, producer) = (Some(slabs.cache_directory()), Producer::new(producer));
    let (before, seal, longer) = (None, SealState::Unsealed, false);
    let says = Header { generation, roll, before, producer, seal, longer };
    HeaderPage::create(words, header, &says)?;
    Ok(header)
}

/// Writes a root page that leads to the tree and to `header`.
#[inline(never)]
fn write_root<M: Machine>(memory: &Memory<M>, header: PhysAddr) -> Result<PhysAddr, Error> {
    let (root, words) = new_table(memory)?;
    let mut page = RootPage::create(halves(words), root, memory.tree_root()?)?;
    page.add(Name::new(SUBTREE)?, header, Header::SIZE as u64)?;
    Ok(root)
}

/// Where among the subtrees one is, and where it leads.
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

impl<M: Machine> Handover<M> {
    /// How many frames are held back, so that a successor finds memory for its own tables however
    /// full this kernel's memory is: 16. They count as used, and are free memory to the successor. A
    /// successor holds what it did not use of its predecessor's, and 16 again once
    /// [`Handover::finish`] has returned.
    pub fn reserve(&self) -> u64 {
        self.reserve.lock().frames()
    }

    /// Fills up the frames that are held for a successor's tables.
    pub(crate) fn fill_reserve(&self) {
        self.reserve.lock().fill(self.memory());
    }

    /// The slab layer: caches and buffers.
    pub const fn slabs(&self) -> &Slabs<M> {
        &self.slabs
    }

    /// Gives back what no cache needs, while nothing else uses this kernel: what the magazines and
    /// caches of every CPU hold, and empty slabs. Returns how many slabs. See [`Slabs::shrink_all`].
    ///
    /// # Examples
    /// ```
    /// use core::alloc::Layout;
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_restore::Handover;
    /// use heirloom_slab::AllocOptions;
    ///
    /// let memory = Ram::memory(&Ram::frames(1024))?;
    /// let mut kernel = Handover::fresh(memory, &[], "this kernel")?;
    /// let buffer = kernel.slabs().alloc(Layout::new::<[u64; 8]>(), AllocOptions::default())?;
    /// // SAFETY: allocated just now.
    /// unsafe { kernel.slabs().free(buffer) }?;
    /// assert_eq!(kernel.shrink_all(), 1);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn shrink_all(&mut self) -> u64 {
        self.slabs.shrink_all()
    }

    /// The folio layer: frames, folios, runs.
    pub fn memory(&self) -> &Memory<M> {
        self.slabs.memory()
    }

    /// What to tell the successor.
    pub const fn entry(&self) -> Entry {
        self.pages.entry
    }

    /// The areas that are kept free of anything preserved, as they were given or inherited, in the
    /// order of the list.
    pub fn scratch(&self) -> impl Iterator<Item = Run> + '_ {
        let Entry { scratch, scratch_bytes, .. } = self.pages.entry;
        let words = usize::try_from(scratch_bytes / 8).unwrap_or(0);
        ScratchList::ours(self.table_words(scratch).get(..words).unwrap_or(&[])).runs()
    }

    /// How many handovers led to this kernel: 0 for the first.
    pub const fn generation(&self) -> u64 {
        self.pages.generation
    }

    /// Publishes `bytes` under `name`, in place of what was published under it before: the
    /// successor gets them from [`Handover::claim_root`].
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
            let new = Subtree { name, addr: blob.addr(), size: Some(bytes.len() as u64) };
            let (there, count) = (place_of(&page.view()?, &name)?, page.view()?.subtrees().count());
            let edit = match there {
                None => Edit::Add(new),
                Some((index, _)) if made.is(index, Owner::Made) => Edit::Replace(new),
                Some(_) => return Err(Error::NameTaken { name }),
            };
            page.edit(edit, || {
                self.break_seal()?;
                // SAFETY: from `new_blob`, and this call's alone.
                Ok::<_, Error>(unsafe { self.memory().preserve_as(blob, Kind::Table) }?)
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
    /// caller preserves and keeps preserved. It is [removed](Handover::remove_subtree) before they are
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
            match self.memory().holder(at) {
                Some((holder, found, true))
                    if found == Kind::Table
                        || holder.blocks().all(|block| self.memory().is_preserved(block)) =>
                {
                    if !matches!(found, Kind::Folio | Kind::Run) {
                        let expected = Kind::Folio;
                        Err(heirloom_folio::Error::WrongKind { pfn: at, expected, found })?;
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

    /// Removes a subtree that [`Handover::add_subtree`] added, or one of the predecessor's that was not
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

    /// The subtree behind one of this name, which stood at an index, and its own index. Where that
    /// name is gone, the one that stands there now.
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

    /// The handle of a preserved folio.
    ///
    /// # Errors
    /// None for a folio; the type is that of all handles.
    pub fn folio_handle(&self, folio: &PreservedFolio<'_, M>) -> Result<Handle, Error> {
        Ok(Handle::new(Parts::Folio(folio.block()))?)
    }

    /// The handle of a preserved run.
    ///
    /// # Errors
    /// [`Error::Handle`]: more frames than a handle can count.
    pub fn run_handle(&self, run: &PreservedRun<'_, M>) -> Result<Handle, Error> {
        Ok(Handle::new(Parts::Run(run.run()))?)
    }

    /// Claims a folio that the predecessor preserved; once. It stays preserved, until
    /// [`PreservedFolio::unpreserve`].
    ///
    /// # Errors
    /// [`Error::Handle`]: no folio's handle. [`Error::Folio`]: not preserved with this order, or
    /// claimed already; or it is a slab or a table.
    pub fn claim_folio(&self, handle: Handle) -> Result<PreservedFolio<'_, M>, Error> {
        match handle.parts()? {
            Parts::Folio(block) => Ok(self.memory().claim_folio(block)?),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Claims many folios, wherever they lie, all or none, and calls `each` with them, in the order
    /// of their handles. Costs less than a call for each where they are scattered so far that each is a
    /// miss, as what the next ones need comes meanwhile; else more, as all are gone over twice.
    ///
    /// # Errors
    /// As for [`Handover::claim_folio`], naming the first at fault: nothing is claimed then, and
    /// `each` is not called. A handle that is there twice is at fault the second time.
    pub fn claim_folios<'m>(
        &'m self,
        handles: &[Handle],
        each: impl FnMut(PreservedFolio<'m, M>),
    ) -> Result<(), Error> {
        claim::folios(self.memory(), handles, each)
    }

    /// Claims a run, whole; once. It stays preserved, until [`PreservedRun::unpreserve`].
    ///
    /// # Errors
    /// As for [`Handover::claim_folio`].
    pub fn claim_run(&self, handle: Handle) -> Result<PreservedRun<'_, M>, Error> {
        match handle.parts()? {
            Parts::Run(run) => {
                self.memory().claim_run(run, Kind::Run)?;
                // SAFETY: claimed just now as a run, by this call alone.
                Ok(unsafe { PreservedRun::from_raw(self.memory(), run) })
            }
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Claims an area, all of its blocks and tables; once. It stays preserved, until
    /// [`PreservedArea::unpreserve`].
    ///
    /// # Errors
    /// As for [`Handover::claim_folio`]; [`Error::Table`]: the area's tables are not sound. Then nothing
    /// is claimed.
    pub fn claim_area(&self, handle: Handle) -> Result<PreservedArea<'_, M>, Error> {
        match handle.parts()? {
            Parts::Area(info) => claim::area(self.memory(), info),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Claims a list of records; once. It stays preserved, and can be added to.
    ///
    /// # Errors
    /// As for [`Handover::claim_area`]; [`Error::Handle`] also if its entries have another size.
    pub fn claim_records<T: Record>(&self, handle: Handle) -> Result<Records<'_, M, T>, Error> {
        match handle.parts()? {
            Parts::Records { first, entry } if entry == size_of::<T>() as u64 => {
                claim::records(self.memory(), first)
            }
            Parts::Records { .. } => Err(handle.refused(HandleFault::Length).into()),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// The root page, for the holder of the lock. A root that changes is not the one that was sealed:
    /// each edit breaks the seal first.
    pub(crate) fn root_page(&self) -> Result<RootPage<'_>, Error> {
        let root = self.pages.entry.root;
        Ok(RootPage::reopen(halves(self.table_words(root)), root)?)
    }

    /// The words of one of our own table pages.
    pub(crate) fn table_words(&self, at: PhysAddr) -> &[AtomicU64] {
        // SAFETY: the page is this value's own table, which only it reaches, atomically.
        unsafe { words_at(self.memory(), at, PAGE_SIZE) }.unwrap_or(&[])
    }

    /// The block that `publish` made at `addr`, or `claim_root` took.
    pub(crate) fn blob_at(&self, addr: PhysAddr) -> Option<Block> {
        match self.memory().state(addr.pfn()).ok()? {
            heirloom_folio::FrameState::Head { kind: Kind::Table, order, .. } => {
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

    /// A folio that starts with `bytes`, not preserved yet.
    fn new_blob(&self, bytes: &[u8]) -> Result<Block, Error> {
        let memory = self.memory();
        let frames = bytes.len().max(1).div_ceil(PAGE_SIZE) as u64;
        let order = Order::for_frames(frames).unwrap_or(Order::MAX);
        let block = memory.alloc(Request::new(order).kind(Kind::Table).zeroed())?;
        let start = memory.machine().ptr(block.addr());
        // SAFETY: the block is new, holds that many bytes, and is this call's alone.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        written(start, bytes.len().next_multiple_of(size_of::<u64>()));
        Ok(block)
    }

    /// Gives back a folio that is not published, or no longer, preserved or not.
    pub(crate) fn drop_blob(&self, block: Block) {
        let memory = self.memory();
        if memory.is_preserved(block) {
            return drop_table(memory, block);
        }
        // SAFETY: from `new_blob`, and no name leads to it (any more).
        let freed = unsafe { memory.free(block, Kind::Table) };
        debug_assert!(freed.is_ok(), "a folio of `publish` can be freed: {freed:?}");
    }
}
