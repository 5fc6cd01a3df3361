//! heirloom's restore layer.
#![no_std]

#[cfg(test)]
extern crate std;
