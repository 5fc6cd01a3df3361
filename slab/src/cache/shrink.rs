//! What a cache gives back: the objects in magazines to their slabs, and empty slabs to the page allocator.
//!
//! A slab goes in four steps, so that no call finds it while it goes: out of the list, under the
//! lock; unpublished, so that pointers into it lead to none; once every CPU that may have found it before
//! has left what it was doing, unpreserved; and freed. Where a step fails it is published again; one that was unpreserved by then stays out of use.

use heirloom_folio::{CpuId, FrameType, Machine};
use heirloom_kho::sync::Ordering::Relaxed;

use crate::cache::Cache;
use crate::lists::Batch;
use crate::magazine::Magazine;

/// Empty slabs that a cache keeps when objects are freed.
pub(crate) const EMPTIES: usize = 4;
/// From so many on it gives those above [`EMPTIES`] back: several at a time, since each CPU is asked
/// whether it looks at slabs.
pub(crate) const SURPLUS: usize = 2 * EMPTIES;
/// Slabs that are given back together, at most: the lock is held for so many.
const BATCH: usize = 16;
/// How often each CPU is asked by a call that has nothing else to do.
const TRIES: u32 = 200;

impl<M: Machine> Cache<'_, M> {
    /// Gives empty slabs back until `keep` are left. Returns how many. Each CPU is asked up to `tries` times
    /// whether it looks at slabs; while one does, they stay.
    pub(crate) fn trim(&self, keep: usize, tries: u32) -> u64 {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let mut given = 0;
        loop {
            let mut batch = self.take_batch(keep);
            if batch.is_empty() {
                return given;
            }
            if !memory.readers_have_left(tries) {
                self.put_back(batch);
                return given;
            }
            if inner.spec.preserving {
                // (An empty slab of a plain cache has no preserved object.)
                let mut shared = inner.shared.lock();
                for slab in batch.slabs(memory.machine()) {
                    self.slabs.unpreserve_slab(inner, &mut shared, slab);
                }
            }
            let mut refused = Batch::new();
            while let Some(slab) = batch.take(memory.machine()) {
                // SAFETY: in no list, all of its objects free, and no reader finds it any more.
                match unsafe { memory.free_as(slab.block(&inner.geometry), FrameType::Table) } {
                    Ok(()) => given += 1,
                    // A raw call on its frames preserved it.
                    Err(_) => refused.add(slab),
                }
            }
            if !refused.is_empty() {
                self.put_back(refused);
                return given;
            }
        }
    }

    /// Takes empty slabs out of the list, of which `keep` stay, and unpublishes them.
    fn take_batch(&self, keep: usize) -> Batch {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let mut batch = Batch::new();
        let mut shared = inner.shared.lock();
        for _ in 0..BATCH {
            let Some(slab) = shared.lists.take_empty(memory.machine(), keep) else { break };
            // SAFETY: in no list since just now, and empty.
            if unsafe { self.slabs.unpublish_slab(slab.block(&inner.geometry)) } {
                batch.add(slab);
            } else {
                shared.lists.add(&inner.geometry, slab);
                break;
            }
        }
        batch
    }

    /// Publishes slabs again that could not go. (They were unpublished: no object of theirs was in use, or to
    /// be claimed, so no call was to find one.)
    fn put_back(&self, mut batch: Batch) {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let mut shared = inner.shared.lock();
        while let Some(slab) = batch.take(memory.machine()) {
            if inner.spec.preserving && slab.header().entry.load(Relaxed) == 0 {
                // It was let go, and cannot survive as others of the cache do: it stays out of use.
                continue;
            }
            // SAFETY: a slab of this cache, in no list, that was unpublished by `take_batch`.
            unsafe { self.slabs.publish_slab(slab.block(&inner.geometry)) };
            shared.lists.add(&inner.geometry, slab);
        }
    }

    /// Gives back what the cache does not need: the objects in this CPU's magazines, in those of
    /// CPUs that nothing runs on and in the depot go to their slabs, and slabs without objects to
    /// the page allocator; slabs that were resumed are [swept](Cache::sweep) first. Returns how many
    /// slabs.
    pub fn shrink(&self) -> u64 {
        // Where it cannot wait for that, what is unswept stays so.
        let _ = self.sweep(u64::MAX);
        self.shrink_swept()
    }

    /// Does what [`Cache::shrink`] does, for a call that is about something else: a constructor,
    /// which may panic, and may itself come here, is not run. (Of a cache that has one, what is
    /// unswept stays so.)
    pub(crate) fn shrink_aside(&self) -> u64 {
        if self.inner.constructor().is_none() {
            let _ = self.sweep(u64::MAX);
        }
        self.shrink_swept()
    }

    /// Does what [`Cache::shrink`] does to what is swept.
    fn shrink_swept(&self) -> u64 {
        let (inner, memory) = (self.inner, self.slabs.memory());
        // Of one that is being destroyed, another call has the magazines.
        let Some(_visit) = inner.life.enter() else { return 0 };
        let machine = memory.machine();
        self.drain_own();
        for cpu in CpuId::all(machine.count()) {
            let mut idle = None;
            machine.with_offline_cpu(cpu, || {
                // SAFETY: `with_offline_cpu` runs this as if on `cpu`, a CPU of the machine.
                idle = Some(unsafe { inner.slot(cpu).detach() });
            });
            idle.into_iter().flatten().flatten().for_each(|magazine| self.drain(magazine));
        }
        self.empty_depot()
    }

    /// Puts the objects in this CPU's magazines into their slabs. Returns whether it did: not where no CPU's state can
    /// be had, or another call is destroying the cache.
    pub(crate) fn flush(&self) -> bool {
        self.inner.life.enter().is_some_and(|_visit| self.drain_own())
    }

    /// Does what [`Cache::flush`] does, for a call that is in.
    fn drain_own(&self) -> bool {
        let inner = self.inner;
        let own = self.slabs.memory().machine().with_cpu(|cpu| {
            // SAFETY: as in `alloc`.
            cpu.map(|cpu| unsafe { inner.slot(cpu).detach() })
        });
        let had = own.is_some();
        own.into_iter().flatten().flatten().for_each(|magazine| self.drain(magazine));
        had
    }

    /// Gives back what the cache does not need, as [`Cache::shrink`], from the magazines of every CPU.
    ///
    /// # Safety
    /// Nothing else uses the cache meanwhile, on any CPU.
    pub(crate) unsafe fn shrink_all(&self) -> u64 {
        let _ = self.sweep(u64::MAX);
        for cpu in CpuId::all(self.slabs.memory().machine().count()) {
            // SAFETY: a CPU of the machine, and by the contract nothing is in its slot.
            let both = unsafe { self.inner.slot(cpu).detach() };
            both.into_iter().flatten().for_each(|magazine| self.drain(magazine));
        }
        self.empty_depot()
    }

    /// Puts the depot's objects into their slabs, and gives empty slabs back. Returns how many.
    pub(crate) fn empty_depot(&self) -> u64 {
        while let Some(full) = {
            let mut shared = self.inner.shared.lock();
            shared.depot.pop_full()
        } {
            self.drain(full);
        }
        self.trim(0, TRIES)
    }

    /// Puts a magazine's objects into their slabs, and the magazine aside.
    pub(crate) fn drain(&self, mut magazine: Magazine) {
        let (inner, map) = (self.inner, self.slabs.memory().machine());
        let mut shared = inner.shared.lock();
        shared.lists.empty_out(map, &inner.geometry, &mut magazine);
        shared.depot.push_empty(magazine);
    }
}
