//! A predecessor's caches: found by its roll, checked, and made slabs of this kernel's caches.
//!
//! ```text
//! revive      the roll is checked; its pages and all slabs it names are labelled, so that
//!             nobody claims them as folios
//! adopt       a cache's slabs become slabs of ours: places that were free can be allocated at
//!             once, objects that were preserved are there to be claimed
//! upgrade     or, if the layout is another, their bytes go to the caller's function
//! claim       an object, by address, size and tag, once
//! finish      what nobody claimed is kept or freed
//! ```
//!
//! Nothing a predecessor wrote is believed: the roll and each slab's header are checked, geometry
//! is recomputed, and what is wrong is an error that names it. What is reached through them lies in
//! blocks that the predecessor's tree holds and that are claimed with an atomic operation before
//! they are written: no memory gets two owners.

use core::ptr::NonNull;
use heirloom_folio::sync::Ordering::Relaxed;

use heirloom_folio::{Block, Fate, HeldInheritance, Kind, Machine, Memory, PhysAddr};

use crate::cache::Cache;
use crate::error::Error;
use crate::header::{Fixed, Slab};
use crate::heir::{admits_slabs, check_slab, survived};
use crate::roll::{CacheRecord, Here, RollView, Source};
use crate::slabs::Slabs;
use crate::spec::CacheSpec;
use crate::state::State;

/// What adopting brought into a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    /// Slabs.
    pub slabs: u64,
    /// Objects to be claimed.
    pub unclaimed: u64,
    /// Places that can be allocated from.
    pub free: u64,
}

