//! The promises of the design, each with a test named after it.
#![cfg(feature = "std")]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

#[path = "../common/mod.rs"]
mod common;

mod accident;
mod below;
mod builds;
mod claims;
mod endless;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod locks;
mod mistrust;
#[path = "../../folio/tests/common/owned.rs"]
mod owned;
mod survive;
mod threads;
mod whole;
