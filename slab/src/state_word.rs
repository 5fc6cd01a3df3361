//! Eight state bytes at a time: which of them survive, which are no states.
//!
//! A byte's lowest three bits say what its object is (see [`crate::state`]). Each answer is a word with a
//! one in the lowest bit of the bytes that are meant.

use heirloom_kho::narrow::{low_u8, low_u32, u8_to_u32, u32_to_u64};

use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::Relaxed;

use crate::geometry::ObjectIndex;
use crate::state::{ObjectState, State, WHAT};

/// The lowest bit of each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Eight state bytes, the first in the lowest byte.
#[derive(Clone, Copy)]
pub(crate) struct StateWord {
    states: u64,
    /// The bytes that count.
    among: u64,
}

impl StateWord {
    /// Returns the states in a word, all eight of which count.
    #[inline]
    const fn whole(states: u64) -> Self {
        // As they lie in memory, the first first.
        Self { states: u64::from_le(states), among: ONES }
    }

    /// Returns the states in a word, of `first` and those behind it; there are `objects` in all.
    pub(crate) fn of(states: u64, first: ObjectIndex, objects: u32) -> Self {
        let there = objects.saturating_sub(first.get()).min(8);
        let among = if there == 8 { ONES } else { ONES & ((1 << (there * 8)) - 1) };
        Self { among, ..Self::whole(states) }
    }

    /// Returns the three bits of each byte that say what its object is, each in the lowest bit of its byte, with
    /// others above it.
    #[inline]
    const fn bits(self) -> [u64; 3] {
        [self.states, self.states >> 1, self.states >> 2]
    }

    /// Returns those that are no states of a cache that is `preserving`, or is not: 6 and 7, and
    /// there 5 too.
    #[inline]
    pub(crate) const fn unsound(self, preserving: bool) -> u64 {
        let [a, b, c] = self.bits();
        self.among & c & (b | if preserving { a } else { 0 })
    }

    /// Returns those whose object outlives the kernel that wrote them; all are sound. As
    /// [`survived`].
    ///
    /// [`survived`]: crate::adopt_slab::survived
    #[inline]
    pub(crate) const fn survivors(self, preserving: bool) -> u64 {
        let [a, b, c] = self.bits();
        // Preserved, unclaimed, held; and live.
        self.among & (b & !c | a & (c | if preserving { !0 } else { 0 }))
    }

    /// Returns the word, as it lies in memory, with `first` and `second` saying from now on what `whats` has for each;
    /// reuse tags stay. `None`: they say so already.
    #[inline]
    pub(crate) fn changed(self, [first, second]: [u64; 2], whats: [ObjectState; 2]) -> Option<u64> {
        let bits = |bits: u8| u32_to_u64(u8_to_u32(bits));
        let whats = whats.map(|what| bits(what.bits()));
        // Three bits of each byte: nothing carries.
        let said = (first * whats[0]) | (second * whats[1]);
        let now = self.states & !((first | second) * bits(WHAT)) | said;
        (now != self.states).then_some(now.to_le())
    }

    /// Returns those that are unclaimed.
    #[inline]
    pub(crate) const fn unclaimed(self) -> u64 {
        let [a, b, c] = self.bits();
        self.among & a & b & !c
    }

    /// Returns those that count and are not in `these`.
    pub(crate) const fn others(self, these: u64) -> u64 {
        self.among & !these
    }
}

/// Calls `each` with the state words of up to 64 objects, `first` and those behind it, one after the other: where it
/// lies, and what it says. There are `objects` in all.
#[inline]
pub(crate) fn for_each_word(
    words: &[AtomicU64],
    first: ObjectIndex,
    objects: u32,
    mut each: impl FnMut(&AtomicU64, StateWord),
) {
    // Mostly all of them count.
    if first.add(64).get() <= objects {
        for word in words {
            each(word, StateWord::whole(word.load(Relaxed)));
        }
    } else {
        for (word, past) in words.iter().zip((0..).step_by(8)) {
            each(word, StateWord::of(word.load(Relaxed), first.add(past), objects));
        }
    }
}

