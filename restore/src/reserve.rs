//! A few frames that ordinary callers never get.
//!
//! A successor goes on with its predecessor's tables, and needs no frame for that. One of another make
//! needs about a dozen for tables of its own, and so does this build where the predecessor is another
//! (see `moved`), or a page for a header that says more than it knows. What this kernel holds in
//! reserve, allocated and not preserved, is free memory to the successor; so a memory that is full to
//! the last frame can be taken over all the same. A memory that has no room for a reserve beside the first
//! tables is refused when it is booted.
//!
//! The successor's own reserve is what it did not use of those, until
//! [`Heirloom::finish`](crate::Heirloom::finish), or sealing, fills it up.

use heirloom_folio::{FrameType, Machine, Memory, Request};
use heirloom_kho::Order;
use heirloom_kho::narrow::u32_to_u8;

/// How many frames are held, however small the memory. The tables of a handover are five pages, and up
/// to ten nodes of the tree lead to them.
pub(crate) const FRAMES: u64 = 16;

/// How many frames a memory needs for a handover that can be taken over: those of its tables, and as
/// many in reserve.
pub(crate) const LEAST: u64 = 2 * FRAMES;

/// How many frames are held in reserve.
pub(crate) struct Reserve(u64);

impl Reserve {
    /// Fills a reserve from `memory`.
    pub(crate) fn of<M: Machine>(memory: &Memory<M>) -> Self {
        let mut reserve = Self(0);
        reserve.fill(memory);
        reserve
    }

    /// Returns how many.
    pub(crate) const fn frames(&self) -> u64 {
        self.0
    }

    /// Fills the reserve up, as far as there is memory.
    #[inline(never)]
    pub(crate) fn fill<M: Machine>(&mut self, memory: &Memory<M>) {
        // As few blocks as there can be: what lies side by side needs the fewest nodes.
        for order in (0..=u32_to_u8(FRAMES.ilog2())).rev().filter_map(Order::new) {
            let request = Request::new(order).frame_type(FrameType::Table);
            while self.0 + order.frames() <= FRAMES && memory.alloc(request).is_ok() {
                self.0 += order.frames();
            }
        }
    }
}
