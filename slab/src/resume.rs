//! A cache that is resumed: its slabs become ours as they are, each when it is first used.
//!
//! ```text
//! resume     once a cache: from here on what survived in it is in use, and its owner's.
//!            Costs what reading the cache's record costs
//! sweep      once a slab: its header and bytes are checked, its free places become available.
//!            At the first of: a free, a preserve, a look at something in it; an allocation that
//!            finds no free object elsewhere; `sweep`, `shrink`, `preserved`
//! ```
//!
//! Until it is swept a slab stays as the predecessor left it, unclaimed in the tree, and so no pointer
//! into it leads to a slab. That is what keeps the free bits right: they are made of the bytes of the
//! objects, and an object that went into a magazine before would be free in both. What looks for an
//! object finds none then, and looks again once the slab around it was swept; so nothing is added to
//! the paths that find one.
//!
//! Whether a cache adopts or resumes is decided once, in turn, by the first slab that is adopted or by
//! [`Slabs::resume`]. Sweeping changes no byte of what survives but from one state that does to another:
//! a successor finds the same objects before, after and in the middle.

use core::ptr::NonNull;

use heirloom_folio::{FrameType, Machine};
use heirloom_kho::internal::PAGE_BYTES;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::sync::Ordering::{Relaxed, Release};
use heirloom_kho::{Block, PhysAddr};

use crate::adopt_slab::check_slab;
use crate::aside::give_up;
use crate::cache::Cache;
use crate::class::class_of;
use crate::directory::{CacheRecord, Here};
use crate::error::{Action, Error};
use crate::header::SlabDesc;
use crate::slabs::Slabs;
use crate::spec::CacheSpec;
use crate::takeover::{ADOPTS, DONE, RESUMES};

