//! What x86-64 has of its own, and QEMU's PC.

pub mod boot;
pub mod cpu;
pub mod jump;
pub mod serial;
pub mod told;
