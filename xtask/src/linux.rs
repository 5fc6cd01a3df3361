//! What the commands that run Linux share: kernels, built once and kept, and the emulated machine.
//!
//! ```text
//! apt       tools, and Linux's source package
//! kernel    flavours of a kernel ── store: kept for all later runs
//! initramfs what a kernel starts from
//! program   a first process: an example, linked statically
//! machine   QEMU: console, debugger, monitor
//! skipping  what cannot be had here, and is no fault
//! ```

pub(crate) mod apt;
pub(crate) mod console;
pub(crate) mod debugger;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod machine;
pub(crate) mod monitor;
pub(crate) mod place;
pub(crate) mod program;
pub(crate) mod skipping;
pub(crate) mod steps;
mod store;

/// What kernels are run by.
pub(crate) const EMULATOR: [&str; 1] = ["qemu-system-x86"];
