//! Counts of frames by state: a summary for users, and an audit that looks at every frame.

use core::ops::ControlFlow;

use heirloom_kho::{Block, Order, Pfn};

use crate::error::Error;
use crate::frame_type::FrameState;
use crate::machine::{Machine, NodeId};
use crate::memory::Memory;

/// How many frames are in which state; see [`Memory::stats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Frames that exist, without absent ones.
    pub frames: u64,
    /// Frames that are absent: see [`Memory::add_absent_range`].
    pub absent: u64,
    /// Free blocks by order, each as large as it can be.
    pub free_blocks: [u64; Order::MAX_FOLIO.index() + 1],
    /// Free frames in the CPUs' caches.
    pub cached: u64,
    /// Preserved frames (part of those in use), those of blocks still to be claimed too.
    pub preserved: u64,
}

impl Stats {
    /// Returns the number of free frames outside the CPUs' caches, saturating.
    pub fn free(&self) -> u64 {
        let each = self.free_blocks.iter().enumerate();
        each.fold(0, |sum, (order, blocks)| sum.saturating_add(blocks.saturating_mul(1 << order)))
    }

    /// Returns how many frames are in use: allocated or reserved. `frames == free() + cached + used()`.
    pub fn used(&self) -> u64 {
        self.frames.saturating_sub(self.free()).saturating_sub(self.cached)
    }
}

/// What [`Memory::audit`] counted: every frame once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Frames free in the shared bits.
    pub free: u64,
    /// Free frames in the CPUs' caches.
    pub cached: u64,
    /// Frames of allocated blocks, by [`FrameType`](crate::FrameType)'s order of declaration; those of a predecessor's blocks
    /// that have a [label](crate::Predecessor::label), too.
    pub allocated: [u64; 6],
    /// Frames with no owner that are not free: reserved, or a predecessor's, still to be claimed and
    /// without a label.
    pub reserved: u64,
    /// Frames that are absent.
    pub absent: u64,
}

impl<M: Machine> Memory<M> {
    /// Returns how many frames are in which state, on all nodes.
    ///
    /// Counted from the bits themselves, so the figures cannot drift; exact while nothing is
    /// allocated or freed. Costs a pass over the words that are not empty.
    pub fn stats(&self) -> Stats {
        self.stats_where(|_| true)
    }

    /// Returns what [`Memory::stats`] does, for one node.
    pub fn node_stats(&self, node: NodeId) -> Stats {
        self.stats_where(|n| n == node)
    }

    /// Returns whether `blocks` blocks of `order` may be free, and `frames` frames beside them: where they are not, no
    /// number of calls gets them. (What CPUs keep counts as if it were such blocks.)
    ///
    /// Costs a look at as many words as show it.
    #[doc(hidden)]
    pub fn may_have(&self, order: Order, blocks: u64, frames: u64) -> bool {
        let all = blocks.saturating_mul(order.frames()).saturating_add(frames);
        let (mut whole, mut free) = (0_u64, 0_u64);
        for range in self.ranges.iter() {
            let seen = range.freemap().try_each_free(|found, count| {
                free = free.saturating_add(count << found);
                if let Some(more) = found.checked_sub(order.index()) {
                    whole = whole.saturating_add(count << more);
                }
                let enough = whole >= blocks && free >= all;
                if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if seen.is_break() {
                return true;
            }
        }
        let cached: u64 = self.slots.iter().map(|(_, slot)| slot.cached()).sum();
        whole.saturating_add(cached >> order.get()) >= blocks && free.saturating_add(cached) >= all
    }

    fn stats_where(&self, counts: impl Fn(NodeId) -> bool) -> Stats {
        let mut stats = Stats::default();
        for range in self.ranges.iter().filter(|range| counts(range.node())) {
            stats.frames += range.present();
            stats.absent += range.run().frames() - range.present();
            range.freemap().count_free(&mut stats.free_blocks);
        }
        for (cpu, slot) in self.slots.iter() {
            if counts(self.machine().node_of(cpu)) {
                stats.cached += slot.cached();
            }
        }
        for folios in self.tracker.tree(&self.tables()).folio_ranges() {
            // Neighbours may lie in two ranges, on two nodes.
            let ranges = self.ranges.overlapping(folios.run());
            for range in ranges.filter(|range| counts(range.node())) {
                stats.preserved += range.run().common(folios.run());
            }
        }
        stats
    }

    /// Looks at every frame and checks that it has one state.
    ///
    /// For tests and for a suspicious operator: it reads a byte a frame. The memory must be at
    /// rest meanwhile, or frames on their way are counted as reserved or found at fault.
    ///
    /// # Errors
    /// [`Error::DoubleFree`] with the first block of which a frame is both allocated and free;
    /// [`Error::Absent`] with the first frame that is free and absent.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<Audit, Error> {
        let mut audit = Audit::default();
        let mut pfn = Pfn::new(0);
        for range in self.ranges.by_address() {
            // A block may reach into the next range.
            pfn = pfn.max(range.run().start());
            while pfn < range.run().end() {
                let FrameState::Head { kind, order, .. } = range.state(pfn) else {
                    let count = match (range.freemap().is_free(pfn), range.state(pfn)) {
                        (false, FrameState::Absent) => &mut audit.absent,
                        (false, _) => &mut audit.reserved,
                        (true, FrameState::Absent) => {
                            return Err(Error::Absent { pfn });
                        }
                        (true, _) => &mut audit.free,
                    };
                    *count += 1;
                    pfn = pfn.add(1);
                    continue;
                };
                let block = Block::containing(pfn, order);
                let mut at = range;
                while block.run().contains(pfn) {
                    if !at.run().contains(pfn) {
                        at = self.range(pfn)?;
                    }
                    if at.freemap().is_free(pfn) {
                        return Err(Error::DoubleFree { block });
                    }
                    pfn = pfn.add(1);
                }
                audit.allocated[usize::from(kind.number())] += order.frames();
            }
        }
        audit.cached = self.slots.iter().map(|(_, slot)| slot.cached()).sum();
        audit.reserved = audit.reserved.saturating_sub(audit.cached);
        Ok(audit)
    }
}
