//! Programs: sequences of operations whose operands choose among what there is, so that any part of
//! a program is one too; and the shortest part of one that still fails.

use core::fmt;

use heirloom_testkit::Rng;

/// An operation. What it is done to is chosen by a [`Step`]'s two numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Go on on another CPU, or where there is none.
    Cpu,
    /// Keep some CPUs busy, so that what they keep is out of reach.
    Hold,
    /// Add the late range.
    AddRange,
    /// A folio of any order, node and content.
    Folio,
    /// A folio or a run at an address.
    At,
    /// A run of any length and alignment.
    Run,
    /// Shorten or lengthen a run in place.
    Resize,
    /// Frames out of use, and back in use.
    Reserve,
    /// Free whatever it is, and once more.
    Free,
    /// Free by what is no name of it: inside, another order, another kind.
    Misuse,
    /// Preserve whatever it is.
    Preserve,
    /// Let it go.
    Unpreserve,
    /// Preserve many folios at once.
    PreserveAll,
    /// Let many go at once.
    UnpreserveAll,
    /// Folios side by side, preserved and let go as one row.
    Row,
    /// An area over new folios.
    Area,
    /// A list of records.
    Records,
    /// More entries for a list.
    Push,
    /// A buffer of any layout.
    Buffer,
    /// A buffer of another size.
    Realloc,
    /// An object of a cache.
    Object,
    /// Publish bytes.
    Publish,
    /// Take them back.
    Unpublish,
    /// A subtree of our own, added or removed.
    Subtree,
    /// Claim what was published.
    ClaimRoot,
    /// Claim what the predecessor left.
    Claim,
    /// Claim what is not there: forged, stale, of another kind.
    Forge,
    /// Adopt a cache.
    Adopt,
    /// Resume a cache, or all classes.
    Resume,
    /// Pass a predecessor's objects to a function.
    Upgrade,
    /// End the inheritance.
    Finish,
    /// Give back what caches keep.
    Shrink,
    /// Take all memory but a little.
    Squeeze,
    /// Give that back.
    Relax,
    /// Seal the handover, or break the seal.
    Seal,
    /// The kernel ends, another takes over.
    Jump,
}

/// How often each operation comes, of the sum of all.
const WEIGHTS: [(Op, u64); 36] = [
    (Op::Cpu, 6),
    (Op::Hold, 1),
    (Op::AddRange, 1),
    (Op::Folio, 12),
    (Op::At, 3),
    (Op::Run, 8),
    (Op::Resize, 4),
    (Op::Reserve, 1),
    (Op::Free, 22),
    (Op::Misuse, 6),
    (Op::Preserve, 20),
    (Op::Unpreserve, 7),
    (Op::PreserveAll, 3),
    (Op::UnpreserveAll, 2),
    (Op::Row, 2),
    (Op::Area, 3),
    (Op::Records, 2),
    (Op::Push, 3),
    (Op::Buffer, 16),
    (Op::Realloc, 6),
    (Op::Object, 20),
    (Op::Publish, 2),
    (Op::Unpublish, 1),
    (Op::Subtree, 1),
    (Op::ClaimRoot, 2),
    (Op::Claim, 30),
    (Op::Forge, 6),
    (Op::Adopt, 4),
    (Op::Resume, 3),
    (Op::Upgrade, 1),
    (Op::Finish, 2),
    (Op::Shrink, 1),
    (Op::Squeeze, 2),
    (Op::Relax, 3),
    (Op::Seal, 1),
    (Op::Jump, 2),
];

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
            if at < weight {
                op = this;
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
