//! A preservation allocator: memory that outlives the kernel that allocated it.
//!
//! A kernel (or a process) takes frames, folios, slab objects and `void*` buffers from heirloom,
//! says which of them must survive, and jumps into its successor. The successor finds them at the
//! same physical addresses and claims them back as what they were; everything else is free memory
//! again.
//!
//! ```text
//!   old kernel                                       new kernel
//!   ──────────                                       ──────────
//!   alloc ─> object ─> slab ─> folio ─> frames       frames ─> folio ─> slab ─> object ─> free
//!               │                 │                     ^        ^        ^       ^
//!            preserve ──────> tracker (a tree)          │        │        │       │
//!               │                 │                   reserve  claim    adopt   restore
//!            16-byte handle    root page ══ jump ══> checked, then believed
//! ```
//!
//! | crate | what it holds |
//! |---|---|
//! | [`folio`] | frames, folios, the page allocator, the tracker of what survives |
//! | [`slab`] | object caches and `void*` buffers on folios |
//! | [`restore`] | the handover: the root, the check, claiming back |
//! | `heirloom` | this face: [`Heirloom`] puts the layers together and their metadata in place |
//!
//! Without the feature `std` everything is `no_std` and needs no `alloc`. With it, `arena` is
//! physical memory made of a memfd, and `jump` replaces the process by its successor.
#![cfg_attr(not(feature = "std"), no_std)]

pub use heirloom_folio as folio;
pub use heirloom_restore as restore;
pub use heirloom_slab as slab;

#[cfg(all(feature = "std", target_os = "linux"))]
pub mod arena;
mod face;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod jump;

pub use face::{Error, Heirloom, MemoryMap};
