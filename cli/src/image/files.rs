//! The files of an image, read wherever they are looked at.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::kdump::Kdump;
use super::piece::{Bytes, Piece};

/// Files that together have a machine's memory.
#[derive(Debug)]
pub(super) struct Files {
    /// Those that are read.
    pub(super) read: Vec<File>,
    /// Which of them nothing else can write to.
    pub(super) own: Vec<bool>,
    /// Those that the user named, which are the same but for what had to be unpacked: device and number.
    pub(super) named: Vec<(u64, u64)>,
    /// How the first has pages, if it has them packed.
    pub(super) kdump: Option<Kdump>,
}

impl Files {
    /// Whether `other` is one of them, under whatever name.
    pub(super) fn are(&self, other: &Metadata) -> bool {
        self.named.contains(&identity(other))
    }

    /// The file of this number, if it cannot become shorter while it is mapped.
    pub(super) fn mappable(&self, file: usize) -> Option<&File> {
        if *self.own.get(file)? { self.read.get(file) } else { None }
    }

    /// Of the pages that `piece` has from byte `skip` on in `bytes` bytes, the bytes before the first that is packed and
    /// cannot be unpacked, and how many are so.
    pub(super) fn unreadable(&self, piece: &Piece, skip: u64, bytes: u64) -> Option<(u64, u64)> {
        let Bytes::Packed { first } = piece.from else { return None };
        let (kdump, file) = (self.kdump.as_ref()?, self.read.first()?);
        kdump.unreadable(file, length(file).ok()?, first, skip, bytes)
    }

    /// Reads what `piece` has from byte `skip` on; `None` if a file ends before, or cannot be read.
    pub(super) fn read(&self, piece: &Piece, skip: u64, into: &mut [u8]) -> Option<()> {
        match piece.from {
            Bytes::At { file, offset } => {
                self.read.get(file)?.read_exact_at(into, offset.checked_add(skip)?).ok()
            }
            Bytes::Packed { first } => {
                self.kdump.as_ref()?.read(self.read.first()?, first, skip, into)
            }
            Bytes::Zero => {
                into.fill(0);
                Some(())
            }
        }
    }
}

/// What a file is known by.
pub(crate) fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// How many bytes a file has.
pub(super) fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}
