//! Which large buffers were preserved from birth, so that a plain free frees them.
//!
//! A small object's cache says so. Large buffers have no header, and their frames' bytes say only
//! that they are preserved: here is the set of the first frames of those that were from birth, a
//! hash table in frames. It is looked at when a preserved large buffer is freed, and at no other
//! time.

use heirloom_folio::{Block, Kind, Machine, Memory, Order, Pfn, Request};
use lock_api::Mutex;

use crate::error::Error;

/// A set of frames.
pub(crate) struct Born<M: Machine> {
    table: Mutex<M::Lock, Table>,
}

/// Open addressing with linear probing; an entry is a frame number plus one, or 0. At most three
/// quarters full.
struct Table {
    block: Option<Block>,
    used: usize,
}

impl<M: Machine> Born<M> {
    pub(crate) const fn new() -> Self {
        Self { table: Mutex::new(Table { block: None, used: 0 }) }
    }

    /// Whether the frame is in the set.
    pub(crate) fn contains(&self, memory: &Memory<M>, pfn: Pfn) -> bool {
        let mut table = self.table.lock();
        let entries = table.entries(memory);
        find(entries, pfn).is_ok()
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn insert(&self, memory: &Memory<M>, pfn: Pfn) -> Result<(), Error> {
        let mut table = self.table.lock();
        if (table.used + 1) * 4 > table.entries(memory).len() * 3 {
            table.grow(memory)?;
        }
        let entries = table.entries(memory);
        if let Err(free) = find(entries, pfn)
            && let Some(entry) = entries.get_mut(free)
        {
            *entry = pfn.get() + 1;
            table.used += 1;
        }
        Ok(())
    }

    /// Removes a frame: whether it was there.
    pub(crate) fn remove(&self, memory: &Memory<M>, pfn: Pfn) -> bool {
        let mut table = self.table.lock();
        let entries = table.entries(memory);
        let Ok(mut hole) = find(entries, pfn) else { return false };
        // What was pushed on by the entry that goes moves up.
        let mut at = hole;
        loop {
            at = (at + 1) % entries.len();
            let next = entries.get(at).copied().unwrap_or(0);
            if next == 0 {
                break;
            }
            let best = home(entries, Pfn::new(next - 1));
            if distance(entries, best, at) >= distance(entries, hole, at) {
                entries.swap(hole, at);
                hole = at;
            }
        }
        if let Some(entry) = entries.get_mut(hole) {
            *entry = 0;
        }
        table.used -= 1;
        true
    }
}

impl Table {
    fn entries<M: Machine>(&mut self, memory: &Memory<M>) -> &mut [u64] {
        let Some(block) = self.block else { return &mut [] };
        let first = memory.machine().ptr(block.addr()).cast::<u64>();
        let length = block.order().bytes() as usize / size_of::<u64>();
        // SAFETY: the block is the table's alone, and the table is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), length) }
    }

    #[cold]
    fn grow<M: Machine>(&mut self, memory: &Memory<M>) -> Result<(), Error> {
        let order = self.block.map_or(0, |block| block.order().get() + 1);
        let order = Order::new(order).unwrap_or(Order::MAX);
        let block = memory.alloc(Request::new(order).kind(Kind::Table).zeroed())?;
        let mut larger = Self { block: Some(block), used: self.used };
        let entries = larger.entries(memory);
        for entry in self.entries(memory).iter().filter(|entry| **entry != 0) {
            if let Err(free) = find(entries, Pfn::new(entry - 1))
                && let Some(slot) = entries.get_mut(free)
            {
                *slot = *entry;
            }
        }
        if let Some(old) = self.block {
            // SAFETY: the table's own, which nothing reaches any more.
            let freed = unsafe { memory.free(old, Kind::Table) };
            debug_assert!(freed.is_ok(), "the table's own block: {freed:?}");
        }
        *self = larger;
        Ok(())
    }
}

/// Where an entry would best be.
fn home(entries: &[u64], pfn: Pfn) -> usize {
    let hash = pfn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The length is a power of two, at least that of a page.
    (hash >> (u64::BITS - entries.len().ilog2())) as usize
}

/// How far behind `from` the place `at` is.
fn distance(entries: &[u64], from: usize, at: usize) -> usize {
    at.wrapping_sub(from) & (entries.len() - 1)
}

/// Where the frame's entry is, or else where it would go.
fn find(entries: &[u64], pfn: Pfn) -> Result<usize, usize> {
    if entries.is_empty() {
        return Err(0);
    }
    let mut at = home(entries, pfn);
    loop {
        match entries.get(at) {
            Some(0) | None => return Err(at),
            Some(entry) if *entry == pfn.get() + 1 => return Ok(at),
            Some(_) => at = (at + 1) % entries.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use heirloom_folio::harness::Ram;
    use proptest::prelude::*;
    use proptest::test_runner::{RngAlgorithm, RngSeed};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(0xb012),
            ..ProptestConfig::default()
        })]
        #[test]
        fn a_set_of_frames(steps in prop::collection::vec((any::<bool>(), 0_u64..900), 1..2000)) {
            let memory = Ram::memory(&Ram::frames(64)).unwrap();
            let born = Born::new();
            let mut model = BTreeSet::new();
            for (add, n) in steps {
                // Apart, so that home places collide now and then.
                let pfn = Pfn::new(n * 0x1_0001);
                if add {
                    born.insert(&memory, pfn).unwrap();
                    model.insert(n);
                } else {
                    prop_assert_eq!(born.remove(&memory, pfn), model.remove(&n));
                }
            }
            for n in 0..900 {
                prop_assert_eq!(born.contains(&memory, Pfn::new(n * 0x1_0001)), model.contains(&n));
            }
        }
    }

    #[test]
    fn out_of_memory_leaves_the_set_as_it_was() {
        let memory = Ram::memory(&Ram::frames(2)).unwrap();
        let born = Born::new();
        let mut count = 0;
        while born.insert(&memory, Pfn::new(count)).is_ok() {
            count += 1;
        }
        assert!(count >= 384 * heirloom_folio::PAGE_SIZE as u64 / 4096);
        assert!((0..count).all(|n| born.contains(&memory, Pfn::new(n))));
        assert!(!born.contains(&memory, Pfn::new(count)));
    }
}
