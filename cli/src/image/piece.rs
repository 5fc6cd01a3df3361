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
    /// Those of a file from here on.
    At {
        file: usize,
        offset: u64,
    },
    /// Packed pages, from the one with this number on.
    Packed {
        first: u64,
    },
    Zero,
}

impl Piece {
    /// Bytes of the first file.
    pub(super) const fn of_file(start: u64, bytes: u64, offset: u64) -> Self {
        Self { start, bytes, from: Bytes::At { file: 0, offset } }
    }

    /// Zeroes from `start` up to `end`.
    pub(super) const fn zeroes(start: u64, end: u64) -> Self {
        Self { start, bytes: end - start, from: Bytes::Zero }
    }

    /// The address behind it. There is one: what makes a piece has looked.
    pub(super) const fn end(self) -> u64 {
        self.start + self.bytes
    }

    /// What it has from `addr` on, which is in it; `None` if its pages are packed.
    pub(super) const fn from(self, addr: u64) -> Option<Self> {
        let skip = addr - self.start;
        let from = match self.from {
            Bytes::At { file, offset } => Bytes::At { file, offset: offset + skip },
            Bytes::Packed { .. } => return None,
            Bytes::Zero => Bytes::Zero,
        };
        Some(Self { start: addr, bytes: self.bytes - skip, from })
    }
}
