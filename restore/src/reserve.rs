//! A few frames that ordinary callers never get.
//!
//! A successor needs about a dozen frames for tables of its own before it can give anything back. What
//! this kernel holds in reserve, allocated and not preserved, is free memory to the successor; so a
//! memory that is full to the last frame can be taken over all the same.
//!
//! The successor's own reserve is what it did not use of those, until
//! [`Handover::finish`](crate::Handover::finish) gives the predecessor's tables back and fills it up.
//! Meanwhile the frames of those tables are free memory to the one that comes after it.

use heirloom_folio::{Kind, Machine, Memory, Order, Request};

/// The most frames that are held. The tables of a handover are five pages, and up to ten nodes of the
/// tree lead to them.
const MOST: u64 = 16;

/// One frame in so many is held at most.
const SHARE: u64 = 32;

/// How many frames are held in reserve.
pub(crate) struct Reserve(u64);

impl Reserve {
    /// Filled from `memory`.
    pub(crate) fn of<M: Machine>(memory: &Memory<M>) -> Self {
        let mut reserve = Self(0);
        reserve.fill(memory);
        reserve
    }

    /// How many.
    pub(crate) const fn frames(&self) -> u64 {
        self.0
    }

    /// Fills the reserve up, as far as there is memory.
    #[inline(never)]
    pub(crate) fn fill<M: Machine>(&mut self, memory: &Memory<M>) {
        let frames: u64 = memory.ranges().map(|(run, _)| run.frames()).sum();
        let wanted = (frames / SHARE).min(MOST);
        // As few blocks as there can be: what lies side by side needs the fewest nodes.
        for order in (0..=MOST.ilog2() as u8).rev().filter_map(Order::new) {
            let request = Request::new(order).kind(Kind::Table);
            while self.0 + order.frames() <= wanted && memory.alloc(request).is_ok() {
                self.0 += order.frames();
            }
        }
    }
}
