//! Frames, folios and the tracker of what survives.
#![no_std]

#[cfg(any(test, feature = "std"))]
extern crate std;

mod addr;
mod columns;
mod error;
mod kinds;
pub mod machine;
mod sync;
#[cfg(any(test, feature = "std"))]
pub mod threads;

pub use addr::{Block, Blocks, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, Run};
pub use error::{Error, TreeError, TreeFault};
pub use kinds::{FrameState, Kind};
pub use machine::{CpuId, Cpus, DirectMap, Linear, Machine, NodeId, OneCpu};
