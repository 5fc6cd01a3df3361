//! A predecessor's caches: found by its cache directory, checked, and made slabs of this kernel's caches.
//!
//! ```text
//! revive      the cache directory is checked and gone on with; all slabs that it names are labelled, so that
//!             no caller claims them as folios
//! adopt       a cache's slabs become slabs of ours: places that were free can be allocated at
//!             once, objects that were preserved are there to be claimed
//! upgrade     or, if the layout is another, their bytes go to the caller's function
//! claim       an object, by address, size and reuse tag, once
//! resume      or a cache's slabs become ours as they are, and what lives in them the caller's: see
//!             `resume`
//! finish      what was not claimed is freed, or stays to be claimed
//! ```
//!
//! At each store a successor finds all that was preserved and not let go of: adopting changes states
//! that survive into others that do; what is claimed is preserved until it is freed or let go. None
//! of the calls has to be made, or to come to its end, before the next jump.
//!
//! Callers' closures and constructors run with no lock held: they may allocate, free, claim, look
//! up and create caches. Of what they may not do, every call returns an error at once.
//!
//! Nothing a predecessor wrote is believed: the cache directory and each slab's header are checked, geometry
//! is recomputed, and what is wrong is an error that names it. What is reached through them lies in
//! blocks that the predecessor's tree holds and that are claimed with an atomic operation before
//! they are written: no memory gets two owners.

use core::ptr::NonNull;

use heirloom_folio::{FrameState, FrameType, Machine, Memory};
use heirloom_kho::narrow::usize_to_u32;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{Block, Order, PhysAddr};

use crate::adopt_slab::{Adopted, SlabInfo, admits_slabs, check_slab};
use crate::cache::Cache;
use crate::class::class_of;
use crate::directory::{CacheRecord, DirectoryView, Here, Source};
use crate::error::Error;
use crate::header::{Slab, SlabHeaderDisk};
use crate::new::NewSlabs;
use crate::predecessor::{Named, Turn};
use crate::slabs::Slabs;
use crate::spec::CacheSpec;

/// A part of this kernel's cache directory; see [`Slabs::for_each_table`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectoryPart {
    /// A page of records or of a slab table.
    Page(PhysAddr),
    /// The part of a slab's header that does not change.
    Header {
        /// Where it starts.
        addr: PhysAddr,
        /// How many bytes.
        bytes: u32,
    },
}

impl<M: Machine> Slabs<M> {
    /// Takes over caches and buffers with a memory that inherited from a predecessor, whose cache directory's first page
    /// is at `directory`.
    ///
    /// The cache directory is this instance's from now on, and its address does not change. All slabs that it
    /// names are labelled: no caller can claim them as folios. Costs what reading the cache directory costs; slabs
    /// are looked at when they are adopted.
    ///
    /// # Errors
    /// [`Error::Directory`] with the page, the entry and the reason; [`Error::Slab`] with a slab that
    /// the predecessor did not preserve, or that is named twice. The memory is given up.
    #[doc(hidden)]
    pub fn revive(memory: Memory<M>, directory: PhysAddr) -> Result<Self, Error> {
        Ok(NewSlabs::revive(memory, directory)?.into_slabs())
    }