/// An object of another layout than the cache's, as the predecessor left it.
#[derive(Clone, Copy, Debug)]
pub struct OldObject<'a> {
    /// Where it is.
    pub addr: PhysAddr,
    /// Its tag, as in a handle to it.
    pub tag: u8,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Something in caches that nobody claimed; see [`Slabs::finish_inherited`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unclaimed {
    /// A slab of a cache that was not adopted.
    Slab {
        /// The slab.
        slab: Block,
        /// Preserved objects in it; 0 if it is not sound.
        objects: u32,
    },
    /// An object in a slab that was adopted.
    Object {
        /// Its address.
        addr: PhysAddr,
        /// Its size in bytes.
        size: u32,
    },
}

/// A part of this kernel's roll; see [`Slabs::for_each_table`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RollPart {
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

/// The predecessor's roll, and what keeps it from being ended.
pub(crate) type HeldView<'m, M> = (HeldInheritance<'m>, RollView<Here<'m, M>>);

impl<M: Machine> Slabs<M> {
    /// Caches and buffers over a memory that inherited from a predecessor, whose roll's first page
    /// is at `roll`.
    ///
    /// The roll's pages, and all slabs that it names, are labelled: nobody can claim them as
    /// folios. Costs what reading the roll costs; slabs are looked at when they are adopted.
    ///
    /// # Errors
    /// [`Error::Roll`] with the page, the entry and the reason; [`Error::Slab`] with a slab that
    /// the predecessor did not preserve, or that is named twice; out of memory, as for
    /// [`Slabs::new`]. The memory is given up.
    pub fn revive(memory: Memory<M>, roll: PhysAddr) -> Result<Self, Error> {
        // SAFETY: the memory is ours alone, so nothing writes to any of it.
        let view = unsafe { RollView::inherited(&memory, roll) };
        // SAFETY: this layer reads the roll, which names the block.
        let label = |block, kind| unsafe { memory.label(block, kind) };
        view.check(label, Err, |_, _| Ok(()))?;
        Self::with_past(memory, Some(roll))
    }

    /// The predecessor's roll, which stays as long as the first part lives. Under the lock of
    /// `past`.
    pub(crate) fn view(&self, past: Option<PhysAddr>) -> Result<Option<HeldView<'_, M>>, Error> {
        let Some(first) = past else { return Ok(None) };
        let Some(held) = self.memory().hold_inheritance()? else { return Ok(None) };
        // SAFETY: the roll's pages are labelled as tables since `revive`, so that only a claim as
        // tables would give them to anybody; they are freed where the inheritance ends.
        Ok(Some((held, unsafe { RollView::inherited(self.memory(), first) })))
    }

    /// Calls `each` with every cache that the predecessor left; none once the inheritance has
    /// ended. Nothing of this kind, and no cache, is to be asked for in `each`.
    ///
    /// # Errors
    /// [`Error::Folio`] with [`Ending`](heirloom_folio::Error::Ending): somebody ends the
    /// inheritance of the memory itself, or tries to, at this moment.
    pub fn for_each_inherited(&self, each: impl FnMut(CacheRecord)) -> Result<(), Error> {
        let past = self.past.lock();
        if let Some((_held, view)) = self.view(*past)? {
            view.records().for_each(each);
        }
        Ok(())
    }

    /// The cache of this name that the predecessor left; the first, if it kept an older one too.
    ///
    /// # Errors
    /// As for [`Slabs::for_each_inherited`].
    pub fn inherited(&self, name: &str) -> Result<Option<CacheRecord>, Error> {
        let past = self.past.lock();
        let Some((_held, view)) = self.view(*past)? else { return Ok(None) };
        Ok(view.records().find(|record| record.name().as_str() == name))
    }

    /// The cache that `spec` asks for, with all slabs of the predecessor's cache of this name.
    ///
    /// What is adopted is preserved again at once, in a preserving cache for good, else until the
    /// last object is claimed; so a successor of this kernel finds what nobody has claimed yet.
    /// Slabs that were adopted before stay so, and the call can be repeated.
    ///
    /// # Errors
    /// [`Error::Mismatch`]: the cache, here or there, is another; pass its objects to
    /// [`Slabs::upgrade`]. That is so too of two that were left under this name, if `spec` goes with
    /// both and their slabs lie differently: say which [order](CacheSpec::order). [`Error::Slab`]: a
    /// slab is not sound: none is adopted then. As for [`Slabs::cache`]; out of memory: what was
    /// adopted by then stays.
    pub fn adopt(&self, spec: CacheSpec) -> Result<(Cache<'_, M>, Adopted), Error> {
        let past = self.past.lock();
        let Some((_held, view)) = self.view(*past)? else {
            return Ok((self.cache_after(spec, *past)?, Adopted::default()));
        };
        let of_name = |record: &CacheRecord| Some(record.name()) == spec.name;
        let mut refused = Ok(());
        let mut matching = 0;
        for record in view.records().filter(of_name) {
            match record.admits(&spec) {
                Ok(()) => matching += 1,
                Err(error) => refused = Err(error),
            }
        }
        if matching == 0 {
            refused?;
        }
        let records = || view.records().filter(of_name).filter(|r| r.admits(&spec).is_ok());
        for record in records() {
            for addr in self.left(&view, &record) {
                check_slab(view.source(), addr, &record)?;
            }
        }
        // One that is created takes after the first of them: nothing is, if another has no place in it.
        if let Some(first) = records().next() {
            let like = spec.slabs_like(first.geometry());
            let geometry = match self.find(&like)? {
                Some(there) => there.control.geometry,
                None => like.geometry()?.1,
            };
            records().try_for_each(|record| admits_slabs(&like, &geometry, &record))?;
        }
        let cache = self.cache_after(spec, *past)?;
        records().try_for_each(|record| cache.admits(&record))?;
        let mut adopted = Adopted::default();
        for record in records() {
            for addr in self.left(&view, &record) {
                adopted.add(cache.adopt_slab(&record, addr)?);
            }
        }
        Ok((cache, adopted))
    }

    /// Passes every object that survived in the predecessor's cache `record` to `take`, and gives
    /// each slab back when all of its objects were taken: for a cache whose layout changed.
    /// Returns how many objects.
    ///
    /// Objects have other addresses afterwards: `take` sees the old one, which handles name.
    /// Nothing of this kind, and no cache, is to be asked for in `take`.
    ///
    /// # Errors
    /// What `take` returns: the slab that it stopped in is as it was, and repeating the call
    /// passes all of its objects again. [`Error::Slab`]: a slab is not sound; it stays.
    pub fn upgrade(
        &self,
        record: &CacheRecord,
        mut take: impl FnMut(OldObject<'_>) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let past = self.past.lock();
        let Some((_held, view)) = self.view(*past)? else { return Ok(0) };
        let Some(record) = view.records().find(|there| there == record) else { return Ok(0) };
        let (memory, geometry) = (self.memory(), record.geometry());
        let mut taken = 0;
        for addr in self.left(&view, &record) {
            check_slab(view.source(), addr, &record)?;
            // SAFETY: a slab of the predecessor's, checked; nothing writes it while `past` is
            // locked.
            let slab = unsafe { Slab::at(memory.machine(), addr) };
            for index in 0..geometry.objects {
                let state = State(slab.state(geometry, index).load(Relaxed));
                if !survived(state, record.is_preserving()) {
                    continue;
                }
                let start = slab.object(geometry, index);
                // SAFETY: the object lies in the slab, which nothing writes; see above.
                let bytes =
                    unsafe { core::slice::from_raw_parts(start.as_ptr(), geometry.size as usize) };
                take(OldObject { addr: slab.addr(geometry, index), tag: state.tag(), bytes })?;
                taken += 1;
            }
            self.discard_slab(slab.block(geometry))?;
        }
        Ok(taken)
    }

    /// Claims an object, or a small buffer, that the predecessor left: from now on it is in use,
    /// as whatever its cache is, and freed by a plain free.
    ///
    /// Its address, its size and its tag are those of the handle. The cache must have been
    /// adopted; those of the size classes are, slab by slab, by this.
    ///
    /// # Errors
    /// [`Error::NotUnclaimed`]: claimed already, or it did not survive. [`Error::WrongLength`],
    /// [`Error::Stale`] (another tag), [`Error::Interior`], [`Error::NotAdopted`],
    /// [`Error::NotAnObject`]; and, where it adopts, as for [`Slabs::adopt`].
    pub fn claim(&self, addr: PhysAddr, bytes: u64, tag: u8) -> Result<NonNull<u8>, Error> {
        let ptr = self.memory().machine().ptr(addr);
        let spot = if let Some(spot) = self.spot_at(addr)? {
            spot
        } else {
            self.adopt_around(addr)?;
            self.spot_at(addr)?.ok_or(Error::NotAnObject { ptr: ptr.addr().get() })?
        };
        spot.claim(bytes, tag)?;
        Ok(ptr)
    }

    /// Ends the inheritance of caches. `fate` is asked about everything that nobody claimed: what
    /// is freed becomes free memory; what is kept is preserved for the next kernel, and nobody's
    /// in this one.
    ///
    /// Nothing of this kind, and no cache, is to be asked for in `fate`. The pages of the
    /// predecessor's roll are left to
    /// [`Memory::disinherit`](heirloom_folio::Memory::disinherit), labelled as tables.
    ///
    /// # Errors
    /// Out of memory for keeping something; [`Error::Slab`] for keeping a slab that is not sound;
    /// [`Error::TooManyCaches`]: what is kept needs more caches than there can be. What was decided
    /// so far stands, and the call can be repeated; the last two need another `fate` then,
    /// [`Fate::Free`] for what cannot be kept.
    pub fn finish_inherited(&self, mut fate: impl FnMut(Unclaimed) -> Fate) -> Result<(), Error> {
        let mut past = self.past.lock();
        for cache in self.caches() {
            let size = cache.control.geometry.size;
            for (addr, _) in cache.unclaimed() {
                if fate(Unclaimed::Object { addr, size }) == Fate::Free {
                    match cache.discard(addr) {
                        // Somebody claimed it since.
                        Err(Error::NotUnclaimed { .. }) => {}
                        discarded => discarded?,
                    }
                }
            }
        }
        let Some((_held, view)) = self.view(*past)? else { return Ok(()) };
        for record in view.records() {
            for addr in self.left(&view, &record) {
                let block = Block::containing(addr.pfn(), record.order());
                let sound = check_slab(view.source(), addr, &record);
                let objects = sound.map_or(0, |info| info.survivors);
                let empty = sound.is_ok() && objects == 0;
                if empty || fate(Unclaimed::Slab { slab: block, objects }) == Fate::Free {
                    self.discard_slab(block)?;
                } else {
                    sound?;
                    let cache = self.create(record.spec().kept())?;
                    cache.adopt_slab(&record, addr)?;
                }
            }
        }
        *past = None;
        Ok(())
    }

    /// Calls `each` with every part of this kernel's roll that a successor will believe: what a
    /// seal has to cover. Nothing may be allocated, freed or preserved meanwhile, or it may miss
    /// what is new.
    pub fn for_each_table(&self, mut each: impl FnMut(RollPart)) {
        let view = RollView::own(self.memory(), &self.roll);
        view.pages().for_each(|page| each(RollPart::Page(page)));
        for record in view.records() {
            for addr in view.slabs(&record) {
                each(RollPart::Header { addr, bytes: size_of::<Fixed>() as u32 });
            }
        }
    }

    /// The slabs of a record that nobody has claimed.
    fn left<'v>(
        &'v self,
        view: &RollView<Here<'v, M>>,
        record: &CacheRecord,
    ) -> impl Iterator<Item = PhysAddr> + use<'v, M> {
        let order = record.order();
        view.slabs(record).filter(move |addr| {
            Block::new(addr.pfn(), order).is_some_and(|block| self.memory().is_inherited(block))
        })
    }

    /// Adopts the slab around an address, if it is one of a size class.
    #[cold]
    fn adopt_around(&self, addr: PhysAddr) -> Result<(), Error> {
        let past = self.past.lock();
        let memory = self.memory();
        let nothing = Error::NotAnObject { ptr: memory.machine().ptr(addr).addr().get() };
        let (_held, view) = self.view(*past)?.ok_or(nothing)?;
        let slab = memory.inherited_block(addr.pfn()).ok_or(nothing)?;
        if memory.label_of(slab) != Some(Kind::Slab) {
            return Err(nothing);
        }
        let not_adopted = Error::NotAdopted { addr, slab };
        // Nobody has claimed it, so nothing writes it.
        let words = view.source().words(slab.addr(), size_of::<Fixed>()).ok_or(nothing)?;
        let fixed = Fixed::read(words);
        let spec = Self::class_like(&fixed.shape).ok_or(not_adopted)?;
        let record = view.records().find(|record| *record.shape() == fixed.shape);
        let record = record.ok_or(not_adopted)?;
        let cache = self.cache_after(spec, *past)?;
        cache.admits(&record)?;
        cache.adopt_slab(&record, slab.addr()).map(|_| ())
    }

    /// Frees a slab of the predecessor's.
    fn discard_slab(&self, block: Block) -> Result<(), Error> {
        // SAFETY: labelled by this layer.
        unsafe { self.memory().claim_as(block, Kind::Slab) }?;
        // SAFETY: claimed just now, by nobody else; a table, as it was not made a slab of ours.
        Ok(unsafe { self.memory().free(block, Kind::Table) }?)
    }
}

impl Adopted {
    fn add(&mut self, more: Self) {
        self.slabs += more.slabs;
        self.unclaimed += more.unclaimed;
        self.free += more.free;
    }
}
