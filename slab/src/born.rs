//! Which large buffers were preserved from birth, so that a plain free frees them.
//!
//! A small object's cache says so. Large buffers have no header, and their frames' bytes say only
//! that they are preserved: here is the set of the first frames of those that were from birth. It is
//! looked at when a preserved large buffer is freed, and at no other time.
//!
//! ```text
//! root ──> page of addresses ──> … ──> page of bits, one a frame
//! ```
//!
//! A tree of one depth, whose pages come when they are first needed and stay as long as the instance:
//! no lock, and no pass over what is there, however much that is.

use heirloom_folio::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use heirloom_folio::{Kind, Machine, Memory, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Request};

use crate::error::Error;

/// log2 of the frames that a page of bits covers.
const LEAF: u32 = PAGE_SHIFT + 3;
/// log2 of the addresses in a page of them.
const FAN: u32 = PAGE_SHIFT - 3;
/// Pages of addresses on the way to any frame.
const DEPTH: u32 = (u64::BITS - PAGE_SHIFT - LEAF).div_ceil(FAN);

/// A set of frames.
pub(crate) struct Born {
    /// The address of the first page, or 0, as for each page below it.
    root: AtomicU64,
}

impl Born {
    pub(crate) const fn new() -> Self {
        Self { root: AtomicU64::new(0) }
    }

    /// Whether the frame is in the set. It is the caller's, so nothing changes that meanwhile.
    pub(crate) fn contains<M: Machine>(&self, memory: &Memory<M>, pfn: Pfn) -> bool {
        let word = self.word(memory, pfn, |_| None);
        word.is_some_and(|word| word.load(Relaxed) & bit(pfn) != 0)
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn insert<M: Machine>(&self, memory: &Memory<M>, pfn: Pfn) -> Result<(), Error> {
        let mut added = Ok(());
        let word = self
            .word(memory, pfn, |link| add(memory, link).map_err(|error| added = Err(error)).ok());
        if let Some(word) = word {
            word.fetch_or(bit(pfn), Relaxed);
        }
        added
    }

    /// Removes a frame: whether it was there.
    pub(crate) fn remove<M: Machine>(&self, memory: &Memory<M>, pfn: Pfn) -> bool {
        let word = self.word(memory, pfn, |_| None);
        word.is_some_and(|word| word.fetch_and(!bit(pfn), Relaxed) & bit(pfn) != 0)
    }

    /// The word with a frame's bit. `missing` is asked where there is no page yet, for one that is
    /// linked by then.
    fn word<'m, M: Machine>(
        &'m self,
        memory: &'m Memory<M>,
        pfn: Pfn,
        mut missing: impl FnMut(&AtomicU64) -> Option<u64>,
    ) -> Option<&'m AtomicU64> {
        let mut link = &self.root;
        let mut shift = LEAF + DEPTH * FAN;
        loop {
            // Acquire pairs with the exchange in `add`: the page is one of zeroes.
            let there = link.load(Acquire);
            let page = if there == 0 { missing(link)? } else { there };
            let first = memory.machine().ptr(PhysAddr::new(page)).cast::<AtomicU64>();
            // SAFETY: a page of the set's own, linked for good, aligned, touched as atomics alone.
            let words = unsafe { core::slice::from_raw_parts(first.as_ptr(), PAGE_SIZE / 8) };
            if shift == LEAF {
                return words.get((pfn.get() >> 6) as usize % words.len());
            }
            shift -= FAN;
            link = words.get((pfn.get() >> shift) as usize % words.len())?;
        }
    }
}

/// A frame's bit in its word.
const fn bit(pfn: Pfn) -> u64 {
    1 << (pfn.get() % 64)
}

/// Links a page of zeroes where there is none: its address, or that of the page that came first.
///
/// # Errors
/// [`Error::Folio`]: out of memory.
#[cold]
fn add<M: Machine>(memory: &Memory<M>, link: &AtomicU64) -> Result<u64, Error> {
    let block = memory.alloc(Request::new(Order::ZERO).kind(Kind::Table).zeroed())?;
    // AcqRel: Release pairs with the Acquire in `word`, Acquire with the exchange that came first.
    match link.compare_exchange(0, block.addr().get(), AcqRel, Acquire) {
        Ok(_) => Ok(block.addr().get()),
        Err(there) => {
            // SAFETY: allocated just now, and linked nowhere.
            let freed = unsafe { memory.free(block, Kind::Table) };
            debug_assert!(freed.is_ok(), "a page of our own: {freed:?}");
            Ok(there)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

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
            let memory = Ram::memory(&Ram::frames(1024)).unwrap();
            let born = Born::new();
            let mut model = BTreeSet::new();
            // Some side by side, some on pages of their own, up to the last frame there can be.
            let frame = |n: u64| Pfn::new(if n < 450 { n } else { Pfn::LIMIT.get() - 1 - (n - 450) * 7001 });
            for (add, n) in steps {
                if add {
                    born.insert(&memory, frame(n)).unwrap();
                    model.insert(n);
                } else {
                    prop_assert_eq!(born.remove(&memory, frame(n)), model.remove(&n));
                }
            }
            for n in 0..900 {
                prop_assert_eq!(born.contains(&memory, frame(n)), model.contains(&n));
            }
        }
    }

    #[test]
    fn frames_that_share_pages_are_told_apart() {
        let memory = Ram::memory(&Ram::frames(256)).unwrap();
        let born = Born::new();
        let frames: Vec<_> =
            (0..u64::BITS - PAGE_SHIFT).map(|shift| Pfn::new(1 << shift)).collect();
        for (n, frame) in frames.iter().enumerate() {
            assert!(frames[n..].iter().all(|other| !born.contains(&memory, *other)), "{frame:?}");
            born.insert(&memory, *frame).unwrap();
            assert!(frames[..=n].iter().all(|other| born.contains(&memory, *other)), "{frame:?}");
        }
        assert!(!born.contains(&memory, Pfn::new(0)));
    }

    #[test]
    fn out_of_memory_leaves_the_set_as_it_was() {
        let memory = Ram::memory(&Ram::frames(8)).unwrap();
        let born = Born::new();
        let frame = |n: u64| Pfn::new(n << LEAF);
        let mut count = 0;
        while born.insert(&memory, frame(count)).is_ok() {
            count += 1;
        }
        assert_eq!(count, 8 - u64::from(DEPTH));
        assert!((0..count).all(|n| born.contains(&memory, frame(n))));
        assert!(!born.contains(&memory, frame(count)));
        assert!(born.remove(&memory, frame(0)) && !born.remove(&memory, frame(0)));
    }
}