    /// Returns the cache directory: the predecessor's records, and this kernel's.
    pub(crate) fn view(&self) -> DirectoryView<Here<'_, M>> {
        DirectoryView::own(self.memory(), &self.directory)
    }

    /// Calls `each` with every cache of which slabs are still left by a predecessor: neither adopted,
    /// nor given up. No lock is held meanwhile: `each` may call anything.
    pub fn for_each_inherited(&self, each: impl FnMut(CacheRecord)) {
        self.view().records().filter(|record| self.left(record).next().is_some()).for_each(each);
    }

    /// Returns the cache of this name of which slabs are still left by a predecessor; the first, if
    /// there are several.
    pub fn inherited(&self, name: &str) -> Option<CacheRecord> {
        let mut records = self.view().records();
        records.find(|record| record.name().as_str() == name && self.left(record).next().is_some())
    }

    /// Returns the cache that `spec` asks for, with all slabs of the predecessor's cache of this
    /// name, which must have left one. [`Slabs::adopt_or_create`] is for a cache that may be new.
    /// Needs no memory but for the cache's control block, if it is not there yet.
    ///
    /// What is adopted survives as before: in a preserving cache, all that is in use; else what is
    /// unclaimed or claimed, until it is let go or freed.
    /// Slabs that were adopted before stay so, and the call can be repeated. A constructor runs
    /// with no lock held, when the objects of its slab can be claimed already; if it panics, the
    /// places that it was not run for are out of use, and nothing else changes.
    ///
    /// # Errors
    /// [`Error::NotInherited`]: the predecessor left no cache of this name, and this kernel has
    /// none; nothing is created. [`Error::ReservedName`].
    /// [`Error::Mismatch`]: the cache, here or there, is another; pass its objects to
    /// [`Slabs::upgrade`]. That is so too of two that were left under this name, if `spec` goes with
    /// both, both have slabs, and those lie differently: say which [order](CacheSpec::order). (One
    /// without slabs stands back behind one that has some.) [`Error::Slab`]: a
    /// slab is not sound: none is adopted then. As for [`Slabs::cache`]; out of memory: what was
    /// adopted by then stays. So too for [`Error::Folio`] with
    /// [`PredecessorBusy`](heirloom_folio::Error::PredecessorBusy): [`Slabs::upgrade`] of the same slabs is under
    /// way, maybe in the caller, and has one of them.
    pub fn adopt(&self, spec: CacheSpec) -> Result<(Cache<'_, M>, Adopted), Error> {
        self.adopt_named(spec, true)
    }

    /// Like [`Slabs::adopt`], for a cache that the predecessor may not have left: it is created then.
    /// A predecessor leaves no cache in which nothing was ever preserved, and a kernel without a
    /// predecessor has none to adopt.
    ///
    /// # Errors
    /// As for [`Slabs::adopt`], but for [`Error::NotInherited`].
    pub fn adopt_or_create(&self, spec: CacheSpec) -> Result<(Cache<'_, M>, Adopted), Error> {
        self.adopt_named(spec, false)
    }

    fn adopt_named(
        &self,
        spec: CacheSpec,
        expected: bool,
    ) -> Result<(Cache<'_, M>, Adopted), Error> {
        let records = self.left_to(&spec)?;
        // All slabs are looked at before one is taken: one that is not sound stops the call with nothing adopted.
        for record in records.iter() {
            for named in self.left(&record) {
                self.look_at(&self.predecessor.turn(), &record, named.slab).transpose()?;
            }
        }
        let cache = self.adopting_cache(spec, expected, &records)?;
        let mut adopted = Adopted::default();
        loop {
            let put_back = self.predecessor.turn().put_back();
            for record in records.iter() {
                for named in self.left(&record) {
                    if let Some(more) = cache.adopt_left(&record, named)? {
                        adopted.add(more);
                        cache.construct_in(named.slab, &more);
                    }
                }
            }
            // A slab that is not left any more may be in the hands of another call. One that adopts
            // it is done by the time this call has the turn.
            let turn = self.predecessor.turn();
            if records.iter().any(|record| self.any_aside(&turn, &record)) {
                return Err(heirloom_folio::Error::PredecessorBusy.into());
            }
            if turn.put_back() == put_back {
                return Ok((cache, adopted));
            }
        }
    }

    /// Returns the records of the cache directory whose slabs become those of the cache that `spec`
    /// asks for.
    ///
    /// # Errors
    /// As for [`Slabs::adopt`]: the name, the spec, [`Error::Mismatch`].
    #[inline(never)]
    pub(crate) fn left_to(&self, spec: &CacheSpec) -> Result<LeftTo<'_, M>, Error> {
        spec.own_name()?;
        spec.geometry()?;
        let of_name = || self.view().records_with(|desc| spec.is_named_as(desc));
        let named = of_name().next().is_some();
        let mut left = LeftTo { slabs: self, spec: *spec, named, with_slabs: false };
        // One that has no slabs any more was upgraded, or freed, by a kernel in between: it stands
        // back behind one that has.
        let with_slabs = left.iter().any(|record| self.has_slabs(&record));
        left.with_slabs = with_slabs;
        if !with_slabs && let Some(other) = of_name().find(|record| self.has_slabs(record)) {
            other.admits(spec)?;
        }
        Ok(left)
    }

    /// Returns whether the cache directory names a slab of the record.
    pub(crate) fn has_slabs(&self, record: &CacheRecord) -> bool {
        self.view().slabs(record).next().is_some()
    }

    /// Returns whether the cache directory names a slab of the record that is the predecessor's still.
    pub(crate) fn has_inherited(&self, record: &CacheRecord) -> bool {
        let blocks = self.view().slabs(record);
        let mut blocks = blocks.filter_map(|addr| Block::new(addr.pfn(), record.order()));
        blocks.any(|block| self.memory().predecessor().contains(block))
    }

    /// Returns the cache that takes over what was left to it, created if it is not there yet; or,
    /// unless it is `expected`, one to which nothing was left.
    ///
    /// # Errors
    /// As for [`Slabs::adopt`].
    #[inline(never)]
    pub(crate) fn adopting_cache(
        &self,
        spec: CacheSpec,
        expected: bool,
        records: &LeftTo<'_, M>,
    ) -> Result<Cache<'_, M>, Error> {
        // One that is created takes after the first of them: nothing is, if another has no place in it.
        let Some(first) = records.iter().next() else {
            return match self.find(&spec)? {
                Some(there) => Ok(there),
                None if expected && !records.named => {
                    Err(Error::NotInherited { cache: spec.shown() })
                }
                None => self.create(spec),
            };
        };
        let like = spec.slabs_like(first.geometry());
        let geometry = match self.find(&like)? {
            Some(there) => there.inner.geometry,
            None => like.geometry()?.1,
        };
        records.iter().try_for_each(|record| admits_slabs(&like, &geometry, &record))?;
        let cache = self.create(like)?;
        records.iter().try_for_each(|record| cache.admits(&record))?;
        Ok(cache)
    }

    /// Returns whether a slab of a record is the predecessor's still, and no cache's to resume. In
    /// turn, it stays so.
    pub(crate) fn is_left(&self, _: &Turn, record: &CacheRecord, slab: Block) -> bool {
        self.memory().predecessor().contains(slab) && self.resumes(record.desc()).is_none()
    }

    /// Returns whether a call under way has a slab of a record set aside.
    pub(crate) fn any_aside(&self, turn: &Turn, record: &CacheRecord) -> bool {
        let order = record.order();
        turn.any_aside()
            && self.view().slabs(record).any(|addr| {
                Block::new(addr.pfn(), order).is_some_and(|slab| self.is_aside(turn, slab))
            })
    }

    /// Returns whether a block that was a slab of the predecessor's is set aside: claimed, and not
    /// published.
    fn is_aside(&self, turn: &Turn, slab: Block) -> bool {
        let (kind, order) = (FrameType::Table, slab.order());
        let aside = FrameState::Head { kind, order, preserved: true };
        turn.any_aside() && self.memory().state(slab.pfn()) == Ok(aside)
    }

    /// Returns what is in a slab of the predecessor's; `None` if it is not left any more.
    pub(crate) fn look_at(
        &self,
        turn: &Turn,
        record: &CacheRecord,
        addr: PhysAddr,
    ) -> Option<Result<SlabInfo, Error>> {
        if !self.is_left(turn, record, Block::new(addr.pfn(), record.order())?) {
            return None;
        }
        // SAFETY: it has no owner, and only in turn would it get one.
        Some(check_slab(unsafe { Here::new(self.memory()) }, addr, record))
    }

    /// Claims an object, or a small buffer, that the predecessor left: from now on it is in use, and
    /// survives until it is let go, or freed by a plain free.
    ///
    /// Its address, its size and its reuse tag are those of the handle. The cache must have been
    /// adopted; those of the size classes are, slab by slab, by this.
    ///
    /// # Errors
    /// [`Error::WrongState`]: claimed already, or it did not survive. [`Error::WrongLength`],
    /// [`Error::Stale`] (another reuse tag), [`Error::Interior`], [`Error::NotAdopted`],
    /// [`Error::NotAnObject`]; and, where it adopts, as for [`Slabs::adopt`], with
    /// [`PredecessorBusy`](heirloom_folio::Error::PredecessorBusy) if the object's slab is set aside.
    pub fn claim(&self, addr: PhysAddr, bytes: u64, reuse_tag: u8) -> Result<NonNull<u8>, Error> {
        let ptr = self.memory().machine().ptr(addr);
        let claim = || {
            self.looking(|stays| {
                let Some(object_ref) = self.object_at(addr, stays)? else { return Ok(None) };
                object_ref.claim(bytes, reuse_tag).map(Some)
            })
        };
        if claim()?.is_none() {
            let adopted = self.take_around(addr, true);
            // Another may have adopted the slab since the first look.
            let nothing = Error::NotAnObject { ptr: ptr.addr().get() };
            claim()?.ok_or_else(|| adopted.err().unwrap_or(nothing))?;
        }
        Ok(ptr)
    }

    /// Returns the cache of slabs of a size class that a predecessor left: the class's, if they lie
    /// as its own do, else one that is in no caller's way.
    pub(crate) fn keeper(&self, record: &CacheRecord) -> Result<Cache<'_, M>, Error> {
        match class_of(record.desc(), record.geometry()) {
            Some((class, preserving)) if class.lays_out(record.desc()) => {
                self.new_class(class, preserving)
            }
            _ => self.create(record.spec().kept()),
        }
    }

    /// Calls `each` with every part of this kernel's cache directory that a successor will believe: what a
    /// seal has to cover. No lock is held meanwhile. What is preserved or let go before it returns,
    /// also by `each`, may be told or not.
    #[doc(hidden)]
    pub fn for_each_table(&self, mut each: impl FnMut(DirectoryPart)) {
        let view = DirectoryView::own(self.memory(), &self.directory);
        view.pages().for_each(|page| each(DirectoryPart::Page(page)));
        for record in view.records() {
            for addr in view.slabs(&record) {
                each(DirectoryPart::Header {
                    addr,
                    bytes: usize_to_u32(size_of::<SlabHeaderDisk>()),
                });
            }
        }
    }

    /// Returns the slabs of a record that are left, and no cache's to resume.
    pub(crate) fn left<'v>(
        &'v self,
        record: &CacheRecord,
    ) -> impl Iterator<Item = Named> + use<'v, M> {
        let (order, resumed) = (record.order(), self.resumes(record.desc()).is_some());
        self.view().named(record).filter(move |named| {
            let block = Block::new(named.slab.pfn(), order);
            !resumed && block.is_some_and(|block| self.memory().predecessor().contains(block))
        })
    }

    /// Makes the slab around an address one of ours, if it is of a cache that is resumed, or of a size
    /// class and `classes` says that those count.
    ///
    /// No record is looked for: that the slab is one of the cache directory's its label says, and which cache's
    /// its header, which is checked like any other's.
    #[cold]
    pub(crate) fn take_around(&self, addr: PhysAddr, classes: bool) -> Result<(), Error> {
        let memory = self.memory();
        let nothing = Error::NotAnObject { ptr: memory.machine().ptr(addr).addr().get() };
        let turn = self.predecessor.turn();
        let Some(slab) = memory.predecessor().block_at(addr.pfn()) else {
            let orders = (0..=Order::MAX_FOLIO.get()).filter_map(Order::new);
            let mut around = orders.map(|order| Block::containing(addr.pfn(), order));
            let aside = around.any(|slab| self.is_aside(&turn, slab));
            return Err(if aside {
                heirloom_folio::Error::PredecessorBusy.into()
            } else {
                nothing
            });
        };
        if memory.predecessor().label_of(slab) != Some(FrameType::Slab) {
            return Err(nothing);
        }
        let not_adopted = Error::NotAdopted { addr, slab };
        // SAFETY: it has no owner, and only in turn would it get one.
        let left = unsafe { Here::new(memory) };
        let words = left.words(slab.addr(), size_of::<SlabHeaderDisk>()).ok_or(nothing)?;
        let record = CacheRecord::of_slab(SlabHeaderDisk::read(words).desc).ok_or(not_adopted)?;
        let cache = match self.resumes(record.desc()) {
            Some(resuming) => resuming,
            None if classes && class_of(record.desc(), record.geometry()).is_some() => {
                self.keeper(&record)?
            }
            None => return Err(not_adopted),
        };
        cache.admits(&record)?;
        let named = self.named(&turn, &cache, &record, slab).ok_or(not_adopted)?;
        let adopted = cache.adopt_slab(&turn, &record, named)?;
        drop(turn);
        cache.construct_in(named.slab, &adopted);
        Ok(())
    }

    /// Returns where the cache directory names a slab that is left, which fits those of `record`
    /// and of `cache`.
    ///
    /// Its header says so, as a predecessor wrote it there: believed if that is an entry of the table
    /// that the cache goes on with, and names the slab. No other does then: `revive` refuses a cache directory
    /// that names a slab twice. Else it is looked for, in all tables of caches so described.
    fn named(
        &self,
        _: &Turn,
        cache: &Cache<'_, M>,
        record: &CacheRecord,
        slab: Block,
    ) -> Option<Named> {
        let (memory, addr, view) = (self.memory(), slab.addr(), self.view());
        // SAFETY: a slab that is left has the size of a header at least, and is not given back but in
        // turn.
        let entry = unsafe { Slab::at(memory.machine(), addr) }.header().entry.load(Relaxed);
        let entry = PhysAddr::new(entry);
        if cache.inner.shared.lock().table.is_entry(memory, entry, addr) {
            return Some(Named { slab: addr, entry });
        }
        let records = view.records_with(|desc| desc == record.desc());
        records.flat_map(|there| view.named(&there)).find(|named| named.slab == addr)
    }

    /// Returns the cache that a slab is of, if one of ours starts there.
    pub(crate) fn cache_of_slab(&self, addr: PhysAddr) -> Option<Cache<'_, M>> {
        self.looking(|stays| {
            let (slab, inner) = self.slab_at(addr, stays)?;
            (slab.phys() == addr).then_some(Cache { slabs: self, inner })
        })
    }
}

/// The records whose slabs become those of one cache; from [`Slabs::left_to`].
pub(crate) struct LeftTo<'s, M: Machine> {
    slabs: &'s Slabs<M>,
    spec: CacheSpec,
    /// Whether there are records of this name, of whatever cache.
    named: bool,
    /// Those alone that have slabs, as there are some.
    with_slabs: bool,
}

impl<M: Machine> LeftTo<'_, M> {
    /// Returns them, one after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = CacheRecord> {
        let of_name = self.slabs.view().records_with(|desc| self.spec.is_named_as(desc));
        of_name.filter(|record| {
            record.admits(&self.spec).is_ok() && (!self.with_slabs || self.slabs.has_slabs(record))
        })
    }
}
