//! Memory for tests: pages in a row, some of them given out as nodes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

use heirloom_kho::sync::{AtomicU64, Relaxed};
use heirloom_kho::tree::{Geometry, Key, Tables, WORDS};
use heirloom_kho::{Block, Order, Pfn, PhysAddr, Run};

use super::node::NodeAlloc;
use crate::error::Error;

/// Words of a page: all of them, or as many as the keys that the model checker uses reach.
const LENGTH: usize = if cfg!(loom) { 4 } else { WORDS };

pub(crate) struct Ram {
    base: Pfn,
    pages: Vec<std::sync::OnceLock<Vec<AtomicU64>>>,
    state: Mutex<State>,
}

struct State {
    used: Vec<bool>,
    /// Allocations that will still succeed.
    left: usize,
    directory: BTreeMap<(Order, u64), PhysAddr>,
}

impl Ram {
    /// `pages` pages from frame `0x5000` on.
    pub(crate) fn new(pages: usize) -> Self {
        Self::at(Pfn::new(0x5000), pages)
    }

    pub(crate) fn at(base: Pfn, pages: usize) -> Self {
        let state =
            State { used: std::vec![false; pages], left: usize::MAX, directory: BTreeMap::new() };
        let ram = Self {
            base,
            pages: (0..pages).map(|_| std::sync::OnceLock::new()).collect(),
            state: Mutex::new(state),
        };
        if cfg!(loom) {
            // The model checker wants its atomics made before the threads start.
            for page in 0..pages {
                ram.words(base.add(page as u64).addr());
            }
        }
        ram
    }

    /// Returns how many pages are given out.
    pub(crate) fn used(&self) -> usize {
        self.state.lock().unwrap().used.iter().filter(|used| **used).count()
    }

    /// Returns the frames of the pages.
    #[cfg(not(loom))]
    pub(crate) fn run(&self) -> Run {
        Run::new(self.base, self.pages.len() as u64).unwrap()
    }

    /// Lets `allocations` more succeed, and none after them.
    #[cfg(not(loom))]
    pub(crate) fn fail_after(&self, allocations: usize) {
        self.state.lock().unwrap().left = allocations;
    }

    /// Empties the directory.
    #[cfg(not(loom))]
    pub(crate) fn clear_leaf_cache(&self) {
        self.state.lock().unwrap().directory.clear();
    }

    /// Returns what a failed allocation answers.
    pub(crate) fn full(&self) -> Error {
        let _ = self;
        Error::OutOfMemory { order: Order::ZERO, node: None }
    }

    fn index(&self, node: PhysAddr) -> Option<usize> {
        let index = node.pfn().get().checked_sub(self.base.get())? as usize;
        (index < self.pages.len()).then_some(index)
    }
}

impl Tables for Ram {
    fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]> {
        assert!(node.is_page_aligned());
        let page = self.pages.get(self.index(node)?)?;
        // Not zero: only `allocate` promises that.
        Some(page.get_or_init(|| (0..LENGTH).map(|_| AtomicU64::new(!0)).collect()))
    }
}

impl NodeAlloc for Ram {
    fn allocate(&self) -> Result<PhysAddr, Error> {
        let index = {
            let mut state = self.state.lock().unwrap();
            if state.left == 0 {
                return Err(self.full());
            }
            let index = state.used.iter().position(|used| !used).ok_or(self.full())?;
            state.left -= 1;
            state.used[index] = true;
            index
        };
        let page = self.base.add(index as u64).addr();
        for word in self.words(page).unwrap() {
            word.store(0, Relaxed);
        }
        Ok(page)
    }

    fn release(&self, node: PhysAddr) {
        let words = self.words(node).unwrap();
        assert!(words.iter().all(|word| word.load(Relaxed) == 0), "released pages are zeroed");
        let index = self.index(node).unwrap();
        let was = std::mem::replace(&mut self.state.lock().unwrap().used[index], false);
        assert!(was, "released pages were allocated");
    }

    fn leaf(&self, block: Block) -> Option<&[AtomicU64]> {
        let leaf = self.state.lock().unwrap().directory.get(&place(block)).copied()?;
        self.words(leaf)
    }

    fn cache_leaf(&self, block: Block, leaf: PhysAddr) {
        // No place for the highest orders, as in any directory.
        if block.order() <= Order::MAX_FOLIO {
            let known = self.state.lock().unwrap().directory.insert(place(block), leaf);
            assert!(known.is_none_or(|known| known == leaf), "a leaf never moves");
        }
    }
}

fn place(block: Block) -> (Order, u64) {
    (block.order(), Key::of(block).get() >> Geometry::BUILD.leaf_log2)
}

pub(crate) fn block(order: u8, pfn: u64) -> Block {
    Block::new(Pfn::new(pfn), Order::new(order).unwrap()).unwrap()
}

pub(crate) fn run(start: u64, frames: u64) -> Run {
    Run::new(Pfn::new(start), frames).unwrap()
}
