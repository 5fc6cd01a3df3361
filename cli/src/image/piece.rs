//! Stretches of a file that are stretches of physical memory.

/// A stretch of a file that is a stretch of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Its physical address.
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) from: Bytes,
}

/// What a piece's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bytes {
    /// Those of the file from here on.
    At(u64),
    Zero,
}

impl Piece {
    /// The address behind it. There is one: what makes a piece has looked.
    pub(super) const fn end(self) -> u64 {
        self.start + self.bytes
    }
}
