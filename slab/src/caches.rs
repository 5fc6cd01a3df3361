//! The caches of an instance: found by name or size class, created, shrunk together.

use heirloom_folio::Machine;

use crate::cache::Cache;
use crate::cache::inner::{Built, CacheInner};
use crate::class::Class;
use crate::directory::{CacheRecord, SlabTable};
use crate::error::Error;
use crate::geometry::Geometry;
use crate::header::SlabDesc;
use crate::name::Name;
use crate::registry::{CacheNumber, Put};
use crate::slabs::Slabs;
use crate::spec::CacheSpec;

impl<M: Machine> Slabs<M> {
    /// Returns the cache that `spec` asks for: the one of this name, or a new one. No lock is
    /// taken.
    ///
    /// # Errors
    /// [`Error::Mismatch`]: there is one of this name, and it is another. [`Error::BadSpec`],
    /// [`Error::ReservedName`], [`Error::TooManyCaches`], [`Error::Folio`]: out of memory.
    pub fn cache(&self, spec: CacheSpec) -> Result<Cache<'_, M>, Error> {
        spec.own_name()?;
        if let Some(there) = self.find(&spec)? {
            return Ok(there);
        }
        // Slabs are as the predecessor's, whose slabs the cache can then adopt.
        let view = self.view();
        let like = |record: &CacheRecord| record.admits(&spec).is_ok();
        let all = || view.records_with(|desc| spec.is_named_as(desc)).filter(like);
        // Rather as those that are there than as those that were.
        let found = all().find(|record| view.slabs(record).next().is_some());
        match found.or_else(|| all().next()) {
            Some(record) => self.create(spec.slabs_like(record.geometry())),
            None => self.create(spec),
        }
    }

    /// Returns all caches that are there: those of the size classes, then the others in the order of their
    /// creation.
    pub fn caches(&self) -> impl Iterator<Item = Cache<'_, M>> {
        let there = self.registry.iter().filter(|inner| inner.life.goes_on());
        there.map(|inner| Cache { slabs: self, inner })
    }

    /// Returns the cache of this name and spec, if there is one.
    ///
    /// Caches of a size class whose slabs lie otherwise than this build's stand beside each other.
    /// No two caches have one description: so at most one goes on with a record of the cache directory.
    pub(crate) fn find(&self, spec: &CacheSpec) -> Result<Option<Cache<'_, M>>, Error> {
        let mut number = CacheNumber::FIRST;
        self.find_from(spec, &mut number)
    }

    /// Like [`Slabs::find`], from cache `number` on; sets it to the number behind the last one looked at.
    fn find_from(
        &self,
        spec: &CacheSpec,
        number: &mut CacheNumber,
    ) -> Result<Option<Cache<'_, M>>, Error> {
        let mut other = Ok(None);
        while let Some(inner) = self.registry.get(*number) {
            *number = number.next();
            if Some(inner.name) != spec.name || !inner.life.goes_on() {
                continue;
            }
            match spec.admits(&inner.spec(), &inner.geometry) {
                // Slabs that are there already are as they are.
                Ok(()) if spec.kept && inner.geometry.redzone != spec.redzone => {}
                Ok(()) => return Ok(Some(Cache { slabs: self, inner })),
                Err(_) if spec.kept => {}
                Err(error) => other = Err(error),
            }
        }
        other
    }

    /// Returns the cache, which is created if there is none. `spec` says all about its geometry.
    ///
    /// No lock is taken: the control block is built first, and given the first number that is free
    /// by one exchange. A call that loses looks at what came first, and tries the next one.
    pub(crate) fn create(&self, spec: CacheSpec) -> Result<Cache<'_, M>, Error> {
        let like = spec.geometry()?;
        let mut number = CacheNumber::FIRST;
        if let Some(there) = self.find_from(&spec, &mut number)? {
            return Ok(there);
        }
        let desc = SlabDesc::new(like.0, &like.1, spec.preserving, spec.layout());
        if let Some(again) = self.begin_again(&spec, desc)? {
            return Ok(again);
        }
        let mut new = self.build(spec, like, number)?;
        self.expect_order(like.1.order);
        loop {
            new = match self.registry.put(self.memory(), number, new)? {
                Put::Done(inner) => return Ok(Cache { slabs: self, inner }),
                Put::Taken(_, new) => new,
            };
            // The one that came first may be the cache that was asked for.
            if let Some(there) = self.find_from(&spec, &mut number)? {
                return Ok(there);
            }
            new.set_owner(self.registry.owner(number));
        }
    }

    /// Builds the control block of cache `number`, which nothing leads to yet. It goes on with the
    /// cache directory's record of such a cache, if there is one.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    fn build(
        &self,
        spec: CacheSpec,
        (name, geometry): (Name, Geometry),
        number: CacheNumber,
    ) -> Result<Built<'_, M>, Error> {
        let desc = SlabDesc::new(name, &geometry, spec.preserving, spec.layout());
        let record = self.view().records_with(|there| *there == desc).next();
        let table = match record {
            Some(record) => SlabTable::reopen(self.memory(), record.table()),
            None => SlabTable::new(),
        };
        let owner = self.registry.owner(number);
        CacheInner::build(self.memory(), owner, table, spec, (name, geometry))
    }

    /// Returns the cache of a class, if it was ever needed.
    #[inline]
    pub(crate) fn existing_class(&self, class: Class, preserving: bool) -> Option<Cache<'_, M>> {
        let inner = self.registry.of_class(CacheNumber::of_class(class.number(preserving)))?;
        Some(Cache { slabs: self, inner })
    }

    /// Returns the cache of a class that may not have one yet. No lock is taken.
    #[cold]
    pub(crate) fn new_class(&self, class: Class, preserving: bool) -> Result<Cache<'_, M>, Error> {
        let number = CacheNumber::of_class(class.number(preserving));
        let inner = if let Some(there) = self.registry.get(number) {
            there
        } else {
            let spec = class.spec(preserving);
            let like = spec.geometry()?;
            let new = self.build(spec, like, number)?;
            self.expect_order(like.1.order);
            match self.registry.put(self.memory(), number, new)? {
                Put::Done(inner) | Put::Taken(inner, _) => inner,
            }
        };
        Ok(Cache { slabs: self, inner })
    }

    /// Gives back what no cache needs: [`Cache::shrink`] for all, then the page allocator's own
    /// caches. Returns how many slabs.
    pub fn shrink(&self) -> u64 {
        let given = self.caches().map(|cache| cache.shrink()).sum();
        self.memory().drain();
        given
    }

    /// Empties what this CPU keeps, and nothing else: the objects in its magazines go to their slabs, its free frames are every
    /// CPU's. For a CPU that is about to go offline, or that another asks by an interrupt, so that
    /// [`Slabs::shrink`] or [`Cache::destroy`] there find all. Returns whether it did: not where no CPU's state can
    /// be had, or where a lock might have to be waited for.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::{CacheSpec, Slabs};
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let names = slabs.cache(CacheSpec::new("names", 64))?;
    /// let name = names.alloc()?;
    /// // SAFETY: allocated just now, and not used again.
    /// unsafe { names.free(name) }?;
    /// assert!(names.stats().cached > 0);
    /// assert!(slabs.flush());
    /// assert_eq!((names.stats().cached, slabs.memory().stats().cached), (0, 0));
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    pub fn flush(&self) -> bool {
        if !self.memory().machine().may_wait() {
            return false;
        }
        let emptied = self.caches().filter(|cache| !cache.flush()).count() == 0;
        self.memory().flush() && emptied
    }

    /// Gives back what no cache needs, as [`Slabs::shrink`], while nothing else uses the slabs: from
    /// the magazines of every CPU. Returns how many slabs.
    ///
    /// What a thread freed last stays in the magazines of its slot when it ends, and a thread that
    /// takes the slot next, for whatever work, keeps `shrink` from it as long as it lives.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::{harness::Ram, FrameType};
    /// use heirloom_slab::{AllocOptions, Slabs};
    ///
    /// let mut slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let buffer = slabs.alloc(core::alloc::Layout::new::<[u64; 8]>(), AllocOptions::default())?;
    /// // SAFETY: allocated just now.
    /// unsafe { slabs.free(buffer) }?;
    /// slabs.shrink_all();
    /// assert_eq!(slabs.memory().audit()?.allocated[FrameType::Slab as usize], 0);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn shrink_all(&mut self) -> u64 {
        // SAFETY: `self` is borrowed mutably, so no call on any of its caches runs.
        let given = self.caches().map(|cache| unsafe { cache.shrink_all() }).sum();
        self.memory_mut().drain_all();
        given
    }

    /// Runs `act`; on out-of-memory gives back all that can be given back without a constructor, and runs it
    /// once more; then asks the machine for more memory, and runs it a last time.
    #[inline]
    pub(crate) fn retry_after_reclaim<T>(
        &self,
        act: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match act() {
            Err(error) if wanted(&error).is_some() => self.retry_slow(error, act),
            other => other,
        }
    }

    #[cold]
    #[inline(never)]
    fn retry_slow<T>(
        &self,
        mut error: Error,
        act: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let machine = self.memory().machine();
        // What is larger than memory is not had by giving back either.
        let could_help = wanted(&error).is_some_and(|frames| frames <= self.memory().frames());
        if could_help && machine.may_reclaim() {
            self.reclaim();
            match act() {
                Err(again) => error = again,
                done => return done,
            }
        }
        match wanted(&error) {
            Some(frames) if machine.grow(frames) => act(),
            _ => Err(error),
        }
    }

    /// Gives back all that can be given back without a constructor.
    pub(crate) fn reclaim(&self) {
        self.caches().for_each(|cache| _ = cache.shrink_aside());
        self.memory().drain();
    }
}

/// Returns how many frames in a row were wanted, where they were all that was missing.
const fn wanted(error: &Error) -> Option<u64> {
    match error {
        Error::Folio(error) => error.frames_wanted(),
        _ => None,
    }
}
