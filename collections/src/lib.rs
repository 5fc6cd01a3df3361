//! Containers that survive a jump, over heirloom's caches.
#![no_std]
#![warn(
    clippy::as_conversions,
    reason = "numbers of another width come from `heirloom_kho::narrow`"
)]
#![cfg_attr(test, allow(clippy::as_conversions, reason = "small numbers of tests"))]

#[cfg(test)]
extern crate std;

mod body;
mod buckets;
mod class;
mod entry;
mod error;
mod grow;
mod hasher;
mod head;
#[cfg(test)]
mod hostile_tests;
mod line;
mod link;
mod log;
mod map;
mod object;
mod parts;
mod pool;
#[cfg(test)]
mod testing;
mod vec;
#[cfg(test)]
mod watch;
mod word;

pub use entry::Entry;
pub use error::{Error, Field, Part};
pub use hasher::{Hash, Xxh3};
pub use log::{Log, Records};
pub use map::Map;
pub use pool::Pool;
pub use vec::Vec;
