//! How many objects of a cache there are, in which state.

use heirloom_folio::Machine;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::Ordering::Relaxed;

use crate::cache::Cache;
use crate::geometry::Geometry;
use crate::state::{ObjectState, State};

/// How many objects of a cache there are, in which state; see [`Cache::stats`].
///
/// Each object is counted once:
/// `slabs * objects_per_slab == live + unclaimed + free + cached + reserved + quarantined`; but for those in
/// `unswept` slabs, which are in no other figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Slabs.
    pub slabs: u64,
    /// Frames in each.
    pub slab_frames: u64,
    /// Objects in use, preserved ones included.
    pub live: u64,
    /// Those of them that survive a jump.
    pub preserved: u64,
    /// Objects that the predecessor left and no caller has claimed yet.
    pub unclaimed: u64,
    /// Objects free in their slabs.
    pub free: u64,
    /// Objects free in magazines.
    pub cached: u64,
    /// Objects free and [set aside](Cache::reserve).
    pub reserved: u64,
    /// Objects taken out of use because they were overwritten while free.
    pub quarantined: u64,
    /// Slabs that were [resumed](crate::Slabs::resume), and that nothing was used of yet.
    pub unswept: u64,
}

impl<M: Machine> Cache<'_, M> {
    /// Returns how many objects there are, in which state.
    ///
    /// Objects in use are counted from their bytes, so the figures cannot drift; exact while nothing is
    /// allocated or freed. Costs a pass over the bytes, under the machine's
    /// [`Mutex`](heirloom_folio::Machine::Mutex), with the cache locked for one slab at a time.
    pub fn stats(&self) -> CacheStats {
        let (inner, machine) = (self.inner, self.slabs.memory().machine());
        let geometry: &Geometry = &inner.geometry;
        let mut stats =
            CacheStats { slab_frames: geometry.order.frames(), ..CacheStats::default() };
        stats.unswept = self.unswept();
        let _one_pass_at_a_time = self.slabs.passing.lock();
        {
            let mut shared = inner.shared.lock();
            stats.cached = usize_to_u64(inner.cached(machine, &shared));
            shared.lists.begin_pass();
        }
        let mut not_live: u64 = 0;
        loop {
            let mut shared = inner.shared.lock();
            let Some(slab) = shared.lists.next_of_pass(machine) else {
                stats.reserved = not_live.saturating_sub(stats.free + stats.cached);
                return stats;
            };
            stats.slabs += 1;
            stats.free += u64::from(slab.header().free.load(Relaxed));
            for byte in slab.states(geometry) {
                match State(byte.load(Relaxed)).what() {
                    // In its slab or in a magazine, which have counted it, or reserved.
                    Some(ObjectState::Free) => not_live += 1,
                    Some(ObjectState::Live) => {
                        stats.live += 1;
                        stats.preserved += u64::from(inner.spec.preserving);
                    }
                    Some(ObjectState::Preserved | ObjectState::Held) => {
                        stats.live += 1;
                        stats.preserved += 1;
                    }
                    Some(ObjectState::Unclaimed) => stats.unclaimed += 1,
                    _ => stats.quarantined += 1,
                }
            }
        }
    }
}
