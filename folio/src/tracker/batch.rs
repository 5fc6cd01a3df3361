//! Many blocks at once: runs as their few largest blocks, rows of folios by words.
//!
//! All or nothing. A first look finds what is preserved already (or is not), before anything
//! changes, so a call in vain is never visible, to a successor neither. Only where two calls about
//! the same block race does the loser take back what it did.

use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::sync::{AcqRel, AtomicU64, Relaxed, Release};
use heirloom_kho::tree::{FolioRange, Key, LEAF_KEYS, node_start};
use heirloom_kho::{Block, Run};

use super::grow::{LeafBit, Tracker};
use super::node::NodeAlloc;
use crate::error::Error;

impl Tracker {
    /// Says that the frames of `run` survive, as its few largest aligned blocks.
    ///
    /// # Errors
    /// - [`Error::AlreadyPreserved`] with the first of those blocks that is;
    /// - whatever [`NodeAlloc::allocate`] answers, where the tree has to grow.
    pub(crate) fn preserve_run<N: NodeAlloc>(&self, nodes: &N, run: Run) -> Result<(), Error> {
        if let Some(block) = run.as_block() {
            return self.preserve(nodes, block);
        }
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
                self.unpreserve_first(nodes, run, done);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Says that the frames of `run` survive, as [`Tracker::preserve_run`] does, which looks at all of them first only
    /// where a leaf is not known: of a run that the caller allocated just now none is preserved.
    ///
    /// # Errors
    /// As for [`Tracker::preserve_run`].
    pub(crate) fn preserve_new_run<N: NodeAlloc>(&self, nodes: &N, run: Run) -> Result<(), Error> {
        for (done, block) in run.blocks().enumerate() {
            let preserved = LeafBit::known(nodes, block).map(|leaf_bit| leaf_bit.preserve(block));
            if preserved != Some(Ok(())) {
                self.unpreserve_first(nodes, run, done);
                return preserved.unwrap_or_else(|| self.preserve_run(nodes, run));
            }
        }
        Ok(())
    }

    /// Takes back that the first `count` blocks of `run` survive.
    #[cold]
    fn unpreserve_first<N: NodeAlloc>(&self, nodes: &N, run: Run, count: usize) {
        for block in run.blocks().take(count) {
            let _ours = self.unpreserve(nodes, block);
        }
    }

    /// Says that the frames of `run`, preserved as one, no longer survive.
    ///
    /// # Errors
    /// [`Error::NotPreserved`] with the first of the run's largest aligned blocks that is not.
    pub(crate) fn unpreserve_run<N: NodeAlloc>(&self, nodes: &N, run: Run) -> Result<(), Error> {
        if let Some(block) = run.as_block() {
            return self.unpreserve(nodes, block);
        }
        for block in run.blocks() {
            if !self.contains(nodes, block) {
                return Err(Error::NotPreserved { block });
            }
        }
        self.unpreserve_each(nodes, run)
    }

    /// Says that the frames of `run` no longer survive, as [`Tracker::unpreserve_run`] does, without a look first:
    /// all of them were preserved by the caller.
    ///
    /// # Errors
    /// As for [`Tracker::unpreserve_run`]. What was let go by then is preserved again.
    pub(crate) fn unpreserve_each<N: NodeAlloc>(&self, nodes: &N, run: Run) -> Result<(), Error> {
        for (done, block) in run.blocks().enumerate() {
            if let Err(error) = self.unpreserve(nodes, block) {
                // It was clear before, or since a first look, by another call.
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
    /// - whatever [`NodeAlloc::allocate`] answers, where the tree has to grow.
    pub(crate) fn preserve_range<N: NodeAlloc>(
        &self,
        nodes: &N,
        folios: FolioRange,
    ) -> Result<(), Error> {
        if let Some((word, mask)) = self.one_word(nodes, folios)
            && word.load(Relaxed) & mask == 0
        {
            // Release as in `preserve`.
            let old = word.fetch_or(mask, Release) & mask;
            return already(word_start(Key::of(folios.first())), old).inspect_err(|_| {
                // Another call set some of these since the look.
                word.fetch_and(!(mask & !old), Relaxed);
            });
        }
        let (from, to) = keys(folios);
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
            let leaves = (node_start(from.get(), 0)..to.get()).step_by(u64_to_usize(LEAF_KEYS));
            self.grow(nodes, leaves.filter_map(|leaf| Key::new(leaf).max(from).block()))?;
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
    pub(crate) fn unpreserve_range<N: NodeAlloc>(
        &self,
        nodes: &N,
        folios: FolioRange,
    ) -> Result<(), Error> {
        if let Some((word, mask)) = self.one_word(nodes, folios)
            && !word.load(Relaxed) & mask == 0
        {
            // AcqRel as in `unpreserve`.
            let old = word.fetch_and(!mask, AcqRel) & mask;
            return not(word_start(Key::of(folios.first())), mask & !old).inspect_err(|_| {
                // Another call cleared some of these since the look. Release as below.
                word.fetch_or(old, Release);
            });
        }
        let (from, to) = keys(folios);
        self.words(nodes, from, to, |key, mask, word| {
            // Relaxed: a first look, so that a call in vain changes nothing.
            not(key, mask & !word.map_or(0, |word| word.load(Relaxed)))
        })?;
        self.words(nodes, from, to, |key, mask, word| {
            let Some(word) = word else { return Ok(()) };
            // AcqRel as in `unpreserve`.
            let old = word.fetch_and(!mask, AcqRel) & mask;
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

    /// Returns the word that holds the keys of all of `folios`, if one does and its leaf exists, and their
    /// bits in it.
    #[inline]
    fn one_word<'n, N: NodeAlloc>(
        &self,
        nodes: &'n N,
        folios: FolioRange,
    ) -> Option<(&'n AtomicU64, u64)> {
        let (from, to) = folios.keys();
        let (first, count) = (from & 63, to.checked_sub(from)?);
        if count == 0 || first + count > 64 {
            return None;
        }
        let word = self.leaf(nodes, folios.first())?.get(Key::new(from).index(0) / 64)?;
        Some((word, (!0 >> (64 - count)) << first))
    }

    /// Calls `f` for each word with keys of `from..to`, with the key of its bit 0, the bits that
    /// are meant, and the word unless its leaf is missing (then once for the leaf's keys together,
    /// with the bits of its first word).
    fn words<N: NodeAlloc>(
        &self,
        nodes: &N,
        from: Key,
        to: Key,
        mut f: impl FnMut(Key, u64, Option<&AtomicU64>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut key = from;
        while key < to {
            let end = to.get().min(node_start(key.get(), 0) + LEAF_KEYS);
            let Some(block) = key.block() else { return Ok(()) };
            let leaf = self.leaf(nodes, block);
            while key.get() < end {
                let base = word_start(key);
                let next = base.get() + 64;
                let mask = (!0 << (key.get() - base.get())) & (!0 >> next.saturating_sub(end));
                let word = leaf.and_then(|leaf| leaf.get(key.index(0) / 64));
                f(base, mask, word)?;
                key = Key::new(if leaf.is_some() { next } else { end });
            }
        }
        Ok(())
    }
}

/// Returns the block of the lowest of `bits` in the word that starts with `key`.
fn lowest(key: Key, bits: u64) -> Option<Block> {
    if bits == 0 { None } else { Key::new(key.get() + u64::from(bits.trailing_zeros())).block() }
}

/// Returns the key that is bit 0 of the word of `key`.
const fn word_start(key: Key) -> Key {
    Key::new(key.get() & !63)
}

/// Returns the keys of the folios: the first and one past the last.
const fn keys(folios: FolioRange) -> (Key, Key) {
    let (from, to) = folios.keys();
    (Key::new(from), Key::new(to))
}

fn already(key: Key, bits: u64) -> Result<(), Error> {
    lowest(key, bits).map_or(Ok(()), |block| Err(Error::AlreadyPreserved { block }))
}

fn not(key: Key, bits: u64) -> Result<(), Error> {
    lowest(key, bits).map_or(Ok(()), |block| Err(Error::NotPreserved { block }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use heirloom_kho::{Order, Pfn};

    use super::super::ram::{Ram, block, run};
    use super::*;

    fn adjacent(order: u8, pfn: u64, count: u64) -> FolioRange {
        FolioRange::new(block(order, pfn), count).unwrap()
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
        tracker.preserve_range(&ram, many).unwrap();
        assert_eq!(tracker.tree(&ram).counts().folios(Order::new(1).unwrap()), LEAF_KEYS + 3);
        assert!(!tracker.contains(&ram, block(1, 98)));
        assert!(tracker.contains(&ram, block(1, 100)));
        let last = 100 + 2 * (LEAF_KEYS + 2);
        assert!(tracker.contains(&ram, block(1, last)));
        assert!(!tracker.contains(&ram, block(1, last + 2)));
        let refused = tracker.preserve_range(&ram, adjacent(1, last - 2, 9));
        assert_eq!(refused, Err(Error::AlreadyPreserved { block: block(1, last - 2) }));
        let refused = tracker.unpreserve_range(&ram, adjacent(1, 100, LEAF_KEYS + 4));
        assert_eq!(refused, Err(Error::NotPreserved { block: block(1, last + 2) }));
        tracker.unpreserve_range(&ram, adjacent(1, 102, LEAF_KEYS + 2)).unwrap();
        assert_eq!(tracker.tree(&ram).folios().collect::<Vec<_>>(), [block(1, 100)]);
        let refused = tracker.unpreserve_range(&ram, adjacent(0, 1 << 30, 500));
        assert_eq!(refused, Err(Error::NotPreserved { block: block(0, 1 << 30) }));
    }

    #[test]
    fn no_folios_and_no_frames_are_nothing() {
        let ram = Ram::new(0);
        let tracker = Tracker::new();
        tracker.preserve_run(&ram, run(7, 0)).unwrap();
        tracker.preserve_range(&ram, adjacent(0, 7, 0)).unwrap();
        tracker.unpreserve_run(&ram, run(7, 0)).unwrap();
        tracker.unpreserve_range(&ram, adjacent(0, 7, 0)).unwrap();
        assert_eq!(tracker.root(), None);
    }

    #[test]
    fn out_of_memory_at_any_node_leaves_everything_as_before() {
        type Operation = fn(&Tracker, &Ram) -> Result<(), Error>;
        let operations: [Operation; 4] = [
            |t, ram| t.ensure_root(ram).map(|_| ()),
            |t, ram| t.preserve(ram, block(0, 1 << 40)),
            |t, ram| t.preserve_run(ram, run(1, (1 << 30) + 77)),
            |t, ram| t.preserve_range(ram, adjacent(0, 9, 3 * LEAF_KEYS)),
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
        let last = FolioRange::new(block(4, Pfn::LIMIT.get() - 16 * 65), 64).unwrap();
        tracker.preserve_range(&ram, last).unwrap();
        assert_eq!(tracker.tree(&ram).counts().frames(), 7 + 64 * 16);
        tracker.preserve_run(&ram, run(0, 1 << 40)).unwrap();
        tracker.unpreserve_run(&ram, top).unwrap();
    }
}
