//! A predecessor's tree, which may be any bytes at all.
//!
//! The check goes down the tree once. Whatever it comes upon, a node or a preserved block, must be
//! taken from a ledger of frames before it is looked into; a frame can be taken once. So a cycle, a
//! node with two parents, a node inside a preserved folio and two folios over the same frame are
//! all one error, and the work is bounded by the frames there are.
//!
//! There is one walk. [`check`] stops at the first fault, as a kernel that builds on the tree must;
//! [`survey`], for a tool that tells all that is wrong, hands each fault to its caller and passes
//! over what it concerns.

use super::counts::Counts;
use super::fault::{TreeError, TreeFault};
use super::key::{Geometry, Key, order_of};
use super::read::Node;
use super::tables::Tables;
use super::walk::summary;
use crate::addr::{Block, Order, Pfn, PhysAddr, Run};
use crate::narrow::{u32_to_u8, u32_to_usize, usize_to_u32, usize_to_u64};
use crate::prefetch::prefetch;
use crate::sync::Relaxed;

/// The order of 64 words of frames.
const WORDS: Order = match Order::new(12) {
    Some(order) => order,
    None => Order::ZERO,
};

/// Keeps account of which frames are taken, as far as a check has come.
pub trait Ledger {
    /// Takes the frames of `block`, none of which may be taken already.
    ///
    /// # Errors
    /// - [`TreeFault::OutsideMemory`]: not all of them are in memory;
    /// - [`TreeFault::Overlap`]: some are taken, or cannot be preserved where they lie (in scratch).
    ///
    /// What was taken before an error stays taken.
    fn take(&mut self, block: Block) -> Result<(), TreeFault>;

    /// Takes, as [`Ledger::take`] does, the page of a node: for a ledger that tells nodes from preserved blocks.
    ///
    /// # Errors
    /// As for [`Ledger::take`], which is what it does unless a ledger says otherwise.
    fn take_node(&mut self, node: Block) -> Result<(), TreeFault> {
        self.take(node)
    }

    /// Says that `area` is scratch: none of its frames may be taken. For ledgers that do not know
    /// by themselves; this one does nothing.
    fn keep_out(&mut self, area: Run) {
        let _ = area;
    }

    /// Says that a table names `block`, which is preserved, as its own: whether it is the first to.
    /// For ledgers that find what two tables name; this one lets all of them.
    fn claim(&mut self, block: Block) -> bool {
        let _ = block;
        true
    }

    /// Takes frame `first + i` for each set bit `i` of `frames`; `first` is a multiple of 64.
    ///
    /// What is taken is a word of a bitmap of frames: a ledger that is one can take it at once.
    ///
    /// # Errors
    /// As for [`Ledger::take`], with the lowest bit at fault; those below it are taken.
    fn take_word(&mut self, first: Pfn, frames: u64) -> Result<(), (u32, TreeFault)> {
        let mut rest = frames;
        while rest != 0 {
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            let block = Block::containing(first.add(u64::from(bit)), Order::ZERO);
            self.take(block).map_err(|fault| (bit, fault))?;
        }
        Ok(())
    }

    /// Takes `block`, which is 4096 frames that are preserved one by one, at once if it can: whether
    /// it did. If not, nothing is taken, and they come word by word.
    fn take_full(&mut self, block: Block) -> bool {
        let _ = block;
        false
    }

    /// The check came upon `leaf`, which holds the keys of the blocks of `first`'s order from
    /// `first` on, and no other order's, and is not empty: something for a directory of leaves to
    /// remember.
    fn leaf(&mut self, first: Block, leaf: PhysAddr) {
        let _ = (first, leaf);
    }

    /// The check came upon a node below the root that leads to nothing that is preserved.
    fn empty_node(&mut self) {}
}

/// Checks the tree at `root`, each byte of it, and takes its nodes and every block that it
/// preserves from `ledger`.
///
/// # Errors
/// The first fault, with the node, the level and the entry (for the root itself: entry 0):
/// - [`TreeFault::Misaligned`]: an entry is not the address of a page;
/// - [`TreeFault::OutsideMemory`]: a node or a block is not in memory;
/// - [`TreeFault::Overlap`]: a frame would have two uses;
/// - [`TreeFault::NoKey`]: an entry or a bit lies where no block's key leads.
///
/// # Examples
/// ```
/// use heirloom_kho::tree::{Ledger, Tables, TreeFault, check};
/// use heirloom_kho::{Block, PhysAddr};
/// use std::sync::atomic::AtomicU64;
///
/// struct Nothing;
/// impl Tables for Nothing {
///     fn words(&self, _: PhysAddr) -> Option<&[AtomicU64]> {
///         None
///     }
/// }
/// impl Ledger for Nothing {
///     fn take(&mut self, block: Block) -> Result<(), TreeFault> {
///         Err(TreeFault::OutsideMemory { addr: block.addr() })
///     }
/// }
///
/// let error = check(PhysAddr::new(0x1_0000), &Nothing, &mut Nothing).unwrap_err();
/// assert_eq!(error.reason, TreeFault::OutsideMemory { addr: PhysAddr::new(0x1_0000) });
/// ```
pub fn check<T, L>(root: PhysAddr, tables: &T, ledger: &mut L) -> Result<Counts, TreeError>
where
    T: Tables + ?Sized,
    L: Ledger + ?Sized,
{
    survey(root, tables, ledger, Err)
}

