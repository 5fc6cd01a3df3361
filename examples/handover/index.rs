//! What ought to be in the memory, in the memory itself: the published index and the record of each
//! file that it names.
//!
//! ```text
//! "files" ─> edition, record, record, …       replaced whole, by the one store of `publish`
//!                       │
//!                       └─> path, data, SHA-256, lengths
//! ```
//!
//! What the index names is there, whatever happened to the process that published it. What is
//! preserved and not named belonged to a process that ended before it published, or before it freed.

use heirloom::Heirloom;
use heirloom::arena::Arena;
use heirloom::kho::Handle;
use heirloom::restore::Error;
use heirloom::slab::persist;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::run::Failure;

/// The name under which the index is published.
const FILES: &str = "files";

/// What is known of a file: a typed object that survives from birth.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FileRecord {
    /// The path's bytes, a small buffer.
    pub(crate) path: [u8; 16],
    /// The contents: a small or large buffer, or an area; zeroes for an empty file.
    pub(crate) data: [u8; 16],
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: u64,
    pub(crate) path_bytes: u64,
}
persist!(FileRecord { path, data, sha256, bytes, path_bytes });

/// The records of all files that are kept.
#[derive(Default)]
pub(crate) struct Index {
    /// How often an index was published so far; 0 stands for none.
    pub(crate) edition: u64,
    pub(crate) records: Vec<Handle>,
}

impl Index {
    /// Claims the index that was published last, which stays published.
    pub(crate) fn claim(heirloom: &Heirloom<&Arena>) -> Result<Self, Failure> {
        let root = match heirloom.claim_root(FILES) {
            Err(Error::NoSuchSubtree { .. }) => return Ok(Self::default()),
            root => root?,
        };
        let (edition, records) = u64::read_from_prefix(root.bytes()).map_err(|_| "no index")?;
        let records = <[Handle]>::ref_from_bytes(records).map_err(|_| "half a handle")?;
        Ok(Self { edition, records: records.to_vec() })
    }

    /// Publishes it in place of the one before: at any instant a successor finds one or the other.
    pub(crate) fn publish(&self, heirloom: &Heirloom<&Arena>) -> Result<(), Failure> {
        let bytes = [self.edition.as_bytes(), self.records.as_bytes()].concat();
        Ok(heirloom.publish(FILES, &bytes)?)
    }

    /// Takes the published index back: from now on nothing is kept.
    pub(crate) fn unpublish(heirloom: &Heirloom<&Arena>) -> Result<(), Failure> {
        Ok(heirloom.unpublish(FILES)?)
    }
}
