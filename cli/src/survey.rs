//! A handover gone through once: what it preserves, and all that is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use heirloom_folio::tracker::{Adjacent, Counts, Ledger, Tables, Tree, check};
use heirloom_folio::{Block, PAGE_SIZE, Pfn, PhysAddr, Run, TreeFault};
use heirloom_restore::{Pages, RootView, ScratchList};

use crate::image::Image;

/// Something that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// The page or the table at fault.
    pub(crate) at: PhysAddr,
    pub(crate) reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

/// A handover, gone through.
#[derive(Debug)]
pub(crate) struct Survey<'i> {
    pub(crate) image: &'i Image,
    /// Where the root page is.
    pub(crate) at: PhysAddr,
    /// The root page, if it can be read.
    pub(crate) root: Option<RootView<'i>>,
    pub(crate) counts: Counts,
    /// What the root page calls itself.
    pub(crate) compatible: String,
    /// Folios that share a frame with something found before them.
    pub(crate) overlaps: u64,
    /// The preserved folios, by address, those side by side of one order together. No two of them
    /// share a frame.
    pub(crate) rows: Vec<Adjacent>,
    /// The tree's own pages, by address.
    pub(crate) nodes: Vec<Pfn>,
    /// Scratch, where it is known.
    pub(crate) scratch: Option<Vec<Run>>,
    pub(crate) findings: Vec<Finding>,
}

impl<'i> Survey<'i> {
    /// Goes through the handover whose root page is at `at`; `scratch` is where the scratch list
    /// is, and its bytes.
    pub(crate) fn new(image: &'i Image, at: PhysAddr, scratch: Option<(PhysAddr, u64)>) -> Self {
        let mut survey = Self {
            image,
            at,
            root: None,
            counts: Tree::new(at, &Nothing).counts(),
            compatible: "kho-v4".to_owned(),
            overlaps: 0,
            rows: Vec::new(),
            nodes: Vec::new(),
            scratch: None,
            findings: Vec::new(),
        };
        if let Some((list, bytes)) = scratch {
            survey.read_scratch(list, bytes);
        }
        survey.read_root();
        if let Some(map) = survey.root.as_ref().map(RootView::map) {
            survey.read_tree(map);
        }
        survey
    }

    fn find(&mut self, at: PhysAddr, reason: impl fmt::Display) {
        self.findings.push(Finding { at, reason: reason.to_string() });
    }

    fn read_scratch(&mut self, list: PhysAddr, bytes: u64) {
        let words = usize::try_from(bytes).ok().and_then(|bytes| self.image.words(list, bytes));
        let Some(words) = words else {
            return self.find(list, format_args!("scratch list: {bytes} bytes not in memory"));
        };
        // Scratch need not be in the image: a dump leaves out what is free.
        match ScratchList::new(words, list, |_| true) {
            Ok(areas) => self.scratch = Some(areas.runs().collect()),
            Err(error) => self.find(list, error),
        }
    }

    fn read_root(&mut self) {
        let at = self.at;
        let Some(words) = self.image.halves(at, PAGE_SIZE) else {
            return self.find(at, "root page: not in memory");
        };
        match RootView::new(words, at) {
            Ok(root) => self.root = Some(root),
            Err(error) => self.find(at, error),
        }
    }

    fn read_tree(&mut self, map: PhysAddr) {
        match check(map, self.image, &mut Spans::new(self.image)) {
            Ok(counts) => {
                let tree = Tree::new(map, self.image);
                self.counts = counts;
                self.rows = tree.adjacent().collect();
                self.nodes = tree.nodes().map(|node| node.addr.pfn()).collect();
            }
            Err(error) => self.find(error.node, error),
        }
        self.rows.sort_unstable_by_key(|row| row.first().pfn());
        self.nodes.sort_unstable();
    }

    /// The preserved block that frame `pfn` lies in.
    pub(crate) fn block_around(&self, pfn: Pfn) -> Option<Block> {
        let after = self.rows.partition_point(|row| row.first().pfn() <= pfn);
        let row = self.rows.get(after.checked_sub(1)?)?;
        row.run().contains(pfn).then(|| Block::containing(pfn, row.first().order()))
    }
}

impl Pages for Survey<'_> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        self.image.words(addr, bytes)
    }

    fn holds(&self, block: Block) -> bool {
        self.block_around(block.pfn()) == Some(block)
    }
}

/// No memory at all.
struct Nothing;

impl Tables for Nothing {
    fn words(&self, _: PhysAddr) -> Option<&[AtomicU64]> {
        None
    }
}

/// Frames that are taken.
struct Spans<'i> {
    image: &'i Image,
    taken: BTreeMap<Pfn, Pfn>,
}

impl<'i> Spans<'i> {
    const fn new(image: &'i Image) -> Self {
        Self { image, taken: BTreeMap::new() }
    }
}

impl Ledger for Spans<'_> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        let run = block.run();
        if !self.image.contains(run) {
            return Err(TreeFault::OutsideMemory { addr: block.addr() });
        }
        let before = self.taken.range(..run.end()).next_back();
        if before.is_some_and(|(_, end)| *end > run.start()) {
            return Err(TreeFault::Overlap { block });
        }
        self.taken.insert(run.start(), run.end());
        Ok(())
    }
}
