//! See `heirloom_verify::hostile::takeover`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom_verify::hostile::takeover(data));
