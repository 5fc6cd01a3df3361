//! Looking through all that is preserved for what is still to be claimed.
//!
//! The tree's words are read one after the other, but the bytes that say what is claimed lie as scattered
//! as the blocks do. So each is asked for when its block is found, and looked at some blocks later.

use core::mem::replace;

use heirloom_kho::prefetch::prefetch;
use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Order, Pfn};

use crate::machine::Machine;
use crate::memory::Memory;

/// How many blocks are found before the first of them is looked at.
const AHEAD: usize = 32;

impl<M: Machine> Memory<M> {
    /// Calls `each` with every preserved block of which the first frame's byte is `wanted` when it is looked
    /// at.
    ///
    /// Nothing is held meanwhile: `each` may call anything.
    pub(super) fn for_each_with(&self, wanted: impl Fn(u8) -> bool, mut each: impl FnMut(Block)) {
        let mut look = |block: Block| {
            if self.byte(block.pfn()).is_some_and(|byte| wanted(byte.load(Relaxed))) {
                each(block);
            }
        };
        let mut found = [Block::containing(Pfn::new(0), Order::ZERO); AHEAD];
        let mut count = 0_usize;
        self.preserved().for_each(|block| {
            if let Some(byte) = self.byte(block.pfn()) {
                prefetch(byte);
            }
            let Some(place) = found.get_mut(count % AHEAD) else { return };
            let due = replace(place, block);
            count += 1;
            if count > AHEAD {
                look(due);
            }
        });
        let oldest = count.saturating_sub(AHEAD);
        (oldest..count).filter_map(|i| found.get(i % AHEAD)).for_each(|block| look(*block));
    }
}
