//! Why a walk over an area ends early.

use crate::error::Error;

/// What ended a walk over an area.
pub(super) enum Stop<E> {
    /// The area is not sound.
    Area(Error),
    /// The caller's own error.
    Each(E),
}

impl<E> From<Error> for Stop<E> {
    fn from(error: Error) -> Self {
        Self::Area(error)
    }
}
