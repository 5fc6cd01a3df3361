//! The raw calls that preserve and let go.

use heirloom_folio::{Error, Extent, Machine, Memory};

/// The raw calls that preserve and let go, as the tests make them: what they name is the test's own,
/// and nothing else changes it meanwhile, or it is not allocated so, and refused.
pub(crate) trait Owned {
    /// [`Memory::preserve`].
    fn keep<E: Extent>(&self, extent: E) -> Result<(), Error>;
    /// [`Memory::unpreserve`].
    fn let_go<E: Extent>(&self, extent: E) -> Result<(), Error>;
}

impl<M: Machine> Owned for Memory<M> {
    fn keep<E: Extent>(&self, extent: E) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.preserve(extent) }
    }

    fn let_go<E: Extent>(&self, extent: E) -> Result<(), Error> {
        // SAFETY: see the trait.
        unsafe { self.unpreserve(extent) }
    }
}
