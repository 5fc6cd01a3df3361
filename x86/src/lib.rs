//! How a kernel on x86-64 is started, and how it starts its successor: all that stands between
//! firmware or Linux and [`heirloom_restore`], and no allocator.
//!
//! ```text
//!   PVH start_info ──┐                                                       ┌──> own successor
//!                    ├─> regions ─> Map ─> scratch, ranges ─> boot / revive  │
//!   boot_params ─────┤                                           │           │
//!                    └─> setup_data ─> Entry ────────────────────┘        load, enter
//!                                                                            │
//!   bzImage of the successor ────────────────────────────────────────────────┴──> Linux
//! ```
//!
//! | module | what it reads and writes |
//! |---|---|
//! | [`boot_params`] | Linux's boot parameters: the memory map, the command line, the list of `setup_data` with the [`Entry`](heirloom_restore::Entry) of KHO |
//! | [`start_info`] | what a loader of the PVH protocol says: QEMU's `-kernel`, Xen, Firecracker |
//! | [`map`] | from regions to the ranges that [`Heirloom::boot`](heirloom_restore::Heirloom::boot) takes, and to scratch areas |
//! | [`bzimage`], [`elf`] | images: an ELF file becomes one that Linux's `kexec_file_load` takes |
//! | [`loader`] | puts an image into scratch, beside what is busy, and enters it by the 64-bit boot protocol |
//!
//! What is read was written by firmware, a boot loader or another kernel, and is any bytes until it was
//! checked: readers copy what they look at, bound every walk, and an error says which structure, where and why.
//!
//! # Examples
//! A kernel that is entered by the 64-bit boot protocol, here over an image of memory: what there is, and
//! what the predecessor left.
//! ```
//! use heirloom_kho::{PhysAddr, Run};
//! use heirloom_restore::Entry;
//! use heirloom_x86::boot_params::{BootParams, KhoNode, ZeroPage};
//! use heirloom_x86::map::Map;
//! use heirloom_x86::{Bytes, MemoryType, Region};
//! use zerocopy::IntoBytes;
//!
//! // What the loader wrote: a page of boot parameters at 0, and behind it what KHO passes on.
//! let entry = Entry {
//!     root: PhysAddr::new(0x40_0000),
//!     scratch: PhysAddr::new(0x40_1000),
//!     scratch_bytes: 16,
//! };
//! let mut page = ZeroPage::new();
//! page.push_region(Region::new(0, 0x9_fc00, MemoryType::RAM))?;
//! page.push_region(Region::new(0x10_0000, 511 << 20, MemoryType::RAM))?;
//! page.set_setup_data(PhysAddr::new(0x1000));
//! let mut memory = page.as_bytes().to_vec();
//! memory.extend_from_slice(KhoNode::new(entry).as_bytes());
//!
//! // What the kernel does first.
//! let memory = Bytes::new(PhysAddr::new(0), &memory);
//! let params = BootParams::open(&memory, PhysAddr::new(0))?;
//! assert_eq!(params.entry()?, Some(entry));
//! let mut map = Map::<16>::new();
//! params.for_each_region(|region| map.add_memory(region))??;
//! params.for_each_region(|region| map.remove_other(region))??;
//! map.remove_low()?;
//! let range = Run::covering(PhysAddr::new(1 << 20), 511 << 20).unwrap();
//! assert_eq!(map.ranges()[0].0, range);
//! # Ok::<(), heirloom_x86::Error>(())
//! ```
#![no_std]
#![warn(clippy::as_conversions, reason = "numbers of another width come from `narrow`")]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]

#[cfg(test)]
extern crate std;

pub mod boot_params;
pub mod bzimage;
pub mod elf;
mod error;
mod fit;
pub mod loader;
pub mod map;
mod region;
mod setup_data;
mod source;
pub mod start_info;

pub use error::{Error, Fault, Structure};
pub use region::{MemoryType, Region};
pub use source::{Bytes, Identity, Source};
