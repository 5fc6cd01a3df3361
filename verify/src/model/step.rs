//! Programs: sequences of operations whose operands choose among what there is, so that any part of
//! a program is one too; and the shortest part of one that still fails.

use core::fmt;

use heirloom_testkit::Rng;

/// Defines the operations, and how often each comes, of the sum of all.
macro_rules! operations {
    ($(#[$meta:meta] $op:ident: $weight:expr,)*) => {
        /// An operation. What it is done to is chosen by a [`Step`]'s two numbers.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Op {
            $(#[$meta] $op,)*
        }

        /// How often each operation comes, of the sum of all.
        const WEIGHTS: &[(Op, u64)] = &[$((Op::$op, $weight)),*];
    };
}

operations! {
    /// Go on on another CPU, or where there is none.
    Cpu: 6,
    /// Keep some CPUs busy, so that what they keep is out of reach.
    Hold: 1,
    /// Add the late range.
    AddRange: 1,
    /// A folio of any order, node and content.
    Folio: 12,
    /// A folio or a run at an address.
    At: 3,
    /// A run of any length and alignment.
    Run: 8,
    /// Shorten or lengthen a run in place.
    Resize: 4,
    /// Frames out of use, and back in use.
    Reserve: 1,
    /// Free whatever it is, and once more.
    Free: 22,
    /// Free by what is no name of it: inside, another order, another kind.
    Misuse: 6,
    /// Preserve whatever it is.
    Preserve: 20,
    /// Let it go.
    Unpreserve: 7,
    /// Preserve many folios at once.
    PreserveAll: 3,
    /// Let many go at once.
    UnpreserveAll: 2,
    /// Folios side by side, preserved and let go as one row.
    Row: 2,
    /// An area over new folios.
    Area: 3,
    /// A list of records.
    Records: 2,
    /// More entries for a list.
    Push: 3,
    /// A buffer of any layout.
    Buffer: 16,
    /// A buffer of another size.
    Realloc: 6,
    /// An object of a cache.
    Object: 20,
    /// Publish bytes.
    Publish: 2,
    /// Take them back.
    Unpublish: 1,
    /// A subtree of our own, added or removed.
    Subtree: 1,
    /// Claim what was published.
    ClaimRoot: 2,
    /// Claim what the predecessor left.
    Claim: 30,
    /// Claim what is not there: forged, stale, of another kind.
    Forge: 6,
    /// Adopt a cache.
    Adopt: 4,
    /// Resume a cache, or all classes.
    Resume: 3,
    /// Pass a predecessor's objects to a function.
    Upgrade: 1,
    /// End the inheritance.
    Finish: 2,
    /// Give back what caches keep.
    Shrink: 1,
    /// Take all memory but a little.
    Squeeze: 2,
    /// Give that back.
    Relax: 3,
    /// Seal the handover, or break the seal.
    Seal: 1,
    /// The kernel ends, another takes over.
    Jump: 2,
}

/// One operation with two numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// To what.
    pub a: u64,
    /// And how.
    pub b: u64,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, a, b } = self;
        write!(f, "Step {{ op: Op::{op:?}, a: {a}, b: {b} }}")
    }
}

/// The program of a seed.
pub fn generate(seed: u64, length: usize) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let all: u64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut next = || {
        let mut at = rng.below(all);
        let mut op = Op::Cpu;
        for (this, weight) in WEIGHTS {
            if at < *weight {
                op = *this;
                break;
            }
            at -= weight;
        }
        // Small enough to be read in a report.
        Step { op, a: rng.below(1 << 20), b: rng.below(1 << 20) }
    };
    (0..length).map(|_| next()).collect()
}

/// The shortest program that `fails` can be brought to by leaving steps out (Zeller's ddmin), in at
/// most `tries` runs.
pub fn minimise(
    mut program: Vec<Step>,
    mut tries: u32,
    mut fails: impl FnMut(&[Step]) -> bool,
) -> Vec<Step> {
    let mut chunk = program.len() / 2;
    while chunk > 0 && tries > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < program.len() && tries > 0 {
            let end = (at + chunk).min(program.len());
            let without = [&program[..at], &program[end..]].concat();
            tries -= 1;
            if fails(&without) {
                program = without;
                shorter = true;
            } else {
                at = end;
            }
        }
        if !shorter || chunk > 1 {
            chunk /= 2;
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let program = generate(7, 5000);
        let matters = |steps: &[Step]| {
            steps.iter().any(|s| s.op == Op::Seal) && steps.iter().any(|s| s.op == Op::Jump)
        };
        assert!(matters(&program));
        assert_eq!(minimise(program, 1000, matters).len(), 2);
    }
}
