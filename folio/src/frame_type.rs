//! One byte a frame: what starts here, of which order, and whether it is preserved.
//!
//! Only the first frame of an aligned block carries a byte that means something: allocating a
//! 1 GiB folio writes one byte. A run is a head block followed by tail blocks, its few largest
//! aligned ones, so its length can be read back from the bytes.
//!
//! The byte is one number out of `kind x preserved x order`, so that the check on freeing is one
//! comparison with a constant. Zero is a frame that was never handed out, which makes zeroed
//! memory a valid start.

use heirloom_kho::Order;
use heirloom_kho::narrow::u8_to_usize;

/// What an allocated block is used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FrameType {
    /// A folio: one aligned block, owned by the caller that allocated it.
    Folio = 0,
    /// The first block of a run of frames.
    Run = 1,
    /// A slab: the objects of one cache. No call allocates or claims one: a [`FrameType::Table`] becomes
    /// a slab by [`Memory::make_slab`](crate::Memory::make_slab), once what looks for slabs may
    /// find it.
    Slab = 2,
    /// The first block of a large `void*` buffer.
    Buffer = 3,
    /// heirloom's own: tracker nodes, tables, cache control blocks.
    Table = 4,
    /// A further block of a run or of a large buffer.
    Tail = 5,
}

impl FrameType {
    const ALL: [Self; 6] =
        [Self::Folio, Self::Run, Self::Slab, Self::Buffer, Self::Table, Self::Tail];

    /// How many there are.
    const COUNT: u8 = Self::Tail.number() + 1;

    /// Returns the kind's number: its place in [`FrameType::ALL`].
    #[inline]
    #[expect(clippy::as_conversions, reason = "to what the enum is in memory")]
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// Returns whether what starts with this kind may go on with [`FrameType::Tail`] blocks.
    pub(crate) const fn is_run(self) -> bool {
        matches!(self, Self::Run | Self::Buffer)
    }
}

/// The state of one frame, as its byte tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrameState {
    /// No block starts here, and none did since the memory was added. The frame may be free, in
    /// the middle of a block, or reserved.
    Never,
    /// A block that started here was freed.
    Freed,
    /// The frame is known, and there is nothing behind it that this kernel may use: see
    /// [`Memory::add_absent_range`](crate::Memory::add_absent_range).
    Absent,
    /// An allocated block starts here.
    Head {
        /// What it is used for.
        kind: FrameType,
        /// Its size.
        order: Order,
        /// Whether it survives a jump.
        preserved: bool,
    },
}

/// The byte of a frame that was never handed out.
pub(crate) const NEVER: u8 = 0;
/// The byte of a frame at which a block was freed.
pub(crate) const FREED: u8 = 1;

const ORDERS: u8 = Order::MAX_FOLIO.get() + 1;
const FIRST: u8 = 2;

/// The byte of a predecessor's slab of order 0 that is still to be claimed.
const LEFT: u8 = FIRST + FrameType::COUNT * 2 * ORDERS;
/// Orders of slabs that can be told so: two MiB of the smallest pages.
const LEFT_ORDERS: u8 = 10;

/// The byte of a predecessor's table of order 0 that was taken over with a label; larger ones follow, to
/// the last byte but one.
const OLD: u8 = LEFT + LEFT_ORDERS;

/// The byte of a frame that is absent: the last there is.
pub(crate) const ABSENT: u8 = u8::MAX;

/// The byte of a held buffer of order 0: where a preserved tail's would be.
const HELD: u8 = FIRST + (FrameType::Tail.number() * 2 + 1) * ORDERS;

const _: () = assert!(
    LEFT.checked_add(LEFT_ORDERS).is_some(),
    "every kind, preserved or not, of every order, and slabs and tables that were left, fit one byte"
);

/// Returns the byte for an allocated block. `order` is at most [`Order::MAX_FOLIO`]; a tail is never preserved,
/// but what it belongs to.
#[inline]
pub(crate) const fn encode(kind: FrameType, order: Order, preserved: bool) -> u8 {
    debug_assert!(order.get() < ORDERS && !(preserved && matches!(kind, FrameType::Tail)));
    FIRST + (kind.number() * 2 + if preserved { 1 } else { 0 }) * ORDERS + order.get()
}

/// Returns the byte of the first block of a buffer that is held: preserved, and let go by being freed. It reads
/// as that of a preserved buffer.
#[inline]
pub(crate) const fn held(order: Order) -> u8 {
    debug_assert!(order.get() < ORDERS);
    HELD + order.get()
}

/// Returns whether `byte` is that of the first block of a held buffer.
#[inline]
pub(crate) const fn is_held(byte: u8) -> bool {
    byte.wrapping_sub(HELD) < ORDERS
}

