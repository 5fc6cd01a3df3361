//! See `heirloom_verify::hostile::containers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom_verify::hostile::containers(data));
