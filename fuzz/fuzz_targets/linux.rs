//! See `heirloom_verify::hostile::linux`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom_verify::hostile::linux(data));