/// Returns a bit for each of the eight bytes, the first lowest.
pub(crate) const fn gathered(bytes: u64) -> u64 {
    // Byte i is moved to bit 56 + i; none of the sums carries.
    bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Returns the sum of the eight bytes of a word, if it is less than 256.
pub(crate) const fn summed(bytes: u64) -> u32 {
    // The highest byte of the product is their sum.
    low_u32(bytes.wrapping_mul(ONES) >> 56)
}

/// Returns the indices of the bytes that are meant, the first being `first`.
pub(crate) fn indices(mut bytes: u64, first: ObjectIndex) -> impl Iterator<Item = ObjectIndex> {
    core::iter::from_fn(move || {
        (bytes != 0).then(|| {
            let at = bytes.trailing_zeros() / 8;
            bytes &= bytes - 1;
            first.add(at)
        })
    })
}

/// Returns the state of one of the eight bytes of a word.
pub(crate) const fn nth(states: u64, index: ObjectIndex) -> State {
    State(low_u8(u64::from_le(states) >> (index.get() % 8 * 8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt_slab::survived;
    use crate::state::ObjectState;

    /// Every byte in every place, beside others of any kind.
    #[test]
    fn eight_at_a_time_are_as_one_by_one() {
        let mut other = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in 0..=u8::MAX {
            for place in 0..8_usize {
                for objects in [8, place as u32 + 1, place as u32] {
                    other = other.rotate_left(7).wrapping_mul(0x2545_f491_4f6c_dd1d);
                    let mut bytes = other.to_ne_bytes();
                    bytes[place] = byte;
                    let word = u64::from_ne_bytes(bytes);
                    let state_word =
                        StateWord::of(word, ObjectIndex::of_state_word(3), 24 + objects);
                    assert_eq!(summed(state_word.others(0)), objects);
                    let states = || (0..objects).map(|i| (i, State(bytes[i as usize])));
                    let those = |is: &dyn Fn(State) -> bool| -> u64 {
                        states().filter(|(_, state)| is(*state)).map(|(i, _)| 1 << i).sum()
                    };
                    for preserving in [false, true] {
                        let unsound = |state: State| match state.what() {
                            Some(ObjectState::Held) => preserving,
                            what => what.is_none(),
                        };
                        assert_eq!(gathered(state_word.unsound(preserving)), those(&unsound));
                        if state_word.unsound(preserving) == 0 {
                            let survivors = state_word.survivors(preserving);
                            let each = those(&|state| survived(state, preserving));
                            assert_eq!(gathered(survivors), each, "{bytes:?}");
                            assert_eq!(
                                gathered(state_word.others(survivors)),
                                each ^ ((1 << objects) - 1)
                            );
                        }
                    }
                    let unclaimed = those(&|s| s.is(ObjectState::Unclaimed));
                    assert_eq!(gathered(state_word.unclaimed()), unclaimed);
                    let gone = state_word.others(state_word.survivors(false));
                    assert_eq!(summed(gone * 3), 3 * gone.count_ones());
                    let listed: u64 =
                        indices(gone, ObjectIndex::new(24)).map(|i| 1 << (i.get() - 24)).sum();
                    assert_eq!(listed, gathered(gone));
                    for whats in [
                        [ObjectState::Unclaimed, ObjectState::Free],
                        [ObjectState::Held, ObjectState::Quarantined],
                    ] {
                        let other = state_word.unclaimed() & !gone;
                        let now = state_word.changed([gone, other], whats);
                        let now = now.unwrap_or(word).to_ne_bytes();
                        let each = (0..8).map(|i| {
                            let [one, two] = whats.map(|what| State(bytes[i]).to(what).0);
                            match [gone, other].map(|mask| gathered(mask) >> i & 1 == 1) {
                                [true, _] => one,
                                [_, true] => two,
                                _ => bytes[i],
                            }
                        });
                        assert!(each.eq(now), "{bytes:?} {whats:?}");
                    }
                    assert!(
                        states().all(|(i, state)| nth(word, ObjectIndex::new(24 + i)) == state)
                    );
                }
            }
        }
    }
}
