//! What the tests of this crate share: a captured handover, pages as words, fixed seeds.

// Its pages are of 4 KiB.
#[cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]
mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

#[cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]
pub(crate) use image::fixture;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

use crate::addr::{Block, Order, PhysAddr};
use crate::pages::Pages;
use crate::sync::{AtomicU32, AtomicU64};

/// `cases` cases, the same ones in every run.
pub(crate) fn proptest_config(cases: u32) -> Config {
    Config {
        cases: if cfg!(miri) { 4 } else { cases },
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x6865_6972_6c6f_6f6d),
        ..Config::default()
    }
}

/// Bytes as the words that hold them in memory.
pub(crate) fn words32(bytes: &[u8]) -> Vec<AtomicU32> {
    let words = bytes.chunks_exact(4);
    words.map(|w| AtomicU32::new(u32::from_ne_bytes(w.try_into().unwrap()))).collect()
}

/// Bytes as the words that hold them in memory.
pub(crate) fn words64(bytes: &[u8]) -> Vec<AtomicU64> {
    let words = bytes.chunks_exact(8);
    words.map(|w| AtomicU64::new(u64::from_ne_bytes(w.try_into().unwrap()))).collect()
}

/// Memory that a predecessor left: stretches of words, and what the tracker would say.
#[derive(Debug, Default)]
pub(crate) struct Left {
    stretches: BTreeMap<u64, Vec<AtomicU64>>,
    held: BTreeSet<(PhysAddr, Order)>,
}

impl Left {
    /// Adds memory from `at`.
    pub(crate) fn add(&mut self, at: PhysAddr, words: Vec<AtomicU64>) {
        self.stretches.insert(at.get(), words);
    }

    /// Says that a block is preserved.
    pub(crate) fn hold(&mut self, block: Block) {
        self.held.insert((block.addr(), block.order()));
    }

    /// Adds a preserved page that starts with `words`.
    pub(crate) fn table(&mut self, at: PhysAddr, words: &[u64]) {
        let mut page: Vec<_> = words.iter().copied().map(AtomicU64::new).collect();
        page.resize_with(crate::PAGE_SIZE / 8, AtomicU64::default);
        self.add(at, page);
        self.hold(Block::new(at.pfn(), Order::ZERO).unwrap());
    }
}

impl Pages for Left {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let (start, words) = self.stretches.range(..=addr.get()).next_back()?;
        let skip = usize::try_from(addr.get() - start).ok()?;
        if !skip.is_multiple_of(8) {
            return None;
        }
        words.get(skip / 8..)?.get(..bytes.div_ceil(8))
    }

    fn holds(&self, block: Block) -> bool {
        self.held.contains(&(block.addr(), block.order()))
    }
}