/// Returns the order of the first block of a buffer, preserved, held or neither, if `byte` is that of one.
#[inline]
pub(crate) const fn buffer_order_of(byte: u8) -> Option<Order> {
    const PLAIN: u8 = encode(FrameType::Buffer, Order::ZERO, false);
    const PRESERVED: u8 = encode(FrameType::Buffer, Order::ZERO, true);
    const { assert!(PRESERVED == PLAIN + ORDERS) };
    let (order, held) = (byte.wrapping_sub(PLAIN), byte.wrapping_sub(HELD));
    match () {
        () if order < ORDERS => Order::new(order),
        () if order < 2 * ORDERS => Order::new(order - ORDERS),
        () if held < ORDERS => Order::new(held),
        () => None,
    }
}

/// Returns the byte of a block that the predecessor preserved, and of which is known what it is: a slab,
/// which is still to be claimed, and which only a claim as one takes; or a table, which is taken. It
/// reads as preserved, and as no slab or table that this kernel allocated. `None`: no label is of that
/// kind, or order.
#[inline]
pub(crate) const fn encode_label(kind: FrameType, order: Order) -> Option<u8> {
    match kind {
        FrameType::Slab if order.get() < LEFT_ORDERS => Some(LEFT + order.get()),
        FrameType::Table => match OLD.checked_add(order.get()) {
            Some(ABSENT) => None,
            byte => byte,
        },
        _ => None,
    }
}

/// Returns what a [`encode_label`] says.
#[inline]
pub(crate) const fn labelled(byte: u8) -> Option<(FrameType, Order)> {
    let (kind, order) = match byte {
        ABSENT => return None,
        OLD.. => (FrameType::Table, byte - OLD),
        LEFT.. => (FrameType::Slab, byte - LEFT),
        _ => return None,
    };
    match Order::new(order) {
        Some(order) => Some((kind, order)),
        None => None,
    }
}

/// Returns whether `byte` is that of a block that is still to be claimed, if the tracker has the block.
#[inline]
pub(crate) const fn is_unclaimed(byte: u8) -> bool {
    byte == NEVER || byte >= LEFT && byte < OLD
}

/// Returns what a block that is claimed or kept as `kind` is at first: a slab begins as a table.
#[inline]
pub(crate) const fn initial(kind: FrameType) -> FrameType {
    match kind {
        FrameType::Slab => FrameType::Table,
        _ => kind,
    }
}

/// Returns the byte of a slab in place of a table's, `byte`, which may be preserved.
#[inline]
pub(crate) const fn slab_from_table(byte: u8) -> u8 {
    byte - (FrameType::Table.number() - FrameType::Slab.number()) * 2 * ORDERS
}

/// Returns the byte of a table in place of a slab's, `byte`, which may be preserved.
#[inline]
pub(crate) const fn table_from_slab(byte: u8) -> u8 {
    byte + (FrameType::Table.number() - FrameType::Slab.number()) * 2 * ORDERS
}

/// Returns whether `byte` is that of a block of `kind` and `order`, (not) preserved, that is no part of a
/// run. `order` is at most [`Order::MAX_FOLIO`].
#[inline]
pub(crate) const fn is_single(byte: u8, kind: FrameType, order: Order, preserved: bool) -> bool {
    matches!(kind, FrameType::Folio | FrameType::Slab | FrameType::Table)
        && byte == encode(kind, order, preserved)
}

/// Returns the byte of a block that is preserved from now on.
#[inline]
pub(crate) const fn with_preserved(byte: u8) -> u8 {
    byte.wrapping_add(ORDERS)
}

/// Returns the byte of a preserved block that no longer is.
#[inline]
pub(crate) const fn without_preserved(byte: u8) -> u8 {
    byte.wrapping_sub(ORDERS)
}

/// Returns the order of a block of `kind` that is not preserved, if `byte` is that of one.
#[inline]
pub(crate) const fn order_of(byte: u8, kind: FrameType) -> Option<Order> {
    let order = byte.wrapping_sub(encode(kind, Order::ZERO, false));
    if order < ORDERS { Order::new(order) } else { None }
}

/// Returns whether `byte` is that of a further block of a run.
#[inline]
pub(crate) const fn is_tail(byte: u8) -> bool {
    byte.wrapping_sub(encode(FrameType::Tail, Order::ZERO, false)) < ORDERS
}

