//! What a survey comes upon, as it is taken down: folios in rows, and the tree's nodes.

use heirloom_kho::tree::{FolioRange, Ledger, Tree, TreeFault};
use heirloom_kho::{Block, Left, Order, Pfn, Run};

use crate::frames::Frames;
use crate::image::Image;

/// Takes down what a survey comes upon.
pub(crate) struct Recorder<'l, 'i> {
    pub(crate) frames: Frames,
    pub(crate) tree: Option<Tree<'l, Left<'i, Image>>>,
    /// The handover's own tables, which a survey takes as well, preserved or not.
    pub(crate) tables: Vec<Run>,
    pub(crate) rows: Vec<FolioRange>,
    pub(crate) nodes: Vec<Pfn>,
}

impl Recorder<'_, '_> {
    /// Blocks come by order and address.
    fn put(&mut self, block: Block) {
        let is_table = self.tables.iter().any(|run| run.overlaps(block.run()));
        if is_table && !self.tree.is_some_and(|tree| tree.contains(block)) {
            return;
        }
        if let Some(row) = self.rows.last_mut()
            && row.first().order() == block.order()
            && row.run().end() == block.pfn()
            && let Some(longer) = FolioRange::new(row.first(), row.count() + 1)
        {
            *row = longer;
        } else {
            self.rows.extend(FolioRange::new(block, 1));
        }
    }
}

impl Ledger for Recorder<'_, '_> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        self.frames.take(block)?;
        self.put(block);
        Ok(())
    }

    fn take_word(&mut self, first: Pfn, frames: u64) -> Result<(), (u32, TreeFault)> {
        let taken = self.frames.take_word(first, frames);
        let below = taken.map_or_else(|(bit, _)| (1 << bit) - 1, |()| u64::MAX);
        let mut rest = frames & below;
        while rest != 0 {
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            self.put(Block::containing(first.add(bit.into()), Order::ZERO));
        }
        taken
    }

    fn take_node(&mut self, node: Block) -> Result<(), TreeFault> {
        self.frames.take_node(node)?;
        self.nodes.push(node.pfn());
        Ok(())
    }

    fn keep_out(&mut self, area: Run) {
        self.frames.keep_out(area);
    }

    fn claim(&mut self, block: Block) -> bool {
        self.frames.claim(block)
    }
}
