//! What can go wrong with a container, with what a person needs to find the fault.

use core::fmt;

use heirloom_kho::PhysAddr;

/// An error of a container. Nothing was changed where one is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The layer below: out of memory, or a handle that it refuses.
    Slab(heirloom_slab::Error),
    /// The handle is none of a container.
    Handle(heirloom_kho::Error),
    /// A key or a value is longer than one can be.
    TooLong {
        /// What is.
        part: Part,
        /// Bytes that it has.
        bytes: usize,
        /// Bytes that it can have.
        max: usize,
    },
    /// The container has as many elements as it can have.
    Full {
        /// How many.
        max: u64,
    },
    /// What the predecessor left is another container, or was written by a build that means something else by it.
    Mismatch {
        /// Where its head is.
        head: PhysAddr,
        /// The first thing that differs.
        field: Field,
        /// What this build wants.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A word of the container leads to nothing that is the container's.
    Damaged {
        /// Where its head is.
        head: PhysAddr,
        /// Which bucket, segment or position the word belongs to.
        at: u64,
        /// The word.
        found: u64,
    },
}

/// What of an entry is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Part {
    /// The key.
    Key,
    /// The value.
    Value,
}

/// What of a container's head differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Field {
    /// Which kind of container it is, and in which version.
    Kind,
    /// How its elements are laid out.
    Layout,
    /// The hash that it was filled with.
    Hash,
    /// How large it says to be.
    Size,
}

impl Error {
    /// Returns whether free memory was all that was missing: the call can be repeated once there is some. What was there
    /// before is there still.
    pub const fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Slab(error) if error.is_out_of_memory())
    }
}

impl From<heirloom_slab::Error> for Error {
    fn from(error: heirloom_slab::Error) -> Self {
        Self::Slab(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slab(error) => error.fmt(f),
            Self::Handle(error) => error.fmt(f),
            Self::TooLong { part, bytes, max } => {
                let part = if *part == Part::Key { "key" } else { "value" };
                write!(f, "a {part} of {bytes} bytes; up to {max} are possible")
            }
            Self::Full { max } => write!(f, "there are {max} elements, as many as can be"),
            Self::Mismatch { head, field, expected, found } => {
                let field = match field {
                    Field::Kind => "kind",
                    Field::Layout => "layout",
                    Field::Hash => "hash",
                    Field::Size => "size",
                };
                write!(
                    f,
                    "container at {head}: {field}: found {found:#x}, this build {expected:#x}"
                )
            }
            Self::Damaged { head, at, found } => {
                write!(f, "container at {head}: word {found:#x} of {at} leads to nothing of it")
            }
        }
    }
}

impl core::error::Error for Error {}
