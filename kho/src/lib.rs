//! What crosses the jump from a kernel into its successor, and no allocator: the ground that all
//! layers of heirloom stand on, and all that a tool needs that reads a handover.
//!
//! ```text
//!   units        PhysAddr, Pfn, Order; Block (a power of two of frames), Run (any number)
//!   page size    PageSize: that of the kernel that left what is read
//!   memory       Pages: memory as words, and what is preserved in it; Image, Left: not this machine's
//!   tree         which blocks are preserved: Linux's KHO radix tree, read and checked
//!   root page    RootView reads it, RootPage writes it: names, and where they lead
//!   tables       AreaInfo, Chain of records, ScratchList, heirloom's Header; DeviceTree
//!   versions     Compat: what a structure says it is, and what it is built of
//!   handles      Handle: sixteen bytes that name preserved memory
//!   linux        what Linux registers: live update sessions, memfds, memblock, …
//!   errors       Table, Fault, TableError: which table, where, what is wrong with it
//! ```
//!
//! What is read here was written by another kernel, and is any bytes until it was checked: readers
//! load words one by one, never make a reference to plain bytes, and bound their work by the frames
//! there are.
//!
//! # Examples
//! ```
//! use heirloom_kho::{Block, Order, PAGE_SIZE, Pfn};
//! use heirloom_kho::tree::Key;
//!
//! let folio = Block::new(Pfn::new(8), Order::new(3).unwrap()).unwrap();
//! assert_eq!(folio.addr().get(), 8 * PAGE_SIZE as u64);
//! assert_eq!(Key::of(folio).block(), Some(folio));
//! ```
#![no_std]
#![warn(clippy::as_conversions, reason = "numbers of another width come from `narrow`")]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]
#![deny(unsafe_code)]

#[cfg(any(test, heirloom_model))]
extern crate std;

mod addr;
mod area;
mod blocks;
mod compat;
mod error;
mod excerpt;
mod fault;
mod fdt;
mod handle;
#[doc(hidden)]
pub mod hash;
mod header;
mod image;
pub mod linux;
#[doc(hidden)]
pub mod narrow;
mod page_size;
mod pages;
#[doc(hidden)]
pub mod prefetch;
mod refused;
mod root;
mod scratch;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod sync;
#[cfg(test)]
mod testing;
pub mod tree;

pub use addr::{Block, Blocks, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Run};
pub use area::{AreaDescriptor, AreaInfo, AreaPart};
pub use blocks::{Chain, Entries, MAX_BLOCKS, Record};
pub use compat::Compat;
pub use error::Error;
pub use excerpt::Excerpt;
pub use fault::{BadName, Broken, Fault, HandleFault, Sealed, Table, TableError};
pub use fdt::{DeviceTree, Token};
pub use handle::{Handle, Parts};
pub use header::{Header, HeaderPage, Producer, SUBTREE, SealInfo, SealState};
pub use image::{Image, Left};
pub use page_size::PageSize;
pub use pages::Pages;
pub use refused::Refused;
pub use root::{Name, RootPage, RootView, Subtree, Subtrees};
pub use scratch::{ScratchList, ScratchWords};

/// What the layers above share with this crate, and users are promised nothing of.
#[doc(hidden)]
pub mod internal {
    pub use crate::addr::PAGE_BYTES;
    pub use crate::area::PER_CHUNK;
    pub use crate::blocks::{entry_words, head, load, save};
    pub use crate::fdt::{FDT_ENDED, MAGIC_WORD};
    pub use crate::pages::{halves, table_at};
    pub use crate::root::Edit;
}
