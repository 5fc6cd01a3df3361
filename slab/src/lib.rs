//! Object caches and `void*` buffers whose contents can survive: heirloom's middle layer.
//!
//! ```text
//!               Slabs ── typed ──> TypedCache<T> ──> Object<T>, PreservedObject<T>
//!   ┌─────────────┴──────────────────────────────────────────────┐
//!   │ cache(spec) ──> Cache      alloc(layout) / free(ptr)        │ heap() ──> GlobalAlloc
//!   │                   │          │ below a page     │ from one  │
//!   │                   │          └> size classes    │           │
//!   │   per CPU      magazines        │               │           │
//!   │   shared       depot, partial, full and empty slabs         │
//!   │                   │                             │           │
//!   │                 slab: header, a byte an object  │           │ cache directory: which
//!   └───────────────────┴──────── folios ─────────────┴───────────┘ slabs there are, for a successor
//! ```
//!
//! [`Slabs`] owns a [`Memory`](heirloom_folio::Memory) and is the whole of it. A *slab* is a folio
//! full of objects of one cache; it holds its own truth: a checked header that says which cache
//! and which geometry, and one byte for each object that says whether it is free, in use or
//! preserved, at any instant. *Magazines* make the common path touch nothing that CPUs share.
//!
//! What survives a jump is a single object, preserved and unpreserved at will, or all objects of a
//! preserving cache, from birth and at no cost per object. A successor goes on with the *cache directory*, by
//! which it finds the slabs, adopts them, and claims each object once. What it claims, and what it
//! does not, survives its own jump as well, until it is let go or freed.
//!
//! # Locks
//! Each is held for moments, and none while a caller's closure or constructor runs. A call that has one
//! takes only those below it:
//!
//! | lock | held while |
//! |---|---|
//! | the turn (`predecessor`), a [`Machine::Mutex`](heirloom_folio::Machine::Mutex) | a slab of the predecessor's is taken, put back or given up |
//! | a pass (`stats`), a `Machine::Mutex` | the slabs of a cache are counted, with the cache's own lock for one at a time |
//! | a cache's (`cache::inner`), a [`Machine::Lock`](heirloom_folio::Machine::Lock) | magazines are exchanged; slabs change lists, are published, enter or leave the cache directory |
//! | the cache directory's (`directory`), a `Machine::Lock` | a record is added |
//!
//! A CPU's slot is touched with the CPU pinned, and with no lock; caches are created without one.
//!
//! # Examples
//! ```
//! use heirloom_folio::harness::Ram;
//! use heirloom_slab::{CacheSpec, Slabs};
//!
//! let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
//! let names = slabs.cache(CacheSpec::new("names", 64).preserving(true))?;
//! let name = names.alloc_zeroed()?;
//! // SAFETY: allocated above, of 64 bytes.
//! unsafe { name.write(b'x') };
//! // What a handle to it holds, for the successor to claim it by:
//! let (reuse_tag, size) = slabs.reuse_tag_of(name).unwrap();
//! assert_eq!(size, 64);
//!
//! // The successor, over the same memory.
//! let map = slabs.memory().preserved().tree_root()?;
//! let (directory, addr) = (slabs.cache_directory(), heirloom_folio::DirectMap::phys(slabs.memory().machine(), name));
//! let memory = slabs.into_memory().into_machine().attach(&Ram::frames(1024))?;
//! let (memory, _) = memory.take_over(map)?;
//! let slabs = Slabs::revive(memory, directory)?;
//! let (names, adopted) = slabs.adopt(CacheSpec::new("names", 64).preserving(true))?;
//! assert_eq!(adopted.unclaimed, 1);
//! let name = slabs.claim(addr.unwrap(), 64, reuse_tag)?;
//! // SAFETY: claimed above: ours.
//! assert_eq!(unsafe { name.read() }, b'x');
//! // SAFETY: ours, and not used again.
//! unsafe { names.free(name) }?;
//! # Ok::<(), heirloom_slab::Error>(())
//! ```
#![no_std]
#![warn(
    clippy::as_conversions,
    reason = "numbers of another width come from `heirloom_kho::narrow`"
)]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]

#[cfg(test)]
extern crate std;

mod adopt;
mod adopt_slab;
mod aside;
mod at_hand;
mod buffer;
mod cache;
mod caches;
mod class;
#[cfg(test)]
mod crash_tests;
mod debug;
mod depot;
mod destroy;
mod directory;
mod early;
mod error;
mod finish;
mod geometry;
mod global;
mod header;
mod image;
mod link;
mod lists;
mod magazine;
mod name;
mod new;
mod noted;
mod object_ref;
mod objects;
mod owner;
mod persist;
mod predecessor;
mod prefetch;
mod raw;
mod registry;
mod reservation;
mod resolve;
mod resume;
mod room;
mod slabs;
mod spec;
mod state;
mod state_word;
mod stats;
mod store;
mod takeover;
mod text;
mod typed;
mod upgrade;

pub use adopt_slab::Adopted;
pub use buffer::AllocOptions;
pub use cache::Cache;
pub use directory::CacheRecord;
pub use early::EarlyRoom;
pub use error::{Action, DirectoryError, Error, Field, SlabError};
pub use finish::Unclaimed;
pub use geometry::MAX_OBJECT;
pub use global::{Global, Heap};
pub use heirloom_kho::Refused;
pub use link::{AtomicLink, Link};
pub use name::Name;
pub use objects::Objects;
pub use owner::Owner;
pub use persist::{Persist, fingerprint_of};
#[doc(hidden)]
pub use persist::{part_of, size_of_field};
pub use raw::RawCache;
pub use reservation::{Reservation, TypedReservation};
pub use slabs::Slabs;
pub use spec::{CConstructor, CacheSpec, Constructor};
pub use state::ObjectState;
pub use stats::CacheStats;
pub use typed::{Object, PreservedObject, TypedCache};
pub use upgrade::OldObject;

/// Holds what heirloom's other crates and its command need, and no user does: what is wrong with a table, word for
/// word, for the check of a whole image; a predecessor's caches read out of an image; the parts of the
/// cache directory, for a seal; slabs before they are, for a stack that is small; the fingerprint that no type has. It may change
/// at any time.
#[doc(hidden)]
pub mod internal {
    pub use crate::adopt::DirectoryPart;
    pub use crate::error::{DirectoryFault, SlabFault};
    pub use crate::image::{ImageCaches, ImageSlab};
    pub use crate::new::NewSlabs;
    pub use crate::text::Text;
    pub use crate::typed::OWNED;
}
