//! What can go wrong as a successor looks for what it inherits.

use core::fmt;
use std::os::fd::RawFd;

use super::names::{VARIABLE, VERSION};
use crate::arena::ArenaError;

/// An error of a successor that looks for what it inherits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JumpError {
    /// The variable is not valid UTF-8.
    NotText,
    /// The variable was written by another version.
    Version,
    /// A field is missing, or not where it should be.
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field's value is none.
    Malformed {
        /// Its name.
        field: &'static str,
    },
    /// Something follows the last field.
    Trailing,
    /// The descriptor is not open.
    NotOpen {
        /// The descriptor.
        fd: RawFd,
    },
    /// The descriptor is open and no arena's.
    NotMemory {
        /// The descriptor.
        fd: RawFd,
        /// What it is not.
        reason: ArenaError,
    },
    /// The descriptor has been taken before.
    TakenAlready,
}

impl JumpError {
    /// Returns the error's number: 450 to 499, the same in every release, for callers in other languages.
    ///
    /// # Examples
    /// ```
    /// use heirloom::jump::JumpError;
    /// assert_eq!(JumpError::TakenAlready.code(), 457);
    /// ```
    pub const fn code(&self) -> u16 {
        match self {
            Self::NotText => 450,
            Self::Version => 451,
            Self::Missing { .. } => 452,
            Self::Malformed { .. } => 453,
            Self::Trailing => 454,
            Self::NotOpen { .. } => 455,
            Self::NotMemory { .. } => 456,
            Self::TakenAlready => 457,
        }
    }
}

impl fmt::Display for JumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VARIABLE}: ")?;
        match self {
            Self::NotText => f.write_str("no text"),
            Self::Version => write!(f, "another version than {VERSION}"),
            Self::Missing { field } => write!(f, "no field {field} where it should be"),
            Self::Malformed { field } => write!(f, "field {field} has no value that makes sense"),
            Self::Trailing => f.write_str("more than the last field"),
            Self::NotOpen { fd } => write!(f, "descriptor {fd} is not open"),
            Self::NotMemory { fd, reason } => write!(f, "descriptor {fd}: {reason}"),
            Self::TakenAlready => f.write_str("the descriptor was taken before"),
        }
    }
}

impl core::error::Error for JumpError {}
