//! Whether anything is still to be claimed, without a look at each block.
//!
//! The blocks that were taken over are counted, and then those that got an owner here, or a label:
//!
//! ```text
//! taken over - settled (by each CPU, and by calls without one) + put back
//! ```
//!
//! This is never less than what is still to be claimed and has no label: a block is counted as settled
//! after its byte has changed, and as put back before. It may be more. A CPU counts in a word of its own,
//! by a load and a store, and what comes in between on the same CPU is not counted; then the blocks are looked
//! at, as if any were left.

use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Counts blocks that are no longer to be claimed: their bytes have changed.
    #[inline]
    pub(super) fn settle(&self, blocks: u64) {
        self.machine().with_cpu(|cpu| match self.slots.with_slot(cpu) {
            // SAFETY: it has a slot.
            Some(cpu) => unsafe { self.slots.slot(cpu) }.settled().add_alone(blocks),
            None => self.slots.shared_tallies().settled.add(blocks),
        });
    }

    /// Counts blocks that are there to be claimed again, before their bytes say so.
    pub(super) fn unsettle(&self, blocks: u64) {
        self.slots.shared_tallies().put_back.add(blocks);
    }

    /// Returns whether nothing that was taken over is still to be claimed, but for what has a label.
    pub(super) fn is_settled(&self) -> bool {
        let own = self.slots.iter().map(|(_, slot)| slot.settled());
        self.slots.shared_tallies().settled(own) == self.taken_over
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::super::tests::{block, kernel, run, successor};
    use super::super::{Block, Disposition, FrameType, Memory};
    use crate::harness::Ram;

    /// Returns what `disinherit` tells of.
    fn told(memory: &Memory<Ram>) -> Vec<Block> {
        let mut blocks = Vec::new();
        memory.predecessor().finish(|block| {
            blocks.push(block);
            Disposition::Keep
        });
        blocks
    }

    /// Returns a successor of a kernel that left six blocks, and these.
    fn left() -> (Memory<Ram>, [Block; 6]) {
        let ranges = Ram::frames(1024);
        let blocks = [
            block(600, 0),
            block(602, 1),
            block(604, 2),
            block(611, 0),
            block(612, 1),
            block(640, 4),
        ];
        (successor(kernel(&ranges, &blocks), &ranges), blocks)
    }

    /// Settles all that [`left`] has but the first, each in another way.
    fn settle_others(memory: &Memory<Ram>, blocks: &[Block; 6]) {
        memory.claim(blocks[1]).unwrap();
        memory.claim(&blocks[2..3]).unwrap();
        memory.claim(run(611, 3)).unwrap();
        // SAFETY: nothing else looks for slabs.
        unsafe { memory.predecessor().label(blocks[5], FrameType::Slab) }.unwrap();
    }

    #[test]
    fn what_is_left_is_told_however_the_others_were_settled() {
        let (memory, blocks) = left();
        settle_others(&memory, &blocks);
        // A slab has been counted by then.
        // SAFETY: labelled just now.
        unsafe { memory.claim_as(blocks[5], FrameType::Slab) }.unwrap();
        assert!(!memory.is_settled());
        assert_eq!(told(&memory), [blocks[0]]);
        assert!(memory.predecessor().dispose_of(blocks[0]));
        assert!(memory.is_settled());
        assert_eq!(told(&memory), []);
    }

    #[test]
    fn what_is_put_back_is_told_again() {
        let (memory, blocks) = left();
        settle_others(&memory, &blocks);
        memory.claim(blocks[0]).unwrap();
        assert!(memory.is_settled());
        for block in [blocks[0], blocks[1]] {
            // SAFETY: claimed above, and not written.
            unsafe { memory.unclaim_as(block, FrameType::Folio) }.unwrap();
            assert_eq!(told(&memory), [block]);
            memory.claim(block).unwrap();
            assert_eq!(told(&memory), []);
        }
        // SAFETY: as above.
        unsafe { memory.unclaim_as(run(611, 3), FrameType::Run) }.unwrap();
        assert_eq!(told(&memory), [blocks[4], blocks[3]]);
        assert_eq!(memory.claim(&[blocks[3], blocks[4], blocks[3]]).ok(), None);
        assert_eq!(told(&memory), [blocks[4], blocks[3]]);
        assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (2, 0));
        assert!(memory.is_settled());
    }

    #[test]
    fn a_count_that_was_lost_makes_the_blocks_be_looked_at() {
        let (memory, blocks) = left();
        settle_others(&memory, &blocks);
        memory.claim(blocks[0]).unwrap();
        assert!(memory.is_settled());
        memory.unsettle(1);
        assert!(!memory.is_settled());
        assert_eq!(told(&memory), []);
    }
}
