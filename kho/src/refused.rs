//! What an operation that takes a value over returns where it refuses.

use core::fmt;

/// An operation on an owned value that was refused: the reason, and the value unchanged.
pub struct Refused<T, E> {
    /// Why.
    pub error: E,
    /// What was passed in, still the caller's.
    pub value: T,
}

impl<T, E: fmt::Debug> fmt::Debug for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T, E: fmt::Display> fmt::Display for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T, E: fmt::Debug + fmt::Display> core::error::Error for Refused<T, E> {}
