//! See `heirloom_verify::hostile::tree`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom_verify::hostile::tree(data));
