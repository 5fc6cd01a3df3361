//! One byte an object: whether it is free, in use or preserved, and a tag that changes with reuse.
//!
//! ```text
//!  7         3 2     0
//!  |   tag    | what |
//! ```
//!
//! The byte is written by the owner of the object, without a read-modify-write; it serves as the
//! live map, as the preserved map and against double frees. The reuse tag counts allocations of the
//! place modulo 32, so that a handle to an earlier object there is recognised.

/// What a state byte says of its object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ObjectState {
    /// Free: in its slab or in a magazine.
    Free = 0,
    /// In use. In a preserving cache it survives a jump.
    Live = 1,
    /// In use, and it survives a jump. In caches that are not preserving. It is unpreserved before
    /// it can be freed.
    Preserved = 2,
    /// Left by the predecessor and not claimed. It survives a jump.
    Unclaimed = 3,
    /// Found overwritten while it was free, and out of use since. Only the feature `debug` finds
    /// such.
    Quarantined = 4,
    /// In use, and it survives a jump, until it is freed. In caches that are not preserving.
    Held = 5,
}

impl ObjectState {
    /// Returns the bits that say so in a state byte.
    #[inline]
    #[expect(clippy::as_conversions, reason = "to what the enum is in memory")]
    pub(crate) const fn bits(self) -> u8 {
        self as u8
    }
}

/// A state byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct State(pub(crate) u8);

/// The bits of a state byte that say what its object is.
pub(crate) const WHAT: u8 = 0b111;
const REUSE_TAG_SHIFT: u32 = 3;

impl State {
    /// Returns what the byte says; `None` if this layer writes no such byte.
    #[inline]
    pub(crate) const fn what(self) -> Option<ObjectState> {
        Some(match self.0 & WHAT {
            0 => ObjectState::Free,
            1 => ObjectState::Live,
            2 => ObjectState::Preserved,
            3 => ObjectState::Unclaimed,
            4 => ObjectState::Quarantined,
            5 => ObjectState::Held,
            _ => return None,
        })
    }

    /// Returns whether the byte says `what`.
    #[inline]
    pub(crate) const fn is(self, what: ObjectState) -> bool {
        self.0 & WHAT == what.bits()
    }

    /// Returns whether it has an owner.
    #[inline]
    pub(crate) const fn is_in_use(self) -> bool {
        self.is(ObjectState::Live) || self.is(ObjectState::Preserved) || self.is(ObjectState::Held)
    }

    /// Returns an unclaimed object with this reuse tag; `None` if no object has it.
    #[inline]
    pub(crate) const fn unclaimed(reuse_tag: u8) -> Option<Self> {
        if reuse_tag > u8::MAX >> REUSE_TAG_SHIFT {
            return None;
        }
        Some(Self(reuse_tag << REUSE_TAG_SHIFT | ObjectState::Unclaimed.bits()))
    }

    /// Returns the reuse tag, 0 to 31.
    #[inline]
    pub(crate) const fn reuse_tag(self) -> u8 {
        self.0 >> REUSE_TAG_SHIFT
    }

    /// Returns the byte of this object in another state.
    #[inline]
    pub(crate) const fn to(self, what: ObjectState) -> Self {
        Self(self.0 & !WHAT | what.bits())
    }

    /// Returns a live object freed; `None` if it is not live.
    #[inline]
    pub(crate) const fn freed(self) -> Option<Self> {
        const { assert!(ObjectState::Live.bits() == ObjectState::Free.bits() + 1) };
        let freed = Self(self.0.wrapping_sub(1));
        if freed.is(ObjectState::Free) { Some(freed) } else { None }
    }

    /// Returns the byte of the next object in the same place.
    #[inline]
    pub(crate) const fn allocated(self) -> Self {
        Self((self.0 & !WHAT).wrapping_add(1 << REUSE_TAG_SHIFT) | ObjectState::Live.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_allocation_has_another_tag_for_thirty_two_times() {
        let mut state = State(0);
        let mut seen = [false; 32];
        for _ in 0..32 {
            state = state.allocated();
            assert!(state.is(ObjectState::Live));
            assert!(!seen[usize::from(state.reuse_tag())]);
            seen[usize::from(state.reuse_tag())] = true;
            let reuse_tag = state.reuse_tag();
            state = state.to(ObjectState::Preserved).to(ObjectState::Free);
            assert_eq!(state.reuse_tag(), reuse_tag);
        }
    }

    #[test]
    fn bytes_that_nothing_writes_are_told_apart() {
        for byte in 0..=u8::MAX {
            let state = State(byte);
            assert_eq!(state.what().is_some(), byte & 7 <= 5);
            let freed = state.is(ObjectState::Live).then(|| state.to(ObjectState::Free));
            assert_eq!(state.freed(), freed);
        }
    }
}
