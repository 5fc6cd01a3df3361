//! The cache directory: all caches and slabs that a successor finds them by.
//!
//! ```text
//! directory page { next, count, cache record, cache record, … } ──> directory page …
//!                             │
//!                             └──> slab table { next, count, slab, slab, free entry, … } ──> …
//! ```
//!
//! Pages are preserved frames in Linux's block format: a chain of `{ next u64, count u64, entries
//! }`, little-endian. A cache is in it from its first preserved slab on, and stays. An entry
//! of a slab table is the address of a preserved slab, or free: any odd number, or zero. A page of
//! a slab table that has a next one is full, free entries included.
//!
//! The cache directory is whole at any instant. A page is zeroed and preserved before one store links it; of a
//! record the checksum is zero until all else is stored, its page's count included; an entry of a slab table is
//! written before it is counted; a slab is preserved before the one store that enters it, and
//! unpreserved after the one that strikes it out.
//!
//! A cache record, 128 bytes:
//!
//! ```text
//! 0    8    XXH3-64 of the record with these eight bytes zero, or 1 if that is 0; 0 is no record
//! 8    8    address of the first page of the slab table
//! 16   64   slab description, as in the header of each of the slabs
//! 80   48   zero
//! ```

mod named;
mod page;
mod record;
mod table;
mod view;
mod write;

pub(crate) use named::NamedSlabs;
pub use record::CacheRecord;
pub(crate) use table::SlabTable;
pub(crate) use view::{DirectoryView, Here, Part, Source};
pub(crate) use write::CacheDirectory;
