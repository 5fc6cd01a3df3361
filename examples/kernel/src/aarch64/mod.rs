//! What AArch64 has of its own, and QEMU's `virt`: started as Linux is, with a device tree.

pub mod boot;
pub mod cpu;
pub mod gic;
pub mod jump;
pub mod psci;
pub mod serial;
pub mod told;
pub mod tree;