/// Checks the tree at `root` as [`check`] does, and hands every fault to `found`: `Ok` goes on
/// without the entry or the block at fault, an error of `found` ends it.
///
/// What lies below an entry at fault is not looked at. Returns what is in the rest of the tree.
/// A node is looked into once, so the faults are bounded by the frames that `ledger` gives: at most
/// one for each entry or bit of each node.
///
/// # Errors
/// The first error of `found`.
///
/// # Examples
/// ```
/// use heirloom_kho::tree::{Ledger, Tables, TreeFault, survey};
/// use heirloom_kho::{Block, PAGE_SIZE, PhysAddr};
/// use std::sync::atomic::AtomicU64;
///
/// /// A root whose first two entries lead nowhere.
/// struct Root(Vec<AtomicU64>);
/// const AT: PhysAddr = PhysAddr::new(0x10_0000);
/// impl Tables for Root {
///     fn words(&self, node: PhysAddr) -> Option<&[AtomicU64]> {
///         (node == AT).then_some(&self.0)
///     }
/// }
/// struct Anything;
/// impl Ledger for Anything {
///     fn take(&mut self, _: Block) -> Result<(), TreeFault> {
///         Ok(())
///     }
/// }
///
/// let mut words: Vec<_> = (0..PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect();
/// words[0] = AtomicU64::new(7);
/// words[1] = AtomicU64::new(0x40_0000);
/// let mut faults = Vec::new();
/// let counts = survey(AT, &Root(words), &mut Anything, |fault| {
///     faults.push(fault.reason);
///     Ok::<_, ()>(())
/// });
/// assert_eq!(counts.unwrap().nodes(), 1);
/// let addr = PhysAddr::new(0x40_0000);
/// assert_eq!(faults, [TreeFault::Misaligned { entry: 7 }, TreeFault::OutsideMemory { addr }]);
/// ```
pub fn survey<T, L, E>(
    root: PhysAddr,
    tables: &T,
    ledger: &mut L,
    found: impl FnMut(TreeError) -> Result<(), E>,
) -> Result<Counts, E>
where
    T: Tables + ?Sized,
    L: Ledger + ?Sized,
{
    let mut counts = Counts::NONE;
    Check { tables, ledger, found, counts: &mut counts }.tree(root)?;
    Ok(counts)
}

/// Checks the tree at `root` as [`check`] does, and adds what is in it to `counts`.
///
/// # Errors
/// As for [`check`].
pub fn check_counting<T, L>(
    root: PhysAddr,
    tables: &T,
    ledger: &mut L,
    counts: &mut Counts,
) -> Result<(), TreeError>
where
    T: Tables + ?Sized,
    L: Ledger + ?Sized,
{
    Check { tables, ledger, found: Err, counts }.tree(root)
}

struct Check<'a, T: ?Sized, L: ?Sized, F> {
    tables: &'a T,
    ledger: &'a mut L,
    found: F,
    counts: &'a mut Counts,
}

