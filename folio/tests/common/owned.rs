//! The raw calls that preserve and let go.

use heirloom_folio::{Block, Error, Kind, Machine, Memory, Run};
use heirloom_kho::tree::Adjacent;

/// The raw calls that preserve and let go, as the tests make them: what they name is the test's own,
/// and nothing else changes it meanwhile, or it is no allocated folio or run, and refused.
pub(crate) trait Owned {
    /// [`Memory::preserve`].
    fn keep(&self, block: Block) -> Result<(), Error>;
    /// [`Memory::unpreserve`].
    fn let_go(&self, block: Block) -> Result<(), Error>;
    /// [`Memory::preserve_run`].
    fn keep_run(&self, run: Run, kind: Kind) -> Result<(), Error>;
    /// [`Memory::unpreserve_run`].
    fn let_go_run(&self, run: Run, kind: Kind) -> Result<(), Error>;
    /// [`Memory::preserve_all`].
    fn keep_all(&self, blocks: &[Block]) -> Result<(), Error>;
    /// [`Memory::unpreserve_all`].
    fn let_go_all(&self, blocks: &[Block]) -> Result<(), Error>;
    /// [`Memory::preserve_adjacent`].
    fn keep_adjacent(&self, row: Adjacent) -> Result<(), Error>;
    /// [`Memory::unpreserve_adjacent`].
    fn let_go_adjacent(&self, row: Adjacent) -> Result<(), Error>;
}

impl<M: Machine> Owned for Memory<M> {
    fn keep(&self, block: Block) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.preserve(block) }
    }

    fn let_go(&self, block: Block) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.unpreserve(block) }
    }

    fn keep_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.preserve_run(run, kind) }
    }

    fn let_go_run(&self, run: Run, kind: Kind) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.unpreserve_run(run, kind) }
    }

    fn keep_all(&self, blocks: &[Block]) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.preserve_all(blocks) }
    }

    fn let_go_all(&self, blocks: &[Block]) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.unpreserve_all(blocks) }
    }

    fn keep_adjacent(&self, row: Adjacent) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.preserve_adjacent(row) }
    }

    fn let_go_adjacent(&self, row: Adjacent) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.unpreserve_adjacent(row) }
    }
}