/// Returns what `byte` says.
pub(crate) const fn decode(byte: u8) -> FrameState {
    if byte < FIRST {
        return if byte == FREED { FrameState::Freed } else { FrameState::Never };
    }
    if byte == ABSENT {
        return FrameState::Absent;
    }
    if let Some((kind, order)) = labelled(byte) {
        return FrameState::Head { kind, order, preserved: true };
    }
    let code = byte - FIRST;
    let group = code / ORDERS;
    let kind = u8_to_usize(group / 2);
    let Some(order) = Order::new(code % ORDERS) else { return FrameState::Never };
    let kind = if byte >= HELD { FrameType::Buffer } else { FrameType::ALL[kind] };
    FrameState::Head { kind, order, preserved: group % 2 == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_has_a_byte_of_its_own() {
        let mut seen = [false; 256];
        seen[usize::from(NEVER)] = true;
        seen[usize::from(FREED)] = true;
        for kind in FrameType::ALL {
            for preserved in [false, true] {
                for o in 0..ORDERS {
                    let order = Order::new(o).unwrap();
                    if kind == FrameType::Tail && preserved {
                        continue;
                    }
                    let byte = encode(kind, order, preserved);
                    assert!(!seen[usize::from(byte)], "{kind:?} {order} {preserved}");
                    seen[usize::from(byte)] = true;
                    assert_eq!(decode(byte), FrameState::Head { kind, order, preserved });
                    assert_eq!(is_tail(byte), kind == FrameType::Tail);
                    for other in FrameType::ALL {
                        let found = (other == kind && !preserved).then_some(order);
                        assert_eq!(order_of(byte, other), found);
                    }
                }
            }
        }
    }

    #[test]
    fn a_held_buffer_reads_as_a_preserved_one_and_has_a_byte_of_its_own() {
        for o in 0..ORDERS {
            let order = Order::new(o).unwrap();
            let byte = held(order);
            assert_eq!(decode(byte), decode(encode(FrameType::Buffer, order, true)));
            assert!(byte != encode(FrameType::Buffer, order, true) && !is_tail(byte));
            assert!(is_held(byte) && !is_held(encode(FrameType::Buffer, order, true)));
            assert!(byte < LEFT && byte > encode(FrameType::Tail, order, false));
            assert!(FrameType::ALL.into_iter().all(|kind| order_of(byte, kind).is_none()));
        }
        for byte in 0..=u8::MAX {
            let order = match decode(byte) {
                FrameState::Head { kind: FrameType::Buffer, order, .. } => Some(order),
                _ => None,
            };
            assert_eq!(buffer_order_of(byte), order, "{byte}");
        }
    }

    #[test]
    fn preserving_is_a_step_in_the_byte() {
        for kind in FrameType::ALL.into_iter().filter(|kind| *kind != FrameType::Tail) {
            for o in 0..ORDERS {
                let order = Order::new(o).unwrap();
                let (before, after) = (encode(kind, order, false), encode(kind, order, true));
                assert_eq!(with_preserved(before), after);
                assert_eq!(without_preserved(after), before);
                let single = !kind.is_run();
                for other in FrameType::ALL.into_iter().filter(|kind| *kind != FrameType::Tail) {
                    let alike = single && kind == other;
                    assert_eq!(is_single(before, other, order, false), alike);
                    assert_eq!(is_single(after, other, order, true), alike);
                    assert!(!is_single(before, other, order, true));
                    assert!(!is_single(after, other, order, false));
                }
            }
        }
    }

    #[test]
    fn a_label_reads_as_preserved_and_is_no_slab_or_table() {
        for o in 0..ORDERS {
            let order = Order::new(o).unwrap();
            for kind in [FrameType::Slab, FrameType::Table] {
                let Some(byte) = encode_label(kind, order) else {
                    assert!(o >= if kind == FrameType::Slab { 10 } else { 15 });
                    continue;
                };
                assert_eq!(decode(byte), FrameState::Head { kind, order, preserved: true });
                assert_eq!(labelled(byte), Some((kind, order)));
                assert!(is_unclaimed(byte) == (kind == FrameType::Slab) && !is_tail(byte));
                assert!(FrameType::ALL.into_iter().all(|kind| order_of(byte, kind).is_none()));
                for (preserved, k) in
                    [false, true].into_iter().flat_map(|p| FrameType::ALL.map(|k| (p, k)))
                {
                    assert!(!is_single(byte, k, order, preserved));
                }
            }
            for kind in FrameType::ALL {
                let whole = [false, kind != FrameType::Tail].map(|kept| encode(kind, order, kept));
                assert!(
                    !whole.into_iter().any(|byte| is_unclaimed(byte) || labelled(byte).is_some())
                );
                assert_eq!(
                    encode_label(kind, order).is_some(),
                    match kind {
                        FrameType::Slab => o < 10,
                        FrameType::Table => o < 15,
                        _ => false,
                    }
                );
            }
            for preserved in [false, true] {
                let table = encode(initial(FrameType::Slab), order, preserved);
                assert_eq!(slab_from_table(table), encode(FrameType::Slab, order, preserved));
                assert_eq!(table_from_slab(slab_from_table(table)), table);
            }
        }
    }

    #[test]
    fn fresh_freed_and_absent_are_told_apart() {
        assert_eq!(decode(NEVER), FrameState::Never);
        assert_eq!(decode(FREED), FrameState::Freed);
        assert_eq!(decode(ABSENT), FrameState::Absent);
        assert!(!is_unclaimed(ABSENT) && !is_held(ABSENT) && labelled(ABSENT).is_none());
        assert!(is_unclaimed(NEVER) && !is_unclaimed(FREED) && !is_unclaimed(held(Order::ZERO)));
        for byte in [NEVER, FREED, ABSENT] {
            assert!(!is_tail(byte));
            assert!(FrameType::ALL.into_iter().all(|kind| order_of(byte, kind).is_none()));
        }
    }
}
