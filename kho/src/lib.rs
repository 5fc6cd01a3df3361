//! What crosses the jump from a kernel into its successor, and no allocator: the ground that all
//! layers of heirloom stand on, and all that a tool needs that reads a handover.
//!
//! ```text
//!   units      PhysAddr, Pfn, Order; Block (a power of two of frames), Run (any number)
//!   memory     Pages: memory as words, and what is preserved in it
//!   tree       which blocks are preserved: Linux's KHO radix tree, read and checked
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
#![deny(unsafe_code)]

#[cfg(any(test, heirloom_model))]
extern crate std;

mod addr;
mod pages;
#[doc(hidden)]
pub mod prefetch;
#[doc(hidden)]
pub mod sync;
pub mod tree;

pub use addr::{Block, Blocks, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Run};
pub use pages::Pages;
