//! Frames, folios and the tracker of what survives: heirloom's lowest layer.
//!
//! ```text
//!            Memory
//!   ┌──────────┴────────────────────────────────┐
//!   │ alloc / free                preserve / claim
//!   │    │                              │
//!   │  per-CPU cache                 tracker: the tree that is handed over, and that a
//!   │    │                              │      successor goes on with
//!   │  free map: free blocks as bits directory of leaves
//!   │    │
//!   │  types: one byte a frame, what starts there
//!   └───────────────────────────────────────────┘
//!     ranges: which frames exist, on which node
//! ```
//!
//! [`Memory`] is the whole of it: physical memory in ranges, from which aligned *folios* and
//! exact *runs* of frames are allocated, and of which the owner says what must survive. It needs a
//! [`Machine`] (a direct map, the current CPU, a lock) and memory for its metadata, and nothing
//! else: no heap, no statics, no threads.
//!
//! | | |
//! |---|---|
//! | handles, which free on drop | [`Folio`], [`OwnedRun`], from [`Memory::alloc_folio`], [`Memory::alloc_owned_run`] |
//! | what survives, which no drop frees | [`PreservedFolio`], [`PreservedRun`], from [`Owned::preserve`], [`Memory::claim_owned`] |
//! | by address, for callers that keep their own books | [`Memory::alloc`], [`free`](Memory::free), [`preserve`](Memory::preserve), [`claim`](Memory::claim), … of an [`Extent`]; every misuse is found: see [`Error`] |
//! | what is preserved, and what a predecessor left | [`Memory::preserved`], [`Memory::predecessor`] |
//!
//! # Examples
//! ```
//! use heirloom_folio::harness::Ram;
//! use heirloom_folio::Request;
//! use heirloom_kho::Order;
//!
//! let memory = Ram::memory(&Ram::frames(1024))?;
//! let mut folio = memory.alloc_folio(Request::new(Order::new(3).unwrap()))?;
//! folio.bytes_mut().fill(7);
//! let kept = folio.preserve()?;
//! assert!(memory.preserved().contains(kept.extent()));
//! let folio = kept.unpreserve()?;
//! drop(folio);
//! # Ok::<(), heirloom_folio::Error>(())
//! ```
#![no_std]
#![warn(
    clippy::as_conversions,
    reason = "numbers of another width come from `heirloom_kho::narrow`"
)]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]

#[cfg(any(test, feature = "std", heirloom_model))]
extern crate std;

mod absent;
mod alloc_slow;
mod allocator;
mod atomic_bytes;
mod block_ref;
mod cpu_slots;
mod diagnose;
mod error;
mod extent;
mod frame_type;
mod freemap;
mod freeze;
mod handle;
#[cfg(any(test, feature = "std"))]
#[doc(hidden)]
pub mod harness;
mod lookup;
mod machine;
mod masked;
mod memory;
mod node_backend;
mod percpu;
mod predecessor;
mod preserve;
mod preserved;
mod range;
mod ranges;
mod readers;
mod reading;
mod request;
mod reserve;
mod retype;
mod runs;
mod stats;
#[cfg(any(test, feature = "std"))]
pub mod threads;
mod tracker;
mod verbs;

pub use error::Error;
pub use extent::{Allocation, Extent};
pub use frame_type::{FrameState, FrameType};
pub use handle::{Folio, Owned, OwnedRun, Preserved, PreservedFolio, PreservedRun};
pub use heirloom_kho::Refused;
pub use machine::{CpuId, Cpus, DirectMap, Linear, Machine, NodeId, OneCpu};
pub use masked::{Interrupts, MaskDepth, Masked};
pub use memory::Memory;
pub use predecessor::{Disposition, Predecessor};
pub use preserved::PreservedSet;
pub use ranges::joined;
pub use request::Request;
pub use stats::Stats;

/// What the layers above share with this crate, and users are promised nothing of: these types, and
/// the calls of [`Memory`] that are left out of its page.
#[doc(hidden)]
pub mod internal {
    pub use crate::block_ref::{BlockMatcher, BlockRef};
    pub use crate::stats::Audit;
}
