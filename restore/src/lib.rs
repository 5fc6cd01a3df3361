//! heirloom's restore layer.
#![no_std]

#[cfg(test)]
extern crate std;

mod area;
mod begin;
mod buffers;
mod check;
mod claim;
mod entries;
mod entry;
mod error;
mod excerpt;
mod fault;
mod fdt;
mod handle;
mod handover;
mod hash;
mod image;
mod moved;
mod names;
mod pages;
mod past;
mod predecessor;
mod records;
mod reserve;
mod root;
mod scratch;
mod seal;
mod sealing;
mod store;
mod subtree;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod window_tests;

pub use area::{AreaDescriptor, AreaInfo, AreaPart, PreservedArea};
#[doc(hidden)]
pub use begin::NewHandover;
pub use check::{Surveyed, survey};
pub use entry::Entry;
pub use error::Error;
pub use excerpt::Excerpt;
pub use fault::{BadName, Broken, Fault, HandleFault, Sealed, Table, TableError};
pub use fdt::{DeviceTree, Token};
pub use handle::{Handle, Parts};
pub use handover::Handover;
pub use image::{Image, Left};
pub use pages::{Inherited, Pages};
pub use past::{Finished, Root, Unclaimed};
pub use predecessor::SealPolicy;
pub use records::{Chain, Entries, MAX_BLOCKS, Record, Records};
pub use root::{Name, RootPage, RootView, Subtree, Subtrees};
pub use scratch::{ScratchList, ScratchWords};
pub use seal::{SealTable, Sealer, verify};
pub use subtree::{Header, HeaderPage, Producer, SUBTREE, SealInfo, SealState};