impl<'a, T, L, F, E> Check<'a, T, L, F>
where
    T: Tables + ?Sized,
    L: Ledger + ?Sized,
    F: FnMut(TreeError) -> Result<(), E>,
{
    #[inline]
    fn geometry(&self) -> Geometry {
        Geometry::of(self.tables.page_size())
    }

    /// Checks the root, and what lies below it.
    fn tree(&mut self, root: PhysAddr) -> Result<(), E> {
        let level = self.geometry().levels - 1;
        match self.enter(root.get(), 0, level) {
            Ok(node) => self.visit(node, level).map(|_| ()),
            Err(reason) => {
                (self.found)(TreeError { node: root, level: u32_to_u8(level), index: 0, reason })
            }
        }
    }

    /// Takes the node of `level` that `entry` points at; its first key is `first`.
    fn enter(&mut self, entry: u64, first: u64, level: u32) -> Result<Node<'a>, TreeFault> {
        let addr = PhysAddr::new(entry);
        let page = self.tables.page_size();
        if !page.is_aligned(addr) {
            return Err(TreeFault::Misaligned { entry });
        }
        // An entry of zero is no entry, so only a root can get this far with it.
        if entry == 0 {
            return Err(TreeFault::OutsideMemory { addr });
        }
        self.ledger.take_node(page.page_of(addr.pfn()))?;
        let words = self.tables.words(addr).ok_or(TreeFault::OutsideMemory { addr })?;
        self.counts.add_node(u32_to_u8(level));
        Ok(Node { addr, first, words })
    }

    /// Returns what lies below a node that was taken: whether anything does. It calls itself once
    /// for each level at most.
    fn visit(&mut self, at: Node<'a>, level: u32) -> Result<bool, E> {
        if level == 0 {
            return self.leaf(at);
        }
        let g = self.geometry();
        let mut some = false;
        for (index, entry) in at.words.iter().enumerate() {
            // Relaxed: the kernel that wrote the tree is gone.
            let entry = entry.load(Relaxed);
            if entry == 0 {
                continue;
            }
            let fault = |reason| TreeError {
                node: at.addr,
                level: u32_to_u8(level),
                index: usize_to_u32(index),
                reason,
            };
            let first = at.first + (usize_to_u64(index) << g.shift(level));
            if first >= g.key_limit() {
                (self.found)(fault(TreeFault::NoKey))?;
                continue;
            }
            match self.enter(entry, first, level - 1) {
                Ok(below) if self.visit(below, level - 1)? => some = true,
                Ok(_) => self.ledger.empty_node(),
                Err(reason) => {
                    (self.found)(fault(reason))?;
                    some = true;
                }
            }
        }
        Ok(some)
    }

    /// Returns a frame of its own: [`Check::visit`] has one for each level.
    #[inline(never)]
    fn leaf(&mut self, at: Node<'a>) -> Result<bool, E> {
        let mut any = false;
        for (n, words) in at.words.chunks(64).enumerate() {
            // The next 64, a line each time: they come while these are looked at.
            at.words.iter().skip((n + 1) * 64).step_by(8).take(8).for_each(prefetch);
            let (mut some, full) = summary(words);
            any |= full || some != 0;
            if full && self.full(at.first + usize_to_u64(n) * 4096) {
                continue;
            }
            while some != 0 {
                let i = some.trailing_zeros();
                some &= some - 1;
                let index = usize_to_u32(n) * 64 + i;
                let mut rest = words.get(u32_to_usize(i)).map_or(0, |word| word.load(Relaxed));
                while rest != 0 {
                    let key = at.first + u64::from(index) * 64;
                    let Err((bit, reason)) = self.blocks(key, rest) else { break };
                    let index = index * 64 + bit;
                    (self.found)(TreeError { node: at.addr, level: 0, index, reason })?;
                    // Those below the one at fault are taken.
                    rest &= u64::MAX.unbounded_shl(bit + 1);
                }
            }
        }
        // A leaf of keys above its own width has one order; the very first has all the others.
        if let Some(block) = Key::new(at.first).block()
            && at.first >= self.geometry().leaf_keys()
            && any
        {
            self.ledger.leaf(block, at.addr);
        }
        Ok(any)
    }

    /// Takes the 4096 blocks from `key` on, each of which is preserved, if they are frames and the
    /// ledger can.
    fn full(&mut self, key: u64) -> bool {
        let first = Key::new(key).block().filter(|first| first.order() == Order::ZERO);
        let block = first.and_then(|first| Block::new(first.pfn(), WORDS));
        let taken = block.is_some_and(|block| self.ledger.take_full(block));
        if taken {
            self.counts.add_folios(Order::ZERO, WORDS.frames());
        }
        taken
    }

    /// Takes the blocks of a leaf's word, whose bit 0 is `key`. Those below the bit of an error
    /// are taken and counted.
    fn blocks(&mut self, key: u64, word: u64) -> Result<(), (u32, TreeFault)> {
        if let Some(first) = Key::new(key).block()
            && key >= 64
            && first.order() == Order::ZERO
        {
            let taken = self.ledger.take_word(first.pfn(), word);
            let below = taken.map_or_else(|(bit, _)| (1 << bit) - 1, |()| u64::MAX);
            self.counts.add_folios(Order::ZERO, u64::from((word & below).count_ones()));
            return taken;
        }
        let mut rest = word;
        while rest != 0 {
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            let key = key + u64::from(bit);
            let block = Key::new(key).block().ok_or((bit, TreeFault::NoKey))?;
            self.ledger.take(block).map_err(|fault| (bit, fault))?;
            self.counts.add_folios(order_of(key), 1);
        }
        Ok(())
    }
}
