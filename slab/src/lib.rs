//! heirloom's slab layer.
#![no_std]

#[cfg(test)]
extern crate std;
