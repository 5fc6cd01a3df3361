//! Preserving and unpreserving: one atomic operation on a word, behind a directory hit.
//!
//! Whatever is missing of the tree is added before the first bit is set. All pages that this takes
//! are obtained before the first is linked, so an operation that fails leaves the tree, and the
//! memory around it, as they were.

use crate::addr::{Block, PhysAddr, Run};
use crate::error::Error;
use crate::sync::{Acquire, AtomicU64, Relaxed, Release};

use super::key::{Adjacent, Geometry, Key, LEAF_KEYS, LEVELS, node_start};
use super::node::{Nodes, Stock, Tables};
use super::tree::Tree;

const G: Geometry = Geometry::BUILD;

/// The root of a tree of preserved blocks. Its nodes are pages of the memory around it, which
/// every operation is given.
#[derive(Debug)]
pub(crate) struct Tracker {
    root: AtomicU64,
}

impl Tracker {
    /// A tracker without any node.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self { root: AtomicU64::new(0) }
    }

    /// A tracker without any node.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { root: AtomicU64::new(0) }
    }

    /// The tracker of a tree that exists: a predecessor's, checked.
    pub(crate) fn adopt(root: PhysAddr) -> Self {
        Self { root: AtomicU64::new(root.get()) }
    }

    /// Forgets the tree, whose pages are the caller's to free.
    pub(crate) fn forget(&self) {
        self.root.store(0, Relaxed);
    }

    /// The root node, if there is one yet.
    pub(crate) fn root(&self) -> Option<PhysAddr> {
        // Acquire pairs with the Release that linked the root: it is seen zeroed.
        match self.root.load(Acquire) {
            0 => None,
            root => Some(PhysAddr::new(root)),
        }
    }

    /// The root node, which is added if there is none.
    ///
    /// # Errors
    /// Whatever [`Nodes::allocate`] answers.
    pub(crate) fn ensure_root<N: Nodes>(&self, nodes: &N) -> Result<PhysAddr, Error> {
        if let Some(root) = self.root() {
            return Ok(root);
        }
        let mut stock = Stock::new(nodes);
        stock.add()?;
        link(&self.root, &mut stock)
    }

    /// The tree, to read.
    pub(crate) fn tree<'a, T: Tables>(&self, tables: &'a T) -> Tree<'a, T> {
        Tree::new(self.root().unwrap_or_default(), tables)
    }

    /// Whether `block` is preserved as a folio of exactly its order.
    #[inline]
    pub(crate) fn contains<N: Nodes>(&self, nodes: &N, block: Block) -> bool {
        // Acquire pairs with the Release in `preserve`: what the block's owner wrote before is
        // seen by whoever finds it preserved.
        self.word(nodes, block).is_some_and(|(word, bit)| word.load(Acquire) & bit != 0)
    }

    /// Says that `block` survives.
    ///
    /// Costs one read-modify-write where the directory knows the leaf.
    ///
    /// # Errors
    /// - [`Error::AlreadyPreserved`];
    /// - whatever [`Nodes::allocate`] answers, where the tree has to grow.
    #[inline]
    pub(crate) fn preserve<N: Nodes>(&self, nodes: &N, block: Block) -> Result<(), Error> {
        let (word, bit) = match directory(nodes, block) {
            Some(found) => found,
            None => self.word_or_grow(nodes, block)?,
        };
        // Release pairs with the Acquire of whoever finds or clears the bit: what was written to
        // the block before comes with it.
        if word.fetch_or(bit, Release) & bit == 0 {
            Ok(())
        } else {
            Err(Error::AlreadyPreserved { block })
        }
    }

    /// Says that `block` no longer survives. Of several callers at once, one succeeds.
    ///
    /// # Errors
    /// [`Error::NotPreserved`]: it is not, or not with this order.
    #[inline]
    pub(crate) fn unpreserve<N: Nodes>(&self, nodes: &N, block: Block) -> Result<(), Error> {
        let (word, bit) = self.word(nodes, block).ok_or(Error::NotPreserved { block })?;
        // Acquire pairs with the Release in `preserve`: the block is seen as its owner left it.
        if word.fetch_and(!bit, Acquire) & bit != 0 {
            Ok(())
        } else {
            Err(Error::NotPreserved { block })
        }
    }

    /// Says that the frames of `run` survive, as its few largest aligned blocks.
    ///
    /// # Errors
    /// - [`Error::AlreadyPreserved`] with the first of those blocks that is;
    /// - whatever [`Nodes::allocate`] answers, where the tree has to grow.
    pub(crate) fn preserve_run<N: Nodes>(&self, nodes: &N, run: Run) -> Result<(), Error> {
        let mut missing = false;
        for block in run.blocks() {
            match self.word(nodes, block) {
                None => missing = true,
                // Relaxed: a first look, so that a call in vain changes nothing.
                Some((word, bit)) if word.load(Relaxed) & bit != 0 => {
                    return Err(Error::AlreadyPreserved { block });
                }
                Some(_) => {}
            }
        }
        if missing {
            self.grow(nodes, run.blocks())?;
        }
        for (done, block) in run.blocks().enumerate() {
            if let Err(error) = self.preserve(nodes, block) {
                // Another call set this bit since the first look.
                for block in run.blocks().take(done) {
                    let _ours = self.unpreserve(nodes, block);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Says that the frames of `run`, preserved as one, no longer survive.
    ///
    /// # Errors
    /// [`Error::NotPreserved`] with the first of the run's largest aligned blocks that is not.
    pub(crate) fn unpreserve_run<N: Nodes>(&self, nodes: &N, run: Run) -> Result<(), Error> {
        for block in run.blocks() {
            if !self.contains(nodes, block) {
                return Err(Error::NotPreserved { block });
            }
        }
        for (done, block) in run.blocks().enumerate() {
            if let Err(error) = self.unpreserve(nodes, block) {
                // Another call cleared this bit since the first look.
                for block in run.blocks().take(done) {
                    let _ours = self.preserve(nodes, block);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Says that each of `folios` survives, as a folio of its own. Costs one read-modify-write for
    /// up to 64 of them.
    ///
    /// # Errors
    /// - [`Error::AlreadyPreserved`] with the first that is;
    /// - whatever [`Nodes::allocate`] answers, where the tree has to grow.
    pub(crate) fn preserve_adjacent<N: Nodes>(
        &self,
        nodes: &N,
        folios: Adjacent,
    ) -> Result<(), Error> {
        let (from, to) = folios.keys();
        let mut missing = false;
        self.words(nodes, from, to, |key, mask, word| {
            let Some(word) = word else {
                missing = true;
                return Ok(());
            };
            // Relaxed: a first look, so that a call in vain changes nothing.
            already(key, word.load(Relaxed) & mask)
        })?;
        if missing {
            // The first key in each leaf.
            let leaves = (node_start(from, 0)..to).step_by(LEAF_KEYS as usize);
            self.grow(nodes, leaves.filter_map(|leaf| Key::new(leaf.max(from)).block()))?;
        }
        self.words(nodes, from, to, |key, mask, word| {
            let Some(word) = word else { return Ok(()) };
            // Release as in `preserve`.
            let old = word.fetch_or(mask, Release) & mask;
            already(key, old).inspect_err(|_| {
                // Another call set some of these since the first look.
                word.fetch_and(!(mask & !old), Relaxed);
                let _done = self.words(nodes, from, key, |_, mask, word| {
                    word.map_or(Ok(()), |word| {
                        word.fetch_and(!mask, Relaxed);
                        Ok(())
                    })
                });
            })
        })
    }

    /// Says that none of `folios` survives any longer.
    ///
    /// # Errors
    /// [`Error::NotPreserved`] with the first that is not preserved.
    pub(crate) fn unpreserve_adjacent<N: Nodes>(
        &self,
        nodes: &N,
        folios: Adjacent,
    ) -> Result<(), Error> {
        let (from, to) = folios.keys();
        self.words(nodes, from, to, |key, mask, word| {
            // Relaxed: a first look, so that a call in vain changes nothing.
            not(key, mask & !word.map_or(0, |word| word.load(Relaxed)))
        })?;
        self.words(nodes, from, to, |key, mask, word| {
            let Some(word) = word else { return Ok(()) };
            // Acquire as in `unpreserve`.
            let old = word.fetch_and(!mask, Acquire) & mask;
            not(key, mask & !old).inspect_err(|_| {
                // Another call cleared some of these since the first look. Release: the bits that
                // come back carry on what their first Release published.
                word.fetch_or(old, Release);
                let _done = self.words(nodes, from, key, |_, mask, word| {
                    word.map_or(Ok(()), |word| {
                        word.fetch_or(mask, Release);
                        Ok(())
                    })
                });
            })
        })
    }

    /// Calls `f` for each word with keys of `from..to`, with the key of its bit 0, the bits that
    /// are meant, and the word unless its leaf is missing (then once for the leaf's keys together,
    /// with the bits of its first word).
    fn words<N: Nodes>(
        &self,
        nodes: &N,
        from: u64,
        to: u64,
        mut f: impl FnMut(u64, u64, Option<&AtomicU64>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut key = from;
        while key < to {
            let end = to.min(node_start(key, 0) + LEAF_KEYS);
            let Some(block) = Key::new(key).block() else { return Ok(()) };
            let leaf = self.leaf(nodes, block);
            while key < end {
                let base = key & !63;
                let mask = (!0 << (key - base)) & (!0 >> (base + 64).saturating_sub(end));
                let word = leaf.and_then(|leaf| leaf.get(Key::new(key).index(0) / 64));
                f(base, mask, word)?;
                key = if leaf.is_some() { base + 64 } else { end };
            }
        }
        Ok(())
    }

    /// The leaf that holds the key of `block`.
    #[inline]
    fn leaf<'n, N: Nodes>(&self, nodes: &'n N, block: Block) -> Option<&'n [AtomicU64]> {
        match nodes.leaf(block) {
            Some(leaf) => Some(leaf),
            None => self.walk(nodes, block),
        }
    }

    /// The word and bit of `block`, if its leaf exists.
    #[inline]
    fn word<'n, N: Nodes>(&self, nodes: &'n N, block: Block) -> Option<(&'n AtomicU64, u64)> {
        bit_in(self.leaf(nodes, block)?, block)
    }

    /// The word and bit of `block`, whose leaf the directory does not know.
    #[cold]
    #[inline(never)]
    fn word_or_grow<'n, N: Nodes>(
        &self,
        nodes: &'n N,
        block: Block,
    ) -> Result<(&'n AtomicU64, u64), Error> {
        if let Some(found) = self.word(nodes, block) {
            return Ok(found);
        }
        self.grow(nodes, core::iter::once(block))?;
        self.word(nodes, block).ok_or(Error::NotMemory { pfn: block.pfn() })
    }

    /// The leaf of `block` by way of the tree; the directory learns of it.
    #[cold]
    #[inline(never)]
    fn walk<'n, N: Nodes>(&self, nodes: &'n N, block: Block) -> Option<&'n [AtomicU64]> {
        let leaf = self.tree(nodes).leaf(Key::of(block))?;
        nodes.learn(block, leaf.addr);
        Some(leaf.words)
    }

    /// Adds every node that is missing on the way to `blocks`; on error none.
    #[cold]
    #[inline(never)]
    fn grow<N: Nodes>(
        &self,
        nodes: &N,
        blocks: impl Iterator<Item = Block> + Clone,
    ) -> Result<(), Error> {
        let mut stock = Stock::new(nodes);
        let tree = self.tree(nodes);
        let mut last = None;
        for block in blocks.clone() {
            let key = Key::of(block);
            for level in 0..(LEVELS - tree.depth(key)) as u32 {
                // A node that the block before needs as well is in stock already.
                let start = node_start(key.get(), level);
                if last.is_none_or(|last| node_start(last, level) != start) {
                    stock.add()?;
                }
            }
            last = Some(key.get());
        }
        for block in blocks {
            let mut addr = link(&self.root, &mut stock)?;
            for level in (1..G.levels).rev() {
                let entry = nodes
                    .words(addr)
                    .and_then(|words| words.get(Key::of(block).index(level)))
                    .ok_or(Error::NotMemory { pfn: addr.pfn() })?;
                addr = link(entry, &mut stock)?;
            }
            nodes.learn(block, addr);
        }
        Ok(())
    }
}

/// The node that `entry` points at; one from `stock` if there was none.
fn link<N: Nodes>(entry: &AtomicU64, stock: &mut Stock<'_, N>) -> Result<PhysAddr, Error> {
    // Acquire pairs with the Release below, in whoever linked the node: it is seen zeroed.
    let found = entry.load(Acquire);
    if found != 0 {
        return Ok(PhysAddr::new(found));
    }
    let page = match stock.take() {
        Some(page) => page,
        None => {
            stock.add()?;
            stock.take().unwrap_or_default()
        }
    };
    // Release pairs with every Acquire that follows an entry: the page's zeroes come first, for a
    // successor too. Acquire on failure pairs with the winner's Release.
    match entry.compare_exchange(0, page.get(), Release, Acquire) {
        Ok(_) => Ok(page),
        Err(winner) => {
            stock.put(page)?;
            Ok(PhysAddr::new(winner))
        }
    }
}

/// The word and bit of `block` in a leaf that the directory knows.
#[inline]
fn directory<N: Nodes>(nodes: &N, block: Block) -> Option<(&AtomicU64, u64)> {
    bit_in(nodes.leaf(block)?, block)
}

#[inline]
fn bit_in(leaf: &[AtomicU64], block: Block) -> Option<(&AtomicU64, u64)> {
    let (word, bit) = Key::of(block).bit();
    Some((leaf.get(word)?, bit))
}

/// The block of the lowest of `bits` in the word that starts with `key`.
fn lowest(key: u64, bits: u64) -> Option<Block> {
    if bits == 0 { None } else { Key::new(key + u64::from(bits.trailing_zeros())).block() }
}

fn already(key: u64, bits: u64) -> Result<(), Error> {
    lowest(key, bits).map_or(Ok(()), |block| Err(Error::AlreadyPreserved { block }))
}

fn not(key: u64, bits: u64) -> Result<(), Error> {
    lowest(key, bits).map_or(Ok(()), |block| Err(Error::NotPreserved { block }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::super::key::WORDS;
    use super::super::ram::{Ram, block, run};
    use super::*;
    use crate::addr::{Order, Pfn};

    fn adjacent(order: u8, pfn: u64, count: u64) -> Adjacent {
        Adjacent::new(block(order, pfn), count).unwrap()
    }

    #[test]
    fn a_block_is_preserved_once() {
        let ram = Ram::new(16);
        let tracker = Tracker::new();
        let b = block(3, 8);
        assert_eq!(tracker.unpreserve(&ram, b), Err(Error::NotPreserved { block: b }));
        assert_eq!(ram.used(), 0);
        tracker.preserve(&ram, b).unwrap();
        assert!(tracker.contains(&ram, b));
        assert!(!tracker.contains(&ram, block(2, 8)));
        assert_eq!(tracker.preserve(&ram, b), Err(Error::AlreadyPreserved { block: b }));
        tracker.unpreserve(&ram, b).unwrap();
        assert_eq!(tracker.unpreserve(&ram, b), Err(Error::NotPreserved { block: b }));
        assert_eq!(ram.used(), LEVELS);
    }

    #[test]
    fn a_path_costs_one_node_a_level_and_is_shared() {
        let ram = Ram::new(32);
        let tracker = Tracker::new();
        let root = tracker.ensure_root(&ram).unwrap();
        assert_eq!(tracker.ensure_root(&ram), Ok(root));
        assert_eq!(ram.used(), 1);
        tracker.preserve(&ram, block(0, 5)).unwrap();
        assert_eq!(ram.used(), LEVELS);
        tracker.preserve(&ram, block(0, 6)).unwrap();
        assert_eq!(ram.used(), LEVELS);
        tracker.preserve(&ram, block(0, LEAF_KEYS)).unwrap();
        assert_eq!(ram.used(), LEVELS + 1);
        assert_eq!(tracker.root(), Some(root));
    }

    #[test]
    fn the_directory_stands_in_for_the_walk() {
        let ram = Ram::new(16);
        let tracker = Tracker::new();
        tracker.preserve(&ram, block(0, 5)).unwrap();
        let known = ram.leaf(block(0, 6)).unwrap();
        assert_eq!(known[0].load(Relaxed), 1 << 5);
        // A tracker over the same tree, which has to walk once.
        ram.forget();
        assert!(ram.leaf(block(0, 5)).is_none());
        let second = Tracker::adopt(tracker.root().unwrap());
        assert!(second.contains(&ram, block(0, 5)));
        assert!(ram.leaf(block(0, 5)).is_some());
    }

    #[test]
    fn a_run_is_kept_as_its_few_largest_blocks() {
        let ram = Ram::new(64);
        let tracker = Tracker::new();
        tracker.preserve_run(&ram, run(3, 14)).unwrap();
        let folios: Vec<_> = tracker.tree(&ram).folios().collect();
        assert_eq!(folios, [block(3, 8), block(2, 4), block(0, 3), block(0, 16)]);
        let wrong = tracker.unpreserve_run(&ram, run(3, 13));
        assert_eq!(wrong, Ok(()));
        assert_eq!(tracker.tree(&ram).folios().collect::<Vec<_>>(), [block(0, 16)]);
    }

    #[test]
    fn sixteen_gibibytes_are_one_key() {
        let ram = Ram::new(16);
        let tracker = Tracker::new();
        tracker.preserve_run(&ram, run(1 << 22, 1 << 22)).unwrap();
        assert_eq!(tracker.tree(&ram).counts().folios(Order::new(22).unwrap()), 1);
        assert_eq!(tracker.tree(&ram).folios().count(), 1);
    }

    #[test]
    fn a_run_that_meets_a_preserved_block_changes_nothing() {
        let ram = Ram::new(64);
        let tracker = Tracker::new();
        tracker.preserve(&ram, block(3, 8)).unwrap();
        let used = ram.used();
        let refused = tracker.preserve_run(&ram, run(3, 14));
        assert_eq!(refused, Err(Error::AlreadyPreserved { block: block(3, 8) }));
        let refused = tracker.unpreserve_run(&ram, run(8, 9));
        assert_eq!(refused, Err(Error::NotPreserved { block: block(0, 16) }));
        assert_eq!(tracker.tree(&ram).folios().collect::<Vec<_>>(), [block(3, 8)]);
        assert_eq!(ram.used(), used);
    }

    #[test]
    fn adjacent_folios_stay_folios() {
        let ram = Ram::new(64);
        let tracker = Tracker::new();
        let many = adjacent(1, 100, LEAF_KEYS + 3);
        tracker.preserve_adjacent(&ram, many).unwrap();
        assert_eq!(tracker.tree(&ram).counts().folios(Order::new(1).unwrap()), LEAF_KEYS + 3);
        assert!(!tracker.contains(&ram, block(1, 98)));
        assert!(tracker.contains(&ram, block(1, 100)));
        let last = 100 + 2 * (LEAF_KEYS + 2);
        assert!(tracker.contains(&ram, block(1, last)));
        assert!(!tracker.contains(&ram, block(1, last + 2)));
        let refused = tracker.preserve_adjacent(&ram, adjacent(1, last - 2, 9));
        assert_eq!(refused, Err(Error::AlreadyPreserved { block: block(1, last - 2) }));
        let refused = tracker.unpreserve_adjacent(&ram, adjacent(1, 100, LEAF_KEYS + 4));
        assert_eq!(refused, Err(Error::NotPreserved { block: block(1, last + 2) }));
        tracker.unpreserve_adjacent(&ram, adjacent(1, 102, LEAF_KEYS + 2)).unwrap();
        assert_eq!(tracker.tree(&ram).folios().collect::<Vec<_>>(), [block(1, 100)]);
        let refused = tracker.unpreserve_adjacent(&ram, adjacent(0, 1 << 30, 500));
        assert_eq!(refused, Err(Error::NotPreserved { block: block(0, 1 << 30) }));
    }

    #[test]
    fn no_folios_and_no_frames_are_nothing() {
        let ram = Ram::new(0);
        let tracker = Tracker::new();
        tracker.preserve_run(&ram, run(7, 0)).unwrap();
        tracker.preserve_adjacent(&ram, adjacent(0, 7, 0)).unwrap();
        tracker.unpreserve_run(&ram, run(7, 0)).unwrap();
        tracker.unpreserve_adjacent(&ram, adjacent(0, 7, 0)).unwrap();
        assert_eq!(tracker.root(), None);
    }

    #[test]
    fn out_of_memory_at_any_node_leaves_everything_as_before() {
        type Operation = fn(&Tracker, &Ram) -> Result<(), Error>;
        let operations: [Operation; 4] = [
            |t, ram| t.ensure_root(ram).map(|_| ()),
            |t, ram| t.preserve(ram, block(0, 1 << 40)),
            |t, ram| t.preserve_run(ram, run(1, (1 << 30) + 77)),
            |t, ram| t.preserve_adjacent(ram, adjacent(0, 9, 3 * LEAF_KEYS)),
        ];
        for operation in operations {
            for before in [0, 1] {
                let mut tries = 0;
                loop {
                    let ram = Ram::new(300);
                    let tracker = Tracker::new();
                    if before == 1 {
                        tracker.preserve(&ram, block(0, 3)).unwrap();
                    }
                    let (used, root) = (ram.used(), tracker.root());
                    ram.fail_after(tries);
                    let result = operation(&tracker, &ram);
                    if result.is_ok() {
                        break;
                    }
                    assert_eq!(result, Err(ram.full()));
                    assert_eq!((ram.used(), tracker.root()), (used, root), "after {tries}");
                    assert_eq!(tracker.tree(&ram).folios().count(), before);
                    ram.fail_after(usize::MAX);
                    operation(&tracker, &ram).unwrap();
                    tries += 1;
                }
                assert!(tries > 0 || before == 1, "some node was needed");
            }
        }
    }

    #[test]
    fn the_highest_frames_can_be_preserved() {
        let ram = Ram::new(400);
        let tracker = Tracker::new();
        let top = run(Pfn::LIMIT.get() - 7, 7);
        tracker.preserve_run(&ram, top).unwrap();
        let last = Adjacent::new(block(4, Pfn::LIMIT.get() - 16 * 65), 64).unwrap();
        tracker.preserve_adjacent(&ram, last).unwrap();
        assert_eq!(tracker.tree(&ram).counts().frames(), 7 + 64 * 16);
        tracker.preserve_run(&ram, run(0, 1 << 40)).unwrap();
        tracker.unpreserve_run(&ram, top).unwrap();
        assert!(ram.words(tracker.root().unwrap()).unwrap().len() == WORDS);
    }
}
