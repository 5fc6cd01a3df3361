//! Eight state bytes at a time: which of them survive, which are no states.
//!
//! A byte's lowest three bits say what its object is (see [`crate::state`]). Each answer is a word with a
//! one in the lowest bit of the bytes that are meant.

use heirloom_kho::narrow::low_u8;

use crate::geometry::ObjectIndex;
use crate::state::State;

/// The lowest bit of each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Eight state bytes, the first in the lowest byte.
#[derive(Clone, Copy)]
pub(crate) struct StateWord {
    /// The three bits of each byte that say what its object is, each in the lowest bit of its byte.
    bits: [u64; 3],
    /// The bytes that count.
    among: u64,
}

impl StateWord {
    /// Returns the states in a word, of `first` and those behind it; there are `objects` in all.
    pub(crate) fn of(states: u64, first: ObjectIndex, objects: u32) -> Self {
        // As they lie in memory, the first first.
        let states = u64::from_le(states);
        let there = objects.saturating_sub(first.get()).min(8);
        let among = if there == 8 { ONES } else { ONES & ((1 << (there * 8)) - 1) };
        Self { bits: [states & among, states >> 1 & among, states >> 2 & among], among }
    }

    /// Returns those that are no states of a cache that is `preserving`, or is not: 6 and 7, and
    /// there 5 too.
    pub(crate) const fn unsound(self, preserving: bool) -> u64 {
        let [a, b, c] = self.bits;
        c & if preserving { a | b } else { b }
    }

    /// Returns those whose object outlives the kernel that wrote them; all are sound. As
    /// [`survived`].
    ///
    /// [`survived`]: crate::adopt_slab::survived
    pub(crate) const fn survivors(self, preserving: bool) -> u64 {
        let [a, b, c] = self.bits;
        // Preserved, unclaimed, held; and live.
        b & !c | a & c | if preserving { a & !c } else { 0 }
    }

    /// Returns those that are free.
    pub(crate) const fn free(self) -> u64 {
        let [a, b, c] = self.bits;
        self.among & !(a | b | c)
    }

    /// Returns those that are unclaimed.
    pub(crate) const fn unclaimed(self) -> u64 {
        let [a, b, c] = self.bits;
        a & b & !c
    }

    /// Returns those that are live.
    pub(crate) const fn live(self) -> u64 {
        let [a, b, c] = self.bits;
        a & !b & !c
    }

    /// Returns how many there are.
    pub(crate) const fn count(self) -> u32 {
        self.among.count_ones()
    }

    /// Returns those that count and are not in `these`.
    pub(crate) const fn others(self, these: u64) -> u64 {
        self.among & !these
    }
}

/// Returns a bit for each of the eight bytes, the first lowest.
pub(crate) const fn gathered(bytes: u64) -> u64 {
    // Byte i is moved to bit 56 + i; none of the sums carries.
    bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56
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
                    assert_eq!(state_word.count(), objects);
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
                    assert_eq!(
                        gathered(state_word.free()),
                        those(&|state| state.is(ObjectState::Free))
                    );
                    assert_eq!(
                        gathered(state_word.live()),
                        those(&|state| state.is(ObjectState::Live))
                    );
                    let unclaimed = state_word.unclaimed();
                    assert_eq!(gathered(unclaimed), those(&|s| s.is(ObjectState::Unclaimed)));
                    let listed: u64 =
                        indices(unclaimed, ObjectIndex::new(24)).map(|i| 1 << (i.get() - 24)).sum();
                    assert_eq!(listed, gathered(unclaimed));
                    assert!(
                        states().all(|(i, state)| nth(word, ObjectIndex::new(24 + i)) == state)
                    );
                }
            }
        }
    }
}
