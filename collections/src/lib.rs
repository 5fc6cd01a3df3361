//! Containers that survive a jump, over heirloom's caches: a hash map, a vector, a log.
//!
//! ```text
//!   what is published ── 16 bytes ──> head ── 8 bytes ──> segments, chunks ── 8 bytes ──> entries
//!                                      │
//!                                      ├── what is being linked     a successor that finds one of these names looks whether
//!                                      └── what is being unlinked   the object is linked, and frees it if it is not
//!
//!   all of it: objects of preserving caches, `collections-…`, of a Slabs; resumed whole in the successor
//! ```
//!
//! | container | what it is | what happens at one store |
//! |---|---|---|
//! | [`Map`] | hash map of byte strings, which it owns | insertion, replacement, removal, clearing |
//! | [`Vec`] | vector of plain bytes in chunks that never move | push, pop, replacement, truncation |
//! | [`Log`] | records appended at the end, read and removed at the front | append, removal |
//!
//! A successor, also after a crash at any store, finds each operation done or not done, and nothing else changed. There is no log
//! to replay. Opening a container costs the same whatever it holds, and frees what an operation had allocated, or unlinked and not
//! freed yet: one object at most of each, and those that readers may have looked at. So nothing is in use that a container does not
//! lead to, once it is opened.
//!
//! What the predecessor left is not trusted. A link says which class of objects it leads to; when it is first followed in a
//! kernel, the slab layer says whether an object of that class is in use there, and the object whose it is. What is not the
//! container's is [`Error::Damaged`].
//!
//! Readers share a container and a writer has it alone, as the borrow checker says; [`Map::split`], [`Log::split`] and
//! [`Vec::split`] make a writer and readers of one that go on beside one another. Several writers of one map put it behind a lock,
//! or take a map for each part of the keys. Calls are not for where nothing can be waited for
//! ([`Machine::may_wait`](heirloom_folio::Machine::may_wait)).
//!
//! A container that was created, and whose handle is in nothing that survives yet when the kernel ends, is opened by no
//! successor: its head is told as unclaimed, and to free it alone leaves in use what was put into it by then. Publish the handle
//! first, then fill the container; [`Map::destroy`] frees one as a whole.
//!
//! # Examples
//! Two kernels, one after the other, over the same memory. With `heirloom` it is `kernel.slabs()` that the pool is opened over,
//! and `publish` and `claim_root` that carry the handle.
//! ```
//! use heirloom_collections::{Map, Pool};
//! use heirloom_folio::harness::Ram;
//! use heirloom_slab::Slabs;
//!
//! let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
//! let pool = Pool::open(&slabs)?;
//! let mut map = Map::<_>::create(&pool, 0x5eed)?;
//! // To be published: sixteen plain bytes.
//! let handle = map.handle();
//! for n in 0..1000_u32 {
//!     map.insert(&n.to_le_bytes(), b"some value")?;
//! }
//! drop(map);
//!
//! // The successor. Memory may be mapped elsewhere.
//! let (tree, directory) = (slabs.memory().preserved().tree_root()?, slabs.cache_directory());
//! let memory = slabs.into_memory().into_machine().attach(&Ram::frames(1024))?;
//! let slabs = Slabs::revive(memory.take_over(tree)?.0, directory)?;
//! let pool = Pool::open(&slabs)?;
//! let mut map = Map::<_>::open(&pool, handle)?;
//! assert_eq!(map.len(), 1000);
//! assert_eq!(map.get(&7_u32.to_le_bytes())?.map(|entry| entry.value()), Some(&b"some value"[..]));
//! map.destroy()?;
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! A writer, and readers beside it:
//! ```
//! use heirloom_collections::{Map, Pool};
//! use heirloom_folio::harness::Ram;
//! use heirloom_slab::Slabs;
//!
//! let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
//! let pool = Pool::open(&slabs)?;
//! let mut map = Map::<_>::create(&pool, 0x5eed)?;
//! let (mut writer, reader) = map.split()?;
//! std::thread::scope(|scope| {
//!     for reader in [reader.clone(), reader.clone()] {
//!         scope.spawn(move || {
//!             let mut seen = 0;
//!             while seen < 1000 {
//!                 // What is found is good until the visit ends, whatever the writer does.
//!                 let visit = reader.enter();
//!                 if let Some(entry) = visit.get(b"count").unwrap() {
//!                     let count = u64::from_le_bytes(entry.value().try_into().unwrap());
//!                     assert!(count >= seen, "it goes up");
//!                     seen = count;
//!                 }
//!             }
//!         });
//!     }
//!     (1..=1000_u64).try_for_each(|n| writer.insert(b"count", &n.to_le_bytes()).map(drop))
//! })?;
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Speed
//! Beside hashbrown's map of boxed keys and values, with the same hash, one thread, 8,192 entries with keys of 16 bytes and values
//! of 48, in one run (`cargo bench -p heirloom-benches --bench collections`): an insertion takes 1.5 times as long (110 ns), a get
//! 1.9 (23), a get of what is not there 2.3 (13), a replacement 1.1 (59), a removal 1.4 (52). The book's chapter on performance
//! says why.
#![no_std]
#![warn(
    clippy::as_conversions,
    reason = "numbers of another width come from `heirloom_kho::narrow`"
)]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]

#[cfg(test)]
extern crate std;

mod body;
mod buckets;
mod class;
mod clear;
mod deferred;
#[cfg(test)]
mod ends_tests;
mod entry;
mod error;
mod evict;
#[cfg(test)]
mod evict_tests;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod full_tests;
mod grow;
mod hasher;
mod head;
#[cfg(test)]
mod hostile_tests;
mod index;
#[cfg(test)]
mod index_tests;
mod line;
mod link;
mod log;
mod log_split;
mod map;
mod map_split;
mod object;
mod parts;
mod pool;
mod readers;
mod retire;
#[cfg(test)]
mod safe_tests;
#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod testing;
mod vec;
mod vec_split;
#[cfg(test)]
mod watch;
mod word;

pub use entry::Entry;
pub use error::{Error, Field, Part};
pub use hasher::{Hash, Xxh3};
pub use log::{Log, Records};
pub use log_split::{LogReader, LogVisit, LogWriter};
pub use map::Map;
pub use map_split::{MapReader, MapVisit, MapWriter, Visited};
pub use pool::Pool;
pub use vec::Vec;
pub use vec_split::{VecReader, VecWriter};

/// What the command reads containers by in an image: one layout, with one place for it. It may change at any time.
#[doc(hidden)]
pub mod internal {
    pub use crate::body::PAGE_LINKS;
    pub use crate::buckets::{MAX_BUCKETS, bucket_of};
    pub use crate::class::{PREFIX, SEGMENT_BYTES};
    pub use crate::entry::HEADER as ENTRY_HEADER;
    pub use crate::head::{WORDS, at};
    pub use crate::line::{LINES, LINKS};
    pub use crate::link::{Link, UNIT};
    pub use crate::log::{FIRST, HEADER as LOG_HEADER, KIND as LOG, LAST};
    pub use crate::map::{CLEARED as MAP_CLEARED, KIND as MAP};
    pub use crate::object::kind;
    pub use crate::pool::HEADS;
    pub use crate::vec::{HEADER as CHUNK_HEADER, KIND as VEC, REPLACED};
}