impl<M: Machine> Slabs<M> {
    /// Returns the cache that `spec` asks for, with all that the predecessor's cache of this name left, as
    /// it was: every object that survived is in use, and the caller's, without a step for each. The
    /// predecessor must have left such a cache; [`Slabs::resume_or_create`] is for one that may be new.
    ///
    /// For a restart into the same layout, of an owner that finds its objects by addresses in what
    /// survives: there is nothing to claim, and what the predecessor allocated and never linked is told by
    /// [`Cache::preserved`] alone, not by [`Slabs::finish_inherited`]. Handles stay valid, for [`Cache::at`]
    /// and [`Slabs::at`]. What is freed, preserved and let go is so as in the predecessor: in a preserving
    /// cache an object is freed by a plain free; else what was preserved is let go first.
    /// An object that the predecessor in turn had inherited and never claimed is as if claimed.
    ///
    /// Costs what reading the cache's record and slab table costs, whatever the slabs hold. A slab is
    /// looked at when it is first used: its header and bytes are checked then, and if they are not sound,
    /// that call returns [`Error::Slab`], and what is in the slab stays as it is, until
    /// [`Cache::give_up`]. Where a free place needs the spec's constructor, it is run then, by that call,
    /// with no lock held. An allocation of something else runs none, also where there is no memory: a slab
    /// of no use, of a cache with a constructor, is given back by [`Slabs::shrink`].
    ///
    /// # Errors
    /// [`Error::Adopted`]: a slab of the cache was adopted in this kernel, so that its objects are there to
    /// be claimed. As for [`Slabs::adopt`]; then nothing changed.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::DirectMap;
    /// use heirloom_slab::{CacheSpec, Slabs};
    ///
    /// let spec = CacheSpec::new("names", 64).preserving(true);
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let name = slabs.cache(spec)?.alloc_zeroed()?;
    /// let addr = slabs.memory().machine().phys(name).unwrap();
    ///
    /// // The successor, over the same memory.
    /// let (map, directory) = (slabs.memory().preserved().tree_root()?, slabs.cache_directory());
    /// let memory = slabs.into_memory().into_machine().attach(&Ram::frames(1024))?;
    /// let slabs = Slabs::revive(memory.take_over(map)?.0, directory)?;
    /// let names = slabs.resume(spec)?;
    /// let name = slabs.memory().machine().ptr(addr);
    /// // SAFETY: in use since the predecessor allocated it, ours, and not used again.
    /// unsafe { names.free(name) }?;
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn resume(&self, spec: CacheSpec) -> Result<Cache<'_, M>, Error> {
        self.resume_named(spec, true)
    }

    /// Like [`Slabs::resume`], for a cache that the predecessor may not have left: it is created then.
    ///
    /// # Errors
    /// As for [`Slabs::resume`], but for [`Error::NotInherited`].
    pub fn resume_or_create(&self, spec: CacheSpec) -> Result<Cache<'_, M>, Error> {
        self.resume_named(spec, false)
    }

    fn resume_named(&self, spec: CacheSpec, expected: bool) -> Result<Cache<'_, M>, Error> {
        let records = self.left_to(&spec)?;
        let cache = self.adopting_cache(spec, expected, &records)?;
        records.iter().try_for_each(|record| cache.resume(&record))?;
        Ok(cache)
    }

    /// Resumes the caches of all size classes, as [`Slabs::resume`]: the small buffers that survived are
    /// in use, and their owners'. (Large ones are claimed each by its handle, which costs nothing before.)
    ///
    /// # Errors
    /// [`Error::Adopted`]: a buffer of a class was claimed before. [`Error::Folio`]: out of memory for a
    /// cache's control block. Classes before that one are resumed then, and the call can be repeated.
    pub fn resume_buffers(&self) -> Result<(), Error> {
        for record in self.view().records() {
            if class_of(record.desc(), record.geometry()).is_some() && self.has_slabs(&record) {
                let cache = self.keeper(&record)?;
                cache.admits(&record)?;
                cache.resume(&record)?;
            }
        }
        Ok(())
    }

    /// Returns the cache that resumes slabs so described, if one does.
    pub(crate) fn resumes(&self, desc: &SlabDesc) -> Option<Cache<'_, M>> {
        if !self.predecessor.any_resumed() {
            return None;
        }
        // (One that is being destroyed too, which may go on.)
        let found =
            self.registry.iter().find(|inner| inner.takeover.resumes() && inner.desc == *desc);
        found.map(|inner| Cache { slabs: self, inner })
    }

    /// Sweeps the slab around a pointer, if it is one that a cache resumes. Returns whether it is worth
    /// another look at what is there.
    ///
    /// # Errors
    /// [`Error::WouldWait`]: from where nothing can be waited for. [`Error::Slab`]: it is not sound.
    #[cold]
    #[inline(never)]
    pub(crate) fn sweep_around(&self, ptr: NonNull<u8>) -> Result<bool, Error> {
        let Some(addr) = self.memory().machine().phys(ptr) else { return Ok(false) };
        if !self.predecessor.any_resumed() {
            return Ok(false);
        }
        if !self.memory().machine().may_wait() {
            return Err(Error::WouldWait);
        }
        match self.take_around(addr, false) {
            // What is there is a slab by now, or was, or never will be.
            Err(Error::NotAnObject { .. }) => Ok(true),
            Err(Error::NotAdopted { .. }) => Ok(false),
            swept => swept.map(|()| true),
        }
    }

    /// Does `look`, and once more if what it looks for may lie in a slab that was to be swept.
    #[inline]
    pub(crate) fn swept<T>(
        &self,
        ptr: NonNull<u8>,
        look: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match look() {
            Err(Error::NotAnObject { .. }) if self.sweep_around(ptr)? => look(),
            looked => looked,
        }
    }

    /// Returns where the object or small buffer is that a handle says this of, if it is in use: as often as one
    /// likes, as nothing is claimed.
    ///
    /// # Errors
    /// [`Error::WrongState`] (not in use), [`Error::Stale`] (another reuse tag), [`Error::WrongLength`], [`Error::Interior`],
    /// [`Error::NotAnObject`]; [`Error::Slab`] as for [`Slabs::resume`].
    pub fn at(&self, addr: PhysAddr, bytes: u64, reuse_tag: u8) -> Result<NonNull<u8>, Error> {
        let ptr = self.memory().machine().ptr(addr);
        self.swept(ptr, || {
            self.looking(|stays| {
                let object_ref = self.object_of(ptr, stays)?;
                let (cache, found) =
                    (object_ref.inner.name, u64::from(object_ref.inner.geometry.size));
                if bytes != found {
                    return Err(Error::WrongLength { cache, addr, expected: bytes, found });
                }
                let state = object_ref.state();
                if !state.is_in_use() {
                    return Err(object_ref.refused(Action::Name));
                }
                if state.reuse_tag() != reuse_tag {
                    return Err(Error::Stale {
                        cache,
                        addr,
                        expected: reuse_tag,
                        found: state.reuse_tag(),
                    });
                }
                Ok(ptr)
            })
        })
    }
}

