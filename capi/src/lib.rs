//! heirloom for C: `capi/include/heirloom.h`, and the libraries behind it.
//!
//! ```text
//!   C program or service             kernel, or a module of one
//!        │  heirloom.h                     │  heirloom.h, HEIRLOOM_KERNEL
//!        v                                 v
//!   arena, jump (`std`)              os (`heirloom_os_*`), panic
//!        └────────────┬────────────────────┘
//!          buffers, cache, handover, finish, stats
//!                     │ failure: what went wrong last; error: its number
//!                     v
//!              heirloom, over one machine
//! ```
//!
//! Types have the names that C gives them. The header is made from these files by `cargo xtask header`,
//! so what is documented here is written for its reader.
//!
//! No panic crosses into C: arguments are checked, callbacks are C's, and where there is a panic after
//! all, an `extern "C"` function ends the process, and the kernel flavour ends in `heirloom_os_panic`.
#![cfg_attr(not(feature = "std"), no_std)]
#![allow(non_camel_case_types, reason = "types are named as C names them")]
#![allow(clippy::doc_markdown, reason = "the documentation is the header's")]

#[cfg(all(feature = "std", not(target_os = "linux")))]
compile_error!("the hosted flavour needs Linux, whose memfd it takes for memory");

#[cfg(feature = "std")]
mod arena;
mod argument;
mod buffers;
mod cache;
#[cfg(not(feature = "std"))]
mod config;
mod error;
mod failure;
mod finish;
mod folios;
mod handover;
#[cfg(feature = "std")]
mod jump;
#[cfg(not(feature = "std"))]
mod kernel;
mod object;
#[cfg(not(feature = "std"))]
mod os;
#[cfg(not(any(feature = "std", test)))]
mod panic;
mod stats;

#[cfg(feature = "std")]
pub use arena::*;
pub use argument::heirloom_range;
pub use buffers::*;
pub use cache::*;
#[cfg(not(feature = "std"))]
pub use config::{HEIRLOOM_MAX_RANGES, heirloom_config};
pub use error::*;
pub use failure::{heirloom_error_text, heirloom_last_error};
pub use finish::*;
pub use folios::*;
pub use handover::*;
#[cfg(feature = "std")]
pub use jump::*;
#[cfg(not(feature = "std"))]
pub use kernel::*;
pub use object::heirloom;
#[cfg(feature = "std")]
pub use object::heirloom_arena;
#[cfg(not(feature = "std"))]
pub use os::*;
pub use stats::*;
