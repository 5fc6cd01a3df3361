//! What a kernel hands over, and what its successor takes back.
//!
//! ```text
//!  Entry ──────────> root page ─── map ──────> the tree: every block that is preserved
//!  (all that passes)     │
//!                        ├──────── names ────> what was published; subtrees, as Linux has them
//!                        │
//!                        └──────── heirloom ─> header ──> cache directory, and its slabs
//!                                                 │
//!                                                 └─────> seal: checksums over all tables
//! ```
//!
//! [`Heirloom`] is this for a running kernel, and both sides of it in one object: what it leaves
//! ([`publish`](Heirloom::publish), [`preserve`](Heirloom::preserve), [`seal`](Heirloom::seal)), and what its
//! predecessor left ([`claim_root`](Heirloom::claim_root), [`restore`](Heirloom::restore) and the other
//! claims, [`finish`](Heirloom::finish)). It is whole at any instant, so a kernel may end without a last
//! call. What survives is named by [`Handle`](heirloom_kho::Handle)s, sixteen bytes each, which a kernel publishes, or keeps in
//! other memory that survives. [`survey`] looks at a handover that no kernel runs in: an [`Image`](heirloom_kho::Image).
//!
//! # Examples
//! ```
//! use heirloom_folio::harness::Ram;
//! use heirloom_folio::{Cpus, Disposition, Memory};
//! use heirloom_kho::Handle;
//! use heirloom_restore::{Heirloom, SealPolicy};
//!
//! # let [(run, node)] = Ram::frames(1024);
//! # let ram = Ram::over(&[(run, node)]);
//! # let memory = || {
//! #     let space = |bytes| ram.space(bytes);
//! #     // SAFETY: the machine keeps the spaces as long as it lives; one kernel at a time runs on it.
//! #     unsafe {
//! #         let memory = Memory::new(&ram, space(Memory::<&Ram>::cpu_bytes(ram.count())))?;
//! #         memory.add_range(run, node, space(Memory::<&Ram>::range_bytes(run)))?;
//! #         Ok::<_, heirloom_folio::Error>(memory)
//! #     }
//! # };
//! // A kernel preserves a buffer, and publishes what names it.
//! let kernel = Heirloom::boot_memory(memory()?, &[], "kernel 1")?;
//! let buffer = kernel.alloc(5)?;
//! // SAFETY: five bytes, allocated above; nothing frees them.
//! let handle = unsafe {
//!     buffer.cast().write(*b"hello");
//!     kernel.preserve(buffer)
//! }?;
//! kernel.publish("greeting", &<[u8; 16]>::from(handle))?;
//! let entry = kernel.entry();
//! drop(kernel);
//!
//! // Its successor, over the same memory, finds and frees it.
//! let kernel = Heirloom::revive_memory(memory()?, entry, "kernel 2", SealPolicy::Checked)?;
//! let handle: [u8; 16] = kernel.claim_root("greeting")?.bytes().try_into()?;
//! let buffer = kernel.restore(Handle::from(handle))?;
//! // SAFETY: claimed just now: this kernel's, and used no more once it is freed.
//! unsafe {
//!     assert_eq!(buffer.cast::<[u8; 5]>().read(), *b"hello");
//!     kernel.free(buffer)?;
//! }
//! assert_eq!(kernel.finish(|_unclaimed| Disposition::Free)?.folios, 0);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Locks
//! `edit` before `moved`; `reserve` by itself. Each is a [`Machine::Mutex`](heirloom_folio::Machine::Mutex),
//! held while nothing of a caller's runs; claims of folios and objects take none.
#![no_std]
#![warn(
    clippy::as_conversions,
    reason = "numbers of another width come from `heirloom_kho::narrow`"
)]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]

#[cfg(test)]
extern crate std;

mod area;
mod begin;
mod blank;
mod boot;
mod buffers;
mod check;
mod claim;
mod entries;
mod entry;
mod error;
mod heirloom;
mod in_place;
mod kexec;
mod moved;
mod names;
mod own_pages;
mod pages;
mod pass_on;
mod past;
mod predecessor;
mod published;
mod records;
mod reserve;
mod seal;
mod sealing;
#[cfg(test)]
mod testing;
#[cfg(all(test, heirloom_model))]
mod window_tests;

pub use area::PreservedArea;
pub use blank::BlankPages;
pub use boot::{MemoryMap, Placement};
pub use check::{Surveyed, survey};
pub use entry::Entry;
pub use error::Error;
pub use heirloom::Heirloom;
pub use pages::Inherited;
pub use pass_on::PassedOn;
pub use past::{Finished, Root, Unclaimed};
pub use predecessor::SealPolicy;
pub use records::Records;
pub use seal::{SealTable, Sealer, verify};
