//! Which frames are in use, a bit each: what the model finds room in.

use bitvec::vec::BitVec;
use heirloom::folio::{FrameType, Memory, NodeId};
use heirloom::kho::{Order, Pfn, Run};
use heirloom_testkit::TestMachine;

/// A bit for each frame of each range: whether somebody has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    ranges: Vec<(Run, NodeId, BitVec)>,
}

impl Frames {
    /// The ranges of a memory, nothing in use.
    pub(super) fn new(memory: &Memory<&TestMachine>) -> Self {
        let bits = |run: Run| BitVec::repeat(false, run.frames() as usize);
        Self { ranges: memory.ranges().map(|(run, node)| (run, node, bits(run))).collect() }
    }

    /// Somebody has these frames.
    ///
    /// # Panics
    /// If one of them is no memory, or is in use already.
    pub(super) fn take(&mut self, run: Run) {
        for i in 0..run.frames() {
            let pfn = run.start().add(i);
            let found = self.ranges.iter_mut().find(|(range, ..)| range.contains(pfn));
            let (range, _, bits) = found.unwrap_or_else(|| panic!("{pfn} is no memory"));
            let before = bits.replace((pfn.get() - range.start().get()) as usize, true);
            assert!(!before, "{pfn} of {run} has two owners");
        }
    }

    /// Whether all of these are in one range, and nobody's.
    pub(crate) fn is_free(&self, run: Run) -> bool {
        self.ranges.iter().any(|(range, _, bits)| {
            range.covers(run) && {
                let start = (run.start().get() - range.start().get()) as usize;
                bits[start..start + run.frames() as usize].not_any()
            }
        })
    }

    /// Whether so many frames in a row, so aligned, are free, on this node or on any.
    pub(super) fn fits(&self, frames: u64, align: Order, node: Option<NodeId>) -> bool {
        self.ranges.iter().filter(|(_, of, _)| node.is_none_or(|node| node == *of)).any(
            |(range, _, bits)| {
                let mut free = 0;
                (0..range.frames()).any(|i| {
                    free = if bits[i as usize] { 0 } else { free + 1 };
                    if free < frames {
                        return false;
                    }
                    // The last start that is aligned and from which they are free up to here.
                    let end = range.start().get() + i + 1;
                    let start = Pfn::new(end - frames);
                    start.is_aligned(align)
                })
            },
        )
    }

    /// How many are nobody's, on this node or on all.
    pub(super) fn free(&self, node: Option<NodeId>) -> u64 {
        let these = self.ranges.iter().filter(|(_, of, _)| node.is_none_or(|node| node == *of));
        these.map(|(.., bits)| bits.count_zeros() as u64).sum()
    }

    /// Frames in all.
    pub(super) fn count(&self) -> u64 {
        self.ranges.iter().map(|(range, ..)| range.frames()).sum()
    }

    /// The `n`-th frame, going round.
    ///
    /// # Panics
    /// If there is no memory.
    pub(super) fn nth(&self, n: u64) -> Pfn {
        let mut n = n % self.count();
        for (range, ..) in &self.ranges {
            if n < range.frames() {
                return range.start().add(n);
            }
            n -= range.frames();
        }
        unreachable!("below the count")
    }
}

/// Calls `each` with everything that the kinds bytes say is somebody's, by address.
pub(super) fn walk(memory: &Memory<&TestMachine>, mut each: impl FnMut(Run, FrameType, bool)) {
    for (range, _) in memory.ranges() {
        let mut pfn = range.start();
        while pfn < range.end() {
            match memory.owning_block(pfn) {
                Some((run, kind, preserved)) => {
                    assert!(run.contains(pfn) && range.covers(run), "{run} holds {pfn}");
                    each(run, kind, preserved);
                    pfn = run.end();
                }
                None => pfn = pfn.add(1),
            }
        }
    }
}
