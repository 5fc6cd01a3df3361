//! The ledger of [`Memory::take_over`].

use heirloom_kho::sync::Release;
use heirloom_kho::tree::{Ledger, TreeFault};
use heirloom_kho::{Block, Order, Pfn, PhysAddr};

use crate::frame_type::FrameType;
use crate::machine::Machine;
use crate::memory::Memory;

/// What is taken in it is taken out of the free bits, by the one that owns the memory.
pub(super) struct Holding<'m, M: Machine> {
    pub(super) memory: &'m Memory<M>,
    /// Whether a node leads to nothing.
    pub(super) empty: bool,
}

impl<M: Machine> Ledger for Holding<'_, M> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        let outside = TreeFault::OutsideMemory { addr: block.addr() };
        for (range, part) in self.memory.ranges.parts(block.run()).ok_or(outside)? {
            for part in part.blocks_up_to(Order::MAX_FOLIO) {
                if !range.freemap().carve(part) {
                    // What was taken stays so: the caller gives the whole memory up.
                    return Err(TreeFault::Overlap { block });
                }
            }
        }
        Ok(())
    }

    fn take_node(&mut self, node: Block) -> Result<(), TreeFault> {
        self.take(node)?;
        // As a node of ours: it can neither be freed nor preserved.
        self.memory.mark_preserved(node, FrameType::Table, true);
        Ok(())
    }

    fn take_word(&mut self, first: Pfn, mask: u64) -> Result<(), (u32, TreeFault)> {
        let range = self.memory.ranges.find(first.add(u64::from(mask.trailing_zeros())));
        if range.is_some_and(|range| range.freemap().carve_word(first, mask)) {
            return Ok(());
        }
        // One of them is at fault, or they lie in two ranges: find out one by one.
        for bit in (0..u64::BITS).filter(|bit| mask >> bit & 1 == 1) {
            let block = Block::containing(first.add(u64::from(bit)), Order::ZERO);
            self.take(block).map_err(|fault| (bit, fault))?;
        }
        Ok(())
    }

    fn take_full(&mut self, block: Block) -> bool {
        let range = self.memory.ranges.covering(block.run());
        range.is_some_and(|range| range.freemap().carve(block))
    }

    fn leaf(&mut self, first: Block, leaf: PhysAddr) {
        for slot in self.memory.ranges.slots_of_leaf(first) {
            // Release pairs with the Acquire in `Memory::leaf_in`.
            slot.store(leaf.get(), Release);
        }
    }

    fn empty_node(&mut self) {
        self.empty = true;
    }
}
