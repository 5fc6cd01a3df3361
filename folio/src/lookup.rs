//! Where in its block a pointer leads, and whether the block is what the caller takes it for.
//!
//! A layer above that gets a pointer back knows what should be around it: a slab of such an order,
//! say. It asks for that and learns in one comparison of a byte whether it is so; telling what
//! else is there, [`Memory::state`] and [`Memory::holder`], is for a caller that has to explain a
//! refusal.

use core::ptr::NonNull;

use crate::machine::Machine;
use crate::memory::Memory;
use crate::within::{Expected, Within};
use heirloom_kho::PhysAddr;

impl<M: Machine> Memory<M> {
    /// Where in a block like `expected` a pointer leads; `None` if there is no such block. Any
    /// pointer may be asked about; it is not followed.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{DirectMap, Expected, Kind, Order, Request};
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let order = Order::new(2).unwrap();
    /// let block = memory.alloc(Request::new(order).kind(Kind::Table))?;
    /// let head = memory.machine().ptr(block.addr());
    /// let inside = unsafe { head.add(5000) };
    /// let found = memory.within(inside, &Expected::new(Kind::Table, order)).unwrap();
    /// assert_eq!((found.head, found.offset), (head, 5000));
    /// assert_eq!(memory.within(inside, &Expected::new(Kind::Buffer, order)), None);
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    #[inline]
    pub fn within(&self, ptr: NonNull<u8>, expected: &Expected) -> Option<Within> {
        self.within_first(ptr, expected).or_else(|| self.within_slow(ptr, expected))
    }

    /// Returns what [`Memory::within`] does, by a look at the range in which the block would start.
    #[inline(never)]
    fn within_slow(&self, ptr: NonNull<u8>, expected: &Expected) -> Option<Within> {
        let addr = self.machine().phys(ptr)?;
        let head = PhysAddr::new(addr.get() & !expected.mask);
        self.ranges.find(head.pfn())?.within(ptr, expected)
    }

    /// Returns what [`Memory::within`] does if the block starts in the range that was added first,
    /// where most frames are, else `None`. A caller on a short path asks this, and
    /// [`Memory::within`] only where it got nothing.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a dozen instructions: a call costs as much again")]
    pub fn within_first(&self, ptr: NonNull<u8>, expected: &Expected) -> Option<Within> {
        self.ranges.first()?.within(ptr, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame_type::Kind;
    use crate::harness::Ram;
    use crate::machine::{DirectMap, NodeId};
    use crate::request::Request;
    use heirloom_kho::{Order, PAGE_SIZE, Run};

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
        while let Ok(block) = memory.alloc(Request::new(order).kind(Kind::Table)) {
            // SAFETY: allocated just now; nothing looks for slabs.
            unsafe { memory.make_slab(block) }.unwrap();
            blocks.push(block);
        }
        let other = blocks.pop().unwrap();
        // SAFETY: allocated above, and not used.
        unsafe { memory.free(other, Kind::Slab) }.unwrap();
        let kept = blocks[1];
        // SAFETY: allocated above.
        unsafe { memory.preserve_as(kept, Kind::Slab) }.unwrap();
        let expected = Expected::new(Kind::Slab, order);
        let map = memory.machine();
        let first = map.ptr(base.addr());
        for at in (0..128 * PAGE_SIZE).step_by(512) {
            let addr = PhysAddr::new(base.addr().get() + at as u64);
            let ptr = first.as_ptr().wrapping_add(at);
            let ptr = NonNull::new(ptr).unwrap();
            let block = blocks.iter().find(|block| block.run().contains(addr.pfn()));
            let found = memory.within(ptr, &expected);
            assert_eq!(found.map(|w| map.phys(w.head).unwrap()), block.map(|b| b.addr()), "{addr}");
            assert!(found.is_none_or(|w| w.place() == ptr), "{addr}");
            let first = found.filter(|_| at < 48 * PAGE_SIZE);
            assert_eq!(memory.within_first(ptr, &expected), first, "{addr}");
            for (kind, order) in [(Kind::Buffer, 2), (Kind::Slab, 1), (Kind::Slab, 3)] {
                let other = Expected::new(kind, Order::new(order).unwrap());
                assert_eq!(memory.within(ptr, &other), None, "{addr}");
            }
        }
        for outside in
            [first.as_ptr().wrapping_sub(1), first.as_ptr().wrapping_add(200 * PAGE_SIZE)]
        {
            assert_eq!(memory.within(NonNull::new(outside).unwrap(), &expected), None);
        }
    }
}
