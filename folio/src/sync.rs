//! The atomics that the layer is written with: core's, or the model checker's.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
