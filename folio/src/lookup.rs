//! Where in its block a pointer leads, and whether the block is what the caller takes it for.
//!
//! A layer above that gets a pointer back knows what should be around it: a slab of such an order,
//! say. It asks for that and learns in one comparison of a byte whether it is so; telling what
//! else is there, [`Memory::state`] and [`Memory::owning_block`], is for a caller that has to explain a
//! refusal.

use core::ptr::NonNull;

use heirloom_kho::PhysAddr;

use crate::block_ref::{BlockMatcher, BlockRef};
use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Returns where in a block like `expected` a pointer leads; `None` if there is no such block. Any
    /// pointer may be asked about; it is not followed.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::internal::BlockMatcher;
    /// use heirloom_folio::{DirectMap, FrameType, Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let order = Order::new(2).unwrap();
    /// let block = memory.alloc(Request::new(order).frame_type(FrameType::Table))?;
    /// let head = memory.machine().ptr(block.addr());
    /// let inside = unsafe { head.add(5000) };
    /// let found = memory.lookup(inside, &BlockMatcher::new(FrameType::Table, order)).unwrap();
    /// assert_eq!((found.head, found.offset), (head, 5000));
    /// assert_eq!(memory.lookup(inside, &BlockMatcher::new(FrameType::Buffer, order)), None);
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    #[doc(hidden)]
    #[inline]
    pub fn lookup(&self, ptr: NonNull<u8>, expected: &BlockMatcher) -> Option<BlockRef> {
        self.lookup_fast(ptr, expected).or_else(|| self.lookup_slow(ptr, expected))
    }

    /// Returns what [`Memory::lookup`] does, by a look at the range in which the block would start.
    #[inline(never)]
    fn lookup_slow(&self, ptr: NonNull<u8>, expected: &BlockMatcher) -> Option<BlockRef> {
        let addr = self.machine().phys(ptr)?;
        let head = PhysAddr::new(addr.get() & !expected.mask);
        self.ranges.find(head.pfn())?.lookup(ptr, expected)
    }

    /// Returns what [`Memory::lookup`] does if the block starts in the range that was added first,
    /// where most frames are, else `None`. A caller on a short path asks this, and
    /// [`Memory::lookup`] only where it got nothing.
    #[doc(hidden)]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a dozen instructions: a call costs as much again")]
    pub fn lookup_fast(&self, ptr: NonNull<u8>, expected: &BlockMatcher) -> Option<BlockRef> {
        self.ranges.first()?.lookup(ptr, expected)
    }
}

#[cfg(test)]
mod tests {
    use heirloom_kho::{Order, PAGE_SIZE, Run};

    use super::*;
    use crate::frame_type::FrameType;
    use crate::harness::Ram;
    use crate::machine::{DirectMap, NodeId};
    use crate::request::Request;

    #[test]
    fn every_byte_of_a_block_and_none_beside_it() {
        // Two ranges with a hole between them. Each starts at a frame that is no multiple of the block's.
        let base = PhysAddr::new(4 << 30).pfn();
        let ranges = [(3, 45), (51, 77)];
        let ranges =
            ranges.map(|(at, frames)| (Run::new(base.add(at), frames).unwrap(), NodeId(0)));
        let memory = Ram::memory(&ranges).unwrap();
        let order = Order::new(2).unwrap();
        let mut blocks = std::vec::Vec::new();
        while let Ok(block) = memory.alloc(Request::new(order).frame_type(FrameType::Table)) {
            // SAFETY: allocated just now; nothing looks for slabs.
            unsafe { memory.make_slab(block) }.unwrap();
            blocks.push(block);
        }
        let other = blocks.pop().unwrap();
        // SAFETY: allocated above, and not used.
        unsafe { memory.free_as(other, FrameType::Slab) }.unwrap();
        let kept = blocks[1];
        // SAFETY: allocated above.
        unsafe { memory.preserve_as(kept, FrameType::Slab) }.unwrap();
        let expected = BlockMatcher::new(FrameType::Slab, order);
        let map = memory.machine();
        let first = map.ptr(base.addr());
        for at in (0..128 * PAGE_SIZE).step_by(512) {
            let addr = PhysAddr::new(base.addr().get() + at as u64);
            let ptr = first.as_ptr().wrapping_add(at);
            let ptr = NonNull::new(ptr).unwrap();
            let block = blocks.iter().find(|block| block.run().contains(addr.pfn()));
            let found = memory.lookup(ptr, &expected);
            assert_eq!(found.map(|w| map.phys(w.head).unwrap()), block.map(|b| b.addr()), "{addr}");
            assert!(found.is_none_or(|w| w.place() == ptr), "{addr}");
            let first = if at < 48 * PAGE_SIZE { found } else { None };
            assert_eq!(memory.lookup_fast(ptr, &expected), first, "{addr}");
            for (kind, order) in
                [(FrameType::Buffer, 2), (FrameType::Slab, 1), (FrameType::Slab, 3)]
            {
                let other = BlockMatcher::new(kind, Order::new(order).unwrap());
                assert_eq!(memory.lookup(ptr, &other), None, "{addr}");
            }
        }
        for outside in
            [first.as_ptr().wrapping_sub(1), first.as_ptr().wrapping_add(200 * PAGE_SIZE)]
        {
            assert_eq!(memory.lookup(NonNull::new(outside).unwrap(), &expected), None);
        }
    }
}
