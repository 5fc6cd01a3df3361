//! What a caller expects around a pointer, and where in such a block it leads: see
//! [`Memory::lookup`](crate::Memory::lookup).

use core::ptr::NonNull;

use heirloom_kho::Order;

use crate::frame_type::{self, FrameType};

/// What a caller expects around a pointer: an allocated block of one kind and order, preserved or
/// not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockMatcher {
    /// The bits of an address that are its offset in the block.
    pub(crate) mask: u64,
    /// The two bytes that the block's first frame may have.
    pub(crate) plain: u8,
    pub(crate) preserved: u8,
}

impl BlockMatcher {
    /// Matches a block of `kind` and `order`; one above [`Order::MAX_FOLIO`] is nowhere.
    pub const fn new(kind: FrameType, order: Order) -> Self {
        let order = if order.get() > Order::MAX_FOLIO.get() { Order::MAX_FOLIO } else { order };
        Self {
            mask: order.bytes() - 1,
            plain: frame_type::encode(kind, order, false),
            // Only what a tail belongs to is preserved.
            preserved: frame_type::encode(kind, order, !matches!(kind, FrameType::Tail)),
        }
    }
}

/// A place in an allocated block; see [`Memory::lookup`](crate::Memory::lookup).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRef {
    /// The block's first byte, good for all of the block.
    pub head: NonNull<u8>,
    /// How many bytes behind it the place is.
    pub offset: usize,
}

impl BlockRef {
    /// Returns the place itself: what was asked about, with provenance over the block.
    #[inline]
    pub const fn place(self) -> NonNull<u8> {
        // SAFETY: the offset is one in the block, all of which `head` is good for.
        unsafe { self.head.add(self.offset) }
    }

    /// Returns the place itself, of which the caller has another pointer: computed from nothing else, so that the
    /// caller's is all that is kept.
    #[inline]
    pub fn place_of(self, ptr: NonNull<u8>) -> NonNull<u8> {
        debug_assert_eq!(self.place().addr(), ptr.addr(), "the pointer that was looked up");
        self.head.with_addr(ptr.addr())
    }
}
