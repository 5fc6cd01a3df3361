//! The search: depth first, each state gone into once for each length that lies ahead.

use std::collections::HashMap;
use std::fmt::Debug;

/// The longest sequences there can be.
const MOST: usize = 12;

/// For each length, how many sequences of at most that length there are from a state on.
type Ahead = [u64; MOST + 1];

/// A world that can be put back.
pub trait World {
    /// An operation.
    type Step: Copy + Debug;
    /// A world as it was.
    type Saved;

    /// Every operation that makes a difference here.
    fn steps(&self) -> Vec<Self::Step>;
    /// Does one, and checks everything.
    fn take(&mut self, step: Self::Step);
    /// A copy of the world.
    fn save(&self) -> Self::Saved;
    /// Puts it back.
    fn restore(&mut self, saved: &Self::Saved);
    /// What is the same of two worlds only if nothing tells them apart.
    fn digest(&mut self) -> u128;
}

/// What a search went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// States, all different.
    pub states: u64,
    /// Operations done and checked.
    pub steps: u64,
    /// Sequences that these stand for.
    pub sequences: u64,
}

struct Search<W: World> {
    seen: HashMap<u128, (usize, Ahead)>,
    path: Vec<W::Step>,
    steps: u64,
}

impl<W: World> Drop for Search<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:#?}", self.path);
        }
    }
}

impl<W: World> Search<W> {
    fn go(&mut self, world: &mut W, depth: usize) -> Ahead {
        let saved = world.save();
        let mut ahead = [0_u64; MOST + 1];
        for step in world.steps() {
            self.path.push(step);
            world.take(step);
            self.steps += 1;
            let digest = world.digest();
            let below = match self.seen.get(&digest) {
                Some((seen, below)) if *seen + 1 >= depth => *below,
                _ => {
                    let below = if depth > 1 { self.go(world, depth - 1) } else { [0; MOST + 1] };
                    self.seen.insert(digest, (depth - 1, below));
                    below
                }
            };
            for (sum, more) in ahead.iter_mut().skip(1).zip(below) {
                *sum = sum.saturating_add(more.saturating_add(1));
            }
            world.restore(&saved);
            self.path.pop();
        }
        ahead
    }
}

/// Tries every sequence of at most `depth` operations.
///
/// # Panics
/// Where the world does, naming the sequence; and if `depth` is above what there can be.
pub fn search<W: World>(world: &mut W, depth: usize) -> Found {
    assert!(depth <= MOST);
    let mut search = Search { seen: HashMap::new(), path: Vec::new(), steps: 0 };
    let start = world.digest();
    let ahead = search.go(world, depth);
    search.seen.insert(start, (depth, ahead));
    Found { states: search.seen.len() as u64, steps: search.steps, sequences: ahead[depth] }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that wraps round, so that many sequences lead to one state.
    struct Wheel(u64);

    impl World for Wheel {
        type Step = u64;
        type Saved = u64;

        fn steps(&self) -> Vec<u64> {
            vec![1, 2, 5]
        }

        fn take(&mut self, step: u64) {
            self.0 = (self.0 + step) % 7;
        }

        fn save(&self) -> u64 {
            self.0
        }

        fn restore(&mut self, saved: &u64) {
            self.0 = *saved;
        }

        fn digest(&mut self) -> u128 {
            self.0.into()
        }
    }

    #[test]
    fn all_sequences_are_counted_and_each_state_once() {
        let found = search(&mut Wheel(0), 6);
        let all: u64 = (1..=6).map(|length| 3_u64.pow(length)).sum();
        assert_eq!((found.states, found.sequences), (7, all));
        assert!(found.steps < all);
    }
}