impl<M: Machine> Cache<'_, M> {
    /// Resumes the slabs of a record, which the cache admits.
    fn resume(&self, record: &CacheRecord) -> Result<(), Error> {
        let takeover = &self.inner.takeover;
        let turn = self.slabs.predecessor.turn();
        match takeover.way.load(Relaxed) {
            RESUMES => Ok(()),
            ADOPTS => Err(Error::Adopted { cache: self.inner.name }),
            _ if self.slabs.any_aside(&turn, record) => {
                Err(heirloom_folio::Error::PredecessorBusy.into())
            }
            _ => {
                takeover.next.store(record.table().get(), Relaxed);
                self.slabs.predecessor.note_resumed(&turn);
                // Release pairs with the Acquire in `Takeover::resumes`.
                takeover.way.store(RESUMES, Release);
                Ok(())
            }
        }
    }

    /// Returns where the object at an address is, if it is one of this cache's in use, with this reuse tag.
    ///
    /// # Errors
    /// As for [`Slabs::at`]; [`Error::WrongCache`].
    pub fn at(&self, addr: PhysAddr, reuse_tag: u8) -> Result<NonNull<u8>, Error> {
        let ptr = self.slabs.at(addr, u64::from(self.inner.geometry.size), reuse_tag)?;
        self.slabs.looking(|stays| self.object_ref(ptr, stays).map(|_| ptr))
    }

    /// Sweeps up to `limit` slabs that were resumed and not used yet, so that later calls need not. Returns
    /// how many it came by: 0 once there are no more. A slab that is not sound is passed over.
    ///
    /// # Errors
    /// [`Error::WouldWait`]: from where nothing can be waited for.
    pub fn sweep(&self, limit: u64) -> Result<u64, Error> {
        if !self.slabs.memory().machine().may_wait() {
            return Err(Error::WouldWait);
        }
        Ok(usize_to_u64((0..limit).map_while(|_| self.sweep_next()).count()))
    }

    /// Gives up a slab that was resumed and is not sound, as an [`Error::Slab`] says: it is struck out of
    /// the cache directory, and free memory. Returns whether it did: not if the slab is sound, or none of this cache
    /// that was resumed and not used. No other call gives one up, as its owner may use what is in it.
    ///
    /// # Errors
    /// [`Error::WouldWait`]: from where nothing can be waited for.
    ///
    /// # Safety
    /// Nothing uses the objects in the slab, then or later.
    pub unsafe fn give_up(&self, slab: PhysAddr) -> Result<bool, Error> {
        let (slabs, memory) = (self.slabs, self.slabs.memory());
        if !memory.machine().may_wait() {
            return Err(Error::WouldWait);
        }
        let turn = slabs.predecessor.turn();
        let view = slabs.view();
        let mut records = view.records_with(|desc| *desc == self.inner.desc);
        let named = records.find_map(|record| {
            let named = view.named(&record).find(|named| named.slab == slab)?;
            Some((record, named))
        });
        let Some((record, named)) = named else { return Ok(false) };
        if !self.inner.takeover.resumes() {
            return Ok(false);
        }
        let block = Block::containing(slab.pfn(), record.order());
        // SAFETY: it has no owner, and only in turn would it get one.
        let left = unsafe { Here::new(memory) };
        if !memory.predecessor().contains(block) || check_slab(left, slab, &record).is_ok() {
            return Ok(false);
        }
        // SAFETY: labelled by this layer, as the cache directory names it.
        unsafe { memory.claim_as(block, FrameType::Slab) }?;
        give_up(slabs, block, named.entry)?;
        drop(turn);
        Ok(true)
    }

    /// Sweeps up to `limit` slabs, until one of them had a free place. Returns whether one had.
    #[cold]
    pub(crate) fn sweep_for_free(&self, limit: usize) -> bool {
        (0..limit).map_while(|_| self.sweep_next()).any(|free| free > 0)
    }

    /// Waits for the call that sweeps a slab of this cache at the moment: what is free in it can be had
    /// then.
    pub(crate) fn await_sweep(&self) {
        if self.inner.takeover.resumes() {
            drop(self.slabs.predecessor.turn());
        }
    }

    /// Sweeps the next slab that is left. Returns how many free places it had; `None` after the last.
    fn sweep_next(&self) -> Option<u64> {
        let (slabs, takeover) = (self.slabs, &self.inner.takeover);
        let view = slabs.view();
        let record = CacheRecord::of_slab(self.inner.desc)?;
        let named = loop {
            let from = takeover.next.load(Relaxed);
            if from == DONE {
                return None;
            }
            let (page, entry) = (from & !(PAGE_BYTES - 1), from & (PAGE_BYTES - 1));
            let mut named = view.named_from(&record, PhysAddr::new(page), u64_to_usize(entry));
            let next = named.find(|named| {
                let block = Block::new(named.slab.pfn(), record.order());
                block.is_some_and(|block| slabs.memory().predecessor().contains(block))
            });
            let (page, entry) = named.place();
            let place = match next {
                Some(_) => page.get() | usize_to_u64(entry),
                None => view.table_behind(&self.inner.desc, page).map_or(DONE, PhysAddr::get),
            };
            // Of two calls at the same time both may come by one slab, which one of them sweeps.
            takeover.next.store(place, Relaxed);
            if let Some(named) = next {
                break named;
            }
        };
        let swept = {
            let turn = slabs.predecessor.turn();
            let block = Block::new(named.slab.pfn(), record.order())?;
            if !slabs.memory().predecessor().contains(block) {
                return Some(0);
            }
            self.adopt_slab(&turn, &record, named)
        };
        // One that is not sound stays as it is, and shows when it is used.
        let Ok(adopted) = swept else { return Some(0) };
        self.construct_in(named.slab, &adopted);
        Some(adopted.free)
    }

    /// Returns how many slabs were resumed and not swept yet.
    pub(crate) fn unswept(&self) -> u64 {
        if !self.inner.takeover.resumes() {
            return 0;
        }
        let (view, memory) = (self.slabs.view(), self.slabs.memory());
        let records = view.records_with(|desc| *desc == self.inner.desc);
        let slabs =
            records.flat_map(|record| view.slabs(&record).zip(core::iter::repeat(record.order())));
        let blocks = slabs.filter_map(|(addr, order)| Block::new(addr.pfn(), order));
        usize_to_u64(blocks.filter(|block| memory.predecessor().contains(*block)).count())
    }
}
