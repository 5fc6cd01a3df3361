//! Whose frame is whose.

use heirloom::kho::{Image, Run, ScratchList};

use crate::world::{Kernel, TestMachine};

/// The stretches of memory that have an owner, each with its owner's name.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    runs: Vec<(Run, &'static str)>,
    all: Option<Run>,
}

impl Owners {
    /// What a kernel's own tables say: nodes of the tree, what is preserved, claimed or not, scratch.
    ///
    /// # Panics
    /// If a node lies above the last frame.
    pub fn of(machine: &TestMachine, kernel: &Kernel<'_>) -> Self {
        let memory = kernel.memory();
        let mut runs = Vec::new();
        let page = |addr: heirloom::kho::PhysAddr| Run::new(addr.pfn(), 1).expect("a frame");
        memory.preserved().for_each_node(|node| runs.push((page(node.addr), "node")));
        memory.preserved().for_each(|block| {
            let who = if memory.predecessor().contains(block) { "inherited" } else { "preserved" };
            runs.push((block.run(), who));
        });
        runs.extend(scratch_of(machine, kernel).map(|run| (run, "scratch")));
        Self { runs, all: Some(machine.all()) }
    }

    /// These too.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = (Run, &'static str)>) -> Self {
        self.runs.extend(more);
        self
    }

    /// By address: what [`Owners::own`] needs.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.runs.sort_unstable_by_key(|(run, _)| run.start());
        self
    }

    /// Whether somebody owns a frame of `run`. They are apart, and sorted.
    pub fn own(&self, run: Run) -> bool {
        let before = self.runs.partition_point(|(owned, _)| owned.start() < run.end());
        let last = before.checked_sub(1).and_then(|i| self.runs.get(i));
        last.is_some_and(|(owned, _)| owned.overlaps(run))
    }

    /// The stretches.
    pub fn runs(&self) -> impl Iterator<Item = (Run, &'static str)> + '_ {
        self.runs.iter().copied()
    }

    /// No frame has two owners, and every one is memory.
    ///
    /// # Panics
    /// If one has.
    pub fn assert_apart(mut self) {
        self.runs.sort_unstable_by_key(|(run, _)| run.start());
        for (run, who) in &self.runs {
            assert!(self.all.is_none_or(|all| all.covers(*run)), "{run} ({who}) is not memory");
        }
        for pair in self.runs.windows(2) {
            let [(a, of_a), (b, of_b)] = pair else { continue };
            assert!(!a.overlaps(*b), "{a} ({of_a}) and {b} ({of_b}) have two owners");
        }
    }
}

/// The scratch areas that a kernel leaves.
pub(super) fn scratch_of(machine: &TestMachine, kernel: &Kernel<'_>) -> impl Iterator<Item = Run> {
    let entry = kernel.entry();
    // Written once, when the kernel began.
    let words = Image::words(machine, entry.scratch, entry.scratch_bytes as usize);
    let list = words.and_then(|words| ScratchList::new(words, entry.scratch, |_| true).ok());
    let runs: Vec<_> = list.into_iter().flat_map(|list| list.runs().collect::<Vec<_>>()).collect();
    runs.into_iter()
}
