//! A predecessor's tree, which may be any bytes at all.
//!
//! The check goes down the tree once. Whatever it comes upon, a node or a preserved block, must be
//! taken from a ledger of frames before it is looked into; a frame can be taken once. So a cycle, a
//! node with two parents, a node inside a preserved folio and two folios over the same frame are
//! all one error, and the work is bounded by the frames there are.

use crate::addr::{Block, Order, Pfn, PhysAddr};
use crate::error::{TreeError, TreeFault};
use crate::sync::Relaxed;

use super::counts::Counts;
use super::key::{Geometry, KEY_LIMIT, Key, LEAF_KEYS, order_of};
use super::node::Tables;
use super::tree::Node;

const G: Geometry = Geometry::BUILD;

/// Who owns which frame, as far as a check has come.
pub trait Ledger {
    /// Takes the frames of `block`, none of which may be taken already.
    ///
    /// # Errors
    /// - [`TreeFault::OutsideMemory`]: not all of them are in memory;
    /// - [`TreeFault::Overlap`]: some are taken, or cannot be preserved where they lie (in scratch).
    ///
    /// An error ends the check; what was taken before stays taken.
    fn take(&mut self, block: Block) -> Result<(), TreeFault>;

    /// Takes frame `first + i` for each set bit `i` of `frames`; `first` is a multiple of 64.
    ///
    /// What is taken is a word of a bitmap of frames: a ledger that is one can take it at once.
    ///
    /// # Errors
    /// As for [`Ledger::take`], with the lowest bit at fault.
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

    /// The check came upon `leaf`, which holds the keys of the blocks of `first`'s order from
    /// `first` on, and no other order's: something for a directory of leaves to remember.
    fn leaf(&mut self, first: Block, leaf: PhysAddr) {
        let _ = (first, leaf);
    }
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
/// use heirloom_folio::tracker::{Ledger, Tables, check};
/// use heirloom_folio::{Block, PhysAddr, TreeFault};
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
    let mut check = Check { tables, ledger, counts: Counts::NONE };
    let level = G.levels - 1;
    let fault = |reason| TreeError { node: root, level: level as u8, index: 0, reason };
    let node = check.enter(root.get(), 0, level).map_err(fault)?;
    check.visit(node, level)?;
    Ok(check.counts)
}

struct Check<'a, T: ?Sized, L: ?Sized> {
    tables: &'a T,
    ledger: &'a mut L,
    counts: Counts,
}

impl<'a, T: Tables + ?Sized, L: Ledger + ?Sized> Check<'a, T, L> {
    /// Takes the node of `level` that `entry` points at; its first key is `first`.
    fn enter(&mut self, entry: u64, first: u64, level: u32) -> Result<Node<'a>, TreeFault> {
        let addr = PhysAddr::new(entry);
        if !addr.is_page_aligned() {
            return Err(TreeFault::Misaligned { entry });
        }
        // An entry of zero is no entry, so only a root can get this far with it.
        if entry == 0 {
            return Err(TreeFault::OutsideMemory { addr });
        }
        self.ledger.take(Block::containing(addr.pfn(), Order::ZERO))?;
        let words = self.tables.words(addr).ok_or(TreeFault::OutsideMemory { addr })?;
        self.counts.add_node(level as u8);
        Ok(Node { addr, first, words })
    }

    /// What lies below a node that was taken. It calls itself once for each level at most.
    fn visit(&mut self, at: Node<'a>, level: u32) -> Result<(), TreeError> {
        if level == 0 {
            return self.leaf(at);
        }
        for (index, entry) in at.words.iter().enumerate() {
            // Relaxed: whoever wrote the tree is gone.
            let entry = entry.load(Relaxed);
            if entry == 0 {
                continue;
            }
            let fault = |reason| TreeError {
                node: at.addr,
                level: level as u8,
                index: index as u32,
                reason,
            };
            let first = at.first + ((index as u64) << G.shift(level));
            if first >= KEY_LIMIT {
                return Err(fault(TreeFault::NoKey));
            }
            let below = self.enter(entry, first, level - 1).map_err(fault)?;
            self.visit(below, level - 1)?;
        }
        Ok(())
    }

    fn leaf(&mut self, at: Node<'a>) -> Result<(), TreeError> {
        // A leaf of keys above its own width has one order; the very first has all the others.
        if let Some(block) = Key::new(at.first).block()
            && at.first >= LEAF_KEYS
        {
            self.ledger.leaf(block, at.addr);
        }
        for (key, (index, word)) in (at.first..).step_by(64).zip(at.words.iter().enumerate()) {
            let word = word.load(Relaxed);
            if word == 0 {
                continue;
            }
            self.blocks(key, word).map_err(|(bit, reason)| TreeError {
                node: at.addr,
                level: 0,
                index: index as u32 * 64 + bit,
                reason,
            })?;
        }
        Ok(())
    }

    /// Takes the blocks of a leaf's word, whose bit 0 is `key`.
    fn blocks(&mut self, key: u64, word: u64) -> Result<(), (u32, TreeFault)> {
        if let Some(first) = Key::new(key).block()
            && key >= 64
            && first.order() == Order::ZERO
        {
            self.ledger.take_word(first.pfn(), word)?;
            self.counts.add_folios(Order::ZERO, u64::from(word.count_ones()));
            return Ok(());
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
