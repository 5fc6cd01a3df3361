//! The end of a cache: its slabs and magazines are free memory again.
//!
//! What is left of it is its control block and, if a slab of it was ever preserved, its record in the cache directory, which
//! names no slab. Both go on in the next cache of the same description, so that an owner that comes and goes leaves them once.
//! A successor finds a cache of which nothing is preserved.

use heirloom_folio::{CpuId, Machine};

use crate::cache::Cache;
use crate::error::Error;
use crate::header::SlabDesc;
use crate::slabs::Slabs;
use crate::spec::{CacheSpec, is_reserved};

/// How often a cache is tried that others look at, or take memory back from.
const TRIES: u32 = 16;

impl<M: Machine> Cache<'_, M> {
    /// Ends the cache: gives back its slabs and its magazines, from every CPU. Its constructor is called no more.
    ///
    /// The next cache of the same name, layout and kind takes its place; until then other copies of this
    /// value allocate nothing ([`Error::Destroyed`]). At any instant a successor finds what it would find
    /// if the slabs had been given back one by one.
    ///
    /// # Errors
    /// The cache goes on: [`Error::CacheInUse`]: an object of it is in use, set aside, or to be claimed, or another CPU looks at a slab of
    /// it just now; [`Error::ReservedName`]: it is a size class's; [`Error::WouldWait`]; [`Error::Destroyed`].
    ///
    /// # Safety
    /// While the call runs, nothing else uses the cache, on any CPU, or asks for it by its name. (Calls about something else
    /// that take memory back from all caches are no such use.)
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{CacheSpec, Error, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let names = slabs.cache(CacheSpec::new("names", 64))?;
    /// let name = names.alloc()?;
    /// // SAFETY: the only thread; the object is not used again.
    /// unsafe {
    ///     assert!(matches!(names.destroy(), Err(Error::CacheInUse { objects: 1, .. })));
    ///     names.free(name)?;
    ///     names.destroy()?;
    /// }
    /// assert_eq!(slabs.caches().count(), 0);
    /// # Ok::<(), Error>(())
    /// ```
    pub unsafe fn destroy(&self) -> Result<(), Error> {
        let (inner, slabs) = (self.inner, self.slabs);
        let (name, memory) = (inner.name, slabs.memory());
        if is_reserved(&name) {
            return Err(Error::ReservedName { cache: name });
        }
        if !inner.life.goes_on() {
            return Err(Error::Destroyed { cache: name });
        }
        // What is resumed becomes slabs like others. (Refused where nothing can be waited for.)
        self.sweep(u64::MAX)?;
        let condemned = (0..TRIES).find_map(|_| {
            core::hint::spin_loop();
            inner.life.condemn()
        });
        let in_use = |objects| Error::CacheInUse { cache: name, objects };
        let condemned = condemned.ok_or(in_use(0))?;
        if self.has_left() {
            return Err(in_use(0));
        }
        for cpu in CpuId::all(memory.machine().count()) {
            // SAFETY: a CPU of the machine; the cache is this call's alone: its users' promise, and no call is in unasked.
            let both = unsafe { inner.slot(cpu).detach() };
            both.into_iter().flatten().for_each(|magazine| self.drain(magazine));
        }
        let stats = self.stats();
        let objects = stats.live + stats.unclaimed + stats.reserved + stats.quarantined;
        if objects > 0 {
            return Err(in_use(objects));
        }
        // Readers on other CPUs keep slabs for moments.
        for _ in 0..TRIES {
            self.empty_depot();
            if inner.shared.lock().lists.is_empty() {
                break;
            }
        }
        let mut shared = inner.shared.lock();
        if !shared.lists.is_empty() {
            return Err(in_use(0));
        }
        shared.depot.give_back(memory);
        drop(shared);
        inner.takeover.begin_anew(&slabs.predecessor.turn());
        condemned.bury();
        Ok(())
    }

    /// Returns whether the predecessor's cache has left slabs that it has not taken over.
    fn has_left(&self) -> bool {
        let (slabs, view) = (self.slabs, self.slabs.view());
        let mut records = view.records_with(|desc| *desc == self.inner.desc);
        records.any(|record| slabs.has_inherited(&record))
    }
}

impl<M: Machine> Slabs<M> {
    /// Returns the cache in place of one of the same description that was destroyed, if there is one: begun
    /// again by this call, or by another that came first.
    ///
    /// # Errors
    /// [`Error::Destroyed`]: it is being destroyed just now. [`Error::Mismatch`]: another call began it again,
    /// with another constructor. [`Error::WouldWait`].
    pub(crate) fn begin_again(
        &self,
        spec: &CacheSpec,
        desc: SlabDesc,
    ) -> Result<Option<Cache<'_, M>>, Error> {
        // No two caches have one description, whether they are there or were: another call may have been
        // faster since the caller found none that is there.
        let Some(inner) = self.registry.iter().find(|inner| inner.desc == desc) else {
            return Ok(None);
        };
        if !inner.life.goes_on() {
            if !self.memory().machine().may_wait() {
                return Err(Error::WouldWait);
            }
            // One call at a time begins it again: the others wait, and have what it made.
            let _one_at_a_time = inner.shared.lock();
            if let Some(alone) = inner.life.exhume() {
                inner.set_constructor(spec.constructor);
                drop(alone);
            }
        }
        if !inner.life.goes_on() {
            return Err(Error::Destroyed { cache: inner.name });
        }
        spec.admits(&inner.spec(), &inner.geometry)?;
        Ok(Some(Cache { slabs: self, inner }))
    }
}
