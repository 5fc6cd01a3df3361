//! A preservation allocator: memory that outlives the kernel that allocated it.
#![cfg_attr(not(feature = "std"), no_std)]

pub use heirloom_folio as folio;
pub use heirloom_restore as restore;
pub use heirloom_slab as slab;

#[cfg(all(feature = "std", target_os = "linux"))]
pub mod arena;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod jump;
