//! heirloom under attack: what the tests, fuzz targets and harnesses that try to break it share.
//!
//! Nothing here is part of the library. `cargo xtask verify` runs all that is built on it;
//! `docs/src/trust.md` says what that shows.

pub mod bits;
pub mod contract;
#[cfg(target_os = "linux")]
pub mod crash;
pub mod hostile;
pub mod model;
pub mod mutate;
#[cfg(heirloom_model)]
pub mod races;
pub mod small;
pub mod world;
