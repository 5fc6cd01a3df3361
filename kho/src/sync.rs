//! The atomics that all layers are written with: core's, the model checker's, or core's with
//! a watcher that is asked before each operation.
//!
//! Not part of what users are promised: `pub` because the layers above share the room.

#[cfg(not(any(loom, heirloom_model)))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
// The order in which ranges are found is no part of what loom looks at by itself, nor are pages of half
// words.
#[cfg(loom)]
pub use core::sync::atomic::{AtomicPtr, AtomicU32};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

#[cfg(all(not(loom), heirloom_model))]
#[allow(clippy::cast_lossless, reason = "one macro for words of all widths")]
mod watched;

#[cfg(all(not(loom), heirloom_model))]
pub use watched::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Op, Ordering, Orders,
    Watcher, watch, written,
};

/// Says that plain stores wrote these bytes, which only atomics touch from here on: a watcher does
/// not see them otherwise.
#[cfg(any(loom, not(heirloom_model)))]
#[inline]
pub const fn written(_at: core::ptr::NonNull<u8>, _bytes: usize) {}

pub use Ordering::{AcqRel, Acquire, Relaxed, Release};
